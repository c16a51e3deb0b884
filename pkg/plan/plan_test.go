package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// fakeRule asks with a text that says what it was asked: the scope, the place and the
// selector.
type fakeRule struct {
	unshareable error
}

func (f *fakeRule) Question(_ rules.Mapper, a rules.Ask) (rules.Question, error) {
	selector := ""
	if a.Selector != nil {
		selector = a.Selector.String()
		if strings.Contains(selector, ">") {
			return rules.Question{}, errors.New("selector: greater than cannot be expressed")
		}
	}
	q := rules.Question{ObjectLabel: "object"}
	switch a.Scope {
	case rules.Cluster:
		q.PromQL, q.NamespaceLabel = "cluster", "namespace"
	case rules.Namespace:
		q.PromQL = "space " + a.Namespace
	default:
		q.PromQL = "exact " + a.Namespace + "/" + strings.Join(a.Names, "|")
	}
	q.PromQL += "{" + selector + "}"
	return q, nil
}

func (f *fakeRule) Identity() string { return fmt.Sprint("a rule, unshareable: ", f.unshareable) }

func (f *fakeRule) Shareable(rules.Mapper, rules.Ask) error { return f.unshareable }

// fakeEngine answers what it was set to, by PromQL, and knows what it was asked.
type fakeEngine struct {
	mu      sync.Mutex
	answers map[string]engine.Answer
	errs    map[string]error
	read    []string
	touched []string
}

// promQL is the last part of a query's key.
func promQL(r engine.Request) string {
	parts := strings.Split(r.Query.Key(), "\x00")
	return parts[len(parts)-1]
}

func (f *fakeEngine) Read(_ context.Context, r engine.Request) (engine.Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := promQL(r)
	f.read = append(f.read, q)
	return f.answers[q], f.errs[q]
}

// lastRead gives what was read since it was last called.
func (f *fakeEngine) lastRead() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	read := strings.Join(f.read, ", ")
	f.read = nil
	return read
}

// warmEngine also says which of its queries were answered.
type warmEngine struct {
	*fakeEngine

	warm map[string]engine.State
	// peeks counts the looks at a state.
	peeks int
}

func (f *warmEngine) Peek(r engine.Request) (engine.State, bool) {
	f.peeks++
	s, ok := f.warm[promQL(r)]
	return s, ok
}

func (f *warmEngine) Touch(r engine.Request) { f.touched = append(f.touched, promQL(r)) }

// counts are the numbers of objects by namespace.
type counts map[string]int

func (c counts) Count(_ schema.GroupResource, namespace string) (int, bool) {
	n, ok := c[namespace]
	return n, ok
}

var pods = schema.GroupResource{Resource: "pods"}

type bench struct {
	*Planner

	t      *testing.T
	engine *fakeEngine
	counts counts
	rule   *fakeRule
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, engine: &fakeEngine{answers: map[string]engine.Answer{}, errs: map[string]error{}}, counts: counts{}, rule: &fakeRule{}}
	b.Planner = New(b.options(b.engine))
	return b
}

func (b *bench) options(e Engine) Options {
	return Options{Source: "prometheus", Engine: e, Mapper: core{}, Counter: b.counts, MaxAge: func() time.Duration { return 5 * time.Minute }}
}

func (b *bench) subject(namespace string) Subject {
	return Subject{Asker: b.rule, Server: "default", Interval: 15 * time.Second, Share: true, Series: "requests", Resource: pods, Namespace: namespace}
}

// selects is the demand of n HPAs that ask for that many pods each by a selector.
func (b *bench) selects(namespace string, n, replicas int) []Demand {
	return slices.Repeat([]Demand{{Subject: b.subject(namespace), Replicas: replicas}}, n)
}

// names is the demand of HPAs that name one object each of the namespace shop.
func (b *bench) names(objects ...string) []Demand {
	demands := make([]Demand, len(objects))
	for i, o := range objects {
		demands[i] = Demand{Subject: b.subject("shop"), Names: []string{o}}
	}
	return demands
}

