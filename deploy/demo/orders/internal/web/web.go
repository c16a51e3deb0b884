// Package web takes orders and lists them.
//
// It holds nothing of its own between two requests, so any number of it may run. What is worth
// copying is how it stops (drain.go), and how no order gets lost on its way to the queue
// (outbox.go).
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

const (
	// Limits of a request, so that nobody holds a connection for nothing.
	headerLimit  = 5 * time.Second
	readLimit    = 10 * time.Second
	requestLimit = 30 * time.Second
	maxHeader    = 16 << 10 // bytes
	// idleLimit has to be longer than a load balancer keeps an idle connection, by default
	// 60 s: a connection that this end closes first may have a request under way, which then
	// fails with 502. See
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#http-502-issues
	idleLimit = 75 * time.Second
	// lastLimit is for the requests that are in flight when the time to drain is over.
	lastLimit = 5 * time.Second
	// readyLimit bounds the question whether the database is there.
	readyLimit = time.Second
)

// Options are the flags of web.
type Options struct {
	Listen      string
	AdminListen string
	// Drain is how long requests are served after SIGTERM at most, and DrainIdle for how long
	// none has come when that is the end of it.
	Drain, DrainIdle time.Duration
	// TokenCost is the CPU time that a token takes.
	TokenCost time.Duration
	// MaxInFlight is how many requests of users are served at once.
	MaxInFlight int
}

// Store is where the orders are.
type Store interface {
	Ready(ctx context.Context) error
	Place(ctx context.Context, n store.NewOrder) (store.Order, bool, error)
	Get(ctx context.Context, id string) (store.Order, error)
	List(ctx context.Context, after string, limit int) ([]store.Order, error)
	Change(ctx context.Context, id string, quantity int) (store.Order, error)
	Claim(ctx context.Context, most int) ([]string, error)
	Sent(ctx context.Context, ids []string) error
	Unsent(ctx context.Context) (int, error)
}

// Queue takes orders to the workers. It returns those that were taken, even with an error.
type Queue interface {
	Send(ctx context.Context, orders []string) ([]string, error)
}

// server is one web.
type server struct {
	opts    Options
	store   Store
	metrics *metrics
	outbox  *outbox
	traffic *traffic
	slots   chan struct{} // has one for each request that is served
}

func newServer(o Options, s Store, q Queue) *server {
	m := newMetrics()
	return &server{
		opts: o, store: s, metrics: m, outbox: newOutbox(s, q, m), traffic: &traffic{}, slots: make(chan struct{}, o.MaxInFlight),
	}
}

// Run serves until ctx is done and what then comes has been served.
func Run(ctx context.Context, o Options, st Store, q Queue) error {
	s := newServer(o, st, q)
	// The admin port and the outbox live longer than ctx: until the last request is served.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	group.Go(func() error { return admin.Serve(life, o.AdminListen, s.adminHandler()) })
	group.Go(func() error { s.outbox.run(life); return nil })
	group.Go(func() error {
		defer end()
		return s.serve(ctx, life)
	})
	return group.Wait()
}

// serve serves users until ctx is done and the traffic has ended, or life is done.
func (s *server) serve(ctx, life context.Context) error {
	l, err := admin.Listen(ctx, "http", s.opts.Listen)
	if err != nil {
		return err
	}
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: requestLimit,
		IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("http port: %w", err)
	case <-life.Done():
		return h.Close()
	case <-ctx.Done():
	}
	s.traffic.drain()
	slog.Info("draining", "for", s.opts.Drain.String(), "idle", s.opts.DrainIdle.String())
	quiet := s.traffic.awaitQuiet(life, s.opts.DrainIdle, s.opts.Drain)
	// From here on connections are refused or closed.
	last, cancel := context.WithTimeout(life, lastLimit)
	defer cancel()
	if err := h.Shutdown(last); err != nil {
		return errors.Join(fmt.Errorf("%d requests in flight were cut: %w", s.traffic.inFlight(), err), h.Close())
	}
	slog.Info("drained", "quiet", quiet)
	return nil
}

func (s *server) adminHandler() http.Handler {
	mux := admin.NewMux(s.metrics.registry)
	// A preStop hook's httpGet is a GET; its answer comes when health is bad already.
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		mux.HandleFunc(method+" /drain", func(w http.ResponseWriter, _ *http.Request) {
			s.traffic.drain()
			writeText(w, http.StatusOK, "draining")
		})
	}
	return mux
}

// handler serves users, and the two paths that say whether it should get any.
func (s *server) handler() http.Handler {
	users := http.NewServeMux()
	for _, r := range s.routes() {
		users.Handle(r.method+" "+r.pattern, s.metrics.instrument(r, s.limit(r.handler)))
	}
	all := http.NewServeMux()
	all.HandleFunc("GET /healthz", s.health)
	all.HandleFunc("GET /readyz", s.ready)
	all.Handle("/", s.traffic.count(users))
	return s.traffic.announce(all)
}

// route is a path of users.
type route struct {
	method, pattern string
	handler         http.HandlerFunc
	usual           int // status code
}

func (s *server) routes() []route {
	return []route{
		{http.MethodGet, "/{$}", servePage, http.StatusOK},
		{http.MethodPost, "/api/orders", s.place, http.StatusCreated},
		{http.MethodGet, "/api/orders", s.list, http.StatusOK},
		{http.MethodGet, "/api/orders/{id}", s.get, http.StatusOK},
		{http.MethodPatch, "/api/orders/{id}", s.change, http.StatusOK},
		{http.MethodPost, "/token", s.token, http.StatusOK},
	}
}

// limit refuses what is more than can be served at once: an answer that comes at once is worth
// more than one that comes too late.
func (s *server) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			writeError(w, http.StatusServiceUnavailable, "too many requests at once: try again")
		}
	})
}

// health says whether a load balancer should send requests here. It is bad long before they
// fail, so that the load balancer has time to find out.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if s.traffic.draining() {
		writeText(w, http.StatusServiceUnavailable, "draining")
		return
	}
	writeText(w, http.StatusOK, "ok")
}

// ready says whether a request would be served well.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if s.traffic.draining() {
		writeText(w, http.StatusServiceUnavailable, "draining")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyLimit)
	defer cancel()
	if err := s.store.Ready(ctx); err != nil {
		slog.Warn("not ready", "error", err)
		writeText(w, http.StatusServiceUnavailable, "the database is away")
		return
	}
	writeText(w, http.StatusOK, "ok")
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}
