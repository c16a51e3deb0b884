package engine_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// warm gives a running engine whose first n queries are known, and their requests.
func warm(tb testing.TB, n int) (*engine.Engine, []engine.Request) {
	tb.Helper()
	e := engine.New(engine.Options{Sources: map[string]sources.Source{"b": newBackend()}})
	done := make(chan error)
	go func() { done <- e.Run(tb.Context()) }()
	tb.Cleanup(func() { <-done })
	reqs := make([]engine.Request, n)
	for i := range reqs {
		reqs[i] = request(strconv.Itoa(i))
		reqs[i].Interval, reqs[i].MaxAge = time.Hour, 2*time.Hour
	}
	e.Pin(reqs)
	for _, req := range reqs {
		if _, err := e.Read(tb.Context(), req); err != nil {
			tb.Fatal(err)
		}
	}
	return e, reqs
}

func TestReadOfAKnownQueryAllocatesNothing(t *testing.T) {
	e, reqs := warm(t, 1)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = e.Read(ctx, reqs[0]) }); n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("queries=%d", n), func(b *testing.B) {
			e, reqs := warm(b, n)
			ctx := b.Context()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := e.Read(ctx, reqs[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadParallel(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("queries=%d", n), func(b *testing.B) {
			e, reqs := warm(b, n)
			ctx := b.Context()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := e.Read(ctx, reqs[i%n]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
