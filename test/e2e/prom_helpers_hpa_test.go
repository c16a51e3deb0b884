package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/tidegauge/tidegauge/test/player"
)

const (
	// httpRequests is what the rules make of http_requests_total, meshRequests of Envoy's
	// envoy_cluster_upstream_rq.
	httpRequests = "http_requests_per_second"
	meshRequests = "appmesh_requests_per_second"

	// requestsPerPod are the requests per second and pod that the tests' HPAs aim at.
	requestsPerPod = 10
	// requestsOfClients are the requests per second of five clients with five each.
	requestsOfClients = 25
)

// ownBedScrapedEvery is ownBed with a Prometheus of its own.
func ownBedScrapedEvery(t *testing.T, interval time.Duration) *bed {
	t.Helper()
	b := ownBed(t)
	if err := b.startPrometheusEvery(t.Context(), interval); err != nil {
		t.Fatal(err)
	}
	return b
}

// scraped makes pods such that Prometheus scrapes them.
func scraped(pod *corev1.PodTemplateSpec) {
	pod.Annotations = map[string]string{"prometheus.io/scrape": "true"}
}

// createNamed creates an object that is there for its name only.
func (s *space) createNamed(apiVersion, kind, name, spec string) {
	s.t.Helper()
	text := fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {namespace: %s, name: %s}, spec: %s}", apiVersion, kind, s.namespace, name, spec)
	if err := s.Apply(s.t.Context(), []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// requests sets how many requests per second come to the workers.
func (s *space) requests(perSecond float64) {
	s.t.Helper()
	err := s.player.SetRequests(player.Requests{Namespace: s.namespace, Workload: worker, PerSecond: perSecond})
	if err != nil {
		s.t.Fatal(err)
	}
}

// hpaOf is an autoscaler of the workers, by a metric of any type.
func hpaOf(metric autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	hpa := autoscaler(worker, 1, "")
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{metric}
	return hpa
}

// ofPods is a metric of type Pods, whose target is an average. The selector may be nil.
func ofPods(metric string, target int64, selector *metav1.LabelSelector) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: metric, Selector: selector}, Target: average(target),
		},
	}
}

// ofObject is a metric of type Object.
func ofObject(apiVersion, kind, name, metric string, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ObjectMetricSourceType,
		Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: name},
			Metric:          autoscalingv2.MetricIdentifier{Name: metric}, Target: target,
		},
	}
}

// ofAnything is a metric of type External. The selector may be nil.
func ofAnything(metric string, target autoscalingv2.MetricTarget, selector *metav1.LabelSelector) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ExternalMetricSourceType,
		External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: metric, Selector: selector}, Target: target,
		},
	}
}

func average(value int64) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{
		Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(value, resource.DecimalSI),
	}
}

func whole(value int64) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: resource.NewQuantity(value, resource.DecimalSI)}
}

func matching(name, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{name: value}}
}

// awaitTargets waits until `kubectl get hpa` shows the text in a column, such as 200m/10.
func (s *space) awaitTargets(text string) {
	s.t.Helper()
	s.eventually("kubectl get hpa", func(ctx context.Context) error {
		table, err := s.runKubectl(ctx, "get", "hpa", worker, "--no-headers")
		if err == nil && !slices.Contains(strings.Fields(table), text) {
			err = fmt.Errorf("it shows no %s: %s", text, table)
		}
		return err
	})
}

// awaitHPAEvent waits for an Event of the workers' HPA whose note is exactly the text.
func (s *space) awaitHPAEvent(note string) {
	s.t.Helper()
	about := fields.Set{"regarding.kind": "HorizontalPodAutoscaler", "regarding.name": worker}
	s.eventually("Event of the HPA", func(ctx context.Context) error {
		events, err := s.Client().EventsV1().Events(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: about.String()})
		if err != nil {
			return err
		}
		var notes []string
		for _, e := range events.Items {
			if e.Note == note {
				return nil
			}
			notes = append(notes, e.Note)
		}
		return fmt.Errorf("none says %q, but %q", note, notes)
	})
}

// selfMetric is a self-metric of the bed's adapter that has no labels.
func (s *space) selfMetric(ctx context.Context, name string) (string, error) {
	text, err := s.client(s.adapter.Config(s.Config())).Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", errors.New(name + " is not there")
}
