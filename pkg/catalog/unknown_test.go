package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// creates makes an HPA in the cluster.
func (a *access) creates(hpa *autoscalingv2.HorizontalPodAutoscaler) {
	a.t.Helper()
	hpa.UID = "uid-of-" + hpa.UID
	if _, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers(hpa.Namespace).Create(a.t.Context(), hpa, metav1.CreateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

// reports runs a reporter of that identity until it is stopped.
func (a *access) reports(identity string) (stop func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	r := NewReporter(a.watcher, a.state, a.kube, a.custom, "ns", identity)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// events are the Events of the cluster.
func (a *access) events() []eventsv1.Event {
	a.t.Helper()
	list, err := a.kube.EventsV1().Events("").List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	return list.Items
}

// created counts the attempts to write an Event.
func (a *access) created() int {
	n := 0
	for _, action := range a.kube.Actions() {
		if action.Matches("create", "events") {
			n++
		}
	}
	return n
}

// unknowns are the HPAs' metrics by API as the self-metric counts them.
func (a *access) unknowns() string {
	if u := a.catalog.undefined.Load(); u != nil {
		var parts []string
		for _, of := range slices.Sorted(maps.Keys(u.counts)) {
			parts = append(parts, fmt.Sprint(of, "=", u.counts[of]))
		}
		return strings.Join(parts, " ")
	}
	return ""
}

func (a *access) wantUnknowns(want string) {
	a.t.Helper()
	if got := a.unknowns(); got != want {
		a.t.Errorf("unknown metrics %q, want %q", got, want)
	}
}

func TestHPAOfAMetricThatNobodyDefinesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		defer a.reports("first")()
		a.creates(hpaOf("shop", "worker", externalOfHPA("goood", nil), externalOfHPA("good", nil), externalOfHPA("goood", nil),
			autoscalingv2.MetricSpec{Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu"}}))
		a.pass(certainAfter)
		a.wantUnknowns("")
		if n := len(a.events()); n != 0 {
			t.Errorf("%d Events in the first minute", n)
		}
		a.pass(2*certainAfter + lookEvery)
		a.wantUnknowns("external=1")
		list := a.events()
		if len(list) != 1 {
			t.Fatalf("%d Events, want one: %v", len(list), list)
		}
		e := list[0]
		if e.Reason != "UnknownMetric" || e.Type != corev1.EventTypeWarning || e.Regarding.Name != "worker" || e.Regarding.Kind != "HorizontalPodAutoscaler" || e.Namespace != "shop" || e.ReportingInstance != "first" {
			t.Errorf("the Event is %+v", e)
		}
		for _, part := range []string{`"goood"`, "(is it good that is meant?)", "spec.metrics[0].external.metric.name", "namespace shop"} {
			if !strings.Contains(e.Note, part) {
				t.Errorf("the note lacks %s: %s", part, e.Note)
			}
		}
		want := `
# HELP tidegauge_hpa_unknown_metrics Metrics that HPAs name and that nobody defines, each counted once for an HPA, by API: external, custom or resource. The log and Events of the HPAs name them. An API is absent until it is certain which metrics it has, and has 0 while another adapter serves it.
# TYPE tidegauge_hpa_unknown_metrics gauge
tidegauge_hpa_unknown_metrics{api="external"} 1
`
		if err := testutil.CollectAndCompare(a.catalog, strings.NewReader(want), "tidegauge_hpa_unknown_metrics"); err != nil {
			t.Error(err)
		}

		if _, err := a.custom.Resource(metricsaws.Resource).Namespace("shop").Create(t.Context(), externalMetric("goood", int64(60)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		a.pass(2 * lookEvery)
		a.wantUnknowns("external=0")
		if a.logged("HPAs name metrics that nobody defines") != 1 || a.logged("shop/worker: goood (external)") != 2 || a.logged("or they are defined now") != 1 {
			t.Error("the log does not tell of it once, and of its end")
		}
	})
}

// An hour is as long as the API server keeps an Event. Whoever else starts to write finds
// the one that is there.
func TestUnknownMetricIsToldOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		a.creates(hpaOf("shop", "worker", externalOfHPA("unknown", nil)))
		stop := a.reports("first")
		a.pass(warnAgain - time.Minute)
		if n := a.created(); n != 1 {
			t.Errorf("%d Events written in an hour", n)
		}
		stop()
		defer a.reports("second")()
		a.pass(5 * time.Minute)
		if n := len(a.events()); n != 1 {
			t.Errorf("%d Events after another replica took over", n)
		}
		if err := a.kube.EventsV1().Events("shop").Delete(t.Context(), a.events()[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		a.pass(warnKept)
		if n := len(a.events()); n != 1 {
			t.Errorf("%d Events after the first has expired", n)
		}
		if n := a.created(); n > 4 {
			t.Errorf("%d attempts", n)
		}
	})
}

// A thousand HPAs must not fill the cluster with Events at once, nor the log.
func TestUnknownMetricsAreToldInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		defer a.reports("first")()
		for i := range 100 {
			a.creates(hpaOf("shop", fmt.Sprint("worker-", i), externalOfHPA("unknown", nil)))
		}
		for len(a.events()) == 0 {
			a.pass(time.Second)
		}
		a.wantUnknowns("external=100")
		before := len(a.events())
		a.pass(time.Minute)
		if n := len(a.events()) - before; n > 60 || n < 50 {
			t.Errorf("%d Events in a minute", n)
		}
		a.pass(10 * time.Minute)
		if n := len(a.events()); n != 100 {
			t.Errorf("%d Events", n)
		}
		if a.logged("HPAs name metrics that nobody defines") != 1 || a.logged("and 90 more") != 1 {
			t.Error("the log has not one line with some of them")
		}
	})
}

func TestOneNamespaceDoesNotHideTheUnknownMetricsOfOthers(t *testing.T) {
	a := newAccess(t)
	a.catalog.objects.succeed(t.Context())
	a.catalog.hpas.succeed(t.Context())
	a.watcher.rebuild(t.Context())
	l, now := newLookout(a.watcher), time.Now()
	look := func(want string) {
		t.Helper()
		for range 3 {
			l.look(t.Context(), now)
			now = now.Add(certainAfter)
		}
		a.wantUnknowns(want)
	}
	for i := range maxUnknownInNamespace + 10 {
		shows(t, a.watcher.hpas, hpaOf("greedy", fmt.Sprint("worker-", i), externalOfHPA("unknown", nil)))
	}
	look(fmt.Sprint("external=", maxUnknownInNamespace))
	shows(t, a.watcher.hpas, hpaOf("shop", "worker", externalOfHPA("unknown", nil)))
	look(fmt.Sprint("external=", maxUnknownInNamespace+1))
}

// active is the status of an HPA that has values of its first metrics.
func active(hpa *autoscalingv2.HorizontalPodAutoscaler, metrics ...string) *autoscalingv2.HorizontalPodAutoscaler {
	hpa.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.ScalingActive, Status: corev1.ConditionTrue}}
	for _, m := range metrics {
		hpa.Status.CurrentMetrics = append(hpa.Status.CurrentMetrics, autoscalingv2.MetricStatus{
			External: &autoscalingv2.ExternalMetricStatus{Metric: identifier(m, nil)},
		})
	}
	return hpa
}

