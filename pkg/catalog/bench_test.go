package catalog

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	"github.com/tidegauge/tidegauge/internal/heap"
	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// cluster is a watcher over informers that a benchmark fills by hand, with the planner
// and the engine that the adapter has.
type cluster struct {
	*Watcher

	b          *testing.B
	generation int64
	changes    changes
}

// newCluster has two rules, of which one makes the Pods metric "requests" and the other
// the external metric "queue".
func newCluster(b *testing.B) *cluster {
	b.Helper()
	e := engine.New(engine.Options{Sources: map[string]sources.Source{"cloudwatch": nil, "prometheus": nil}})
	mapper, metrics := newAPIs(), &Catalog{}
	_ = mapper.Refresh(b.Context())
	discovery := NewDiscovery(metrics, DiscoveryOptions{Mapper: mapper})
	set, err := (rules.File{Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{external(queryB, "")}}).Compile(nil)
	if err != nil {
		b.Fatal(err)
	}
	discovery.SetRules(set)
	for q, series := range map[string]string{queryA: "requests", queryB: "queue"} {
		l := discovery.queries[seriesQuery{"default", q}]
		found := newListing(l.inventory)
		found.visit(series, []string{"namespace", "pod"})
		discovery.update(func() bool { return discovery.settle(l, found, nil, time.Now()) })
	}
	w, err := NewWatcher(WatcherOptions{
		Catalog: metrics, Pinner: e, Defaults: defaults,
		Kube: kubefake.NewClientset(), Custom: fake.NewSimpleDynamicClient(k8sruntime.NewScheme()),
		Planner: plan.New(plan.Options{Source: "prometheus", Engine: e, Mapper: mapper, MaxAge: func() time.Duration { return maxAge }}),
		Mapper:  mapper,
	})
	if err != nil {
		b.Fatal(err)
	}
	return &cluster{Watcher: w, b: b, changes: newChanges()}
}

// namespaceOf spreads objects over a hundred namespaces.
func namespaceOf(i int) string { return fmt.Sprintf("namespace-%d", i%100) }

// define makes or changes an ExternalMetric.
func (c *cluster) define(i int) {
	c.generation++
	spec := queueDepth(60)
	spec.Queries[0].MetricStat.Metric.Dimensions[0].Value = fmt.Sprintf("jobs-%d-%d", i, c.generation)
	object := &metricsaws.ExternalMetric{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespaceOf(i), Name: fmt.Sprintf("jobs-depth-%d", i), UID: types.UID(fmt.Sprintf("0b4c3a60-%032d", i)),
			Generation: c.generation, ResourceVersion: "1", CreationTimestamp: metav1.Now(),
		},
		Spec:   spec,
		Status: served(i, c.generation),
	}
	shows(c.b, c.objects, c.recorded(object))
	c.changes.objects.add(nameOf(object))
}

// recorded is what the adapter keeps of an object that it reads from the API server, which
// shares no text with any other one.
func (c *cluster) recorded(object *metricsaws.ExternalMetric) any {
	raw, err := json.Marshal(object)
	if err != nil {
		c.b.Fatal(err)
	}
	read := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(raw, &read.Object); err != nil {
		c.b.Fatal(err)
	}
	r, err := c.toRecord(read)
	if err != nil {
		c.b.Fatal(err)
	}
	return r
}

// read is the HPA as it is read from the API server, as recorded has it.
func (c *cluster) read(hpa *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	raw, err := hpa.Marshal()
	if err != nil {
		c.b.Fatal(err)
	}
	read := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := read.Unmarshal(raw); err != nil {
		c.b.Fatal(err)
	}
	return read
}

// served is the status of a metric that has a value.
func served(i int, generation int64) metricsaws.ExternalMetricStatus {
	at := metav1.NewTime(time.Now().Truncate(time.Second))
	s := metricsaws.ExternalMetricStatus{ObservedGeneration: generation, Value: strconv.Itoa(i), ValueTime: &at, HPAs: []string{fmt.Sprintf("worker-%d", i)}}
	for _, c := range []metav1.Condition{
		{Type: metricsaws.ConditionReady, Reason: reasonAvailable, Message: "the metric has a value"},
		{Type: metricsaws.ConditionFresh, Reason: reasonAnswered, Message: "the backend answered when it was last asked"},
	} {
		c.Status, c.ObservedGeneration, c.LastTransitionTime = metav1.ConditionTrue, generation, at
		s.Conditions = append(s.Conditions, c)
	}
	return s
}

