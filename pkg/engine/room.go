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
	// none says that nothing could be let go, and nothing has become so since.
	none bool
}

func (r room) within(limit room) bool {
	return r.entries <= limit.entries && r.samples <= limit.samples
}

// BusyError is the error of a read of a new query when too many are read that no HPA
// names, and none of them can be let go because all are being asked. It says nothing
// about the backend.
type BusyError struct {
	// Source is the name of the source that is asked too much.
	Source string
	// Queries and Samples are what it holds of queries that no HPA names.
	Queries, Samples int
	// MaxQueries and MaxSamples are the limits, as in Options.
	MaxQueries, MaxSamples int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("source %s is asked too many different queries that no HPA names: %d of at most %d, with %d samples of at most %d; "+
		"ask for fewer metrics, objects and selectors at a time, or again later",
		e.Source, e.Queries, e.MaxQueries, e.Samples, e.MaxSamples)
}

// hold counts e n times more among those that are not pinned, if it is one.
func (f *feed) hold(e *entry, n int) {
	if e.pinned == nil {
		f.room.entries += n
		f.room.samples += n * len(e.state.Load().answer.Samples)
	}
}

// makeRoom makes room for one more query that is not pinned. The error is a *BusyError.
func (f *feed) makeRoom() error {
	f.trim(f.opts.MaxUnpinned - 1)
	if f.room.entries < f.opts.MaxUnpinned && f.room.samples <= f.opts.MaxUnpinnedSamples {
		return nil
	}
	return &BusyError{
		Source:  f.name,
		Queries: f.room.entries, MaxQueries: f.opts.MaxUnpinned,
		Samples: f.room.samples, MaxSamples: f.opts.MaxUnpinnedSamples,
	}
}

// trim lets go of queries until no more than so many are held that are not pinned, and
// no more samples of them than may be: those first that nobody has read for the longest
// time.
func (f *feed) trim(entries int) {
	limit := room{entries: entries, samples: f.opts.MaxUnpinnedSamples}
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
