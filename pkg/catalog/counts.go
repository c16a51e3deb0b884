package catalog

import "github.com/prometheus/client_golang/prometheus"

// Catalog is a prometheus.Collector of what is in it.
var _ prometheus.Collector = (*Catalog)(nil)

var (
	unknownDesc = prometheus.NewDesc("tidegauge_hpa_unknown_metrics",
		"Metrics that HPAs name and that nobody defines, each counted once for an HPA, by API: external, custom or resource. "+
			"The log and Events of the HPAs name them. An API is absent until it is certain which metrics it has, and has 0 while another adapter serves it.",
		[]string{"api"}, nil)
	definitionsDesc = prometheus.NewDesc("tidegauge_external_metrics",
		"ExternalMetrics, by state: defined (they can be asked), invalid (they cannot; the condition Ready says why), "+
			"refused (there are too many).",
		[]string{"state"}, nil)
	deferredDesc = prometheus.NewDesc("tidegauge_hpa_metrics_deferred",
		"Metrics of HPAs by an object or a selector that are asked only once they are read, because HPAs name too many.", nil, nil)
)

// Describe is for the registry.
func (*Catalog) Describe(ch chan<- *prometheus.Desc) {
	ch <- unknownDesc
	ch <- definitionsDesc
	ch <- deferredDesc
}

// Collect is for the registry.
func (c *Catalog) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), labels...)
	}
	if u := c.undefined.Load(); u != nil {
		for a, n := range u.counts {
			gauge(unknownDesc, n, string(a))
		}
	}
	s := c.load().objects
	gauge(definitionsDesc, s.definitions.served, "defined")
	gauge(definitionsDesc, s.definitions.invalid, "invalid")
	gauge(definitionsDesc, s.definitions.refused, "refused")
	gauge(deferredDesc, s.deferred)
}