// update gives what is asked for the demands, sorted.
func (b *bench) update(demands ...[]Demand) string {
	var asked []string
	for _, r := range b.Update(slices.Concat(demands...)) {
		asked = append(asked, promQL(r))
	}
	slices.Sort(asked)
	return strings.Join(asked, ", ")
}

// reads gives the queries that a read of the objects asks.
func (b *bench) reads(namespace string, objects ...string) string {
	b.t.Helper()
	if _, err := b.Read(b.t.Context(), b.subject(namespace), NewNames(objects...)); err != nil {
		b.t.Fatal(err)
	}
	return b.engine.lastRead()
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("got %q, want %q", got, want)
	}
}

func numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i)
	}
	return names
}

func TestPodsShareANamespace(t *testing.T) {
	b := newBench(t)
	b.want(b.update(b.selects("shop", 2, 3), b.selects("bank", 1, 1)), "space bank{}, space shop{}")
	b.want(b.reads("shop", "a", "b"), "space shop{}")
	b.want(b.reads("shop", "a"), "space shop{}")
	b.want(b.reads("bank", "a"), "space bank{}")
}

// A few pods among thousands are asked exactly, until they are no longer few.
func TestFewPodsInALargeNamespace(t *testing.T) {
	b := newBench(t)
	for _, step := range []struct {
		pods, hpas, replicas int
		want                 string
	}{
		{pods: 200, hpas: 1, replicas: 1, want: "space shop{}"},
		{pods: 201, hpas: 1, replicas: 25, want: ""},
		{pods: 201, hpas: 1, replicas: 50, want: ""},
		{pods: 200, hpas: 1, replicas: 49, want: "space shop{}"},
		{pods: 400, hpas: 1, replicas: 50, want: "space shop{}"}, // An eighth is not few.
		{pods: 401, hpas: 1, replicas: 50, want: ""},
		{pods: 401, hpas: 1, replicas: 101, want: "space shop{}"},
		{pods: 401, hpas: 1, replicas: 60, want: "space shop{}"},
		{pods: 10_000, hpas: 3, replicas: 2, want: "space shop{}"},
		{pods: 10_000, hpas: 2, replicas: 2, want: ""},
		{pods: 10_000, hpas: 3, replicas: 2, want: ""},
		{pods: 10_000, hpas: 4, replicas: 2, want: "space shop{}"},
	} {
		b.counts["shop"] = step.pods
		if got := b.update(b.selects("shop", step.hpas, step.replicas)); got != step.want {
			t.Errorf("%+v: got %q", step, got)
		}
		want := step.want
		if want == "" {
			want = "exact shop/a|b{}"
		}
		b.want(b.reads("shop", "b", "a", "b"), want)
	}
}

func TestNamedObjectsShareWhenTheyAreMany(t *testing.T) {
	b := newBench(t)
	exact := "exact shop/s0{}, exact shop/s1{}, exact shop/s2{}"
	for _, step := range []struct {
		names int
		want  string
	}{{3, exact}, {4, "space shop{}"}, {2, "space shop{}"}, {1, "exact shop/s0{}"}, {3, exact}} {
		b.want(b.update(b.names(numbered("s", step.names)...)), step.want)
	}
	b.want(b.reads("shop", "s0"), "exact shop/s0{}")
	b.want(b.update(b.names("s", "s", "s", "s")), "exact shop/s{}")
	b.want(b.update(b.names("s"), b.selects("shop", 1, 1)), "space shop{}")
	b.want(b.reads("shop", "s"), "space shop{}")
}

