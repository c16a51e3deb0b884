package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestRefreshIsAlignedAndShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		slow := request("minute")
		slow.Interval = time.Minute
		b.sleepUntil(7 * time.Second)
		wantValue(t, e, request("q"), 1)
		b.sleepUntil(8 * time.Second)
		wantValue(t, e, request("r"), 1)
		wantValue(t, e, slow, 1)
		b.sleepUntil(61 * time.Second)
		b.wantCalls(t,
			call{7*time.Second + gather, "q"},
			call{8*time.Second + gather, "r"},
			call{8*time.Second + 2*gather, "minute"},
			call{15 * time.Second, "q r"},
			call{30 * time.Second, "q r"},
			call{45 * time.Second, "q r"},
			call{60 * time.Second, "minute q r"},
		)
	})
}

func TestColdReadNextToARefreshSharesIt(t *testing.T) {
	for _, tc := range []struct {
		name     string
		read, at time.Duration
	}{
		{"just before", 15*time.Second - 2*time.Millisecond, 15 * time.Second},
		{"so that the refresh comes early", 15*time.Second - 7*time.Millisecond, 15*time.Second - 2*time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				e := start(t, b, engine.Options{})
				wantValue(t, e, request("q"), 1)
				b.sleepUntil(tc.read)
				wantValue(t, e, request("r"), 1)
				b.sleepUntil(31 * time.Second)
				b.wantCalls(t, call{gather, "q"}, call{tc.at, "q r"}, call{30 * time.Second, "q r"})
			})
		})
	}
}

func TestSourcesDoNotFireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newBackend(), newBackend()
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"a": a, "b": b}})
		run(t, e)
		ofA := request("q")
		ofA.Source = "a"
		e.Pin([]engine.Request{ofA, request("q")})
		a.sleepUntil(16 * time.Second)
		a.wantCalls(t, call{gather, "q"}, call{15 * time.Second, "q"})
		b.wantCalls(t, call{gather, "q"}, call{500 * time.Millisecond, "q"}, call{15500 * time.Millisecond, "q"})
	})
}

func TestTenThousandQueriesShareAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		var pins []engine.Request
		for i := range 10_000 {
			pins = append(pins, request(strconv.Itoa(i)))
		}
		e.Pin(pins)
		b.sleepUntil(31 * time.Second)
		for i, c := range b.seen() {
			if n := len(strings.Fields(c.keys)); n != len(pins) || i > 2 {
				t.Errorf("fetch %d at %v is for %d queries", i, c.at, n)
			}
		}
	})
}

func TestSlowFetchSkipsWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{FetchTimeout: time.Minute})
		e.Pin([]engine.Request{request("q")})
		b.sleepUntil(time.Second)
		b.answersBy(func(context.Context, query) sources.Result {
			pass(20 * time.Second)
			return value(2)
		})
		b.sleepUntil(50 * time.Second)
		b.wantCalls(t, call{gather, "q"}, call{15 * time.Second, "q"}, call{45 * time.Second, "q"})
	})
}

func TestHungFetchHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, q query) sources.Result {
			if strings.HasPrefix(string(q), "hung") {
				<-ctx.Done()
				return failure(ctx.Err())
			}
			return value(1)
		})
		e := start(t, b, engine.Options{})
		wantValue(t, e, request("q"), 1)
		var readers sync.WaitGroup
		readers.Go(func() {
			u := wantUnavailable(t, e, request("hung"))
			if !strings.HasSuffix(u.Error(), "no answer within 10s: context deadline exceeded") {
				t.Errorf("the error of a hung query is %v", u)
			}
			if waited := time.Since(b.start); waited != 10*time.Second+2*gather {
				t.Errorf("the reader of a hung query waited %v", waited)
			}
		})
		b.sleepUntil(time.Second)
		wantValue(t, e, request("r"), 1)
		if time.Since(b.start) != time.Second+gather {
			t.Error("a cold read was held up")
		}
		readers.Wait()
	})
}

func TestFetchesInFlightAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, _ query) sources.Result {
			<-ctx.Done()
			return failure(ctx.Err())
		})
		e := start(t, b, engine.Options{})
		var readers sync.WaitGroup
		for i := range 40 {
			readers.Go(func() { wantUnavailable(t, e, request(fmt.Sprintf("q%02d", i))) })
			pass(2 * gather)
		}
		b.sleepUntil(9 * time.Second)
		if n := len(b.seen()); n != 15 {
			t.Errorf("%d fetches are under way", n)
		}
		b.sleepUntil(10*time.Second + gather)
		late := b.seen()
		if len(late) != 1 || len(strings.Fields(late[0].keys)) != 25 {
			t.Errorf("the first free slot was used for %v, want one batch of all that waited", late)
		}
		readers.Wait()
	})
}

