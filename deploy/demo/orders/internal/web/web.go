// Package web takes orders and lists them.
//
// It holds nothing of its own between two requests, so any number of it may run. What is worth
// copying is how it stops (drain.go), and how no order gets lost on its way to the queue
// (outbox.go).
package web

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

// readyLimit bounds the question whether the database is there.
const readyLimit = time.Second

// Options are the flags of web.
type Options struct {
	Listen      string
	AdminListen string
	// Drain is how long requests are served after SIGTERM at most, and DrainIdle for how long
	// none has come when that is the end of it.
	Drain, DrainIdle time.Duration
	// TokenCost is the CPU time that a token takes.
	TokenCost time.Duration
	// MaxInFlight is how many requests of users are served at once, and MaxConnections how many
	// connections of theirs are open.
	MaxInFlight, MaxConnections int
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
	reached atomic.Bool   // the database has answered at some time
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
	group.Go(func() error { return serve.Run(life, admin.Port(o.AdminListen, s.adminHandler())) })
	group.Go(func() error { s.outbox.run(life); return nil })
	group.Go(func() error {
		defer end()
		return s.serve(ctx, life)
	})
	return group.Wait()
}

// serve serves users until ctx is done and the traffic has ended, or life is done.
func (s *server) serve(ctx, life context.Context) error {
	users, err := serve.Start(ctx, serve.Port{Name: "http", Address: s.opts.Listen, Handler: s.handler(), MaxConnections: s.opts.MaxConnections})
	if err != nil {
		return err
	}
	select {
	case err := <-users.Failed():
		return err
	case <-life.Done():
		return users.Stop(life)
	case <-ctx.Done():
	}
	s.traffic.drain()
	slog.Info("draining", "for", s.opts.Drain.String(), "idle", s.opts.DrainIdle.String())
	quiet := s.traffic.awaitQuiet(life, s.opts.DrainIdle, s.opts.Drain)
	// From here on connections are refused or closed.
	left := s.traffic.inFlight()
	if err := users.Stop(life); err != nil {
		return fmt.Errorf("of %d in flight: %w", left, err)
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

// ready says whether requests should come here. It is bad until the database has answered for
// the first time, so that a rollout stops at a version that is configured wrongly. From then on
// the database is not asked: all pods have the same one, and would leave the load balancer all
// at once, for an HPA that finds no requests and takes them away. While it is away each request
// is answered 503.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.traffic.draining():
		writeText(w, http.StatusServiceUnavailable, "draining")
	case !s.reach(r.Context()):
		writeText(w, http.StatusServiceUnavailable, "the database has not answered yet")
	default:
		writeText(w, http.StatusOK, "ok")
	}
}

// reach says whether the database has ever answered.
func (s *server) reach(ctx context.Context) bool {
	if s.reached.Load() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if err := s.store.Ready(ctx); err != nil {
		slog.Warn("not ready", "error", err)
		return false
	}
	s.reached.Store(true)
	return true
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}
