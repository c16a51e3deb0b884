package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestForgetAsksPinnedQueriesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		var mu sync.Mutex
		changes := 0
		e := start(t, b, engine.Options{OnChange: func(string, string) {
			mu.Lock()
			defer mu.Unlock()
			changes++
		}})
		e.Pin([]engine.Request{request("eu/q"), request("us/q")})
		wantValue(t, e, request("eu/q"), 1)
		b.sleepUntil(time.Second)
		b.seen()
		b.answers(value(2))
		e.Forget("b", []string{"eu", "nobody"})
		if st, ok := e.Peek(request("eu/q")); ok {
			t.Errorf("Peek of what is forgotten = %+v", st)
		}
		wantValue(t, e, request("eu/q"), 2)
		wantValue(t, e, request("us/q"), 1)
		b.sleepUntil(1100 * time.Millisecond)
		b.wantCalls(t, call{time.Second + gather, "eu/q"})

		e.Forget("b", nil)
		for _, key := range []string{"eu/q", "us/q"} {
			if _, ok := e.Peek(request(key)); ok {
				t.Errorf("%s is not forgotten", key)
			}
		}
		wantValue(t, e, request("eu/q"), 2)
		wantValue(t, e, request("us/q"), 2)
		e.Forget("unknown", nil)
		synctest.Wait() // Readers hear of an answer before OnChange does.
		mu.Lock()
		defer mu.Unlock()
		// Two first answers, one after the first Forget, two after the second.
		if changes != 5 {
			t.Errorf("OnChange was called %d times", changes)
		}
	})
}

func TestForgetDropsQueriesThatAreMerelyRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		idle := request("idle")
		wantValue(t, e, idle, 1)
		b.sleepUntil(80 * time.Second)
		wantValue(t, e, request("q"), 1)
		if st, ok := e.Peek(idle); !ok || st.InDemand {
			t.Fatalf("Peek of an idle query = %+v, %v", st, ok)
		}
		e.Forget("b", nil)
		for _, req := range []engine.Request{idle, request("q")} {
			if st, ok := e.Peek(req); ok {
				t.Errorf("Peek of what is forgotten = %+v", st)
			}
		}
		b.seen()
		b.sleepUntil(10 * time.Minute)
		b.wantCalls(t)
		b.answers(value(2))
		wantValue(t, e, request("q"), 2)
		b.wantCalls(t, call{10*time.Minute + gather, "q"})
	})
}

// What is forgotten makes room once, and not for more than there was.
func TestForgetLeavesTheLimitOfSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{MaxUnpinnedSamples: 2})
		for range 5 {
			wantValue(t, e, request("q"), 1)
			e.Forget("b", nil)
		}
		for i := range 4 {
			wantValue(t, e, request(fmt.Sprintf("q%d", i)), 1)
			pass(time.Second)
		}
		wantKnown(t, e, map[string]bool{"q0": false, "q1": false, "q2": true, "q3": true})
	})
}

// slowly answers as a backend that is replaced at one time: calls that begin before it
// take 5 s and give 1, later ones take 1 s and give 2.
func slowly(b *backend, replaced time.Duration) {
	b.answersBy(func(context.Context, query) sources.Result {
		if time.Since(b.start) < replaced {
			pass(5 * time.Second)
			return value(1)
		}
		pass(time.Second)
		return value(2)
	})
}

func TestReadersWhoWaitGetTheAnswerFromAfterForget(t *testing.T) {
	for _, pinned := range []bool{true, false} {
		for _, at := range []time.Duration{2 * time.Millisecond, 2 * time.Second, 4500 * time.Millisecond} {
			t.Run(fmt.Sprintf("pinned %v, after %v", pinned, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBackend()
					slowly(b, at)
					e := start(t, b, engine.Options{})
					if pinned {
						e.Pin([]engine.Request{request("q")})
					}
					var readers sync.WaitGroup
					for range 100 {
						readers.Go(func() {
							wantValue(t, e, request("q"), 2)
							if waited := time.Since(b.start); waited != at+gather+time.Second {
								t.Errorf("a reader waited %v", waited)
							}
						})
					}
					b.sleepUntil(at)
					e.Forget("b", nil)
					readers.Wait()
					for time.Since(b.start) < 14*time.Second {
						wantValue(t, e, request("q"), 2)
						pass(500 * time.Millisecond)
					}
				})
			})
		}
	}
}

