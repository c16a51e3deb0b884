package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// maxSpread is how many Fetches share what an earlier one did not ask, or of which a backend
// that answered others asked for fewer calls.
const maxSpread = 8

// run starts Fetches as queries fall due, until ctx is done, and waits for them.
func (f *feed) run(ctx context.Context) {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	for ctx.Err() == nil {
		now := time.Now()
		r := f.take(now)
		for _, e := range slices.Concat(r.tooOld, r.shelved) {
			f.opts.OnChange(f.name, e.query.Key())
		}
		for l, batch := range r.batches {
			fetches.Go(func() { f.fetch(ctx, l, batch) })
		}
		var timer <-chan time.Time
		if !r.next.IsZero() {
			timer = time.After(r.next.Sub(now))
		}
		select {
		case <-ctx.Done():
		case <-f.kick:
		case <-timer:
		}
	}
}

// round is what there is to do at one time.
type round struct {
	// batches are the entries to fetch, each for a Fetch of its own.
	batches map[lane][]*entry
	// tooOld are entries whose answer has just become too old to serve.
	tooOld []*entry
	// shelved are entries that have just failed without being asked, because their backend is
	// away. That was logged.
	shelved []*entry
	// next is when the next round is; zero if there is nothing to wait for but a kick.
	next time.Time
}

// lane is what the queries of a batch have in common: whom they ask, so that nobody
// waits for another backend; how that went so far, so that a bad query costs the good
// ones no calls again and again; and whether HPAs name them, so that these wait for
// nothing that somebody else thought of.
type lane struct {
	backend  *backend
	standing standing
	pinned   bool
	// spread is that of the entries: those that were not asked, because of slow ones, are
	// apart from each other, so that each Fetch has few that are slow; and so are those that
	// were throttled while others were answered, as a call may be refused for one of them.
	spread int8
	// pauses is how many of the backend's there were when the batch was put together.
	pauses int32
	// probe says that the batch is to find out whether the backend is back.
	probe bool
}

// take removes from the queue what is to be done now.
func (f *feed) take(now time.Time) round {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := round{batches: map[lane][]*entry{}}
	r.next = f.probe(&r, now)
	if len(f.queue) > 0 && f.queue[0].wake <= f.instant(now) {
		f.collect(&r, now)
	}
	if len(f.queue) == 0 {
		return r
	}
	if wake := f.time(f.queue[0].wake, now); r.next.IsZero() || wake.Before(r.next) {
		r.next = wake
	}
	return r
}

// collect takes what wakes within gather.
func (f *feed) collect(r *round, now time.Time) {
	horizon := now.Add(gather)
	last := f.instant(horizon)
	for len(f.queue) > 0 && f.queue[0].wake <= last {
		e := f.queue[0]
		heap.Pop(&f.queue)
		switch {
		case e.due > last:
			e.told = true
			r.tooOld = append(r.tooOld, e)
			f.queueAt(e, e.due)
		case e.idle:
			f.forget(e)
		case e.state.Load().pending == nil && !f.inDemand(e, now):
			f.rest(e, now)
		case e.backend.circuit.open:
			f.shelve(r, e, now)
		case e.backend.throttle.until.After(horizon):
			e.waits = true
			f.enqueue(e, e.backend.throttle.until)
		default:
			f.assign(r, e)
		}
	}
}

// assign puts e into a batch, or lets it wait until its backend may have one more.
func (f *feed) assign(r *round, e *entry) {
	b := e.backend
	l := lane{backend: b, standing: e.standing(), pinned: e.pinned != nil, spread: e.spread, pauses: b.throttle.pauses}
	if r.batches[l] == nil {
		if !b.mayFetch(l.pinned, f.inFlight) {
			b.waiting = append(b.waiting, e)
			e.waits = true
			return
		}
		f.count(l, 1)
	}
	e.waits = false
	r.batches[l] = append(r.batches[l], e)
}

// count adds n to the Fetches in flight.
func (f *feed) count(l lane, n int) {
	f.inFlight += n
	if l.pinned {
		l.backend.pinnedInFlight += n
	} else {
		l.backend.unpinnedInFlight += n
	}
}

// release counts a Fetch as over, and gives those that waited for it their turn.
func (f *feed) release(l lane) {
	f.count(l, -1)
	f.requeue(l.backend)
}

// requeue lets those that wait for a Fetch of b try again.
func (f *feed) requeue(b *backend) {
	for _, e := range b.waiting {
		f.queueAt(e, e.due)
	}
	b.waiting = nil
	f.room.none = false
}

// fetch asks for a batch and takes in the results.
func (f *feed) fetch(ctx context.Context, l lane, batch []*entry) {
	asked := time.Now()
	asking := ctx
	if !l.pinned {
		asking = sources.Yielding(asking)
	}
	if l.standing != healthy {
		asking = sources.Retrying(asking)
	}
	results := f.ask(asking, batch)
	now := time.Now()
	if ctx.Err() != nil {
		f.putBack(l, batch, now)
		return
	}
	f.metrics.fetched(results, now.Sub(asked))
	f.report(ctx, f.settle(l, batch, results, asked, now))
}

// ask gives one result per entry, whatever the source does.
func (f *feed) ask(ctx context.Context, batch []*entry) (results []sources.Result) {
	timeout := time.Duration(f.timeout.Load())
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err := fmt.Errorf("the source panicked: %v", p)
			klog.FromContext(ctx).Error(err, "Recovered", "source", f.name, "stack", string(debug.Stack()))
			results = failAll(batch, err)
		}
	}()
	queries := make([]sources.Query, len(batch))
	for i, e := range batch {
		queries[i] = e.query
	}
	results = f.source.Fetch(ctx, queries)
	if len(results) != len(batch) {
		return failAll(batch, fmt.Errorf("the source gave %d results to %d queries", len(results), len(batch)))
	}
	for i, r := range results {
		if ctx.Err() != nil && errors.Is(r.Err, context.DeadlineExceeded) {
			results[i].Err = fmt.Errorf("no answer within %v: %w", timeout, r.Err)
		}
	}
	return results
}

