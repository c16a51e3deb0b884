package engine

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// nothing asks the backend of all.
type nothing string

func (q nothing) Key() string     { return string(q) }
func (q nothing) Backend() string { return "b" }

// pinned is an engine that has n pins, and the pins.
func pinned(n int) (*Engine, []Request) {
	e := New(Options{Sources: map[string]sources.Source{"b": fine{}}})
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Source: "b", Query: nothing(strconv.Itoa(i)), Interval: 15 * time.Second, MaxAge: time.Minute}
	}
	e.Pin(requests)
	return e, requests
}

// known is a feed of n queries that are pinned and answered.
func known(n int) *feed {
	e, _ := pinned(n)
	f := e.feeds["b"]
	for l, batch := range f.take(time.Now().Add(time.Second)).batches {
		answerAll(f, l, batch, time.Now())
	}
	return f
}

// answerAll settles a batch with a sample for each.
func answerAll(f *feed, l lane, batch []*entry, now time.Time) {
	results := make([]sources.Result, len(batch))
	for i := range results {
		results[i].Samples = []sources.Sample{{Value: 1, Time: now}}
	}
	f.settle(l, batch, results, now, now)
}

// BenchmarkTake takes what is due of a few queries among many that are not, each of which
// goes back to its place.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("queries=%d", n), func(b *testing.B) {
			f := known(n)
			e := f.queue[len(f.queue)-1]
			b.ReportAllocs()
			for b.Loop() {
				now := time.Now()
				f.mu.Lock()
				f.enqueue(e, now)
				f.mu.Unlock()
				for l, batch := range f.take(now).batches {
					f.mu.Lock()
					f.count(l, -1)
					f.enqueue(batch[0], now.Add(time.Minute))
					f.mu.Unlock()
				}
			}
		})
	}
}

// BenchmarkRound takes and settles all queries of a source, which are due together.
func BenchmarkRound(b *testing.B) {
	const n = 1000
	f := known(n)
	results := make([]sources.Result, n)
	b.ReportAllocs()
	for now := time.Now(); b.Loop(); {
		now = now.Add(15 * time.Second)
		for i := range results {
			results[i].Samples = []sources.Sample{{Value: 1, Time: now}}
		}
		for l, batch := range f.take(now).batches {
			f.settle(l, batch, results, now, now)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/query")
}

// BenchmarkPin replaces the pins by all of them but one, and back.
func BenchmarkPin(b *testing.B) {
	e, requests := pinned(10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.Pin(requests[i%2:])
	}
}

// BenchmarkShelve looks at what waits for a backend that is away.
func BenchmarkShelve(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("queries=%d", n), func(b *testing.B) {
			f := known(n)
			f.backends["b"].circuit = circuit{open: true, probing: true, err: sources.ErrAway}
			b.ReportAllocs()
			for now := time.Now(); b.Loop(); {
				now = now.Add(15 * time.Second)
				f.take(now)
			}
		})
	}
}
