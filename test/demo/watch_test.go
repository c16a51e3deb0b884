package demo

import (
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestAverageOf(t *testing.T) {
	for quantity, want := range map[string]string{
		"":                      "",
		"0":                     "0",
		"33":                    "33",
		"246250m":               "246.3",
		"-9223372036854775808m": "",
		"9223372036854775807m":  "",
	} {
		var o autoscalingv2.HorizontalPodAutoscaler
		if quantity != "" {
			o.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{External: &autoscalingv2.ExternalMetricStatus{
				Current: autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse(quantity))},
			}}}
		}
		if got := averageOf(&o); got != want {
			t.Errorf("%s: got %q, want %q", quantity, got, want)
		}
	}
}

func TestConditionOf(t *testing.T) {
	condition := func(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus) autoscalingv2.HorizontalPodAutoscalerCondition {
		return autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind, Status: status, Reason: "Reason", Message: "words"}
	}
	able := condition(autoscalingv2.AbleToScale, corev1.ConditionTrue)
	active := condition(autoscalingv2.ScalingActive, corev1.ConditionTrue)
	for want, conditions := range map[string][]autoscalingv2.HorizontalPodAutoscalerCondition{
		"": {able},
		"ScalingActive True Reason: words": {
			able, active, condition(autoscalingv2.ScalingLimited, corev1.ConditionFalse),
		},
		"ScalingLimited True Reason: words": {able, active, condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue)},
		"ScalingActive False Reason: words": {
			able, condition(autoscalingv2.ScalingActive, corev1.ConditionFalse),
			condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue),
		},
		"AbleToScale False Reason: words": {condition(autoscalingv2.AbleToScale, corev1.ConditionFalse), active},
	} {
		o := autoscalingv2.HorizontalPodAutoscaler{Status: autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: conditions}}
		if got := conditionOf(&o); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestParseReads(t *testing.T) {
	reads, waited, err := parseReads(strings.NewReader(`# HELP tidegauge_reads_total Reads.
# TYPE tidegauge_reads_total counter
tidegauge_reads_total{result="fresh",source="cloudwatch"} 20
tidegauge_reads_total{result="nodata",source="cloudwatch"} 3
tidegauge_reads_total{result="waited",source="cloudwatch"} 1
# TYPE other counter
other{result="waited"} 7
`))
	if err != nil || reads != 24 || waited != 1 {
		t.Errorf("got %d reads of which %d waited and the error %v, want 24, 1 and none", reads, waited, err)
	}
	if _, _, err := parseReads(strings.NewReader("a{")); err == nil {
		t.Error("an answer that is no metrics gives no error")
	}
}
