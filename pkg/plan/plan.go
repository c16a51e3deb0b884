// Package plan decides by which query the metric of a rule is read: one that many
// readers share, or the exact one of a single reader.
package plan

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Demand is what one HPA reads of a subject.
type Demand struct {
	Subject

	// Names are the objects if the HPA names them; else it asks for Replicas pods by a
	// selector.
	Names    []string
	Replicas int
}

// Counter says how many objects there are.
type Counter interface {
	// Count is how many objects of the resource there are in a namespace, in all of them
	// if it is empty; false if that is not known.
	Count(r schema.GroupResource, namespace string) (int, bool)
}

// Engine gives the values of queries. One that is also a StateReader lets a change
// of plan wait until the new query has an answer.
type Engine interface {
	Read(ctx context.Context, request engine.Request) (engine.Answer, error)
}

// StateReader says what is known of queries.
type StateReader interface {
	// Peek says what is known of the request's query and leaves its demand as it is.
	Peek(request engine.Request) (engine.State, bool)
	// Touch brings the request's query into demand without waiting for the answer.
	Touch(request engine.Request)
}

// ErrNotReady is the error of all reads until the resources of the Kubernetes API were
// read for the first time: a query made before could ask for a label that does not
// exist, which reads as no data.
var ErrNotReady = rules.ErrNotReady

// Planner plans queries. It is safe for concurrent use.
type Planner struct {
	opts  Options
	epoch time.Time
	// plan is what the last Update decided.
	plan     atomic.Pointer[plan]
	updating sync.Mutex

	queries queries
	// answers counts those of which an index was made.
	answers atomic.Uint64
}

// Options are what a Planner needs.
type Options struct {
	// Source is the engine's name of the Prometheus source.
	Source  string
	Engine  Engine
	Mapper  rules.Mapper
	Counter Counter
	// MaxAge is that of rules without one.
	MaxAge func() time.Duration
}

// New makes a planner that knows of no demand.
func New(opts Options) *Planner {
	p := &Planner{opts: opts, epoch: time.Now(), queries: newQueries()}
	p.plan.Store(&plan{})
	return p
}

// now counts by the monotonic clock.
func (p *Planner) now() time.Duration { return time.Since(p.epoch) }

// External is the request of an external metric of a rule. The error is ErrNotReady, or
// says what cannot be expressed.
func (p *Planner) External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error) {
	s, err := p.resolve(OfRule(r, series, schema.GroupResource{}, namespace, selector))
	if err != nil {
		return engine.Request{}, err
	}
	q := p.query(s, rules.Named, nil)
	if q.err != nil {
		return engine.Request{}, q.err
	}
	return p.request(s, q), nil
}

// Reading is what was read of the objects that were asked for.
type Reading struct {
	// ID is equal for two Readings of a Planner only if all else of them is the same; zero
	// says nothing.
	ID uint64
	// Samples are those of each object, in the order of the answer. Objects without
	// one are absent, and others than those asked for may be there. All of it is shared
	// and must not be written to.
	Samples map[types.NamespacedName][]sources.Sample
	// Fetched is when the backend was asked.
	Fetched time.Time
	// Question is the one that was asked.
	Question rules.Question
}

// Read reads the subject's values of the objects of those names, at least one. It
// reads the shared query where the plan has one, and a narrower one where the backend
// rejects that or is too slow for it. An answer without a value is a Reading without
// samples, and no error. Errors are the engine's, the rule's if the selector cannot be
// expressed, or ErrNotReady.
//
// What a Read costs whose answer was read before does not depend on how many objects there
// are.
func (p *Planner) Read(ctx context.Context, s Subject, names *Names) (Reading, error) {
	resolved, err := p.resolve(s)
	if err != nil {
		return Reading{}, err
	}
	o := p.read(ctx, resolved, p.scope(ctx, resolved, names), names)
	if o.err != nil {
		return Reading{}, o.err
	}
	return p.reading(o.q, o.answer, s.Namespace), nil
}