// Where another adapter serves the API, nobody here knows what it has.
func TestMetricsOfAnotherAdapterAreNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		defer a.reports("first")()
		served := active(hpaOf("shop", "served", externalOfHPA("s0-kafka", nil)), "s0-kafka")
		a.creates(served)
		a.creates(hpaOf("shop", "broken", externalOfHPA("s0-redis", nil)))
		a.pass(10 * time.Minute)
		a.wantUnknowns("external=0")
		// Its adapter fails now, which leaves the last values in the status.
		served = served.DeepCopy()
		served.Status.Conditions[0].Status = corev1.ConditionFalse
		if _, err := a.kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Update(t.Context(), served, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		a.pass(30 * time.Minute)
		a.wantUnknowns("external=0")
		if n := a.created(); n != 0 || a.logged("nobody defines") != 0 {
			t.Errorf("%d Events", n)
		}
		a.pass(foreignFor)
		a.wantUnknowns("external=2")
	})
}

// It is not certain before every series of the rules is listed and every object read.
func TestWhatIsNotCertainIsNotTold(t *testing.T) {
	for name, tc := range map[string]struct {
		rules *ruleSnapshot
		errs  map[string]error
		want  string
		// served says that there is the CRD, as those know who may not read the objects.
		served bool
	}{
		"nothing listed yet": {rules: &ruleSnapshot{any: true, makes: makes{true, true}, unlisted: errNotListed}},
		"no rules":           {rules: &ruleSnapshot{}, want: "external=1"},
		"rules of custom":    {rules: &ruleSnapshot{any: true, makes: makes{custom: true}}, want: "custom=2 external=1"},
		"resource rules":     {rules: &ruleSnapshot{any: true, resource: &rules.CompiledResource{CPU: &rules.CompiledUsage{}}}, want: "external=1 resource=1"},
		"no right to the objects": {
			rules: &ruleSnapshot{any: true, makes: makes{true, true}}, want: "custom=2", served: true,
			errs: map[string]error{objectsResource: apierrors.NewForbidden(schema.GroupResource{Resource: objectsResource}, "", errors.New("no RBAC policy matched"))},
		},
		"no CRD, and no external rules": {
			rules: &ruleSnapshot{any: true, makes: makes{custom: true}}, want: "custom=2",
			errs: map[string]error{objectsResource: apierrors.NewNotFound(metricsaws.Resource.GroupResource(), "")},
		},
		"no right to the HPAs": {
			rules: &ruleSnapshot{any: true, makes: makes{true, true}},
			errs:  map[string]error{"horizontalpodautoscalers": apierrors.NewForbidden(schema.GroupResource{Resource: "horizontalpodautoscalers"}, "", errors.New("no RBAC policy matched"))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccess(t)
				mapper := newAPIs()
				_ = mapper.Refresh(t.Context())
				a.watcher.mapper = mapper
				tc.rules.mapper = mapper
				if tc.served {
					a.catalog.objects.unserved = nil
				}
				a.catalog.setRules(tc.rules)
				for resource, err := range tc.errs {
					a.fails(resource, err)
				}
				a.creates(hpaOf("shop", "worker", externalOfHPA("unknown", nil), podsMetric("unknown", nil), objectMetric("v1", "Service", "front", "unknown"),
					objectMetric("example.com/v1", "Widget", "w", "unknown"),
					autoscalingv2.MetricSpec{Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu"}},
					autoscalingv2.MetricSpec{ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "memory"}}))
				a.run()
				a.pass(5 * time.Minute)
				a.wantUnknowns(tc.want)
				// A reload takes the certainty away and gives it back.
				if tc.want != "" {
					unlisted := *tc.rules
					unlisted.unlisted = errNotListed
					a.catalog.setRules(&unlisted)
					a.pass(time.Minute)
					a.wantUnknowns("")
					a.catalog.setRules(tc.rules)
					a.pass(2 * certainAfter)
					a.wantUnknowns(tc.want)
				}
				if a.logged("HPAs name metrics that nobody defines") > 1 || a.logged("or they are defined now") > 0 {
					t.Error("the log tells it twice")
				}
			})
		})
	}
}

