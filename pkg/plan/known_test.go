package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func objectsIn(namespaces int) []types.NamespacedName {
	objects := make([]types.NamespacedName, namespaces)
	for i, n := range numbered("n", namespaces) {
		objects[i] = types.NamespacedName{Namespace: n, Name: "x"}
	}
	return objects
}

// learner is a mapper that knows plurals from some time on, as *objects.Mapper does.
type learner struct {
	generation uint64
	known      []string
}

func (l *learner) learn(plurals ...string) {
	l.generation++
	l.known = append(l.known, plurals...)
}

func (l *learner) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	for _, plural := range l.known {
		if r.Group == "" && (r.Resource == plural || r.Resource+"s" == plural) {
			return schema.GroupResource{Resource: plural}, plural != "namespaces", true
		}
	}
	return schema.GroupResource{}, false, false
}

func (l *learner) Singular(r schema.GroupResource) string {
	if _, _, ok := l.Normalize(r); !ok {
		return r.Resource
	}
	return strings.TrimSuffix(r.Resource, "s")
}

func (l *learner) Known() bool { return l.generation > 0 }

func (l *learner) Generation() uint64 { return l.generation }

// ruleBench plans the rules of a file over a learner.
func ruleBench(t *testing.T) (*bench, *learner, func() *rules.Set) {
	t.Helper()
	b, m := newBench(t), &learner{}
	opts := b.options(b.engine)
	opts.Mapper = m
	b.Planner = New(opts)
	return b, m, func() *rules.Set {
		set, err := rules.File{
			Rules:         []rules.Rule{{SeriesQuery: "requests", Resources: rules.Resources{Template: "<<.Resource>>"}, MetricsQuery: "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"}},
			ExternalRules: []rules.Rule{{SeriesQuery: "queue", Resources: rules.Resources{Template: "<<.Resource>>"}, MetricsQuery: "sum(<<.Series>>{<<.LabelMatchers>>})"}},
		}.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
}

// A query that was made with a guess of a label would read as no data, and for ever.
func TestNothingIsAskedBeforeTheResourcesAreKnown(t *testing.T) {
	b, m, compile := ruleBench(t)
	set := compile()
	s := OfRule(set.Custom[0], "requests", pods, "shop", nil)
	for name, read := range map[string]func() error{
		"External": func() error { _, err := b.External(set.External[0], "queue", "shop", nil); return err },
		"Read":     func() error { _, err := b.Read(t.Context(), s, NewNames("a")); return err },
		"ReadAll":  func() error { _, err := b.ReadAll(t.Context(), s, objectsIn(20)); return err },
	} {
		if err := read(); !errors.Is(err, ErrNotReady) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	b.want(b.update([]Demand{{Subject: s, Replicas: 3}}), "")
	b.want(b.engine.lastRead(), "")

	m.learn("pods", "namespaces")
	r, err := b.External(set.External[0], "queue", "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.want(promQL(r), `sum(queue{namespace="shop"})`)
	b.want(squeeze(b.update([]Demand{{Subject: s, Replicas: 3}})), `sum(requests{namespace="shop",pod!=""})by(pod)`)
}

func TestErrorsEndWithTheirCause(t *testing.T) {
	b, m, compile := ruleBench(t)
	set := compile()
	m.learn("pods", "namespaces")
	s := OfRule(set.Custom[0], "requests", schema.GroupResource{Resource: "queues"}, "shop", nil)
	for range 2 {
		if _, err := b.Read(t.Context(), s, NewNames("a")); err == nil || err.Error() != "rules[0]: the Kubernetes API has no resource queues" {
			t.Errorf("got %v", err)
		}
	}
	m.learn("queues")
	if _, err := b.Read(t.Context(), s, NewNames("a")); err != nil {
		t.Error(err)
	}
	b.want(squeeze(b.engine.lastRead()), `sum(requests{namespace="shop",queue="a"})by(queue)`)
}

// What is known of a query outlives new resources that do not change it, and a reload of
// the file.
func TestWhatIsKnownOutlivesChangesElsewhere(t *testing.T) {
	b, m, compile := ruleBench(t)
	m.learn("pods", "namespaces")
	subject := func() Subject { return OfRule(compile().Custom[0], "requests", pods, "shop", nil) }
	b.update([]Demand{{Subject: subject(), Replicas: 3}})
	b.engine.errs[`sum(requests{namespace="shop",pod!=""}) by (pod)`] = sources.ErrRejected
	const shared, exact = `sum(requests{namespace="shop",pod!=""})by(pod)`, `sum(requests{namespace="shop",pod="a"})by(pod)`
	for _, want := range []string{shared + "," + exact, exact, exact} {
		if _, err := b.Read(t.Context(), subject(), NewNames("a")); err != nil {
			t.Fatal(err)
		}
		b.want(squeeze(b.engine.lastRead()), want)
		m.learn("others")
	}
}

func TestPlanOutlivesAReload(t *testing.T) {
	overEngine(t, func(t *testing.T, w *whole) {
		for range 20 {
			w.round(8)
		}
		w.source.fail(map[string]error{"": errors.New("connection refused")})
		<-time.After(30 * time.Second)
		w.rule = &fakeRule{}
		if failed := w.readEach(8); failed > 0 {
			t.Errorf("%d reads fail between a reload and the next plan", failed)
		}
		w.rule = &fakeRule{}
		if failed := w.round(7); failed > 0 {
			t.Errorf("%d reads fail after the plan has forgotten that it was wide", failed)
		}
	})
}

// However much others read, what HPAs share is remembered, and that it is refused.
func TestOneOffReadsAreForgottenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.engine.errs["space shop{}"] = sources.ErrRejected
		b.update(b.selects("shop", 1, 3), b.selects("bank", 1, 3))
		b.want(b.reads("shop", "a", "b"), "space shop{}, exact shop/a|b{}")
		<-time.After(time.Second)
		for i := range 2 * maxQueries {
			if _, err := b.Read(t.Context(), b.subject("x"), NewNames(fmt.Sprint("h", i))); err != nil {
				t.Fatal(err)
			}
		}
		b.engine.lastRead()
		b.want(b.reads("shop", "a", "b"), "exact shop/a|b{}")
		s, err := resolve(b.subject("bank"))
		if err != nil {
			t.Fatal(err)
		}
		if b.known(s, rules.Namespace) == nil {
			t.Error("a planned query is forgotten")
		}
		if n := len(b.queries.byKey); n > maxQueries {
			t.Errorf("%d queries are kept", n)
		}
	})
}

func TestLongQueriesAreBounded(t *testing.T) {
	b := newBench(t)
	for i := range maxQueries - 1 {
		b.reads("shop", fmt.Sprint(i, strings.Repeat("x", 1000)))
	}
	if n := len(b.queries.byKey); n > maxBytes/1000 || n < 100 || b.queries.bytes > maxBytes {
		t.Errorf("%d queries of %d bytes are kept", n, b.queries.bytes)
	}
	for key := range b.queries.byKey {
		if len(key.names) > maxNames {
			t.Fatalf("a key has %d bytes of names", len(key.names))
		}
	}
}
