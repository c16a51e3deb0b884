package catalog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

type schemaResource = schema.GroupVersionResource

func externalMetric(name string, period any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "metrics.aws/v1alpha1", "kind": "ExternalMetric",
		"metadata": map[string]any{"namespace": "shop", "name": name, "uid": name, "generation": int64(1)},
		"spec": map[string]any{"queries": []any{map[string]any{"id": "a", "metricStat": map[string]any{
			"metric": map[string]any{"namespace": "AWS/SQS", "metricName": "Depth"}, "period": period, "stat": "Average",
		}}}},
	}}
}

func TestWatcher(t *testing.T) {
	kube := kubefake.NewClientset()
	custom := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schemaResource]string{metricsaws.Resource: "ExternalMetricList"}, externalMetric("good", int64(60)), externalMetric("odd", "60"))
	c, state := &Catalog{}, &fakeState{}
	w, err := NewWatcher(WatcherOptions{Catalog: c, Pinner: state, Defaults: defaults, Kube: kube, Custom: custom})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var changed []string
	w.OnChange(func(names []types.NamespacedName) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range names {
			changed = append(changed, n.Name)
		}
	})
	if c.Ready() == nil {
		t.Error("ready before anything was read")
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	defer running.Wait()
	defer stop()

	await(t, func() bool { return c.Ready() == nil })
	good, odd := types.NamespacedName{Namespace: "shop", Name: "good"}, types.NamespacedName{Namespace: "shop", Name: "odd"}
	if m := c.External(good); m == nil || m.Err != nil {
		t.Errorf("the good object: %+v", m)
	}
	if m := c.External(odd); m == nil || m.Err == nil {
		t.Errorf("the odd object: %+v", m)
	}
	if got := c.ExternalNames(); !slices.Equal(got, []string{"good", "odd"}) {
		t.Errorf("names %q", got)
	}

	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "worker"}}
	for _, name := range []string{"good", "odd", "unknown", "good"} {
		hpa.Spec.Metrics = append(hpa.Spec.Metrics, autoscalingv2.MetricSpec{
			Type:     autoscalingv2.ExternalMetricSourceType,
			External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: name}},
		})
	}
	if _, err := kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Create(ctx, hpa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return slices.Equal(c.Users(good), []string{"worker"}) })
	if n := state.pins(); n != 1 {
		t.Errorf("%d requests pinned, want the one of the good object", n)
	}
	q := c.External(good).Request
	if got := c.AskedBy(q.Source, q.Query.Key()); !slices.Equal(got, []types.NamespacedName{good}) {
		t.Errorf("the query is asked by %v", got)
	}

	objects := custom.Resource(metricsaws.Resource).Namespace("shop")
	if err := objects.Delete(ctx, "good", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return c.External(good) == nil })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Contains(changed, "odd") || changed[len(changed)-1] != "good" {
		t.Errorf("changes %q", changed)
	}
}

// TestNotReadyWithoutTheCRD names the cause where an operator looks for it.
func TestNotReadyWithoutTheCRD(t *testing.T) {
	custom := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schemaResource]string{metricsaws.Resource: "ExternalMetricList"})
	custom.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(metricsaws.Resource.GroupResource(), "")
	})
	c := &Catalog{}
	w, err := NewWatcher(WatcherOptions{Catalog: c, Pinner: &fakeState{}, Defaults: defaults, Kube: kubefake.NewClientset(), Custom: custom})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	await(t, func() bool { return apierrors.IsNotFound(c.Ready()) })
	stop()
	running.Wait()
}

// access is a cluster whose objects can be read or not.
type access struct {
	t    *testing.T
	mu   sync.Mutex
	errs map[string]error
	log  *strings.Builder

	catalog *Catalog
	watcher *Watcher
	state   *fakeState
	custom  *fake.FakeDynamicClient
	kube    *kubefake.Clientset
}

