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

// hang answers 1, except for backends whose name starts with hung, which do not answer.
func hang(ctx context.Context, q query) sources.Result {
	if strings.HasPrefix(q.Backend(), "hung") {
		<-ctx.Done()
		return failure(ctx.Err())
	}
	return value(1)
}

func TestBackendsHaveFetchesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("eu/1"), request("eu/2"), request("us/1"), request("q")})
		b.sleepUntil(time.Minute)
		asked := map[string]int{}
		for _, c := range b.seen() {
			asked[c.keys]++
		}
		if len(asked) != 3 || asked["eu/1 eu/2"] != 5 || asked["us/1"] != 5 || asked["q"] != 5 {
			t.Errorf("the batches were %v", asked)
		}
	})
}

func TestColdStartWaitsForNoHungBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("hung/1"), request("well/1")})
		wantValue(t, e, request("well/1"), 1)
		if waited := time.Since(b.start); waited != gather {
			t.Errorf("the first answer of the other backend took %v", waited)
		}
	})
}

func TestHungBackendDelaysNoOther(t *testing.T) {
	for _, timeout := range []time.Duration{10 * time.Second, 30 * time.Second} {
		t.Run(timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answersBy(hang)
				e := start(t, b, engine.Options{FetchTimeout: timeout})
				often := func(key string) engine.Request {
					req := request(key)
					req.Interval, req.MaxAge = time.Second, 5*time.Second
					return req
				}
				for i := range 600 {
					e.Touch(often(fmt.Sprintf("hung/%d", i%60)))
					if a, err := e.Read(t.Context(), often("well/q")); err != nil || time.Since(a.Fetched) > time.Second+gather {
						t.Fatalf("read %d of the other backend = %v, %v", i, a, err)
					}
					pass(300 * time.Millisecond)
				}
			})
		})
	}
}

func TestFetchTimeoutCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := start(t, b, engine.Options{FetchTimeout: time.Minute})
		for _, test := range []struct {
			timeout time.Duration
			want    string
		}{{3 * time.Second, "no answer within 3s: "}, {0, "no answer within 10s: "}} {
			e.SetFetchTimeout(test.timeout)
			u := wantUnavailable(t, e, request("hung/"+test.timeout.String()))
			if !strings.Contains(u.Error(), test.want) {
				t.Errorf("the error is %q, want %q in it", u, test.want)
			}
		}
	})
}

func TestManyHungBackendsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := start(t, b, engine.Options{})
		const backends = 20
		for i := range 16 {
			for j := range backends {
				e.Touch(request(fmt.Sprintf("hung%02d/%d", j, i)))
			}
			pass(2 * gather)
		}
		synctest.Wait()
		if n := len(b.seen()); n != 128 {
			t.Errorf("%d fetches are under way", n)
		}
		began := time.Now()
		for i := range 4 {
			wantValue(t, e, request(fmt.Sprintf("well/%d", i)), 1)
		}
		if waited := time.Since(began); waited != 4*gather {
			t.Errorf("the first answers of another backend took %v", waited)
		}
	})
}

func TestFetchesInFlightAreLimited(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pinned bool
		limit  int
	}{{"of pinned queries", true, 16}, {"of others", false, 8}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answersBy(hang)
				e := start(t, b, engine.Options{})
				var pins []engine.Request
				var readers sync.WaitGroup
				for i := range 40 {
					req := request(fmt.Sprintf("hung/%02d", i))
					if tc.pinned {
						pins = append(pins, req)
						e.Pin(pins)
					}
					readers.Go(func() { wantUnavailable(t, e, req) })
					pass(2 * gather)
				}
				b.sleepUntil(9 * time.Second)
				if n := len(b.seen()); n != tc.limit {
					t.Errorf("%d fetches are under way, want %d", n, tc.limit)
				}
				b.sleepUntil(10*time.Second + gather)
				late := b.seen()
				if len(late) != 1 || len(strings.Fields(late[0].keys)) != 40-tc.limit {
					t.Errorf("the first free slot was used for %v, want one batch of all that waited", late)
				}
				readers.Wait()
			})
		})
	}
}

