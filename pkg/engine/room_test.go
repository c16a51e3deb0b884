package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// wantKnown wants that exactly those queries are known.
func wantKnown(t *testing.T, e *engine.Engine, known map[string]bool) {
	t.Helper()
	for key, want := range known {
		if _, ok := e.Peek(request(key)); ok != want {
			t.Errorf("%s is known: %v, want %v", key, ok, want)
		}
	}
}

func TestQueriesReadLongestAgoMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{MaxUnpinned: 3})
		e.Pin([]engine.Request{request("pinned1"), request("pinned2")})
		for _, key := range []string{"q1", "q2", "q3", "q1", "q4", "q5"} {
			wantValue(t, e, request(key), 1)
			pass(2 * time.Second)
		}
		wantKnown(t, e, map[string]bool{
			"pinned1": true, "pinned2": true, "q1": true, "q2": false, "q3": false, "q4": true, "q5": true,
		})
		b.seen()
		b.sleepUntil(15*time.Second + gather)
		for _, c := range b.seen() {
			if strings.Contains(c.keys, "q") && c.keys != "q1 q4 q5" {
				t.Errorf("the backend was asked for %s", c.keys)
			}
		}
		err := testutil.CollectAndCompare(e, strings.NewReader(`
# HELP tidegauge_queries_let_go_total Queries that no HPA names and that were forgotten early, because too many of them, of their samples or of the bytes of their keys were held.
# TYPE tidegauge_queries_let_go_total counter
tidegauge_queries_let_go_total{source="b"} 2
`), "tidegauge_queries_let_go_total")
		if err != nil {
			t.Error(err)
		}
	})
}

func TestIdleQueriesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{MaxUnpinned: 1})
		wantValue(t, e, request("q1"), 1)
		b.sleepUntil(80 * time.Second)
		wantValue(t, e, request("q2"), 1)
		wantKnown(t, e, map[string]bool{"q1": false, "q2": true})
	})
}

func TestNewReadsAreRefusedWhileAllOthersAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(hangApart)
		e := start(t, b, engine.Options{MaxUnpinned: 3})
		e.Pin([]engine.Request{request("pinned")})
		var readers sync.WaitGroup
		for i := range 3 {
			readers.Go(func() { wantUnavailable(t, e, request(fmt.Sprintf("hung%d", i))) })
		}
		b.sleepUntil(time.Second)
		for range 2 {
			_, err := e.Read(t.Context(), request("q"))
			busy, ok := errors.AsType[*engine.BusyError](err)
			if !ok || *busy != (engine.BusyError{Source: "b", Queries: 3, MaxQueries: 3, MaxSamples: 1_000_000, Bytes: 15, MaxBytes: 8 << 20}) || errors.Unwrap(err) != nil {
				t.Errorf("Read = %v", err)
			}
			want := "source b is asked too many different queries that no HPA names: 3 of at most 3, with 0 samples of at most 1000000 and 15 bytes of at most 8388608; " +
				"ask for fewer metrics, objects and selectors at a time, or again later"
			if err.Error() != want {
				t.Errorf("the error is %q, want %q", err, want)
			}
		}
		if waited := time.Since(b.start); waited != time.Second {
			t.Errorf("it came after %v, want at once", waited)
		}
		e.Touch(request("q"))
		wantValue(t, e, request("pinned"), 1)
		e.Pin([]engine.Request{request("pinned"), request("another")})
		wantValue(t, e, request("another"), 1)

		readers.Wait()
		wantValue(t, e, request("q"), 1)
		err := testutil.CollectAndCompare(e, strings.NewReader(`
# HELP tidegauge_queries_let_go_total Queries that no HPA names and that were forgotten early, because too many of them, of their samples or of the bytes of their keys were held.
# TYPE tidegauge_queries_let_go_total counter
tidegauge_queries_let_go_total{source="b"} 1
`), "tidegauge_queries_let_go_total")
		if err != nil {
			t.Error(err)
		}
	})
}

// samples answers with as many samples as the query's name is long.
func samples(_ context.Context, q query) sources.Result {
	return sources.Result{Samples: make([]sources.Sample, len(q))}
}

func TestSamplesHeldAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(samples)
		e := start(t, b, engine.Options{MaxUnpinnedSamples: 20})
		e.Pin([]engine.Request{request("pinned-which-counts-not")})
		for _, key := range []string{"one", "three", "seventeen", "12345678901234567890+"} {
			a, err := e.Read(t.Context(), request(key))
			if err != nil || len(a.Samples) != len(key) {
				t.Errorf("Read(%s) = %d samples, %v", key, len(a.Samples), err)
			}
			pass(2 * time.Second)
			synctest.Wait()
			if key == "seventeen" {
				wantKnown(t, e, map[string]bool{"one": true, "three": true, "seventeen": true})
			}
		}
		wantKnown(t, e, map[string]bool{
			"pinned-which-counts-not": true,
			"one":                     false, "three": false, "seventeen": false, "12345678901234567890+": false,
		})
	})
}

func TestSamplesOfFormerPinsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(samples)
		e := start(t, b, engine.Options{MaxUnpinnedSamples: 10})
		e.Pin([]engine.Request{request("seven-1"), request("seven-2")})
		_, _ = e.Read(t.Context(), request("seven-1"))
		pass(2 * time.Second)
		_, _ = e.Read(t.Context(), request("seven-2"))
		wantKnown(t, e, map[string]bool{"seven-1": true, "seven-2": true})
		e.Pin(nil)
		_, _ = e.Read(t.Context(), request("q"))
		wantKnown(t, e, map[string]bool{"seven-1": false, "seven-2": true, "q": true})
	})
}

// Whoever thinks of a new query with each read keeps no more than the limit.
func TestFloodOfNewQueriesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{MaxUnpinned: 1000})
		e.Pin([]engine.Request{request("pinned")})
		for i := range 5000 {
			e.Touch(request(strconv.Itoa(i)))
			if i%100 == 0 {
				pass(2 * gather)
			}
		}
		b.sleepUntil(14 * time.Second)
		b.seen()
		b.sleepUntil(16 * time.Second)
		asked := 0
		for _, c := range b.seen() {
			asked += len(strings.Fields(c.keys))
		}
		if asked > 1001 || asked < 900 {
			t.Errorf("%d queries are asked", asked)
		}
		wantValue(t, e, request("pinned"), 1)
		wantKnown(t, e, map[string]bool{"0": false, "4999": true})
	})
}

func TestBytesHeldAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		e := start(t, b, engine.Options{MaxUnpinnedBytes: 20})
		pinned := strings.Repeat("pinned", 10)
		e.Pin([]engine.Request{request(pinned)})
		for _, key := range []string{"one", "three", "seventeen", "eight"} {
			wantValue(t, e, request(key), 1)
			pass(2 * time.Second)
		}
		wantKnown(t, e, map[string]bool{pinned: true, "one": false, "three": true, "seventeen": true, "eight": true})
		_, err := e.Read(t.Context(), request(strings.Repeat("q", 21)))
		if busy, ok := errors.AsType[*engine.BusyError](err); !ok || busy.MaxBytes != 20 {
			t.Errorf("a query that is longer than the limit gives %v", err)
		}
		wantValue(t, e, request(pinned), 1)
		wantValue(t, e, request("q"), 1)
	})
}