func newAccess(t *testing.T) *access {
	t.Helper()
	a := &access{t: t, errs: map[string]error{}, log: &strings.Builder{}, catalog: &Catalog{}, kube: kubefake.NewClientset(), state: &fakeState{}}
	a.custom = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schemaResource]string{metricsaws.Resource: "ExternalMetricList"}, externalMetric("good", int64(60)))
	a.custom.PrependReactor("list", "*", a.react)
	a.kube.PrependReactor("list", "*", a.react)
	w, err := NewWatcher(WatcherOptions{Catalog: a.catalog, Pinner: a.state, Defaults: defaults, Kube: a.kube, Custom: a.custom})
	if err != nil {
		t.Fatal(err)
	}
	a.watcher = w
	return a
}

func (a *access) react(action clienttesting.Action) (bool, runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.errs[action.GetResource().Resource]
	return err != nil, nil, err
}

func (a *access) fails(resource string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs[resource] = err
}

// run runs the watcher until the test is over.
func (a *access) run() { a.start(a.watcher.Run) }

// start runs what ends with the test, and keeps its log.
func (a *access) start(run func(context.Context) error) {
	ctx, stop := context.WithCancel(a.t.Context())
	ctx = klog.NewContext(ctx, textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(locked{&a.mu, a.log}))))
	var running sync.WaitGroup
	running.Go(func() { _ = run(ctx) })
	a.t.Cleanup(func() {
		stop()
		running.Wait()
	})
}

// locked is a writer that several may use.
type locked struct {
	mu *sync.Mutex
	*strings.Builder
}

// Write implements io.Writer.
func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

// logged counts the lines of the log with that text.
func (a *access) logged(text string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Count(a.log.String(), text)
}

func (a *access) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// withRules makes the catalog have a rule.
func (a *access) withRules() { a.catalog.setRules(&ruleSnapshot{any: true}) }

var (
	objectsResource = metricsaws.Resource.Resource
	goodName        = types.NamespacedName{Namespace: "shop", Name: "good"}
)

// A cluster that had prometheus-adapter has neither the CRD nor the rights.
func TestGoesOnWithoutTheCRD(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.fails(objectsResource, apierrors.NewNotFound(metricsaws.Resource.GroupResource(), ""))
		a.withRules()
		a.run()
		a.pass(time.Second)
		if err := errors.Join(a.catalog.Ready(), a.catalog.ObjectsReady()); err != nil {
			t.Error(err)
		}
		a.pass(time.Hour)
		if n := a.logged("ExternalMetrics cannot be read"); n != 1 || a.logged("CustomResourceDefinition is installed") != 1 {
			t.Errorf("told %d times", n)
		}
		if n := a.logged("\n"); n > 3 {
			t.Errorf("%d lines of log in an hour", n)
		}
		a.fails(objectsResource, nil)
		a.pass(2 * time.Minute)
		if a.catalog.External(goodName) == nil {
			t.Error("the object is not known, although the CRD is there")
		}
		if a.logged("Reading ExternalMetrics now") != 1 {
			t.Error("the recovery is not told")
		}
	})
}

func TestGoesOnWithoutTheRights(t *testing.T) {
	for _, resource := range []string{objectsResource, "horizontalpodautoscalers"} {
		t.Run(resource, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccess(t)
				a.fails(resource, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no RBAC policy matched")))
				a.withRules()
				a.run()
				a.pass(time.Hour)
				if err := a.catalog.Ready(); err != nil {
					t.Error(err)
				}
				err := a.catalog.ObjectsReady()
				if (resource == objectsResource) != (err != nil) {
					t.Errorf("the objects: %v", err)
				}
				if err != nil && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `resources: ["externalmetrics"]`)) {
					t.Errorf("no cause and cure: %v", err)
				}
				if n := a.logged(`resources: [\"` + resource + `\"]`); n != 1 || a.logged("\n") > 3 {
					t.Errorf("the cure is told %d times, in %d lines", n, a.logged("\n"))
				}
				a.fails(resource, nil)
				a.pass(2 * time.Minute)
				if a.catalog.ObjectsReady() != nil || a.catalog.External(goodName) == nil {
					t.Error("the right makes no difference")
				}
			})
		})
	}
}

