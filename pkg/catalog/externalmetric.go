package catalog

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// Bounds of the interval that an ExternalMetric gets when it sets none. CloudWatch
// has a new datapoint of most metrics once a minute, and each asking is billed.
const (
	minDefaultInterval = 5 * time.Second
	maxDefaultInterval = time.Minute
	// agesPerInterval is how many intervals an answer lives at least.
	agesPerInterval = 2
)

// Defaults are what holds for ExternalMetrics that do not say.
type Defaults struct {
	// Source is the name of the source that answers ExternalMetrics.
	Source string
	// MaxAge is how long the last good value serves.
	MaxAge time.Duration
	// NoDataIsZero says that no datapoint means 0.
	NoDataIsZero bool
}

// fromExternalMetric is the metric that the object defines. An object that cannot
// be asked, such as one stored before the schema knew a rule, gives a metric
// whose Err says why.
func fromExternalMetric(object *metricsaws.ExternalMetric, defaults Defaults) *Metric {
	m := newMetric(object)
	q, err := cloudwatch.NewQuery(cloudwatch.Spec{
		Region:  object.Spec.Region,
		RoleARN: object.Spec.RoleARN,
		Queries: queriesOf(object.Spec.Queries),
	})
	if err != nil {
		m.Err = fmt.Errorf("spec.%w", err)
		return m
	}
	zero, err := noDataIsZero(object, defaults)
	if err != nil {
		m.Err = err
		return m
	}
	if zero {
		m.Zeros = zerosOf(object.Spec.Queries)
	}
	m.Request = engine.Request{Source: defaults.Source, Query: q}
	m.Request.Interval, m.Request.MaxAge = timesOf(object.Spec, defaults)
	return m
}

// newMetric is the metric of the object before anything is known of it.
func newMetric(object metav1.Object) *Metric {
	return &Metric{Name: nameOf(object), UID: object.GetUID(), Generation: object.GetGeneration()}
}

// zerosOf are the labels by which an HPA's selector can tell apart the series that
// the queries return.
func zerosOf(queries []metricsaws.MetricDataQuery) []map[string]string {
	var zeros []map[string]string
	for _, q := range queries {
		if q.ReturnData != nil && !*q.ReturnData {
			continue
		}
		labels := map[string]string{"id": q.ID}
		if q.Label != "" {
			labels["label"] = q.Label
		}
		zeros = append(zeros, labels)
	}
	return zeros
}

func noDataIsZero(object *metricsaws.ExternalMetric, defaults Defaults) (bool, error) {
	policy, where := object.Spec.NoData, "spec.noData"
	if policy == "" {
		policy, where = metricsaws.NoDataPolicy(object.Annotations[metricsaws.AnnotationNoData]), "annotation "+metricsaws.AnnotationNoData
	}
	switch policy {
	case "":
		return defaults.NoDataIsZero, nil
	case metricsaws.NoDataZero:
		return true, nil
	case metricsaws.NoDataError:
		return false, nil
	}
	return false, fmt.Errorf("%s: %q is neither %q nor %q", where, policy, metricsaws.NoDataError, metricsaws.NoDataZero)
}

// timesOf are the interval and the maximum age, of which the one that the object
// does not set leaves room for the other: an answer must live until the next one
// is there, even if an asking fails in between.
func timesOf(spec metricsaws.ExternalMetricSpec, defaults Defaults) (interval, maxAge time.Duration) {
	interval, maxAge = shortestPeriod(spec.Queries), defaults.MaxAge
	switch {
	case spec.Interval != nil && spec.MaxAge != nil:
		return spec.Interval.Duration, spec.MaxAge.Duration
	case spec.Interval != nil:
		return spec.Interval.Duration, max(maxAge, agesPerInterval*spec.Interval.Duration)
	case spec.MaxAge != nil:
		maxAge = spec.MaxAge.Duration
	}
	return min(interval, maxAge/agesPerInterval), maxAge
}

func shortestPeriod(queries []metricsaws.MetricDataQuery) time.Duration {
	shortest := maxDefaultInterval
	for _, q := range queries {
		period := q.Period
		if q.MetricStat != nil {
			period = &q.MetricStat.Period
		}
		if period != nil {
			shortest = min(shortest, time.Duration(*period)*time.Second)
		}
	}
	return max(shortest, minDefaultInterval)
}

func queriesOf(queries []metricsaws.MetricDataQuery) []cloudwatch.MetricDataQuery {
	out := make([]cloudwatch.MetricDataQuery, len(queries))
	for i, q := range queries {
		out[i] = cloudwatch.MetricDataQuery{
			ID:         q.ID,
			Expression: q.Expression,
			MetricStat: metricStatOf(q.MetricStat),
			Label:      q.Label,
			ReturnData: q.ReturnData,
		}
		if q.Period != nil {
			out[i].Period = *q.Period
		}
	}
	return out
}

func metricStatOf(m *metricsaws.MetricStat) *cloudwatch.MetricStat {
	if m == nil {
		return nil
	}
	out := &cloudwatch.MetricStat{
		Metric: cloudwatch.Metric{
			Namespace:  m.Metric.Namespace,
			MetricName: m.Metric.MetricName,
			Dimensions: make([]cloudwatch.Dimension, len(m.Metric.Dimensions)),
		},
		Period: m.Period,
		Stat:   m.Stat,
		Unit:   m.Unit,
	}
	for i, d := range m.Metric.Dimensions {
		out.Metric.Dimensions[i] = cloudwatch.Dimension(d)
	}
	return out
}
