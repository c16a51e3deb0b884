package engine

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// contents are the keys of a table, each as often as it is there.
func contents(t *entries) map[string]int {
	keys := map[string]int{}
	for e := range t.all() {
		keys[e.query.Key()]++
	}
	return keys
}

func TestEntriesAreThoseThatWerePutAndNotRemoved(t *testing.T) {
	var table entries
	want := map[string]*entry{}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 20_000 {
		key := fmt.Sprint("key-", random.IntN(1+step/10))
		if want[key] == nil {
			want[key] = &entry{query: nothing(key)}
			table.put(want[key])
		} else {
			delete(want, key)
			table.remove(key)
		}
		if got := table.get(key); got != want[key] {
			t.Fatalf("step %d: %s is %v, want %v", step, key, got, want[key])
		}
	}
	table.remove("never there")
	for key, n := range contents(&table) {
		if n != 1 || want[key] == nil {
			t.Errorf("%s is there %d times", key, n)
		}
	}
	for key, e := range want {
		if table.get(key) != e {
			t.Errorf("%s is not found", key)
		}
	}
	if table.size != len(want) {
		t.Errorf("the size is %d, want %d", table.size, len(want))
	}
	if n := len(*table.slots.Load()); n > 8*max(len(want), minSlots) {
		t.Errorf("%d slots hold %d entries", n, len(want))
	}
}

func TestNothingIsInNoEntries(t *testing.T) {
	var table entries
	table.remove("key")
	if e := table.get("key"); e != nil || len(contents(&table)) > 0 {
		t.Errorf("there is %v", e)
	}
}

// Keys that come and go leave slots behind, which must not fill the table.
func TestEntriesThatComeAndGoTakeNoRoom(t *testing.T) {
	var table entries
	for i := range 100_000 {
		key := strconv.Itoa(i)
		table.put(&entry{query: nothing(key)})
		table.remove(key)
	}
	if n := len(*table.slots.Load()); n != minSlots {
		t.Errorf("there are %d slots, want %d", n, minSlots)
	}
}

// Whoever reads while others are put and removed finds what is there all the time, and
// nothing under another key.
func TestEntriesAreReadWhileTheyAreWritten(t *testing.T) {
	var table entries
	for i := range 100 {
		table.put(&entry{query: nothing(fmt.Sprint("stays-", i))})
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for i := 0; !done.Load(); i++ {
				key := fmt.Sprint("stays-", i%100)
				if e := table.get(key); e == nil || e.query.Key() != key {
					t.Errorf("%s is %v", key, e)
					return
				}
				key = fmt.Sprint("goes-", i%2000)
				if e := table.get(key); e != nil && e.query.Key() != key {
					t.Errorf("%s is %s", key, e.query.Key())
					return
				}
			}
		})
	}
	for range 5 {
		for i := range 2000 {
			table.put(&entry{query: nothing(fmt.Sprint("goes-", i))})
		}
		for i := range 2000 {
			table.remove(fmt.Sprint("goes-", i))
		}
	}
	done.Store(true)
	readers.Wait()
}
