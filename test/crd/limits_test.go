package crd

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// metric is a valid ExternalMetric.
func metric() *v1alpha1.ExternalMetric {
	return &v1alpha1.ExternalMetric{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ExternalMetric"},
		ObjectMeta: metav1.ObjectMeta{Name: "limits", Namespace: namespace},
		Spec:       v1alpha1.ExternalMetricSpec{Queries: queries(1)},
	}
}

func queries(n int) []v1alpha1.MetricDataQuery {
	all := make([]v1alpha1.MetricDataQuery, n)
	for i := range all {
		all[i] = v1alpha1.MetricDataQuery{ID: fmt.Sprintf("q%d", i), MetricStat: &v1alpha1.MetricStat{
			Metric: v1alpha1.Metric{Namespace: "AWS/SQS", MetricName: "NumberOfMessagesSent", Dimensions: dimensions(1)},
			Period: 60,
			Stat:   "Sum",
		}}
	}
	return all
}

func dimensions(n int) []v1alpha1.Dimension {
	all := make([]v1alpha1.Dimension, n)
	for i := range all {
		all[i] = v1alpha1.Dimension{Name: fmt.Sprintf("d%d", i), Value: "v"}
	}
	return all
}

func text(n int) string { return strings.Repeat("a", n) }

// A value of the limit is accepted; the next larger one is refused.
func TestLimits(t *testing.T) {
	client, _ := metrics(t)
	type query = v1alpha1.MetricDataQuery

	tests := []struct {
		name  string
		limit int
		set   func(spec *v1alpha1.ExternalMetricSpec, n int)
		want  string
	}{
		{
			"queries", 500,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries = queries(n) },
			"spec.queries: must have at most 500 items",
		},
		{
			"dimensions", 30,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0].MetricStat.Metric.Dimensions = dimensions(n) },
			"spec.queries[0].metricStat.metric.dimensions: must have at most 30 items",
		},
		{
			"dimension name", 255,
			func(s *v1alpha1.ExternalMetricSpec, n int) {
				s.Queries[0].MetricStat.Metric.Dimensions[0].Name = text(n)
			},
			"spec.queries[0].metricStat.metric.dimensions[0].name: may not be more than 255",
		},
		{
			"dimension value", 1024,
			func(s *v1alpha1.ExternalMetricSpec, n int) {
				s.Queries[0].MetricStat.Metric.Dimensions[0].Value = text(n)
			},
			"spec.queries[0].metricStat.metric.dimensions[0].value: may not be more than 1024",
		},
		{
			"metric name", 255,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0].MetricStat.Metric.MetricName = text(n) },
			"spec.queries[0].metricStat.metric.metricName: may not be more than 255",
		},
		{
			"metric namespace", 255,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0].MetricStat.Metric.Namespace = text(n) },
			"spec.queries[0].metricStat.metric.namespace: may not be more than 255",
		},
		{
			"id", 255,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0].ID = text(n) },
			"spec.queries[0].id: may not be more than 255",
		},
		{
			"label", 2048,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0].Label = text(n) },
			"spec.queries[0].label: may not be more than 2048",
		},
		{
			"expression", 2048,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Queries[0] = query{ID: "q", Expression: text(n)} },
			"spec.queries[0].expression: may not be more than 2048",
		},
		{
			"name", 1024,
			func(s *v1alpha1.ExternalMetricSpec, n int) { s.Name = text(n) },
			"spec.name: may not be more than 1024",
		},
		{
			"role", 2048,
			func(s *v1alpha1.ExternalMetricSpec, n int) {
				const arn, name = "arn:aws:iam::123456789012:role/", "/metrics-reader"
				s.RoleARN = arn + text(n-len(arn)-len(name)) + name
			},
			"spec.roleArn: may not be more than 2048",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := metric()
			test.set(&m.Spec, test.limit)
			if _, err := client.Create(t.Context(), toUnstructured(t, m), dryRun); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			test.set(&m.Spec, test.limit+1)
			_, err := client.Create(t.Context(), toUnstructured(t, m), dryRun)
			checkRefusal(t, err, test.want)
		})
	}
}
