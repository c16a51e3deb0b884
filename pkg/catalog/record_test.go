package catalog

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// An object whose status alone has changed is held once, and one that says something else is
// not taken for the one before.
func TestDefinitionIsSharedWhileItIsTheSame(t *testing.T) {
	object := func(change func(*metricsaws.ExternalMetric)) *metricsaws.ExternalMetric {
		o := &metricsaws.ExternalMetric{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "jobs", UID: "one", Generation: 2, ResourceVersion: "7"},
			Spec:       queueDepth(60),
		}
		change(o)
		return o
	}
	before := newRecord(object(func(*metricsaws.ExternalMetric) {}), nil, nil)
	for name, tc := range map[string]struct {
		change func(*metricsaws.ExternalMetric)
		shared bool
	}{
		"status":     {func(o *metricsaws.ExternalMetric) { o.ResourceVersion, o.Status.Value = "8", "5" }, true},
		"generation": {func(o *metricsaws.ExternalMetric) { o.Generation, o.Spec = 3, queueDepth(300) }, false},
		"annotation": {func(o *metricsaws.ExternalMetric) {
			o.Annotations = map[string]string{metricsaws.AnnotationNoData: "zero"}
		}, false},
		"recreated": {func(o *metricsaws.ExternalMetric) { o.UID = "two" }, false},
	} {
		after := newRecord(object(tc.change), nil, before)
		if got := after.definition == before.definition; got != tc.shared {
			t.Errorf("%s: the definition is shared: %v, want %v", name, got, tc.shared)
		}
		if after.status.value != object(tc.change).Status.Value || after.version != object(tc.change).ResourceVersion {
			t.Errorf("%s: the version is %s and the value %s", name, after.version, after.status.value)
		}
	}
}

func TestWhatAnHPAAsksIsSharedWhileItIsTheSame(t *testing.T) {
	hpa := func(change func(*autoscalingv2.HorizontalPodAutoscaler)) *autoscalingv2.HorizontalPodAutoscaler {
		h := hpaOf("shop", "worker", externalOfHPA("jobs", nil), podsMetric("requests", nil))
		h.UID = "one"
		h.Spec.Metrics[1].Pods.Target.AverageValue = resource.NewQuantity(5, resource.DecimalSI)
		change(h)
		return h
	}
	before := newScaler(hpa(func(*autoscalingv2.HorizontalPodAutoscaler) {}), nil)
	for name, tc := range map[string]struct {
		change func(*autoscalingv2.HorizontalPodAutoscaler)
		shared bool
	}{
		"status":                        {func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Status.CurrentReplicas = 4 }, true},
		"the target of an external one": {func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.Metrics[0].External.Target.Type = "Value" }, true},
		"the target of a metric of pods": {func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Spec.Metrics[1].Pods.Target.AverageValue.Add(resource.MustParse("1"))
		}, false},
		"the target of an external one from zero": {func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Spec.MinReplicas, h.Spec.Metrics[0].External.Target.Value = new(int32(0)), resource.NewQuantity(5, resource.DecimalSI)
		}, false},
		"a metric":  {func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.Metrics[0].External.Metric.Name = "other" }, false},
		"from zero": {func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.MinReplicas = new(int32(0)) }, false},
		"recreated": {func(h *autoscalingv2.HorizontalPodAutoscaler) { h.UID = "two" }, false},
	} {
		after := newScaler(hpa(tc.change), before)
		if got := after.asks == before.asks; got != tc.shared {
			t.Errorf("%s: what it asks is shared: %v, want %v", name, got, tc.shared)
		}
		if after.replicas != hpa(tc.change).Status.CurrentReplicas {
			t.Errorf("%s: it has %d replicas", name, after.replicas)
		}
	}
}

// What is kept of a status is all of it, to the second, which is as the API has it.
func TestKeptStatusIsTheStatus(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 3, 4, 12, 5, 6, 0, time.UTC))
	full := metricsaws.ExternalMetricStatus{
		ObservedGeneration: 3, Value: "12500m", ValueTime: &at, HPAs: []string{"worker", "mailer"},
		Conditions: []metav1.Condition{
			{Type: "Ready", Status: metav1.ConditionTrue, ObservedGeneration: 3, LastTransitionTime: at, Reason: "Available", Message: "the metric has a value"},
			{Type: "Fresh", Status: metav1.ConditionFalse, ObservedGeneration: 2, LastTransitionTime: metav1.Time{Time: at.Add(-time.Hour)}, Reason: "FetchFailed", Message: "since noon"},
		},
	}
	for name, want := range map[string]metricsaws.ExternalMetricStatus{"full": full, "none": {}} {
		if got := keepStatus(want).inFull(); !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	for kind := range reflect.TypeFor[metricsaws.ExternalMetricStatus]().Fields() {
		if reflect.ValueOf(full).FieldByIndex(kind.Index).IsZero() {
			t.Errorf("%s is not part of the test", kind.Name)
		}
	}
}

// An informer knows what is kept by the same names as the objects.
func TestInformersKnowWhatIsKept(t *testing.T) {
	metadata := metav1.ObjectMeta{Namespace: "shop", Name: "jobs", UID: "one", ResourceVersion: "7", CreationTimestamp: metav1.Unix(1700000000, 0)}
	for _, kept := range []any{
		newRecord(&metricsaws.ExternalMetric{ObjectMeta: metadata}, nil, nil),
		newScaler(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metadata}, nil),
	} {
		key, err := cache.MetaNamespaceKeyFunc(kept)
		if err != nil || key != "shop/jobs" {
			t.Errorf("the key of a %T is %q, %v", kept, key, err)
		}
		o, err := meta.Accessor(kept)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(o.GetUID(), o.GetResourceVersion(), o.GetCreationTimestamp().UTC().Format(time.RFC3339))
		if want := "one72023-11-14T22:13:20Z"; got != want {
			t.Errorf("a %T is %s, want %s", kept, got, want)
		}
	}
}