func TestClusterWideQuery(t *testing.T) {
	b := newBench(t)
	demand := func(namespaces int) []Demand {
		var all []Demand
		for _, n := range numbered("n", namespaces) {
			all = append(all, b.selects(n, 1, 10)...)
		}
		return all
	}
	for _, n := range numbered("n", 20) {
		b.counts[n] = 10
	}
	for _, step := range []struct {
		namespaces, pods int
		wide             bool
	}{
		{7, 70, false},
		{8, 161, false},
		{8, 160, true},
		{5, 200, true},
		{5, 201, false},
		{5, 50, false},
		{8, 80, true},
		{4, 40, false},
	} {
		b.counts[""] = step.pods
		got := b.update(demand(step.namespaces))
		if (got == "cluster{}") != step.wide || !step.wide && strings.Count(got, "space") != step.namespaces {
			t.Errorf("%+v: %s", step, got)
		}
	}
	b.counts[""] = 80
	b.want(b.update(demand(8), b.selects("", 1, 1)), "cluster{}, space {}")
	b.want(b.reads("n3", "a"), "cluster{}")
	b.want(b.reads("elsewhere", "a"), "cluster{}")
	b.want(b.reads("", "a"), "space {}")
	clear(b.counts)
	b.want(b.update(demand(8)), "cluster{}")
}

// The figure: 1,000 HPAs of type Pods over 20 namespaces on one rule.
func TestThousandHPAsAreTwentyQueries(t *testing.T) {
	for name, perNamespace := range map[string]int{"unknown": -1, "their pods": 150, "large": 100_000} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			var demands []Demand
			for _, n := range numbered("n", 20) {
				demands = append(demands, b.selects(n, 50, 3)...)
				if perNamespace > 0 {
					b.counts[n] = perNamespace
					b.counts[""] += 3 * perNamespace
				}
			}
			asked := map[string]bool{}
			for _, r := range b.Update(demands) {
				asked[promQL(r)] = true
			}
			for i := range 1000 {
				asked[b.reads("n"+strconv.Itoa(i%20), numbered("pod-"+strconv.Itoa(i), 1+i%3)...)] = true
			}
			if len(asked) > 20 {
				t.Errorf("%d queries", len(asked))
			}
		})
	}
}

func TestReadsThatNoHPAAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		b.want(b.reads("shop", "a", "b"), "space shop{}")
		// While somebody reads the namespace, others do too.
		b.want(b.reads("shop", "a"), "space shop{}")
		<-time.After(wantedFor + time.Second)
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		b.counts["shop"] = 1000
		b.want(b.reads("shop", "a", "b"), "exact shop/a|b{}")
		b.want(b.reads("shop", numbered("p", 250)...), "space shop{}")
		<-time.After(wantedFor + time.Second)
		b.want(b.reads("bank", "a", "b"), "space bank{}")
	})
}

