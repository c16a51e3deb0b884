package engine

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// metrics are the engine's own. Their labels are names of sources and fixed words,
// never keys of queries.
type metrics struct {
	fetches  *prometheus.CounterVec
	duration *prometheus.HistogramVec
	batch    *prometheus.HistogramVec
	reads    *prometheus.CounterVec
	letGo    *prometheus.CounterVec
	notAsked *prometheus.CounterVec
}

var (
	inDemandDesc = prometheus.NewDesc("tidegauge_queries_in_demand",
		"Queries that are being refreshed.", []string{"source"}, nil)
	staleDesc = prometheus.NewDesc("tidegauge_queries_stale",
		"Queries in demand that were asked and have no answer young enough to serve.", []string{"source"}, nil)
	ageDesc = prometheus.NewDesc("tidegauge_answer_age_seconds",
		"Age of the oldest last answer of a query in demand.", []string{"source"}, nil)
	servedAgeDesc = prometheus.NewDesc("tidegauge_served_age_seconds",
		"Age of the values that reads were given, counted from when the source was asked.", []string{"source"}, nil)
	waitingDesc = prometheus.NewDesc("tidegauge_queries_waiting",
		"Queries in demand that are due and not being asked, because their backend is away, has asked for fewer calls or has enough batches in flight.", []string{"source"}, nil)
	inFlightDesc = prometheus.NewDesc("tidegauge_fetches_in_flight",
		"Batches that a source is being asked.", []string{"source"}, nil)
	backendsDesc = prometheus.NewDesc("tidegauge_backends",
		"Backends of a source that have queries, by state: closed (asked as usual), throttled (it has asked for fewer calls), "+
			"open (nobody is there, and its queries wait), half_open (a few of them are being asked whether it is back).", []string{"source", "state"}, nil)
)

func newMetrics() *metrics {
	return &metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_fetches_total",
			Help: "Batches asked of a source, by result: ok (all queries answered, with a value or without), " +
				"partial (some failed), failed (all did), throttled (the source asked for fewer calls). " +
				"Queries for which there was no time do not count as failed.",
		}, []string{"source", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidegauge_fetch_duration_seconds",
			Help:    "Time that a source took to answer a batch.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}, []string{"source"}),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tidegauge_fetch_batch_size",
			Help:    "Queries in a batch.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}, []string{"source"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_reads_total",
			Help: "Reads of queries, by result: fresh (from memory), last_good (from memory, while the source fails), " +
				"waited (a value after the first fetch), nodata (the source has no value), " +
				"unavailable (no answer young enough), abandoned (the reader left before the first fetch was over), " +
				"refused (too many queries that no HPA names).",
		}, []string{"source", "result"}),
		notAsked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_queries_not_asked_total",
			Help: "Queries that were due and for which there was no time in their batch, because others took all the calls that may be in flight. They are due again at once.",
		}, []string{"source"}),
		letGo: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_queries_let_go_total",
			Help: "Queries that no HPA names and that were forgotten early, because too many of them, of their samples or of the bytes of their keys were held.",
		}, []string{"source"}),
	}
}

// feedMetrics are the metrics of one source, looked up once.
type feedMetrics struct {
	served served

	ok, partial, failed, throttled           prometheus.Counter
	duration, batch                          prometheus.Observer
	fresh, lastGood, waitedFor, noData, none prometheus.Counter
	abandoned, refused, letGo, notAsked      prometheus.Counter
}

func (m *metrics) of(source string) feedMetrics {
	return feedMetrics{
		ok:        m.fetches.WithLabelValues(source, "ok"),
		partial:   m.fetches.WithLabelValues(source, "partial"),
		failed:    m.fetches.WithLabelValues(source, "failed"),
		throttled: m.fetches.WithLabelValues(source, "throttled"),
		duration:  m.duration.WithLabelValues(source),
		batch:     m.batch.WithLabelValues(source),
		fresh:     m.reads.WithLabelValues(source, "fresh"),
		lastGood:  m.reads.WithLabelValues(source, "last_good"),
		waitedFor: m.reads.WithLabelValues(source, "waited"),
		noData:    m.reads.WithLabelValues(source, "nodata"),
		none:      m.reads.WithLabelValues(source, "unavailable"),
		abandoned: m.reads.WithLabelValues(source, "abandoned"),
		refused:   m.reads.WithLabelValues(source, "refused"),
		letGo:     m.letGo.WithLabelValues(source),
		notAsked:  m.notAsked.WithLabelValues(source),
	}
}

