package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// faultySource answers queries but for those that begin with one of its prefixes, each of
// which has an error.
type faultySource struct {
	mu    sync.Mutex
	errs  map[string]error
	asked map[string]int
}

func (s *faultySource) Fetch(_ context.Context, queries []sources.Query) []sources.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]sources.Result, len(queries))
	for i, q := range queries {
		parts := strings.Split(q.Key(), "\x00")
		text := parts[len(parts)-1]
		s.asked[text]++
		results[i].Samples = []sources.Sample{{Labels: sources.NewLabels("object", "p0", "namespace", "n0"), Time: time.Now()}}
		for prefix, err := range s.errs {
			if strings.HasPrefix(text, prefix) {
				results[i] = sources.Result{Err: err}
			}
		}
	}
	return results
}

// fail sets the errors, by prefix.
func (s *faultySource) fail(errs map[string]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = errs
}

// take gives how often queries with the prefix were asked since it was last called.
func (s *faultySource) take(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for text, n := range s.asked {
		if strings.HasPrefix(text, prefix) {
			sum += n
			delete(s.asked, text)
		}
	}
	return sum
}

// overEngine runs a test of a planner over an engine and a source.
func overEngine(t *testing.T, test func(t *testing.T, w *whole)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &whole{bench: newBench(t), source: &faultySource{asked: map[string]int{}}}
		w.engine = engine.New(engine.Options{Sources: map[string]sources.Source{"prometheus": w.source}})
		w.Planner = New(w.options(w.engine))
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = w.engine.Run(ctx) })
		defer running.Wait()
		defer stop()
		test(t, w)
	})
}

type whole struct {
	*bench

	engine *engine.Engine
	source *faultySource
}

// demands are those of five HPAs in each of n namespaces.
func (w *whole) demands(n int) []Demand {
	var all []Demand
	w.counts[""] = n * 150
	for _, namespace := range numbered("n", n) {
		all = append(all, w.selects(namespace, 5, 3)...)
		w.counts[namespace] = 150
	}
	return all
}

// round is what happens every 15 seconds; it gives how many reads failed, one a namespace.
func (w *whole) round(n int) (failed int) {
	w.engine.Pin(w.Update(w.demands(n)))
	failed = w.readEach(n)
	<-time.After(15 * time.Second)
	return failed
}

func (w *whole) readEach(n int) (failed int) {
	for _, namespace := range numbered("n", n) {
		if _, err := w.Read(w.t.Context(), w.subject(namespace), NewNames(numbered("p", 3)...)); err != nil {
			failed++
		}
	}
	return failed
}

var errTimeout = fmt.Errorf("query timed out in expression evaluation: %w", sources.ErrTooSlow)

// The working queries of namespaces are not given up for one of the cluster that has never
// been answered, and that is not asked again and again.
func TestSwitchToAQueryThatTimesOut(t *testing.T) {
	overEngine(t, func(t *testing.T, w *whole) {
		w.source.fail(map[string]error{"cluster": errTimeout})
		failed := 0
		for range 5 {
			failed += w.round(7)
		}
		for range 240 {
			failed += w.round(8)
		}
		if failed > 0 {
			t.Errorf("%d reads failed", failed)
		}
		if n := w.source.take("cluster"); n == 0 || n > 60 {
			t.Errorf("the query of the cluster was asked %d times in an hour", n)
		}
	})
}

// At the start there is no query that works: after the first that was too slow narrower
// ones are read.
func TestSharedQueryThatIsTooSlowFromTheStart(t *testing.T) {
	for _, err := range []error{errTimeout, context.DeadlineExceeded} {
		for _, slow := range []string{"cluster", "cluster space"} {
			overEngine(t, func(t *testing.T, w *whole) {
				errs := map[string]error{}
				for prefix := range strings.FieldsSeq(slow) {
					errs[prefix] = err
				}
				w.source.fail(errs)
				w.round(20)
				failed := 0
				for range 240 {
					failed += w.round(20)
				}
				if failed > 0 {
					t.Errorf("%v of %s: %d reads failed", err, slow, failed)
				}
			})
		}
	}
}

// A query that worked and grows too slow serves from memory first, and then narrower ones
// do. It is read again when it answers.
func TestSharedQueryThatGrowsTooSlow(t *testing.T) {
	overEngine(t, func(t *testing.T, w *whole) {
		for range 20 {
			w.round(8)
		}
		w.source.fail(map[string]error{"cluster": errTimeout})
		failed := 0
		for range 120 {
			failed += w.round(8)
		}
		if failed > 0 {
			t.Errorf("%d reads failed", failed)
		}
		w.source.fail(nil)
		for range 120 {
			failed += w.round(8)
		}
		w.source.take("")
		w.round(8)
		w.round(8)
		if n := w.source.take("space"); n > 0 || failed > 0 {
			t.Errorf("queries of namespaces were asked %d times after the cluster's answers, %d reads failed", n, failed)
		}
	})
}

