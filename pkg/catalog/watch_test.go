package catalog

import (
	"context"
	"slices"
	"sync"
	"testing"

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

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
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
	w, err := NewWatcher(c, state, defaults, kube, custom)
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
	w, err := NewWatcher(c, &fakeState{}, defaults, kubefake.NewClientset(), custom)
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
