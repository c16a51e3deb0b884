package demo

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// shownEvents is how many Events of an HPA are shown.
const shownEvents = 3

// clusterView is what the API server says of Deployments, HPAs and the HPAs' Events, by name.
// It is safe for concurrent use.
type clusterView struct {
	// told gets each object as it is now, after it is known here. It may be nil.
	told func(object any)

	mu          sync.Mutex
	deployments map[string]*appsv1.Deployment
	hpas        map[string]*autoscalingv2.HorizontalPodAutoscaler
	events      map[string][]*corev1.Event // by the HPA's name, the newest first
}

func newClusterView(told func(object any)) *clusterView {
	return &clusterView{
		told: told, deployments: map[string]*appsv1.Deployment{}, hpas: map[string]*autoscalingv2.HorizontalPodAutoscaler{},
		events: map[string][]*corev1.Event{},
	}
}

// watch follows the namespace until ctx is done.
func (v *clusterView) watch(ctx context.Context, client kubernetes.Interface, namespace string) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	for _, informer := range []cache.SharedInformer{
		factory.Apps().V1().Deployments().Informer(),
		factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
		factory.Core().V1().Events().Informer(),
	} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    v.see,
			UpdateFunc: func(_, now any) { v.see(now) },
			DeleteFunc: v.forget,
		})
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot watch for the page", "namespace", namespace)
		}
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
}

func (v *clusterView) see(object any) {
	v.keep(object)
	if v.told != nil {
		v.told(object)
	}
}

func (v *clusterView) keep(object any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch o := object.(type) {
	case *appsv1.Deployment:
		v.deployments[o.Name] = o
	case *autoscalingv2.HorizontalPodAutoscaler:
		v.hpas[o.Name] = o
	case *corev1.Event:
		if o.InvolvedObject.Kind == "HorizontalPodAutoscaler" {
			v.seeEvent(o)
		}
	}
}

func (v *clusterView) seeEvent(e *corev1.Event) {
	events := slices.DeleteFunc(slices.Clone(v.events[e.InvolvedObject.Name]), func(o *corev1.Event) bool { return o.Name == e.Name })
	events = append(events, e)
	slices.SortStableFunc(events, func(a, b *corev1.Event) int { return eventTime(b).Compare(eventTime(a)) })
	v.events[e.InvolvedObject.Name] = events[:min(len(events), shownEvents)]
}

// forget drops what was deleted. Events end after an hour, and stay on the page.
func (v *clusterView) forget(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch o := object.(type) {
	case *appsv1.Deployment:
		delete(v.deployments, o.Name)
	case *autoscalingv2.HorizontalPodAutoscaler:
		delete(v.hpas, o.Name)
	}
}

