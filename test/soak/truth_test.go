package soak

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

func TestTruthKnowsWhenTheBackendHadAValue(t *testing.T) {
	t.Parallel()
	tr, begin := newTruth(), time.Unix(1_000_000, 0)
	first, second := tr.next("jobs", 89.5), tr.next("jobs", 89.5)
	if first == second {
		t.Fatalf("two values are %v", first)
	}
	tr.publish("jobs", first, begin, begin.Add(time.Millisecond))
	if p, ok := tr.find("jobs", first); !ok || !p.until.IsZero() || !p.measured.Equal(begin) {
		t.Errorf("the value of now is %+v, %v", p, ok)
	}
	tr.publish("jobs", second, begin.Add(time.Second), begin.Add(time.Second))
	if p, ok := tr.find("jobs", first); !ok || !p.until.Equal(begin.Add(time.Second)) {
		t.Errorf("the value before is %+v, %v; want until %v", p, ok, begin.Add(time.Second))
	}
	if _, ok := tr.find("returns", first); ok {
		t.Error("a series has the value of another one")
	}
	if _, ok := tr.find("jobs", first+1); ok {
		t.Error("a value is known that never was")
	}
}

func TestTruthForgetsWhatIsLongOver(t *testing.T) {
	t.Parallel()
	tr, begin := newTruth(), time.Unix(1_000_000, 0)
	for i := range 1000 {
		now := begin.Add(time.Duration(i) * time.Second)
		tr.answered("jobs", tr.next("jobs", 89.5), now, now)
		tr.answered("same", 5, now, now) // A value that comes again is of the last time.
	}
	for _, series := range []string{"jobs", "same"} {
		if n, limit := len(tr.series[series].points), int(remembered/time.Second)+1; n > limit {
			t.Errorf("%s: %d values are known, want at most %d", series, n, limit)
		}
	}
	if p, ok := tr.find("same", 5); !ok || !p.until.Equal(begin.Add(999*time.Second)) {
		t.Errorf("the value that comes again is %+v, %v", p, ok)
	}
}

func TestMicrosOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]micros{
		"89499990u": 89_499_990, "89499990001n": 89_499_990, "89499989999n": 89_499_990, "90": 90_000_000, "0": 0, "1500m": 1_500_000,
	} {
		if got := microsOf(resource.MustParse(text)); got != want {
			t.Errorf("%s is %v millionths, want %v", text, int64(got), int64(want))
		}
	}
	if got, want := micros(89_499_990).String(), "89.49999"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
