package catalog

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

func hpaOf(namespace, name string, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: metrics},
	}
}

func scalerOf(tb testing.TB, hpa *autoscalingv2.HorizontalPodAutoscaler) *scaler {
	tb.Helper()
	return newScaler(hpa, nil)
}

// shows makes an informer show an object. Nobody is told.
func shows(tb testing.TB, informer cache.SharedIndexInformer, object any) {
	tb.Helper()
	if hpa, ok := object.(*autoscalingv2.HorizontalPodAutoscaler); ok {
		object = scalerOf(tb, hpa)
	}
	if err := informer.GetStore().Update(object); err != nil {
		tb.Fatal(err)
	}
}

// watcher is one of the world's catalog.
func (w *world) watcher(p Planner, pinner Pinner) *Watcher {
	w.t.Helper()
	watcher, err := NewWatcher(WatcherOptions{
		Catalog: w.Catalog, Pinner: pinner, Defaults: defaults, Planner: p, Mapper: w.apis,
		Kube: kubefake.NewClientset(), Custom: fake.NewSimpleDynamicClient(runtime.NewScheme()),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return watcher
}

// contents are what lookups give of everything that a test names.
func contents(w *Watcher, state *fakeState) string {
	var b strings.Builder
	for i := range churnNames {
		name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("metric-", i)}
		if m := w.catalog.External(name); m != nil {
			fmt.Fprintln(&b, name, m.of.UID, m.of.generation, m.Err)
			if m.Err == nil {
				asked := slices.Clone(w.catalog.AskedBy(m.Request.Source, m.Request.Query.Key()))
				slices.SortFunc(asked, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
				fmt.Fprintln(&b, asked)
			}
		}
		target, ok := w.catalog.LeastTarget(name)
		external, externally := w.catalog.LeastExternalTarget(name)
		fmt.Fprintln(&b, w.catalog.Users(name), target, ok, external, externally)
	}
	fmt.Fprintln(&b, w.catalog.ExternalNames(), w.catalog.load().objects.definitions, w.catalog.load().objects.deferred)
	fmt.Fprintln(&b, state.pinnedKeys())
	return b.String()
}

const churnNames = 12

// churn changes something in the cluster, and says what.
func churn(t *testing.T, random *rand.Rand, w *Watcher, c *changes, step int) {
	t.Helper()
	name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("metric-", random.IntN(churnNames))}
	created := metav1.Unix(int64(random.IntN(5)), 0)
	if random.IntN(2) == 0 {
		object := &metricsaws.ExternalMetric{ObjectMeta: metav1.ObjectMeta{
			Namespace: name.Namespace, Name: name.Name, UID: "u", Generation: int64(step), CreationTimestamp: created,
		}, Spec: queueDepth([]int32{60, 300, 7}[random.IntN(3)])}
		shows(t, w.objects, newRecord(object, nil, nil))
		if random.IntN(3) == 0 {
			_ = w.objects.GetStore().Delete(newRecord(object, nil, nil))
		}
		c.note(c.objects, newRecord(object, nil, nil))
		return
	}
	hpa := hpaOf("shop", fmt.Sprint("hpa-", random.IntN(churnNames)))
	hpa.CreationTimestamp = created
	hpa.Spec.MinReplicas = new(random.Int32N(2))
	for range random.IntN(4) {
		metric := fmt.Sprint("metric-", random.IntN(churnNames))
		m := externalOfHPA(metric, &metav1.LabelSelector{MatchLabels: map[string]string{"a": strconv.Itoa(random.IntN(3))}})
		m.External.Target.Value = resource.NewQuantity(int64(1+random.IntN(5)), resource.DecimalSI)
		if random.IntN(2) == 0 {
			m = podsMetric(metric, nil)
			m.Pods.Target.AverageValue = resource.NewQuantity(int64(1+random.IntN(5)), resource.DecimalSI)
		}
		hpa.Spec.Metrics = append(hpa.Spec.Metrics, m)
	}
	shows(t, w.hpas, hpa)
	if random.IntN(4) == 0 {
		_ = w.hpas.GetStore().Delete(scalerOf(t, hpa))
	}
	c.note(c.hpas, scalerOf(t, hpa))
}

// A snapshot that is made of what has changed is the one that would be made of everything,
// also above the ceilings.
func TestChangesMakeTheSnapshotOfEverything(t *testing.T) {
	for name, limits := range map[string]ceilings{
		"with room": {amount{100, 1 << 20}, amount{100, 1 << 20}},
		"too many":  {amount{8, 1 << 20}, amount{8, 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(world *world) {
				world.servers.lists(queryB, "metric-1", "metric-2", "metric-3")
				world.set(rules.File{ExternalRules: []rules.Rule{external(queryB, "")}})
				world.run()
				state, p := &fakeState{}, &fakePlanner{}
				w := world.watcher(p, state)
				w.ceilings = limits
				w.rebuild(t.Context())
				told := map[types.NamespacedName]*Metric{}
				w.OnChange(func(changed []types.NamespacedName) {
					for _, n := range changed {
						told[n] = w.catalog.External(n)
					}
				})
				random := rand.New(rand.NewPCG(3, 4))
				for step := range 300 {
					c := newChanges()
					for range 1 + random.IntN(4) {
						churn(t, random, w, &c, step)
					}
					w.build(t.Context(), c)
					got := contents(w, state)
					for i := range churnNames {
						name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("metric-", i)}
						if told[name] != w.catalog.External(name) {
							t.Fatalf("step %d: nobody was told of %s", step, name)
						}
					}
					w.ledger = newLedger()
					w.catalog.setObjects(&snapshot{})
					w.rebuild(t.Context())
					if want := contents(w, state); got != want {
						t.Fatalf("step %d: got\n%s\nwant\n%s", step, got, want)
					}
					for i := range churnNames {
						name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprint("metric-", i)}
						told[name] = w.catalog.External(name)
					}
				}
			})
		})
	}
}

