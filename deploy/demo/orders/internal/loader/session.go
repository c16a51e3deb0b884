package loader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The paths that web has, which are asked for in ways of their own. Of another one it is a GET.
const (
	ordersPath = "/api/orders"
	tokenPath  = "/token"
)

const (
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 1 << 20
	// maxOrder is how much of an answer is read to find the order in it, in bytes.
	maxOrder = 16 << 10
)

// action is one thing that a user does.
type action string

// What a mix may have. The last two are of the order that the session placed last; one that
// placed none yet places one.
const (
	place  action = "place"
	list   action = "list"
	get    action = "get"
	update action = "update"
)

// mix is how often which action is done: each as often as it is in it.
type mix []action

// maxMix bounds the numbers of a mix, added up.
const maxMix = 1000

// parseMix reads place=1,list=4.
func parseMix(text string) (mix, error) {
	var m mix
	for part := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n+len(m) > maxMix {
			return nil, fmt.Errorf("%q is not an action and a number, as in place=1,list=4, of all together %d at most", part, maxMix)
		}
		if !slices.Contains([]action{place, list, get, update}, action(name)) {
			return nil, fmt.Errorf("%q is no action; there are place, list, get and update", name)
		}
		m = append(m, slices.Repeat(mix{action(name)}, n)...)
	}
	if len(m) == 0 {
		return nil, errors.New("it has nothing to do")
	}
	return m, nil
}

// session is one user: with connections and cookies of its own, so that a load balancer sees
// as many users as there are sessions.
type session struct {
	client http.Client
	base   url.URL
	mix    mix
	// last is the path of the order that was placed last.
	last atomic.Pointer[string]
}

// newSession returns a user of the program at base, whose path says what is asked for.
func newSession(base url.URL, m mix, keepAlive bool) *session {
	jar, _ := cookiejar.New(nil) // It has no errors.
	var protocols http.Protocols
	protocols.SetHTTP1(true) // So that a connection has one request at a time.
	return &session{
		base: base,
		mix:  m,
		client: http.Client{
			Jar: jar,
			Transport: &http.Transport{
				DisableKeepAlives: !keepAlive,
				Protocols:         &protocols,
				IdleConnTimeout:   90 * time.Second,
			},
			// A redirect is an answer as any other is.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// request is the next one of the session.
func (s *session) request(ctx context.Context) (*http.Request, error) {
	switch s.base.Path {
	case ordersPath:
		return s.order(ctx, s.mix[rand.IntN(len(s.mix))]) //nolint:gosec // Nobody has to guess what is ordered.
	case tokenPath:
		return http.NewRequestWithContext(ctx, http.MethodPost, s.base.String(), http.NoBody)
	default:
		return http.NewRequestWithContext(ctx, http.MethodGet, s.base.String(), http.NoBody)
	}
}

var items = []string{"anchor", "buoy", "chart", "compass", "lantern", "rope", "sextant", "tide table"}

// order is a request to the API of orders.
func (s *session) order(ctx context.Context, do action) (*http.Request, error) {
	to := s.base
	last := s.last.Load()
	if last == nil && (do == get || do == update) {
		do = place
	}
	quantity := 1 + rand.IntN(10) //nolint:gosec // As above.
	switch do {
	case list:
		to.RawQuery = "limit=20"
		return http.NewRequestWithContext(ctx, http.MethodGet, to.String(), http.NoBody)
	case get:
		to.Path = *last
		return http.NewRequestWithContext(ctx, http.MethodGet, to.String(), http.NoBody)
	case update:
		to.Path = *last
		return withJSON(ctx, http.MethodPatch, to, map[string]any{"quantity": quantity})
	default:
		item := items[rand.IntN(len(items))] //nolint:gosec // As above.
		return withJSON(ctx, http.MethodPost, to, map[string]any{"item": item, "quantity": quantity})
	}
}

func withJSON(ctx context.Context, method string, to url.URL, body map[string]any) (*http.Request, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), strings.NewReader(string(text)))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

// outcome is how a request ended.
type outcome struct {
	// code is the status code, 0 if there was no answer or not all of it.
	code int
	// reason is why there was none.
	reason string
	// connections is how many were opened, and attempts how many were used: http.Transport
	// repeats a request whose kept connection turns out to be closed.
	connections, attempts int
}

// do sends one request and reads its answer to the end.
func (s *session) do(ctx context.Context) outcome {
	var o outcome
	var connections, attempts atomic.Int64
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			attempts.Add(1)
			if !info.Reused {
				connections.Add(1)
			}
		},
	})
	req, err := s.request(ctx)
	if err == nil {
		o.code, err = s.answer(req)
	}
	if err != nil {
		o.code, o.reason = 0, reasonOf(err)
	}
	o.connections, o.attempts = int(connections.Load()), int(attempts.Load())
	return o
}

// answer sends a request and returns the status code of its answer, once that is there to the
// end.
func (s *session) answer(req *http.Request) (int, error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if location := resp.Header.Get("Location"); resp.StatusCode == http.StatusCreated && strings.HasPrefix(location, ordersPath+"/") && len(location) < maxOrder {
		s.last.Store(&location)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, err
}

// Why there was no answer.
const (
	timedOut = "timeout" // --timeout was over
	refused  = "refused" // nobody listens
	cut      = "cut"     // the connection ended before the answer did
	noName   = "name"    // the host was not found
	other    = "other"
)

func reasonOf(err error) string {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return noName
	}
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ok && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return timedOut
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(err.Error(), "server closed idle connection"): // net/http does not export this one.
		return cut
	default:
		return other
	}
}
