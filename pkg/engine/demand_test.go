package engine_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/engine"
)

func TestPinKeepsInDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("q"), request("r")})
		b.sleepUntil(time.Hour)
		wantValue(t, e, request("q"), 1)
		if n := len(b.seen()); n != 1+60*4 {
			t.Errorf("%d calls in an hour", n)
		}

		e.Pin([]engine.Request{request("r")})
		b.sleepUntil(time.Hour + 2*time.Minute)
		calls := b.seen()
		if at := calls[len(calls)-1]; at.keys != "r" {
			t.Errorf("the last call was %v", at)
		}
		var last time.Duration
		for _, c := range calls {
			if c.keys == "q" {
				last = c.at
			}
		}
		if want := time.Hour + time.Minute; last != want {
			t.Errorf("q was asked until %v, want %v", last, want)
		}
	})
}

func TestDemandEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{DemandFor: time.Minute})
		wantValue(t, e, request("q"), 1)
		b.sleepUntil(20 * time.Second)
		wantValue(t, e, request("q"), 1)
		b.sleepUntil(89 * time.Second)
		b.wantCalls(t, call{gather, "q"}, call{15 * time.Second, "q"}, call{30 * time.Second, "q"},
			call{45 * time.Second, "q"}, call{60 * time.Second, "q"}, call{75 * time.Second, "q"})

		b.sleepUntil(100 * time.Second)
		st, ok := e.Peek(request("q"))
		if !ok || st.InDemand || len(st.Answer.Samples) != 1 || !st.Due.IsZero() {
			t.Errorf("Peek after the demand ended = %+v, %v", st, ok)
		}
		b.answers(value(2))
		wantValue(t, e, request("q"), 2) // who comes back waits for a new answer
		b.wantCalls(t, call{100*time.Second + gather, "q"})

		b.sleepUntil(5 * time.Minute)
		if st, ok := e.Peek(request("q")); ok {
			t.Errorf("Peek long after the demand ended = %+v", st)
		}
		b.answers(failure(errors.New("gone")))
		if u := wantUnavailable(t, e, request("q")); !u.LastAnswer.IsZero() {
			t.Errorf("an answer was kept: %v", u)
		}
	})
}

func TestDemandLastsAFewIntervals(t *testing.T) {
	for _, tc := range []struct {
		name                      string
		interval, demandFor, want time.Duration
	}{
		{"at least a minute", 15 * time.Second, 0, time.Minute},
		{"three of them", time.Minute, 0, 3 * time.Minute},
		{"no longer than 5 minutes", 10 * time.Minute, 0, 5 * time.Minute},
		{"no longer than said", time.Minute, 40 * time.Second, 40 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				e := start(t, b, engine.Options{DemandFor: tc.demandFor})
				req := request("q")
				req.Interval = tc.interval
				wantValue(t, e, req, 1)
				pass(tc.want - gather)
				if st, ok := e.Peek(req); !ok || !st.InDemand {
					t.Errorf("Peek %v after the read = %+v, %v", tc.want, st, ok)
				}
				pass(gather + 1)
				if st, ok := e.Peek(req); !ok || st.InDemand {
					t.Errorf("Peek more than %v after the read = %+v, %v", tc.want, st, ok)
				}
				pass(tc.want + tc.interval + gather)
				if st, ok := e.Peek(req); ok {
					t.Errorf("Peek as long again after the demand ended = %+v", st)
				}
			})
		})
	}
}

func TestReadsEvery15SecondsAreDemand(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 15 * time.Second, time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				e := start(t, b, engine.Options{})
				req := request("q")
				req.Interval = interval
				wantValue(t, e, req, 1)
				for range 60 * 4 {
					pass(15 * time.Second)
					began := time.Now()
					wantValue(t, e, req, 1)
					if waited := time.Since(began); waited != 0 {
						t.Fatalf("a read waited %v", waited)
					}
				}
			})
		})
	}
}

func TestPinRevives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{DemandFor: time.Minute})
		wantValue(t, e, request("q"), 1)
		b.sleepUntil(100 * time.Second)
		b.seen()
		e.Pin([]engine.Request{request("q")})
		b.sleepUntil(106 * time.Second)
		b.wantCalls(t, call{100*time.Second + gather, "q"}, call{105 * time.Second, "q"})
		if st, ok := e.Peek(request("q")); !ok || !st.InDemand || !st.Due.Equal(b.start.Add(2*time.Minute)) {
			t.Errorf("Peek = %+v, %v", st, ok)
		}
	})
}

func TestShortestIntervalCounts(t *testing.T) {
	often, seldom := request("q"), request("q")
	often.Interval, seldom.Interval = 10*time.Second, time.Minute

	gaps := func(calls []call) (gaps []time.Duration) {
		for i := range calls[1:] {
			gaps = append(gaps, calls[i+1].at-calls[i].at)
		}
		return slices.Compact(gaps)
	}
	t.Run("of readers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend()
			e := start(t, b, engine.Options{})
			wantValue(t, e, seldom, 1)
			b.sleepUntil(12 * time.Second)
			wantValue(t, e, often, 1)
			b.sleepUntil(41 * time.Second)
			b.wantCalls(t, call{gather, "q"}, call{20 * time.Second, "q"}, call{30 * time.Second, "q"}, call{40 * time.Second, "q"})
			for range 12 * 4 {
				pass(15 * time.Second)
				wantValue(t, e, seldom, 1)
			}
			b.seen()
			for range 5 * 4 {
				pass(15 * time.Second)
				wantValue(t, e, seldom, 1)
			}
			if got := gaps(b.seen()); !slices.Equal(got, []time.Duration{time.Minute}) {
				t.Errorf("long after the last frequent reader the query is asked every %v", got)
			}
		})
	})
	t.Run("of pins", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBackend()
			e := start(t, b, engine.Options{})
			e.Pin([]engine.Request{seldom, often})
			b.sleepUntil(11 * time.Second)
			b.wantCalls(t, call{gather, "q"}, call{10 * time.Second, "q"})
			e.Pin([]engine.Request{seldom})
			b.sleepUntil(2*time.Minute + time.Second)
			b.wantCalls(t, call{20 * time.Second, "q"}, call{time.Minute, "q"}, call{2 * time.Minute, "q"})
			e.Pin([]engine.Request{often})
			b.sleepUntil(2*time.Minute + 11*time.Second)
			b.wantCalls(t, call{2*time.Minute + 10*time.Second, "q"})
		})
	})
}

func TestRequestWithoutIntervalIsAskedEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		req := request("q")
		req.Interval = 0
		e.Pin([]engine.Request{req})
		b.sleepUntil(2*time.Second + 1)
		b.wantCalls(t, call{gather, "q"}, call{time.Second, "q"}, call{2 * time.Second, "q"})
	})
}
