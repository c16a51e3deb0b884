package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2/ktesting"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// gather is how long a cold query waits for company.
const gather = 5 * time.Millisecond

type query string

func (q query) Key() string { return string(q) }

// Backend is what stands before a slash: "eu/1" asks eu.
func (q query) Backend() string {
	if backend, _, ok := strings.Cut(string(q), "/"); ok {
		return backend
	}
	return ""
}

// named is a query that people know by another name than its key.
type named struct{ query }

func (n named) String() string { return "what is " + n.Key() }

// call is one Fetch, and when it began, counted from the start of the test.
type call struct {
	at   time.Duration
	keys string
}

// backend is a source that notes its calls. It answers 1 to everything, unless the
// test says otherwise.
type backend struct {
	start time.Time

	mu     sync.Mutex
	calls  []call
	answer func(ctx context.Context, q query) sources.Result
	fetch  func(ctx context.Context, queries []sources.Query) []sources.Result
}

func newBackend() *backend { return &backend{start: time.Now()} }

func (b *backend) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	var keys []string
	for _, q := range queries {
		keys = append(keys, q.Key())
	}
	slices.Sort(keys)
	b.mu.Lock()
	b.calls = append(b.calls, call{time.Since(b.start), strings.Join(keys, " ")})
	answer, fetch := b.answer, b.fetch
	b.mu.Unlock()
	if fetch != nil {
		return fetch(ctx, queries)
	}
	results := make([]sources.Result, len(queries))
	for i, q := range queries {
		results[i] = value(1)
		if answer != nil {
			results[i] = answer(ctx, q.(query))
		}
	}
	return results
}

// answers makes every query be answered with r from now on.
func (b *backend) answers(r sources.Result) {
	b.answersBy(func(context.Context, query) sources.Result { return r })
}

func (b *backend) answersBy(answer func(context.Context, query) sources.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

// seen gives the calls since it was last called.
func (b *backend) seen() []call {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

// asked says how often each query was part of the calls since then.
func (b *backend) asked() map[string]int {
	asked := map[string]int{}
	for _, c := range b.seen() {
		for key := range strings.FieldsSeq(c.keys) {
			asked[key]++
		}
	}
	return asked
}

func (b *backend) wantCalls(t *testing.T, want ...call) {
	t.Helper()
	if got := b.seen(); !slices.Equal(got, want) {
		t.Errorf("the backend was called\n%v, want\n%v", got, want)
	}
}

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time is the bubble's.
}

func (b *backend) sleepUntil(at time.Duration) {
	pass(time.Until(b.start.Add(at)))
	synctest.Wait()
}

func value(v float64) sources.Result {
	return sources.Result{Samples: []sources.Sample{{Value: v}}}
}

func failure(err error) sources.Result { return sources.Result{Err: err} }

// start runs an engine over b, as source "b", until the test ends.
func start(t *testing.T, b sources.Source, opts engine.Options) *engine.Engine {
	t.Helper()
	opts.Sources = map[string]sources.Source{"b": b}
	e := engine.New(opts)
	run(t, e)
	return e
}

// run runs e and gives the function that stops it, which also happens when the test ends.
func run(t *testing.T, e *engine.Engine) (stop func()) {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	return runWith(t, ctx, e)
}

func runWith(t *testing.T, ctx context.Context, e *engine.Engine) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func request(key string) engine.Request {
	return engine.Request{Source: "b", Query: query(key), Interval: 15 * time.Second, MaxAge: time.Minute}
}

// wantValue reads req and wants one sample of that value.
func wantValue(t *testing.T, e *engine.Engine, req engine.Request, want float64) {
	t.Helper()
	a, err := e.Read(t.Context(), req)
	if err != nil || len(a.Samples) != 1 || a.Samples[0].Value != want {
		t.Errorf("Read(%s) = %v, %v, want %v", req.Query.Key(), a.Samples, err, want)
	}
}

// wantUnavailable reads req and wants that error.
func wantUnavailable(t *testing.T, e *engine.Engine, req engine.Request) *engine.UnavailableError {
	t.Helper()
	a, err := e.Read(t.Context(), req)
	u, ok := errors.AsType[*engine.UnavailableError](err)
	if !ok {
		t.Fatalf("Read(%s) = %v, %v, want an UnavailableError", req.Query.Key(), a, err)
	}
	if a.Samples != nil || errors.Is(err, sources.ErrNoData) {
		t.Errorf("Read(%s) = %v, %v: an unavailable answer looks like an answer", req.Query.Key(), a, err)
	}
	return u
}

func TestReadWaitsOnceThenAnswersFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		began := time.Now()
		a, err := e.Read(t.Context(), request("q"))
		if err != nil || a.Samples[0].Value != 1 || !a.Fetched.Equal(began.Add(gather)) {
			t.Errorf("Read = %v, %v", a, err)
		}
		for range 100 {
			wantValue(t, e, request("q"), 1)
		}
		b.wantCalls(t, call{gather, "q"})
	})
}

