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
	"net/http"
	"time"

	"github.com/tidegauge/tidegauge/test/standin"
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

// Server is the stand-in. Its methods may be called at any time and from any goroutine. Its
// URL is the endpoint of every service. While it is paused its state stays, and queue depths
// are published all the same; Close ends that.
type Server struct {
	*standin.Server

	opts     Options
	services []*service
	store    *store
	queues   *queues
	keys     *keyring
	faults   *standin.Faults[Fault]
	counts   *counter
	publish  *publisher
	control  http.Handler
}

// Start listens and serves until ctx is done or Close is called.
func Start(ctx context.Context, opts Options) (*Server, error) {
	opts = opts.withDefaults()
	if err := checkInterval(opts.PublishInterval); err != nil {
		return nil, err
	}
	s := newServer(ctx, opts)
	if err := s.Resume(); err != nil {
		s.Close()
		return nil, err
	}
	s.Go(s.publish.run)
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

// newServer returns a Server that does not listen or publish yet.
func newServer(ctx context.Context, opts Options) *Server {
	s := &Server{
		opts:   opts,
		store:  newStore(),
		queues: newQueues(),
		keys:   newKeyring(opts),
		faults: standin.NewFaults(func(f *Fault) *int { return &f.Count }),
		counts: newCounter(),
	}
	s.Server = standin.New(ctx, opts.Addr, s, nil)
	s.publish = newPublisher(opts, s.queues, s.store)
	s.services = []*service{s.cloudWatch(), s.sqs(), s.sts()}
	s.control = s.controlHandler()
	return s
}

// AccessKeyID is that of the static key pair that the server accepts.
func (s *Server) AccessKeyID() string { return s.opts.AccessKeyID }

// SecretAccessKey is that of the static key pair that the server accepts.
func (s *Server) SecretAccessKey() string { return s.opts.SecretAccessKey }