// A query that is merely read may be the HPA's own, by names that nobody knew before.
func TestHungPinnedQueriesHoldUpNoReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hangApart)
		e := start(t, b, engine.Options{})
		var pins []engine.Request
		for i := range 60 {
			pins = append(pins, request(fmt.Sprintf("hung%02d", i)))
			e.Pin(pins)
			pass(2 * gather)
		}
		began := time.Now()
		wantValue(t, e, request("q"), 1)
		if waited := time.Since(began); waited > 2*gather {
			t.Errorf("the first answer took %v", waited)
		}
		for range 10 * 60 {
			if a, err := e.Read(t.Context(), request("q")); err != nil || time.Since(a.Fetched) > request("q").Interval+gather {
				t.Fatalf("the read after %v gives %v, %v", time.Since(b.start), a, err)
			}
			pass(time.Second)
		}
	})
}

func TestReadQueriesShareNoFetchWithPinnedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("pinned1"), request("pinned2")})
		e.Touch(request("read1"))
		e.Touch(request("read2"))
		b.sleepUntil(30*time.Second + 1)
		asked := map[string]int{}
		for _, c := range b.seen() {
			asked[c.keys]++
		}
		if len(asked) != 2 || asked["pinned1 pinned2"] != 3 || asked["read1 read2"] != 3 {
			t.Errorf("the batches were %v", asked)
		}
	})
}

// hangApart is hang by the name of the query, whatever its backend.
func hangApart(ctx context.Context, q query) sources.Result {
	if strings.Contains(string(q), "hung") {
		<-ctx.Done()
		return failure(ctx.Err())
	}
	return value(1)
}

func TestHungReadsHoldUpNoPinnedQueryOfTheirBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hangApart)
		e := start(t, b, engine.Options{})
		// More backends than may have Fetches, so that each has few.
		for i := range 400 {
			e.Touch(request(fmt.Sprintf("%d/hung%d", i%20, i)))
			pass(2 * gather)
		}
		pinned := request("0/pinned")
		e.Pin([]engine.Request{pinned})
		began := time.Now()
		wantValue(t, e, pinned, 1)
		if waited := time.Since(began); waited > gather {
			t.Errorf("the first answer of the pinned query took %v", waited)
		}
		for i := range 10 * 60 {
			e.Touch(request(fmt.Sprintf("%d/hung%d", i%20, i)))
			if a, err := e.Read(t.Context(), pinned); err != nil || time.Since(a.Fetched) > pinned.Interval+gather {
				t.Fatalf("read %d of the pinned query = %v, %v", i, a, err)
			}
			pass(time.Second)
		}
	})
}

func TestQueryThatWaitsAndIsPinnedWaitsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hangApart)
		e := start(t, b, engine.Options{})
		for i := range 10 {
			e.Touch(request(fmt.Sprintf("hung%d", i)))
			pass(2 * gather)
		}
		e.Touch(request("q"))
		pass(2 * gather)
		if _, ok := e.Peek(request("q")); ok {
			t.Fatal("the query did not wait for those that hang")
		}
		e.Pin([]engine.Request{request("q")})
		synctest.Wait()
		if _, ok := e.Peek(request("q")); !ok {
			t.Error("the query waits still")
		}
	})
}

func TestQueriesThatWaitedAreAskedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hang)
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		stop := run(t, e)
		var pins []engine.Request
		for i := range 20 {
			pins = append(pins, request(fmt.Sprintf("hung/%02d", i)))
			e.Pin(pins)
			pass(2 * gather)
		}
		stop()
		if n := len(b.seen()); n != 16 {
			t.Errorf("%d fetches were under way", n)
		}
		b.answers(value(1))
		run(t, e)
		synctest.Wait()
		if calls := b.seen(); len(calls) != 1 || len(strings.Fields(calls[0].keys)) != 20 {
			t.Errorf("after the restart the backend was called %v, want once for all", calls)
		}
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
			"a rejection", fmt.Errorf("%w: bad expression", sources.ErrRejected), 15 * time.Second,
			[]time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute},
		},
		{
			"a rejection of a query asked every second", fmt.Errorf("%w: bad expression", sources.ErrRejected), time.Second,
			[]time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute},
		},
		{
			"a rejection of a query asked seldom", fmt.Errorf("%w: bad expression", sources.ErrRejected), 10 * time.Minute,
			[]time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second, 10 * time.Minute},
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
				b.sleepUntil(2*time.Hour + 2*max(tc.interval, tc.waits[0]))
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
			switch {
			case strings.HasPrefix(string(q), "bad"):
				return failure(errors.New("no"))
			case strings.HasPrefix(string(q), "wrong"):
				return failure(fmt.Errorf("%w: bad expression", sources.ErrRejected))
			}
			return value(1)
		})
		// With equal times to wait they fall due together.
		e := start(t, b, engine.Options{Backoff: engine.Backoff{First: 15 * time.Second, FirstRejected: 15 * time.Second}})
		var pins []engine.Request
		for _, key := range []string{"bad1", "bad2", "good1", "good2", "wrong1", "wrong2"} {
			pins = append(pins, request(key))
		}
		e.Pin(pins)
		b.sleepUntil(time.Hour)
		calls := b.seen()
		if calls[0].keys != "bad1 bad2 good1 good2 wrong1 wrong2" {
			t.Errorf("the first batch was %v", calls[0])
		}
		asked := map[string]int{}
		for _, c := range calls[1:] {
			asked[c.keys]++
		}
		if len(asked) != 3 || asked["bad1 bad2"] == 0 || asked["good1 good2"] != 4*60 || asked["wrong1 wrong2"] == 0 {
			t.Errorf("the batches were %v", asked)
		}
	})
}

func TestRejectedQueryThatComesBackIsAskedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if q == "wrong" {
				return failure(sources.ErrRejected)
			}
			return value(1)
		})
		e := start(t, b, engine.Options{DemandFor: 10 * time.Minute})
		seldom := request("wrong")
		seldom.Interval = 4 * time.Minute
		e.Touch(seldom)
		b.sleepUntil(17 * time.Minute)
		if st, ok := e.Peek(request("wrong")); !ok || st.InDemand {
			t.Fatalf("Peek = %+v, %v", st, ok)
		}
		b.seen()
		e.Pin([]engine.Request{request("wrong"), request("good")})
		b.sleepUntil(17*time.Minute + time.Second)
		calls := b.seen()
		slices.SortFunc(calls, func(x, y call) int { return strings.Compare(x.keys, y.keys) })
		at := 17*time.Minute + gather
		if !slices.Equal(calls, []call{{at, "good"}, {at, "wrong"}}) {
			t.Errorf("the backend was called %v", calls)
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
		e.Pin([]engine.Request{request("q"), other, request("cold")})

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
		asked := b.asked()
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

// A query that is always throttled while others of its backend are answered is asked ever
// less often, and the others as if there were no such query.
func TestQueryThrottledAloneBacksOffAlone(t *testing.T) {
	for _, tc := range []struct {
		name     string
		interval time.Duration
		pinned   bool
	}{
		{"read", 5 * time.Second, false},
		{"read, seldom", time.Minute, false},
		{"pinned", 5 * time.Second, true},
		{"pinned, seldom", time.Minute, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answersBy(throttles("costly"))
				e := start(t, b, engine.Options{})
				free, costly := request("free"), request("costly")
				free.Interval, free.MaxAge = 5*time.Second, 10*time.Second
				costly.Interval, costly.MaxAge = tc.interval, 5*time.Minute
				e.Pin([]engine.Request{free})
				if tc.pinned {
					e.Pin([]engine.Request{free, costly})
				}
				for at := 5 * time.Second; at <= 20*time.Minute; at += 5 * time.Second {
					b.sleepUntil(at - time.Second)
					if !tc.pinned {
						e.Touch(costly)
					}
					wantValue(t, e, free, 1)
				}
				asked := b.asked()
				if want := 20 * 12; asked["free"] < want-1 || asked["free"] > want+1 {
					t.Errorf("the one that is answered was asked %d times, want %d", asked["free"], want)
				}
				// Up to 30 s apart, or its interval, of which a quarter may be off.
				limit := int(20*time.Minute/(max(tc.interval, 30*time.Second)*3/4)) + 8
				if n := asked["costly"]; n > limit || n < 10 {
					t.Errorf("the one that is throttled was asked %d times, want 10 to %d", n, limit)
				}
				b.answers(value(2))
				b.sleepUntil(22 * time.Minute)
				e.Touch(costly)
				wantValue(t, e, costly, 2)
			})
		})
	}
}

