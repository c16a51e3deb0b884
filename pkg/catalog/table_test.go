package catalog

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// A table is a map, and what was read of it stays as it was.
func TestTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var now table[int, int]
	want := map[int]int{}
	for range 200 {
		before, was := now, maps.Clone(want)
		e := now.edit()
		for range random.IntN(20) {
			key := random.IntN(1000)
			if random.IntN(3) == 0 {
				e.remove(key)
				delete(want, key)
			} else {
				e.set(key, random.Int())
				want[key] = e.get(key)
			}
		}
		now = e.table
		for of, have := range map[*table[int, int]]map[int]int{&before: was, &now: want} {
			if got := maps.Collect(of.all()); !maps.Equal(got, have) || of.size != len(have) {
				t.Fatalf("got %v of %d, want %v", got, of.size, have)
			}
		}
		for key := range 1000 {
			v, ok := now.find(key)
			if w, there := want[key]; v != w || ok != there {
				t.Fatalf("%d: got %d %v, want %d %v", key, v, ok, w, there)
			}
		}
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	b := newBench(t)
	shown(t, b.watcher, "shop", "jobs", 1)
	b.uses("worker")
	b.rebuild()
	c := b.catalog
	if n := testing.AllocsPerRun(100, func() {
		if c.External(jobs) == nil || len(c.Users(jobs)) != 1 || len(c.ExternalNames()) != 1 {
			t.Error("it is not there")
		}
		c.LeastTarget(jobs)
		c.Custom(CustomName{Resource: podResource, Namespaced: true, Metric: "requests"})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
