package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// A circuit opens after so many Fetches in a row that found nobody, which took so long
	// together. One that is restarted, or a connection that is cut, opens none.
	opensAfter    = 3
	opensAfterFor = 5 * time.Second
	// probeSize is how many queries a probe has at most.
	probeSize = 4
	// The time from one probe to the next doubles from firstProbe to lastProbe, which is how
	// long HPAs may hold because nobody has seen that the backend is back.
	firstProbe = time.Second
	lastProbe  = 10 * time.Second
)

// circuit is open while a backend is away. Its queries wait then, but for the few of a
// probe. It belongs to the feed's mutex.
type circuit struct {
	// misses are the Fetches in a row that found nobody, the first of which was over at
	// since.
	misses int
	since  time.Time
	// err is what the last of them said. It holds for all queries of the backend.
	err  error
	open bool
	// probing says that a probe is under way, and probes how many found nobody since the
	// circuit opened.
	probing bool
	probes  int
	// next is when the next probe is due.
	next time.Time
	// first is the feed's first probe of this time that the backend is away, and started how
	// many there were since.
	first   uint64
	started int
}

// sign is what a Fetch tells of whether somebody is there.
type sign int

const (
	noSign sign = iota
	nobody
	// slow is somebody who did not answer in time.
	slow
	somebody
)

// signOf is the strongest sign of life in the results.
func signOf(results []sources.Result) (strongest sign, away error) {
	for _, r := range results {
		switch {
		case errors.Is(r.Err, sources.ErrAway):
			away = cmp.Or(away, r.Err)
			strongest = max(strongest, nobody)
		case errors.Is(r.Err, sources.ErrTooSlow):
			strongest = slow
		case errors.Is(r.Err, sources.ErrNotAsked), errors.Is(r.Err, context.DeadlineExceeded):
		default:
			return somebody, nil
		}
	}
	return strongest, away
}

// turned is what became of a backend's circuit.
type turned struct {
	backend string
	// opened is why it has opened; nil if it has not.
	opened error
	// closed is how long the backend was away, if it has closed.
	closed time.Duration
}

// heed takes in what a Fetch of b, begun at one time and over now, tells of whether
// somebody is there.
func (f *feed) heed(l lane, results []sources.Result, asked, now time.Time) turned {
	b, t := l.backend, turned{backend: l.backend.name}
	s, err := signOf(results)
	b.heed(s, now)
	c := &b.circuit
	if l.probe {
		c.probing = false
	}
	switch {
	case s >= slow:
		if c.open {
			t.closed = now.Sub(c.since)
		}
		f.settleCircuit(b, now)
	case s == nobody:
		t.opened = f.miss(l, err, asked, now)
	case l.probe && c.open:
		c.delay(asked, now)
	case l.probe:
		delete(f.circuits, b)
	}
	if len(f.circuits) > 0 {
		f.lookAgain()
	}
	return t
}

// miss counts a Fetch that found nobody, and gives its error if the circuit opens.
func (f *feed) miss(l lane, err error, asked, now time.Time) error {
	c := &l.backend.circuit
	c.misses++
	if c.misses == 1 {
		c.since = now
	}
	c.err = err
	switch {
	case c.open:
		if l.probe {
			c.probes++
			c.delay(asked, now)
		}
	case c.probing || c.misses < opensAfter || now.Sub(c.since) < opensAfterFor:
	case !l.probe && f.probeOf(l.backend, now) != nil:
		// Those that failed may be bad by themselves. Queries that were well decide.
		c.next = now
		f.circuits[l.backend] = true
	default:
		c.open, c.next, c.first = true, now.Add(newJitter().of(firstProbe)), f.probes+1
		f.circuits[l.backend] = true
		return err
	}
	return nil
}

