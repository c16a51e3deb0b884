package catalog

import (
	"fmt"
	"time"

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

// Defaults are what holds for ExternalMetrics that do not say, and what they may say.
type Defaults struct {
	// Source is the name of the source that answers ExternalMetrics.
	Source string
	// MaxAge is how long the last good value serves.
	MaxAge time.Duration
	// NoDataIsZero says that no datapoint means 0.
	NoDataIsZero bool
	// Roles are the IAM roles that they may name, but for those of OwnNamespace: they may
	// name any. That is the adapter's; empty if it has none.
	Roles        cloudwatch.Roles
	OwnNamespace string
}

// newMetric is the metric of a definition. A definition that cannot be asked, such as one
// stored before the schema knew a rule, or may not be, gives a metric whose Err says why.
func newMetric(d *definition, defaults Defaults) *Metric {
	m := &Metric{Name: nameOf(d), of: d, Err: d.err}
	if m.Err != nil {
		return m
	}
	if m.Err = defaults.mayAsk(d); m.Err != nil {
		return m
	}
	zero, err := noDataIsZero(d, defaults)
	if err != nil {
		m.Err = err
		return m
	}
	if zero {
		m.Zeros = d.query.Returned()
	}
	m.Request = engine.Request{Source: defaults.Source, Query: d.query}
	m.Request.Interval, m.Request.MaxAge = timesOf(d, defaults)
	return m
}

// refusedMetric is the metric of a definition beyond the ceiling.
func refusedMetric(d *definition) *Metric { return &Metric{Name: nameOf(d), of: d, Err: errTooMany} }

func noDataIsZero(d *definition, defaults Defaults) (bool, error) {
	policy, where := d.noData, "spec.noData"
	if policy == "" {
		policy, where = d.annotation, "annotation "+metricsaws.AnnotationNoData
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
func timesOf(d *definition, defaults Defaults) (interval, maxAge time.Duration) {
	interval, maxAge = d.period, defaults.MaxAge
	switch {
	case d.interval != nil && d.maxAge != nil:
		return d.interval.Duration, d.maxAge.Duration
	case d.interval != nil:
		return d.interval.Duration, max(maxAge, agesPerInterval*d.interval.Duration)
	case d.maxAge != nil:
		maxAge = d.maxAge.Duration
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
