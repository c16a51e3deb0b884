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
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tidegauge/tidegauge/test/standin"
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

// Server is the proxy. Its methods may be called at any time and from any goroutine. To its
// URL a client may add a path before /api, which is not passed on.
type Server struct {
	*standin.Server

	transport *http.Transport
	calls     *recorder
	faults    *standin.Faults[Fault]

	mu       sync.Mutex
	upstream *url.URL // nil if there is none
	play     Player   // nil if nothing is played
}

// Player answers calls in place of a real server; false leaves the call to the upstream
// server. It may be called from several goroutines at once.
type Player func(Call) (Answer, bool)

// Start listens and serves until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Server, error) {
	s := &Server{
		transport: &http.Transport{
			// The client's own wish is passed on.
			DisableCompression:  true,
			MaxIdleConnsPerHost: 100,
			IdleConnTimeout:     time.Minute,
		},
		calls:  newRecorder(cmp.Or(opts.Recent, DefaultRecent)),
		faults: standin.NewFaults(func(f *Fault) *int { return &f.Count }),
	}
	s.Server = standin.New(ctx, opts.Addr, s, opts.TLS)
	if err := errors.Join(s.SetUpstream(opts.Upstream), s.Resume()); err != nil {
		s.Close()
		return nil, err
	}
	context.AfterFunc(ctx, s.Close)
	return s, nil
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

// Close cuts every connection, those to the upstream server too. A call that is being
// answered sees its context end.
func (s *Server) Close() {
	s.Server.Close()
	s.transport.CloseIdleConnections()
}
