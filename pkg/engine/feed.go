package engine

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// gather is how long a cold query waits for others to share its Fetch with.
	// Queries that are due within this time of each other are fetched together.
	gather = 5 * time.Millisecond
	// markEvery is how exactly the time of the last read is kept, so that readers of
	// one query do not all write to it.
	markEvery = time.Second
	// minInterval keeps the queue from spinning over a request without an interval.
	minInterval = time.Second
	// A query stays in demand after a read for fewIntervals of its own, and at least for
	// minDemand, in which an HPA reads it four times. So who asks for what nobody needs
	// again costs a few calls.
	fewIntervals = 3
	minDemand    = time.Minute
)

// feed keeps the answers of one source and refreshes them.
type feed struct {
	name     string
	source   sources.Source
	opts     Options
	metrics  feedMetrics
	schedule schedule
	epoch    time.Time
	kick     chan struct{} // wakes run to look at the queue again
	// timeout is Options.FetchTimeout or what it was changed to, in nanoseconds.
	timeout atomic.Int64

	// entries are read without a lock, and written under mu.
	entries entries

	mu    sync.Mutex
	queue queue
	// backends are those that have entries, by name.
	backends map[string]*backend
	inFlight int
	room     room
	// circuits has the backends that are probed, and probes counts those there were.
	circuits map[*backend]bool
	probes   uint64
}

// pin is a query that is in demand because an HPA names it.
type pin struct {
	query sources.Query
	terms terms
}

func newFeed(name string, phase time.Duration, opts Options, m *metrics) *feed {
	f := &feed{
		name:     name,
		source:   opts.Sources[name],
		opts:     opts,
		metrics:  m.of(name),
		schedule: schedule{phase: phase, backoff: opts.Backoff},
		epoch:    time.Now(),
		kick:     make(chan struct{}, 1),
		backends: map[string]*backend{},
		circuits: map[*backend]bool{},
	}
	f.timeout.Store(int64(opts.FetchTimeout))
	return f
}

// read is the hot path: what it does for a known query takes no lock and allocates
// nothing.
func (f *feed) read(ctx context.Context, req Request) (Answer, error) {
	e := f.lookup(req.Query.Key())
	if e == nil {
		return f.await(ctx, req)
	}
	s := e.state.Load()
	if s.pending != nil {
		return f.await(ctx, req)
	}
	now := time.Now()
	f.mark(e, req, now)
	answer, err := s.read(f.name, req.MaxAge, now)
	f.metrics.read(e, s, err, now)
	return answer, err
}

func (f *feed) lookup(key string) *entry { return f.entries.get(key) }

// mark keeps e in demand.
func (f *feed) mark(e *entry, req Request, now time.Time) {
	if at := int64(f.instant(now)); at-e.lastRead.Load() >= int64(markEvery) {
		e.lastRead.Store(at)
	}
	if asked := e.asked.Load(); asked == nil || !termsOf(req).within(*asked) {
		_, _ = f.join(req, now) // the reader has its answer, even if there is no room any more
	}
}

func (f *feed) instant(t time.Time) instant { return instant(t.Sub(f.epoch)) }

// time is i as a time, by the wall clock of now.
func (f *feed) time(i instant, now time.Time) time.Time {
	return now.Add(time.Duration(i - f.instant(now)))
}

// await reads a query that has to be fetched first.
func (f *feed) await(ctx context.Context, req Request) (Answer, error) {
	for {
		e, err := f.join(req, time.Now())
		if err != nil {
			f.metrics.refused.Inc()
			return Answer{}, err
		}
		s := e.state.Load()
		if s.pending != nil {
			select {
			case <-s.pending:
				s = e.state.Load()
			case <-ctx.Done():
				f.metrics.abandoned.Inc()
				return Answer{}, f.cutShort(e, context.Cause(ctx))
			}
		}
		if s.pending != nil {
			// What was waited for is forgotten, and has to be asked anew.
			continue
		}
		now := time.Now()
		answer, err := s.read(f.name, req.MaxAge, now)
		f.metrics.waited(e, answer, err, now)
		return answer, err
	}
}

