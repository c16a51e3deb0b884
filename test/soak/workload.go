package soak

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	namespace = "soak"
	// till is the Service that the series of the metric of an object are of. It need not exist.
	till = "till"
	// metricNamespace is the one of CloudWatch.
	metricNamespace = "Soak"
	// firstDemand is the number of replicas to begin with.
	firstDemand = 3

	customPath   = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + namespace + "/"
	externalPath = "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + namespace + "/"
)

// regions are those of AWS.
var regions = []string{"eu-one-1", "eu-two-1"}

// kind is where a workload's metric comes from, and what it describes.
type kind int

const (
	cloudWatch kind = iota
	external
	ofPods
	ofObject
)

// workload is a Deployment with an HPA on a metric of its own. Both have its name.
type workload struct {
	name string
	kind kind
	// metric is the name in the API, and series that of the backend.
	metric, series string
	maxAge         time.Duration
	region         string // of CloudWatch
}

// newWorkloads are those of a soak.
func newWorkloads() []*workload {
	var all []*workload
	for i, region := range regions {
		for age, maxAge := range map[string]time.Duration{"short": shortAge, "long": longAge} {
			name := fmt.Sprintf("queue-%d-%s", i+1, age)
			all = append(all, &workload{name: name, kind: cloudWatch, metric: name, series: name, maxAge: maxAge, region: region})
		}
	}
	for age, maxAge := range map[string]time.Duration{"short": shortAge, "long": longAge} {
		all = append(all,
			&workload{name: "jobs-" + age, kind: external, metric: age + "_jobs", series: "external_" + age + "_jobs", maxAge: maxAge},
			&workload{name: "web-" + age, kind: ofPods, metric: age + "_web", series: "soak_" + age + "_web", maxAge: maxAge},
			&workload{name: "till-" + age, kind: ofObject, metric: age + "_till", series: "soak_" + age + "_till", maxAge: maxAge},
		)
	}
	slices.SortFunc(all, func(a, b *workload) int { return strings.Compare(a.name, b.name) })
	return all
}

// path is where the metric is read.
func (w *workload) path() string {
	switch w.kind {
	case ofPods:
		return customPath + "pods/*/" + w.metric
	case ofObject:
		return customPath + "services/" + till + "/" + w.metric
	default:
		return externalPath + w.metric
	}
}

// seriesOf is the series of an item, in the terms of truth.
func (w *workload) seriesOf(object string) string {
	if w.kind == ofPods {
		return w.series + "/" + object
	}
	return w.series
}

// demands are the true numbers of replicas, by workload.
type demands struct {
	mu     sync.Mutex
	number map[string]int32
}

func (d *demands) set(name string, n int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.number[name] = n
}

func (d *demands) of(name string) int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.number[name]
}

// measured is the value that stands for so many replicas.
func measured(replicas int32) float64 {
	if replicas == 0 {
		return 0
	}
	return perReplica*float64(replicas) - below.float()
}

// put publishes a new value of each metric of CloudWatch, unless one was published for
// this second: CloudWatch would make one datapoint of both.
func (b *bed) put(now time.Time) {
	at := now.Truncate(time.Second)
	if !at.After(b.lastPut) {
		return
	}
	b.lastPut = at
	for _, w := range b.published() {
		value := b.truth.next(w.series, measured(b.demands.of(w.name)))
		b.truth.publish(w.series, value, at, now)
		b.aws.PutMetric(fakeaws.Metric{
			Region: w.region, Namespace: metricNamespace, Name: w.series, Value: fakeaws.Float(value.float()), Time: at, HighResolution: true,
		})
	}
}

// play answers in place of a Prometheus.
func (b *bed) play(c promproxy.Call) (promproxy.Answer, bool) {
	now := time.Now().Truncate(time.Millisecond)
	var data promproxy.Data
	for _, w := range b.workloads {
		data = append(data, b.samples(w, now)...)
	}
	return data.Play(c)
}

// samples are what a query finds of a workload now, each of which is noted as given.
func (b *bed) samples(w *workload, now time.Time) []promproxy.Sample {
	labels := map[string]string{"__name__": w.series, "namespace": namespace}
	number := measured(b.demands.of(w.name))
	switch w.kind {
	case external:
		return []promproxy.Sample{b.sample(w.series, labels, number, now)}
	case ofObject:
		labels["service"] = till
		return []promproxy.Sample{b.sample(w.series, labels, number, now)}
	case ofPods:
		var samples []promproxy.Sample
		pods := b.pods.of(w.name)
		for _, pod := range pods {
			of := map[string]string{"__name__": w.series, "namespace": namespace, "pod": pod}
			// What there is to do, they share: all of it for one is the number.
			share := number / float64(len(pods))
			samples = append(samples, b.sample(w.seriesOf(pod), of, share, now))
		}
		return samples
	default:
		return nil
	}
}

func (b *bed) sample(series string, labels map[string]string, number float64, now time.Time) promproxy.Sample {
	s := promproxy.Sample{Labels: labels, Value: "NaN", Time: now}
	if b.noNumber.Load() {
		return s
	}
	value := b.truth.next(series, number)
	b.truth.answered(series, value, now, time.Now())
	s.Value = value.String()
	return s
}

// object is the ExternalMetric of a workload's metric.
func (w *workload) object() *metricsaws.ExternalMetric {
	return &metricsaws.ExternalMetric{
		TypeMeta:   metav1.TypeMeta{APIVersion: metricsaws.GroupVersion.String(), Kind: "ExternalMetric"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: w.metric},
		Spec: metricsaws.ExternalMetricSpec{
			Region:   w.region,
			Interval: &metav1.Duration{Duration: time.Second},
			MaxAge:   &metav1.Duration{Duration: w.maxAge},
			Queries: []metricsaws.MetricDataQuery{{ID: "m1", MetricStat: &metricsaws.MetricStat{
				Metric: metricsaws.Metric{Namespace: metricNamespace, MetricName: w.series},
				Period: 1, Stat: "Average",
			}}},
		},
	}
}

// deployment has as many replicas as there is a demand for at first.
func (w *workload) deployment() *appsv1.Deployment {
	labels := map[string]string{"app": w.name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(firstDemand)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "worker", Image: "worker"}}},
			},
		},
	}
}

// hpa scales the Deployment as fast as the HPA controller looks at it. A zero that comes
// of a fault would remove every pod, where the API allows that.
func (w *workload) hpa() *autoscalingv2.HorizontalPodAutoscaler {
	atOnce := &autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32(0)),
		Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 100, PeriodSeconds: 1}},
	}
	least := int32(0)
	if w.kind == ofPods {
		least = 1
	}
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: w.name},
			MinReplicas:    &least,
			MaxReplicas:    2 * maxReplicas,
			Behavior:       &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: atOnce, ScaleDown: atOnce},
			Metrics:        []autoscalingv2.MetricSpec{w.spec()},
		},
	}
}

func (w *workload) spec() autoscalingv2.MetricSpec {
	of := autoscalingv2.MetricIdentifier{Name: w.metric}
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(perReplica, resource.DecimalSI)}
	switch w.kind {
	case ofPods:
		return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: of, Target: target}}
	case ofObject:
		service := autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: till}
		return autoscalingv2.MetricSpec{
			Type:   autoscalingv2.ObjectMetricSourceType,
			Object: &autoscalingv2.ObjectMetricSource{Metric: of, Target: target, DescribedObject: service},
		}
	default:
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: of, Target: target}}
	}
}