// scale makes or changes an HPA by a metric.
func (c *cluster) scale(i int, m autoscalingv2.MetricSpec) {
	hpa := hpaOf(namespaceOf(i), fmt.Sprintf("worker-%d", i), m)
	hpa.UID, hpa.Status.CurrentReplicas = types.UID(fmt.Sprintf("1b4c3a60-%032d", i)), 3
	hpa.CreationTimestamp = metav1.Now()
	shows(c.b, c.hpas, c.read(hpa))
	c.changes.hpas.add(nameOf(hpa))
}

// kinds are what the HPAs of a cluster name.
var kinds = map[string]func(i int) autoscalingv2.MetricSpec{
	"ExternalMetric": func(i int) autoscalingv2.MetricSpec { return externalOfHPA(fmt.Sprintf("jobs-depth-%d", i), nil) },
	"external-rule": func(i int) autoscalingv2.MetricSpec {
		return externalOfHPA("queue", &metav1.LabelSelector{MatchLabels: map[string]string{"queue": strconv.Itoa(i)}})
	},
	"pods": func(int) autoscalingv2.MetricSpec { return podsMetric("requests", nil) },
}

func (c *cluster) fill(n int, kind string) {
	for i := range n {
		if kind == "ExternalMetric" {
			c.define(i)
		}
		c.scale(i, kinds[kind](i))
	}
	c.rebuild(c.b.Context())
	c.changes = newChanges()
}

// count makes a snapshot of what has changed.
func (c *cluster) count() {
	c.build(c.b.Context(), c.changes)
	c.changes = newChanges()
}

var sizes = []int{10, 1000, 10_000}

// BenchmarkSnapshot reads a cluster for the first time: all objects are new, and an HPA
// names each.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c := newCluster(b)
				for i := range n {
					c.define(i)
					c.scale(i, kinds["ExternalMetric"](i))
				}
				b.StartTimer()
				c.rebuild(b.Context())
			}
		})
	}
}

// BenchmarkObjectChanged changes one ExternalMetric, which an HPA names, as the others.
func BenchmarkObjectChanged(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			c := newCluster(b)
			c.fill(n, "ExternalMetric")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.define(i % n)
				c.count()
			}
		})
	}
}

// BenchmarkHPAChanged changes the metric of one HPA there and back.
func BenchmarkHPAChanged(b *testing.B) {
	for kind, metric := range kinds {
		for _, n := range sizes {
			b.Run(fmt.Sprintf("metric=%s/hpas=%d", kind, n), func(b *testing.B) {
				c := newCluster(b)
				c.fill(n, kind)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					m := externalOfHPA("queue", nil)
					if i%2 == 1 {
						m = metric(i / 2 % n)
					}
					c.scale(i/2%n, m)
					c.count()
				}
			})
		}
	}
}

func BenchmarkExternal(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			c := newCluster(b)
			c.fill(n, "ExternalMetric")
			names := make([]types.NamespacedName, n)
			for i := range names {
				names[i] = types.NamespacedName{Namespace: namespaceOf(i), Name: fmt.Sprintf("jobs-depth-%d", i)}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if c.catalog.External(names[i%n]) == nil {
					b.Fatal("it is not there")
				}
			}
		})
	}
}

func BenchmarkCustom(b *testing.B) {
	c := newCluster(b)
	name := CustomName{Resource: podResource, Namespaced: true, Metric: "requests"}
	b.ReportAllocs()
	for b.Loop() {
		if c.catalog.Custom(name) == nil {
			b.Fatal("it is not there")
		}
	}
}

// BenchmarkMemory says how many bytes of memory a definition takes with the HPA that names
// it, in the informers, the catalog and the engine.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	for kind := range kinds {
		b.Run("metric="+kind, func(b *testing.B) {
			var bytes uint64
			for b.Loop() {
				before := heap.InUse()
				c := newCluster(b)
				c.fill(n, kind)
				bytes = heap.InUse() - before
				runtime.KeepAlive(c)
			}
			b.ReportMetric(float64(bytes)/n, "B/HPA")
		})
	}
}

// BenchmarkLookout looks once for HPAs that name what nobody defines.
func BenchmarkLookout(b *testing.B) {
	for kind := range kinds {
		b.Run("hpas=10000/metric="+kind, func(b *testing.B) {
			c := newCluster(b)
			c.fill(10_000, kind)
			c.catalog.objects.succeed(b.Context())
			c.catalog.hpas.succeed(b.Context())
			l, now := newLookout(c.Watcher), time.Now()
			l.look(b.Context(), now)
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(certainAfter)
				l.look(b.Context(), now)
			}
		})
	}
}
