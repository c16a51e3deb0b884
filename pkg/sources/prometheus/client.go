package prometheus

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/common/config"
	"github.com/prometheus/sigv4"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxRedirects are followed one after the other.
	maxRedirects = 5
	// maxListings is how many lists of series a server is asked for at the same time.
	// They take no place of the queries, which are short.
	maxListings = 4
	userAgent   = "tidegauge"
)

// server is one of the configuration, and the client that asks it. Its configuration is
// never changed.
type server struct {
	name    string
	config  Server
	url     *url.URL
	http    http.Client
	follow  bool
	headers http.Header
	// host is what a header Host sets; else empty.
	host string
	// secrets are those of the configuration itself, not of its files.
	secrets []string
	// queries and listings hold one entry for each call in flight. Of the places of
	// queries, yielding lets those of a Fetch that yields have half, and retrying those of
	// one that retries three of eight, so that neither takes them all.
	queries, yielding, retrying, listings chan struct{}
	// pace is that of the queries.
	pace *sources.Pace
	// incomplete says that there was a list of series that is not complete.
	incomplete atomic.Bool

	using sync.Mutex
	// calls are in flight; retired says that the connections end with the last of them.
	calls   int
	retired bool
}

// newServer is the server of that name. It reads files, and asks nobody.
func newServer(name string, c Server) (*server, error) {
	c = c.withDefaults()
	u, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	h, err := c.client()
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	s := &server{
		name: name, config: c, url: u, follow: h.FollowRedirects, secrets: append(c.secrets(h), proxySecrets(h, u)...),
		headers:  make(http.Header, len(c.Headers)),
		queries:  make(chan struct{}, c.MaxCalls),
		yielding: make(chan struct{}, (c.MaxCalls+1)/2),
		retrying: make(chan struct{}, max(1, c.MaxCalls*3/8)),
		listings: make(chan struct{}, maxListings),
		pace:     sources.NewPace(c.MaxCallsPerSecond),
	}
	for name, value := range c.Headers {
		s.headers.Set(name, string(value))
	}
	s.host = s.headers.Get("Host")
	s.http.CheckRedirect = s.checkRedirect
	if s.http.Transport, err = newTransport(c, h); err != nil {
		return nil, err
	}
	return s, nil
}

// enter and leave are around every call.
func (s *server) enter() {
	s.using.Lock()
	defer s.using.Unlock()
	s.calls++
}

func (s *server) leave() {
	s.using.Lock()
	defer s.using.Unlock()
	s.calls--
	s.closeRetired()
}

// retire ends the connections when no call is in flight. A Fetch that began before may
// yet make calls.
func (s *server) retire() {
	s.using.Lock()
	defer s.using.Unlock()
	s.retired = true
	s.closeRetired()
}

func (s *server) closeRetired() {
	if s.retired && s.calls == 0 {
		s.http.CloseIdleConnections()
	}
}

// String names the server in errors. Its URL has no credentials in it.
func (s *server) String() string {
	return fmt.Sprintf("prometheus server %q (%s)", s.name, s.url)
}

// secrets are those that the configuration has in it.
func (s Server) secrets(h config.HTTPClientConfig) []string {
	found := []config.Secret{h.TLSConfig.Key}
	if h.BasicAuth != nil {
		found = append(found, h.BasicAuth.Password)
	}
	if h.Authorization != nil {
		found = append(found, h.Authorization.Credentials)
	}
	if h.OAuth2 != nil {
		found = append(found, h.OAuth2.ClientSecret, h.OAuth2.ClientCertificateKey)
	}
	if s.SigV4 != nil {
		found = append(found, s.SigV4.SecretKey)
	}
	if h.HTTPHeaders != nil {
		for _, header := range h.HTTPHeaders.Headers {
			found = append(found, header.Secrets...)
		}
	}
	for name, value := range s.Headers {
		if !plainHeaders[http.CanonicalHeaderKey(name)] {
			found = append(found, value)
		}
	}
	texts := make([]string, len(found))
	for i, secret := range found {
		texts[i] = string(secret)
	}
	return texts
}