func TestReadOfUnknownSource(t *testing.T) {
	e := engine.New(engine.Options{})
	_, err := e.Read(t.Context(), request("q"))
	if err == nil || err.Error() != `unknown source "b"` {
		t.Errorf("Read = %v", err)
	}
	if _, ok := e.Peek(request("q")); ok {
		t.Error("Peek knows a query of an unknown source")
	}
	e.Pin([]engine.Request{request("q")})
}

func TestColdReadersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		var readers sync.WaitGroup
		for range 1000 {
			readers.Go(func() { wantValue(t, e, request("q"), 1) })
		}
		readers.Go(func() {
			pass(gather - 1)
			wantValue(t, e, request("r"), 1)
		})
		readers.Wait()
		b.wantCalls(t, call{gather, "q r"})
	})
}

func TestLeavingReaderCancelsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, _ query) sources.Result {
			select {
			case <-time.After(3 * time.Second):
				return value(1)
			case <-ctx.Done():
				return failure(ctx.Err())
			}
		})
		e := start(t, b, engine.Options{})
		var readers sync.WaitGroup
		readers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := e.Read(ctx, request("q"))
			want := "source b: the first fetch is still under way: context deadline exceeded"
			if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
				t.Errorf("the impatient reader got %v, want %v", err, want)
			}
			if time.Since(b.start) != time.Second {
				t.Errorf("the impatient reader waited %v", time.Since(b.start))
			}
		})
		readers.Go(func() { wantValue(t, e, request("q"), 1) })
		readers.Wait()
		wantValue(t, e, request("q"), 1)
		b.wantCalls(t, call{gather, "q"})
	})
}

func TestAnswerServesUntilMaxAge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first sources.Result
	}{
		{"a value", value(0.9)},
		{"no data", failure(fmt.Errorf("queue is idle: %w", sources.ErrNoData))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.answers(tc.first)
				e := start(t, b, engine.Options{})
				first, firstErr := e.Read(t.Context(), request("q"))
				b.answers(failure(errors.New("connection refused")))
				edge := gather + time.Minute
				for _, at := range []time.Duration{16 * time.Second, edge - 1, edge} {
					pass(time.Until(b.start.Add(at)))
					a, err := e.Read(t.Context(), request("q"))
					if !slices.EqualFunc(a.Samples, first.Samples, func(x, y sources.Sample) bool { return x.Value == y.Value }) ||
						!a.Fetched.Equal(first.Fetched) || !errors.Is(err, firstErr) {
						t.Errorf("after %v Read = %v, %v, want %v, %v", at, a, err, first, firstErr)
					}
				}
				pass(1)
				u := wantUnavailable(t, e, request("q"))
				want := "source b has failed since 2000-01-01T00:00:15Z (last answer as of 2000-01-01T00:00:00Z): connection refused"
				if u.Error() != want {
					t.Errorf("the error is %q, want %q", u, want)
				}
				patient := request("q")
				patient.MaxAge = time.Hour
				if a, err := e.Read(t.Context(), patient); !a.Fetched.Equal(first.Fetched) || !errors.Is(err, firstErr) {
					t.Errorf("Read with a larger MaxAge = %v, %v", a, err)
				}
			})
		})
	}
}