func TestBackoffGrowsAndResets(t *testing.T) {
	for _, tc := range []struct {
		name     string
		err      error
		interval time.Duration
		// waits are the times between fetches before jitter and alignment.
		waits []time.Duration
	}{
		{
			"a failure", errors.New("500"), 15 * time.Second,
			[]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second},
		},
		{
			"a failure of a query asked every second", errors.New("500"), time.Second,
			[]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second},
		},
		{
			"a failure of a query asked seldom", errors.New("500"), time.Minute,
			[]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute},
		},
		{
			"a rejection", fmt.Errorf("%w: bad expression", sources.ErrRejected), 128 * time.Second,
			[]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second, 128 * time.Second, 256 * time.Second, 5 * time.Minute, 5 * time.Minute},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answers(failure(tc.err))
				e := start(t, b, engine.Options{})
				req := request("q")
				req.Interval = tc.interval
				e.Pin([]engine.Request{req})
				b.sleepUntil(time.Hour)
				calls := b.seen()
				for i, wait := range tc.waits {
					got := calls[i+1].at - calls[i].at
					if got < wait*3/4 || got > wait+time.Second {
						t.Errorf("wait %d was %v, want about %v", i, got, wait)
					}
					if calls[i+1].at%time.Second != 0 {
						t.Errorf("retry %d came at %v, not on a whole second", i, calls[i+1].at)
					}
				}
				b.answers(value(1))
				b.sleepUntil(2 * time.Hour)
				b.seen()
				b.answers(failure(tc.err))
				b.sleepUntil(2*time.Hour + 2*tc.interval)
				calls = b.seen()
				if got := calls[1].at - calls[0].at; got > tc.waits[0]+time.Second {
					t.Errorf("the first wait after a recovery was %v, want about %v", got, tc.waits[0])
				}
			})
		})
	}
}

func TestFailingQueriesAreAskedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if strings.HasPrefix(string(q), "bad") {
				return failure(errors.New("no"))
			}
			return value(1)
		})
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("bad1"), request("bad2"), request("good1"), request("good2")})
		b.sleepUntil(time.Hour)
		calls := b.seen()
		if calls[0].keys != "bad1 bad2 good1 good2" {
			t.Errorf("the first batch was %v", calls[0])
		}
		for _, c := range calls[1:] {
			if c.keys != "bad1 bad2" && c.keys != "good1 good2" {
				t.Errorf("a batch was %v", c)
			}
		}
	})
}

func TestThrottlingPausesTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		other := request("other")
		other.Interval = 10 * time.Second
		other.MaxAge = time.Hour
		e.Pin([]engine.Request{request("q"), other})
		b.sleepUntil(12 * time.Second)
		b.wantCalls(t, call{gather, "other q"}, call{10 * time.Second, "other"})
		b.answers(failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")}))
		b.sleepUntil(15*time.Second + 1)

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := e.Read(ctx, request("cold"))
		want := "source b: the first fetch waits until 2000-01-01T00:00:15Z (Rate exceeded): context deadline exceeded"
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("a cold read in the pause gave %v, want %v", err, want)
		}
		wantValue(t, e, request("q"), 1)

		b.sleepUntil(5 * time.Minute)
		calls := b.seen()
		pause := time.Second
		for i, c := range calls[1:] {
			if got := c.at - calls[i].at; got < pause*3/4 || got > pause {
				t.Errorf("pause %d was %v, want about %v", i, got, pause)
			}
			pause = min(2*pause, 30*time.Second)
		}
		if last := calls[len(calls)-1]; last.keys != "cold other q" {
			t.Errorf("the source was asked for %q after a pause, want all in one batch", last.keys)
		}
		wantUnavailable(t, e, request("q"))
		wantValue(t, e, other, 1)

		b.answers(value(2))
		b.sleepUntil(6 * time.Minute)
		wantValue(t, e, request("q"), 2)
		b.seen()
		b.answers(failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")}))
		b.sleepUntil(6*time.Minute + 20*time.Second)
		calls = b.seen()
		if got := calls[1].at - calls[0].at; got > time.Second {
			t.Errorf("the first pause after a recovery was %v", got)
		}
	})
}

func TestThrottlingPausesNoOtherBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if q.Backend() == "busy" {
				return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
			}
			return value(1)
		})
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("busy/1"), request("free/1")})
		b.sleepUntil(5 * time.Minute)
		asked := map[string]int{}
		for _, c := range b.seen() {
			for key := range strings.FieldsSeq(c.keys) {
				asked[key]++
			}
		}
		if want := int(5 * time.Minute / request("free/1").Interval); asked["free/1"] < want {
			t.Errorf("the free backend was asked %d times, want at least %d", asked["free/1"], want)
		}
		if limit := 20; asked["busy/1"] > limit {
			t.Errorf("the busy backend was asked %d times, want no more than %d", asked["busy/1"], limit)
		}
		wantValue(t, e, request("free/1"), 1)
		wantUnavailable(t, e, request("busy/1"))
		if _, err := e.Read(t.Context(), request("free/cold")); err != nil {
			t.Errorf("a cold read of the free backend: %v", err)
		}
	})
}

func TestSourceThatBreaksItsContract(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fetch func([]sources.Query) []sources.Result
		want  string
	}{
		{"too few results", func(q []sources.Query) []sources.Result { return make([]sources.Result, len(q)-1) }, "the source gave 1 results to 2 queries"},
		{"too many results", func(q []sources.Query) []sources.Result { return make([]sources.Result, len(q)+1) }, "the source gave 3 results to 2 queries"},
		{"neither samples nor an error", func(q []sources.Query) []sources.Result { return make([]sources.Result, len(q)) }, "the source gave neither samples nor an error"},
		{"a panic", func([]sources.Query) []sources.Result { panic("index out of range") }, "the source panicked: index out of range"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.fetch = func(_ context.Context, queries []sources.Query) []sources.Result { return tc.fetch(queries) }
				e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
				run(t, e)
				e.Pin([]engine.Request{request("q"), request("r")})
				for _, key := range []string{"q", "r"} {
					if u := wantUnavailable(t, e, request(key)); u.Err.Error() != tc.want {
						t.Errorf("the error of %s is %v, want %v", key, u.Err, tc.want)
					}
				}
				b.mu.Lock()
				b.fetch = nil
				b.mu.Unlock()
				b.sleepUntil(5 * time.Second)
				wantValue(t, e, request("q"), 1)
			})
		})
	}
}

func TestOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		var mu sync.Mutex
		var changes []time.Duration
		var e *engine.Engine
		e = start(t, b, engine.Options{OnChange: func(source, key string) {
			if source != "b" || key != "q" {
				t.Errorf("OnChange(%q, %q)", source, key)
			}
			e.Peek(request("q")) // no lock is held
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, time.Since(b.start))
		}})
		want := func(at ...time.Duration) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(changes, at) {
				t.Errorf("changes at %v, want %v", changes, at)
			}
			changes = nil
		}
		e.Pin([]engine.Request{request("q")})
		b.sleepUntil(44 * time.Second)
		want(gather) // the first answer; the equal ones after it are no change
		b.answers(value(2))
		b.sleepUntil(62 * time.Second)
		want(45 * time.Second)
		b.answers(failure(errors.New("500")))
		b.sleepUntil(2*time.Minute - 1)
		want(75 * time.Second)
		b.sleepUntil(3 * time.Minute)
		want(2*time.Minute + gather + 1) // too old to serve
		b.answers(failure(errors.New("503")))
		b.sleepUntil(4 * time.Minute)
		if len(changes) != 1 {
			t.Errorf("changes at %v when the error changed", changes)
		}
		changes = nil
		b.answers(value(2))
		b.sleepUntil(5 * time.Minute)
		if len(changes) != 1 {
			t.Errorf("changes at %v when the failures ended", changes)
		}
		changes = nil
		b.answers(failure(sources.ErrNoData))
		b.sleepUntil(6 * time.Minute)
		want(5*time.Minute + 15*time.Second)
	})
}

func TestLogsOnceThatQueriesFailAndRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		runWith(t, klog.NewContext(t.Context(), logger), e)
		var pins []engine.Request
		for i := range 20 {
			pins = append(pins, request(fmt.Sprintf("q%02d", i)))
		}
		e.Pin(pins)
		b.sleepUntil(time.Second)
		b.answers(failure(errors.New("AccessDenied: not you")))
		b.sleepUntil(10 * time.Minute)
		b.answers(value(1))
		b.sleepUntil(11 * time.Minute)
		lines := logger.GetSink().(ktesting.Underlier).GetBuffer().Data()
		if len(lines) != 2 {
			t.Fatalf("%d lines of log: %v", len(lines), lines)
		}
		if lines[0].Err.Error() != "AccessDenied: not you" || lines[0].Message != "Queries began to fail" {
			t.Errorf("the first line is %+v", lines[0])
		}
		if lines[1].Message != "Queries answer again" {
			t.Errorf("the second line is %+v", lines[1])
		}
	})
}