// shown makes an ExternalMetric that was created at that second.
func shown(t *testing.T, w *Watcher, namespace, name string, second int64) {
	t.Helper()
	shows(t, w.objects, newRecord(&metricsaws.ExternalMetric{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Generation: 1, CreationTimestamp: metav1.Unix(second, 0)},
		Spec:       queueDepth(60),
	}, nil, nil))
}

// The oldest stay, whoever creates more, and what is refused is an error that says so.
func TestDefinitionsBeyondTheCeilingAreRefused(t *testing.T) {
	b := newBench(t)
	b.watcher.ceilings.definitions = amount{6, 1 << 20}
	served := func() string {
		t.Helper()
		b.rebuild()
		var names []string
		for name, m := range b.catalog.load().objects.external.all() {
			if m.Err == nil {
				names = append(names, name.String())
			} else if !strings.Contains(m.Err.Error(), "ResourceQuota") {
				t.Errorf("no cure in %q", m.Err)
			}
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	for i := range 8 {
		shown(t, b.watcher, "greedy", fmt.Sprint("m", i), int64(10-i))
	}
	if got, want := served(), "greedy/m5 greedy/m6 greedy/m7"; got != want { // The half of a namespace.
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 4 {
		shown(t, b.watcher, "shop", fmt.Sprint("m", i), int64(20+i))
	}
	if got, want := served(), "greedy/m5 greedy/m6 greedy/m7 shop/m0 shop/m1 shop/m2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	status := statusOf(1, metricsaws.ExternalMetricStatus{}, knowledge{metric: b.catalog.External(types.NamespacedName{Namespace: "shop", Name: "m3"})})
	if c := conditionOf(status, metricsaws.ConditionReady); c.Reason != reasonTooMany || c.Status != metav1.ConditionFalse {
		t.Errorf("condition %+v", c)
	}
	if got := b.catalog.load().objects.definitions; got != (definitionCounts{6, 0, 6}) {
		t.Errorf("counts %+v", got)
	}
	for _, name := range []string{"m5", "m6"} {
		if err := b.watcher.objects.GetStore().Delete(b.watcher.record(types.NamespacedName{Namespace: "greedy", Name: name})); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := served(), "greedy/m3 greedy/m4 greedy/m7 shop/m0 shop/m1 shop/m2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// One namespace's HPAs must not make thousands of queries before anybody reads them. What
// many read by one query counts nothing.
func TestAsksBeyondTheCeilingWaitForAReader(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "requests namespace pod")
		w.servers.lists(queryB, "queue")
		w.set(rules.File{Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{external(queryB, "")}})
		w.run()
		p, state := &fakePlanner{}, &fakeState{}
		watcher := w.watcher(p, state)
		watcher.ceilings.asks = amount{6, 1 << 20}
		for i := range 10 {
			hpa := hpaOf("greedy", fmt.Sprint("hpa-", i), podsMetric("requests", nil),
				externalOfHPA("queue", &metav1.LabelSelector{MatchLabels: map[string]string{"a": strconv.Itoa(i)}}))
			hpa.CreationTimestamp = metav1.Unix(int64(i), 0)
			shows(t, watcher.hpas, hpa)
		}
		shows(t, watcher.hpas, hpaOf("shop", "hpa", externalOfHPA("queue", &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}})))
		watcher.rebuild(t.Context())
		slices.Sort(p.external)
		w.want(strings.Join(p.external, ", "), "externalRules[0] queue greedy a=0, externalRules[0] queue greedy a=1, externalRules[0] queue greedy a=2, externalRules[0] queue shop a=b")
		w.want(len(p.demands), 10)
		w.want(w.load().objects.deferred, 7)
	})
}
