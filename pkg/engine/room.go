package engine

import (
	"cmp"
	"fmt"
	"slices"
)

// trimShare is the part of a limit, a hundredth, that is let go beyond what is needed,
// so that it is not looked for again with each new query.
const trimShare = 100

// room is what the queries that are not pinned take up. Anybody who may read can think
// of new ones, while pinned ones are as many as people wrote down.
type room struct {
	entries, samples int
	// bytes are those of the keys.
	bytes int
	// none says that nothing could be let go, and nothing has become so since.
	none bool
}

func (r room) within(limit room) bool {
	return r.entries <= limit.entries && r.samples <= limit.samples && r.bytes <= limit.bytes
}

// BusyError is the error of a read of a new query when too many are read that no HPA
// names, and none of them can be let go because all are being asked. It says nothing
// about the backend.
type BusyError struct {
	// Source is the name of the source that is asked too much.
	Source string
	// Queries and Samples are what it holds of queries that no HPA names.
	Queries, Samples int
	// Bytes are those of their keys.
	Bytes int
	// MaxQueries, MaxSamples and MaxBytes are the limits, as in Options.
	MaxQueries, MaxSamples, MaxBytes int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("source %s is asked too many different queries that no HPA names: %d of at most %d, with %d samples of at most %d and %d bytes of at most %d; "+
		"ask for fewer metrics, objects and selectors at a time, or again later",
		e.Source, e.Queries, e.MaxQueries, e.Samples, e.MaxSamples, e.Bytes, e.MaxBytes)
}

// hold counts e n times more among those that are not pinned, if it is one.
func (f *feed) hold(e *entry, n int) {
	if e.pinned == nil {
		f.room.entries += n
		f.room.samples += n * len(e.state.Load().answer.Samples)
		f.room.bytes += n * len(e.query.Key())
	}
}

// room is what queries that are not pinned may take up.
func (o Options) room() room {
	return room{entries: o.MaxUnpinned, samples: o.MaxUnpinnedSamples, bytes: o.MaxUnpinnedBytes}
}

// makeRoom makes room for one more query, of that key, that is not pinned. The error is
// a *BusyError.
func (f *feed) makeRoom(key string) error {
	limit := f.opts.room()
	limit.entries--
	limit.bytes -= len(key)
	f.trim(limit)
	if f.room.within(limit) {
		return nil
	}
	return &BusyError{
		Source:  f.name,
		Queries: f.room.entries, MaxQueries: f.opts.MaxUnpinned,
		Samples: f.room.samples, MaxSamples: f.opts.MaxUnpinnedSamples,
		Bytes: f.room.bytes, MaxBytes: f.opts.MaxUnpinnedBytes,
	}
}

// trim lets go of queries until those that are not pinned take up no more than the
// limit: those first that nobody has read for the longest time.
func (f *feed) trim(limit room) {
	if f.room.within(limit) || f.room.none {
		return
	}
	target := limit
	if f.room.entries > limit.entries {
		target.entries -= limit.entries / trimShare
	}
	if f.room.samples > limit.samples {
		target.samples -= limit.samples / trimShare
	}
	if f.room.bytes > limit.bytes {
		target.bytes -= limit.bytes / trimShare
	}
	for _, e := range f.unread() {
		if f.room.within(target) {
			return
		}
		f.remove(e)
		f.metrics.letGo.Inc()
	}
	f.room.none = !f.room.within(limit)
}

// unread are the queries that can be let go, those first that were not read for the
// longest time: not those for whose first answer somebody waits.
func (f *feed) unread() []*entry {
	type reading struct {
		entry *entry
		// at is kept, because readers change it while this sorts.
		at int64
	}
	var found []reading
	for _, e := range f.queue {
		if e.pinned == nil && (e.idle || e.state.Load().pending == nil) {
			found = append(found, reading{e, e.lastRead.Load()})
		}
	}
	slices.SortFunc(found, func(a, b reading) int { return cmp.Compare(a.at, b.at) })
	entries := make([]*entry, len(found))
	for i, r := range found {
		entries[i] = r.entry
	}
	return entries
}
