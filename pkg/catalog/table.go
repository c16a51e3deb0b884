package catalog

import (
	"hash/maphash"
	"iter"
	"maps"
)

// parts is into how many maps a table is divided: of ten thousand entries, one that
// changes costs a copy of forty.
const parts = 256

var seed = maphash.MakeSeed()

// table is a map that is never changed. A copy of it with some changes shares the parts
// in which nothing changed. The zero table is empty.
type table[K comparable, V any] struct {
	parts *[parts]map[K]V
	size  int
}

func partOf[K comparable](key K) int {
	return int(maphash.Comparable(seed, key) % parts)
}

// get is the value of a key, or zero.
func (t table[K, V]) get(key K) V {
	v, _ := t.find(key)
	return v
}

func (t table[K, V]) find(key K) (V, bool) {
	if t.parts == nil {
		var none V
		return none, false
	}
	v, ok := t.parts[partOf(key)][key]
	return v, ok
}

func (t table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t.parts == nil {
			return
		}
		for _, part := range t.parts {
			for k, v := range part {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// edit is a table that is being made of another one.
type edit[K comparable, V any] struct {
	table[K, V]

	// own says which parts are no longer the other one's.
	own [parts]bool
}

func (t table[K, V]) edit() *edit[K, V] { return &edit[K, V]{table: t} }

// part is the part of a key, which may be written to.
func (e *edit[K, V]) part(key K) map[K]V {
	i := partOf(key)
	if e.own[i] {
		return e.parts[i]
	}
	if e.own == [parts]bool{} {
		before := e.parts
		e.parts = new([parts]map[K]V)
		if before != nil {
			*e.parts = *before
		}
	}
	e.own[i] = true
	if e.parts[i] = maps.Clone(e.parts[i]); e.parts[i] == nil {
		e.parts[i] = map[K]V{}
	}
	return e.parts[i]
}

func (e *edit[K, V]) set(key K, v V) {
	part := e.part(key)
	e.size -= len(part)
	part[key] = v
	e.size += len(part)
}

func (e *edit[K, V]) remove(key K) {
	if _, ok := e.find(key); ok {
		delete(e.part(key), key)
		e.size--
	}
}
