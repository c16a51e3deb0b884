package demo

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// see writes what an object of the demo's namespace, as it is now, says about the two tiers and
// the workers' HPA to the board.
func (d *demo) see(object any) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		d.seeReplicas(o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		if o.Name != workerName {
			return
		}
		d.board.update(func(s *snapshot) { s.hpa.average, s.hpa.condition = averageOf(o), conditionOf(o) })
	case *corev1.Event:
		if o.InvolvedObject.Kind == "HorizontalPodAutoscaler" {
			d.seeEvent(o)
		}
	}
}

// rescaled is the reason of an HPA's Event when it changed the replicas.
const rescaled = "SuccessfulRescale"

// messageOf is what an Event says, without what client-go's recorder puts before the message
// of each one after the tenth of its kind.
func messageOf(o *corev1.Event) string {
	return strings.TrimPrefix(o.Message, "(combined from similar events): ")
}

func (d *demo) seeEvent(o *corev1.Event) {
	switch text := o.Reason + ": " + messageOf(o); {
	case o.InvolvedObject.Name == workerName:
		at := d.board.elapsed()
		d.board.update(func(s *snapshot) { s.hpa.event, s.hpa.eventAt = text, at })
	case o.InvolvedObject.Name == webName && o.Reason == rescaled:
		d.board.step("HPA of web: " + text)
	}
}

func (d *demo) seeReplicas(o *appsv1.Deployment) {
	now := workers{known: true, running: int(o.Status.Replicas), ready: int(o.Status.ReadyReplicas)}
	if o.Spec.Replicas != nil {
		now.desired = int(*o.Spec.Replicas)
	}
	switch o.Name {
	case webName:
		d.board.update(func(s *snapshot) { s.web = now })
		return
	case workerName:
	default:
		return
	}
	if err := d.course.moved(now.desired); err != nil {
		d.fail(err)
	}
	d.board.update(func(s *snapshot) { s.workers = now })
}

// meaningless is an average, in messages per worker, beyond every real one.
const meaningless = math.MaxInt64 / 1000

// averageOf is the average that the HPA saw last, to a tenth. The HPA divides by the
// running workers even where there are none; what comes of it depends on the
// processor, is at one end of the numbers and is left out.
func averageOf(o *autoscalingv2.HorizontalPodAutoscaler) string {
	for _, m := range o.Status.CurrentMetrics {
		if m.External == nil || m.External.Current.AverageValue == nil {
			continue
		}
		average := m.External.Current.AverageValue.AsApproximateFloat64()
		if average < 0 || average >= meaningless {
			return ""
		}
		return strconv.FormatFloat(math.Round(average*10)/10, 'f', -1, 64)
	}
	return ""
}

// conditionOf is the condition that says most: why the HPA cannot work, or else
// what limits it, or else what it works by.
func conditionOf(o *autoscalingv2.HorizontalPodAutoscaler) string {
	for _, want := range []struct {
		kind   autoscalingv2.HorizontalPodAutoscalerConditionType
		status corev1.ConditionStatus
	}{
		{autoscalingv2.AbleToScale, corev1.ConditionFalse},
		{autoscalingv2.ScalingActive, corev1.ConditionFalse},
		{autoscalingv2.ScalingLimited, corev1.ConditionTrue},
		{autoscalingv2.ScalingActive, corev1.ConditionTrue},
	} {
		for _, c := range o.Status.Conditions {
			if c.Type == want.kind && c.Status == want.status {
				return fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
	return ""
}
