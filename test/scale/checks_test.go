package scale

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestSizesOfTheWave(t *testing.T) {
	for step, want := range map[int][2]int32{0: {1, 0}, 1: {40, 2}, 3: {300, 12}, 6: {600, 23}, 9: {300, 12}, 12: {1, 0}} {
		ofWeb, ofWorkers := sizes(step)
		if got := [2]int32{ofWeb, ofWorkers}; got != want {
			t.Errorf("step %d: %v pods, want %v", step, got, want)
		}
		if got := podsFor(workFor(ofWeb, requestsPerPod), requestsPerPod); got != ofWeb {
			t.Errorf("step %d: the load takes %d pods, want %d", step, got, ofWeb)
		}
	}
}

// What TestWave would not see of a wrong number, it could not show.
func TestNumberThatWasNotSaidOfLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h history
		h.add(9.99, time.Now())
		<-time.After(maxAge)
		h.add(0, time.Now())
		for _, test := range []struct {
			value float64
			age   time.Duration
			ok    bool
		}{
			{9.99, maxAge, true},
			{9.9899, maxAge, true}, // The thousandths of custom metrics.
			{9.98, 0, false},
			{0, 0, true},
			{-1, 0, false},
			{math.NaN(), 0, false},
		} {
			if age, ok := h.age(test.value, time.Now()); ok != test.ok || ok && age != test.age {
				t.Errorf("%v: age %v, %t; want %v, %t", test.value, age, ok, test.age, test.ok)
			}
		}
		<-time.After(1)
		if age, ok := h.age(9.99, time.Now()); ok {
			t.Errorf("a number from %v ago is taken for one of late", age)
		}
	})
}

func TestMost99(t *testing.T) {
	before := map[float64]float64{0.001: 100, 0.01: 100, math.Inf(1): 100}
	for _, test := range []struct {
		after map[float64]float64
		want  float64
	}{
		{map[float64]float64{0.001: 299, 0.01: 300, math.Inf(1): 300}, 0.001},
		{map[float64]float64{0.001: 297, 0.01: 300, math.Inf(1): 300}, 0.01},
		{map[float64]float64{0.001: 100, 0.01: 110, math.Inf(1): 300}, math.Inf(1)},
	} {
		if got := most99(before, test.after); got != test.want {
			t.Errorf("%v: %v, want %v", test.after, got, test.want)
		}
	}
}
