package plan

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// When which query is cheaper. A query costs the backend a call and the samples that
// it touches; a shared one touches those of objects that nobody asks for. Each pair of
// thresholds leaves room in between, so that a plan does not go back and forth.
const (
	// manyReaders is from how many exact queries of a namespace on one shared query
	// takes their place whatever it touches: calls do not grow with the HPAs. Down to
	// fewReaders it stays.
	manyReaders = 4
	fewReaders  = 2
	// largeSpace is up to how many objects of a namespace a shared query costs hardly
	// more than an exact one.
	largeSpace = 200
	// In a larger one exact queries are cheaper for less than a fewShare-th of the
	// objects, and shared ones from a manyShare-th on.
	fewShare  = 8
	manyShare = 4

	// wideFrom is from how many namespaces on one query of the cluster takes the place
	// of theirs, if they have at least a wideShare-th of its objects. It stays down to
	// narrowFrom and a narrowShare-th.
	wideFrom    = 8
	wideShare   = 2
	narrowFrom  = 5
	narrowShare = 4
)

const (
	// switchFor is how long the query of a new plan may take to be answered. After it an
	// exact one is read even so, and a shared one that failed is given up for a while.
	switchFor = 2 * time.Minute
	// wantedFor is how long after a read that no HPA announced others may share its
	// query: some syncs of an HPA.
	wantedFor = time.Minute
)

// plan is what was decided for the demand of all HPAs at one time. It is never
// changed, but for space.settled.
type plan struct {
	subjects map[subjectKey]*subjectPlan
}

// subjectPlan is what was decided for one subject.
type subjectPlan struct {
	// wide says that one query of the cluster serves all namespaces.
	wide   bool
	spaces map[string]*space
}

// space is a namespace's part of a subjectPlan.
type space struct {
	// local is the scope that fits the namespace by itself, scope the one to read.
	local, scope rules.Scope
	// was is the scope that was read before, until since.
	was   rules.Scope
	since time.Time
	// settled says that the query to read, which is shared, was answered since then: the
	// scope before is of no more use, nor is any query of it.
	settled atomic.Bool
}

// last is the scope that was read before the one to read, which is the same without a
// change that is still under way.
func (s *space) last() rules.Scope {
	if s.settled.Load() {
		return s.scope
	}
	return s.was
}

// of is the plan for the subject's namespace; nil if no HPA asks for it.
func (p *plan) of(s subject) (*subjectPlan, *space) {
	sp := p.subjects[s.key]
	if sp == nil {
		return nil, nil
	}
	return sp, sp.spaces[s.Namespace]
}

// Update takes in what all HPAs ask for now, and gives the requests that serve them and
// are known before anybody reads: shared ones, and exact ones of named objects. Called
// again with the same demands it follows the number of objects. There are none before
// the Mapper is Known.
func (p *Planner) Update(demands []Demand) []engine.Request {
	p.updating.Lock()
	defer p.updating.Unlock()
	if !p.opts.Mapper.Known() {
		return nil
	}
	before, next := p.plan.Load(), &plan{subjects: map[subjectKey]*subjectPlan{}}
	var requests []engine.Request
	for key, wanted := range group(demands) {
		was := before.subjects[key]
		if was == nil {
			was = &subjectPlan{}
		}
		decided := p.decide(wanted, was)
		next.subjects[key] = decided
		requests = append(requests, p.announced(wanted, decided)...)
	}
	p.plan.Store(next)
	p.queries.sweep(p.now())
	return requests
}

// wanted is what HPAs ask of one subject in one namespace.
type wanted struct {
	subject

	// names are the lists of objects that are asked for by name.
	names map[string]*Names
	// selectors counts the HPAs that ask by a selector, and replicas their pods.
	selectors, replicas int
}

