package provider

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keepFor is how long is kept what nobody reads any more, and sweepEvery how often
	// that is looked for.
	keepFor    = 5 * time.Minute
	sweepEvery = time.Minute
	// maxKept and maxKeptBytes are how much is kept of an API's, as whoever may read
	// metrics can think of ever new selectors; keptShare of it, in percent, is left when
	// that was too much.
	maxKept      = 20_000
	maxKeptBytes = 16 << 20
	keptShare    = 90
	// maxOne is how many bytes one of them may have: it must not take the place of all
	// others.
	maxOne = maxKeptBytes / 4
)

// kept holds what was made for readers, by what they ask for, so that it is made once per
// answer of a backend and not once per read. Whether it still holds is for who made it to
// say. It is safe for concurrent use; what it holds must not be written to.
type kept[K comparable, V any] struct {
	epoch time.Time
	// evicted is called for each that was dropped for want of room.
	evicted func()

	mu    sync.RWMutex
	byKey map[K]*keeping[V]
	bytes int
	swept atomic.Int64
}

// keeping is what is kept by one key.
type keeping[V any] struct {
	value atomic.Pointer[V]
	// used is when it was last asked for, to the second.
	used atomic.Int64
	// size belongs to the mutex of kept.
	size int
}

func newKept[K comparable, V any](evicted func()) *kept[K, V] {
	return &kept[K, V]{epoch: time.Now(), evicted: evicted, byKey: map[K]*keeping[V]{}}
}

// get is what was last kept by that key, or nil.
func (all *kept[K, V]) get(key K) *V {
	all.mu.RLock()
	k := all.byKey[key]
	all.mu.RUnlock()
	if k == nil {
		return nil
	}
	if now := int64(time.Since(all.epoch)); now-k.used.Load() >= int64(time.Second) {
		k.used.Store(now)
	}
	return k.value.Load()
}

// put keeps the value, which has about that many bytes with its key. A key that is new is
// kept as own makes it, as it may be a part of a request.
func (all *kept[K, V]) put(key K, own func(K) K, value *V, size int) {
	now := time.Since(all.epoch)
	all.sweep(now)
	all.mu.Lock()
	defer all.mu.Unlock()
	k := all.byKey[key]
	if size > maxOne {
		if k != nil {
			all.remove(key, k)
		}
		return
	}
	if k == nil {
		k = &keeping[V]{}
		all.byKey[own(key)] = k
	}
	k.value.Store(value)
	k.used.Store(int64(now))
	all.bytes += size - k.size
	k.size = size
	if len(all.byKey) > maxKept || all.bytes > maxKeptBytes {
		all.evict()
	}
}

func (all *kept[K, V]) remove(key K, k *keeping[V]) {
	all.bytes -= k.size
	delete(all.byKey, key)
}

// sweep drops what nobody reads, now and then.
func (all *kept[K, V]) sweep(now time.Duration) {
	last := all.swept.Load()
	if now-time.Duration(last) < sweepEvery || !all.swept.CompareAndSwap(last, int64(now)) {
		return
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	for key, k := range all.byKey {
		if now-time.Duration(k.used.Load()) > keepFor {
			all.remove(key, k)
		}
	}
}

// evict drops some, so that it need not be done for each: those that were not used for
// longest.
func (all *kept[K, V]) evict() {
	type candidate struct {
		key  K
		used int64
		kept *keeping[V]
	}
	candidates := make([]candidate, 0, len(all.byKey))
	for key, k := range all.byKey {
		candidates = append(candidates, candidate{key, k.used.Load(), k})
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	for _, c := range candidates {
		if len(all.byKey) <= maxKept/100*keptShare && all.bytes <= maxKeptBytes/100*keptShare {
			return
		}
		all.remove(c.key, c.kept)
		all.evicted()
	}
}
