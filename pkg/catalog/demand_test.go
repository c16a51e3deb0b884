package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// fakePlanner keeps what it was told, in words.
type fakePlanner struct {
	updates int
	demands []string
	// external are those that were asked for since the last Update.
	external []string
}

func (p *fakePlanner) Update(demands []plan.Demand) []engine.Request {
	p.updates++
	p.demands = nil
	for _, d := range demands {
		who := "usage"
		if r, ok := d.Asker.(*rules.Compiled); ok {
			who = r.ID
		}
		what := fmt.Sprint(d.Names)
		if len(d.Names) == 0 {
			what = strconv.Itoa(d.Replicas)
		}
		selector := ""
		if d.Selector != nil {
			selector = d.Selector.String()
		}
		p.demands = append(p.demands, strings.TrimSpace(fmt.Sprintf("%s %s %s/%s %s %s", who, d.Series, d.Namespace, d.Resource, what, selector)))
	}
	slices.Sort(p.demands)
	return nil
}

func (p *fakePlanner) External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error) {
	p.external = append(p.external, fmt.Sprintf("%s %s %s %s", r.ID, series, namespace, selector))
	return engine.Request{Source: "prometheus", Query: prometheus.NewQuery("default", series, 0)}, nil
}

// usageRules are those of a cluster that serves kubectl top.
func usageRules() *rules.ResourceRules {
	usage := func(series string) rules.ResourceRule {
		return rules.ResourceRule{
			ContainerQuery: "sum(" + series + "{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
			NodeQuery:      "sum(" + series + "{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
			Resources: rules.Resources{Overrides: map[string]rules.GroupResource{
				"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"}, "node": {Resource: "node"},
			}},
			ContainerLabel: "container",
		}
	}
	return &rules.ResourceRules{CPU: usage("cpu"), Memory: usage("memory"), Window: "3m"}
}

func identifier(name string, selector *metav1.LabelSelector) autoscalingv2.MetricIdentifier {
	return autoscalingv2.MetricIdentifier{Name: name, Selector: selector}
}

func podsMetric(name string, selector *metav1.LabelSelector) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Pods: &autoscalingv2.PodsMetricSource{Metric: identifier(name, selector)}}
}

func objectMetric(version, kind, object, name string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: version, Kind: kind, Name: object},
		Metric:          identifier(name, nil),
	}}
}

func externalOfHPA(name string, selector *metav1.LabelSelector) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{External: &autoscalingv2.ExternalMetricSource{Metric: identifier(name, selector)}}
}

