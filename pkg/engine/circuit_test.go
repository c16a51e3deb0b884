package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// away is what a source says of a backend where nobody is.
var away = failure(fmt.Errorf("dial 10.0.0.1:9090: connection refused: %w", sources.ErrAway))

// queriesIn is how many queries the calls were for.
func queriesIn(calls []call) int {
	n := 0
	for _, c := range calls {
		n += len(strings.Fields(c.keys))
	}
	return n
}

// pinsOf are so many requests of a backend.
func pinsOf(backend string, n int) []engine.Request {
	var pins []engine.Request
	for i := range n {
		pins = append(pins, request(fmt.Sprintf("%s/%04d", backend, i)))
	}
	return pins
}

func TestBackendThatIsAwayIsProbed(t *testing.T) {
	for _, pinned := range []bool{true, false} {
		t.Run(fmt.Sprintf("pinned %v", pinned), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { probeThousand(t, pinned) })
		})
	}
}

// probeThousand has a backend of 1,000 queries away for 10 minutes.
func probeThousand(t *testing.T, pinned bool) { //nolint:revive // It is a case of the test.
	t.Helper()
	b := newBackend()
	e := start(t, b, engine.Options{})
	requests := pinsOf("", 1000)
	keep := func() {
		if !pinned {
			for _, r := range requests {
				e.Touch(r)
			}
		}
	}
	if pinned {
		e.Pin(requests)
	}
	keep()
	b.sleepUntil(14 * time.Second)
	b.seen()
	b.answers(away)
	for at := time.Minute; at <= 10*time.Minute; at += 30 * time.Second {
		keep()
		b.sleepUntil(at)
	}
	calls := b.seen()
	var before, probes []call
	for _, c := range calls {
		if queriesIn([]call{c}) > 4 {
			before = append(before, c)
		} else {
			probes = append(probes, c)
		}
	}
	if n := queriesIn(before); n != 3000 || before[len(before)-1].at > 25*time.Second {
		t.Errorf("before the circuit opened %d queries were asked, the last of them at %v", n, before[len(before)-1].at)
	}
	wait := time.Second
	for i, p := range probes {
		previous := before[len(before)-1].at
		if i > 0 {
			previous = probes[i-1].at
		}
		if got := p.at - previous; got < wait*3/4-gather || got > wait+gather || queriesIn([]call{p}) != 4 {
			t.Errorf("probe %d came after %v with %q, want about %v", i, got, p.keys, wait)
		}
		wait = min(2*wait, 10*time.Second)
	}
	if n := queriesIn(calls); n > 3300 {
		t.Errorf("10 minutes cost %d queries", n)
	}
	t.Logf("10 minutes cost %d queries, of which %d are probes", queriesIn(calls), queriesIn(probes))

	b.answers(value(2))
	back := time.Now()
	for _, r := range requests {
		for {
			if a, err := e.Read(t.Context(), r); err == nil && a.Fetched.After(back) {
				break
			}
			pass(10 * time.Millisecond)
		}
	}
	if took := time.Since(back); took > 10*time.Second {
		t.Errorf("all were fresh after %v", took)
	}
	if calls := b.seen(); len(calls) != 2 || queriesIn(calls[1:]) < 996 {
		t.Errorf("%d calls were made until all were fresh", len(calls))
	}
}

func TestWhatWaitsForAProbeServesUntilMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		pins := pinsOf("", 20)
		seldom := request("seldom")
		seldom.Interval, seldom.MaxAge = 2*time.Minute, 10*time.Minute
		e.Pin(append(pins, seldom))
		b.sleepUntil(14 * time.Second)
		b.answers(away)
		b.sleepUntil(time.Minute)
		for _, r := range pins {
			wantValue(t, e, r, 1)
		}
		b.sleepUntil(time.Minute + 10*time.Millisecond)
		for _, r := range pins {
			u := wantUnavailable(t, e, r)
			if u.Since.Sub(b.start) != 15*time.Second || !errors.Is(u, sources.ErrAway) || u.LastAnswer.Sub(b.start) != gather {
				t.Errorf("%s: %v", r.Query.Key(), u)
			}
		}
		wantValue(t, e, seldom, 1)
		b.sleepUntil(9 * time.Minute)
		wantValue(t, e, seldom, 1)
		if st, ok := e.Peek(seldom); !ok || !errors.Is(st.Err, sources.ErrAway) || st.Since.Sub(b.start) != 15*time.Second || !st.InDemand || !st.Due.After(time.Now()) {
			t.Errorf("Peek = %+v, %v", st, ok)
		}
		b.sleepUntil(10*time.Minute + 10*time.Millisecond)
		if u := wantUnavailable(t, e, seldom); u.Since.Sub(b.start) != 15*time.Second || u.Err.Error() != "dial 10.0.0.1:9090: connection refused: away" {
			t.Errorf("%v", u)
		}
	})
}