func TestReadAll(t *testing.T) {
	b := newBench(t)
	object := func(namespace, name string) types.NamespacedName {
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	sample := func(namespace, name string, v float64) sources.Sample {
		return sources.Sample{Labels: sources.NewLabels("namespace", namespace, "object", name), Value: v}
	}
	read := func(objects ...types.NamespacedName) (map[types.NamespacedName][]sources.Sample, string) {
		t.Helper()
		r, err := b.ReadAll(t.Context(), b.subject("ignored"), objects)
		if err != nil {
			t.Fatal(err)
		}
		return r.Samples, b.engine.lastRead()
	}
	b.engine.answers["exact a/x{}"] = engine.Answer{Samples: []sources.Sample{sample("a", "x", 1)}}
	b.engine.answers["exact b/x{}"] = engine.Answer{Samples: []sources.Sample{sample("b", "x", 2)}}
	got, _ := read(object("a", "x"), object("b", "x"))
	if got[object("a", "x")][0].Value != 1 || got[object("b", "x")][0].Value != 2 || len(got) != 2 {
		t.Errorf("two namespaces: %v", got)
	}

	var objects []types.NamespacedName
	var samples []sources.Sample
	for _, n := range numbered("n", 20) {
		objects = append(objects, object(n, "x"))
		samples = append(samples, sample(n, "x", 3), sample(n, "y", 4), sources.Sample{Labels: sources.NewLabels("object", "x")})
	}
	b.engine.answers["cluster{}"] = engine.Answer{Samples: samples}
	got, asked := read(objects...)
	b.want(asked, "cluster{}")
	for _, o := range objects {
		if len(got[o]) != 1 || got[o][0].Value != 3 {
			t.Errorf("many namespaces: %s has %v", o, got[o])
		}
	}
	// An HPA's read that nobody announced may share it.
	b.want(b.reads("n3", "x"), "cluster{}")

	b.engine.errs["cluster{}"] = fmt.Errorf("too many samples: %w", sources.ErrRejected)
	if _, asked := read(objects...); strings.Count(asked, "exact") != 20 || strings.Count(asked, ",") != 20 {
		t.Errorf("in place of the query of the cluster: %s", asked)
	}
	b.engine.errs["exact n4/x{}"] = errors.New("away")
	if _, err := b.ReadAll(t.Context(), b.subject(""), objects); err == nil {
		t.Error("a namespace that cannot be read is left out silently")
	}
}

func TestRulesThatAreNotShared(t *testing.T) {
	for name, set := range map[string]func(*bench, *Demand){
		"by the rule's setting": func(_ *bench, d *Demand) { d.Share = false },
		"by the template":       func(b *bench, _ *Demand) { b.rule.unshareable = errors.New("the template uses LabelValuesByName") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.selects("shop", 1, 3)[0]
			set(b, &d)
			b.want(b.update([]Demand{d}), "")
			if _, err := b.Read(t.Context(), d.Subject, NewNames("a", "b")); err != nil {
				t.Fatal(err)
			}
			b.want(b.engine.lastRead(), "exact shop/a|b{}")
		})
	}
}

func TestRejectedSharedQueryIsReadExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		demand := b.selects("shop", 1, 2)
		b.update(demand)
		refused := &engine.UnavailableError{Source: "prometheus", Err: fmt.Errorf("%w: too many samples", sources.ErrRejected)}
		b.engine.errs["space shop{}"] = refused
		b.want(b.reads("shop", "a", "b"), "space shop{}, exact shop/a|b{}")
		b.want(b.reads("shop", "a", "b"), "exact shop/a|b{}")
		b.want(b.update(demand), "")
		<-time.After(barFor + time.Second)
		b.want(b.update(demand), "space shop{}")
		delete(b.engine.errs, "space shop{}")
		b.want(b.reads("shop", "a", "b"), "space shop{}")

		// Any other failure is no reason to ask more.
		b.engine.errs["space shop{}"] = &engine.UnavailableError{Source: "prometheus", Err: errors.New("503")}
		if _, err := b.Read(t.Context(), b.subject("shop"), NewNames("a")); err == nil {
			t.Error("no error")
		}
		b.want(b.engine.lastRead(), "space shop{}")

		// An exact query that is rejected too is the reader's error.
		b.engine.errs["space shop{}"], b.engine.errs["exact shop/a{}"] = refused, refused
		if _, err := b.Read(t.Context(), b.subject("shop"), NewNames("a")); !errors.Is(err, sources.ErrRejected) {
			t.Errorf("got %v", err)
		}
	})
}

