package catalog

import (
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// fileMetric is what an ExternalMetric of shop defines, of that name and period.
func fileMetric(t *testing.T, name, period string) *Metric {
	t.Helper()
	object := &unstructured.Unstructured{}
	text := `{apiVersion: metrics.aws/v1alpha1, kind: ExternalMetric, metadata: {namespace: shop, name: ` + name + `}, spec: {queries: [
{id: a, metricStat: {metric: {namespace: AWS/SQS, metricName: Visible}, period: ` + period + `, stat: Average}}]}}`
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatal(err)
	}
	return NewMetric(object, Defaults{Source: "cloudwatch"})
}

func TestMetricsOfFilesAreServed(t *testing.T) {
	c := &Catalog{}
	well, bad := fileMetric(t, "depth", "60"), fileMetric(t, "odd", "61")
	c.SetMetrics([]*Metric{well, bad})
	if got := c.External(types.NamespacedName{Namespace: "shop", Name: "depth"}); got != well || got.Err != nil {
		t.Errorf("got %+v, want the metric without an error", got)
	}
	if got := c.External(types.NamespacedName{Namespace: "shop", Name: "odd"}); got != bad || got.Err == nil || !strings.Contains(got.Err.Error(), "61 is not") {
		t.Errorf("got %+v, want the metric with the error of its period", got)
	}
	for name, err := range map[string]error{"Ready": c.Ready(), "ObjectsReady": c.ObjectsReady(), "ObjectsSettled": c.ObjectsSettled()} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names := c.ExternalNames(); len(names) != 2 {
		t.Errorf("the names are %q", names)
	}
	c.SetMetrics([]*Metric{fileMetric(t, "a", "60"), fileMetric(t, "b", "60")})
	if names := c.ExternalNames(); len(names) != 2 || names[0] != "a" {
		t.Errorf("after others were set the names are %q", names)
	}
}

func TestNewMetricOfOtherTypesSaysSo(t *testing.T) {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"queries": "none"}}}
	object.SetNamespace("shop")
	object.SetName("x")
	if m := NewMetric(object, Defaults{}); m.Err == nil || m.Name.String() != "shop/x" {
		t.Errorf("got %+v, want an error and the name", m)
	}
}

func TestUndefinedNamesWhatNobodyDefines(t *testing.T) {
	c := &Catalog{}
	c.SetMetrics([]*Metric{fileMetric(t, "queue-depth", "60")})
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	for _, name := range []string{"queue-depth", "queue-dept"} {
		hpa.Spec.Metrics = append(hpa.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: name}},
		})
	}
	got := c.Undefined(hpa, nil)
	if len(got) != 1 || got[0].Field != "spec.metrics[1].external.metric.name" || !got[0].External || got[0].Discovered ||
		!strings.Contains(got[0].Suggestion, "queue-depth") || !strings.Contains(got[0].Text, `no external metric "queue-dept"`) {
		t.Errorf("got %+v, want the second", got)
	}
}