// An API server that is away says nothing about what there is. No bubble: the library
// keeps the time of its last error for the whole process.
func TestNotReadyWhileTheAPIServerIsAway(t *testing.T) {
	a := newAccess(t)
	a.fails(objectsResource, apierrors.NewServiceUnavailable("starting"))
	a.withRules()
	a.run()
	for _, ready := range []func() error{a.catalog.Ready, a.catalog.ObjectsReady} {
		await(t, func() bool { return ready() != nil && strings.Contains(ready().Error(), "starting") })
	}
	a.fails(objectsResource, nil)
	await(t, func() bool { return a.catalog.Ready() == nil && a.catalog.ObjectsReady() == nil })
}

// What an ExternalMetric means must not be answered by a rule because the API server is
// away; what it has said counts on while it is.
func TestRulesAnswerOnceTheObjectsAreSettled(t *testing.T) {
	away := apierrors.NewServiceUnavailable("starting")
	refused := apierrors.NewForbidden(metricsaws.Resource.GroupResource(), "", errors.New("no RBAC policy matched"))
	missing := apierrors.NewNotFound(metricsaws.Resource.GroupResource(), "")
	for _, tc := range []struct {
		name    string
		errs    []error
		synced  bool
		settled bool
	}{
		{name: "nothing said"},
		{name: "away", errs: []error{away}},
		{name: "forbidden", errs: []error{refused}, settled: true},
		{name: "no CRD", errs: []error{missing}, settled: true},
		{name: "away, then forbidden", errs: []error{away, refused}, settled: true},
		{name: "forbidden, then away", errs: []error{refused, away}, settled: true},
		{name: "no CRD, then away", errs: []error{missing, away}, settled: true},
		{name: "read, and in no snapshot", synced: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &Catalog{}
			c.objects.kind = objectKind
			for _, err := range tc.errs {
				c.objects.take(t.Context(), err)
			}
			if tc.synced {
				c.objects.succeed(t.Context())
			}
			if err := c.ObjectsSettled(); (err == nil) != tc.settled {
				t.Errorf("got %v", err)
			}
			if tc.synced {
				c.setObjects(&snapshot{})
				if err := c.ObjectsSettled(); err != nil {
					t.Errorf("with a snapshot: %v", err)
				}
			}
		})
	}
}

// The rights that are asked for are those that deploy/base gives.
func TestHintsAskForNoMoreThanIsNeeded(t *testing.T) {
	for _, k := range []*kind{objectKind, hpaKind} {
		if strings.Contains(k.forbidden, `"get"`) || !strings.Contains(k.forbidden, `verbs: ["list", "watch"]`) {
			t.Errorf("%s: %s", k.name, k.forbidden)
		}
	}
}

// Without rules there is nothing to serve without ExternalMetrics; with the first rules
// there is.
func TestRulesMakeTheAdapterReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.fails(objectsResource, apierrors.NewForbidden(metricsaws.Resource.GroupResource(), "", errors.New("no RBAC policy matched")))
		a.run()
		a.pass(time.Minute)
		if !apierrors.IsForbidden(a.catalog.Ready()) {
			t.Errorf("got %v", a.catalog.Ready())
		}
		a.withRules()
		a.pass(time.Second)
		if err := a.catalog.Ready(); err != nil {
			t.Error(err)
		}
	})
}

func TestObjectWinsOverARule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		rule := &rules.Compiled{ID: "externalRules[0]"}
		a.catalog.setRules(&ruleSnapshot{
			any: true, external: map[string]*RuleMetric{"good": {rule, "good"}, "queue": {rule, "queue"}}, externalNames: []string{"good", "queue"},
		})
		a.run()
		a.pass(time.Second)
		for range 5 {
			a.watcher.Refresh()
			a.pass(time.Second)
		}
		if n := a.logged("An ExternalMetric wins"); n != 1 {
			t.Errorf("told %d times", n)
		}
		if got := a.catalog.ExternalNames(); !slices.Equal(got, []string{"good", "queue"}) {
			t.Errorf("names %q", got)
		}
		if allocs := testing.AllocsPerRun(10, func() { a.catalog.ExternalNames() }); allocs > 0 {
			t.Errorf("%v allocations", allocs)
		}
	})
}
