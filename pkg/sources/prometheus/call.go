package prometheus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxURLQuery is how many bytes of parameters a URL may have. Servers and proxies
	// commonly take 8,000 for the whole line.
	maxURLQuery = 6000
	// maxErrorBytes are read of an answer that is an error.
	maxErrorBytes = 64 << 10
)

// endpoint is a path of the API
// (https://prometheus.io/docs/prometheus/latest/querying/api/).
type endpoint string

const (
	endpointQuery  endpoint = "query"
	endpointSeries endpoint = "series"
)

// call is one request to a server, and its answer as far as it was read.
type call struct {
	server   *server
	endpoint endpoint
	form     url.Values
	// limit is how long it may take, and maxBytes how long its answer may be; 0 is
	// without a limit.
	limit    time.Duration
	maxBytes int64

	method string
	url    *url.URL
	// turn is when the call came to be made; nil for one that is not part of a Fetch.
	turn *turn
	// connected says that there is a connection to the server.
	connected atomic.Bool
	// sent are the headers that the server got, with the credentials.
	sent   http.Header
	answer *meter
	// redirected is where redirects led; empty if there were none.
	redirected string
}

func (s *server) newCall(e endpoint, form url.Values) *call {
	base := *s.url
	base.Path = cmp.Or(base.Path, "/")
	return &call{
		server: s, endpoint: e, form: form, limit: s.config.CallTimeout,
		url: base.JoinPath("api", "v1", string(e)), answer: new(meter),
	}
}

// turn says whether a query of a Fetch was asked.
type turn struct {
	// begun says that it was, and late that it then had less than the time that a call
	// may take.
	begun, late atomic.Bool
	// connected says that there was a connection for it.
	connected atomic.Bool
}

// cut is the failure of a query that the end of its Fetch has cut.
func (t *turn) cut() *failure {
	switch {
	case !t.begun.Load(), t.late.Load() && !t.connected.Load():
		return notAsked()
	case t.late.Load():
		// With all of its time it may be neither an ErrTooSlow nor past a deadline.
		return failed(kindTimeout, "no answer in the time that other queries left")
	case !t.connected.Load():
		return away("no connection in time")
	}
	return nil
}

// slots are where a query needs a place, one after the other, and always in this order.
func (s *server) slots(ctx context.Context) []chan struct{} {
	var slots []chan struct{}
	if sources.Retries(ctx) {
		slots = append(slots, s.retrying)
	}
	if sources.Yields(ctx) {
		slots = append(slots, s.yielding)
	}
	return append(slots, s.queries)
}

// begin is false if the rest of the Fetch is too short for the call: what is cut before
// half of its time says little of the query, and costs the server as much.
func (c *call) begin(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	if c.turn == nil || !ok {
		return true
	}
	left := time.Until(end)
	// A Fetch may have no more time than a call, of which a little is always gone.
	c.turn.late.Store(left < c.limit*9/10)
	return left >= c.limit/2
}

// do makes the call and reads its answer, when there is a place in each of the slots.
func (s *Source) do(ctx context.Context, slots []chan struct{}, c *call, read func() error) *failure {
	for i, slot := range slots {
		if err := acquire(ctx, slot); err != nil {
			release(slots[:i])
			if c.turn != nil {
				return notAsked()
			}
			return c.diagnose(ctx, err)
		}
	}
	defer release(slots)
	if c.turn != nil && c.server.pace.Wait(ctx) != nil || !c.begin(ctx) {
		return notAsked()
	}
	if c.turn != nil {
		c.turn.begun.Store(true)
	}
	c.server.enter()
	defer c.server.leave()
	began := time.Now()
	f := c.run(ctx, read)
	if f != nil && c.turn != nil && ctx.Err() != nil {
		f = cmp.Or(c.turn.cut(), f)
	}
	s.counters.call(c.server.name, c.endpoint, time.Since(began), c.answer.total, f)
	if f != nil {
		klog.FromContext(ctx).V(2).Info("Call failed", "server", c.server.name, "endpoint", c.endpoint, "result", f.kind, "cause", f.text)
	}
	return f
}

func release(slots []chan struct{}) {
	for _, slot := range slots {
		<-slot
	}
}

