package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// collectEvery is how often to look for garbage, and enoughGarbage how many bytes of it
	// are worth a collection.
	collectEvery  = 2 * time.Second
	enoughGarbage = 8 << 20
	// usualPercent is Go's own rule: the heap may double between two collections. After
	// manyCycles of them between two looks it may grow by roomWhenBusy bytes at least.
	usualPercent = 100
	manyCycles   = 4
	roomWhenBusy = 48 << 20
)

// collectGarbage lets no more than enoughGarbage bytes of memory lie about for long, until ctx
// is done. By Go's own rule the heap doubles before garbage is collected, which for ten
// thousand metrics is 50 MB, and most of it is given back after minutes or not at all. A
// collection takes some 50 ms of CPU then, so that one every collectEvery is some percent of a
// core at most; of a heap below enoughGarbage it is none. Where Go collected by itself since the
// last look the heap is in use: what is given back then is taken again at once, and each page
// of it costs a fault.
//
// A small heap that thousands of reads a second go through is collected many times a second,
// for a tenth of the CPU: it gets some room until they are over. GOGC in the environment ends
// all of it: who sets that knows better.
func collectGarbage(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	var c collector
	before := heapNow()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			now := heapNow()
			percent, collect := c.look(now, now.cycles-before.cycles)
			debug.SetGCPercent(percent)
			if collect {
				debug.FreeOSMemory()
			}
			before = now
		}
	}
}

// collector says how much garbage there may be.
type collector struct {
	// busy says that the heap has room.
	busy bool
}

// look takes the heap, and how many times Go collected since the last look. It gives by how
// much the heap may grow, in percent of what is in use, and whether to collect now.
func (c *collector) look(now heapState, cycles uint64) (percent int, collect bool) {
	switch {
	case cycles >= manyCycles:
		c.busy = true
	case cycles == 0:
		c.busy = false
	}
	percent = usualPercent
	if c.busy {
		percent = max(percent, int(roomWhenBusy*100/max(now.live, 1<<20))) //nolint:gosec // 4800 at most.
	}
	return percent, cycles == 0 && now.garbage > enoughGarbage
}

// heapState is how many bytes of the heap are in use as far as is known, how many may be
// garbage or are free and not given back, and how many times Go collected garbage by its own
// rule.
type heapState struct {
	live, garbage, cycles uint64
}

func heapNow() heapState {
	heap := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/cycles/automatic:gc-cycles"},
	}
	metrics.Read(heap)
	taken, live := heap[0].Value.Uint64()+heap[1].Value.Uint64(), heap[2].Value.Uint64()
	return heapState{live: live, garbage: taken - min(taken, live), cycles: heap[3].Value.Uint64()}
}
