package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
)

const (
	// memoryEvery is how often to look at what memory is in use: two files that stay open,
	// which takes some microseconds.
	memoryEvery = 250 * time.Millisecond
	// nearLimit is the part of the limit from which on something is done.
	nearLimit = 0.95
	// heldBelow is the part of it that Go is told to stay below once it has come near.
	heldBelow = 0.93
	// collectAgain is the least time between two collections, and stopAgain between two
	// that made no room, and two questions whether to stop.
	collectAgain = 2 * time.Second
	stopAgain    = 5 * time.Second
	// unreadyLimit is how long to wait for the kubelet to find that the replica is not ready,
	// and unreadyEvery how often to look.
	unreadyLimit = time.Minute
	unreadyEvery = time.Second
	// sayAgain is the least time between two lines that say the same.
	sayAgain = 10 * time.Minute
)

func (u memoryUse) near() bool { return float64(u.used) > nearLimit*float64(u.limit) }

// nearLimitError ends a process before the kernel does.
type nearLimitError struct {
	use  memoryUse
	held string
}

func (e *nearLimitError) Error() string {
	return fmt.Sprintf("memory: %s of the container's limit of %s are in use (%s): stopped before the kernel kills it, while another replica answers; "+
		"raise the container's memory limit, resources.limits.memory of the chart, see docs/troubleshooting.md", mebibytes(e.use.used), mebibytes(e.use.limit), e.held)
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// memoryWatch stops the process in good time when its memory comes near the limit of its
// control group. The kernel would kill it: for the second until the kubelet notices the API
// server goes on calling it, and does not try another replica.
type memoryWatch struct {
	group *memoryGroup // nil if there is none
	look  func(context.Context) (standing, error)
	held  func() string
	free  func()
	// bounded says that somebody has set Go's own bound, and knows better.
	bounded bool
	started time.Time
	leaving atomic.Bool
	nears   *prometheus.CounterVec

	// Run alone uses what follows.
	limit uint64    // at the last look
	full  time.Time // since when collections make no room; zero if they do
	next  time.Time // when something may be done again
	said  string
	saidT time.Time
}

func newMemoryWatch(group *memoryGroup, look func(context.Context) (standing, error), collectors ...prometheus.Collector) *memoryWatch {
	return &memoryWatch{
		group: group, look: look, held: func() string { return holding(collectors) }, free: debug.FreeOSMemory,
		bounded: os.Getenv("GOMEMLIMIT") != "", started: time.Now(),
		nears: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_memory_near_limit_total",
			Help: "Times that the memory in use came within 5% of the container's limit, by result: freed (collecting garbage made room) or " +
				"full (it did not: the process stops if another replica is ready, or the kernel may kill it).",
		}, []string{"result"}),
	}
}

// Describe implements prometheus.Collector.
func (m *memoryWatch) Describe(ch chan<- *prometheus.Desc) { m.nears.Describe(ch) }

// Collect implements prometheus.Collector.
func (m *memoryWatch) Collect(ch chan<- prometheus.Metric) { m.nears.Collect(ch) }

// check is one of readyz.
func (m *memoryWatch) check(*http.Request) error {
	if m.leaving.Load() {
		return errors.New("memory is near the limit, and the process is about to stop")
	}
	return nil
}

// run calls stop with a nearLimitError if the process has to end, once nobody is led to it
// any more but by what the API server has not heard yet. It ends when ctx is done.
func (m *memoryWatch) run(ctx context.Context, stop func(error)) error {
	if m.group == nil {
		return nil
	}
	defer m.group.close()
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := m.tick(ctx); err != nil {
				stop(err)
				<-ctx.Done()
				return nil
			}
		}
	}
}

// tick returns why the process has to stop, if it has to.
func (m *memoryWatch) tick(ctx context.Context) error {
	use, ok := m.group.read()
	if ok && use.limit != m.limit {
		m.limit, m.next = use.limit, time.Time{}
		m.bound(math.MaxInt64)
	}
	now := time.Now()
	if !ok || !use.near() {
		m.full = time.Time{}
		return nil
	}
	if now.Before(m.next) {
		return nil
	}
	m.free()
	if use, ok = m.group.read(); !ok {
		return nil
	}
	m.bound(room(use))
	if !use.near() {
		m.nears.WithLabelValues("freed").Inc()
		m.full, m.next = time.Time{}, now.Add(collectAgain)
		return nil
	}
	if m.full.IsZero() {
		m.nears.WithLabelValues("full").Inc()
		m.full = now
	}
	m.next = now.Add(stopAgain)
	return m.leave(ctx, &nearLimitError{use, m.held()})
}