// The oldest answer may be that of the query that the backend answered first, long
// before the whole Fetch was over.
func TestAnswerIsAsOldAsItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.fetch = func(context.Context, []sources.Query) []sources.Result {
			answered := time.Since(b.start)
			pass(7 * time.Second)
			return []sources.Result{value(answered.Seconds())}
		}
		e := start(t, b, engine.Options{})
		req := request("q")
		req.Interval, req.MaxAge = 5*time.Second, 10*time.Second
		served := 0
		for time.Since(b.start) < 5*time.Minute {
			a, err := e.Read(t.Context(), req)
			if err == nil {
				served++
				answered := time.Duration(a.Samples[0].Value * float64(time.Second)).Round(time.Millisecond)
				if age := time.Since(b.start) - answered; age > req.MaxAge || !a.Fetched.Equal(b.start.Add(answered)) {
					t.Fatalf("an answer of %v served, fetched at %v", age, a.Fetched)
				}
			}
			pass(100 * time.Millisecond)
		}
		if served == 0 {
			t.Error("no answer served")
		}
	})
}

func TestAnswerThatTookLongerThanItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(context.Context, query) sources.Result {
			if time.Since(b.start) < 25*time.Second {
				pass(6 * time.Second)
			}
			pass(time.Second)
			return value(1)
		})
		var mu sync.Mutex
		var changes []time.Duration
		e := start(t, b, engine.Options{OnChange: func(string, string) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, time.Since(b.start))
		}})
		req := request("q")
		req.Interval, req.MaxAge = 5*time.Second, 6*time.Second
		want := "source b has failed since 2000-01-01T00:00:00Z (last answer as of 2000-01-01T00:00:00Z): " +
			"its answer took 7s, and serves no longer than 6s"
		if u := wantUnavailable(t, e, req); u.Error() != want {
			t.Errorf("the error is %q, want %q", u, want)
		}
		patient := req
		patient.MaxAge = time.Minute
		wantValue(t, e, patient, 1)
		b.sleepUntil(32 * time.Second)
		wantValue(t, e, req, 1)
		mu.Lock()
		defer mu.Unlock()
		first, again := gather+7*time.Second, 31*time.Second
		if !slices.Equal(changes, []time.Duration{first, first, again}) {
			t.Errorf("changes at %v, want an answer that is too old, and one that serves again", changes)
		}
	})
}

func TestAnswerThatIsNotRefreshedDoesNotServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		stop := run(t, e)
		wantValue(t, e, request("q"), 1)
		stop()
		b.sleepUntil(time.Minute + gather)
		wantValue(t, e, request("q"), 1)
		pass(1)
		u := wantUnavailable(t, e, request("q"))
		if !strings.HasSuffix(u.Error(), "it gave no newer answer in time") || !u.Since.Equal(u.LastAnswer) {
			t.Errorf("the error is %v", u)
		}
	})
}

func TestFirstFailureAnswersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		words := errors.New("AccessDenied: no identity-based policy allows it")
		b.answers(failure(words))
		e := start(t, b, engine.Options{})
		for range 10 {
			u := wantUnavailable(t, e, request("q"))
			want := "source b has failed since 2000-01-01T00:00:00Z (no earlier answer): " + words.Error()
			if !errors.Is(u, words) || u.Error() != want {
				t.Errorf("the error is %q, want %q", u, want)
			}
		}
		b.wantCalls(t, call{gather, "q"})
		b.answers(value(2))
		b.sleepUntil(4 * time.Second)
		wantValue(t, e, request("q"), 2)
	})
}

func TestNoDataIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		wantValue(t, e, request("q"), 1)
		noData := fmt.Errorf("no datapoint of q: %w", sources.ErrNoData)
		b.answers(failure(noData))
		b.sleepUntil(16 * time.Second)
		a, err := e.Read(t.Context(), request("q"))
		if !errors.Is(err, noData) || len(a.Samples) != 0 || !a.Fetched.Equal(b.start.Add(15*time.Second)) {
			t.Errorf("Read = %v, %v: no data takes effect at once", a, err)
		}
		b.sleepUntil(31 * time.Second)
		b.wantCalls(t, call{gather, "q"}, call{15 * time.Second, "q"}, call{30 * time.Second, "q"})
	})
}

func TestNotANumberIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(value(math.NaN()))
		e := start(t, b, engine.Options{})
		a, err := e.Read(t.Context(), request("q"))
		if err != nil || !math.IsNaN(a.Samples[0].Value) {
			t.Errorf("Read = %v, %v", a, err)
		}
	})
}

func TestSamplesWithAnErrorAreNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answers(sources.Result{Samples: []sources.Sample{{Value: 7}}, Err: errors.New("partial")})
		e := start(t, b, engine.Options{})
		wantUnavailable(t, e, request("q"))
	})
}

func TestPeekMakesNoDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		if _, ok := e.Peek(request("q")); ok {
			t.Error("Peek knows a query that nobody asked")
		}
		b.sleepUntil(time.Minute)
		b.wantCalls(t)
	})
}

func TestPeekShowsWhatAReadGives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		e.Pin([]engine.Request{request("q")})
		b.sleepUntil(time.Second)
		if st, ok := e.Peek(request("q")); !ok || st.ReadErr != nil || st.Err != nil || !st.Since.IsZero() {
			t.Errorf("Peek of a healthy query = %+v, %v", st, ok)
		}
		words := errors.New("503")
		b.answers(failure(words))
		b.sleepUntil(20 * time.Second)
		if st, _ := e.Peek(request("q")); st.ReadErr != nil || !errors.Is(st.Err, words) || !st.Since.Equal(b.start.Add(15*time.Second)) {
			t.Errorf("Peek of a failing query = %+v", st)
		}
		b.sleepUntil(2 * time.Minute)
		st, _ := e.Peek(request("q"))
		if _, ok := errors.AsType[*engine.UnavailableError](st.ReadErr); !ok || !errors.Is(st.ReadErr, words) {
			t.Errorf("Peek of a query that failed for long = %+v", st)
		}
		b.answers(failure(sources.ErrNoData))
		b.sleepUntil(4 * time.Minute)
		if st, _ := e.Peek(request("q")); !errors.Is(st.ReadErr, sources.ErrNoData) || st.Err != nil || st.Answer.Fetched.IsZero() {
			t.Errorf("Peek of a query without data = %+v", st)
		}
	})
}

func TestTouchMakesDemandAndDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{DemandFor: time.Minute})
		e.Touch(engine.Request{Source: "unknown", Query: query("q")})
		e.Touch(request("q"))
		if waited := time.Since(b.start); waited != 0 {
			t.Errorf("Touch waited %v", waited)
		}
		b.sleepUntil(59 * time.Second)
		b.wantCalls(t, call{gather, "q"}, call{15 * time.Second, "q"}, call{30 * time.Second, "q"}, call{45 * time.Second, "q"})
		if st, ok := e.Peek(request("q")); !ok || !st.InDemand || len(st.Answer.Samples) != 1 {
			t.Errorf("Peek = %+v, %v", st, ok)
		}

		often := request("q")
		often.Interval = 10 * time.Second
		e.Touch(often)
		b.sleepUntil(time.Minute + 11*time.Second)
		b.wantCalls(t, call{time.Minute, "q"}, call{time.Minute + 10*time.Second, "q"})
		b.sleepUntil(2*time.Minute + 10*time.Second)
		if st, ok := e.Peek(request("q")); !ok || st.InDemand {
			t.Errorf("Peek after the demand ended = %+v, %v", st, ok)
		}
	})
}

func TestRunCanStopAndStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, _ query) sources.Result {
			<-ctx.Done()
			return failure(ctx.Err())
		})
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": b}})
		e.Pin([]engine.Request{request("pinned"), request("q")})
		stop := run(t, e)
		synctest.Wait()
		if err := e.Run(t.Context()); err == nil {
			t.Error("a second Run runs")
		}
		var readers sync.WaitGroup
		readers.Go(func() { wantValue(t, e, request("q"), 3) })
		b.sleepUntil(time.Second)
		stop()
		if _, ok := e.Peek(request("q")); ok {
			t.Error("a fetch that was cut short by the end of Run counts as a failure")
		}
		b.seen()
		b.sleepUntil(time.Minute)
		b.wantCalls(t)
		b.answers(value(3))
		run(t, e)
		readers.Wait()
		b.wantCalls(t, call{time.Minute, "pinned q"})
		b.sleepUntil(76 * time.Second)
		b.wantCalls(t, call{75 * time.Second, "pinned q"})
	})
}

// Readers, pins and changes of every kind at once, for the race detector, with the
// one promise that must hold through all of it: no answer older than its MaxAge, and
// none of another query.
func TestAnswersStayHonestUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			pass(time.Duration(q[1]) * time.Millisecond)
			switch int(time.Since(b.start)/(2*time.Minute)) % 4 {
			case 1:
				return failure(errors.New("500"))
			case 2:
				return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
			}
			return value(float64(q[1]))
		})
		e := start(t, b, engine.Options{DemandFor: time.Minute, MaxUnpinned: 6, OnChange: func(string, string) {}})
		var users sync.WaitGroup
		for i := range 16 {
			req := request(fmt.Sprintf("q%c", 'a'+i%8))
			want := float64('a' + i%8)
			users.Go(func() {
				for time.Since(b.start) < 30*time.Minute {
					asked := time.Now()
					a, err := e.Read(t.Context(), req)
					if err == nil && (a.Samples[0].Value != want || time.Since(a.Fetched) > req.MaxAge) {
						t.Errorf("Read(%s) = %v, %v after %v", req.Query.Key(), a, err, time.Since(asked))
					}
					e.Peek(req)
					pass(time.Duration(1+i*i) * time.Second)
				}
			})
		}
		users.Go(func() {
			for i := 0; time.Since(b.start) < 30*time.Minute; i++ {
				e.Pin([]engine.Request{request(fmt.Sprintf("q%c", 'a'+i%8))})
				pass(17 * time.Second)
			}
		})
		users.Go(func() {
			for time.Since(b.start) < 30*time.Minute {
				pass(23*time.Second + 10*time.Millisecond)
				e.Forget("b", nil)
			}
		})
		users.Wait()
	})
}

func TestAnswerIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{})
		read := func() engine.Answer {
			a, _ := e.Read(t.Context(), request("q"))
			return a
		}
		first := read()
		if !first.Is(first) || !first.Is(read()) || first.Is(engine.Answer{}) {
			t.Error("what is read twice is not one answer")
		}
		b.answers(failure(errors.New("503")))
		b.sleepUntil(20 * time.Second)
		if !first.Is(read()) {
			t.Error("the last good answer is another one while the backend fails")
		}
		b.answers(value(1))
		b.sleepUntil(40 * time.Second)
		if first.Is(read()) {
			t.Error("an equal answer of another time is the same one")
		}
		b.answers(failure(sources.ErrNoData))
		b.sleepUntil(time.Minute)
		none := read()
		b.sleepUntil(90 * time.Second)
		if none.Is(first) || none.Is(read()) || !none.Is(none) {
			t.Error("answers without data are one")
		}
	})
}
