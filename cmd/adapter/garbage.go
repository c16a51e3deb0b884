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
// core at most; of a heap below enoughGarbage it is none. GOGC in the environment ends it: who
// sets that knows better.
func collectGarbage(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if garbage() > enoughGarbage {
				debug.FreeOSMemory()
			}
		}
	}
}

// garbage is how many bytes of the heap may be garbage, or are free and not given back.
func garbage() uint64 {
	heap := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(heap)
	taken, live := heap[0].Value.Uint64()+heap[1].Value.Uint64(), heap[2].Value.Uint64()
	return taken - min(taken, live)
}
