package cloudwatch

import "github.com/prometheus/client_golang/prometheus"

// counters are what the source counts of its calls. Pages of one answer count as
// calls of their own, as they do for AWS; retries of the SDK do not.
type counters struct {
	calls   *prometheus.CounterVec
	metrics *prometheus.CounterVec
	queries *prometheus.HistogramVec
}

func newCounters() *counters {
	return &counters{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_cloudwatch_calls_total",
			Help: "GetMetricData calls, by region and by result: ok, rejected, throttled, denied, timeout or failed.",
		}, []string{"region", "result"}),
		metrics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_cloudwatch_metrics_requested_total",
			Help: "Metrics requested by GetMetricData calls, which is what AWS bills, without those that searches find.",
		}, []string{"region"}),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidegauge_cloudwatch_call_queries",
			Help:    "Metrics and expressions in a GetMetricData call, of which 500 fit.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500},
		}, []string{"region"}),
	}
}

func (c *counters) call(a attempt, result string) {
	c.calls.WithLabelValues(a.key.region, result).Inc()
	c.metrics.WithLabelValues(a.key.region).Add(float64(a.metrics()))
	c.queries.WithLabelValues(a.key.region).Observe(float64(a.load.queries))
}

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	s.counters.calls.Describe(ch)
	s.counters.metrics.Describe(ch)
	s.counters.queries.Describe(ch)
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	s.counters.calls.Collect(ch)
	s.counters.metrics.Collect(ch)
	s.counters.queries.Collect(ch)
}
