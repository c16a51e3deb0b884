package plan

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// slowSource takes a while to answer, and counts what it is asked.
type slowSource struct {
	mu    sync.Mutex
	asked map[string]int
}

func (s *slowSource) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	results := make([]sources.Result, len(queries))
	s.mu.Lock()
	for i, q := range queries {
		parts := strings.Split(q.Key(), "\x00")
		s.asked[parts[len(parts)-1]]++
		results[i].Samples = []sources.Sample{{Labels: sources.NewLabels("object", "p0", "namespace", "n0"), Time: time.Now()}}
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(2 * time.Second):
	}
	return results
}

// take gives what was asked since it was last called.
func (s *slowSource) take() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = map[string]int{}
	return asked
}

// TestPlanOverAnEngine has a thousand HPAs read every 15 seconds while the plan goes from
// queries of namespaces to one of the cluster and back: no more queries than
// namespaces, and nobody waits once a query is known.
func TestPlanOverAnEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowSource{asked: map[string]int{}}
		e := engine.New(engine.Options{Sources: map[string]sources.Source{"prometheus": source}})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = e.Run(ctx) })
		defer running.Wait()
		defer stop()
		b := newBench(t)
		b.Planner = New(b.options(e))
		var demands []Demand
		for _, n := range numbered("n", 20) {
			demands = append(demands, b.selects(n, 50, 3)...)
			b.counts[n] = 150
		}
		var waited time.Duration
		round := func() {
			e.Pin(b.Update(demands))
			for i := range 1000 {
				start := time.Now()
				if _, err := b.Read(ctx, b.subject("n"+strconv.Itoa(i%20)), NewNames(numbered("p", 3)...)); err != nil {
					t.Fatal(err)
				}
				waited = max(waited, time.Since(start))
			}
			<-time.After(15 * time.Second)
		}
		for _, objects := range []int{100_000, 3_000, 100_000} {
			b.counts[""] = objects
			round()
			for range 30 { // What the plan before asked is forgotten.
				round()
			}
			source.take()
			waited = 0
			for range 8 {
				round()
			}
			asked := source.take()
			want := 20
			if objects == 3_000 {
				want = 1
			}
			if len(asked) != want {
				t.Errorf("of %d objects: %d queries, want %d", objects, len(asked), want)
			}
			for q, n := range asked {
				if n > 9 {
					t.Errorf("%s was asked %d times in eight intervals", q, n)
				}
			}
			if waited > 0 {
				t.Errorf("somebody waited for %v", waited)
			}
			waited = 0
			b.counts[""] = 103_000 - objects
			round()
			if waited > 0 {
				t.Errorf("the switch made somebody wait for %v", waited)
			}
		}
	})
}