func TestNotesOfUnknownMetrics(t *testing.T) {
	c := &Catalog{}
	rule := &rules.Compiled{ID: "rules[0]", Where: "line 2"}
	name := CustomName{Resource: podResource, Namespaced: true, Metric: "requests_per_second"}
	c.setRules(&ruleSnapshot{
		custom: map[CustomName]*ruleMetric{name: {RuleMetric: RuleMetric{rule, "x"}}}, customNames: []CustomName{name},
		lost: map[string][]Unmapped{"hits": {{rule, rules.Unmapped{Label: "widget", Resource: schema.GroupResource{Resource: "widgets"}}}}},
	})
	hpa := types.NamespacedName{Namespace: "shop", Name: "worker"}
	for want, n := range map[string]naming{
		`no metric "request_per_second" of pods: no rule of the configuration makes it of a series that its server had within --metrics-max-age ` +
			`(is it requests_per_second that is meant?); correct spec.metrics[0].pods.metric.name, or the rule`: {
			hpa: hpa, api: customAPI, metric: "request_per_second", resource: podResource, namespaced: true,
		},
		`no metric "hits" of pods: no rule of the configuration makes it of a series that its server had within --metrics-max-age` +
			`; rules[0] (line 2) would make it of "widgets", which the API server does not have; correct spec.metrics[0].pods.metric.name, or the rule`: {
			hpa: hpa, api: customAPI, metric: "hits", resource: podResource, namespaced: true,
		},
		`no metric "disk" of pods: resourceRules of the configuration have nothing for it; correct spec.metrics[0].pods.metric.name, or the rules`: {
			hpa: hpa, api: resourceAPI, metric: "disk",
		},
	} {
		if got := c.note(n, "spec.metrics[0].pods.metric.name"); got != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
	}
}

