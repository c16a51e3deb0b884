package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercentOfHeap(t *testing.T) {
	const mega = 1 << 20
	for live, want := range map[uint64]int{
		0: mostPercent, mega: mostPercent, 4 * mega: 1500, 8 * mega: 700, 16 * mega: 300,
		31 * mega: 106, 32 * mega: 100, 33 * mega: 100, 1000 * mega: 100,
	} {
		if got := percentFor(live); got != want {
			t.Errorf("with %d MiB in use: got %d%%, want %d%%", live/mega, got, want)
		}
	}
}

func TestGCIsPacedAfterEachCollection(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := paceGC()
	defer stop()
	held := make([]byte, 24<<20)
	awaitGoal(t, func(goal, live uint64) bool { return live >= 24<<20 && goal >= leastHeap*3/4 && goal <= leastHeap*5/4 })
	more := make([]byte, 40<<20)
	awaitGoal(t, func(goal, live uint64) bool { return live >= 64<<20 && goal >= live*19/10 && goal <= live*21/10 })
	runtime.KeepAlive(held)
	runtime.KeepAlive(more)
}

func TestGCIsLeftAloneWithGOGC(t *testing.T) {
	t.Setenv("GOGC", "150")
	stop := paceGC()
	defer stop()
	for range 3 {
		runtime.GC()
	}
	if got := read("/gc/gogc:percent"); got != usualPercent {
		t.Errorf("GOGC is %d, want that of the process, %d", got, usualPercent)
	}
}

// awaitGoal collects garbage until the size at which it is collected next is as wanted.
func awaitGoal(t *testing.T, as func(goal, live uint64) bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		runtime.GC()
		goal, live := read("/gc/heap/goal:bytes"), read("/gc/heap/live:bytes")
		if as(goal, live) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes in use, and garbage is collected at %d", live, goal)
		}
		runtime.Gosched()
	}
}

func read(name string) uint64 {
	samples := []metrics.Sample{{Name: name}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}
