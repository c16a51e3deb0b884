package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// leastHeap is how far the heap may grow before garbage is collected, however little of
	// it is in use. By Go's own rule of twice what is in use an adapter with few metrics
	// would collect many times a second while it is read, for a few megabytes.
	leastHeap = 64 << 20
	// usualPercent is Go's own rule, and mostPercent what may come in its place.
	usualPercent, mostPercent = 100, 1600
)

// pacer sets after each collection at which size of the heap the next one begins.
type pacer struct {
	live    []metrics.Sample
	percent int
	// set is debug.SetGCPercent.
	set     func(percent int) int
	stopped atomic.Bool
}

// paceGC lets the heap grow to leastHeap before garbage is collected, unless the environment
// says GOGC. Go's own rule counts from half of that in use on, and a memory limit, as by
// GOMEMLIMIT, counts in any case. The function that it gives ends it.
func paceGC() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	p := &pacer{
		live:    []metrics.Sample{{Name: "/gc/heap/live:bytes"}},
		percent: usualPercent,
		set:     debug.SetGCPercent,
	}
	p.await()
	p.adapt()
	return func() {
		p.stopped.Store(true)
		debug.SetGCPercent(usualPercent)
	}
}

// await has adapt called after the next collection, and so on: one byte that is garbage at
// once is the sign of it.
func (p *pacer) await() {
	sign := new([16]byte)
	runtime.SetFinalizer(sign, func(*[16]byte) {
		if !p.stopped.Load() {
			p.adapt()
			p.await()
		}
	})
}

// adapt changes the percentage if it would be another one by much, as that stops all
// goroutines for a moment.
func (p *pacer) adapt() {
	metrics.Read(p.live)
	next := percentFor(p.live[0].Value.Uint64())
	if diff := next - p.percent; -p.percent/8 <= diff && diff <= p.percent/8 && (next == usualPercent) == (p.percent == usualPercent) {
		return
	}
	p.percent = next
	p.set(next)
}

// percentFor is by how many percent of what is in use the heap may grow.
func percentFor(live uint64) int {
	const usual = leastHeap / 2
	if live >= usual {
		return usualPercent
	}
	return int(min((leastHeap-live)*100/max(live, 1), mostPercent))
}
