package demo

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"sigs.k8s.io/yaml"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// readManifest reads the object of the one manifest whose name ends so.
func readManifest(t *testing.T, suffix string, into any) {
	t.Helper()
	files, err := manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if ok, _ := filepath.Match("*-"+suffix, filepath.Base(file)); !ok {
			continue
		}
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.UnmarshalStrict(text, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return
	}
	t.Fatalf("%s is not among %v", suffix, files)
}

// The demo shows, and judges by, what the manifests say.
func TestManifests(t *testing.T) {
	var (
		worker appsv1.Deployment
		metric metricsaws.ExternalMetric
		scaler autoscalingv2.HorizontalPodAutoscaler
	)
	readManifest(t, "worker.yaml", &worker)
	readManifest(t, "metric.yaml", &metric)
	readManifest(t, "hpa.yaml", &scaler)

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
