package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

const (
	// keepFor is how long a query is kept that nobody reads, with the index of its answer.
	keepFor = 5 * time.Minute
	// sweepEvery is how often the queries are looked through.
	sweepEvery = time.Minute
	// maxQueries is how many are kept; beyond it a query is made anew for every read.
	maxQueries = 20_000
	// retryAfter is when a query that could not be made is tried again: the resource
	// may have become known.
	retryAfter = 30 * time.Second
	// rejectedFor is how long a shared query is not asked after the backend refused it,
	// such as for the number of samples that it touches.
	rejectedFor = 10 * time.Minute
)

// errNotShared is why a query that reads more objects than asked for is not made.
var errNotShared = errors.New("the rule's queries are not shared")

// queryKey tells queries apart.
type queryKey struct {
	subjectKey

	scope     rules.Scope
	namespace string
	// names are the objects of rules.Named, sorted, one a line.
	names string
}

// queries are those that were made and not forgotten since.
type queries struct {
	mu    sync.RWMutex
	byKey map[queryKey]*query
	swept time.Duration
}

func newQueries() queries { return queries{byKey: map[queryKey]*query{}} }

// query is a question to the backend. All but the atomic fields and the index never
// change.
type query struct {
	question rules.Question
	ask      sources.Query
	// err is why it cannot be asked.
	err  error
	made time.Duration
	// used is when it was last looked up.
	used atomic.Int64
	// wanted is when it was last read by somebody who would have it read even if
	// nobody else did.
	wanted atomic.Int64
	// rejected is until when it is not asked because the backend refused it.
	rejected atomic.Int64

	indexing sync.Mutex
	indexed  atomic.Pointer[index]
}

// keyOf is the key of a scope's query, of which only rules.Named heeds the names. They
// are sorted.
func keyOf(s subject, scope rules.Scope, names []string) queryKey {
	switch scope {
	case rules.Cluster:
		return queryKey{subjectKey: s.key, scope: scope}
	case rules.Namespace:
		return queryKey{subjectKey: s.key, scope: scope, namespace: s.Namespace}
	default:
		return queryKey{subjectKey: s.key, scope: scope, namespace: s.Namespace, names: join(names)}
	}
}

// sorted are the names in order, each once.
func sorted(names []string) []string {
	for i := 1; i < len(names); i++ {
		if names[i-1] >= names[i] {
			return slices.Compact(slices.Sorted(slices.Values(names)))
		}
	}
	return names
}

// join is a text of names, which have no newlines.
func join(names []string) string { return strings.Join(names, "\n") }

// query is that of a scope. It is made if need be.
func (p *Planner) query(s subject, scope rules.Scope, names []string) *query {
	if scope == rules.Named {
		names = sorted(names)
	}
	key, now := keyOf(s, scope, names), p.now()
	q := p.queries.get(key)
	if q == nil || q.err != nil && now-q.made > retryAfter {
		q = p.queries.add(key, p.compose(s, key, names), now)
	}
	q.use(now)
	return q
}

// use marks the time to the second, so that readers of one query do not all write to it.
func (q *query) use(now time.Duration) {
	if now-time.Duration(q.used.Load()) >= time.Second {
		q.used.Store(int64(now))
	}
}

// known is the shared query of a scope if it was made, or nil.
func (p *Planner) known(s subject, scope rules.Scope) *query {
	return p.queries.get(keyOf(s, scope, nil))
}

// compose makes the query of a key.
func (p *Planner) compose(s subject, key queryKey, names []string) *query {
	q := &query{made: p.now()}
	q.wanted.Store(int64(-wantedFor) - 1) // never
	ask := rules.Ask{
		Series: s.Series, Selector: s.Selector, Resource: s.Resource,
		Namespace: key.namespace, Scope: key.scope,
	}
	if key.scope == rules.Named {
		ask.Names = names
	} else if q.err = p.shareable(s, ask); q.err != nil {
		return q
	}
	if q.question, q.err = s.Asker.Question(p.opts.Mapper, ask); q.err == nil {
		q.ask = prometheus.NewQuery(s.Server, q.question.PromQL, q.question.Window)
	}
	if q.err == nil && key.scope == rules.Cluster && q.question.NamespaceLabel == "" {
		// Its samples could be anybody's.
		q.err = fmt.Errorf("%w: no label names the namespace", errNotShared)
	}
	return q
}

