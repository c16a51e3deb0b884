package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

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
	// maxQueries and maxBytes, of the PromQL of all together, are how many are kept.
	maxQueries = 20_000
	maxBytes   = 8 << 20
	// keptShare of them, in percent, are left when there were too many.
	keptShare = 90
	// maxSelector is how many bytes a metric selector may have, maxName the name of an object
	// that a reader asks for, and maxNaming the names of all that a selector of objects found.
	maxSelector = 8 << 10
	maxName     = 1 << 10
	maxNaming   = 1 << 20
	// maxShown is how many bytes of a query the log shows.
	maxShown = 300
)

// never is a time long before the planner's first.
const never = int64(-24 * time.Hour)

// errNotShared is why a query that reads more objects than asked for is not made.
var errNotShared = errors.New("the rule's queries are not shared")

// queryKey tells queries apart.
type queryKey struct {
	subjectKey

	scope     rules.Scope
	namespace string
	// names are the objects of rules.Named, as join has them.
	names string
}

// queries are those that were made and not forgotten since.
type queries struct {
	mu    sync.RWMutex
	byKey map[queryKey]*query
	bytes int
	swept atomic.Int64
	// servers are those that have been asked, by name. There are no more than the
	// configuration has named.
	servers map[string]*server
}

func newQueries() queries {
	return queries{byKey: map[queryKey]*query{}, servers: map[string]*server{}}
}

// query is a question to the backend. All but the atomic fields and the index never
// change.
type query struct {
	scope    rules.Scope
	question rules.Question
	ask      sources.Query
	// err is why it cannot be asked, and asker who said so.
	err   error
	asker Asker
	// keyed is how many bytes of its key a reader wrote.
	keyed int
	// generation is that of the Mapper with which it was made last.
	generation atomic.Uint64
	// used is when it was last looked up.
	used atomic.Int64
	// wanted is when it was last read by somebody who would have it read even if
	// nobody else did.
	wanted atomic.Int64
	// planned is when it was last part of a plan.
	planned atomic.Int64
	// bars is how the backend has dealt with it.
	bars bars

	indexing sync.Mutex
	indexed  atomic.Pointer[index]
}

// keyOf is the key of a scope's query, of which only rules.Named heeds the names.
func keyOf(s subject, scope rules.Scope, names *Names) queryKey {
	switch scope {
	case rules.Cluster:
		return queryKey{subjectKey: s.key, scope: scope}
	case rules.Namespace:
		return queryKey{subjectKey: s.key, scope: scope, namespace: s.Namespace}
	default:
		return queryKey{subjectKey: s.key, scope: scope, namespace: s.Namespace, names: names.text()}
	}
}

// query is that of a scope. It is made if need be.
func (p *Planner) query(s subject, scope rules.Scope, names *Names) *query {
	key, now, generation := keyOf(s, scope, names), p.now(), p.opts.Mapper.Generation()
	q := p.queries.get(key)
	if !q.current(s, generation) {
		// A new generation may have come meanwhile: then it is made again.
		made := p.compose(s, key, names)
		made.generation.Store(generation)
		q = p.queries.add(key, made, now)
	}
	q.use(now)
	p.queries.sweep(now)
	return q
}

// current says whether q is what would be made now. Only an error has words of its asker.
func (q *query) current(s subject, generation uint64) bool {
	return q != nil && q.generation.Load() == generation && (q.err == nil || q.asker == s.Asker)
}