// What is not in demand any more is let go, however long the backend is away.
func TestQueriesOfABackendThatIsAwayAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(away)
		e := start(t, b, engine.Options{})
		for range 10 {
			_, _ = e.Read(t.Context(), request("q"))
			pass(10 * time.Second)
		}
		b.sleepUntil(10 * time.Minute)
		if st, ok := e.Peek(request("q")); ok {
			t.Errorf("Peek = %+v", st)
		}
		b.seen()
		b.sleepUntil(20 * time.Minute)
		b.wantCalls(t)
		// Who comes then hears what is true then.
		b.answers(value(1))
		wantValue(t, e, request("q"), 1)
	})
}

func TestColdReadsOfABackendThatIsAwayFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.fetch = func(_ context.Context, queries []sources.Query) []sources.Result {
			pass(8 * time.Second) // As if nobody took up the connection.
			return slices.Repeat([]sources.Result{away}, len(queries))
		}
		e := start(t, b, engine.Options{})
		e.Pin(pinsOf("", 20))
		b.sleepUntil(2 * time.Minute)
		b.seen()
		began := time.Now()
		for i := range 20 {
			u := wantUnavailable(t, e, request(fmt.Sprintf("cold%d", i)))
			if u.Since.Sub(b.start) != 8*time.Second+gather || u.Err.Error() != away.Err.Error() || !u.LastAnswer.IsZero() {
				t.Errorf("%v", u)
			}
		}
		if waited := time.Since(began); waited > 20*gather {
			t.Errorf("20 cold reads took %v", waited)
		}
		b.mu.Lock()
		b.fetch = nil
		b.mu.Unlock()
		pass(20 * time.Second)
		wantValue(t, e, request("cold0"), 1)
	})
}

// A probe goes through all queries, so that those that are bad by themselves do not keep
// the others waiting.
func TestProbesRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(away)
		e := start(t, b, engine.Options{})
		e.Pin(pinsOf("", 18))
		for i := range 3 {
			e.Touch(request(fmt.Sprintf("read%d", i)))
		}
		b.sleepUntil(time.Minute + 30*time.Second)
		var probes []call
		for _, c := range b.seen() {
			if queriesIn([]call{c}) <= 4 && c.at > 6500*time.Millisecond {
				probes = append(probes, c)
			}
		}
		asked := map[string]int{}
		for i, p := range probes[:6] {
			for key := range strings.FieldsSeq(p.keys) {
				asked[key]++
				if pinned := !strings.HasPrefix(key, "read"); pinned != (i < 5) {
					t.Errorf("probe %d asks %q", i, p.keys)
				}
			}
		}
		if len(asked) != 21 {
			t.Errorf("%d of 21 were asked by six probes: %v", len(asked), probes)
		}
	})
}

// A query that nobody answers is no sign that the backend is away, if others are answered.
func TestBadQueryOpensNoCircuit(t *testing.T) {
	for _, tc := range []struct {
		name string
		// others is the interval of the good ones.
		others time.Duration
	}{{"others are asked often", 15 * time.Second}, {"others are asked seldom", 5 * time.Minute}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answersBy(func(_ context.Context, q query) sources.Result {
					if strings.HasPrefix(string(q), "bad") {
						return away
					}
					return value(1)
				})
				e := start(t, b, engine.Options{})
				pins := []engine.Request{request("bad1"), request("bad2")}
				for i := range 10 {
					good := request(fmt.Sprintf("good%d", i))
					good.Interval, good.MaxAge = tc.others, 2*tc.others
					pins = append(pins, good)
				}
				e.Pin(pins)
				for range 20 * 60 {
					for _, r := range pins[2:] {
						if a, err := e.Read(t.Context(), r); err != nil || time.Since(a.Fetched) > tc.others+gather {
							t.Fatalf("after %v: %v, %v", time.Since(b.start), a, err)
						}
					}
					wantUnavailable(t, e, pins[0])
					wantValue(t, e, request("cold"), 1)
					pass(time.Second)
				}
			})
		})
	}
}

