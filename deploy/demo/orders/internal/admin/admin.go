// Package admin is what the port for Prometheus and the kubelet has. It is apart from the port
// of the users, so that nobody outside of the cluster reads or stops anything, and so that it
// answers when the other one has too much to do.
package admin

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
)

// Port is the admin port.
func Port(address string, handler http.Handler) serve.Port {
	return serve.Port{Name: "admin", Address: address, Handler: handler}
}

// NewRegistry returns a registry with the metrics of the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// NewMux serves /metrics and /livez. More may be added.
func NewMux(r *prometheus.Registry) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	return mux
}
