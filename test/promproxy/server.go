// Package promproxy stands between a client of Prometheus and a real server, or in
// place of one: it records what is asked, plays what a test wants to be answered, and
// lets things go wrong on request. Point the client at Server.URL.
//
// A call is answered by the first of these that has an answer: a Fault, the function
// that was given to Play, the upstream server.
package promproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// DefaultRecent is how many calls are remembered one by one.
const DefaultRecent = 10_000

// Options say how a Server is to be. The zero value works.
type Options struct {
	// Addr is the host and port to listen on; by default 127.0.0.1 and any free port.
	Addr string
	// Upstream is the URL of the real server. It may be empty, and be set later.
	Upstream string
	// Recent is how many calls Calls remembers; the oldest are forgotten first.
	Recent int
	// TLS makes it a server of https.
	TLS *tls.Config
}

func (o Options) withDefaults() Options {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.Recent = cmp.Or(o.Recent, DefaultRecent)
	return o
}

// Server is the proxy. Its methods may be called at any time and from any goroutine.
type Server struct {
	opts      Options
	ctx       context.Context //nolint:containedctx // It is the life of the server itself, which outlives every call.
	cancel    context.CancelFunc
	transport *http.Transport
	calls     *recorder
	faults    *faults
	running   sync.WaitGroup

	mu       sync.Mutex
	upstream *url.URL // nil if there is none
	play     Player   // nil if nothing is played
	addr     string   // host and port, fixed by the first listen
	http     *http.Server
	listener net.Listener // nil while paused, as http is
}

// Player answers calls in place of a real server; false leaves the call to the upstream
// server. It may be called from several goroutines at once.
type Player func(Call) (Answer, bool)

// Start listens and serves until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Server, error) {
	opts = opts.withDefaults()
	transport := &http.Transport{
		// The client's own wish is passed on.
		DisableCompression:  true,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     time.Minute,
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{
		opts: opts, ctx: ctx, cancel: cancel, addr: opts.Addr,
		transport: transport, calls: newRecorder(opts.Recent), faults: newFaults(),
	}
	if err := errors.Join(s.SetUpstream(opts.Upstream), s.Resume()); err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

// URL is where clients find the server, and stays the same over Pause and Resume. A
// client may add a path before /api, which is not passed on.
func (s *Server) URL() string {
	scheme := "http://"
	if s.opts.TLS != nil {
		scheme = "https://"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return scheme + s.addr
}

// SetUpstream says which real server answers from now on; none if the URL is empty.
func (s *Server) SetUpstream(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if address != "" && (u.Scheme == "" || u.Host == "") {
		return fmt.Errorf("upstream: %q is no URL of a server", address)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upstream = u
	if address == "" {
		s.upstream = nil
	}
	return nil
}

// Play answers calls by a function from now on; nil ends that.
func (s *Server) Play(p Player) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.play = p
}

// Pause cuts every connection and refuses new ones until Resume.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	// The server knows its listener only once it serves, which may be later. That
	// one of the two was closed already is of no interest.
	_ = s.http.Close()
	_ = s.listener.Close()
	s.http, s.listener = nil, nil
}

// Resume listens again, at the address of before. It does nothing when the server
// listens already, and fails when it is closed or the port was taken meanwhile.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	if err := s.ctx.Err(); err != nil {
		return fmt.Errorf("server is closed: %w", err)
	}
	var listen net.ListenConfig
	l, err := listen.Listen(s.ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", s.addr, err)
	}
	s.addr = l.Addr().String()
	if s.opts.TLS != nil {
		l = tls.NewListener(l, s.opts.TLS)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	s.http, s.listener = server, l
	s.running.Go(func() { serve(server, l) })
	return nil
}

func serve(server *http.Server, l net.Listener) {
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		panic(fmt.Sprintf("serving on %s: %v", l.Addr(), err))
	}
}

// Close cuts every connection. A call that is being answered sees its context end.
func (s *Server) Close() {
	s.cancel()
	s.Pause()
	s.running.Wait()
	s.transport.CloseIdleConnections()
}