func TestFetchFromBeforeForgetIsNoAnswerOfQueriesThatComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		slowly(b, time.Second)
		e := start(t, b, engine.Options{})
		e.Touch(request("q"))
		b.sleepUntil(time.Second)
		e.Forget("b", nil)
		b.sleepUntil(6 * time.Second)
		if st, ok := e.Peek(request("q")); ok {
			t.Errorf("Peek of what is forgotten = %+v", st)
		}
		wantValue(t, e, request("q"), 2)
	})
}

func TestForgottenQueriesAreNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		runWith(t, klog.NewContext(t.Context(), logger), e)
		e.Touch(request("hung/q"))
		b.sleepUntil(time.Second)
		e.Forget("b", []string{"hung"})
		b.sleepUntil(time.Hour)
		if log := logger.GetSink().(ktesting.Underlier).GetBuffer().String(); log != "" {
			t.Errorf("the log is\n%s", log)
		}
		b.wantCalls(t, call{gather, "hung/q"})
	})
}

func TestForgetEndsThePauseOfABackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		busy := failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
		b.answers(busy)
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("q")})
		// The pauses have grown to 30 s.
		b.sleepUntil(5 * time.Minute)
		b.answersBy(func(context.Context, query) sources.Result {
			pass(time.Second)
			return busy
		})
		b.sleepUntil(6 * time.Minute)
		b.seen()
		b.answers(value(2))
		e.Forget("b", nil)
		wantValue(t, e, request("q"), 2)
		b.wantCalls(t, call{6*time.Minute + gather, "q"})
	})
}

func TestThrottlingFromBeforeForgetIsNoPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(context.Context, query) sources.Result {
			if time.Since(b.start) > time.Second {
				return value(2)
			}
			pass(2 * time.Second)
			return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
		})
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("q")})
		b.sleepUntil(time.Second + 1)
		e.Forget("b", nil)
		b.sleepUntil(2*time.Second + gather)
		began := time.Now()
		wantValue(t, e, request("cold"), 2)
		if waited := time.Since(began); waited != gather {
			t.Errorf("a cold read took %v", waited)
		}
	})
}

func TestHungFetchesFromBeforeForgetHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := start(t, b, engine.Options{})
		var pins []engine.Request
		for i := range 20 {
			pins = append(pins, request(fmt.Sprintf("hung/%02d", i)))
			e.Pin(pins)
			e.Touch(request(fmt.Sprintf("hung/read%02d", i)))
			pass(2 * gather)
		}
		b.answers(value(2))
		b.seen()
		e.Forget("b", []string{"hung"})
		began := time.Now()
		for _, req := range pins {
			wantValue(t, e, req, 2)
		}
		if waited := time.Since(began); waited != gather {
			t.Errorf("the first answers took %v", waited)
		}
		b.sleepUntil(time.Second)
		if calls := b.seen(); len(calls) != 1 {
			t.Errorf("the backend was called %v, want once for all", calls)
		}
	})
}

func TestForgottenFetchThatIsCutShortIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hangApart)
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		stop := run(t, e)
		e.Pin([]engine.Request{request("hung-q")})
		e.Touch(request("hung-read"))
		b.sleepUntil(time.Second)
		e.Forget("b", nil)
		b.sleepUntil(2 * time.Second)
		stop()
		b.seen()
		b.answers(value(2))
		run(t, e)
		wantValue(t, e, request("hung-q"), 2)
		b.sleepUntil(16 * time.Second)
		b.wantCalls(t, call{2 * time.Second, "hung-q"}, call{15 * time.Second, "hung-q"})
	})
}