// room is how many bytes more Go may take so that it collects by itself before the use is
// near the limit again, or at the limit if it is near already.
func room(use memoryUse) int64 {
	if most := uint64(heldBelow * float64(use.limit)); use.used < most {
		return int64(most - use.used) //nolint:gosec // Limits beyond half of it count as none.
	}
	return int64(use.limit-min(use.used, use.limit)) / 2 //nolint:gosec // The same.
}

// bound tells Go how many bytes more it may take. It is no more than a wish: Go does not
// collect for more than half of the time.
func (m *memoryWatch) bound(more int64) {
	if m.bounded {
		return
	}
	if more == math.MaxInt64 {
		debug.SetMemoryLimit(math.MaxInt64)
		return
	}
	debug.SetMemoryLimit(goMemory("/memory/classes/total:bytes") - goMemory("/memory/classes/heap/released:bytes") + more)
}

// leave turns the replica not ready and returns the error once the API server knows, if it
// is the better for readers.
func (m *memoryWatch) leave(ctx context.Context, full *nearLimitError) error {
	s, err := m.look(ctx)
	now := time.Now()
	var why string
	if err != nil {
		why = "it is not known whether another replica is ready: " + err.Error()
	} else {
		why = s.reasonToStay(now.Sub(m.started), now.Sub(m.full))
	}
	logger := klog.FromContext(ctx).WithValues("used", mebibytes(full.use.used), "limit", mebibytes(full.use.limit), "held", full.held)
	if why != "" {
		if why != m.said || now.Sub(m.saidT) > sayAgain {
			m.said, m.saidT = why, now
			logger.Error(nil, "Memory is near the container's limit, and the kernel may kill the process: raise resources.limits.memory", "noStop", why)
		}
		return nil
	}
	logger.Error(nil, "Memory is near the container's limit: stopping before the kernel kills the process; raise resources.limits.memory", "otherReplicas", s.others)
	m.leaving.Store(true)
	if m.awaitUnready(ctx) {
		return full
	}
	if ctx.Err() == nil {
		logger.Error(nil, "The pod is still ready: has its container a readinessProbe of /readyz? Going on, as a stop would lose reads")
		m.next = time.Now().Add(sayAgain)
	}
	m.leaving.Store(false)
	return nil
}

// awaitUnready says whether the API server knows that the pod is not ready.
func (m *memoryWatch) awaitUnready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, unreadyLimit)
	defer cancel()
	for {
		if s, err := m.look(ctx); err == nil && !s.ready {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(unreadyEvery):
		}
	}
}

// goMemory is a value of runtime/metrics.
func goMemory(name string) int64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return int64(min(s[0].Value.Uint64(), math.MaxInt64))
}

// heldCounts are the self-metrics that say what memory is held for.
var heldCounts = []struct{ name, text string }{
	{"tidegauge_queries_in_demand", "queries"},
	{"tidegauge_external_metrics", "ExternalMetrics"},
	{"tidegauge_discovery_series", "series of rules"},
	{"tidegauge_discovery_metrics", "metrics of rules"},
}

// holding says what holds memory.
func holding(collectors []prometheus.Collector) string {
	sums := map[string]float64{}
	registry := prometheus.NewRegistry()
	for _, c := range collectors {
		if err := registry.Register(c); err != nil {
			continue
		}
	}
	families, _ := registry.Gather() // What could be collected is there all the same.
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			sums[f.GetName()] += metric.GetGauge().GetValue()
		}
	}
	texts := []string{
		"heap " + mebibytes(uint64(goMemory("/memory/classes/heap/objects:bytes"))),                                               //nolint:gosec // Never negative.
		"stacks " + mebibytes(uint64(goMemory("/memory/classes/heap/stacks:bytes"))),                                              //nolint:gosec // The same.
		"all of Go " + mebibytes(uint64(goMemory("/memory/classes/total:bytes")-goMemory("/memory/classes/heap/released:bytes"))), //nolint:gosec // The same.
	}
	for _, c := range heldCounts {
		texts = append(texts, fmt.Sprintf("%.0f %s", sums[c.name], c.text))
	}
	return strings.Join(texts, ", ")
}