// throttles refuses calls for that query, and answers 1 to all others.
func throttles(refused query) func(context.Context, query) sources.Result {
	return func(_ context.Context, q query) sources.Result {
		if q == refused {
			return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
		}
		return value(1)
	}
}

// One that was throttled alone does not keep its backend from a pause for all.
func TestThrottlingPausesTheBackendOfOneThrottledAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(throttles("costly"))
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("free"), request("costly")})
		b.sleepUntil(5*time.Minute + time.Second)
		b.answers(failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")}))
		b.sleepUntil(10 * time.Minute)
		b.seen()
		b.sleepUntil(15 * time.Minute)
		// At the end of each pause of 30 s, of which a quarter may be off, and no more.
		for key, n := range b.asked() {
			if n < 5 || n > 14 {
				t.Errorf("%s was asked %d times in five minutes, want about 10", key, n)
			}
		}
		b.answers(value(2))
		b.sleepUntil(16 * time.Minute)
		wantValue(t, e, request("free"), 2)
		wantValue(t, e, request("costly"), 2)

		// What was answered has a clean slate.
		b.sleepUntil(16*time.Minute + 20*time.Second)
		b.seen()
		b.answers(failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")}))
		b.sleepUntil(17 * time.Minute)
		for _, c := range b.seen() {
			if c.keys != "costly free" {
				t.Errorf("the backend was asked for %q, want both in one batch", c.keys)
			}
		}
	})
}

// What a backend was asked before it began to throttle tells nothing, if it answers late.
func TestLateAnswerIsNoSignThatOthersAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			if q == "late" {
				pass(500 * time.Millisecond)
				return value(1)
			}
			return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
		})
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("q")})
		e.Touch(request("late"))
		b.sleepUntil(8 * time.Second)
		// At once, and after pauses of about 1, 2 and 4 s.
		if n := b.asked()["q"]; n != 4 {
			t.Errorf("q was asked %d times, want 4", n)
		}
	})
}

// A call that is refused for one of its queries, while the backend answers other calls, is
// made again in parts, so that the others get out of it.
func TestThrottledCallIsTakenApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.fetch = func(_ context.Context, queries []sources.Query) []sources.Result {
			r := value(1)
			if slices.ContainsFunc(queries, func(q sources.Query) bool { return q.Key() == "costly" }) {
				r = failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
			}
			return slices.Repeat([]sources.Result{r}, len(queries))
		}
		e := start(t, b, engine.Options{})
		pins := []engine.Request{request("costly")}
		for i := range 40 {
			pins = append(pins, request(fmt.Sprint("q", i)))
		}
		e.Pin(pins)
		for at := 5 * time.Second; at <= 10*time.Minute; at += 5 * time.Second {
			b.sleepUntil(at)
			e.Touch(request("read"))
			if at < 2*time.Minute {
				continue
			}
			for _, r := range pins[1:] {
				wantValue(t, e, r, 1)
			}
		}
	})
}

