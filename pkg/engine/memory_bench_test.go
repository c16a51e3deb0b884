package engine

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/internal/heap"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// measured answers each query with a sample whose labels all share.
type measured struct{ labels sources.Labels }

func (s measured) Fetch(_ context.Context, queries []sources.Query) []sources.Result {
	results := make([]sources.Result, len(queries))
	for i := range results {
		results[i].Samples = []sources.Sample{{Labels: s.labels, Value: 1, Time: time.Now()}}
	}
	return results
}

// BenchmarkMemory says how many bytes of memory the engine takes for a query that is pinned,
// answered and read: without the query itself and the labels of its sample.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	requests := make([]Request, n)
	for i := range requests {
		key := fmt.Sprintf("%032d", i) // As long as one of CloudWatch.
		requests[i] = Request{Source: "b", Query: nothing(key), Interval: time.Minute, MaxAge: time.Hour}
	}
	source := measured{sources.NewLabels("id", "depth")}
	var bytes uint64
	for b.Loop() {
		before := heap.InUse()
		e := New(Options{Sources: map[string]sources.Source{"b": source}})
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		e.Pin(requests)
		for _, req := range requests {
			if _, err := e.Read(ctx, req); err != nil {
				b.Fatal(err)
			}
		}
		for _, req := range requests {
			_, _ = e.Read(ctx, req)
		}
		bytes = heap.InUse() - before
		stop()
		<-done
		runtime.KeepAlive(e)
	}
	b.ReportMetric(float64(bytes)/n, "B/query")
}
