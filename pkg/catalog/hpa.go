package catalog

import (
	"cmp"
	"reflect"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scaler is what the adapter keeps of an HPA.
type scaler struct {
	*asks

	version  string
	replicas int32
	// served has a bit for each of the first metrics of which the HPA controller has got a
	// value at its last sync, be it of this adapter or of another one.
	served uint64
}

var _ metav1.ObjectMetaAccessor = (*scaler)(nil)

// GetObjectMeta is for the informer.
func (s *scaler) GetObjectMeta() metav1.Object { return s.meta(s.version) }

// asks are what an HPA asks for. They are never changed.
type asks struct {
	identity

	metrics  []autoscalingv2.MetricSpec
	fromZero bool
}

func (s *asks) equal(o *asks) bool {
	return s == o || s.UID == o.UID && s.fromZero == o.fromZero && reflect.DeepEqual(s.metrics, o.metrics)
}

// maxServed is how many metrics of an HPA have a bit in served.
const maxServed = 64

// toScaler makes of an HPA what the adapter keeps of it. What it asks for is shared with the
// one before if it is the same, as it is after the HPA controller has written its status.
func (w *Watcher) toScaler(o any) (any, error) {
	hpa, ok := o.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return o, nil
	}
	return newScaler(hpa, w.hpa(nameOf(hpa))), nil
}

func newScaler(hpa *autoscalingv2.HorizontalPodAutoscaler, before *scaler) *scaler {
	s := &scaler{
		asks: &asks{
			identity: identityOf(hpa),
			metrics:  make([]autoscalingv2.MetricSpec, len(hpa.Spec.Metrics)),
			fromZero: hpa.Spec.MinReplicas != nil && *hpa.Spec.MinReplicas == 0,
		},
		version:  hpa.ResourceVersion,
		replicas: hpa.Status.CurrentReplicas,
		served:   servedOf(hpa),
	}
	for i, m := range hpa.Spec.Metrics {
		s.metrics[i] = s.compact(m)
	}
	if before != nil && before.equal(s.asks) {
		s.asks = before.asks
	}
	return s
}

// compact is the metric without what the adapter does not read. The target of an external
// metric is for the HPA controller alone, but for those of externalTargets.
func (s *asks) compact(m autoscalingv2.MetricSpec) autoscalingv2.MetricSpec {
	m.Type = intern(m.Type)
	if m.External != nil {
		metric, target := m.External.Metric, m.External.Target
		m.External = &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: intern(metric.Name), Selector: metric.Selector}}
		m.External.Target.AverageValue = target.AverageValue
		if s.fromZero {
			m.External.Target.Value = target.Value
		}
	}
	return m
}

// servedOf says which metrics have a value. The HPA controller leaves those in the status
// that it had when it last got one, so that they count only while it says that all is well.
func servedOf(hpa *autoscalingv2.HorizontalPodAutoscaler) uint64 {
	if !slices.ContainsFunc(hpa.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionTrue
	}) {
		return 0
	}
	var served uint64
	for i := range hpa.Spec.Metrics[:min(len(hpa.Spec.Metrics), maxServed)] {
		if slices.ContainsFunc(hpa.Status.CurrentMetrics, func(s autoscalingv2.MetricStatus) bool { return isOf(s, hpa.Spec.Metrics[i]) }) {
			served |= 1 << i
		}
	}
	return served
}

// isOf says whether a status is that of a metric.
func isOf(s autoscalingv2.MetricStatus, m autoscalingv2.MetricSpec) bool {
	switch {
	case m.External != nil:
		return s.External != nil && s.External.Metric.Name == m.External.Metric.Name
	case m.Pods != nil:
		return s.Pods != nil && s.Pods.Metric.Name == m.Pods.Metric.Name
	case m.Object != nil:
		return s.Object != nil && s.Object.Metric.Name == m.Object.Metric.Name && s.Object.DescribedObject == m.Object.DescribedObject
	case m.Resource != nil:
		return s.Resource != nil && s.Resource.Name == m.Resource.Name
	case m.ContainerResource != nil:
		return s.ContainerResource != nil && s.ContainerResource.Name == m.ContainerResource.Name && s.ContainerResource.Container == m.ContainerResource.Container
	}
	return false
}

// externals are the names of the external metrics that the HPA names, sorted, each once.
func (s *asks) externals() []string {
	var names []string
	for _, m := range s.metrics {
		if m.External != nil {
			names = append(names, m.External.Metric.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// target is the smallest target of a metric.
type target struct {
	metric string
	value  float64
}

// appendTarget adds a target, if there is one.
func appendTarget(targets []target, metric string, quantity *resource.Quantity) []target {
	if quantity == nil || quantity.Sign() <= 0 {
		return targets
	}
	return append(targets, target{metric, float64(quantity.MilliValue()) / 1000}) // As the HPA has it, which knows nothing finer.
}

// leastOf are the smallest targets of each metric, in the order of the metrics' names.
func leastOf(targets []target) []target {
	slices.SortFunc(targets, func(a, b target) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(a.value, b.value))
	})
	return slices.CompactFunc(targets, func(a, b target) bool { return a.metric == b.metric })
}

// targets are the smallest targets of the custom metrics that the HPA names, in the order
// of their names. They are those by which the HPA controller divides a value to get a
// number of replicas: averages, and values while there is no replica that one could be a
// multiple of.
func (s *asks) targets() []target {
	var targets []target
	for _, m := range s.metrics {
		if m.Pods != nil {
			targets = appendTarget(targets, m.Pods.Metric.Name, m.Pods.Target.AverageValue)
		}
		if m.Object != nil {
			targets = appendTarget(targets, m.Object.Metric.Name, m.Object.Target.AverageValue)
		}
		if m.Object != nil && s.fromZero {
			targets = appendTarget(targets, m.Object.Metric.Name, m.Object.Target.Value)
		}
	}
	return leastOf(targets)
}

// externalTargets are those of the external metrics, which may have the names of custom
// ones. Averages are among them for the controllers before Kubernetes 1.34, which do not stop
// at the largest number of replicas (https://github.com/kubernetes/kubernetes/pull/127050).
func (s *asks) externalTargets() []target {
	var targets []target
	for _, m := range s.metrics {
		if m.External == nil {
			continue
		}
		targets = appendTarget(targets, m.External.Metric.Name, m.External.Target.AverageValue)
		if s.fromZero {
			targets = appendTarget(targets, m.External.Metric.Name, m.External.Target.Value)
		}
	}
	return leastOf(targets)
}