// group sorts demands by what they ask for, and by namespace.
func group(demands []Demand) map[subjectKey]map[string]*wanted {
	groups := map[subjectKey]map[string]*wanted{}
	for _, d := range demands {
		s, err := resolve(d.Subject)
		if err != nil {
			continue // Reading it says so.
		}
		spaces := groups[s.key]
		if spaces == nil {
			spaces = map[string]*wanted{}
			groups[s.key] = spaces
		}
		w := spaces[s.Namespace]
		if w == nil {
			w = &wanted{subject: s, names: map[string]*Names{}}
			spaces[s.Namespace] = w
		}
		w.add(d)
	}
	return groups
}

func (w *wanted) add(d Demand) {
	if len(d.Names) == 0 {
		w.selectors++
		w.replicas += max(d.Replicas, 1)
		return
	}
	names := NewNames(d.Names...)
	w.names[names.text()] = names
}

// readers is how many exact queries it would take.
func (w *wanted) readers() int { return w.selectors + len(w.names) }

// decide plans the namespaces of one subject.
func (p *Planner) decide(spaces map[string]*wanted, before *subjectPlan) *subjectPlan {
	next := &subjectPlan{spaces: make(map[string]*space, len(spaces))}
	for namespace, w := range spaces {
		next.spaces[namespace] = &space{local: p.local(w, before.spaces[namespace])}
	}
	next.wide = p.wide(spaces, next, before)
	now := time.Now()
	for namespace, s := range next.spaces {
		s.scope = s.local
		if next.wide && namespace != "" {
			s.scope = rules.Cluster
		}
		s.was = s.scope
		if b := before.spaces[namespace]; b != nil {
			s.was, s.since = b.last(), b.since
			if b.scope != s.scope {
				s.was, s.since = b.scope, now
			}
		}
	}
	return next
}

// local is the scope that fits one namespace by itself.
func (p *Planner) local(w *wanted, before *space) rules.Scope {
	if !p.forPlan(w.subject, rules.Namespace, nil).fit(p.now()) {
		return rules.Named
	}
	wasShared := before != nil && before.local != rules.Named
	if w.selectors == 0 {
		if len(w.names) >= manyReaders || wasShared && len(w.names) >= fewReaders {
			return rules.Namespace
		}
		return rules.Named
	}
	// An HPA that asks by a selector names other pods each time that one comes or goes,
	// so that its exact query is cold each time: it shares unless that is dear.
	readers, share := manyReaders-1, manyShare
	if before == nil || wasShared {
		readers, share = fewReaders, fewShare
	}
	if w.readers() <= readers && p.few((w.replicas+len(w.names))*share, w.Resource, w.Namespace) {
		return rules.Named
	}
	return rules.Namespace
}

// few says whether n, an exact query's objects times a share, are less than what a
// query of the namespace, or of all of them if it is empty, would touch.
func (p *Planner) few(n int, resource schema.GroupResource, namespace string) bool {
	count, known := p.count(resource, namespace)
	return known && count > largeSpace && n < count
}

func (p *Planner) count(resource schema.GroupResource, namespace string) (int, bool) {
	if p.opts.Counter == nil {
		return 0, false
	}
	return p.opts.Counter.Count(resource, namespace)
}

// wide says whether one query of the cluster serves all namespaces.
func (p *Planner) wide(spaces map[string]*wanted, next, before *subjectPlan) bool {
	from, share := wideFrom, wideShare
	if before.wide {
		from, share = narrowFrom, narrowShare
	}
	var one *wanted
	sharing, objects, counted := 0, 0, true
	for namespace, w := range spaces {
		if namespace == "" || next.spaces[namespace].local == rules.Named {
			continue
		}
		one = w
		sharing++
		n, known := p.count(w.Resource, namespace)
		objects += n
		counted = counted && known
	}
	if sharing < from || !p.forPlan(one.subject, rules.Cluster, nil).fit(p.now()) {
		return false
	}
	all, known := p.count(one.Resource, "")
	return !counted || !known || objects*share >= all
}

