package catalog

import (
	"errors"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// RuleTrouble is a rule whose series cannot be listed, or that names a resource which the
// API server does not have.
type RuleTrouble struct {
	// Rule is the rule's ID, and Where its place in the file.
	Rule, Where string
	// Server is the server whose series cannot be listed; empty for a resource.
	Server string
	// Since is when that began.
	Since time.Time
	// Known says that what was listed before still counts.
	Known bool
	// Err is why, in the server's own words if it said anything.
	Err error
}

// Troubles are the rules whose last listing failed and then those that name a resource
// which the API server does not have, both in the order of the file.
func (d *Discovery) Troubles() []RuleTrouble {
	d.mu.Lock()
	defer d.mu.Unlock()
	var troubles []RuleTrouble
	for r := range allRules(d.set) {
		if l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]; l.err != nil {
			troubles = append(troubles, RuleTrouble{
				Rule: r.ID, Where: r.Where, Server: r.Server, Since: l.since, Known: !l.success.IsZero(), Err: l.err,
			})
		}
	}
	for r, u := range d.allUnmapped() {
		troubles = append(troubles, RuleTrouble{
			Rule: r.ID, Where: r.Where, Since: d.lacking[lack{r.ID, u}], Known: true, Err: errors.New(u.String()),
		})
	}
	return troubles
}

// allUnmapped are the overrides of rules whose resources the API server does not have, as
// of when the resources were last read.
func (d *Discovery) allUnmapped() iter.Seq2[*rules.Compiled, rules.Unmapped] {
	return func(yield func(*rules.Compiled, rules.Unmapped) bool) {
		for r := range allRules(d.set) {
			m := d.queries[seriesQuery{r.Server, r.SeriesQuery}].made[r]
			if m == nil {
				continue
			}
			for _, u := range m.unmapped {
				if !yield(r, u) {
					return
				}
			}
		}
	}
}

// noteUnmapped takes in which resources of rules the API server does not have, and logs
// what has changed.
func (d *Discovery) noteUnmapped() {
	now := map[lack]time.Time{}
	for r, u := range d.allUnmapped() {
		key := lack{r.ID, u}
		since, known := d.lacking[key]
		if !known {
			since = time.Now()
			d.log.Info("A rule makes no metrics of a resource that it names", "rule", r.ID, "where", r.Where, "cause", u.String())
		}
		now[key] = since
	}
	for key := range d.lacking {
		if _, still := now[key]; !still {
			d.log.Info("A rule names this resource no more, or the API server has it now", "rule", key.rule, "label", key.Label, "resource", key.Resource)
		}
	}
	d.lacking = now
}

// Discovery is a prometheus.Collector of its self-metrics.
var _ prometheus.Collector = (*Discovery)(nil)

var (
	listingsDesc = prometheus.NewDesc("tidegauge_discovery_listings_total",
		"Listings of the series of a rule, by result: ok or failed. Rules that ask the same share listings.",
		[]string{"rule", "server", "result"}, nil)
	lastListingDesc = prometheus.NewDesc("tidegauge_discovery_last_success_timestamp_seconds",
		"When the series of a rule were last listed; 0 if they never were.",
		[]string{"rule", "server"}, nil)
	listedSeriesDesc = prometheus.NewDesc("tidegauge_discovery_series",
		"Series that the last good listing for a rule had.",
		[]string{"rule", "server"}, nil)
	knownMetricsDesc = prometheus.NewDesc("tidegauge_discovery_metrics",
		"Metrics that a rule makes, those included that a later rule of the same names wins.",
		[]string{"rule", "server"}, nil)
)

// Describe is for the registry.
func (*Discovery) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{listingsDesc, lastListingDesc, listedSeriesDesc, knownMetricsDesc} {
		ch <- desc
	}
}

// Collect is for the registry.
func (d *Discovery) Collect(ch chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for r := range allRules(d.set) {
		l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]
		send := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(desc, kind, v, append([]string{r.ID, r.Server}, labels...)...)
		}
		send(listingsDesc, prometheus.CounterValue, float64(l.succeeded), "ok")
		send(listingsDesc, prometheus.CounterValue, float64(l.failed), "failed")
		last := 0.0
		if !l.success.IsZero() {
			last = float64(l.success.UnixMilli()) / 1000
		}
		send(lastListingDesc, prometheus.GaugeValue, last)
		send(listedSeriesDesc, prometheus.GaugeValue, float64(l.inventory.series))
		metrics := 0
		if m := l.made[r]; m != nil {
			metrics = len(m.custom) + len(m.external)
		}
		send(knownMetricsDesc, prometheus.GaugeValue, float64(metrics))
	}
}