// reading is an answer to q, whose objects are in the namespace if the question does not
// say.
func (p *Planner) reading(q *query, answer engine.Answer, namespace string) Reading {
	i := p.index(q, answer, namespace)
	return Reading{ID: i.id, Samples: i.objects, Fetched: answer.Fetched, Question: q.question}
}

// ReadAll reads the subject's values of objects in several namespaces, as `kubectl top
// pods -A` asks for them: s.Namespace is ignored.
func (p *Planner) ReadAll(ctx context.Context, s Subject, objects []types.NamespacedName) (Reading, error) {
	names := map[string][]string{}
	for _, o := range objects {
		names[o.Namespace] = append(names[o.Namespace], o.Name)
	}
	if len(names) >= wideFrom && !p.few(len(objects)*fewShare, s.Resource, "") {
		reading, err := p.readCluster(ctx, s, objects)
		if !errors.Is(err, errNotShared) {
			return reading, err
		}
	}
	return p.readEach(ctx, s, names)
}

// readCluster reads one query of the cluster. The error wraps errNotShared if there
// can be none.
func (p *Planner) readCluster(ctx context.Context, s Subject, objects []types.NamespacedName) (Reading, error) {
	resolved, err := p.resolve(s)
	if err != nil {
		return Reading{}, err
	}
	q := p.query(resolved, rules.Cluster, nil)
	if !q.fit(p.now()) {
		return Reading{}, errNotShared
	}
	q.wanted.Store(int64(p.now()))
	answer, err := p.ask(ctx, resolved, q)
	switch {
	case errors.Is(err, sources.ErrRejected):
		p.bar(ctx, q, err)
		return Reading{}, errNotShared
	case isSlow(ctx, err):
		// One object tells whether the others are worth a try.
		resolved.Namespace = objects[0].Namespace
		if p.readNarrower(ctx, resolved, outcome{q, answer, err}, NewNames(objects[0].Name)).err == nil {
			return Reading{}, errNotShared
		}
		return Reading{}, err
	case err != nil:
		return Reading{}, err
	}
	return p.reading(q, answer, ""), nil
}

// readEach reads each namespace by itself, all at once, and fails if one of them does.
func (p *Planner) readEach(ctx context.Context, s Subject, names map[string][]string) (Reading, error) {
	var mu sync.Mutex
	all := Reading{Samples: map[types.NamespacedName][]sources.Sample{}}
	group, ctx := errgroup.WithContext(ctx)
	for namespace, names := range names {
		group.Go(func() error {
			s := s
			s.Namespace = namespace
			reading, err := p.Read(ctx, s, NewNames(names...))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if all.Fetched.IsZero() || reading.Fetched.Before(all.Fetched) {
				all.Fetched, all.Question = reading.Fetched, reading.Question
			}
			// Those of other namespaces are for who reads them to say.
			for _, name := range names {
				key := types.NamespacedName{Namespace: namespace, Name: name}
				if samples, ok := reading.Samples[key]; ok {
					all.Samples[key] = samples
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Reading{}, err
	}
	return all, nil
}

// ask reads one query. No data is an answer without samples.
func (p *Planner) ask(ctx context.Context, s subject, q *query) (engine.Answer, error) {
	answer, err := p.opts.Engine.Read(ctx, p.request(s, q))
	if errors.Is(err, sources.ErrNoData) {
		err = nil
	}
	q.heed(ctx, answer.Fetched.Sub(p.epoch), p.now(), err)
	return answer, err
}

// request is how the subject asks q. An answer lives for two askings at least.
func (p *Planner) request(s subject, q *query) engine.Request {
	maxAge := s.MaxAge
	if maxAge == 0 {
		maxAge = p.opts.MaxAge()
	}
	return engine.Request{Source: p.opts.Source, Query: q.ask, Interval: min(s.Interval, maxAge/2), MaxAge: maxAge}
}
