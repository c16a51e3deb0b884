// Package engine decides when to fetch what, once for all sources: demand,
// batching in time, refresh-ahead, staleness and backoff.
//
// Reads come from memory. Each source has a feed, a scheduler of its own that
// refreshes the source's queries while they are in demand: named by an HPA (Pin) or
// read lately (Read). Only the first read of a query that nobody announced waits
// for a backend. A Fetch asks one backend, so that none waits for another.
//
// Anybody who may read metrics can think of new queries. So those that are merely read
// have Fetches of their own and leave room for the pinned ones, are bounded in number
// and size, and are forgotten soon.
package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Request says what a reader wants to know and how old the answer may be. Two
// requests with one source and equal query keys are one query to the backend.
type Request struct {
	// Source is the name of the source in Options.Sources.
	Source string
	// Query is what to ask.
	Query sources.Query
	// Interval is how often the query is asked while it is in demand; less than a
	// second means a second. Of several requests for one query the shortest counts,
	// until for a whole Options.DemandFor nobody asked for it.
	Interval time.Duration
	// MaxAge is how long after Answer.Fetched the last good answer still serves
	// while the backend gives no newer one. The engine takes it as it is: it should be
	// longer than an Interval and two fetches together, or else reads fail with an
	// *UnavailableError between an answer that is too old and the next one, although
	// the backend is well.
	MaxAge time.Duration
}

// Answer is what a backend said, and when it was asked.
type Answer struct {
	// Samples are empty exactly when the backend answered without a value. They are never
	// changed, and neither is the slice used again: see Is.
	Samples []sources.Sample
	// Fetched is when the Fetch began that gave the answer. The backend answered then
	// or later, so the answer is no older than that.
	Fetched time.Time
}

// Is says whether a and o are one answer to one query, so that what was made of one of
// them holds for the other. It takes no longer for many samples.
func (a Answer) Is(o Answer) bool {
	return a.Fetched.Equal(o.Fetched) && len(a.Samples) == len(o.Samples) &&
		(len(a.Samples) == 0 || &a.Samples[0] == &o.Samples[0])
}

// State is what the engine knows of a query without asking anybody.
type State struct {
	// Answer is the last one that the backend gave; zero if it gave none.
	Answer Answer
	// ReadErr is why a read from memory gives no samples now: it wraps
	// sources.ErrNoData, or is an *UnavailableError. It is nil while Answer serves.
	ReadErr error
	// Err is why the latest fetch failed, while the one before may still serve; nil
	// if the backend answered.
	Err error
	// Since is when the fetches began to fail; zero if Err is nil.
	Since time.Time
	// InDemand says whether the query is being refreshed.
	InDemand bool
	// Due is when the query is asked next if it is in demand; or, while its backend is
	// away, when somebody looks again whether it is. It is in the past while the query is
	// being asked, or waits because its backend is being asked too much already.
	Due time.Time
}

// UnavailableError is the error of a read for which there is no answer that is
// young enough. It never wraps sources.ErrNoData.
type UnavailableError struct {
	// Source is the name of the source that gives no answer.
	Source string
	// Since is when that began: when the first Fetch that failed was over, of the query
	// or, if its backend is away, of any since that last gave a sign of life; or
	// LastAnswer if none failed and the answer is too old nevertheless.
	Since time.Time
	// LastAnswer is the time of the last answer, as Answer.Fetched; zero if there was
	// none.
	LastAnswer time.Time
	// Err is the reason, in the backend's own words if it said anything.
	Err error
}

func (e *UnavailableError) Error() string {
	last := "no earlier answer"
	if !e.LastAnswer.IsZero() {
		last = "last answer as of " + timestamp(e.LastAnswer)
	}
	return fmt.Sprintf("source %s has failed since %s (%s): %v", e.Source, timestamp(e.Since), last, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Options are what New needs. All but Sources may be left zero.
type Options struct {
	// Sources are the backends to ask, by name.
	Sources map[string]sources.Source
	// FetchTimeout is how long one Fetch of a source may take; 10s by default.
	FetchTimeout time.Duration
	// DemandFor is how long after a read, to the second, a query stays in demand at
	// most; 5m by default. If three of its intervals or a minute are less, then that: the
	// longer of the two. As long again its last answer can be seen by Peek.
	DemandFor time.Duration
	// MaxUnpinned is how many queries of a source are held that are not pinned, in
	// demand or not; 10,000 by default. Beyond it those are let go that were not read for
	// the longest time; if all are being asked, reads of new ones fail with a *BusyError.
	MaxUnpinned int
	// MaxUnpinnedSamples is how many samples of such queries are held, in the same way;
	// 1,000,000 by default.
	MaxUnpinnedSamples int
	// MaxUnpinnedBytes is how long the keys of such queries are together, in the same way;
	// 8 MiB by default.
	MaxUnpinnedBytes int
	// Backoff says when queries that failed are asked again.
	Backoff Backoff
	// OnChange is called when what is known of a query has changed: its first
	// answer, an answer with other samples than the one before, failures that begin,
	// end or change their text, an answer that grew too old to serve, and one that
	// serves after that. It is
	// called without locks, from several goroutines at once, and must not block: the
	// source's next fetches and the end of Run wait for it. While a query is being
	// asked, nobody hears that its answer grew too old until the Fetch is over.
	OnChange func(source, key string)
}

// Backoff bounds the time until a query that failed is asked again, which doubles
// with each failure in a row. Up to a quarter is taken off at random, and the time ends
// on a whole second of the source, so that queries which fail one by one come to share
// calls.
type Backoff struct {
	// First is the time after the first failure, or the query's interval if that is
	// shorter; 2s by default. For a query that is throttled while others of its backend are
	// answered it is the interval.
	First time.Duration
	// Max is the limit for failures in general, 30s by default: or half of the query's
	// MaxAge if that is shorter, or its interval if that is longer. It also ends the pauses of a backend that throttles,
	// which start at 1s.
	Max time.Duration
	// FirstRejected is the time after the first failure if it wraps
	// sources.ErrRejected, whatever the interval; 10s by default.
	FirstRejected time.Duration
	// MaxRejected is the limit for such failures, or the query's interval if that is
	// longer; 5m by default.
	MaxRejected time.Duration
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&o.FetchTimeout, 10 * time.Second},
		{&o.DemandFor, 5 * time.Minute},
		{&o.Backoff.First, 2 * time.Second},
		{&o.Backoff.Max, 30 * time.Second},
		{&o.Backoff.FirstRejected, 10 * time.Second},
		{&o.Backoff.MaxRejected, 5 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.unset
		}
	}
	if o.MaxUnpinned <= 0 {
		o.MaxUnpinned = 10_000
	}
	if o.MaxUnpinnedSamples <= 0 {
		o.MaxUnpinnedSamples = 1_000_000
	}
	if o.MaxUnpinnedBytes <= 0 {
		o.MaxUnpinnedBytes = 8 << 20
	}
	if o.OnChange == nil {
		o.OnChange = func(string, string) {}
	}
	return o
}

