package catalog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RuleTrouble is a rule whose series cannot be listed.
type RuleTrouble struct {
	// Rule is the rule's ID, and Where its place in the file.
	Rule, Where string
	Server      string
	// Since is when that began.
	Since time.Time
	// Known says that what was listed before still counts.
	Known bool
	// Err is why, in the server's own words if it said anything.
	Err error
}

// Troubles are the rules whose last listing failed, in the order of the file.
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
	return troubles
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
