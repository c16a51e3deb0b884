// Package admin serves the port for Prometheus and the kubelet. It is apart from the port of
// the users, so that nobody outside of the cluster reads or stops anything, and so that it
// answers when the other one has too much to do.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// Limits of a request; nobody has reason to be slow.
	headerLimit  = 5 * time.Second
	requestLimit = 30 * time.Second
	maxHeader    = 16 << 10
	// lastLimit is for requests that are in flight when the port closes.
	lastLimit = time.Second
)

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

// Listen listens, and logs where: port 0 is any free one.
func Listen(ctx context.Context, port, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s port: %w", port, err)
	}
	slog.Info("listening", "port", port, "address", l.Addr().String())
	return l, nil
}

// Serve serves until ctx is done.
func Serve(ctx context.Context, address string, handler http.Handler) error {
	l, err := Listen(ctx, "admin", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerLimit, ReadTimeout: requestLimit, WriteTimeout: requestLimit, MaxHeaderBytes: maxHeader,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLimit)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err = server.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("admin port: %w", err)
	}
	<-stopped
	return nil
}