// TestDemandOfHPAs follows the calls that the HPA controller makes for each type.
func TestDemandOfHPAs(t *testing.T) {
	resource := autoscalingv2.MetricSpec{Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu"}}
	container := autoscalingv2.MetricSpec{ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "memory"}}
	chosen := &metav1.LabelSelector{MatchLabels: map[string]string{"verb": "GET"}}
	bad := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "verb", Operator: "Like"}}}
	for _, tc := range []struct {
		name               string
		metrics            []autoscalingv2.MetricSpec
		demands, externals string
	}{
		{name: "pods", metrics: []autoscalingv2.MetricSpec{podsMetric("requests", nil)}, demands: "rules[0] requests shop/pods 3"},
		{
			name: "pods of which some series", metrics: []autoscalingv2.MetricSpec{podsMetric("requests", chosen)},
			demands: "rules[0] requests shop/pods 3 verb=GET",
		},
		{name: "of all series", metrics: []autoscalingv2.MetricSpec{podsMetric("requests", &metav1.LabelSelector{})}, demands: "rules[0] requests shop/pods 3"},
		{name: "a metric that does not exist", metrics: []autoscalingv2.MetricSpec{podsMetric("unknown", nil)}},
		{name: "a selector that is none", metrics: []autoscalingv2.MetricSpec{podsMetric("requests", bad), podsMetric("requests", nil)}, demands: "rules[0] requests shop/pods 3"},
		{name: "a service", metrics: []autoscalingv2.MetricSpec{objectMetric("v1", "Service", "front", "hits")}, demands: "rules[0] hits shop/services [front]"},
		{
			name: "a namespace is the HPA's own", metrics: []autoscalingv2.MetricSpec{objectMetric("v1", "Namespace", "bank", "hits")},
			demands: "rules[0] hits /namespaces [shop]",
		},
		{name: "a node is asked for in the namespace, where it has none", metrics: []autoscalingv2.MetricSpec{objectMetric("v1", "Node", "n1", "load")}},
		{name: "a kind that is not known", metrics: []autoscalingv2.MetricSpec{objectMetric("example.com/v1", "Widget", "w", "hits")}},
		{name: "a version that is none", metrics: []autoscalingv2.MetricSpec{objectMetric("a/b/c", "Service", "front", "hits")}},
		{
			name: "an external metric of a rule", metrics: []autoscalingv2.MetricSpec{externalOfHPA("queue", chosen), externalOfHPA("queue", nil)},
			externals: "externalRules[0] queue shop verb=GET, externalRules[0] queue shop ",
		},
		{name: "an ExternalMetric of that name wins", metrics: []autoscalingv2.MetricSpec{externalOfHPA("good", nil)}},
		{
			name: "resources", metrics: []autoscalingv2.MetricSpec{resource, container, resource},
			demands: "usage  shop/pods 3, usage  shop/pods 3",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.servers.lists(queryA, "requests namespace pod", "hits namespace service", "load node", "good namespace pod")
				w.servers.lists(queryB, "queue", "good")
				w.set(rules.File{
					Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{external(queryB, "")}, ResourceRules: usageRules(),
				})
				w.run()
				hpa := hpaOf("shop", "worker", tc.metrics...)
				hpa.Status.CurrentReplicas = 3
				p, state := &fakePlanner{}, &fakeState{}
				watcher := w.watcher(p, state)
				shows(t, watcher.objects, newRecord(&metricsaws.ExternalMetric{
					ObjectMeta: metav1.ObjectMeta{Namespace: goodName.Namespace, Name: goodName.Name},
				}, errNotSynced, nil))
				shows(t, watcher.hpas, hpa)
				watcher.rebuild(t.Context())
				w.want(strings.Join(p.demands, ", "), tc.demands)
				w.want(strings.Join(p.external, ", "), tc.externals)
				w.want(state.pins(), len(p.external))
			})
		})
	}
}

// Before the resources are known, a query would not be that of the HPA's namespace.
func TestNothingIsPlannedBeforeTheResourcesAreKnown(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryB, "queue")
		w.set(rules.File{ExternalRules: []rules.Rule{external(queryB, "")}, ResourceRules: usageRules()})
		p := &fakePlanner{}
		watcher := w.watcher(p, &fakeState{})
		shows(t, watcher.hpas, hpaOf("shop", "worker",
			externalOfHPA("queue", nil), autoscalingv2.MetricSpec{Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu"}}))
		planned := func() int {
			watcher.rebuild(t.Context())
			return len(p.external) + len(p.demands)
		}
		w.want(planned(), 0)
		w.run()
		w.want(planned(), 3)
	})
}

