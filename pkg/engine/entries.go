package engine

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
)

// entries holds entries by the keys of their queries, in 15 to 30 bytes each, where a sync.Map
// takes 130. Readers take no lock; writers hold the feed's mutex. The zero value is empty.
//
// It is a hash table with open addressing: an entry is in the first slot that was free when
// it came, from that of its hash on. So a key is not there if an empty slot comes first.
type entries struct {
	slots atomic.Pointer[slots]
	// size is how many entries there are, and taken how many slots are not empty.
	size, taken int
}

// slots are as many as a power of 2, and some of them are empty.
type slots []atomic.Pointer[entry]

// minSlots is how many slots there are at least.
const minSlots = 16

// removed takes the slot of an entry that was there, so that those behind it are found.
var removed = &entry{}

var seed = maphash.MakeSeed()

func hashOf(key string) uint32 { return uint32(maphash.String(seed, key)) } //nolint:gosec // A part will do.

// get is the entry of that key, or nil.
func (t *entries) get(key string) *entry {
	e, _ := t.find(key)
	return e
}

// find is the entry of that key and its slot, or nil.
func (t *entries) find(key string) (*entry, *atomic.Pointer[entry]) {
	all := t.slots.Load()
	if all == nil {
		return nil, nil
	}
	hash := hashOf(key)
	for i := hash; ; i++ {
		slot := all.at(i)
		e := slot.Load()
		if e == nil {
			return nil, nil
		}
		if e != removed && e.hash == hash && e.query.Key() == key {
			return e, slot
		}
	}
}

// put adds an entry, whose key is not there.
func (t *entries) put(e *entry) {
	e.hash = hashOf(e.query.Key())
	if all := t.slots.Load(); all == nil || 4*(t.taken+1) > 3*len(*all) {
		t.rebuild()
	}
	t.slots.Load().put(e)
	t.size++
	t.taken++
}

// remove drops the entry of that key, if it is there.
func (t *entries) remove(key string) {
	if e, slot := t.find(key); e != nil {
		slot.Store(removed)
		t.size--
	}
}

// all are the entries, in no order. They may be removed meanwhile.
func (t *entries) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		all := t.slots.Load()
		if all == nil {
			return
		}
		for i := range *all {
			if e := (*all)[i].Load(); e != nil && e != removed && !yield(e) {
				return
			}
		}
	}
}

// rebuild makes room for as many entries again.
func (t *entries) rebuild() {
	n := minSlots
	for n < 2*(t.size+1) {
		n *= 2
	}
	next := make(slots, n)
	for e := range t.all() {
		next.put(e)
	}
	// Who reads the slots before finds all that was there when it began.
	t.slots.Store(&next)
	t.taken = t.size
}

func (s slots) put(e *entry) {
	for i := e.hash; ; i++ {
		if slot := s.at(i); slot.Load() == nil {
			slot.Store(e)
			return
		}
	}
}

func (s slots) at(i uint32) *atomic.Pointer[entry] { return &s[i&uint32(len(s)-1)] } //nolint:gosec // There are not so many.
