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
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // Nobody else collects.
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
