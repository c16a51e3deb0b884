package provider

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Reads counts the reads of the metrics APIs and how long they took, without the time
// that the API server library spends on a request. It is a prometheus.Collector, and safe
// for concurrent use. A nil one counts nothing.
//
// Its labels are fixed words, so that no reader can make series. All of them are there
// from the start, and a read looks none up.
type Reads struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	uncached prometheus.Counter
	answers  *prometheus.CounterVec
	evicts   *prometheus.CounterVec
	of       [kinds]readsOf
	kept     [apis]keptOf
}

// servedAPI is an API whose answers are kept.
type servedAPI int

const (
	customAPI servedAPI = iota
	externalAPI
	resourceAPI

	apis
)

var apiLabels = [apis]string{customAPI: "custom", externalAPI: "external", resourceAPI: "resource"}

// keptOf are the counters of the answers of one API.
type keptOf struct {
	reused, made, evicted prometheus.Counter
}

// readsOf are the counters of one kind of metric.
type readsOf struct {
	results  [results]prometheus.Counter
	duration prometheus.Observer
}

// kind is what kind of metric is read, of which API.
type kind int

const (
	podsMetric kind = iota
	objectMetrics
	namespaceMetric
	clusterMetric
	externalMetric
	externalRule
	externalUnknown
	podUsage
	nodeUsage

	kinds
)

// kindLabels are the API and the word for each kind.
var kindLabels = [kinds][2]string{
	podsMetric:      {"custom", "pods"},
	objectMetrics:   {"custom", "object"},
	namespaceMetric: {"custom", "namespace"},
	clusterMetric:   {"custom", "cluster"},
	externalMetric:  {"external", "externalmetric"},
	externalRule:    {"external", "rule"},
	externalUnknown: {"external", "unknown"},
	podUsage:        {"resource", "pods"},
	nodeUsage:       {"resource", "nodes"},
}

// result is how a read ended.
type result int

const (
	readOK result = iota
	readNoData
	readNotFound
	readInvalid
	readRefused
	readUnavailable
	readTimeout
	readFailed

	results
)

var resultLabels = [results]string{
	readOK:          "ok",
	readNoData:      "nodata",
	readNotFound:    "notfound",
	readInvalid:     "invalid",
	readRefused:     "refused",
	readUnavailable: "unavailable",
	readTimeout:     "timeout",
	readFailed:      "failed",
}

// NewReads makes counters at zero.
func NewReads() *Reads {
	r := &Reads{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_api_reads_total",
			Help: "Reads of the metrics APIs, by API (custom, external or resource), by kind " +
				"(custom: pods, object, namespace or cluster for objects without a namespace; " +
				"external: externalmetric, rule, or unknown if nobody defines it; resource: pods or nodes) and by result: ok (a value), " +
				"nodata (the metric is there and has no value), notfound (no such metric or object), " +
				"invalid (the rule cannot express the selector), refused (too many queries that no HPA names), " +
				"unavailable (the backend is away, or it is not known yet whether the metric exists), " +
				"timeout (the first answer took too long), failed (the backend refuses the query, or gives no number).",
		}, []string{"api", "kind", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidegauge_api_read_duration_seconds",
			Help: "Time that a read of the metrics APIs took within the adapter: from memory well under a millisecond, " +
				"and as long as the backend for the first read of what no HPA names.",
			Buckets: []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 2.5, 5, 10, 30},
		}, []string{"api", "kind"}),
		uncached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidegauge_api_reads_uncached_dollars_total",
			Help: "US dollars that the reads would have cost if each of them had asked its backend, of which only CloudWatch charges; see tidegauge_cloudwatch_dollars_total.",
		}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_api_answers_total",
			Help: "Values that were given to readers, by API and by how: reused (those of the read before, as nothing has changed since) or " +
				"made (of a new answer of the backend, for other objects, or for a reader who asks for something new).",
		}, []string{"api", "how"}),
		evicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_api_answers_evicted_total",
			Help: "Values that were not kept for the next read for want of room, by API: more is asked for than there is room for, and reads are slower.",
		}, []string{"api"}),
	}
	for a := range r.kept {
		word := apiLabels[a]
		r.kept[a] = keptOf{
			reused: r.answers.WithLabelValues(word, "reused"), made: r.answers.WithLabelValues(word, "made"),
			evicted: r.evicts.WithLabelValues(word),
		}
	}
	for k := range r.of {
		api, word := kindLabels[k][0], kindLabels[k][1]
		r.of[k].duration = r.duration.WithLabelValues(api, word)
		for i, result := range resultLabels {
			r.of[k].results[i] = r.total.WithLabelValues(api, word, result)
		}
	}
	return r
}

// count counts a read that gave n values, or an error.
func (r *Reads) count(k kind, began time.Time, n int, err error) {
	if r == nil {
		return
	}
	r.of[k].results[resultOf(n, err)].Inc()
	r.of[k].duration.Observe(time.Since(began).Seconds())
}

// priced is a query for which its backend charges each time that it is asked.
type priced interface {
	// Dollars are US dollars.
	Dollars() float64
}

// spare counts what a query costs that was not asked for the read's sake.
func (r *Reads) spare(q sources.Query) {
	if r == nil {
		return
	}
	if p, ok := q.(priced); ok {
		r.uncached.Add(p.Dollars())
	}
}

// answered counts values that were given, and whether they were there already.
func (r *Reads) answered(a servedAPI, reused bool) {
	switch {
	case r == nil:
	case reused:
		r.kept[a].reused.Inc()
	default:
		r.kept[a].made.Inc()
	}
}

// evicted counts values that were dropped for want of room.
func (r *Reads) evicted(a servedAPI) {
	if r != nil {
		r.kept[a].evicted.Inc()
	}
}

// noDataError is the API's error of a metric that is there and has no value.
type noDataError struct{ *apierrors.StatusError }

func (e noDataError) Unwrap() error { return e.StatusError }

// resultOf is the result of a read that gave n values, or the API's error.
func resultOf(n int, err error) result {
	switch {
	case err == nil && n > 0:
		return readOK
	case err == nil, errors.As(err, new(noDataError)):
		return readNoData
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return readFailed
	}
	switch status.Status().Code {
	case http.StatusNotFound:
		return readNotFound
	case http.StatusBadRequest:
		return readInvalid
	case http.StatusTooManyRequests:
		return readRefused
	case http.StatusServiceUnavailable:
		return readUnavailable
	case http.StatusGatewayTimeout:
		return readTimeout
	}
	return readFailed
}

// kindOfCustom is the kind of a metric of objects.
func kindOfCustom(of schema.GroupResource, namespaced bool) kind {
	switch {
	case of == podResource:
		return podsMetric
	case of == namespaceResource:
		return namespaceMetric
	case namespaced:
		return objectMetrics
	}
	return clusterMetric
}

// kindOfUsage is the kind of a usage.
func kindOfUsage(of schema.GroupResource) kind {
	if of == nodeResource {
		return nodeUsage
	}
	return podUsage
}

// Reads is for the registry.
var _ prometheus.Collector = (*Reads)(nil)

// Describe is for the registry.
func (r *Reads) Describe(ch chan<- *prometheus.Desc) {
	r.total.Describe(ch)
	r.duration.Describe(ch)
	r.uncached.Describe(ch)
	r.answers.Describe(ch)
	r.evicts.Describe(ch)
}

// Collect is for the registry.
func (r *Reads) Collect(ch chan<- prometheus.Metric) {
	r.total.Collect(ch)
	r.duration.Collect(ch)
	r.uncached.Collect(ch)
	r.answers.Collect(ch)
	r.evicts.Collect(ch)
}
