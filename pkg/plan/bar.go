package plan

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// barFor is how long a shared query is not asked after the backend refused it, such
	// as for the number of samples that it touches, or was too slow for it. It doubles
	// each time up to maxBarFor, until the query is answered.
	barFor    = 2 * time.Minute
	maxBarFor = 16 * time.Minute
	// tryEvery is how long a server is not asked narrower queries in place of one that
	// is too slow after it gave no answer to those either: it may be down, and would get
	// many calls for one. For the same query it doubles up to maxTryEvery.
	tryEvery    = 30 * time.Second
	maxTryEvery = 8 * time.Minute
	// recoverEvery is how often a server that answers again makes refusals void.
	recoverEvery = time.Minute
)

// server is what is known of one Prometheus server.
type server struct {
	// recovered is when a query that had failed was last answered.
	recovered atomic.Int64

	mu sync.Mutex
	// trying says that somebody reads narrower queries in place of one that is too
	// slow, and tryAt from when on somebody may again.
	trying bool
	tryAt  time.Duration
}

// bars are how the backend has dealt with a query so far.
type bars struct {
	server *server
	// failing says that the last read failed.
	failing atomic.Bool
	// until is when a shared query may be asked again, since when it is barred; refused
	// says that the backend refused it. count is how often in a row.
	until, since atomic.Int64
	refused      atomic.Bool
	count        atomic.Int64

	// Under the server's mutex: how often in a row narrower ones failed, too, and from
	// when on they may be tried again.
	failures int
	tryAt    time.Duration
}

// barred says whether the shared query q is not to be asked now. A refusal no longer
// counts when the server has recovered since: it was not the query's fault, perhaps.
func (q *query) barred(now time.Duration) bool {
	if q.bars.until.Load() <= int64(now) {
		return false
	}
	return !q.bars.refused.Load() || q.bars.since.Load() >= q.bars.server.recovered.Load()
}

// heed takes in how a read of q ended whose answer is as of that time.
func (q *query) heed(ctx context.Context, fetched, now time.Duration, err error) {
	b := &q.bars
	if err != nil {
		if ctx.Err() == nil && !b.failing.Load() {
			b.failing.Store(true)
		}
		return
	}
	if b.count.Load() > 0 && int64(fetched) > b.since.Load() {
		b.count.Store(0)
	}
	if b.failing.Load() && b.failing.CompareAndSwap(true, false) {
		if before := b.server.recovered.Load(); int64(now-recoverEvery) >= before {
			b.server.recovered.CompareAndSwap(before, int64(now))
		}
	}
}

// bar has the shared query q not asked for a while.
func (p *Planner) bar(ctx context.Context, q *query, err error) {
	now, b := p.now(), &q.bars
	if q.barred(now) {
		return
	}
	length := sources.Backoff(barFor, maxBarFor, int(b.count.Add(1)))
	b.refused.Store(errors.Is(err, sources.ErrRejected))
	b.since.Store(int64(now))
	b.until.Store(int64(now + length))
	why := "A shared query is rejected, so that narrower ones are read instead"
	if !b.refused.Load() {
		why = "A shared query is too slow, so that narrower ones are read instead"
	}
	klog.FromContext(ctx).Error(err, why, "query", sources.Shorten(q.question.PromQL, maxShown), "for", length)
}

// isUnfit says whether an error is a reason to read narrower queries.
func isUnfit(err error) bool {
	return errors.Is(err, sources.ErrRejected) || errors.Is(err, sources.ErrTooSlow) || errors.Is(err, context.DeadlineExceeded)
}

// isSlow says whether a read failed because the backend was too slow, and not because its
// reader has gone.
func isSlow(ctx context.Context, err error) bool {
	return ctx.Err() == nil && isUnfit(err) && !errors.Is(err, sources.ErrRejected)
}

// outcome is how the read of a query ended.
type outcome struct {
	q      *query
	answer engine.Answer
	err    error
}

// read reads the query of a scope, or of a narrower one where the wider is not shared,
// rejected or too slow.
func (p *Planner) read(ctx context.Context, s subject, scope rules.Scope, names *Names) outcome {
	o := p.readWidest(ctx, s, scope, names)
	if o.q.scope > rules.Named && isSlow(ctx, o.err) {
		return p.readNarrower(ctx, s, o, names)
	}
	return o
}

// readWidest reads the first query, from a scope on, that is fit and not rejected.
func (p *Planner) readWidest(ctx context.Context, s subject, scope rules.Scope, names *Names) outcome {
	for {
		q := p.widest(s, scope, names)
		if q.err != nil {
			return outcome{q: q, err: q.err}
		}
		answer, err := p.ask(ctx, s, q)
		if q.scope == rules.Named || !errors.Is(err, sources.ErrRejected) {
			return outcome{q, answer, err}
		}
		p.bar(ctx, q, err)
		scope = q.scope - 1
	}
}

// widest is the first query, from a scope on, that may be asked; or the exact one.
func (p *Planner) widest(s subject, scope rules.Scope, names *Names) *query {
	for now := p.now(); scope > rules.Named; scope-- {
		if q := p.query(s, scope, nil); q.fit(now) {
			return q
		}
	}
	return p.query(s, rules.Named, names)
}

// readNarrower reads narrower queries than one that was too slow: those that serve
// already, and others where that does not mean many more calls to a server that is down.
// The outcome is as before if they fail too.
func (p *Planner) readNarrower(ctx context.Context, s subject, slow outcome, names *Names) (next outcome) {
	if !p.serves(s, p.widest(s, slow.q.scope-1, names)) {
		if !slow.q.try(p.now()) {
			return slow
		}
		defer func() { slow.q.tried(p.now(), next.q) }()
	}
	all := []outcome{slow}
	for {
		next = p.readWidest(ctx, s, all[len(all)-1].q.scope-1, names)
		if next.q.scope == rules.Named || !isSlow(ctx, next.err) {
			break
		}
		all = append(all, next)
	}
	if next.err != nil {
		return slow
	}
	for _, o := range all {
		p.bar(ctx, o.q, o.err)
	}
	return next
}

// try says whether narrower queries may be read in place of q. Whoever does says how it
// ended.
func (q *query) try(now time.Duration) bool {
	s := q.bars.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trying || now < s.tryAt || now < q.bars.tryAt {
		return false
	}
	s.trying = true
	return true
}

// tried ends a try, which has helped if there is another query than q with an answer.
func (q *query) tried(now time.Duration, answered *query) {
	s := q.bars.server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trying = false
	if answered != nil && answered != q {
		q.bars.failures = 0
		return
	}
	q.bars.failures++
	s.tryAt = now + tryEvery
	q.bars.tryAt = now + sources.Backoff(tryEvery, maxTryEvery, q.bars.failures)
}
