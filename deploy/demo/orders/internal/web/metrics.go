package web

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
)

type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	placed   prometheus.Counter
	unsent   prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: admin.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests of users that were answered.",
		}, []string{"code", "method", "path"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "How long requests of users took.",
			Buckets: prometheus.DefBuckets,
		}, []string{"method", "path"}),
		placed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orders_placed_total", Help: "Orders that were stored.",
		}),
		unsent: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orders_unsent", Help: "Orders in the database that have not been sent to the queue. All pods see the same ones: take the maximum.",
		}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.placed, m.unsent)
	return m
}

// instrument counts the requests of a route. The label path is the route's pattern, and never
// what a user has made up. The usual answer is there from the start, as 0: an HPA takes a pod
// without a sample for one of which nothing is known, and a rate has to start somewhere.
func (m *metrics) instrument(r route, next http.Handler) http.Handler {
	path := r.pattern
	if path == "/{$}" {
		path = "/"
	}
	m.requests.WithLabelValues(strconv.Itoa(r.usual), r.method, path)
	duration := m.duration.WithLabelValues(r.method, path)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		began := time.Now()
		answer := &recorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(answer, req)
		duration.Observe(time.Since(began).Seconds())
		// HEAD is served by the routes of GET.
		m.requests.WithLabelValues(strconv.Itoa(answer.code), r.method, path).Inc()
	})
}

// recorder knows the status code of an answer.
type recorder struct {
	http.ResponseWriter

	code int
}

// WriteHeader notes the code.
func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
