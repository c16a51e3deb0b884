package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
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

// demand is what one HPA asks of rules.
type demand struct {
	*Watcher
	ofRules

	draft *draft
	rules *ruleSnapshot
}

// resolve gives what an HPA asks of rules; of one beyond the ceiling without what counts
// against that. It is nil if that is nothing: also before the resources of the Kubernetes API
// are known, without which a query would ask for more than the HPA's namespace, or for
// nothing.
func (w *Watcher) resolve(ctx context.Context, draft *draft, hpa *use, deferred bool) *ofRules { //nolint:revive // It is what is known of the HPA.
	if w.planner == nil || !w.mapper.Known() {
		return nil
	}
	d := &demand{Watcher: w, draft: draft, rules: w.catalog.load().rules}
	for i, m := range hpa.metrics {
		if deferred && draft.amountOf(hpa.Namespace, m).count > 0 {
			continue
		}
		if err := d.add(hpa, m); err != nil {
			klog.FromContext(ctx).V(2).Info("A metric of an HPA cannot be asked for before it is read", "hpa", klog.KObj(hpa), "metric", i, "err", err)
		}
	}
	d.addUsage(hpa)
	if len(d.demands)+len(d.requests) == 0 {
		return nil
	}
	return new(d.ofRules)
}

// amountOf is what a metric of an HPA counts against the ceiling. Metrics that others of
// the namespace read by the same query, and those that ExternalMetrics define, count nothing.
func (d *draft) amountOf(namespace string, m autoscalingv2.MetricSpec) amount {
	var selector *metav1.LabelSelector
	name := ""
	switch {
	case m.Pods != nil:
		selector = m.Pods.Metric.Selector
	case m.Object != nil:
		selector, name = m.Object.Metric.Selector, m.Object.DescribedObject.Name
	case m.External != nil && d.external.get(types.NamespacedName{Namespace: namespace, Name: m.External.Metric.Name}) == nil:
		selector = m.External.Metric.Selector
	}
	bytes := len(name)
	if selector != nil {
		for k, v := range selector.MatchLabels {
			bytes += len(k) + len(v)
		}
		for _, e := range selector.MatchExpressions {
			bytes += len(e.Key) + len(strings.Join(e.Values, ""))
		}
	}
	if bytes == 0 {
		return amount{}
	}
	return amount{1, bytes}
}

// plan gives the requests that serve what HPAs ask of rules by objects.
func (w *Watcher) plan(demands []plan.Demand) []engine.Request {
	if w.planner == nil || !w.mapper.Known() {
		return nil
	}
	w.prepare(demands)
	return w.planner.Update(demands)
}

// add takes in what one metric of an HPA asks of a rule, if it does. It follows the
// calls that the HPA controller makes
// (k8s.io/kubernetes/pkg/controller/podautoscaler/metrics, restMetricsClient).
func (d *demand) add(hpa *use, m autoscalingv2.MetricSpec) error {
	switch {
	case m.Pods != nil:
		return d.addCustom(m.Pods.Metric, podResource, hpa.Namespace, plan.Demand{Replicas: int(hpa.replicas)})
	case m.Object != nil:
		return d.addObject(hpa, m.Object)
	case m.External != nil:
		return d.addExternal(hpa.Namespace, m.External.Metric)
	}
	return nil
}

// addObject asks within the HPA's own namespace, whatever the kind, but for the
// namespace itself.
func (d *demand) addObject(hpa *use, m *autoscalingv2.ObjectMetricSource) error {
	resource, namespaced, err := d.resourceOf(m.DescribedObject)
	switch {
	case err != nil:
		return err
	case !namespaced:
		return d.addCustom(m.Metric, resource, "", plan.Demand{Names: []string{hpa.Namespace}})
	}
	return d.addCustom(m.Metric, resource, hpa.Namespace, plan.Demand{Names: []string{m.DescribedObject.Name}})
}

// resourceOf is the resource of an object that an HPA describes, and whether that is read
// within the HPA's namespace.
func (w *Watcher) resourceOf(object autoscalingv2.CrossVersionObjectReference) (resource schema.GroupResource, namespaced bool, err error) {
	version, err := schema.ParseGroupVersion(object.APIVersion)
	if err != nil {
		return schema.GroupResource{}, false, err
	}
	kind := version.WithKind(object.Kind).GroupKind()
	if kind == (schema.GroupKind{Kind: "Namespace"}) {
		return namespaceResource, false, nil
	}
	if w.mapper != nil {
		if resource, ok := w.mapper.ResourceOf(kind); ok {
			return resource, true, nil
		}
	}
	return schema.GroupResource{}, false, fmt.Errorf("the API server knows no kind %s", kind)
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
	if d.draft.external.get(types.NamespacedName{Namespace: namespace, Name: id.Name}) != nil {
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
func (d *demand) addUsage(hpa *use) {
	r := d.rules.resource
	asks := func(m autoscalingv2.MetricSpec) bool { return m.Resource != nil || m.ContainerResource != nil }
	if r == nil || !slices.ContainsFunc(hpa.metrics, asks) {
		return
	}
	for _, u := range []*rules.CompiledUsage{r.CPU, r.Memory} {
		if u != nil {
			d.demands = append(d.demands, plan.Demand{
				Subject: plan.PodUsage(r, u, hpa.Namespace), Replicas: int(hpa.replicas),
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