// proxySecrets are those of the proxy before that address, which may quote them.
func proxySecrets(h config.HTTPClientConfig, address *url.URL) []string {
	var found []string
	for _, values := range h.ProxyConnectHeader {
		for _, value := range values {
			found = append(append(found, string(value)), credentialsIn(string(value))...)
		}
	}
	u, err := proxyOf(h)(&http.Request{URL: address})
	if err != nil || u == nil || u.User == nil {
		return found
	}
	password, _ := u.User.Password()
	_, escaped, _ := strings.Cut(u.User.String(), ":")
	return append(found, password, escaped, base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
}

// newTransport makes the calls with the configuration's credentials. Files with
// credentials are read again when they change.
func newTransport(c Server, h config.HTTPClientConfig) (http.RoundTripper, error) {
	if c.isKube() {
		return newKubeTransport(c, h)
	}
	t, err := config.NewRoundTripperFromConfig(h, "prometheus")
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	if c.SigV4 == nil {
		return t, nil
	}
	return &signer{config: c.SigV4, next: t, making: make(chan struct{}, 1)}, nil
}

// proxyOf is the configuration's proxy, which may be none.
func proxyOf(h config.HTTPClientConfig) func(*http.Request) (*url.URL, error) {
	if proxy := h.Proxy(); proxy != nil {
		return proxy
	}
	return http.ProxyURL(nil)
}

// signer signs calls for AWS. It looks for credentials when it is first used, which
// may take calls to AWS, and again as long as there are none.
type signer struct {
	config *sigv4.SigV4Config
	next   http.RoundTripper
	// making has an entry while somebody makes the signing transport, or looks whether
	// it was made.
	making chan struct{}
	made   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s *signer) RoundTrip(r *http.Request) (*http.Response, error) {
	signing, err := s.transport(r.Context())
	if err != nil {
		return nil, &credentialsError{err}
	}
	response, err := signing.RoundTrip(r)
	if _, sent := errors.AsType[*sendError](err); err != nil && !sent {
		return nil, &credentialsError{err}
	}
	return response, err
}

// CloseIdleConnections is called by http.Client's.
func (s *signer) CloseIdleConnections() { utilnet.CloseIdleConnectionsFor(s.next) }

func (s *signer) transport(ctx context.Context) (http.RoundTripper, error) {
	select {
	case s.making <- struct{}{}:
		defer func() { <-s.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.made != nil {
		return s.made, nil
	}
	made, err := sigv4.NewSigV4RoundTripper(s.config, sending{s.next}, sigv4.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	s.made = made
	return made, nil
}

// credentialsError is why a call could not be signed.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "AWS credentials: " + e.err.Error() }

func (e *credentialsError) Unwrap() error { return e.err }

// sending marks the errors of calls that were signed.
type sending struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s sending) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.next.RoundTrip(r)
	if err != nil {
		return nil, &sendError{err}
	}
	return response, nil
}

type sendError struct{ err error }

func (e *sendError) Error() string { return e.err.Error() }

func (e *sendError) Unwrap() error { return e.err }

// checkRedirect lets a redirect be followed that asks the same server the same. Any
// other is left as the answer, which becomes an error.
func (s *server) checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	if !s.follow || len(via) > maxRedirects || next.Method != first.Method || !isWithin(next.URL, first.URL) {
		return http.ErrUseLastResponse
	}
	return nil
}

// isWithin says that the address is of the same server, or of the same host and
// encrypted where the first was not.
func isWithin(next, first *url.URL) bool {
	if next.Scheme == first.Scheme {
		return strings.EqualFold(next.Host, first.Host)
	}
	return next.Scheme == "https" && strings.EqualFold(next.Hostname(), first.Hostname())
}
