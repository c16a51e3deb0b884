// Package balancer plays an AWS Application Load Balancer with one target group, and the AWS
// Load Balancer Controller that fills it: a reverse proxy whose targets are the pods of a
// Service, or the nodes with its NodePort. It registers late, checks health, drains, opens
// readiness gates, and fails as the original does: a request that meets a target at the wrong
// time is answered by 502, 503 or 504, and counted.
//
// What it takes over is named beside each rule, with the page that documents it. What it
// leaves out is in docs/testbed.md.
package balancer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
)

// Balancer balances from Start to Close. Its methods may be called at any time and from
// any goroutine.
type Balancer struct {
	opts       Options
	group      *group
	stats      *stats
	controller *controller
	watcher    *watcher
	checker    *checker
	life       context.Context //nolint:containedctx // It is the life of the balancer itself, which outlives every call.

	addr, metricsAddr string
	servers           []*http.Server
	stop              context.CancelFunc
	running           sync.WaitGroup
	closing           sync.Once
}

// Start listens, and returns when it knows the Service and what belongs to it; targets
// follow. It balances until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Balancer, error) {
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("load balancer for Service %s/%s: %w", opts.Namespace, opts.Service, err)
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := newGroup(opts)
	b := &Balancer{opts: opts, group: g, stats: newStats(), watcher: newWatcher(opts), life: life, stop: stop}
	b.controller = newController(opts, b.watcher, g)
	if err := b.start(ctx); err != nil {
		b.Close() //nolint:contextcheck // The balancer has its own, and ends it.
		return nil, fmt.Errorf("load balancer for Service %s/%s: %w", opts.Namespace, opts.Service, err)
	}
	context.AfterFunc(ctx, b.Close)
	return b, nil
}

func (b *Balancer) start(ctx context.Context) (err error) {
	if b.checker, err = newChecker(b.opts, b.group); err != nil {
		return err
	}
	b.controller.started = func(targets []*target) { b.checker.start(b.life, targets) }
	b.controller.cut = cut
	p := &proxy{opts: b.opts, group: b.group, stats: b.stats}
	if b.addr, err = b.serve(b.opts.Addr, p, b.opts.TLS); err != nil {
		return err
	}
	if b.metricsAddr, err = b.serve(b.opts.MetricsAddr, b.metrics(), nil); err != nil {
		return err
	}
	// The wait for the first lists ends with the caller's context, the watches do not.
	watched := make(chan error, 1)
	b.running.Go(func() { watched <- b.watcher.start(b.life) })
	select {
	case err := <-watched:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	b.running.Go(func() { b.controller.run(b.life, b.watcher.changed) })
	return nil
}

// cut ends the connections of targets that are no more.
func cut(targets []*target) {
	for _, t := range targets {
		t.calls.cutAll(errDrained)
	}
}

// serve answers requests at an address, and returns the address with the port that it got.
func (b *Balancer) serve(addr string, handler http.Handler, config *tls.Config) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(b.life, "tcp", addr)
	if err != nil {
		return "", fmt.Errorf("listening on %s: %w", addr, err)
	}
	listening := l.Addr().String()
	l = &limited{Listener: l, free: make(chan struct{}, b.opts.MaxConnections), closed: make(chan struct{})}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	server := &http.Server{
		Handler:        handler,
		MaxHeaderBytes: maxHeader,
		// An ALB answers 408 then, and this closes the connection.
		ReadHeaderTimeout: b.opts.IdleTimeout,
		// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html#http-client-keep-alive-duration
		IdleTimeout: time.Hour,
		BaseContext: func(net.Listener) context.Context { return b.life },
	}
	b.servers = append(b.servers, server)
	b.running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(b.life).Error(err, "Serving ended", "address", listening)
		}
	})
	return listening, nil
}

func (b *Balancer) metrics() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /targets", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(b.Snapshot().Targets) // Who asked may be gone.
	})
	return mux
}

// URL is where clients find the balancer.
func (b *Balancer) URL() string {
	if b.opts.TLS != nil {
		return "https://" + b.addr
	}
	return "http://" + b.addr
}

// MetricsURL is where /metrics and /targets are.
func (b *Balancer) MetricsURL() string { return "http://" + b.metricsAddr }

// Snapshot is how things are now.
func (b *Balancer) Snapshot() Snapshot {
	s := b.stats.snapshot()
	s.Targets = b.group.report()
	s.Calls, s.Problem = b.controller.counted()
	return s
}

// Close takes no more requests, lets those under way end for the grace, and cuts the rest.
// A second Close waits for the first.
func (b *Balancer) Close() {
	b.closing.Do(func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(b.life), b.opts.Grace)
		defer cancel()
		for _, s := range b.servers {
			if s.Shutdown(grace) != nil {
				_ = s.Close() // Whoever is still connected learns it.
			}
		}
		b.stop()
		cut(b.group.registrations())
		b.running.Wait()
		b.watcher.running.Wait()
		if b.checker != nil {
			b.checker.running.Wait()
		}
	})
}