// Without the right nothing else suffers.
func TestNoRightToWriteEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		refused := true
		a.kube.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return refused, nil, apierrors.NewForbidden(schema.GroupResource{Group: "events.k8s.io", Resource: "events"}, "", errors.New("no RBAC policy matched"))
		})
		for i := range 20 {
			a.creates(hpaOf("shop", fmt.Sprint("worker-", i), externalOfHPA("unknown", nil)))
		}
		a.run()
		r := NewReporter(a.watcher, a.state, a.kube, a.custom, "ns", "me")
		a.start(r.Run)
		a.pass(time.Hour)
		if n := a.created(); n < 3 || n > 30 {
			t.Errorf("%d attempts in an hour", n)
		}
		if n := a.logged("are not written"); n != 1 {
			t.Errorf("told %d times", n)
		}
		a.mu.Lock()
		refused = false
		a.mu.Unlock()
		a.pass(2 * refusedPause)
		if n := len(a.events()); n != 20 {
			t.Errorf("%d Events once the right is there", n)
		}
	})
}

func TestEventNames(t *testing.T) {
	long := naming{hpa: types.NamespacedName{Namespace: "shop", Name: strings.Repeat("a", maxEventName-1) + "." + strings.Repeat("b", 53)}, api: externalAPI, metric: "x"}
	other := long
	other.metric = "y"
	if long.eventName() == other.eventName() {
		t.Error("two metrics of an HPA share an Event")
	}
	if name := long.eventName(); len(name) > 253 || strings.Contains(name, "..") {
		t.Errorf("not a name: %s", name)
	}
}

// A name of a metric in an HPA may be as long as an object may be; a line of the log must not.
func TestLongNamesMakeNoLongLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		var metrics []autoscalingv2.MetricSpec
		for _, c := range "abcdefghij" {
			metrics = append(metrics, externalOfHPA(strings.Repeat(string(c), 100_000), nil))
		}
		a.creates(hpaOf("shop", "worker", metrics...))
		a.pass(3*certainAfter + lookEvery)
		a.mu.Lock()
		defer a.mu.Unlock()
		longest := 0
		for line := range strings.SplitSeq(a.log.String(), "\n") {
			longest = max(longest, len(line))
		}
		if longest > 20_000 {
			t.Errorf("a line of the log has %d bytes", longest)
		}
	})
}