// delay sets when the next probe is due after one that began at one time and is over now.
func (c *circuit) delay(asked, now time.Time) {
	wait := newJitter().of(sources.Backoff(firstProbe, lastProbe, c.probes+1))
	c.next = latest(asked.Add(wait), now.Add(firstProbe*3/4))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settleCircuit closes b's circuit. What waited for that, or failed because nobody was
// there, is due.
func (f *feed) settleCircuit(b *backend, now time.Time) {
	was := b.circuit.open
	b.circuit = circuit{}
	delete(f.circuits, b)
	if !was {
		return
	}
	var due []*entry
	for _, e := range f.queue {
		if e.backend == b && !e.idle && (e.waits || errors.Is(e.state.Load().err(), sources.ErrAway)) {
			due = append(due, e)
		}
	}
	for _, e := range due {
		if errors.Is(e.state.Load().err(), sources.ErrAway) {
			e.succeed()
		}
		f.enqueue(e, now)
	}
}

// shelve lets e wait while its backend is away. Who reads it hears of that as if it had
// been asked.
func (f *feed) shelve(r *round, e *entry, now time.Time) {
	c, was := &e.backend.circuit, e.state.Load()
	if was.pending != nil || was.err() == nil {
		is, _ := e.after(sources.Result{Err: c.err}, now, now)
		f.replace(e, is)
		f.room.none = false
		r.shelved = append(r.shelved, e)
	}
	e.waits = true
	f.enqueue(e, c.wakes(now))
}

// wakes is when to look again at a query that waits: not now, whatever is due with what is
// due now.
func (c *circuit) wakes(now time.Time) time.Time {
	if c.probing || !c.next.After(now.Add(gather)) {
		return now.Add(lastProbe)
	}
	return c.next
}

// probe starts the probes that are due, and gives the time of the next one; zero if there
// is none. A backend of which nothing is in demand is not probed until something is.
func (f *feed) probe(r *round, now time.Time) (next time.Time) {
	horizon := now.Add(gather)
	for b := range f.circuits {
		c := &b.circuit
		switch {
		case c.probing:
		case !c.next.After(horizon):
			f.startProbe(r, b, now)
		case next.IsZero() || c.next.Before(next):
			next = c.next
		}
	}
	return next
}

func (f *feed) startProbe(r *round, b *backend, now time.Time) {
	batch := f.probeOf(b, now)
	if batch == nil {
		if !b.circuit.open {
			delete(f.circuits, b)
		}
		return
	}
	f.probes++
	l := lane{backend: b, pinned: batch[0].pinned != nil, pauses: b.throttle.pauses, probe: true}
	for _, e := range batch {
		f.dequeue(e)
		e.probed, e.waits = f.probes, false
	}
	b.circuit.probing = true
	b.circuit.started++
	f.count(l, 1)
	r.batches[l] = batch
}

// probeOf are the queries of the next probe: pinned ones first, and those that had none
// lately, so that a few that are bad by themselves do not keep a circuit open. Ever new ones
// had none either, so that every other probe is of pinned ones whatever else there is. Before
// the circuit is open they are queries that were well when they were asked last. There may be
// none.
func (f *feed) probeOf(b *backend, now time.Time) []*entry {
	var found []*entry
	for _, e := range f.queue {
		if e.backend == b && !e.idle && f.inDemand(e, now) && (b.circuit.open || e.isWell()) {
			found = append(found, e)
		}
	}
	pinnedFirst := b.circuit.started%2 == 0
	slices.SortFunc(found, func(x, y *entry) int {
		class := cmp.Compare(x.class(), y.class())
		order := cmp.Compare(x.reserve(), y.reserve())
		if pinnedFirst {
			order = cmp.Or(order, class)
		}
		return cmp.Or(order, cmp.Compare(b.circuit.lately(x), b.circuit.lately(y)), class, cmp.Compare(x.due, y.due))
	})
	n := 0
	for n < min(len(found), probeSize) && found[n].reserve() == found[0].reserve() && found[n].class() == found[0].class() {
		n++
	}
	return found[:n:n]
}

// lately is the last probe that e was part of, of those since the backend was away.
func (c *circuit) lately(e *entry) uint64 {
	if e.probed < c.first {
		return 0
	}
	return e.probed
}

// reserve orders those that a probe had better not ask: a rejected one costs the others
// calls, and somebody waits for one that was never asked.
func (e *entry) reserve() int {
	switch {
	case e.state.Load().pending != nil:
		return 2
	case e.rejected:
		return 1
	default:
		return 0
	}
}

// class is 0 for a pinned query. It shares no probe with one that is not.
func (e *entry) class() int {
	if e.pinned != nil {
		return 0
	}
	return 1
}

// isWell says that the query was answered when it was asked last.
func (e *entry) isWell() bool {
	s := e.state.Load()
	return s.pending == nil && s.err() == nil
}
