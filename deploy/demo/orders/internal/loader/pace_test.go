package loader

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestPaceKeepsTheRateHoweverItIsWoken(t *testing.T) {
	for _, rate := range []float64{0.5, 1, 3, 25, 623, 10_000} {
		for name, woken := range map[string]func(wait time.Duration) time.Duration{
			"in time":   func(wait time.Duration) time.Duration { return wait },
			"late":      func(wait time.Duration) time.Duration { return wait + 7*time.Millisecond },
			"too often": func(wait time.Duration) time.Duration { return min(wait, 3*time.Millisecond) },
		} {
			t.Run(fmt.Sprint(rate, " ", name), func(t *testing.T) {
				begin := time.Unix(1_800_000_000, 0)
				var p pace
				p.set(rate, begin)
				now, n, last := begin, 0, time.Time{}
				for now.Before(begin.Add(time.Minute)) {
					a := p.take(now)
					if a.late > 0 {
						t.Fatalf("%d are late", a.late)
					}
					for _, due := range a.due {
						if due.After(now) || !due.After(last) {
							t.Fatalf("due at %v after %v, at %v", due, last, now)
						}
						last = due
					}
					n += len(a.due)
					now = now.Add(woken(a.wait))
				}
				if want := rate * 60; math.Abs(float64(n)-want) > max(1, want/100) {
					t.Errorf("%d arrivals in a minute, want %v", n, want)
				}
			})
		}
	}
}

func TestPaceMakesUpForALateWakeUpWithoutABurst(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	var p pace
	p.set(100, begin)
	now := begin.Add(2 * time.Second) // Nobody woke for so long.
	n, waited := 0, time.Duration(0)
	for {
		a := p.take(now)
		if len(a.due) > 10 || a.late != 0 {
			t.Fatalf("%d at once and %d late, want no more than the 10 of 100ms, and none late", len(a.due), a.late)
		}
		n += len(a.due)
		if now.Before(p.next) {
			break
		}
		if a.wait < 50*time.Millisecond {
			t.Fatalf("waits for %v while it makes up", a.wait)
		}
		now, waited = now.Add(a.wait), waited+a.wait
	}
	// 200 are owed and 100/s come in the meantime, at 200/s.
	if waited < 1900*time.Millisecond || waited > 2100*time.Millisecond {
		t.Errorf("made up in %v, want some 2s", waited)
	}
	if want := int(now.Sub(begin)/(10*time.Millisecond)) + 1; n != want {
		t.Errorf("%d arrivals, want %d", n, want)
	}
}

func TestPaceCountsWhatIsTooLate(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	var p pace
	p.set(100, begin)
	a := p.take(begin.Add(15 * time.Second))
	if a.late != 1001 || len(a.due) != 10 {
		t.Errorf("%d late and %d due, want those of the first 10s, and 10", a.late, len(a.due))
	}
	if got, want := p.rest(begin.Add(15*time.Second)), 1501-1001-10; got != want {
		t.Errorf("%d are owed at the end, want %d", got, want)
	}
}

func TestPaceOfAnotherRate(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	for _, test := range []struct {
		name  string
		rates map[float64]float64 // from when on
		until float64
		want  int
	}{
		{"up", map[float64]float64{0: 10, 10: 100}, 20, 1100},
		{"down", map[float64]float64{0: 100, 10: 10}, 20, 1100},
		{"down to none", map[float64]float64{0: 10, 10: 0}, 20, 100},
		{"none and up", map[float64]float64{0: 0, 10: 10}, 20, 100},
		{"a pause does not count", map[float64]float64{0: 0.1, 5: 0, 105: 0.1}, 109, 1},
		{"the way counts that has been gone", map[float64]float64{0: 0.1, 5: 1}, 5.6, 2},
		{"the same again and again", map[float64]float64{0: 1, 0.3: 1, 0.6: 1, 0.9: 1, 1.2: 1}, 1.9, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p pace
			n := 0
			for tenth := range int(test.until*10) + 1 {
				seconds := float64(tenth) / 10
				if rate, ok := test.rates[seconds]; ok {
					n += len(p.take(at(seconds)).due)
					p.set(rate, at(seconds))
				}
				n += len(p.take(at(seconds)).due)
			}
			if n < test.want || n > test.want+1 {
				t.Errorf("%d arrivals, want %d or one more", n, test.want)
			}
		})
	}
}

func TestPaceSaysAtOnceThatTheRateIsAnother(t *testing.T) {
	var p pace
	a := p.take(time.Now())
	if a.wait < time.Hour {
		t.Errorf("waits for %v without a rate", a.wait)
	}
	p.set(1, time.Now())
	select {
	case <-a.changed:
	default:
		t.Error("who waits is not told")
	}
}

func TestRatesThatAreNone(t *testing.T) {
	for _, rate := range []float64{-1, math.NaN(), math.Inf(1), 0.0001, 10_001} {
		if checkRate(rate) == nil {
			t.Errorf("%v is taken for a rate", rate)
		}
	}
	for _, rate := range []float64{0, 0.001, 12.5, 10_000} {
		if err := checkRate(rate); err != nil {
			t.Error(err)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var l latencies
	if got := l.percentile(50); got != 0 {
		t.Errorf("the median of none is %v", got)
	}
	for ms := 1; ms <= 1000; ms++ {
		l.add(time.Duration(ms) * time.Millisecond)
	}
	for p, want := range map[float64]time.Duration{
		50: 500 * time.Millisecond, 90: 900 * time.Millisecond, 99: 990 * time.Millisecond, 100: time.Second,
	} {
		if got := l.percentile(p); math.Abs(float64(got-want)) > float64(want)/80 {
			t.Errorf("percentile %v is %v, want %v to a hundredth", p, got, want)
		}
	}
	l.add(24 * time.Hour)
	l.add(-time.Second)
	if got := l.percentile(100); l.most != 24*time.Hour || got > l.most {
		t.Errorf("the longest are %v and %v", l.most, got)
	}
}
