package balancer

import (
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// responseBuckets are the upper bounds of Snapshot.ResponseTime, in seconds.
var responseBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Snapshot is what the balancer counted since its start, and how its targets are. Names in
// comments are those of AWS, see
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html.
type Snapshot struct {
	// Requests for which a target was chosen: RequestCount.
	Requests uint64
	// Balancer are the answers that the balancer made itself, by code: HTTPCode_ELB_502_Count
	// and so on. 460 is a client that went away before there was an answer.
	Balancer map[int]uint64
	// Target are the answers of targets, by code: HTTPCode_Target_2XX_Count and so on.
	Target map[int]uint64
	// ConnectionErrors are connections that were not made: TargetConnectionErrorCount.
	ConnectionErrors uint64
	// Cut are answers of targets, counted in Target, that ended before their end.
	Cut uint64
	// ResponseTime is from sending a request to the header of a target's answer: TargetResponseTime.
	ResponseTime ResponseTime
	Calls        Calls
	// Problem keeps the controller from its work, or is empty.
	Problem string
	Targets []Target
}

// ResponseTime is a histogram.
type ResponseTime struct {
	Count      uint64
	SumSeconds float64
	// Buckets are cumulative, by upper bound in seconds.
	Buckets map[float64]uint64
}

// Hosts is how many targets are in a state: HealthyHostCount and UnHealthyHostCount.
func (s Snapshot) Hosts(state State) int {
	n := 0
	for _, t := range s.Targets {
		if t.State == state {
			n++
		}
	}
	return n
}

// CloudWatch are the counts under the names that they have in the namespace
// AWS/ApplicationELB.
func (s Snapshot) CloudWatch() map[string]float64 {
	values := map[string]float64{
		"RequestCount":               float64(s.Requests),
		"TargetConnectionErrorCount": float64(s.ConnectionErrors),
		"HealthyHostCount":           float64(s.Hosts(Healthy)),
		"UnHealthyHostCount":         float64(s.Hosts(Unhealthy)),
	}
	for code, n := range s.Balancer {
		values["HTTPCode_ELB_"+strconv.Itoa(code/100)+"XX_Count"] += float64(n)
		if code >= 500 {
			values["HTTPCode_ELB_"+strconv.Itoa(code)+"_Count"] = float64(n)
		}
	}
	for code, n := range s.Target {
		values["HTTPCode_Target_"+strconv.Itoa(code/100)+"XX_Count"] += float64(n)
	}
	if s.ResponseTime.Count > 0 {
		values["TargetResponseTime"] = s.ResponseTime.SumSeconds / float64(s.ResponseTime.Count)
	}
	return values
}

// stats count. The codes are those that HTTP has, so the maps stay small.
type stats struct {
	mu      sync.Mutex
	counted Snapshot
	buckets []uint64 // as responseBuckets, not cumulative
}

func newStats() *stats {
	return &stats{
		counted: Snapshot{Balancer: map[int]uint64{}, Target: map[int]uint64{}},
		buckets: make([]uint64, len(responseBuckets)),
	}
}

func (s *stats) request()     { s.change(func(c *Snapshot) { c.Requests++ }) }
func (s *stats) own(code int) { s.change(func(c *Snapshot) { c.Balancer[code]++ }) }
func (s *stats) unconnected() { s.change(func(c *Snapshot) { c.ConnectionErrors++ }) }
func (s *stats) cut()         { s.change(func(c *Snapshot) { c.Cut++ }) }

func (s *stats) answered(code int, took time.Duration) {
	s.change(func(c *Snapshot) {
		c.Target[code]++
		c.ResponseTime.Count++
		c.ResponseTime.SumSeconds += took.Seconds()
		for i, bound := range responseBuckets {
			if took.Seconds() <= bound {
				s.buckets[i]++
				return
			}
		}
	})
}

func (s *stats) change(f func(*Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counted)
}

func (s *stats) snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counted
	c.Balancer, c.Target = maps.Clone(c.Balancer), maps.Clone(c.Target)
	c.ResponseTime.Buckets = map[float64]uint64{}
	var sum uint64
	for i, bound := range responseBuckets {
		sum += s.buckets[i]
		c.ResponseTime.Buckets[bound] = sum
	}
	return c
}

var (
	requestsDesc   = describe("requests_total", "Requests for which a target was chosen (RequestCount).")
	ownDesc        = describe("elb_responses_total", "Answers that the balancer made itself (HTTPCode_ELB_*_Count).", "code")
	targetDesc     = describe("target_responses_total", "Answers of targets (HTTPCode_Target_*_Count).", "code")
	cutDesc        = describe("target_responses_cut_total", "Answers of targets that ended before their end.")
	connectionDesc = describe("target_connection_errors_total", "Connections to targets that were not made (TargetConnectionErrorCount).")
	responseDesc   = describe("target_response_seconds", "Time from a request to the header of its answer (TargetResponseTime).")
	hostsDesc      = describe("targets", "Targets by state (HealthyHostCount, UnHealthyHostCount).", "state")
	callsDesc      = describe("calls_total", "Calls of RegisterTargets and DeregisterTargets, and those that were throttled.", "call")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("balancer_"+name, help, labels, nil)
}

// Describe is for Prometheus.
func (b *Balancer) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		requestsDesc, ownDesc, targetDesc, cutDesc, connectionDesc, responseDesc, hostsDesc, callsDesc,
	} {
		to <- d
	}
}

// Collect is for Prometheus.
func (b *Balancer) Collect(to chan<- prometheus.Metric) {
	s := b.Snapshot()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	count(requestsDesc, s.Requests)
	count(cutDesc, s.Cut)
	count(connectionDesc, s.ConnectionErrors)
	count(callsDesc, s.Calls.Register, "register")
	count(callsDesc, s.Calls.Deregister, "deregister")
	count(callsDesc, s.Calls.Throttled, "throttled")
	for code, n := range s.Balancer {
		count(ownDesc, n, strconv.Itoa(code))
	}
	for code, n := range s.Target {
		count(targetDesc, n, strconv.Itoa(code))
	}
	for _, state := range []State{Initial, Healthy, Unhealthy, Draining} {
		to <- prometheus.MustNewConstMetric(hostsDesc, prometheus.GaugeValue, float64(s.Hosts(state)), string(state))
	}
	to <- prometheus.MustNewConstHistogram(responseDesc, s.ResponseTime.Count, s.ResponseTime.SumSeconds, s.ResponseTime.Buckets)
}
