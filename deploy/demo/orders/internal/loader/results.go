package loader

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/metrics"
)

// Why a request was not started.
const (
	tooMany = "in_flight" // --in-flight were
	tooLate = "late"      // the loader itself could not keep up
)

// recent is the time over which the achieved rate is taken, in seconds.
const recent = 10

// results are what came of the requests.
type results struct {
	publish *metrics.Publisher

	mu          sync.Mutex
	codes       map[string]int
	reasons     map[string]int
	skipped     map[string]int
	connections int
	repeated    int
	latency     latencies
	started     int
	// seconds are the requests started in each of the last seconds, which newest ends.
	seconds [recent + 1]int
	newest  int64

	responses *prometheus.CounterVec
	noAnswer  *prometheus.CounterVec
	skips     *prometheus.CounterVec
	requests  prometheus.Counter
	opened    prometheus.Counter
	repeats   prometheus.Counter
	inFlight  prometheus.Gauge
	durations prometheus.Histogram
}

func newResults(r *prometheus.Registry, publish *metrics.Publisher) *results {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	res := &results{
		publish:   publish,
		codes:     map[string]int{},
		reasons:   map[string]int{},
		skipped:   map[string]int{},
		responses: vector("loader_responses_total", "Requests that ended, by status code; 0 had no answer, or not all of it.", "code"),
		noAnswer:  vector("loader_no_answer_total", "Requests without an answer, by the reason.", "reason"),
		skips:     vector("loader_skipped_total", "Requests that were due and were not started, by the reason.", "reason"),
		requests:  counter("loader_requests_total", "Requests that were started."),
		opened:    counter("loader_connections_total", "Connections that were opened."),
		repeats:   counter("loader_repeated_total", "Requests that were sent again because a kept connection was closed."),
		inFlight:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "loader_in_flight", Help: "Requests that wait for an answer."}),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "loader_request_duration_seconds", Help: "Time from when a request was due until its answer was there.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	achieved := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "loader_rate_achieved", Help: "Requests started a second, over the last 10 seconds.",
	}, func() float64 { return res.achieved(time.Now()) })
	r.MustRegister(res.responses, res.noAnswer, res.skips, res.requests, res.opened, res.repeats, res.inFlight, res.durations, achieved)
	for _, reason := range []string{tooMany, tooLate} {
		res.skips.WithLabelValues(reason) // So that it is 0 from the start.
	}
	return res
}

func (r *results) start(now time.Time) {
	r.inFlight.Inc()
	r.requests.Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
	r.turn(now)
	r.seconds[r.newest%int64(len(r.seconds))]++
}

// turn empties the seconds that have passed since newest. It needs the mutex.
func (r *results) turn(now time.Time) {
	second := now.Unix()
	for i := max(r.newest+1, second-recent); i <= second; i++ {
		r.seconds[i%int64(len(r.seconds))] = 0
	}
	r.newest = max(r.newest, second)
}

// achieved is the rate of the last full seconds.
func (r *results) achieved(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	sum := 0
	for i, n := range r.seconds {
		if int64(i) != r.newest%int64(len(r.seconds)) {
			sum += n
		}
	}
	return float64(sum) / recent
}

// end is of a request that took so long.
func (r *results) end(o outcome, took time.Duration) {
	code := strconv.Itoa(o.code)
	r.inFlight.Dec()
	r.responses.WithLabelValues(code).Inc()
	r.opened.Add(float64(o.connections))
	r.durations.Observe(took.Seconds())
	r.publish.Count(code, 1)
	repeated := max(o.attempts-1, 0)
	r.repeats.Add(float64(repeated))
	if o.code == 0 {
		r.noAnswer.WithLabelValues(o.reason).Inc()
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.codes[code]++
	if o.code == 0 {
		r.reasons[o.reason]++
	}
	r.connections += o.connections
	r.repeated += repeated
	r.latency.add(took)
}

func (r *results) skip(reason string, n int) {
	if n == 0 {
		return
	}
	r.skips.WithLabelValues(reason).Add(float64(n))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skipped[reason] += n
}

// Summary is what came of a load.
type Summary struct {
	URL string `json:"url"`
	// Loop is open if requests were due by the clock, and closed if each waited for the
	// answer to the one before.
	Loop string `json:"loop"`
	// Seconds is how long requests were started.
	Seconds float64 `json:"seconds"`
	// RateAsked and RateAchieved are requests a second: what was due, and what was started.
	// A closed loop asks for none.
	RateAsked    float64 `json:"rateAsked,omitempty"`
	RateAchieved float64 `json:"rateAchieved"`
	Requests     int     `json:"requests"`
	// Codes are the requests that ended by their status codes. 0 had no answer, or not
	// all of it, and NoAnswer says why.
	Codes    map[string]int `json:"codes"`
	NoAnswer map[string]int `json:"noAnswer,omitempty"`
	// Skipped were due and not started: in_flight because too many waited for answers, late
	// because the loader could not keep up.
	Skipped map[string]int `json:"skipped,omitempty"`
	// Connections were opened. Repeated requests were sent once more because a kept connection
	// was closed when they were; they are one request of the others.
	Connections int `json:"connections"`
	Repeated    int `json:"repeated"`
	// Latency is in seconds from when requests were due until their answers were there to
	// the end, or given up. That of a closed loop is from when they were sent.
	Latency Latency `json:"latencySeconds"`
}

// Latency is known to a hundredth of itself, and Max exactly.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// summary is of a time in which requests were started.
func (r *results) summary(took time.Duration) Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Summary{
		Seconds:     took.Seconds(),
		Requests:    r.started,
		Codes:       maps.Clone(r.codes),
		NoAnswer:    maps.Clone(r.reasons),
		Skipped:     maps.Clone(r.skipped),
		Connections: r.connections,
		Repeated:    r.repeated,
		Latency: Latency{
			P50: r.latency.percentile(50).Seconds(),
			P90: r.latency.percentile(90).Seconds(),
			P95: r.latency.percentile(95).Seconds(),
			P99: r.latency.percentile(99).Seconds(),
			Max: r.latency.most.Seconds(),
		},
	}
	if took > 0 {
		due := r.started + r.skipped[tooMany] + r.skipped[tooLate]
		s.RateAchieved = float64(r.started) / took.Seconds()
		s.RateAsked = float64(due) / took.Seconds()
	}
	return s
}

// WriteJSON writes the summary for programs.
func (s Summary) WriteJSON(w io.Writer) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// WriteTable writes the summary for people.
func (s Summary) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", values...) }
	row("URL", "%s", s.URL)
	row("loop", "%s", s.Loop)
	row("seconds", "%.1f", s.Seconds)
	if s.Loop == openLoop {
		row("requests/s asked", "%.2f", s.RateAsked)
	}
	row("requests/s achieved", "%.2f", s.RateAchieved)
	row("requests", "%d", s.Requests)
	row("status codes", "%s", counts(s.Codes))
	row("no answer", "%s", counts(s.NoAnswer))
	row("skipped", "%s", counts(s.Skipped))
	row("connections", "%d", s.Connections)
	row("repeated", "%d", s.Repeated)
	for _, l := range []struct {
		name    string
		seconds float64
	}{{"p50", s.Latency.P50}, {"p90", s.Latency.P90}, {"p95", s.Latency.P95}, {"p99", s.Latency.P99}, {"max", s.Latency.Max}} {
		row("latency "+l.name, "%.1f ms", l.seconds*1000)
	}
	return t.Flush()
}

// counts writes counts by name.
func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, name+": "+strconv.Itoa(m[name]))
	}
	return strings.Join(parts, ", ")
}
