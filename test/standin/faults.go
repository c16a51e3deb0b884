package standin

import (
	"maps"
	"slices"
	"sync"
)

// Faults are the faults that are in force, of a kind of stand-in.
type Faults[F any] struct {
	count func(*F) *int

	mu     sync.Mutex
	lastID int
	active map[int]*F
}

// NewFaults are none yet. The function gives the field of a fault that says for how many
// calls it is, 0 for all of them.
func NewFaults[F any](count func(*F) *int) *Faults[F] {
	return &Faults[F]{count: count, active: map[int]*F{}}
}

// Add puts a fault in force until its count is used up or it is removed.
func (s *Faults[F]) Add(f F) (id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	s.active[s.lastID] = &f
	return s.lastID
}

// Remove takes a fault out of force.
func (s *Faults[F]) Remove(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, id)
}

// Clear takes every fault out of force.
func (s *Faults[F]) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.active)
}

// List gives the faults by their IDs, with the counts that are left.
func (s *Faults[F]) List() map[int]F {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[int]F{}
	for id, f := range s.active {
		all[id] = *f
	}
	return all
}

// Take returns the faults for a call, the oldest first, and counts them as used.
func (s *Faults[F]) Take(matches func(F) bool) []F {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken []F
	for _, id := range slices.Sorted(maps.Keys(s.active)) {
		f := s.active[id]
		if !matches(*f) {
			continue
		}
		taken = append(taken, *f)
		left := s.count(f)
		if *left == 0 {
			continue
		}
		*left--
		if *left == 0 {
			delete(s.active, id)
		}
	}
	return taken
}
