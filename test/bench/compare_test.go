package bench

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

func TestInTurns(t *testing.T) {
	var did []int
	err := inTurns(3, 3, func(side int) error {
		did = append(did, side)
		return nil
	})
	if want := []int{0, 1, 2, 2, 1, 0, 0, 1, 2}; err != nil || !slices.Equal(did, want) {
		t.Errorf("the turns are %v, %v, want %v", did, err, want)
	}
	did = nil
	broken := errors.New("it ended")
	err = inTurns(3, 2, func(side int) error {
		if did = append(did, side); side == 1 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || len(did) != 2 {
		t.Errorf("after an error the turns are %v, %v", did, err)
	}
}

func TestTally(t *testing.T) {
	one := tally{rates: []float64{100, 900, 300}, cpu: 500 * time.Millisecond}
	for i := range 100 {
		one.each = append(one.each, float64(time.Duration(i+1)*time.Millisecond))
	}
	if got := one.rate(); got != 300 {
		t.Errorf("the rate is %v, want that of the usual round, 300", got)
	}
	if got := one.late(); got != 100 {
		t.Errorf("p99 is %v ms, want 100", got)
	}
	if got := one.cost(); got != 5 {
		t.Errorf("one request costs %v ms, want 5", got)
	}
	floor, peer := tally{rates: []float64{600}}, tally{rates: []float64{50}}
	two, three := tallies{one, floor}.beside(tally.rate), tallies{one, floor, peer}.beside(tally.rate)
	if two.value != 300 || *two.floor != 600 || two.peer != nil {
		t.Errorf("of two sides: %+v", two)
	}
	if three.value != 300 || *three.floor != 600 || three.peer == nil || *three.peer != 50 {
		t.Errorf("of three sides: %+v", three)
	}
	if got := (tallies{one, floor}).inFloors(tally.rate); got != 0.5 {
		t.Errorf("%v floors, want a half", got)
	}
}

func TestCPU(t *testing.T) {
	const text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 100 1 1"
	if got, err := parseStat(text); err != nil || got != 3*time.Second {
		t.Errorf("got %v, %v, want 3s", got, err)
	}
	for _, text := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 many 50"} {
		if got, err := parseStat(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc on this system")
	}
	if _, err := cpuOf(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestShapeOf(t *testing.T) {
	const text = `{"items":[{"value":"1","describedObject":{"name":"a","kind":"Pod"}},{"value":"2"}]}`
	n, shape, err := shapeOf([]byte(text))
	if want := "describedObject, describedObject.kind, describedObject.name, value"; n != 2 || shape != want || err != nil {
		t.Errorf("got %d items of %q, %v, want 2 of %q", n, shape, err, want)
	}
	if n, _, err := shapeOf([]byte(`{"items":[]}`)); n != 0 || err != nil {
		t.Errorf("of none: got %d, %v", n, err)
	}
	if _, _, err := shapeOf([]byte(`<html>`)); err == nil {
		t.Error("a page is taken for an answer")
	}
}