// Engine answers requests from memory, and keeps the memory fresh while it runs.
type Engine struct {
	feeds   map[string]*feed
	metrics *metrics
	running atomic.Bool
}

// New makes an engine over the sources of opts. It asks nothing before Run.
func New(opts Options) *Engine {
	opts = opts.withDefaults()
	e := &Engine{feeds: make(map[string]*feed, len(opts.Sources)), metrics: newMetrics()}
	names := slices.Sorted(maps.Keys(opts.Sources))
	for i, name := range names {
		// Sources with equal intervals fire at different parts of the second.
		phase := time.Duration(i) * time.Second / time.Duration(len(names))
		e.feeds[name] = newFeed(name, phase, opts, e.metrics)
	}
	return e
}

// SetFetchTimeout replaces Options.FetchTimeout for the Fetches that begin from now on;
// zero stands for the default.
func (e *Engine) SetFetchTimeout(d time.Duration) {
	d = Options{FetchTimeout: d}.withDefaults().FetchTimeout
	for _, f := range e.feeds {
		f.timeout.Store(int64(d))
	}
}

// Run refreshes what is in demand until ctx is done, and returns when the fetches
// that it had under way are over. The logger comes from ctx. Run may be called again
// after it returned; what was learned before still counts.
func (e *Engine) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return errors.New("the engine runs already")
	}
	defer e.running.Store(false)
	var feeds sync.WaitGroup
	for _, f := range e.feeds {
		feeds.Go(func() { f.run(ctx) })
	}
	<-ctx.Done()
	feeds.Wait()
	return nil
}

// Read answers req from memory, and keeps its query in demand. It waits for the
// backend only if the query was neither answered nor failed since it came into
// demand, and no longer than ctx; the fetch goes on for others when ctx is done.
//
// The error wraps sources.ErrNoData if the backend answered without a value (the
// Answer then says when), is an *UnavailableError if the backend failed and there is
// no answer younger than req.MaxAge, and wraps ctx's error if the wait was cut short. It
// is a *BusyError, at once, if the query is new and there is no room for it.
func (e *Engine) Read(ctx context.Context, req Request) (Answer, error) {
	f, ok := e.feeds[req.Source]
	if !ok {
		return Answer{}, fmt.Errorf("unknown source %q", req.Source)
	}
	return f.read(ctx, req)
}

// Pin replaces the set of requests that are in demand whether or not they are read.
// Requests of unknown sources are left out; reading them says so.
func (e *Engine) Pin(requests []Request) {
	pins := make(map[string]map[string]pin, len(e.feeds))
	for name := range e.feeds {
		pins[name] = map[string]pin{}
	}
	for _, req := range requests {
		ofSource, ok := pins[req.Source]
		if !ok {
			continue
		}
		key, t := req.Query.Key(), termsOf(req)
		if other, ok := ofSource[key]; ok {
			t = t.and(other.terms)
		}
		ofSource[key] = pin{req.Query, t}
	}
	for name, f := range e.feeds {
		f.pin(pins[name])
	}
}

// Touch brings req's query into demand as a read does, and does not wait for it. It does
// nothing where a read would give a *BusyError.
func (e *Engine) Touch(req Request) {
	if f, ok := e.feeds[req.Source]; ok {
		_, _ = f.join(req, time.Now())
	}
}

// Forget drops what is known of the source's queries to those backends, as
// sources.Query.Backend names them, or to all its backends if there are none: because
// they are configured anew, and what was known by their names is no answer any more.
// Pinned queries are asked at once, and reads wait for the first answer as for that of
// a new query; readers who wait already go on to wait. Others are forgotten. What
// Fetches give that are under way does not count, nor does an earlier request for fewer
// calls. OnChange is not called before the new answer.
func (e *Engine) Forget(source string, backends []string) {
	if f, ok := e.feeds[source]; ok {
		f.startOver(backends)
	}
}

// Peek says what is known of req's query, and leaves its demand as it is. It is false
// if the query was neither answered nor failed, or is forgotten again.
func (e *Engine) Peek(req Request) (State, bool) {
	f, ok := e.feeds[req.Source]
	if !ok {
		return State{}, false
	}
	return f.peek(req)
}