// acquire waits until one more call may be made.
func acquire(ctx context.Context, slots chan<- struct{}) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is try within the call's time. A panic is the failure of the call that it
// happened in, and the end of nothing else.
func (c *call) run(ctx context.Context, read func() error) (f *failure) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.limit, errLimit)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			klog.FromContext(ctx).Error(fmt.Errorf("panic: %v", cause), "Cannot make a call or read its answer",
				"server", c.server.name, "endpoint", c.endpoint, "stack", string(debug.Stack()))
			f = failed(kindFailed, "internal error, of which the adapter's log has the details")
		}
	}()
	if err := c.try(ctx, read); err != nil {
		f = c.diagnose(ctx, err)
		if c.redirected != "" {
			f.text = fmt.Sprintf("after a redirect to %s: %s", c.redirected, f.text)
		}
	}
	return f
}

func (c *call) try(ctx context.Context, read func() error) error {
	r, err := c.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			c.connected.Store(true)
			if c.turn != nil {
				c.turn.connected.Store(true)
			}
		},
	}))
	if err != nil {
		return err
	}
	c.sent = r.Header
	response, err := c.server.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	c.answer = &meter{from: response.Body, limit: c.maxBytes}
	if last := response.Request; last != nil {
		c.sent = last.Header
		if last.URL.Host != c.url.Host || last.URL.Path != c.url.Path {
			c.redirected = c.clean(shortURL(last.URL), maxWords)
		}
	}
	if response.StatusCode/100 != 2 {
		return c.statusFailure(response)
	}
	return read()
}

// request has the parameters in its URL if the server is asked so and they fit, and
// else in its body.
func (c *call) request(ctx context.Context) (*http.Request, error) {
	parameters := c.form.Encode()
	address := *c.url
	var body io.Reader
	if c.method = c.server.config.Verb; len(parameters) > maxURLQuery {
		c.method = http.MethodPost
	}
	if c.method == http.MethodGet {
		address.RawQuery = parameters
	} else {
		body = strings.NewReader(parameters)
	}
	r, err := http.NewRequestWithContext(ctx, c.method, address.String(), body)
	if err != nil {
		return nil, errors.New("cannot make a request of url")
	}
	r.Header = c.server.headers.Clone()
	r.Header.Set("User-Agent", userAgent)
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if body != nil && c.server.config.SigV4 == nil {
		// Not sent: it says that a query which a closing connection lost may be sent
		// again over another one, as one in a URL is.
		r.Header["Idempotency-Key"] = nil
	}
	if c.server.host != "" {
		r.Host = c.server.host
	}
	return r, nil
}

// seconds is how the API takes a time.
func seconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// duration is how the API takes a duration, in milliseconds.
func duration(d time.Duration) string { return model.Duration(d).String() }

// meter reads an answer within its limits.
type meter struct {
	from io.Reader
	// limit is how many bytes may be read; 0 is without a limit.
	limit int64
	total int64
	// unread are the bytes that came since something of the answer was last understood.
	unread int
	// head is the beginning of the answer.
	head []byte
}

const (
	// maxUnread is longer than any name or value of a label.
	maxUnread = 1 << 20
	// maxHead is more than is quoted, as some of it may be concealed.
	maxHead = 1 << 10
)

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	switch {
	case m.limit > 0 && m.total >= m.limit:
		return 0, failed(kindRejected, "the answer is longer than %d bytes: the query must give less, for instance by sum() or topk()", m.limit)
	case m.unread > maxUnread:
		return 0, failed(kindFailed, "the answer has a name or a value of more than %d bytes", maxUnread)
	}
	n, err := m.from.Read(p)
	m.total += int64(n)
	m.unread += n
	if room := maxHead - len(m.head); room > 0 {
		m.head = append(m.head, p[:min(n, room)]...)
	}
	return n, err
}

// fill reads on until there is all of the head.
func (m *meter) fill() {
	buffer := make([]byte, maxHead)
	for m.from != nil && len(m.head) < maxHead {
		if _, err := m.Read(buffer); err != nil {
			return
		}
	}
}

// startsObject says that the answer may be JSON and of the API.
func (m *meter) startsObject() bool {
	return strings.HasPrefix(strings.TrimSpace(string(m.head)), "{")
}