// A change of plan must not make an HPA wait for a query that has no answer yet.
func TestSwitchWaitsForTheNewQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		e := &warmEngine{fakeEngine: b.engine, warm: map[string]engine.State{}}
		b.Planner = New(b.options(e))
		warm := func() engine.State { return engine.State{InDemand: true, Answer: engine.Answer{Fetched: time.Now()}} }

		b.update(b.names("a"))
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		e.warm["exact shop/a{}"] = warm()
		<-time.After(time.Second)
		e.warm["space shop{}"] = warm() // Of an earlier demand: a read would wait.
		<-time.After(time.Second)
		b.want(b.update(b.names("a", "b", "c", "d")), "space shop{}")
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		b.want(b.reads("shop", "b"), "space shop{}") // Nothing is known of either.
		b.update(b.names("a", "b", "c", "d"))
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		e.warm["space shop{}"] = warm()
		b.want(b.reads("shop", "a"), "space shop{}")

		// The way back warms what nobody has pinned.
		b.counts["shop"] = 10_000
		delete(e.warm, "exact shop/a{}")
		b.update(b.selects("shop", 1, 1))
		e.touched = nil
		b.want(b.reads("shop", "a"), "space shop{}")
		b.want(strings.Join(e.touched, ","), "exact shop/a{}")
		e.warm["exact shop/a{}"] = engine.State{Err: errors.New("503"), Since: time.Now()}
		b.want(b.reads("shop", "a"), "space shop{}") // It failed, and the other one works.
		<-time.After(switchFor + time.Second)
		b.want(b.reads("shop", "a"), "space shop{}")
		delete(e.warm, "exact shop/a{}")
		b.want(b.reads("shop", "a"), "exact shop/a{}")
	})
}

// Once the shared query of a new plan was answered, a read is what it is without a change of
// plan: it looks at no state and composes no exact query, and the next plan has forgotten
// what was read before.
func TestSwitchIsOverWithTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		e := &warmEngine{fakeEngine: b.engine, warm: map[string]engine.State{}}
		b.Planner = New(b.options(e))
		answered := func(q string) {
			e.warm[q] = engine.State{InDemand: true, Answer: engine.Answer{Fetched: time.Now()}}
		}
		planned := func() *space {
			s, err := resolve(b.subject("shop"))
			if err != nil {
				t.Fatal(err)
			}
			_, planned := b.plan.Load().of(s)
			return planned
		}
		composed := func() (exact int) {
			for _, q := range b.queries.byKey {
				if q.scope == rules.Named {
					exact++
				}
			}
			return exact
		}
		one, four := b.names("a"), b.names("a", "b", "c", "d")

		b.update(one)
		answered("exact shop/a{}")
		<-time.After(time.Second)
		b.update(four)
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		if s := planned(); s.last() != rules.Named {
			t.Errorf("without an answer the scope before is %v", s.last())
		}
		answered("space shop{}")
		b.want(b.reads("shop", "a"), "space shop{}")
		before := composed()
		e.peeks = 0
		b.want(b.reads("shop", "e"), "space shop{}")
		b.want(b.reads("shop", "f"), "space shop{}")
		if composed() != before || e.peeks > 0 {
			t.Errorf("%d exact queries of %d were composed after the first answer, and %d states looked at", composed()-before, composed(), e.peeks)
		}
		b.update(four)
		if s := planned(); s.was != rules.Namespace {
			t.Errorf("the next plan knows the scope before still: %v", s.was)
		}
		b.want(b.reads("shop", "a"), "space shop{}")
		if e.peeks > 0 {
			t.Errorf("%d states were looked at in the next plan", e.peeks)
		}

		// The next change waits again, each way.
		<-time.After(time.Second)
		b.update(one)
		b.want(b.reads("shop", "a"), "space shop{}")
		answered("exact shop/a{}")
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		if s := planned(); s.last() != rules.Namespace {
			t.Errorf("the answer to one exact query has settled all of them: %v", s.last())
		}
		<-time.After(time.Second)
		b.update(four)
		b.want(b.reads("shop", "a"), "exact shop/a{}")
		answered("space shop{}")
		b.want(b.reads("shop", "a"), "space shop{}")
	})
}

func TestTerms(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		interval, maxAge time.Duration
		want             string
	}{
		{interval: 15 * time.Second, want: "15s 5m0s"},
		{interval: 15 * time.Second, maxAge: time.Minute, want: "15s 1m0s"},
		{interval: 15 * time.Second, maxAge: 20 * time.Second, want: "10s 20s"},
		{interval: time.Hour, want: "2m30s 5m0s"},
	} {
		s := b.subject("shop")
		s.Interval, s.MaxAge = tc.interval, tc.maxAge
		r := b.Update([]Demand{{Subject: s, Replicas: 1}})[0]
		b.want(fmt.Sprint(r.Interval, " ", r.MaxAge), tc.want)
		b.want(r.Source, "prometheus")
	}
}

