package prometheus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are what the source counts of its calls. Servers are those of the
// configuration, so that no object can make series.
type counters struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

func newCounters() *counters {
	return &counters{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_prometheus_calls_total",
			Help: "Calls of the Prometheus API, by server, by endpoint (query or series) and by result (ok, rejected, throttled, denied, timeout or failed).",
		}, []string{"server", "endpoint", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidegauge_prometheus_call_duration_seconds",
			Help:    "How long calls of the Prometheus API took, with reading their answers, by server and by endpoint (query or series).",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 2.5, 10, 60},
		}, []string{"server", "endpoint"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_prometheus_received_bytes_total",
			Help: "Bytes read of the Prometheus API's answers, by server and by endpoint (query or series).",
		}, []string{"server", "endpoint"}),
	}
}

// call counts a call that ended with the failure, or well if that is nil.
func (c *counters) call(server string, e endpoint, took time.Duration, read int64, f *failure) {
	result := "ok"
	if f != nil {
		result = string(f.kind)
	}
	c.calls.WithLabelValues(server, string(e), result).Inc()
	c.duration.WithLabelValues(server, string(e)).Observe(took.Seconds())
	c.bytes.WithLabelValues(server, string(e)).Add(float64(read))
}

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	s.counters.calls.Describe(ch)
	s.counters.duration.Describe(ch)
	s.counters.bytes.Describe(ch)
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	s.counters.calls.Collect(ch)
	s.counters.duration.Collect(ch)
	s.counters.bytes.Collect(ch)
}
