// Package fakeaws is a stand-in for the parts of AWS that tidegauge talks to:
// CloudWatch metrics, SQS and STS. Real AWS clients are its only clients: point
// AWS_ENDPOINT_URL at Server.URL. For web identity set AWS_ENDPOINT_URL_STS too: the
// SDK for Go makes the STS client of its default credentials before it looks at
// AWS_ENDPOINT_URL.
//
// CloudWatch speaks Smithy RPC v2 CBOR, AWS JSON 1.0 and AWS Query, SQS speaks AWS
// JSON 1.0, and STS speaks AWS Query. Requests are signed and the signatures are
// verified. Data is kept for each account and region apart, in memory only.
//
// It is stricter than it is complete: what it does not know it refuses, with the
// code that AWS uses for it.
package fakeaws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultAccount         = "123456789012"
	DefaultRegion          = "us-east-1"
	DefaultAccessKeyID     = "AKIAFAKEAWS000000000"
	DefaultSecretAccessKey = "fakeaws/secret/access/key/0000000000000000"
	// DefaultPublishInterval is how often SQS publishes to CloudWatch, see
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-monitoring-using-cloudwatch.html
	DefaultPublishInterval = time.Minute
)

// Options say how a Server is to be. The zero value works.
type Options struct {
	// Addr is the host and port to listen on; by default 127.0.0.1 and any free port.
	Addr string
	// Account is the account of the static key pair.
	Account string
	// AccessKeyID and SecretAccessKey are the one static key pair that is accepted.
	AccessKeyID     string
	SecretAccessKey string
	// PublishInterval is how often queue depths are published to CloudWatch, in
	// whole seconds. Below a minute they are published as high-resolution data,
	// which AWS never does.
	PublishInterval time.Duration
	// Now is the clock, by default time.Now. Signatures are accepted whatever
	// their date, so that Now may be far from the clients' clocks.
	Now func() time.Time
	// After is the timer that belongs to Now, by default time.After.
	After func(time.Duration) <-chan time.Time
}

func (o Options) withDefaults() Options {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.Account = cmp.Or(o.Account, DefaultAccount)
	o.AccessKeyID = cmp.Or(o.AccessKeyID, DefaultAccessKeyID)
	o.SecretAccessKey = cmp.Or(o.SecretAccessKey, DefaultSecretAccessKey)
	o.PublishInterval = cmp.Or(o.PublishInterval, DefaultPublishInterval)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	return o
}

// Server is the stand-in. Its methods may be called at any time and from any goroutine.
type Server struct {
	opts     Options
	ctx      context.Context //nolint:containedctx // It is the life of the server itself, which outlives every call.
	cancel   context.CancelFunc
	services []*service
	store    *store
	queues   *queues
	keys     *keyring
	faults   *faults
	counts   *counter
	publish  *publisher
	control  http.Handler
	running  sync.WaitGroup

	mu       sync.Mutex
	addr     string       // host and port, fixed by the first listen
	http     *http.Server // nil while paused
	listener net.Listener
}

// Start listens and serves until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Server, error) {
	opts = opts.withDefaults()
	if err := checkInterval(opts.PublishInterval); err != nil {
		return nil, err
	}
	s := newServer(ctx, opts)
	if err := s.Resume(); err != nil {
		s.cancel()
		return nil, err
	}
	s.running.Go(s.publish.run)
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

// newServer returns a Server that does not listen or publish yet.
func newServer(ctx context.Context, opts Options) *Server {
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{
		opts:   opts,
		ctx:    ctx,
		cancel: cancel,
		addr:   opts.Addr,
		store:  newStore(),
		queues: newQueues(),
		keys:   newKeyring(opts),
		faults: newFaults(),
		counts: newCounter(),
	}
	s.publish = newPublisher(ctx, opts, s.queues, s.store)
	s.services = []*service{s.cloudWatch(), s.sqs(), s.sts()}
	s.control = s.controlHandler()
	return s
}

// URL is the endpoint of every service, and stays the same over Pause and Resume.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + s.addr
}

// AccessKeyID is that of the static key pair that the server accepts.
func (s *Server) AccessKeyID() string { return s.opts.AccessKeyID }

// SecretAccessKey is that of the static key pair that the server accepts.
func (s *Server) SecretAccessKey() string { return s.opts.SecretAccessKey }

// Pause cuts every connection and refuses new ones until Resume. The state stays,
// and queue depths are published all the same.
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

// Close cuts every connection and stops publishing. A request that is being
// answered sees its context end.
func (s *Server) Close() {
	s.cancel()
	s.Pause()
	s.running.Wait()
}