// read counts a read of e from memory.
func (m *feedMetrics) read(e *entry, s *state, err error, now time.Time) {
	switch {
	case err != nil:
		m.unanswered(err).Inc()
	case s.err() != nil:
		m.lastGood.Inc()
		m.served.of(e).observe(now.Sub(s.answer.Fetched))
	default:
		// It is counted where the age is.
		m.served.of(e).observe(now.Sub(s.answer.Fetched))
		m.served.of(e).fresh.Add(1)
	}
}

// waited counts a read of e that waited for the first fetch.
func (m *feedMetrics) waited(e *entry, answer Answer, err error, now time.Time) {
	if err != nil {
		m.unanswered(err).Inc()
		return
	}
	m.waitedFor.Inc()
	m.served.of(e).observe(now.Sub(answer.Fetched))
}

func (m *feedMetrics) unanswered(err error) prometheus.Counter {
	if errors.Is(err, sources.ErrNoData) {
		return m.noData
	}
	return m.none
}

// fetched counts a Fetch.
func (m *feedMetrics) fetched(results []sources.Result, took time.Duration) {
	m.duration.Observe(took.Seconds())
	m.batch.Observe(float64(len(results)))
	failed, notAsked, throttled := 0, 0, false
	for _, r := range results {
		throttled = throttled || isThrottling(r.Err)
		switch {
		case r.Err == nil || errors.Is(r.Err, sources.ErrNoData):
		case errors.Is(r.Err, sources.ErrNotAsked):
			notAsked++
		default:
			failed++
		}
	}
	m.notAsked.Add(float64(notAsked))
	switch {
	case throttled:
		m.throttled.Inc()
	case failed == 0:
		m.ok.Inc()
	case failed+notAsked < len(results):
		m.partial.Inc()
	default:
		m.failed.Inc()
	}
}

// Engine is a prometheus.Collector of its self-metrics.
var _ prometheus.Collector = (*Engine)(nil)

// Describe is for the registry.
func (e *Engine) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range e.metrics.collectors() {
		c.Describe(ch)
	}
	ch <- inDemandDesc
	ch <- staleDesc
	ch <- ageDesc
	ch <- servedAgeDesc
	ch <- waitingDesc
	ch <- inFlightDesc
	ch <- backendsDesc
}

// Collect is for the registry. It looks at every query.
func (e *Engine) Collect(ch chan<- prometheus.Metric) {
	for _, f := range e.feeds {
		f.metrics.fresh.Add(float64(f.metrics.served.takeFresh()))
	}
	for _, c := range e.metrics.collectors() {
		c.Collect(ch)
	}
	for name, f := range e.feeds {
		s := f.survey(time.Now())
		gauge := func(desc *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, name)
		}
		gauge(inDemandDesc, float64(s.inDemand))
		gauge(staleDesc, float64(s.stale))
		gauge(ageDesc, s.oldest.Seconds())
		gauge(waitingDesc, float64(s.waiting))
		gauge(inFlightDesc, float64(s.inFlight))
		for i, state := range backendStates {
			ch <- prometheus.MustNewConstMetric(backendsDesc, prometheus.GaugeValue, float64(s.backends[i]), name, state)
		}
		ch <- f.metrics.served.histogram(name)
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.fetches, m.duration, m.batch, m.reads, m.letGo, m.notAsked}
}

// survey is the sum over a source's queries.
type survey struct {
	inDemand, stale, waiting, inFlight int
	oldest                             time.Duration
	backends                           [len(backendStates)]int
}

func (f *feed) survey(now time.Time) survey {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := survey{inFlight: f.inFlight}
	for _, b := range f.backends {
		sum.backends[b.state(now)]++
	}
	for e := range f.entries.all() {
		if !f.inDemand(e, now) {
			continue
		}
		sum.inDemand++
		if e.waits {
			sum.waiting++
		}
		s := e.state.Load()
		if s.pending == nil && !s.serves(now, e.terms.maxAge) {
			sum.stale++
		}
		if !s.answer.Fetched.IsZero() {
			sum.oldest = max(sum.oldest, now.Sub(s.answer.Fetched))
		}
	}
	return sum
}
