// Package standin is what the stand-ins of backends have in common.
package standin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server serves HTTP at one address, goes away on request and comes back. Its methods may
// be called at any time and from any goroutine.
type Server struct {
	handler http.Handler
	tls     *tls.Config
	ctx     context.Context //nolint:containedctx // It is the life of the server itself, which outlives every call.
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	addr     string       // host and port, fixed by the first listen
	http     *http.Server // nil while paused
	listener net.Listener
}

// New returns a Server that does not listen before it is resumed, and no more once ctx is
// done. The address is a host and port, by default 127.0.0.1 and any free port. With a
// configuration of TLS it is a server of https.
func New(ctx context.Context, addr string, handler http.Handler, config *tls.Config) *Server {
	ctx, cancel := context.WithCancel(ctx)
	return &Server{handler: handler, tls: config, ctx: ctx, cancel: cancel, addr: cmp.Or(addr, "127.0.0.1:0")}
}

// URL is where clients find the server, and stays the same over Pause and Resume.
func (s *Server) URL() string {
	scheme := "http://"
	if s.tls != nil {
		scheme = "https://"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return scheme + s.addr
}

// Go runs a function beside the server. Close ends its context and waits for it.
func (s *Server) Go(f func(context.Context)) {
	s.running.Go(func() { f(s.ctx) })
}

// Pause cuts every connection and refuses new ones until Resume. All else stays as it is.
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
	if s.tls != nil {
		l = tls.NewListener(l, s.tls)
	}
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	s.http, s.listener = server, l
	s.running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("serving on %s: %v", l.Addr(), err))
		}
	})
	return nil
}

// Close cuts every connection. A call that is being answered sees its context end. A
// second Close does nothing.
func (s *Server) Close() {
	s.cancel()
	s.Pause()
	s.running.Wait()
}