// A server that answers nothing must not get a query for each namespace and each HPA in
// place of one.
func TestServerThatIsDownGetsNoMoreCalls(t *testing.T) {
	overEngine(t, func(t *testing.T, w *whole) {
		for range 20 {
			w.round(20)
		}
		w.source.take("")
		w.source.fail(map[string]error{"": errTimeout})
		for range 20 { // The last answer serves.
			w.round(20)
		}
		w.source.take("")
		for range 40 {
			w.round(20)
		}
		if all, cluster := w.source.asked, w.source.take("cluster"); len(all) > 12 || cluster == 0 {
			t.Errorf("%d queries were asked in ten minutes in place of one, which was asked %d times", len(all), cluster)
		}
		w.source.fail(nil)
		w.round(20)
		w.round(20)
		if failed := w.round(20); failed > 0 {
			t.Errorf("%d reads fail after the server has come back", failed)
		}
	})
}

func TestReadAllOfAClusterWideQueryThatIsTooSlow(t *testing.T) {
	b := newBench(t)
	b.engine.errs["cluster{}"] = errTimeout
	objects := objectsIn(20)
	r, err := b.ReadAll(t.Context(), b.subject(""), objects)
	if err != nil || len(r.Samples) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
	if read := b.engine.lastRead(); strings.Count(read, "exact")+strings.Count(read, "space") < 20 {
		t.Errorf("read %s", read)
	}

	b = newBench(t)
	b.engine.errs["cluster{}"], b.engine.errs["space n0{}"], b.engine.errs["exact n0/x{}"] = errTimeout, errTimeout, errTimeout
	for range 2 {
		if _, err := b.ReadAll(t.Context(), b.subject(""), objects); !errors.Is(err, sources.ErrTooSlow) {
			t.Errorf("got %v", err)
		}
	}
	b.want(b.engine.lastRead(), "cluster{}, space n0{}, exact n0/x{}, cluster{}")
}

// One query tells that a server is down: others are not tried for a while.
func TestNarrowerQueriesAreTriedOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(b.selects("shop", 1, 3), b.selects("bank", 1, 3))
		for _, q := range []string{"space shop{}", "exact shop/a{}", "space bank{}", "exact bank/a{}"} {
			b.engine.errs[q] = errTimeout
		}
		read := func(namespace, want string) {
			t.Helper()
			if _, err := b.Read(t.Context(), b.subject(namespace), NewNames("a")); !errors.Is(err, sources.ErrTooSlow) {
				t.Errorf("got %v", err)
			}
			b.want(b.engine.lastRead(), want)
		}
		read("shop", "space shop{}, exact shop/a{}")
		read("bank", "space bank{}")
		read("shop", "space shop{}")
		<-time.After(tryEvery)
		read("shop", "space shop{}, exact shop/a{}")
		read("bank", "space bank{}")
		<-time.After(tryEvery)
		read("shop", "space shop{}") // It waits longer now.
		read("bank", "space bank{}, exact bank/a{}")
		<-time.After(tryEvery)
		delete(b.engine.errs, "exact bank/a{}")
		b.want(b.reads("bank", "a"), "space bank{}, exact bank/a{}")
		b.want(b.reads("bank", "a"), "exact bank/a{}")
		read("shop", "space shop{}, exact shop/a{}")
	})
}

// A reader who leaves says nothing of the query.
func TestReaderWhoLeavesNarrowsNothing(t *testing.T) {
	b := newBench(t)
	b.update(b.selects("shop", 1, 3))
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	b.engine.errs["space shop{}"] = fmt.Errorf("still under way: %w", context.DeadlineExceeded)
	if _, err := b.Read(ctx, b.subject("shop"), NewNames("a")); err == nil {
		t.Error("no error")
	}
	b.want(b.engine.lastRead(), "space shop{}")
}

func TestRefusalsGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(b.selects("shop", 1, 3))
		b.engine.errs["space shop{}"] = fmt.Errorf("too many samples: %w", sources.ErrRejected)
		start := time.Now()
		var at []string
		for time.Since(start) < time.Hour {
			if strings.Contains(b.reads("shop", "a", "b"), "space") {
				at = append(at, time.Since(start).String())
			}
			<-time.After(15 * time.Second)
		}
		b.want(strings.Join(at, " "), "0s 2m0s 6m0s 14m0s 30m0s 46m0s")
		delete(b.engine.errs, "space shop{}")
		b.engine.answers["space shop{}"] = engine.Answer{Fetched: time.Now().Add(20 * time.Minute)}
		<-time.After(20 * time.Minute)
		b.want(b.reads("shop", "a"), "space shop{}")
		b.engine.errs["space shop{}"] = fmt.Errorf("too many samples: %w", sources.ErrRejected)
		b.reads("shop", "a")
		<-time.After(barFor)
		b.want(b.reads("shop", "a"), "space shop{}, exact shop/a{}")
	})
}

// A server with a broken part refuses what it answers later: then all refusals of that
// time were none.
func TestRefusalsEndWhenTheServerRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		demands := append(b.selects("shop", 1, 3), b.selects("bank", 1, 3)...)
		b.update(demands)
		refused := fmt.Errorf("a store is away: %w", sources.ErrRejected)
		for _, q := range []string{"space shop{}", "space bank{}", "exact bank/a{}"} {
			b.engine.errs[q] = refused
		}
		b.reads("shop", "a")
		if _, err := b.Read(t.Context(), b.subject("bank"), NewNames("a")); err == nil {
			t.Error("no error")
		}
		<-time.After(15 * time.Second)
		clear(b.engine.errs)
		b.engine.lastRead()
		b.want(b.reads("bank", "a"), "exact bank/a{}")
		b.want(b.reads("bank", "a"), "space bank{}")
		b.want(b.reads("shop", "a"), "space shop{}")
	})
}