func eventTime(e *corev1.Event) time.Time {
	if e.Series != nil {
		return e.Series.LastObservedTime.Time
	}
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// scaling is a Deployment and its HPA, of which each may be nil.
type scaling struct {
	deployment *appsv1.Deployment
	hpa        *autoscalingv2.HorizontalPodAutoscaler
	events     []*corev1.Event
}

func (v *clusterView) scaling(name string) scaling {
	v.mu.Lock()
	defer v.mu.Unlock()
	return scaling{v.deployments[name], v.hpas[name], slices.Clone(v.events[name])}
}

func (s scaling) tier() page.Tier {
	var t page.Tier
	if d := s.deployment; d != nil {
		if d.Spec.Replicas != nil {
			t.Desired = page.Num(*d.Spec.Replicas)
		}
		t.Current, t.Ready = page.Num(d.Status.Replicas), page.Num(d.Status.ReadyReplicas)
	}
	if s.hpa != nil {
		t.Min, t.Max = page.Num(1), page.Num(s.hpa.Spec.MaxReplicas)
		if least := s.hpa.Spec.MinReplicas; least != nil {
			t.Min = page.Num(*least)
		}
	}
	return t
}

// capacity is how much of its first metric the replicas that are ready are the right number
// for. It is absent where there are none, or the target is no average.
func (s scaling) capacity(t page.Tier) page.Number {
	ready, ok := t.Ready.Get()
	if s.hpa == nil || !ok || ready == 0 {
		return page.Number{}
	}
	for _, m := range s.hpa.Spec.Metrics {
		if target := targetOf(m); target.Per != "" {
			if each, ok := target.Target.Get(); ok {
				return page.Num(each * ready)
			}
		}
	}
	return page.Number{}
}

// hpas is the HPA for the page, or none.
func (s scaling) hpas() []page.HPA {
	h := s.hpa
	if h == nil {
		return nil
	}
	out := page.HPA{Name: h.Namespace + "/" + h.Name, Decision: decisionOf(h)}
	for _, m := range h.Spec.Metrics {
		out.Metrics = append(out.Metrics, targetIn(h, m))
	}
	for _, c := range h.Status.Conditions {
		out.Conditions = append(out.Conditions, page.Condition{
			Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime.Time,
		})
	}
	for _, e := range s.events {
		out.Events = append(out.Events, page.Event{
			Time: eventTime(e), Warning: e.Type == corev1.EventTypeWarning, Reason: e.Reason, Message: messageOf(e), Count: int(e.Count),
		})
	}
	return []page.HPA{out}
}

// targetOf is the metric of an HPA without its current value.
func targetOf(m autoscalingv2.MetricSpec) page.Target {
	of := func(name string, t autoscalingv2.MetricTarget) page.Target {
		out := page.Target{Metric: name}
		switch {
		case t.AverageValue != nil:
			out.Target, out.Per = number(t.AverageValue), "pod"
		case t.Value != nil:
			out.Target = number(t.Value)
		case t.AverageUtilization != nil:
			out.Target = page.Num(*t.AverageUtilization)
			out.Metric += " in % of what is requested"
		}
		return out
	}
	switch {
	case m.Pods != nil:
		return of(m.Pods.Metric.Name, m.Pods.Target)
	case m.External != nil:
		return of(m.External.Metric.Name, m.External.Target)
	case m.Object != nil:
		return of(m.Object.Metric.Name, m.Object.Target)
	case m.Resource != nil:
		return of(string(m.Resource.Name), m.Resource.Target)
	case m.ContainerResource != nil:
		return of(string(m.ContainerResource.Name), m.ContainerResource.Target)
	}
	return page.Target{Metric: string(m.Type)}
}

// targetIn is the metric of an HPA. While the HPA cannot get it, its status has the value of
// before, which is left out.
func targetIn(h *autoscalingv2.HorizontalPodAutoscaler, m autoscalingv2.MetricSpec) page.Target {
	target := targetOf(m)
	if hasCondition(h, autoscalingv2.ScalingActive, corev1.ConditionFalse) {
		return target
	}
	for _, s := range h.Status.CurrentMetrics {
		name, now := currentOf(s)
		if s.Type != m.Type || name != metricNameOf(m) {
			continue
		}
		switch {
		case now.AverageUtilization != nil && target.Per == "":
			target.Current = page.Num(*now.AverageUtilization)
		case now.AverageValue != nil && target.Per != "":
			target.Current = number(now.AverageValue)
		case now.Value != nil && target.Per == "":
			target.Current = number(now.Value)
		}
	}
	return target
}

func metricNameOf(m autoscalingv2.MetricSpec) string {
	switch {
	case m.Pods != nil:
		return m.Pods.Metric.Name
	case m.External != nil:
		return m.External.Metric.Name
	case m.Object != nil:
		return m.Object.Metric.Name
	case m.Resource != nil:
		return string(m.Resource.Name)
	case m.ContainerResource != nil:
		return string(m.ContainerResource.Name)
	}
	return ""
}

func currentOf(s autoscalingv2.MetricStatus) (name string, now autoscalingv2.MetricValueStatus) {
	switch {
	case s.Pods != nil:
		return s.Pods.Metric.Name, s.Pods.Current
	case s.External != nil:
		return s.External.Metric.Name, s.External.Current
	case s.Object != nil:
		return s.Object.Metric.Name, s.Object.Current
	case s.Resource != nil:
		return string(s.Resource.Name), s.Resource.Current
	case s.ContainerResource != nil:
		return string(s.ContainerResource.Name), s.ContainerResource.Current
	}
	return "", autoscalingv2.MetricValueStatus{}
}

// number leaves out what comes of a division by no replicas.
func number(q *resource.Quantity) page.Number {
	v := q.AsApproximateFloat64()
	if math.Abs(v) >= meaningless {
		return page.Number{}
	}
	return page.Num(v)
}

func hasCondition(h *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus) bool {
	return conditionIn(h, kind, status) != nil
}

func conditionIn(h *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus) *autoscalingv2.HorizontalPodAutoscalerCondition {
	for i := range h.Status.Conditions {
		if c := &h.Status.Conditions[i]; c.Type == kind && c.Status == status {
			return c
		}
	}
	return nil
}

// decisionOf is what the HPA decided last, and why, as a sentence.
func decisionOf(h *autoscalingv2.HorizontalPodAutoscaler) string {
	has, wants := h.Status.CurrentReplicas, h.Status.DesiredReplicas
	able := conditionIn(h, autoscalingv2.AbleToScale, corev1.ConditionFalse)
	inactive := conditionIn(h, autoscalingv2.ScalingActive, corev1.ConditionFalse)
	switch {
	case len(h.Status.Conditions) == 0:
		return ""
	case able != nil:
		return fmt.Sprintf("It cannot scale and stays at %d: %s.", has, able.Message)
	case inactive != nil && inactive.Reason == "ScalingDisabled":
		return "It is off: somebody has set the replicas to 0, and it leaves them there."
	case inactive != nil:
		return fmt.Sprintf("It holds %d: it cannot get its metric.", has)
	}
	switch {
	case wants > has:
		return fmt.Sprintf("It goes up from %d to %d%s.", has, wants, whyOf(h))
	case wants < has:
		return fmt.Sprintf("It goes down from %d to %d%s.", has, wants, whyOf(h))
	}
	return fmt.Sprintf(stayingOf(h), has) + whyOf(h) + "."
}

// stayingOf says why an HPA stays at the replicas that it has, %d: the condition that limits it
// tells more than the one that says how it came to its number.
func stayingOf(h *autoscalingv2.HorizontalPodAutoscaler) string {
	reason := ""
	if c := conditionIn(h, autoscalingv2.AbleToScale, corev1.ConditionTrue); c != nil {
		reason = c.Reason
	}
	if c := conditionIn(h, autoscalingv2.ScalingLimited, corev1.ConditionTrue); c != nil {
		reason = c.Reason
	}
	switch reason {
	case "TooManyReplicas":
		return "It would have more than %d, which is the most it may"
	case "TooFewReplicas":
		return "It would have fewer than %d, which is the least it may"
	case "ScaleUpLimit":
		return "It would have more than %d, and goes up no faster than it may"
	case "ScaleDownLimit":
		return "It would have fewer than %d, and goes down no faster than it may"
	case "ScaleDownStabilized":
		return "It keeps %d for now, which were needed a while ago"
	}
	return "%d is right"
}

// whyOf says by which metrics: those of which there is a number.
func whyOf(h *autoscalingv2.HorizontalPodAutoscaler) string {
	var each []string
	for _, m := range h.Spec.Metrics {
		t := targetIn(h, m)
		now, known := t.Current.Get()
		target, ok := t.Target.Get()
		if !known || !ok {
			continue
		}
		per := ""
		if t.Per != "" {
			per = " per " + t.Per
		}
		each = append(each, fmt.Sprintf("%s is %s%s, and %s is the target", t.Metric, rounded(now), per, rounded(target)))
	}
	if len(each) == 0 {
		return ""
	}
	return ": " + strings.Join(each, "; ")
}

// rounded has a tenth at most.
func rounded(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }
