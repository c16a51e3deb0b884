package balancer

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxForwarded is how many addresses X-Forwarded-For may have, see
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#http-463-issues.
	maxForwarded = 30
	// settle is how long the end of a request's body may take to show once it was sent.
	settle = 100 * time.Millisecond
	// maxInformational is how many answers 1xx may come before the real one.
	maxInformational = 10

	statusClientGone = 460 // The client closed the connection before the answer.
	statusForwarded  = 463 // X-Forwarded-For has too many addresses.
)

// proxy forwards each request to one target, once: whatever goes wrong with that target is
// the client's to see, and no other target is tried. AWS documents no retry, and each of
// these causes as an answer of its own:
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#load-balancer-http-error-codes.
type proxy struct {
	opts     Options
	group    *group
	stats    *stats
	inFlight atomic.Int64
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer p.inFlight.Add(-1)
	if code := p.refusal(p.inFlight.Add(1), r); code != 0 {
		p.answer(w, code)
		return
	}
	t, err := p.group.pick()
	if err != nil {
		p.answer(w, http.StatusServiceUnavailable)
		return
	}
	defer p.group.done(t)
	p.stats.request()
	(&exchange{proxy: p, target: t, w: w, r: r}).run() //nolint:contextcheck // The request has its context.
}

// refusal is the code for a request that goes to no target, or 0.
func (p *proxy) refusal(inFlight int64, r *http.Request) int {
	switch {
	case r.Method == http.MethodTrace:
		return http.StatusMethodNotAllowed
	case len(forwarded(r)) > maxForwarded:
		return statusForwarded
	case inFlight > int64(p.opts.MaxRequests):
		return http.StatusServiceUnavailable
	}
	return 0
}

// answer is one of the balancer's own.
func (p *proxy) answer(w http.ResponseWriter, code int) {
	p.stats.own(code)
	if code == statusClientGone {
		panic(http.ErrAbortHandler) // There is nobody to answer.
	}
	title := strings.TrimSpace(fmt.Sprint(code, " ", http.StatusText(code)))
	w.Header().Set("Server", "awselb/2.0")
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(code)
	fmt.Fprintf(w, "<html><head><title>%[1]s</title></head><body><h1>%[1]s</h1></body></html>\n", title)
}

// exchange is one request at one target.
type exchange struct {
	*proxy

	target *target
	w      http.ResponseWriter
	r      *http.Request
	body   *clientBody
	conn   *conn
	sent   chan bool // has a word when the sender has ended: whether it sent all
}

func (x *exchange) run() {
	x.body = &clientBody{ReadCloser: x.r.Body}
	if x.r.Body == http.NoBody {
		x.body.ended.Store(true)
	}
	c, err := x.target.calls.get(x.r.Context(), x.opts, x.target.address.String())
	if err != nil {
		x.answer(x.w, x.unconnected(err))
		return
	}
	x.conn = c
	stop := context.AfterFunc(x.r.Context(), func() { c.end(errClient) })
	defer stop()

	out := x.outgoing()
	x.sent = make(chan bool, 1)
	start := time.Now()
	go func() { x.sent <- send(c, out) == nil }()
	resp, err := x.receive(out)
	if err != nil {
		c.end(err)
		code := x.failed()
		x.abandon()
		x.answer(x.w, code)
		return
	}
	x.stats.answered(resp.StatusCode, time.Since(start))
	x.forward(resp, stop)
}

