package demo

import (
	"strings"
	"testing"
)

func TestCourse(t *testing.T) {
	const burst = -1 // Not a number of workers: the messages come.
	for name, test := range map[string]struct {
		moves []int
		want  string // in the error of the last move
	}{
		"as it should be":         {moves: []int{1, 0, 0, burst, 0, 4, 4, 8, 10, 10, 9, 2, 0, 0}},
		"in one step":             {moves: []int{1, 0, burst, 10, 0}},
		"up before the messages":  {moves: []int{1, 4}, want: "from 1 to 4 workers while the queue was empty"},
		"down before the top":     {moves: []int{1, 0, burst, 8, 7}, want: "from 8 to 7 workers before it reached 10"},
		"up again after the top":  {moves: []int{1, 0, burst, 8, 10, 6, 7}, want: "from 6 to 7 workers while the queue got empty"},
		"back up after the end":   {moves: []int{1, 0, burst, 10, 0, 1}, want: "from 0 to 1 workers while the queue got empty"},
		"started without workers": {moves: []int{0, burst, 10, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var c course
			var err error
			for _, to := range test.moves {
				if err != nil {
					t.Fatalf("failed before the last move: %v", err)
				}
				if to == burst {
					c.rise()
					continue
				}
				err = c.moved(to)
			}
			if test.want == "" && err != nil {
				t.Errorf("got the error %q", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got the error %v, want %q", err, test.want)
			}
		})
	}
}

func TestCourseRemembersTheTurn(t *testing.T) {
	var c course
	c.rise()
	for _, to := range []int{0, 10} {
		if err := c.moved(to); err != nil {
			t.Fatal(err)
		}
	}
	if !c.turnedAt().IsZero() {
		t.Error("the HPA turned before it took a worker away")
	}
	if err := c.moved(9); err != nil {
		t.Fatal(err)
	}
	turned := c.turnedAt()
	if err := c.moved(8); err != nil {
		t.Fatal(err)
	}
	if turned.IsZero() || !c.turnedAt().Equal(turned) {
		t.Errorf("the HPA turned at %v, and then at %v", turned, c.turnedAt())
	}
}