func (p *Planner) shareable(s subject, ask rules.Ask) error {
	if !s.Share {
		return errNotShared
	}
	if err := s.Asker.Shareable(p.opts.Mapper, ask); err != nil {
		return fmt.Errorf("%w: %w", errNotShared, err)
	}
	return nil
}

func (all *queries) get(key queryKey) *query {
	all.mu.RLock()
	defer all.mu.RUnlock()
	return all.byKey[key]
}

// add keeps q, unless somebody else has just made one that is as good.
func (all *queries) add(key queryKey, q *query, now time.Duration) *query {
	all.mu.Lock()
	defer all.mu.Unlock()
	if other, ok := all.byKey[key]; ok && (other.err == nil || q.err != nil && other.made > now-retryAfter) {
		return other
	}
	all.sweep(now)
	q.used.Store(int64(now))
	if len(all.byKey) < maxQueries {
		all.byKey[key] = q
	}
	return q
}

// sweep forgets the queries that nobody reads, now and then.
func (all *queries) sweep(now time.Duration) {
	if now-all.swept < sweepEvery {
		return
	}
	all.swept = now
	for key, q := range all.byKey {
		if now-time.Duration(q.used.Load()) > keepFor && q.rejected.Load() < int64(now) {
			delete(all.byKey, key)
		}
	}
}

// fit says whether a shared query can be asked and the backend does not refuse it.
func (q *query) fit(now time.Duration) bool {
	return q.err == nil && q.rejected.Load() <= int64(now)
}

// wantedLately says whether somebody reads the shared query q who would read it in any
// case. It is false for nil.
func (q *query) wantedLately(now time.Duration) bool {
	return q != nil && q.fit(now) && now-time.Duration(q.wanted.Load()) <= wantedFor
}

// rejected says whether err is the backend's refusal of the shared query q, which is
// then not asked for a while.
func (p *Planner) rejected(ctx context.Context, q *query, err error) bool {
	if !errors.Is(err, sources.ErrRejected) {
		return false
	}
	now := p.now()
	if before := q.rejected.Swap(int64(now + rejectedFor)); before <= int64(now) {
		klog.FromContext(ctx).Error(err, "A shared query is rejected, so that a narrower one is read instead",
			"query", q.question.PromQL, "for", rejectedFor)
	}
	return true
}

// index holds the samples of one answer by the object that they describe.
type index struct {
	of      engine.Answer
	objects map[types.NamespacedName][]sources.Sample
}

// index is that of the answer, whose objects are in the namespace if the question does
// not say. It is made once per answer, as a thousand HPAs may read one.
func (q *query) index(answer engine.Answer, namespace string) map[types.NamespacedName][]sources.Sample {
	if i := q.indexed.Load(); i.is(answer) {
		return i.objects
	}
	q.indexing.Lock()
	defer q.indexing.Unlock()
	if i := q.indexed.Load(); i.is(answer) {
		return i.objects
	}
	objects := make(map[types.NamespacedName][]sources.Sample, len(answer.Samples))
	for i, s := range answer.Samples {
		key := types.NamespacedName{Namespace: namespace}
		var named, placed bool
		key.Name, named = s.Labels[q.question.ObjectLabel]
		if q.question.NamespaceLabel != "" {
			key.Namespace, placed = s.Labels[q.question.NamespaceLabel]
			named = named && placed
		}
		if !named {
			continue
		}
		if before, ok := objects[key]; ok {
			objects[key] = append(before, s)
		} else {
			// Most objects have one sample, which the answer holds already.
			objects[key] = answer.Samples[i : i+1 : i+1]
		}
	}
	q.indexed.Store(&index{answer, objects})
	return objects
}

// is says whether i was made of that answer.
func (i *index) is(of engine.Answer) bool {
	return i != nil && i.of.Fetched.Equal(of.Fetched) && len(i.of.Samples) == len(of.Samples) &&
		(len(of.Samples) == 0 || &i.of.Samples[0] == &of.Samples[0])
}