// unconnected is the code for a connection that could not be made.
func (x *exchange) unconnected(err error) int {
	if x.r.Context().Err() != nil {
		return statusClientGone
	}
	if errors.Is(err, errDrained) {
		return http.StatusBadGateway
	}
	x.stats.unconnected()
	if timedOut(err) {
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// failed is the code for a connection that ended before the answer came.
func (x *exchange) failed() int {
	switch cause := x.conn.ended(); {
	case errors.Is(cause, errClient), x.r.Context().Err() != nil, x.body.failed():
		return statusClientGone
	case !errors.Is(cause, errIdle):
		return http.StatusBadGateway // Closed, reset, malformed, or drained for too long.
	case !x.body.ended.Load():
		return http.StatusRequestTimeout // It is the client who sent nothing.
	default:
		return http.StatusGatewayTimeout
	}
}

func send(c *conn, out *http.Request) error {
	w := bufio.NewWriter(c)
	if err := out.Write(w); err != nil {
		return err
	}
	return w.Flush()
}

// receive waits for the answer's header.
func (x *exchange) receive(out *http.Request) (*http.Response, error) {
	x.conn.limit = maxHeader
	defer func() { x.conn.limit = math.MaxInt64 }()
	for range maxInformational {
		resp, err := http.ReadResponse(x.conn.reader, out)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= http.StatusOK {
			return resp, nil
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, errors.New("the target switched protocols, which nobody asked for")
		}
	}
	return nil, errors.New("the target does not come to its answer")
}

// forward gives the target's answer to the client. From here on no other answer can be
// given: what goes wrong cuts the client's connection.
func (x *exchange) forward(resp *http.Response, stop func() bool) {
	complete := x.wasSent()
	header := x.w.Header()
	maps.Copy(header, resp.Header)
	dropHopByHop(header)
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // None is guessed.
	}
	if !complete {
		header.Set("Connection", "close")
	}
	x.w.WriteHeader(resp.StatusCode)
	if err := x.copyBody(resp); err != nil {
		x.conn.end(err)
		_ = resp.Body.Close()
		x.abandon()
		if !errors.Is(x.conn.ended(), errClient) {
			x.stats.cut()
		}
		panic(http.ErrAbortHandler)
	}
	if stop() && complete && !resp.Close && resp.Body.Close() == nil {
		x.target.calls.put(x.conn)
		return
	}
	x.conn.end(errUnused)
	_ = resp.Body.Close()
	x.abandon()
}

func (x *exchange) copyBody(resp *http.Response) error {
	buffer, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	flush := http.NewResponseController(x.w).Flush
	for {
		n, err := resp.Body.Read(*buffer)
		if n > 0 {
			if _, err := x.w.Write((*buffer)[:n]); err != nil {
				return errors.Join(errClient, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if resp.ContentLength < 0 {
			if err := flush(); err != nil {
				return errors.Join(errClient, err)
			}
		}
	}
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 32<<10)
	return &b
}}

// wasSent says whether all of the request was sent, and well. An answer may come before
// that is known.
func (x *exchange) wasSent() bool {
	wait := time.Duration(0)
	if x.body.ended.Load() {
		wait = settle
	}
	select {
	case all := <-x.sent:
		x.sent <- all
		return all
	case <-time.After(wait):
		return false
	}
}

// abandon waits for the sender of a connection that has ended, who may be waiting for the
// client.
func (x *exchange) abandon() {
	select {
	case <-x.sent:
		return
	default:
	}
	// The server would otherwise read the rest of the body, for as long as the client likes.
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Unix(1, 0))
	x.w.Header().Set("Connection", "close")
	<-x.sent
}

// outgoing is the request as the target gets it.
func (x *exchange) outgoing() *http.Request {
	r := x.r
	out := r.Clone(r.Context())
	out.Close, out.RequestURI, out.Trailer = false, "", nil
	out.URL.Scheme, out.URL.Host = "http", x.target.address.String()
	dropHopByHop(out.Header)
	out.Header.Del("Expect") // Answered by the balancer.
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	} else {
		out.Body = x.body
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		out.Header.Set("User-Agent", "") // None is added.
	}
	x.addForwarded(out)
	return out
}

// addForwarded sets the headers of
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html and
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html.
// X-Forwarded-For is appended to, as routing.http.xff_header_processing.mode=append has it.
func (x *exchange) addForwarded(out *http.Request) {
	client, _, err := net.SplitHostPort(x.r.RemoteAddr)
	if err != nil {
		client = x.r.RemoteAddr
	}
	out.Header.Set("X-Forwarded-For", strings.Join(append(forwarded(x.r), client), ", "))
	proto := "http"
	if x.r.TLS != nil {
		proto = "https"
	}
	out.Header.Set("X-Forwarded-Proto", proto)
	if local, ok := x.r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, port, err := net.SplitHostPort(local.String()); err == nil {
			out.Header.Set("X-Forwarded-Port", port)
		}
	}
	const trace = "X-Amzn-Trace-Id"
	switch before := out.Header.Get(trace); {
	case before == "":
		out.Header.Set(trace, "Root="+traceID())
	case !strings.Contains(before, "Root="):
		out.Header.Set(trace, "Root="+traceID()+";"+before)
	default:
		out.Header.Set(trace, "Self="+traceID()+";"+before)
	}
}

func traceID() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // It never fails.
	return fmt.Sprintf("1-%08x-%s", time.Now().Unix(), hex.EncodeToString(random[:]))
}

// forwarded are the addresses of X-Forwarded-For.
func forwarded(r *http.Request) []string {
	var all []string
	for _, line := range r.Header.Values("X-Forwarded-For") {
		for address := range strings.SplitSeq(line, ",") {
			all = append(all, textproto.TrimString(address))
		}
	}
	return all
}

// dropHopByHop removes the headers that are for one connection, see RFC 9110, 7.6.1.
func dropHopByHop(h http.Header) {
	for _, line := range h.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade",
	} {
		h.Del(name)
	}
}

// clientBody knows how far a client has come with what it sends.
type clientBody struct {
	io.ReadCloser

	ended, broken atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	} else if err != nil {
		b.broken.Store(true)
	}
	return n, err
}

// failed says whether it is the client who ended before its time.
func (b *clientBody) failed() bool { return b.broken.Load() }