// A backend that takes fewer calls at once than fall due is asked less than twice as often as
// if it took them all, and the queries take turns.
func TestBackendThatTakesFewCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst, rate, queries = 10, 4.0, 50 // 50 queries in 15 s are 3.3 a second.
		b := newBackend()
		var mu sync.Mutex
		left, last, calls := float64(burst), time.Now(), 0
		b.answersBy(func(context.Context, query) sources.Result {
			mu.Lock()
			defer mu.Unlock()
			calls++
			left, last = min(burst, left+rate*time.Since(last).Seconds()), time.Now()
			if left < 1 {
				return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
			}
			left--
			return value(1)
		})
		e := start(t, b, engine.Options{})
		var pins []engine.Request
		for i := range queries {
			pins = append(pins, request(fmt.Sprint("q", i)))
		}
		e.Pin(pins)
		reads, failed := 0, 0
		for at := time.Minute; at <= 30*time.Minute; at += 5 * time.Second {
			b.sleepUntil(at)
			for _, r := range pins {
				reads++
				if _, err := e.Read(t.Context(), r); err != nil {
					failed++
				}
			}
		}
		if failed > reads/10 {
			t.Errorf("%d of %d reads failed", failed, reads)
		}
		if limit := 2 * 30 * 4 * queries; calls > limit {
			t.Errorf("there were %d calls, want no more than %d", calls, limit)
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
		b.answers(failure(errors.New("connection refused")))
		b.sleepUntil(20 * time.Minute)
		b.answers(value(1))
		b.sleepUntil(21 * time.Minute)
		lines := logger.GetSink().(ktesting.Underlier).GetBuffer().Data()
		want := []struct{ message, err string }{
			{"Queries began to fail", "AccessDenied: not you"},
			{"Queries fail for another reason", "connection refused"},
			{"Queries answer again", ""},
		}
		if len(lines) != len(want) {
			t.Fatalf("%d lines of log: %v", len(lines), lines)
		}
		for i, l := range lines {
			if l.Message != want[i].message || l.Err != nil && l.Err.Error() != want[i].err {
				t.Errorf("line %d is %+v, want %v", i, l, want[i])
			}
		}
	})
}

func TestLogNamesQueriesAsTheySay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.fetch = func(_ context.Context, queries []sources.Query) []sources.Result {
			results := make([]sources.Result, len(queries))
			for i := range results {
				results[i].Err = errors.New("500")
			}
			return results
		}
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		runWith(t, klog.NewContext(t.Context(), logger), e)
		spoken := request("q")
		spoken.Query = named{"q"}
		wantUnavailable(t, e, spoken)
		wantUnavailable(t, e, request("r"))
		wantUnavailable(t, e, request("long"+strings.Repeat("é", 100_000)))
		synctest.Wait()
		log := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
		for _, name := range []string{`queries=["what is q"]`, `queries=["r"]`, `queries=["long` + strings.Repeat("é", 148) + `…"]`} {
			if !strings.Contains(log, name) {
				t.Errorf("the log has no %s:\n%s", name, log)
			}
		}
	})
}

// What was not asked because slow queries took all the calls is asked again at once, apart
// from those, and did not fail.
func TestWhatWasNotAskedDidNotFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		fast := request("fast")
		fast.Interval, fast.MaxAge = time.Second, 12*time.Second
		requests := []engine.Request{fast}
		for i := range 12 {
			slow := request(fmt.Sprintf("slow%02d", i))
			slow.Interval = time.Second
			requests = append(requests, slow)
		}
		e.Pin(requests)
		b.sleepUntil(5500 * time.Millisecond)
		b.seen()
		calls := make(chan struct{}, 8)
		retried := make(chan struct{}, 3)
		b.mu.Lock()
		b.fetch = func(ctx context.Context, queries []sources.Query) []sources.Result {
			return fetchSlowly(ctx, queries, calls, retried)
		}
		b.mu.Unlock()
		for at := 6 * time.Second; at < 2*time.Minute; at += time.Second / 2 {
			b.sleepUntil(at)
			wantValue(t, e, fast, 1)
			if st, _ := e.Peek(fast); st.Err != nil {
				t.Errorf("after %v: %v", at, st.Err)
			}
		}
		for _, r := range requests[1:] {
			if st, _ := e.Peek(r); !errors.Is(st.Err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", r.Query.Key(), st.Err)
			}
		}
	})
}