func TestSelectorsThatMeanTheSameShare(t *testing.T) {
	b := newBench(t)
	asked := map[string]bool{}
	for _, text := range []string{"a=1,b in (x,y)", "b in (y,x),a==1", "a=1,b in (y,x,x),a=1"} {
		s := b.subject("shop")
		s.Selector = parse(t, text)
		for _, r := range b.Update([]Demand{{Subject: s, Replicas: 1}}) {
			asked[promQL(r)] = true
		}
	}
	if got := slices.Collect(maps.Keys(asked)); !slices.Equal(got, []string{"space shop{a=1,b in (x,y)}"}) {
		t.Errorf("got %q", got)
	}
	s := b.subject("shop")
	for _, everything := range []labels.Selector{nil, labels.Everything(), labels.NewSelector()} {
		s.Selector = everything
		b.want(promQL(b.Update([]Demand{{Subject: s, Replicas: 1}})[0]), "space shop{}")
	}
}

func TestSelectorsThatCannotBeAsked(t *testing.T) {
	b := newBench(t)
	for want, selector := range map[string]labels.Selector{
		"selector: greater than cannot be expressed": parse(t, "a>1"),
		"the metric selector selects nothing":        labels.Nothing(),
	} {
		s := b.subject("shop")
		s.Selector = selector
		demands := []Demand{{Subject: s, Replicas: 1}, {Subject: s, Names: []string{"a"}}, {Subject: b.subject("shop"), Replicas: 1}}
		b.want(b.update(demands), "space shop{}")
		if _, err := b.Read(t.Context(), s, NewNames("a", "b")); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What a reader writes makes a query as long as it may be, and not longer.
func TestLengthIsLimited(t *testing.T) {
	for name, tc := range map[string]struct {
		selector int
		names    []string
		want     string
	}{
		"a selector":          {selector: 8<<10 - 2, names: []string{"a"}},
		"too long a selector": {selector: 8 << 10, names: []string{"a"}, want: "the metric selector has 8194 bytes, and may have 8192 at most"},
		"many names":          {names: numbered("a-pod-of-some-length-", 15_000)},
		"too many names":      {names: numbered("a-pod-of-some-length-", 50_000), want: "the names of the 50000 objects have 1288890 bytes, and may have 1048576 at most: ask for fewer objects at a time"},
		"a name":              {names: []string{strings.Repeat("a", 1<<10)}},
		"too long a name":     {names: []string{strings.Repeat("a", 1<<10+1)}, want: "the object's name has 1025 bytes, and may have 1024 at most"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.subject("shop")
			s.Share = false
			if tc.selector > 0 {
				s.Selector = labels.SelectorFromValidatedSet(labels.Set{"a": strings.Repeat("b", tc.selector)})
			}
			_, err := b.Read(t.Context(), s, NewNames(tc.names...))
			if got := fmt.Sprint(err); err != nil && got != tc.want || err == nil && tc.want != "" {
				t.Errorf("got %.200s, want %s", got, tc.want)
			}
			if asked := b.engine.lastRead(); (asked == "") != (tc.want != "") {
				t.Errorf("%d bytes are asked", len(asked))
			}
			if tc.want != "" && b.queries.bytes > maxSelector {
				t.Errorf("%d bytes are kept", b.queries.bytes)
			}
		})
	}
}

// What a reader names is a part of its request, which may be long for other reasons.
func TestRequestsAreNotKept(t *testing.T) {
	b := newBench(t)
	const size, count = 1 << 20, 100
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range count {
		request := fmt.Sprintf("shop-%03d/pod-%03d/", i, i) + strings.Repeat("x", size)
		s := b.subject(request[:8])
		s.Share = false
		b.engine.answers["exact "+s.Namespace+"/"+request[9:16]+"{}"] = engine.Answer{
			Fetched: time.Now(), Samples: []sources.Sample{{Labels: sources.NewLabels("object", strings.Clone(request[9:16]))}},
		}
		r, err := b.Read(t.Context(), s, NewNames(request[9:16]))
		if err != nil || len(r.Samples) != 1 {
			t.Fatal(r, err)
		}
	}
	b.engine.lastRead()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > count*size/10 {
		t.Errorf("%d queries of requests of %d bytes keep %d bytes", count, size, grown)
	}
	if len(b.queries.byKey) != count {
		t.Errorf("there are %d queries, want %d", len(b.queries.byKey), count)
	}
	runtime.KeepAlive(b)
}

func TestQueriesGoWithoutOthersComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.subject("shop")
		s.Share = false
		for _, name := range []string{"a", "b"} {
			if _, err := b.Read(t.Context(), s, NewNames(name)); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(keepFor)
		for range 3 {
			if _, err := b.Read(t.Context(), s, NewNames("a")); err != nil {
				t.Fatal(err)
			}
			<-time.After(sweepEvery)
		}
		if n := len(b.queries.byKey); n != 1 {
			t.Errorf("there are %d queries, want the one that is read", n)
		}
		<-time.After(keepFor)
		b.Update(nil)
		if n := len(b.queries.byKey); n != 0 {
			t.Errorf("there are %d queries, want none", n)
		}
	})
}

