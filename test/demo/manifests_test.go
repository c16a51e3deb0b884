package demo

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// readManifest reads the object of a kind and name, as kubectl makes it.
func readManifest(t *testing.T, kind, name string, into any) {
	t.Helper()
	objects, err := render(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetKind() != kind || o.GetName() != name {
			continue
		}
		text, err := o.MarshalJSON()
		if err == nil {
			err = yaml.UnmarshalStrict(text, into)
		}
		if err != nil {
			t.Fatalf("%s %s: %v", kind, name, err)
		}
		return
	}
	t.Fatalf("there is no %s %s", kind, name)
}

// The demo shows, and judges by, what the manifests say.
func TestManifests(t *testing.T) {
	var (
		worker appsv1.Deployment
		metric metricsaws.ExternalMetric
		scaler autoscalingv2.HorizontalPodAutoscaler
	)
	readManifest(t, "Deployment", workerName, &worker)
	readManifest(t, "ExternalMetric", metricName, &metric)
	readManifest(t, "HorizontalPodAutoscaler", workerName, &scaler)

	type facts struct {
		Namespaces      []string
		WorkerReplicas  *int32
		Target          string
		Min, Max        int32
		Metric          string
		PerWorker       int64
		Expression      string
		Queues, Metrics []string
	}
	external := scaler.Spec.Metrics[0].External
	got := facts{
		Namespaces:     []string{worker.Namespace, metric.Namespace, scaler.Namespace},
		WorkerReplicas: worker.Spec.Replicas,
		Target:         scaler.Spec.ScaleTargetRef.Kind + "/" + scaler.Spec.ScaleTargetRef.Name,
		Min:            *scaler.Spec.MinReplicas, Max: scaler.Spec.MaxReplicas,
		Metric:     external.Metric.Name,
		PerWorker:  external.Target.AverageValue.Value(),
		Expression: metric.Spec.Queries[0].Expression,
	}
	for _, q := range metric.Spec.Queries[1:] {
		got.Queues = append(got.Queues, q.MetricStat.Metric.Dimensions[0].Value)
		got.Metrics = append(got.Metrics, q.ID+"="+q.MetricStat.Metric.MetricName)
	}
	want := facts{
		Namespaces: []string{namespace, namespace, namespace},
		Target:     "Deployment/" + worker.Name,
		Min:        0, Max: maxWorkers,
		Metric:     metric.Name,
		PerWorker:  perWorker,
		Expression: depthExpression,
		Queues:     []string{queueName, queueName},
		Metrics:    []string{"waiting=" + visible, "in_work=" + notVisible},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the manifests are not what the demo takes them for (-want +got):\n%s", diff)
	}
}

// The load is one for which the web tier's HPA wants loadPods, by a metric that the rules make.
func TestWebManifests(t *testing.T) {
	var scaler autoscalingv2.HorizontalPodAutoscaler
	readManifest(t, "HorizontalPodAutoscaler", webName, &scaler)
	var config struct {
		Rules []struct {
			Name struct {
				As string `json:"as"`
			} `json:"name"`
			MetricsQuery string `json:"metricsQuery"`
		} `json:"rules"`
	}
	text, err := rules()
	if err == nil {
		err = yaml.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Rules) != 1 || !strings.Contains(config.Rules[0].MetricsQuery, demoRange) {
		t.Fatalf("the rules are not one over %s:\n%s", demoRange, text)
	}
	pods := scaler.Spec.Metrics[0].Pods
	if got, want := config.Rules[0].Name.As, pods.Metric.Name; got != want {
		t.Errorf("the rule makes the metric %s, and the HPA reads %s", got, want)
	}
	target := pods.Target.AverageValue.AsApproximateFloat64()
	if got := int(math.Ceil(loadRate / target)); got != loadPods {
		t.Errorf("%d requests a second are for %d pods, want %d", loadRate, got, loadPods)
	}
	if got := int(math.Ceil(calmRate / target)); got != int(*scaler.Spec.MinReplicas) {
		t.Errorf("%d requests a second are for %d pods, want the least, %d", calmRate, got, *scaler.Spec.MinReplicas)
	}
}

// Web and worker find the database by the Secret that the demo makes, of both kinds.
func TestSecretIsThatOfTheManifests(t *testing.T) {
	secret := (&database{file: "orders.db"}).secret()
	data, _, err := unstructured.NestedStringMap(secret.Object, "stringData")
	if err != nil || secret.GetNamespace() != namespace {
		t.Fatalf("the Secret is in the namespace %q: %v", secret.GetNamespace(), err)
	}
	for _, name := range []string{webName, workerName} {
		var d appsv1.Deployment
		readManifest(t, "Deployment", name, &d)
		found := false
		for _, v := range d.Spec.Template.Spec.Containers[0].Env {
			if v.ValueFrom == nil || v.ValueFrom.SecretKeyRef == nil {
				continue
			}
			ref := v.ValueFrom.SecretKeyRef
			if _, there := data[ref.Key]; !there || ref.Name != secret.GetName() {
				t.Errorf("%s wants the key %s of the Secret %s, and the demo makes %s with %v", name, ref.Key, ref.Name, secret.GetName(), data)
			}
			found = true
		}
		if !found {
			t.Errorf("%s wants no Secret", name)
		}
	}
}

// What the manifests have in minutes takes the demo seconds, and nobody but the story moves the
// load.
func TestHasten(t *testing.T) {
	objects, err := render(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{opts: Options{}.withDefaults()}
	got := map[string]any{}
	for _, o := range objects {
		if err := d.hasten(o); err != nil {
			t.Fatal(err)
		}
		for _, field := range [][]string{
			{"Deployment", loaderName, "spec", "replicas"},
			{"Deployment", simulatorName, "spec", "replicas"},
			{"Deployment", webName, "spec", "replicas"},
			{"HorizontalPodAutoscaler", webName, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"},
			{"HorizontalPodAutoscaler", workerName, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"},
			{"ExternalMetric", metricName, "spec", "maxAge"},
		} {
			if o.GetKind() != field[0] || o.GetName() != field[1] {
				continue
			}
			if value, found, err := unstructured.NestedFieldNoCopy(o.Object, field[2:]...); err != nil || found {
				got[o.GetKind()+" "+o.GetName()] = value
			}
		}
	}
	want := map[string]any{
		"Deployment " + loaderName: int64(1), "Deployment " + simulatorName: int64(0),
		"HorizontalPodAutoscaler " + webName: int64(10), "HorizontalPodAutoscaler " + workerName: int64(8),
		"ExternalMetric " + metricName: "10s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the manifests as the demo applies them (-want +got):\n%s", diff)
	}
}

// Without its database web serves nobody, and its HPA is not to take it for idle.
func TestWebOutlastsAnOutage(t *testing.T) {
	o := Options{Stop: []string{Database}}.withDefaults()
	if got := o.webStabilization(); got <= o.Outage {
		t.Errorf("web keeps its pods for %v without requests, and the outage takes %v", got, o.Outage)
	}
}