func (f *feed) cutShort(e *entry, cause error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := e.backend.throttle; t.until.After(time.Now()) {
		return fmt.Errorf("source %s: the first fetch waits until %s (%w): %w", f.name, timestamp(t.until), t.err, cause)
	}
	return fmt.Errorf("source %s: the first fetch is still under way: %w", f.name, cause)
}

// join brings req's query into demand with req's terms. The error is a *BusyError.
func (f *feed) join(req Request, now time.Time) (*entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lookup(req.Query.Key()) == nil {
		if err := f.makeRoom(req.Query.Key()); err != nil {
			return nil, err
		}
	}
	e, t := f.entry(req.Query), termsOf(req)
	e.lastRead.Store(int64(f.instant(now)))
	e.shorten(t)
	switch {
	case e.idle:
		f.revive(e, t, now)
	case !t.within(e.terms):
		e.terms = e.terms.and(t)
		f.hasten(e, now)
	}
	return e, nil
}

// pin replaces what is pinned.
func (f *feed) pin(pins map[string]pin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := range f.entries.all() {
		if e.pinned == nil {
			continue
		}
		if _, ok := pins[e.query.Key()]; !ok {
			f.setPinned(e, nil)
		}
	}
	now := time.Now()
	all := map[terms]*terms{} // Most pins have the same.
	for key, p := range pins {
		if e := f.lookup(key); e != nil && e.pinned != nil && *e.pinned == p.terms {
			continue
		}
		if all[p.terms] == nil {
			all[p.terms] = new(p.terms)
		}
		e := f.entry(p.query)
		f.setPinned(e, all[p.terms])
		if e.idle {
			f.revive(e, p.terms, now)
		} else {
			// A changed definition counts at once; readers that need shorter terms say
			// so with their next read.
			e.asked.Store(nil)
			e.terms = p.terms
			f.hasten(e, now)
		}
	}
}

// setPinned makes e one of the pinned queries, or of the others.
func (f *feed) setPinned(e *entry, t *terms) {
	was := e.pinned != nil
	if was == (t != nil) {
		e.pinned = t
		return
	}
	f.hold(e, -1)
	e.pinned = t
	f.hold(e, 1)
	f.room.none = false
	if e.place < 0 {
		// It may wait where it need not any more.
		f.requeue(e.backend)
	}
}

// startOver drops what is known of the queries to those backends; to all if there are
// none.
func (f *feed) startOver(backends []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, b := range f.backends {
		if len(backends) == 0 || slices.Contains(backends, name) {
			// Fetches that are under way, and a pause, are those of the old backend.
			b.forgotten, b.waiting = true, nil
			delete(f.backends, name)
			delete(f.circuits, b)
		}
	}
	now := time.Now()
	for e := range f.entries.all() {
		if e.backend.forgotten {
			f.renew(e, now)
		}
	}
}

// renew asks for e anew if it is pinned, and otherwise drops it.
func (f *feed) renew(e *entry, now time.Time) {
	if e.pinned == nil {
		f.replace(e, forgotten)
		f.remove(e)
		return
	}
	e.backend = f.backend(e.backend.name)
	e.backend.entries++
	f.replace(e, cold())
	e.succeed()
	e.told, e.waits = false, false
	f.revive(e, e.terms, now)
}

// replace changes what is known of e, and wakes who waits for that.
func (f *feed) replace(e *entry, is *state) {
	was := e.state.Load()
	f.hold(e, -1)
	e.state.Store(is)
	f.hold(e, 1)
	if was.pending != nil {
		close(was.pending)
	}
}

func (f *feed) peek(req Request) (State, bool) {
	e := f.lookup(req.Query.Key())
	if e == nil {
		return State{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, now := e.state.Load(), time.Now()
	if !s.known() {
		return State{}, false
	}
	_, err := s.read(f.name, req.MaxAge, now)
	st := State{Answer: s.answer, ReadErr: err, Err: s.err(), Since: s.wrong().since, InDemand: f.inDemand(e, now)}
	if st.InDemand {
		st.Due = f.time(e.due, now)
	}
	return st, true
}

// entry is the entry of q, which is idle if it is new.
func (f *feed) entry(q sources.Query) *entry {
	key := q.Key()
	if e := f.lookup(key); e != nil {
		return e
	}
	e := &entry{query: q, backend: f.backend(q.Backend()), idle: true, place: -1}
	e.backend.entries++
	e.state.Store(cold())
	f.hold(e, 1)
	e.lastRead.Store(int64(-f.opts.DemandFor) - 1) // never
	f.entries.put(e)
	return e
}

// forget drops an entry that is not in the queue, and its backend with the last one.
func (f *feed) forget(e *entry) {
	f.hold(e, -1)
	f.entries.remove(e.query.Key())
	b := e.backend
	b.entries--
	if b.entries == 0 && !b.forgotten {
		delete(f.backends, b.name)
		delete(f.circuits, b)
	}
}

// remove drops an entry wherever it is.
func (f *feed) remove(e *entry) {
	f.dequeue(e)
	f.forget(e)
}

// dequeue takes an entry out of the queue, if it is there.
func (f *feed) dequeue(e *entry) {
	if e.place >= 0 {
		heap.Remove(&f.queue, int(e.place))
	}
}

func (f *feed) backend(name string) *backend {
	b, ok := f.backends[name]
	if !ok {
		b = &backend{name: name, schedule: f.schedule.later(phaseOf(name))}
		f.backends[name] = b
	}
	return b
}

// revive puts an idle entry into the queue for the next batch.
func (f *feed) revive(e *entry, t terms, now time.Time) {
	e.idle, e.terms, e.reviewed = false, t, f.instant(now)
	f.enqueue(e, now.Add(gather))
}

// rest takes e out of demand. It is kept as long again as it was in demand after its last
// read, so that its last answer can still be seen; but a reader who comes back waits for
// a new one.
func (f *feed) rest(e *entry, now time.Time) {
	s := *e.state.Load()
	s.pending = make(chan struct{})
	e.state.Store(&s)
	e.asked.Store(nil)
	e.idle, e.failures, e.told, e.waits = true, 0, false, false
	f.enqueue(e, now.Add(f.span(e.terms)))
	f.room.none = false
}

// span is how long after a read a query of such terms stays in demand.
func (f *feed) span(t terms) time.Duration {
	return min(f.opts.DemandFor, max(fewIntervals*t.interval, minDemand))
}

func (f *feed) inDemand(e *entry, now time.Time) bool {
	return !e.idle && (e.pinned != nil || int64(f.instant(now))-e.lastRead.Load() <= int64(f.span(e.terms)))
}

// hasten makes terms that have become shorter count at once, except for a query
// that is due already or backs off.
func (f *feed) hasten(e *entry, now time.Time) {
	if e.place < 0 {
		return
	}
	due := e.due
	if next := f.instant(e.backend.schedule.refresh(now, e.terms.interval)); e.failures == 0 {
		due = min(due, next)
	}
	f.queueAt(e, due)
}

// enqueue sets when e is due, whether or not it is queued.
func (f *feed) enqueue(e *entry, due time.Time) { f.queueAt(e, f.instant(due)) }

func (f *feed) queueAt(e *entry, due instant) {
	e.due, e.wake = due, due
	if at := e.tooOld(); !at.IsZero() {
		e.wake = min(due, f.instant(at))
	}
	if e.place < 0 {
		heap.Push(&f.queue, e)
	} else {
		heap.Fix(&f.queue, int(e.place))
	}
	if e.place == 0 {
		f.lookAgain()
	}
}

func (f *feed) lookAgain() {
	select {
	case f.kick <- struct{}{}:
	default: // it will look anyway
	}
}