// announced are the requests of a subject that are known before anybody reads.
func (p *Planner) announced(spaces map[string]*wanted, decided *subjectPlan) []engine.Request {
	var requests []engine.Request
	cluster := false
	for namespace, w := range spaces {
		switch scope := decided.spaces[namespace].scope; {
		case scope == rules.Named:
			for _, names := range w.names {
				requests = p.announce(requests, w.subject, scope, names)
			}
		case scope == rules.Namespace || !cluster:
			requests = p.announce(requests, w.subject, scope, nil)
			cluster = cluster || scope == rules.Cluster
		}
	}
	return requests
}

func (p *Planner) announce(requests []engine.Request, s subject, scope rules.Scope, names *Names) []engine.Request {
	q := p.forPlan(s, scope, names)
	if q.err != nil {
		klog.Background().V(2).Info("An HPA asks for what cannot be asked", "server", s.Server, "series", s.Series,
			"resource", s.Resource, "namespace", s.Namespace, "err", q.err)
		return requests
	}
	return append(requests, p.request(s, q))
}

// scope is that of the query that answers a read of those objects best. The read may
// have to take a narrower one.
func (p *Planner) scope(ctx context.Context, s subject, names *Names) rules.Scope {
	if !s.Share {
		return rules.Named
	}
	now := p.now()
	all, planned := p.plan.Load().of(s)
	switch {
	case planned != nil && planned.scope != rules.Named:
		return p.warm(ctx, s, names, planned, now)
	case s.Namespace != "" && (all != nil && all.wide || p.known(s, rules.Cluster).wantedLately(now)):
		return rules.Cluster
	}
	shared, share := p.known(s, rules.Namespace).wantedLately(now), manyShare
	if shared {
		share = fewShare
	}
	switch {
	case len(names.list) > 1 && !p.few(len(names.list)*share, s.Resource, s.Namespace):
		p.query(s, rules.Namespace, nil).wanted.Store(int64(now))
		return rules.Namespace
	case shared:
		return rules.Namespace
	case planned != nil:
		return p.warm(ctx, s, names, planned, now)
	}
	return rules.Named
}

// warm is the scope of the plan, or the one before while that serves and the query of the
// plan was not answered yet.
func (p *Planner) warm(ctx context.Context, s subject, names *Names, planned *space, now time.Duration) rules.Scope {
	states, ok := p.opts.Engine.(StateReader)
	was := planned.last()
	if !ok || was == planned.scope {
		return planned.scope
	}
	next, last := p.query(s, planned.scope, names), p.query(s, was, names)
	if !next.fit(now) || !last.fit(now) {
		return planned.scope
	}
	request, late := p.request(s, next), time.Since(planned.since) > switchFor
	state, known := states.Peek(request)
	// What is known from before the switch may be the end of an earlier demand, and a
	// read of it wait.
	failed := known && state.Err != nil && (late || !state.Since.Before(planned.since))
	switch {
	case known && !state.Answer.Fetched.Before(planned.since):
		// The answer to an exact query says nothing of those with other names.
		if planned.scope != rules.Named {
			planned.settled.Store(true)
		}
		return planned.scope
	case late && !failed && planned.scope == rules.Named:
		// Those names may be new, and the next ones too.
		return planned.scope
	case !p.serves(s, last):
		return planned.scope
	case failed && planned.scope != rules.Named && isUnfit(state.Err):
		p.bar(ctx, next, state.Err)
	case !failed:
		states.Touch(request)
	}
	return was
}

// serves says whether a read of q gives an answer at once and costs the backend nothing
// that it is not asked anyway.
func (p *Planner) serves(s subject, q *query) bool {
	states, ok := p.opts.Engine.(StateReader)
	if !ok || q.err != nil {
		return false
	}
	state, known := states.Peek(p.request(s, q))
	return known && state.InDemand && (state.ReadErr == nil || errors.Is(state.ReadErr, sources.ErrNoData))
}
