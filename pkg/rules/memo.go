package rules

import "sync"

// memo remembers what was found out before, up to a number of entries. It is empty
// again when it is full, which costs less than knowing the oldest entry. It is safe for
// concurrent use.
type memo[K comparable, V any] struct {
	limit   int
	mu      sync.RWMutex
	entries map[K]V
}

func newMemo[K comparable, V any](limit int) *memo[K, V] {
	return &memo[K, V]{limit: limit, entries: map[K]V{}}
}

func (m *memo[K, V]) get(key K) (V, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.entries[key]
	return v, ok
}

func (m *memo[K, V]) put(key K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) >= m.limit {
		clear(m.entries)
	}
	m.entries[key] = v
}
