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

// run starts Fetches as queries fall due, until ctx is done, and waits for them.
func (f *feed) run(ctx context.Context) {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	for ctx.Err() == nil {
		now := time.Now()
		r := f.take(now)
		for _, e := range r.tooOld {
			f.opts.OnChange(f.name, e.key)
		}
		for _, batch := range r.batches() {
			fetches.Go(func() { f.fetch(ctx, batch) })
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
	// healthy and failing are the entries to fetch. Queries that failed go apart, so
	// that a bad one costs the healthy ones no calls again and again.
	healthy, failing []*entry
	// tooOld are entries whose answer has just become too old to serve.
	tooOld []*entry
	// next is when the next round is; zero if there is nothing to wait for but a kick.
	next time.Time
}

// batches are what is to be fetched, at most two.
func (r round) batches() [][]*entry {
	return slices.DeleteFunc([][]*entry{r.healthy, r.failing}, func(b []*entry) bool { return len(b) == 0 })
}

// take removes from the queue what is to be done now.
func (f *feed) take(now time.Time) round {
	f.mu.Lock()
	defer f.mu.Unlock()
	var r round
	if f.inFlight > maxInFlight-2 {
		return r // the end of a Fetch kicks
	}
	if len(f.queue) > 0 && !f.queue[0].wake.After(now) {
		f.collect(&r, now)
	}
	f.inFlight += len(r.batches())
	if len(f.queue) > 0 {
		r.next = f.queue[0].wake
	}
	return r
}

// collect takes what wakes within gather.
func (f *feed) collect(r *round, now time.Time) {
	horizon := now.Add(gather)
	for len(f.queue) > 0 && !f.queue[0].wake.After(horizon) {
		e := f.queue[0]
		heap.Pop(&f.queue)
		switch {
		case e.due.After(horizon):
			e.told = true
			r.tooOld = append(r.tooOld, e)
			f.enqueue(e, e.due)
		case e.idle:
			f.entries.Delete(e.key)
		case e.state.Load().pending == nil && !f.inDemand(e, now):
			f.rest(e, now)
		case e.throttle.until.After(horizon):
			f.enqueue(e, e.throttle.until)
		case e.failures > 0:
			r.failing = append(r.failing, e)
		default:
			r.healthy = append(r.healthy, e)
		}
	}
}

// fetch asks for a batch and takes in the results.
func (f *feed) fetch(ctx context.Context, batch []*entry) {
	started := time.Now()
	results := f.ask(ctx, batch)
	now := time.Now()
	if ctx.Err() != nil {
		f.putBack(batch, now)
		return
	}
	f.metrics.fetched(results, now.Sub(started))
	f.report(ctx, f.settle(batch, results, now))
}

// ask gives one result per entry, whatever the source does.
func (f *feed) ask(ctx context.Context, batch []*entry) (results []sources.Result) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.FetchTimeout)
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
			results[i].Err = fmt.Errorf("no answer within %v: %w", f.opts.FetchTimeout, r.Err)
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
func (f *feed) putBack(batch []*entry, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight--
	for _, e := range batch {
		f.enqueue(e, now)
	}
}

// change is a state that another one has followed.
type change struct {
	key     string
	was, is *state
}

// settle takes the results of a batch in, wakes who waits for them, and gives back
// what has changed.
func (f *feed) settle(batch []*entry, results []sources.Result, now time.Time) []change {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight--
	for t, said := range byThrottle(batch, results) {
		t.heed(said, f.opts.Backoff.Max, now)
	}
	// One jitter for the batch, so that what failed together is retried together.
	jitter := newJitter()
	var changes []change
	for i, e := range batch {
		was := e.state.Load()
		is := was.after(results[i], now)
		e.state.Store(is)
		if was.pending != nil {
			close(was.pending)
		}
		if is.differs(was) {
			changes = append(changes, change{e.key, was, is})
		}
		if now.Sub(e.reviewed) >= f.opts.DemandFor {
			e.review(now)
		}
		f.enqueue(e, f.nextDue(e, is.err, jitter, now))
	}
	f.lookAgain() // there is a free slot
	return changes
}

// nextDue counts the failures of e, whose fetch ended with err, and says when to ask it
// again.
func (f *feed) nextDue(e *entry, err error, j jitter, now time.Time) time.Time {
	switch {
	case err == nil:
		e.failures, e.told = 0, false
		// It may have been asked up to gather early, and is not asked again for that.
		return f.schedule.refresh(now.Add(gather), e.terms.interval)
	case isThrottling(err):
		return e.throttle.until
	default:
		e.failures++
		return f.schedule.retry(now, e.terms.interval, e.failures, err, j)
	}
}

// byThrottle are the results of each backend.
func byThrottle(batch []*entry, results []sources.Result) map[*throttle][]sources.Result {
	groups := map[*throttle][]sources.Result{}
	for i, e := range batch {
		groups[e.throttle] = append(groups[e.throttle], results[i])
	}
	return groups
}

// report logs which queries began or ceased to fail and tells OnChange of all that
// changed.
func (f *feed) report(ctx context.Context, changes []change) {
	var failed, recovered []change
	for _, c := range changes {
		switch {
		case c.was.err == nil && c.is.err != nil:
			failed = append(failed, c)
		case c.was.err != nil && c.is.err == nil:
			recovered = append(recovered, c)
		}
	}
	log := klog.FromContext(ctx).WithValues("source", f.name)
	// Queries that fail with the same words share a line, so that a backend that is
	// down is not as many lines as it has queries.
	for _, g := range byError(failed) {
		log.Error(g[0].is.err, "Queries began to fail", "count", len(g), "queries", someKeys(g))
	}
	if len(recovered) > 0 {
		log.Info("Queries answer again", "count", len(recovered), "queries", someKeys(recovered),
			"failedFor", time.Since(recovered[0].was.since))
	}
	for _, c := range changes {
		f.opts.OnChange(f.name, c.key)
	}
}

// byError groups changes by the text of the error that they ended with, in order.
func byError(changes []change) [][]change {
	var groups [][]change
	place := map[string]int{}
	for _, c := range changes {
		words := text(c.is.err)
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

// someKeys are the keys of the first few changes.
func someKeys(changes []change) []string {
	var keys []string
	for _, c := range changes[:min(len(changes), 5)] {
		keys = append(keys, c.key)
	}
	return keys
}
