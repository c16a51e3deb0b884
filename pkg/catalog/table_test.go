package catalog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"weak"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/engine"
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

// A replica that nobody asks for the list of names holds no more than the catalog.
func TestSnapshotsThatWereReplacedAreForgotten(t *testing.T) {
	const n = 200
	c := &Catalog{}
	var old []weak.Pointer[snapshot]
	for i := range n {
		d := c.load().objects.draft()
		name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("m", i)}
		d.setMetric(name, &Metric{Name: name, Err: errTooMany})
		s := d.done()
		old = append(old, weak.Make(s))
		c.setObjects(s)
	}
	runtime.GC()
	held := 0
	for _, s := range old[:n-1] {
		if s.Value() != nil {
			held++
		}
	}
	// One may be on the stack still.
	if held > 1 {
		t.Errorf("%d of %d snapshots that were replaced are held", held, n-1)
	}
	runtime.KeepAlive(c)
}

// Many metrics of one query cost no more than those of many.
func TestMetricsOfOneQuery(t *testing.T) {
	const n = 100
	named := func(i int) types.NamespacedName {
		return types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("m", i)}
	}
	d := (&snapshot{}).draft()
	for i := range n {
		d.setMetric(named(i), &Metric{Name: named(i), Request: engine.Request{Source: "s", Query: namedQuery("q")}})
	}
	first := d.done()
	if got := len(first.askedBy.get("q")); got != n {
		t.Errorf("%d metrics ask it, want %d", got, n)
	}
	d = first.draft()
	d.setMetric(named(1), nil)
	d.setMetric(named(2), &Metric{Name: named(2), Request: engine.Request{Source: "s", Query: namedQuery("other")}})
	d.setMetric(named(3), &Metric{Name: named(3), Err: errTooMany})
	second := d.done()
	if q, other := len(second.askedBy.get("q")), len(second.askedBy.get("other")); q != n-3 || other != 1 {
		t.Errorf("%d ask it and %d the other one, want %d and 1", q, other, n-3)
	}
	if got := len(first.askedBy.get("q")); got != n || slices.Contains(first.askedBy.get("q"), nil) {
		t.Errorf("the snapshot before has %d, want %d", got, n)
	}
	d = second.draft()
	for i := range n {
		d.setMetric(named(i), nil)
	}
	if s := d.done(); s.askedBy.size != 0 || s.external.size != 0 {
		t.Errorf("of none there are %d queries and %d metrics", s.askedBy.size, s.external.size)
	}
}
