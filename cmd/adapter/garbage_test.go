package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// hold is where garbage is before it is garbage.
var hold []byte

// TestGarbageIsCollected is not about when, which is Go's own as well, but about what counts
// and what is done.
func TestGarbageIsCollected(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // Nobody else collects at first.
	debug.FreeOSMemory()
	before := heapNow().garbage
	hold = make([]byte, 2*enoughGarbage)
	runtime.GC()
	if grown := int64(heapNow().garbage - before); grown > enoughGarbage {
		t.Errorf("%d bytes in use count as garbage", grown)
	}
	hold = nil
	runtime.GC() // What was in use is free now, and not given back.
	if got := heapNow().garbage; got < enoughGarbage {
		t.Errorf("%d bytes are garbage or free, want %d at least", got, enoughGarbage)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), collectEvery+time.Second)
		defer stop()
		if err := collectGarbage(ctx); err != nil {
			t.Error(err)
		}
		if got := heapNow().garbage; got > enoughGarbage {
			t.Errorf("%d bytes are left", got)
		}
	})
}

func TestGOGCEndsTheCollecting(t *testing.T) {
	t.Setenv("GOGC", "400")
	if err := collectGarbage(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestABusyHeapHasRoom(t *testing.T) {
	var c collector
	for i, at := range []struct {
		live, garbage, cycles uint64

		percent int
		collect bool
	}{
		{live: 16 << 20, garbage: 1 << 20, percent: 100},
		{live: 16 << 20, garbage: 9 << 20, percent: 100, collect: true},
		{live: 16 << 20, garbage: 9 << 20, cycles: manyCycles - 1, percent: 100},
		{live: 16 << 20, garbage: 9 << 20, cycles: manyCycles, percent: 300},
		// With more room there are fewer collections, until there are none.
		{live: 24 << 20, garbage: 9 << 20, cycles: 1, percent: 200},
		{live: 100 << 20, garbage: 9 << 20, cycles: 1, percent: 100},
		{live: 16 << 20, garbage: 9 << 20, percent: 100, collect: true},
		{live: 16 << 20, garbage: 9 << 20, cycles: 1, percent: 100},
		{live: 0, cycles: manyCycles, percent: 4800},
	} {
		percent, collect := c.look(heapState{live: at.live, garbage: at.garbage}, at.cycles)
		if percent != at.percent || collect != at.collect {
			t.Errorf("look %d, %+v: got %d%%, %v", i, at, percent, collect)
		}
	}
}