func TestLeastTargets(t *testing.T) {
	quantity := func(text string) *resource.Quantity {
		q := resource.MustParse(text)
		return &q
	}
	pods := func(target string) autoscalingv2.MetricSpec {
		m := podsMetric("pods", nil)
		m.Pods.Target.AverageValue = quantity(target)
		return m
	}
	object := func(name string, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
		m := objectMetric("v1", "Service", "front", name)
		m.Object.Target = target
		return m
	}
	external := func(name string, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
		m := externalOfHPA(name, nil)
		m.External.Target = target
		return m
	}
	hpa := func(name string, minReplicas int32, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
		h := hpaOf("shop", name, metrics...)
		h.Spec.MinReplicas = &minReplicas
		return h
	}
	b := newBench(t)
	wants := func(want string) {
		t.Helper()
		b.rebuild()
		var got []string
		for _, metric := range []string{"average", "from-zero", "pods", "queue", "value"} {
			if target, ok := b.catalog.LeastTarget(types.NamespacedName{Namespace: "shop", Name: metric}); ok {
				got = append(got, fmt.Sprint(metric, ":", target))
			}
			if target, ok := b.catalog.LeastExternalTarget(types.NamespacedName{Namespace: "shop", Name: metric}); ok {
				got = append(got, fmt.Sprint("external ", metric, ":", target))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	shows(t, b.watcher.hpas, hpa("a", 1, pods("2"), pods("500m"), object("value", autoscalingv2.MetricTarget{Value: quantity("3")})))
	shows(t, b.watcher.hpas, hpa("b", 1, pods("1"), object("average", autoscalingv2.MetricTarget{AverageValue: quantity("1u")}), externalOfHPA("queue", nil)))
	shows(t, b.watcher.hpas, hpa("c", 0, object("from-zero", autoscalingv2.MetricTarget{Value: quantity("4")})))
	wants("average:0.001 from-zero:4 pods:0.5")
	shows(t, b.watcher.hpas, hpa("a", 1, pods("3")))
	wants("average:0.001 from-zero:4 pods:1")
	shows(t, b.watcher.hpas, hpa("b", 1))
	shows(t, b.watcher.hpas, hpa("c", 1, object("from-zero", autoscalingv2.MetricTarget{Value: quantity("4")})))
	wants("pods:3")

	// Of external metrics those count by which an HPA divides without replicas. One may have
	// the name of a custom metric.
	value := func(text string) autoscalingv2.MetricTarget { return autoscalingv2.MetricTarget{Value: quantity(text)} }
	shows(t, b.watcher.hpas, hpa("b", 0, external("pods", value("9")), external("queue", value("5")), external("queue", value("4")),
		external("average", autoscalingv2.MetricTarget{AverageValue: quantity("8")}), external("value", value("-1"))))
	shows(t, b.watcher.hpas, hpa("c", 1, external("queue", value("1")), object("value", autoscalingv2.MetricTarget{AverageValue: quantity("7")})))
	wants("external average:8 pods:3 external pods:9 external queue:4 value:7")
	shows(t, b.watcher.hpas, hpa("c", 0, external("queue", value("1"))))
	wants("external average:8 pods:3 external pods:9 external queue:1")
	shows(t, b.watcher.hpas, hpa("c", 0, external("queue", value("2"))))
	wants("external average:8 pods:3 external pods:9 external queue:2")
	gone := scalerOf(t, hpa("b", 0))
	if err := b.watcher.hpas.GetStore().Delete(gone); err != nil {
		t.Fatal(err)
	}
	wants("pods:3 external queue:2")
	shows(t, b.watcher.hpas, hpa("c", 1, external("queue", value("2"))))
	wants("pods:3")
}

// The watcher's demand and a read must be of one subject, or what is pinned is not
// what is read.
func TestUsageIsOneSubject(t *testing.T) {
	set := compile(t, rules.File{ResourceRules: usageRules()})
	if plan.PodUsage(set.Resource, set.Resource.CPU, "shop").Asker != plan.PodUsage(set.Resource, set.Resource.CPU, "bank").Asker {
		t.Error("two askers for one usage")
	}
}

// Replicas change all the time: they lead to a new plan now and then.
func TestReplicasLeadToAPlanNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{dirty: make(chan struct{}, 1), planner: &fakePlanner{}, pending: newChanges()}
		hpa := func(replicas int32, metrics ...autoscalingv2.MetricSpec) *scaler {
			h := hpaOf("shop", "worker", metrics...)
			h.Status.CurrentReplicas = replicas
			return scalerOf(t, h)
		}
		resize := time.NewTicker(resizeEvery)
		defer resize.Stop()
		wait := func() time.Duration {
			t.Helper()
			start := time.Now()
			if !w.await(t.Context(), resize.C, start) {
				t.Fatal("it is over")
			}
			return time.Since(start)
		}
		if got := wait(); got != replanEvery {
			t.Errorf("without a change a plan after %v", got)
		}
		if !w.take().all {
			t.Error("and not of everything")
		}
		if !w.sameDemand(hpa(1), hpa(2)) {
			t.Error("replicas alone are another demand")
		}
		if got := wait(); got > resizeEvery {
			t.Errorf("other replicas lead to a plan after %v", got)
		}
		if c := w.take(); len(c.hpas) != 1 {
			t.Errorf("other replicas of %v", c.hpas)
		}
		if w.sameDemand(hpa(1), hpa(1, podsMetric("requests", nil))) {
			t.Error("another metric is no other demand")
		}
		w.Refresh()
		if got := wait(); got != 0 {
			t.Errorf("a change leads to a plan after %v", got)
		}
	})
}

var _ KindMapper = (*apis)(nil)