func parse(t *testing.T, text string) labels.Selector {
	t.Helper()
	s, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReading(t *testing.T) {
	b := newBench(t)
	of := func(object string, v float64) sources.Sample {
		return sources.Sample{Labels: sources.NewLabels("object", object), Value: v}
	}
	fetched := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b.engine.answers["space shop{}"] = engine.Answer{Fetched: fetched, Samples: []sources.Sample{
		of("a", 1), of("b", 2), of("a", 3), {Labels: sources.NewLabels("pod", "a"), Value: 4}, of("other", 5), of("a", 6),
	}}
	b.update(b.selects("shop", 1, 3))
	var id uint64
	for range 2 {
		r, err := b.Read(t.Context(), b.subject("shop"), NewNames("a", "b", "c"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for object, samples := range r.Samples {
			for _, s := range samples {
				got = append(got, fmt.Sprint(object, "=", s.Value))
			}
		}
		slices.Sort(got)
		b.want(strings.Join(got, " "), "shop/a=1 shop/a=3 shop/a=6 shop/b=2 shop/other=5")
		if id != 0 && r.ID != id || r.ID == 0 {
			t.Errorf("the same answer has the IDs %d and %d", id, r.ID)
		}
		id = r.ID
		b.want(r.Question.ObjectLabel, "object")
		if !r.Fetched.Equal(fetched) {
			t.Errorf("fetched %v", r.Fetched)
		}
	}

	b.engine.answers["space shop{}"] = engine.Answer{Fetched: fetched.Add(time.Minute)}
	b.engine.errs["space shop{}"] = fmt.Errorf("requests: %w", sources.ErrNoData)
	r, err := b.Read(t.Context(), b.subject("shop"), NewNames("a"))
	if err != nil || len(r.Samples) != 0 || !r.Fetched.Equal(fetched.Add(time.Minute)) {
		t.Errorf("no data: %+v, %v", r, err)
	}
	if r.ID == id {
		t.Error("another answer has the same ID")
	}
}

// What differs in anything but the names that were asked for has another ID.
func TestReadingsOfDifferentAnswersHaveDifferentIDs(t *testing.T) {
	b := newBench(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := []sources.Sample{{Labels: sources.NewLabels("object", "a"), Value: 1}}
	two := slices.Clone(one)
	seen := map[uint64]string{}
	for _, query := range []string{"exact shop/a{}", "exact bank/a{}", "exact shop/b{}"} {
		in, name, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(query, "exact "), "{}"), "/")
		for i, answer := range []engine.Answer{
			{Fetched: at, Samples: one}, {Fetched: at, Samples: two}, {Fetched: at.Add(1), Samples: two}, {Fetched: at}, {Fetched: at.Add(1)},
		} {
			b.engine.answers[query] = answer
			what := fmt.Sprint(query, " ", i)
			r, err := b.Read(t.Context(), b.subject(in), NewNames(name))
			if err != nil {
				t.Fatal(err)
			}
			b.want(b.engine.lastRead(), query)
			if seen[r.ID] != "" {
				t.Errorf("%s has the ID of %s", what, seen[r.ID])
			}
			seen[r.ID] = what
		}
	}
}

// A thousand HPAs read one answer of 50,000 samples: it is sorted by object once.
func TestAnAnswerIsIndexedOnce(t *testing.T) {
	b := newBench(t)
	samples := make([]sources.Sample, 50_000)
	for i := range samples {
		samples[i].Labels = sources.NewLabels("object", "pod-"+strconv.Itoa(i))
	}
	e := constantEngine{engine.Answer{Fetched: time.Now(), Samples: samples}}
	b.Planner = New(b.options(e))
	b.update(b.selects("shop", 1, 3))
	names := NewNames("pod-1", "pod-2", "pod-3")
	subject := b.subject("shop")
	allocs := testing.AllocsPerRun(100, func() {
		r, err := b.Read(t.Context(), subject, names)
		if err != nil || len(r.Samples) != len(samples) {
			t.Fatal(len(r.Samples), err)
		}
	})
	// Some are the fake's, and of pools that were emptied; an index of all is thousands.
	if allocs > 20 {
		t.Errorf("%v allocations a read", allocs)
	}
}

type constantEngine struct{ engine.Answer }

func (e constantEngine) Read(context.Context, engine.Request) (engine.Answer, error) {
	return e.Answer, nil
}

// What nobody reads is forgotten, with the answers that it holds on to.
func TestQueriesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for _, name := range numbered("p", 100) {
			b.reads("shop", name)
		}
		for range 10 {
			b.update(b.selects("bank", 1, 1))
			<-time.After(time.Minute)
		}
		if n := len(b.queries.byKey); n != 1 {
			t.Errorf("%d queries are kept, want the one in demand", n)
		}
	})
}