func TestSlowAndRejectedQueriesOpenNoCircuit(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
	}{
		{"slow", fmt.Errorf("%w: query timed out", sources.ErrTooSlow)},
		{"slow, some of them, while others reach nobody", errors.Join(sources.ErrTooSlow)},
		{"cut", context.DeadlineExceeded},
		{"rejected", sources.ErrRejected},
		{"without data", sources.ErrNoData},
		{"failing", errors.New("503")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answersBy(func(_ context.Context, q query) sources.Result {
					switch {
					case q == "good":
						return value(1)
					case strings.HasSuffix(string(q), "0") && strings.Contains(tc.name, "reach nobody"):
						return away
					}
					return failure(tc.err)
				})
				e := start(t, b, engine.Options{})
				e.Pin(pinsOf("", 30))
				b.sleepUntil(5 * time.Minute)
				wantValue(t, e, request("good"), 1)
			})
		})
	}
}

func TestForgetClosesTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(away)
		e := start(t, b, engine.Options{})
		pins := pinsOf("eu", 100)
		e.Pin(pins)
		b.sleepUntil(5 * time.Minute)
		b.seen()
		b.answers(value(2))
		e.Forget("b", []string{"eu"})
		for _, r := range pins {
			wantValue(t, e, r, 2)
		}
		b.sleepUntil(5*time.Minute + time.Second)
		if calls := b.seen(); len(calls) != 1 || calls[0].at != 5*time.Minute+gather || queriesIn(calls) != 100 {
			t.Errorf("the backend was called %v", calls)
		}
	})
}

func TestProbeFromBeforeForgetDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(context.Context, query) sources.Result {
			pass(2 * time.Second)
			return away
		})
		e := start(t, b, engine.Options{})
		e.Pin(pinsOf("eu", 10))
		b.sleepUntil(5 * time.Minute)
		b.seen()
		for len(b.seen()) == 0 { // A probe is under way then.
			pass(100 * time.Millisecond)
		}
		b.answers(value(2))
		e.Forget("b", nil)
		for range 100 {
			wantValue(t, e, request("eu/0001"), 2)
			wantValue(t, e, request("eu/new"), 2)
			pass(100 * time.Millisecond)
		}
	})
}

func TestCircuitsOfManyBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if strings.HasPrefix(q.Backend(), "dead") {
				return away
			}
			return value(1)
		})
		e := start(t, b, engine.Options{})
		var pins, well []engine.Request
		for i := range 20 {
			pins = append(pins, pinsOf(fmt.Sprintf("dead%d", i), 10)...)
			well = append(well, pinsOf(fmt.Sprintf("well%d", i), 10)...)
		}
		e.Pin(append(pins, well...))
		b.sleepUntil(time.Minute)
		b.seen()
		for range 10 * 60 {
			for _, r := range well {
				if a, err := e.Read(t.Context(), r); err != nil || time.Since(a.Fetched) > r.Interval+gather {
					t.Fatalf("%s after %v: %v, %v", r.Query.Key(), time.Since(b.start), a, err)
				}
			}
			pass(time.Second)
		}
		dead := 0
		for _, c := range b.seen() {
			if strings.HasPrefix(c.keys, "dead") {
				dead++
			}
		}
		if limit := 20 * 10 * 60 / 7; dead > limit {
			t.Errorf("those that are away were called %d times, want no more than %d", dead, limit)
		}
	})
}

func TestProbeThatIsCutShortIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, _ query) sources.Result {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
			return away
		})
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		stop := run(t, e)
		e.Pin(pinsOf("", 1))
		b.sleepUntil(2 * time.Minute)
		b.seen()
		for len(b.seen()) == 0 {
			pass(100 * time.Millisecond)
		}
		stop()
		b.answers(value(2))
		run(t, e)
		pass(11 * time.Second)
		synctest.Wait()
		wantValue(t, e, request("/0000"), 2)
	})
}

func TestLogsOnceThatABackendIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(away)
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		runWith(t, klog.NewContext(t.Context(), logger), e)
		e.Pin(pinsOf("eu", 100))
		b.sleepUntil(10 * time.Minute)
		b.answers(value(1))
		b.sleepUntil(11 * time.Minute)
		log := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
		for _, text := range []string{`Nobody is there`, `backend="eu"`, `Somebody is there again`} {
			if !strings.Contains(log, text) {
				t.Errorf("the log has no %s:\n%s", text, log)
			}
		}
		// That the queries fail, that they wait, that it is over, and of probe and rest that
		// they answer.
		if n := strings.Count(log, "source="); n > 5 {
			t.Errorf("the log has %d lines:\n%s", n, log)
		}
	})
}

// Readers who think of ever new queries that nobody answers, or that take too long, keep no
// open circuit from closing, if the pinned ones are well.
func TestNewBadReadsDoNotKeepACircuitOpen(t *testing.T) {
	for _, bad := range []struct {
		name string
		is   sources.Result
	}{
		{"away", away},
		{"deadline", failure(context.DeadlineExceeded)},
	} {
		t.Run(bad.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				e := start(t, b, engine.Options{})
				pins := pinsOf("", 4)
				e.Pin(pins)
				b.sleepUntil(14 * time.Second)
				b.answers(away)
				b.sleepUntil(time.Minute)
				b.seen()
				n := 0
				// A fresh read every 5 s, from before the backend is back.
				readers := func(until time.Duration) {
					for time.Since(b.start) < until {
						e.Touch(request(fmt.Sprintf("bad%d", n)))
						n++
						pass(5 * time.Second)
					}
				}
				readers(2 * time.Minute)
				b.answersBy(func(_ context.Context, q query) sources.Result {
					if strings.HasPrefix(string(q), "bad") {
						return bad.is
					}
					return value(2)
				})
				b.seen()
				readers(12 * time.Minute)
				pinnedAsked := 0
				calls := b.seen()
				for _, c := range calls {
					if strings.Contains(" "+c.keys, " /") {
						pinnedAsked++
					}
				}
				if a, err := e.Read(t.Context(), pins[0]); err != nil {
					t.Errorf("10 minutes after the backend is back: %v, %v; of %d probes %d asked a pinned query", a, err, len(calls), pinnedAsked)
				}
			})
		})
	}
}

// What waits for a backend that is away makes room for reads of others.
func TestReadsThatWaitForABackendMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if strings.HasPrefix(string(q), "dead/") {
				return away
			}
			return value(1)
		})
		e := start(t, b, engine.Options{MaxUnpinned: 2})
		e.Pin(pinsOf("dead", 4))
		b.sleepUntil(time.Minute + 1500*time.Millisecond)
		// A burst of three cold reads of the backend that is away.
		for i := range 3 {
			e.Touch(request(fmt.Sprintf("dead/cold%d", i)))
		}
		began := time.Now()
		pass(gather * 2)
		synctest.Wait()
		refused := 0
		for {
			_, err := e.Read(t.Context(), request("fine/one"))
			if err == nil {
				break
			}
			if _, busy := errors.AsType[*engine.BusyError](err); !busy {
				t.Fatal(err)
			}
			refused++
			pass(100 * time.Millisecond)
			if time.Since(began) > 5*time.Minute {
				break
			}
		}
		if refused > 0 {
			t.Errorf("reads of another backend were refused for %v, though both held queries could be let go", time.Since(began))
		}
	})
}

// The log has said that nobody is there. It does not say so again for each new read.
func TestColdReadsOfABackendThatIsAwayAreNotALineEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(away)
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		runWith(t, klog.NewContext(t.Context(), logger), e)
		e.Pin(pinsOf("", 8))
		b.sleepUntil(30 * time.Second)
		buffer := logger.GetSink().(ktesting.Underlier).GetBuffer()
		before := strings.Count(buffer.String(), "source=")
		for i := range 600 { // ten a second, for a minute
			e.Touch(request(fmt.Sprint("cold", i)))
			pass(100 * time.Millisecond)
		}
		if n := strings.Count(buffer.String(), "source=") - before; n > 20 {
			t.Errorf("%d lines in a minute:\n%s", n, buffer)
		}
	})
}
