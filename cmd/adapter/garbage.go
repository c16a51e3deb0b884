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
)

// collectGarbage lets no more than enoughGarbage bytes of memory lie about for long, until ctx
// is done. By Go's own rule the heap doubles before garbage is collected, which for ten
// thousand metrics is 50 MB, and most of it is given back after minutes or not at all. A
// collection takes some 50 ms of CPU then, so that one every collectEvery is some percent of a
// core at most; of a heap below enoughGarbage it is none. Where Go collected by itself since the
// last look the heap is in use: what is given back then is taken again at once, and each page
// of it costs a fault. GOGC in the environment ends it: who sets that knows better.
func collectGarbage(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	before := heapNow()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			now := heapNow()
			if now.garbage > enoughGarbage && now.cycles == before.cycles {
				debug.FreeOSMemory()
			}
			before = now
		}
	}
}

// heapState is how many bytes of the heap may be garbage or are free and not given back, and
// how many times Go collected garbage by its own rule.
type heapState struct {
	garbage, cycles uint64
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
	return heapState{garbage: taken - min(taken, live), cycles: heap[3].Value.Uint64()}
}