// forPlan is query for what is or may become part of a plan: it is the last to be
// forgotten.
func (p *Planner) forPlan(s subject, scope rules.Scope, names *Names) *query {
	q := p.query(s, scope, names)
	q.planned.Store(int64(p.now()))
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
func (p *Planner) compose(s subject, key queryKey, names *Names) *query {
	q := &query{scope: key.scope, asker: s.Asker}
	q.bars.server = p.queries.server(s.Server)
	q.wanted.Store(never)
	q.planned.Store(never)
	q.keyed = len(key.selector) + len(key.names) + len(key.namespace)
	ask := rules.Ask{
		Series: s.Series, Selector: s.Selector, Resource: s.Resource,
		Namespace: key.namespace, Scope: key.scope,
	}
	if key.scope == rules.Named {
		ask.Names = names.List()
	} else if q.err = p.shareable(s, ask); q.err != nil {
		return q
	}
	if q.err = checkNames(ask.Names); q.err != nil {
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

// checkNames is why objects of those names are not asked for.
func checkNames(names []string) error {
	if len(names) == 1 && len(names[0]) > maxName {
		return fmt.Errorf("the object's name has %d bytes, and may have %d at most", len(names[0]), maxName)
	}
	all := 0
	for _, name := range names {
		all += len(name)
	}
	if all > maxNaming {
		return fmt.Errorf("the names of the %d objects have %d bytes, and may have %d at most: ask for fewer objects at a time", len(names), all, maxNaming)
	}
	return nil
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

func (all *queries) server(name string) *server {
	all.mu.Lock()
	defer all.mu.Unlock()
	s := all.servers[name]
	if s == nil {
		s = &server{}
		s.recovered.Store(never)
		all.servers[name] = s
	}
	return s
}

// add keeps made, or the query that it would replace if that asks the same still: what
// is known of it counts.
func (all *queries) add(key queryKey, made *query, now time.Duration) *query {
	all.mu.Lock()
	defer all.mu.Unlock()
	before := all.byKey[key]
	if before != nil && before.err == nil && made.err == nil && before.question == made.question {
		before.generation.Store(made.generation.Load())
		return before
	}
	if len(all.byKey) >= maxQueries || all.bytes+made.size() > maxBytes {
		all.evict(now)
	}
	made.used.Store(int64(now))
	all.remove(key)
	// A reader's words are parts of its request, which is not to live as long.
	key.namespace, key.names = strings.Clone(key.namespace), strings.Clone(key.names)
	all.byKey[key] = made
	all.bytes += made.size()
	return made
}

// size is about how many bytes of texts q holds.
func (q *query) size() int { return len(q.question.PromQL) + q.keyed }

func (all *queries) remove(key queryKey) {
	if q := all.byKey[key]; q != nil {
		all.bytes -= q.size()
		delete(all.byKey, key)
	}
}

// sweep forgets the queries that nobody reads, now and then.
func (all *queries) sweep(now time.Duration) {
	last := all.swept.Load()
	if now-time.Duration(last) < sweepEvery || !all.swept.CompareAndSwap(last, int64(now)) {
		return
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	for key, q := range all.byKey {
		if now-time.Duration(q.used.Load()) > keepFor && !q.barred(now) {
			all.remove(key)
		}
	}
}

// rank is what is forgotten last when there are too many queries.
type rank int

const (
	oneOff rank = iota
	shared
	// planned ones are those of HPAs, and those that the backend refuses, which would
	// be asked again.
	planned
)

func (q *query) rank(now time.Duration) rank {
	switch {
	case q.barred(now) || now-time.Duration(q.planned.Load()) <= keepFor:
		return planned
	case q.scope != rules.Named:
		return shared
	default:
		return oneOff
	}
}

// evict forgets some, so that it need not be done for each: of the lowest rank those
// that were not used for longest.
func (all *queries) evict(now time.Duration) {
	type candidate struct {
		key  queryKey
		rank rank
		used int64
	}
	candidates := make([]candidate, 0, len(all.byKey))
	for key, q := range all.byKey {
		candidates = append(candidates, candidate{key, q.rank(now), q.used.Load()})
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.used, b.used))
	})
	for _, c := range candidates {
		if len(all.byKey) <= maxQueries/100*keptShare && all.bytes <= maxBytes/100*keptShare {
			return
		}
		all.remove(c.key)
	}
}

// fit says whether a shared query can be asked and the backend does not refuse it.
func (q *query) fit(now time.Duration) bool { return q.err == nil && !q.barred(now) }

// wantedLately says whether somebody reads the shared query q who would read it in any
// case. It is false for nil.
func (q *query) wantedLately(now time.Duration) bool {
	return q != nil && q.fit(now) && now-time.Duration(q.wanted.Load()) <= wantedFor
}

// index holds the samples of one answer by the object that they describe.
type index struct {
	// id is no other index's.
	id      uint64
	of      engine.Answer
	objects map[types.NamespacedName][]sources.Sample
}

// index is that of the answer, whose objects are in the namespace if the question does
// not say. It is made once per answer, as a thousand HPAs may read one.
func (p *Planner) index(q *query, answer engine.Answer, namespace string) *index {
	if i := q.indexed.Load(); i.is(answer) {
		return i
	}
	q.indexing.Lock()
	defer q.indexing.Unlock()
	if i := q.indexed.Load(); i.is(answer) {
		return i
	}
	namespace = strings.Clone(namespace) // It is a part of the request, which is not to live as long.
	objects := make(map[types.NamespacedName][]sources.Sample, len(answer.Samples))
	for i, s := range answer.Samples {
		key := types.NamespacedName{Namespace: namespace}
		var named, placed bool
		key.Name, named = s.Labels.Lookup(q.question.ObjectLabel)
		if q.question.NamespaceLabel != "" {
			key.Namespace, placed = s.Labels.Lookup(q.question.NamespaceLabel)
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
	i := &index{p.answers.Add(1), answer, objects}
	q.indexed.Store(i)
	return i
}

// is says whether i was made of that answer.
func (i *index) is(of engine.Answer) bool { return i != nil && i.of.Is(of) }