func TestQueriesAreBounded(t *testing.T) {
	b := newBench(t)
	for i := range maxQueries + 10 {
		b.reads("shop", "p"+strconv.Itoa(i))
	}
	if n := len(b.queries.byKey); n > maxQueries || n < maxQueries/2 {
		t.Errorf("%d queries are kept", n)
	}
	b.want(b.reads("shop", "one-more"), "exact shop/one-more{}")
}

func TestConcurrentUse(t *testing.T) {
	b := newBench(t)
	b.Planner = New(b.options(&busyEngine{}))
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			for j := range 200 {
				namespace := "n" + strconv.Itoa(j%10)
				if i == 0 {
					b.Update([]Demand{{Subject: b.subject(namespace), Replicas: j}, {Subject: b.subject("n1"), Names: []string{"a"}}})
				}
				if _, err := b.Read(t.Context(), b.subject(namespace), NewNames(numbered("p", 1+j%3)...)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}

// busyEngine has a new answer for every read.
type busyEngine struct{}

func (*busyEngine) Read(context.Context, engine.Request) (engine.Answer, error) {
	return engine.Answer{Fetched: time.Now(), Samples: []sources.Sample{{Labels: sources.NewLabels("object", "p0")}}}, nil
}

func (*busyEngine) Peek(engine.Request) (engine.State, bool) { return engine.State{}, false }

func (*busyEngine) Touch(engine.Request) {}