func failAll(batch []*entry, err error) []sources.Result {
	results := make([]sources.Result, len(batch))
	for i := range results {
		results[i].Err = err
	}
	return results
}

// putBack returns a batch to the queue that was cut short because the engine stops,
// which says nothing about the backend.
func (f *feed) putBack(l lane, batch []*entry, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release(l)
	if l.backend.forgotten {
		return
	}
	if l.probe {
		l.backend.circuit.probing = false
	}
	for _, e := range batch {
		f.enqueue(e, now)
	}
}

// news are what a Fetch has changed.
type news struct {
	changes []change
	circuit turned
}

// change is a state that another one has followed.
type change struct {
	entry   *entry
	was, is *state
}

// settle takes in the results of a batch, which the backend was asked for at one time
// and gave now, wakes who waits for them, and gives back what has changed.
func (f *feed) settle(l lane, batch []*entry, results []sources.Result, asked, now time.Time) news {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release(l)
	if l.backend.forgotten {
		return news{}
	}
	l.backend.throttle.heed(l, batch, results, f.opts.Backoff.Max, now)
	said := news{circuit: f.heed(l, results, asked, now)}
	// One jitter for the batch, so that what failed together is retried together.
	jitter := newJitter()
	apart := 0
	for i, e := range batch {
		was := e.state.Load()
		is, err := e.after(results[i], asked, now)
		f.replace(e, is)
		serves := is.serves(now, e.terms.maxAge)
		if is.differs(was) || serves && e.told {
			said.changes = append(said.changes, change{e, was, is})
		}
		e.told = e.told && !serves
		if at := f.instant(now); time.Duration(at-e.reviewed) >= f.opts.DemandFor {
			e.review(at)
		}
		f.enqueue(e, f.nextDue(e, err, jitter, now))
		if errors.Is(err, sources.ErrNotAsked) || isThrottling(err) && l.backend.throttle.isOnly(e) {
			e.spread = int8(1 + apart%maxSpread)
			apart++
		}
	}
	f.trim(f.opts.room())
	return said
}

// nextDue counts the failures of e, whose fetch ended with err, and says when to ask it
// again.
func (f *feed) nextDue(e *entry, err error, j jitter, now time.Time) time.Time {
	switch {
	case err == nil:
		e.succeed()
		// It may have been asked up to gather early, and is not asked again for that.
		return e.backend.schedule.refresh(now.Add(gather), e.terms.interval)
	case errors.Is(err, sources.ErrNotAsked):
		return now
	case isThrottling(err) && !e.backend.throttle.isOnly(e):
		e.waits = true
		return e.backend.throttle.until
	case e.backend.circuit.open:
		e.fail(err)
		e.waits = true
		return e.backend.circuit.wakes(now)
	default:
		e.fail(err)
		return e.backend.schedule.retry(now, e.terms, int(e.failures), err, j)
	}
}

// report logs which queries began or ceased to fail, or fail for another reason than
// before, and whether their backend is away, and tells OnChange of all that changed.
func (f *feed) report(ctx context.Context, n news) {
	var failed, other, recovered []change
	for _, c := range n.changes {
		switch {
		case c.was.err() == nil && c.is.err() != nil:
			failed = append(failed, c)
		case c.was.err() != nil && c.is.err() == nil:
			recovered = append(recovered, c)
		case text(c.was.err()) != text(c.is.err()):
			other = append(other, c)
		}
	}
	log := klog.FromContext(ctx).WithValues("source", f.name)
	if n.circuit.opened != nil {
		log.Error(n.circuit.opened, "Nobody is there: queries wait, and a few are asked from time to time", "backend", sources.Shorten(n.circuit.backend, maxName))
	}
	if n.circuit.closed > 0 {
		log.Info("Somebody is there again", "backend", sources.Shorten(n.circuit.backend, maxName), "awayFor", n.circuit.closed)
	}
	// Queries that fail with the same words share a line, so that a backend that is
	// down is not as many lines as it has queries.
	for _, g := range byError(failed) {
		log.Error(g[0].is.err(), "Queries began to fail", "count", len(g), "queries", someNames(g))
	}
	for _, g := range byError(other) {
		log.Error(g[0].is.err(), "Queries fail for another reason", "count", len(g), "queries", someNames(g))
	}
	if len(recovered) > 0 {
		log.Info("Queries answer again", "count", len(recovered), "queries", someNames(recovered),
			"failedFor", time.Since(recovered[0].was.wrong().since))
	}
	for _, c := range n.changes {
		f.opts.OnChange(f.name, c.entry.query.Key())
	}
}

// byError groups changes by the text of the error that they ended with, in order.
func byError(changes []change) [][]change {
	var groups [][]change
	place := map[string]int{}
	for _, c := range changes {
		words := text(c.is.err())
		i, ok := place[words]
		if !ok {
			i = len(groups)
			place[words] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	return groups
}

// maxName is how many bytes of a query's name the log shows: readers may make it long.
const maxName = 300

// someNames are those of the first few queries that changed, as far as they are shown.
func someNames(changes []change) []string {
	var names []string
	for _, c := range changes[:min(len(changes), 5)] {
		names = append(names, sources.Shorten(c.entry.name(), maxName))
	}
	return names
}
