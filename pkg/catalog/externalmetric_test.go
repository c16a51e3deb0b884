package catalog

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

var defaults = Defaults{Source: "cloudwatch", MaxAge: 5 * time.Minute}

func queueDepth(period int32) metricsaws.ExternalMetricSpec {
	return metricsaws.ExternalMetricSpec{Queries: []metricsaws.MetricDataQuery{{
		ID: "depth",
		MetricStat: &metricsaws.MetricStat{
			Metric: metricsaws.Metric{
				Namespace: "AWS/SQS", MetricName: "ApproximateNumberOfMessagesVisible",
				Dimensions: []metricsaws.Dimension{{Name: "QueueName", Value: "jobs"}},
			},
			Period: period, Stat: "Average",
		},
	}}}
}

func seconds(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Second}
}

func TestTimes(t *testing.T) {
	for _, tc := range []struct {
		period           int32
		interval, maxAge *metav1.Duration
		want             string
	}{
		{period: 60, want: "1m0s 5m0s"},
		{period: 300, want: "1m0s 5m0s"},
		{period: 10, want: "10s 5m0s"},
		{period: 1, want: "5s 5m0s"},
		{period: 1, interval: seconds(2), want: "2s 5m0s"},
		{period: 60, interval: seconds(600), want: "10m0s 20m0s"},
		{period: 60, maxAge: seconds(30), want: "15s 30s"},
		{period: 60, maxAge: seconds(600), want: "1m0s 10m0s"},
		{period: 60, interval: seconds(5), maxAge: seconds(20), want: "5s 20s"},
	} {
		spec := queueDepth(tc.period)
		spec.Interval, spec.MaxAge = tc.interval, tc.maxAge
		m := newMetric(newRecord(&metricsaws.ExternalMetric{Spec: spec}, nil, nil).definition, defaults)
		if m.Err != nil {
			t.Fatal(m.Err)
		}
		if got := fmt.Sprint(m.Request.Interval, " ", m.Request.MaxAge); got != tc.want {
			t.Errorf("period %d, interval %v, maxAge %v: got %s, want %s", tc.period, tc.interval, tc.maxAge, got, tc.want)
		}
	}
}

func TestNoDataPolicy(t *testing.T) {
	for _, tc := range []struct {
		field      metricsaws.NoDataPolicy
		annotation string
		flag       bool
		want       string
	}{
		{want: "false <nil>"},
		{flag: true, want: "true <nil>"},
		{annotation: "zero", want: "true <nil>"},
		{annotation: "error", flag: true, want: "false <nil>"},
		{field: "zero", annotation: "error", want: "true <nil>"},
		{field: "error", annotation: "zero", flag: true, want: "false <nil>"},
		{annotation: "0", want: `false annotation tidegauge.dev/no-data: "0" is neither "error" nor "zero"`},
	} {
		object := &metricsaws.ExternalMetric{Spec: queueDepth(60)}
		object.Spec.NoData = tc.field
		object.Annotations = map[string]string{metricsaws.AnnotationNoData: tc.annotation}
		zero, err := noDataIsZero(newRecord(object, nil, nil).definition, Defaults{NoDataIsZero: tc.flag})
		if got := fmt.Sprint(zero, " ", err); got != tc.want {
			t.Errorf("field %q, annotation %q, flag %v: got %s, want %s", tc.field, tc.annotation, tc.flag, got, tc.want)
		}
	}
}

// TestStrangeObjects are objects that an older, permissive schema let in: each
// says what is wrong with it instead of keeping the others from being read.
func TestStrangeObjects(t *testing.T) {
	w := newBench(t).watcher
	for name, spec := range map[string]any{
		"no spec":             nil,
		"text as a period":    map[string]any{"queries": []any{map[string]any{"id": "a", "metricStat": map[string]any{"period": "60"}}}},
		"queries are a text":  map[string]any{"queries": "none"},
		"interval of no unit": map[string]any{"interval": "often"},
		"nothing returned":    map[string]any{"queries": []any{map[string]any{"id": "a", "expression": "1", "returnData": false}}},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := w.toRecord(&unstructured.Unstructured{Object: map[string]any{
				"metadata": map[string]any{"namespace": "shop", "name": "odd", "generation": int64(2)},
				"spec":     spec,
			}})
			if err != nil {
				t.Fatal(err)
			}
			m := newMetric(o.(*record).definition, defaults)
			if m.Err == nil || m.Name.String() != "shop/odd" {
				t.Errorf("got %+v", m)
			}
		})
	}
}
