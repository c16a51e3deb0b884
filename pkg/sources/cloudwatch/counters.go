package cloudwatch

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are what the source counts of its calls. Pages of one answer count as
// calls of their own, as they do for AWS; retries of the SDK do not.
type counters struct {
	calls   *prometheus.CounterVec
	metrics *prometheus.CounterVec
	dollars *prometheus.CounterVec
	queries *prometheus.HistogramVec

	mu sync.Mutex
	// regions are those that have counts of their own.
	regions map[string]bool
}

const (
	// maxRegions is more than AWS has regions.
	maxRegions = 64
	// otherRegion stands for the regions without counts of their own.
	otherRegion = "other"

	// price is what AWS charges for one metric that GetMetricData requests, in US dollars:
	// $0.01 for 1,000 (https://aws.amazon.com/cloudwatch/pricing/).
	price = 0.01 / 1000
)

// Dollars is what asking the query costs, in US dollars, without the metrics that its
// searches find and its Metrics Insights queries look at, of which only AWS knows the
// number.
func (q *Query) Dollars() float64 { return float64(q.metrics()) * price }

// newCounters counts for the default region from the start, and for others once
// AWS has answered there.
func newCounters(region string) *counters {
	return &counters{
		regions: map[string]bool{region: true},
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_cloudwatch_calls_total",
			Help: "GetMetricData calls, by result (ok, rejected, throttled, denied, timeout or failed) and by region; other stands for regions where nobody has answered yet.",
		}, []string{"region", "result"}),
		metrics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_cloudwatch_metrics_requested_total",
			Help: "Metrics requested by GetMetricData calls, which is what AWS bills, without those that searches find.",
		}, []string{"region"}),
		dollars: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_cloudwatch_dollars_total",
			Help: "US dollars that GetMetricData calls cost, at $0.01 for 1,000 metrics requested: at most, as AWS may not bill calls that fail, and without what searches and Metrics Insights queries find.",
		}, []string{"region"}),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidegauge_cloudwatch_call_queries",
			Help:    "Metrics and expressions in a GetMetricData call, of which 500 fit.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500},
		}, []string{"region"}),
	}
}

// call counts a call that ended with err, or well if that is nil.
func (c *counters) call(a attempt, err error) {
	result := "ok"
	if err != nil {
		result = string(classify(err))
	}
	region := c.region(a.key.region, err)
	c.calls.WithLabelValues(region, result).Inc()
	c.metrics.WithLabelValues(region).Add(float64(a.metrics()))
	c.dollars.WithLabelValues(region).Add(float64(a.metrics()) * price)
	c.queries.WithLabelValues(region).Observe(float64(a.load.queries))
}

// region is the label for a call to that region, which ended with err. Regions are
// what users write into their objects, so that not each of them may become a series.
func (c *counters) region(name string, err error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regions[name] {
		return name
	}
	answered := err == nil || errorCode(err) != "" && !credentialsFailed(err)
	if !answered || len(c.regions) >= maxRegions {
		return otherRegion
	}
	c.regions[name] = true
	return name
}

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	s.counters.calls.Describe(ch)
	s.counters.metrics.Describe(ch)
	s.counters.dollars.Describe(ch)
	s.counters.queries.Describe(ch)
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	s.counters.calls.Collect(ch)
	s.counters.metrics.Collect(ch)
	s.counters.dollars.Collect(ch)
	s.counters.queries.Collect(ch)
}
