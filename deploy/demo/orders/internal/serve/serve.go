// Package serve runs HTTP servers, with limits on what clients can make them hold.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
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
	// lastLimit is for the requests that are under way when a server is stopped.
	lastLimit = 5 * time.Second
	// defaultConnections is for Prometheus, the kubelet and a few more.
	defaultConnections = 100
)

// Port is an address and what is served there.
type Port struct {
	// Name is what the log and errors call it.
	Name string
	// Address is HOST:PORT. Port 0 is any free one, and the log says which.
	Address string
	Handler http.Handler
	// MaxConnections is how many connections are open at once. More wait until one is closed.
	// 0 stands for 100.
	MaxConnections int
}

// Server serves a Port.
type Server struct {
	name   string
	http   *http.Server
	failed chan error
}

// Start listens, says so in the log, and serves until Stop is called.
func Start(ctx context.Context, p Port) (*Server, error) {
	l, err := listen(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("%s port: %w", p.Name, err)
	}
	slog.Info("listening", "port", p.Name, "address", l.Addr().String())
	s := &Server{name: p.Name, failed: make(chan error, 1), http: &http.Server{
		Handler:           p.Handler,
		ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: requestLimit,
		IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
	}}
	go func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("serving ended", "port", p.Name, "error", err)
			s.failed <- fmt.Errorf("%s port: %w", p.Name, err)
		}
	}()
	return s, nil
}

// Failed has an error when serving has ended though nobody stopped it.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop refuses connections, and lets the requests that are under way end. It returns an error
// if it had to cut some: after 5 s, or because ctx was done.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lastLimit)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s port: requests were cut: %w", s.name, err), s.http.Close())
	}
	return nil
}

// Run serves until ctx is done, or serving fails.
func Run(ctx context.Context, p Port) error {
	s, err := Start(ctx, p)
	if err != nil {
		return err
	}
	select {
	case err := <-s.Failed():
		return err
	case <-ctx.Done():
		_ = s.Stop(context.WithoutCancel(ctx)) // What is under way has had its time.
		return nil
	}
}
