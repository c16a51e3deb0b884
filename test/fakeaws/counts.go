package fakeaws

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// maxRecent is how many GetMetricData calls are remembered one by one.
const maxRecent = 1000

// Counts are what was asked of the server since it started or since ResetCounts.
// Operations are named like "cloudwatch.GetMetricData".
type Counts struct {
	// Calls are the calls by operation, those that failed included.
	Calls map[string]int `json:"calls"`
	// Errors are the calls that failed, by operation and error code.
	Errors map[string]map[string]int `json:"errors"`
	// CallsByCaller are the calls by caller and operation. A caller is the ARN of a
	// role or the ID of the static access key; unsigned calls have the caller "".
	CallsByCaller map[string]map[string]int `json:"callsByCaller"`
	// RolesAssumed are the credentials that were issued, by the ARN of the role.
	RolesAssumed map[string]int `json:"rolesAssumed"`
	// MetricsRequested is what the GetMetricData calls that succeeded would be
	// billed for: each metric of each call, and each metric that a Metrics Insights
	// query reads. See https://aws.amazon.com/cloudwatch/pricing/
	MetricsRequested int `json:"metricsRequested"`
	// MetricsRequestedByCaller is the same by caller.
	MetricsRequestedByCaller map[string]int `json:"metricsRequestedByCaller"`
	// GetMetricData are the last thousand of those calls, the oldest first.
	GetMetricData []GetMetricDataCall `json:"getMetricData"`
}

// GetMetricDataCall is the size of one GetMetricData call that succeeded.
type GetMetricDataCall struct {
	Time   time.Time `json:"time"`
	Caller string    `json:"caller"`
	Region string    `json:"region"`
	// Queries are the MetricDataQueries, and Metrics the metrics that are billed.
	Queries   int `json:"queries"`
	Metrics   int `json:"metrics"`
	BodyBytes int `json:"bodyBytes"`
	// Start and End are the window as it was asked for.
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Datapoints are those of the answer, and More says that it had a NextToken.
	Datapoints int  `json:"datapoints"`
	More       bool `json:"more"`
}

// counter counts for Counts.
type counter struct {
	mu     sync.Mutex
	counts Counts
}

func newCounter() *counter {
	c := &counter{}
	c.reset()
	return c
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = Counts{
		Calls:                    map[string]int{},
		Errors:                   map[string]map[string]int{},
		CallsByCaller:            map[string]map[string]int{},
		RolesAssumed:             map[string]int{},
		MetricsRequestedByCaller: map[string]int{},
	}
}

func (c *counter) snapshot() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.counts
	s.Calls = maps.Clone(s.Calls)
	s.Errors = cloneNested(s.Errors)
	s.CallsByCaller = cloneNested(s.CallsByCaller)
	s.RolesAssumed = maps.Clone(s.RolesAssumed)
	s.MetricsRequestedByCaller = maps.Clone(s.MetricsRequestedByCaller)
	s.GetMetricData = slices.Clone(s.GetMetricData)
	return s
}

func cloneNested(m map[string]map[string]int) map[string]map[string]int {
	clone := make(map[string]map[string]int, len(m))
	for key, inner := range m {
		clone[key] = maps.Clone(inner)
	}
	return clone
}

// called counts a call that is about to be answered; code is empty if it succeeded.
func (c *counter) called(call *call, code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Calls[call.name()]++
	addNested(c.counts.CallsByCaller, call.caller.name(), call.name())
	if code != "" {
		addNested(c.counts.Errors, call.name(), code)
	}
}

func addNested(m map[string]map[string]int, outer, inner string) {
	if m[outer] == nil {
		m[outer] = map[string]int{}
	}
	m[outer][inner]++
}

func (c *counter) assumed(role string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.RolesAssumed[role]++
}

func (c *counter) gotMetricData(call GetMetricDataCall) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.MetricsRequested += call.Metrics
	c.counts.MetricsRequestedByCaller[call.Caller] += call.Metrics
	if len(c.counts.GetMetricData) == maxRecent {
		c.counts.GetMetricData = slices.Delete(c.counts.GetMetricData, 0, 1)
	}
	c.counts.GetMetricData = append(c.counts.GetMetricData, call)
}

// Counts returns what was asked so far. A call is counted before it is answered.
func (s *Server) Counts() Counts { return s.counts.snapshot() }

// ResetCounts starts counting at zero.
func (s *Server) ResetCounts() { s.counts.reset() }
