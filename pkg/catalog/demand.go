package catalog

import (
	"context"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// Planner turns what HPAs ask of rules into requests: a *plan.Planner.
type Planner interface {
	Update(demands []plan.Demand) []engine.Request
	External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error)
}

// KindMapper is a mapper that knows the kinds that HPAs name: an *objects.Mapper.
type KindMapper interface {
	rules.Mapper
	ResourceOf(k schema.GroupKind) (schema.GroupResource, bool)
}

var (
	podResource       = schema.GroupResource{Resource: "pods"}
	namespaceResource = schema.GroupResource{Resource: "namespaces"}
)

// usersOf are the names of the HPAs that name each external metric, sorted.
func usersOf(hpas []*autoscalingv2.HorizontalPodAutoscaler) map[types.NamespacedName][]string {
	users := make(map[types.NamespacedName][]string)
	for _, hpa := range hpas {
		for _, m := range hpa.Spec.Metrics {
			if m.External != nil {
				key := types.NamespacedName{Namespace: hpa.Namespace, Name: m.External.Metric.Name}
				users[key] = append(users[key], hpa.Name)
			}
		}
	}
	for key, names := range users {
		slices.Sort(names)
		users[key] = slices.Compact(names)
	}
	return users
}

// leastTargets are the smallest targets of the HPAs that name each custom metric of their
// namespaces. They are those by which the HPA controller divides a value to get a number of
// replicas: averages, and values while there is no replica that one could be a multiple of.
func leastTargets(hpas []*autoscalingv2.HorizontalPodAutoscaler) map[types.NamespacedName]float64 {
	targets := make(map[types.NamespacedName]float64)
	add := func(namespace, metric string, target *resource.Quantity) {
		if target == nil || target.Sign() <= 0 {
			return
		}
		key := types.NamespacedName{Namespace: namespace, Name: metric}
		value := float64(target.MilliValue()) / 1000 // As the HPA has it, which knows nothing finer.
		if least, ok := targets[key]; !ok || value < least {
			targets[key] = value
		}
	}
	for _, hpa := range hpas {
		fromZero := hpa.Spec.MinReplicas != nil && *hpa.Spec.MinReplicas == 0
		for _, m := range hpa.Spec.Metrics {
			if m.Pods != nil {
				add(hpa.Namespace, m.Pods.Metric.Name, m.Pods.Target.AverageValue)
			}
			if m.Object != nil {
				add(hpa.Namespace, m.Object.Metric.Name, m.Object.Target.AverageValue)
			}
			if m.Object != nil && fromZero {
				add(hpa.Namespace, m.Object.Metric.Name, m.Object.Target.Value)
			}
		}
	}
	return targets
}

// demand is what HPAs ask of rules.
type demand struct {
	objects *snapshot
	rules   *ruleSnapshot
	mapper  KindMapper
	planner Planner

	demands  []plan.Demand
	requests []engine.Request
}

// plan gives the requests that serve what HPAs ask of rules. There are none before the
// resources of the Kubernetes API are known, without which a query would ask for more than
// the HPA's namespace, or for nothing.
func (w *Watcher) plan(ctx context.Context, s *snapshot, r *ruleSnapshot, hpas []*autoscalingv2.HorizontalPodAutoscaler) []engine.Request {
	if w.planner == nil || !w.mapper.Known() {
		return nil
	}
	d := &demand{objects: s, rules: r, mapper: w.mapper, planner: w.planner}
	for _, hpa := range hpas {
		for i := range hpa.Spec.Metrics {
			if err := d.add(hpa, &hpa.Spec.Metrics[i]); err != nil {
				klog.FromContext(ctx).V(2).Info("A metric of an HPA cannot be asked for before it is read", "hpa", klog.KObj(hpa), "metric", i, "err", err)
			}
		}
		d.addUsage(hpa)
	}
	return append(w.planner.Update(d.demands), d.requests...)
}

// add takes in what one metric of an HPA asks of a rule, if it does. It follows the
// calls that the HPA controller makes
// (k8s.io/kubernetes/pkg/controller/podautoscaler/metrics, restMetricsClient).
func (d *demand) add(hpa *autoscalingv2.HorizontalPodAutoscaler, m *autoscalingv2.MetricSpec) error {
	switch {
	case m.Pods != nil:
		return d.addCustom(m.Pods.Metric, podResource, hpa.Namespace, plan.Demand{Replicas: int(hpa.Status.CurrentReplicas)})
	case m.Object != nil:
		return d.addObject(hpa, m.Object)
	case m.External != nil:
		return d.addExternal(hpa.Namespace, m.External.Metric)
	}
	return nil
}

// addObject asks within the HPA's own namespace, whatever the kind, but for the
// namespace itself.
func (d *demand) addObject(hpa *autoscalingv2.HorizontalPodAutoscaler, m *autoscalingv2.ObjectMetricSource) error {
	version, err := schema.ParseGroupVersion(m.DescribedObject.APIVersion)
	if err != nil {
		return err
	}
	kind := version.WithKind(m.DescribedObject.Kind).GroupKind()
	if kind == (schema.GroupKind{Kind: "Namespace"}) {
		return d.addCustom(m.Metric, namespaceResource, "", plan.Demand{Names: []string{hpa.Namespace}})
	}
	resource, ok := d.mapper.ResourceOf(kind)
	if !ok {
		return fmt.Errorf("the API server knows no kind %s", kind)
	}
	return d.addCustom(m.Metric, resource, hpa.Namespace, plan.Demand{Names: []string{m.DescribedObject.Name}})
}

func (d *demand) addCustom(id autoscalingv2.MetricIdentifier, resource schema.GroupResource, namespace string, of plan.Demand) error {
	m := d.rules.customMetric(CustomName{Resource: resource, Namespaced: namespace != "", Metric: id.Name})
	if m == nil {
		return nil // There may be one later.
	}
	selector, err := selectorOf(id.Selector)
	if err != nil {
		return err
	}
	of.Subject = plan.OfRule(m.Rule, m.Series, resource, namespace, selector)
	d.demands = append(d.demands, of)
	return nil
}

func (d *demand) addExternal(namespace string, id autoscalingv2.MetricIdentifier) error {
	if d.objects.external[types.NamespacedName{Namespace: namespace, Name: id.Name}] != nil {
		return nil // It wins.
	}
	m := d.rules.external[id.Name]
	if m == nil {
		return nil
	}
	selector, err := selectorOf(id.Selector)
	if err != nil {
		return err
	}
	request, err := d.planner.External(m.Rule, m.Series, namespace, selector)
	if err != nil {
		return err
	}
	d.requests = append(d.requests, request)
	return nil
}

// addUsage takes in that an HPA asks for the usage of its pods. It reads CPU and memory
// in one, whichever it asks for.
func (d *demand) addUsage(hpa *autoscalingv2.HorizontalPodAutoscaler) {
	r := d.rules.resource
	asks := func(m autoscalingv2.MetricSpec) bool { return m.Resource != nil || m.ContainerResource != nil }
	if r == nil || !slices.ContainsFunc(hpa.Spec.Metrics, asks) {
		return
	}
	for _, u := range []*rules.CompiledUsage{r.CPU, r.Memory} {
		if u != nil {
			d.demands = append(d.demands, plan.Demand{
				Subject: plan.PodUsage(r, u, hpa.Namespace), Replicas: int(hpa.Status.CurrentReplicas),
			})
		}
	}
}

// selectorOf is the selector as the HPA controller sends it: none is everything.
func selectorOf(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, fmt.Errorf("metric selector: %w", err)
	}
	return selector, nil
}