// fetchSlowly answers at once but for slow queries, which it never answers, when there is
// a place for the call.
func fetchSlowly(ctx context.Context, queries []sources.Query, calls, retried chan struct{}) []sources.Result {
	results := make([]sources.Result, len(queries))
	places := []chan struct{}{calls}
	if sources.Retries(ctx) {
		places = []chan struct{}{retried, calls}
	}
	var asking sync.WaitGroup
	for i, q := range queries {
		asking.Go(func() {
			if !strings.HasPrefix(q.Key(), "slow") {
				pass(time.Millisecond) // The others come first.
			}
			for _, place := range places {
				select {
				case place <- struct{}{}:
					defer func() { <-place }() //nolint:gocritic // The loop is short, and the place is held until the answer.
				case <-ctx.Done():
					results[i] = failure(sources.ErrNotAsked)
					return
				}
			}
			if results[i] = value(1); strings.HasPrefix(q.Key(), "slow") {
				<-ctx.Done()
				results[i] = failure(ctx.Err())
			}
		})
	}
	asking.Wait()
	return results
}

// A reader who waits hears that its query was not asked in time.
func TestNotAskedIsAnErrorOfTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.fetch = func(ctx context.Context, queries []sources.Query) []sources.Result {
			<-ctx.Done()
			return slices.Repeat([]sources.Result{failure(sources.ErrNotAsked)}, len(queries))
		}
		e := start(t, b, engine.Options{})
		if u := wantUnavailable(t, e, request("q")); !errors.Is(u, sources.ErrNotAsked) {
			t.Errorf("got %v", u)
		}
		b.sleepUntil(11 * time.Second)
		b.wantCalls(t, call{gather, "q"}, call{10*time.Second + gather, "q"})
	})
}

// A query that is first asked while its backend is away has failed since the backend went.
func TestSinceIsWhenTheBackendWentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		wantValue(t, e, request("q"), 1)
		resting := request("resting")
		resting.Interval, resting.MaxAge = 10*time.Minute, 10*time.Minute
		e.Pin([]engine.Request{request("q"), resting})
		wantValue(t, e, resting, 1)
		b.answersBy(func(_ context.Context, q query) sources.Result {
			switch {
			case q == "incomplete":
				return failure(errors.New("incomplete"))
			case q.Backend() == "":
				return failure(fmt.Errorf("refused: %w", sources.ErrAway))
			}
			return value(1)
		})
		b.sleepUntil(10*time.Minute + time.Second)
		wantSince := func(key string, want time.Duration) {
			t.Helper()
			if u := wantUnavailable(t, e, request(key)); u.Since.Sub(b.start) != want {
				t.Errorf("%s has failed since %v, want %v", key, u.Since.Sub(b.start), want)
			}
		}
		wantSince("q", 15*time.Second)
		wantSince("new", 15*time.Second)
		wantValue(t, e, request("other/q"), 1)
		wantSince("newer", 15*time.Second)
		wantSince("resting", 15*time.Second)

		// Any answer, if no good one, shows that it is there.
		for wantSince("incomplete", 15*time.Second); ; pass(time.Second) {
			if u := wantUnavailable(t, e, request("incomplete")); u.Err.Error() == "incomplete" {
				break
			}
		}
		b.sleepUntil(12 * time.Minute)
		if u := wantUnavailable(t, e, request("newest")); u.Since.Sub(b.start) < 10*time.Minute {
			t.Errorf("newest has failed since %v, before the backend last answered", u.Since)
		}
	})
}
