package balancer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deadline is how long a test waits for a condition, however loaded the machine is.
const deadline = 30 * time.Second

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, deadline)
		}
	}
}

// front is a proxy that listens, with healthy targets.
type front struct {
	*proxy

	url     string
	targets []*target
}

// newFront is a front of the targets at some addresses.
func newFront(t *testing.T, change func(*Options), addresses ...net.Addr) *front {
	t.Helper()
	opts := Defaults()
	if change != nil {
		change(&opts)
	}
	p := &proxy{opts: opts, group: newGroup(opts), stats: newStats()}
	f := &front{proxy: p}
	for _, a := range addresses {
		tcp := a.(*net.TCPAddr)
		f.targets = append(f.targets, p.group.register([]endpoint{{address: Address{tcp.IP.String(), tcp.Port}}})...)
	}
	for _, target := range f.targets {
		p.group.checked(target, nil)
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	t.Cleanup(func() { cut(p.group.registrations()) })
	f.url = server.URL
	return f
}

// get asks the front and returns the code and the body of the answer.
func (f *front) get(t *testing.T) (code int, body string) {
	t.Helper()
	return fetch(t, f.url)
}

// raw is a target that does with each connection what it is told. It counts them.
func raw(t *testing.T, serve func(net.Conn, *bufio.Reader)) (addr net.Addr, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int32{}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			serving.Go(func() {
				serve(c, bufio.NewReader(c))
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr(), connections
}

func readRequest(r *bufio.Reader) {
	req, err := http.ReadRequest(r)
	if err == nil {
		_, _ = io.Copy(io.Discard, req.Body)
	}
}

func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

func TestCodesOfTheBalancer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		serve  func(net.Conn, *bufio.Reader)
		dial   func(context.Context, string, string) (net.Conn, error)
		code   int
		noConn bool // which is counted
	}{
		{name: "closed before an answer", serve: func(_ net.Conn, r *bufio.Reader) { readRequest(r) }, code: 502},
		{name: "reset before an answer", serve: func(c net.Conn, r *bufio.Reader) { readRequest(r); reset(c) }, code: 502},
		{name: "closed in the header", serve: func(c net.Conn, r *bufio.Reader) {
			readRequest(r)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-")
		}, code: 502},
		{name: "no HTTP", serve: func(c net.Conn, r *bufio.Reader) { readRequest(r); fmt.Fprint(c, "hello\r\n\r\n") }, code: 502},
		{name: "a header that does not end", serve: func(c net.Conn, r *bufio.Reader) {
			readRequest(r)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nX: ")
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 1024))
			}
		}, code: 502},
		{name: "another protocol", serve: func(c net.Conn, r *bufio.Reader) {
			readRequest(r)
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
		}, code: 502},
		{name: "no answer", serve: func(_ net.Conn, r *bufio.Reader) { readRequest(r); _, _ = io.Copy(io.Discard, r) }, code: 504},
		{name: "refused", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			_ = l.Close()
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}, code: 502, noConn: true},
		{name: "not connected in time", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, code: 504, noConn: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			addr, connections := net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}), &atomic.Int32{}
			if test.serve != nil {
				addr, connections = raw(t, test.serve)
			}
			other, others := raw(t, func(net.Conn, *bufio.Reader) {})
			f := newFront(t, func(o *Options) {
				o.ConnectTimeout, o.IdleTimeout = 100*time.Millisecond, 300*time.Millisecond
				if test.dial != nil {
					o.Dial = test.dial
				}
			}, addr, other)
			f.group.turn = 1 // It is the first's turn.
			code, body := f.get(t)
			if code != test.code || !strings.Contains(body, fmt.Sprint(test.code, " ", http.StatusText(test.code))) {
				t.Errorf("answer is %d %s, want %d", code, body, test.code)
			}
			if n := connections.Load(); others.Load() > 0 || n > 1 {
				t.Errorf("%d connections to the target and %d to the other: it was tried again", n, others.Load())
			}
			s := f.stats.snapshot()
			if s.Balancer[test.code] != 1 || s.Requests != 1 || len(s.Target) > 0 || s.ConnectionErrors > 0 != test.noConn {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

func TestNoTarget(t *testing.T) {
	f := newFront(t, nil)
	if code, _ := f.get(t); code != http.StatusServiceUnavailable {
		t.Errorf("answer is %d, want 503", code)
	}
	if s := f.stats.snapshot(); s.Balancer[503] != 1 || s.Requests != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestConnectionThatTheTargetClosesMeanwhile is the race of a target whose keep-alive is
// shorter than the balancer's: AWS answers 502, and does not send the request again.
func TestConnectionThatTheTargetClosesMeanwhile(t *testing.T) {
	addr, connections := raw(t, func(c net.Conn, r *bufio.Reader) {
		readRequest(r)
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		readRequest(r) // And closes.
	})
	f := newFront(t, nil, addr)
	first, _ := f.get(t)
	await(t, "the connection is idle", func() bool { return f.targets[0].calls.idles() == 1 })
	second, _ := f.get(t)
	if first != http.StatusOK || second != http.StatusBadGateway || connections.Load() != 1 {
		t.Errorf("answers are %d and %d by %d connections, want 200 and 502 by one", first, second, connections.Load())
	}
}

// TestIdleConnectionThatTheTargetClosed is not used again, because the close was seen.
func TestIdleConnectionThatTheTargetClosed(t *testing.T) {
	addr, connections := raw(t, func(c net.Conn, r *bufio.Reader) {
		readRequest(r)
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") // And closes, without a word of it.
	})
	f := newFront(t, nil, addr)
	for n := range int32(3) {
		if code, body := f.get(t); code != http.StatusOK || body != "ok" || connections.Load() != n+1 {
			t.Errorf("answer is %d %s by connection %d", code, body, connections.Load())
		}
		await(t, "the connection is gone", func() bool { return f.targets[0].calls.opens() == 0 })
	}
}

func (cs *conns) idles() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.idle)
}

func (cs *conns) opens() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// served is a front of one target, which is a handler.
func served(t *testing.T, change func(*Options), handler http.HandlerFunc) *front {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newFront(t, change, server.Listener.Addr())
}

func TestRequestsReachTheTargetAsTheyAre(t *testing.T) {
	var connections sync.Map
	f := served(t, nil, func(w http.ResponseWriter, r *http.Request) {
		connections.Store(r.RemoteAddr, true)
		body, err := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %d %d %v", r.Method, r.Host, r.URL, r.ContentLength, len(body), err)
	})
	large := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		method, body, want string
		chunked            bool
	}{
		{method: "GET", want: "GET shop.example.com /a%2Fb?c=d&e=%20 0 0 <nil>"},
		{method: "HEAD"},
		{method: "POST", body: large, want: "POST shop.example.com /a%2Fb?c=d&e=%20 1048576 1048576 <nil>"},
		{method: "PUT", body: large, chunked: true, want: "PUT shop.example.com /a%2Fb?c=d&e=%20 -1 1048576 <nil>"},
		{method: "POST", want: "POST shop.example.com /a%2Fb?c=d&e=%20 0 0 <nil>"},
		{method: "DELETE", want: "DELETE shop.example.com /a%2Fb?c=d&e=%20 0 0 <nil>"},
	} {
		var body io.Reader = strings.NewReader(test.body)
		if test.chunked {
			body = struct{ io.Reader }{body}
		} else if test.body == "" {
			body = http.NoBody
		}
		req, err := http.NewRequestWithContext(t.Context(), test.method, f.url+"/a%2Fb?c=d&e=%20", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.example.com"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(got) != test.want || resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Answer") != "yes" ||
			len(resp.Header["Set-Cookie"]) != 2 || resp.Close {
			t.Errorf("%s: %v %v, header %v, close %t, body %s, want %s", test.method, err, resp.Status, resp.Header, resp.Close, got, test.want)
		}
	}
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("the requests took %d connections to the target, want one that is kept alive", n)
	}
	if s := f.stats.snapshot(); s.Target[http.StatusTeapot] != 6 || s.Requests != 6 || s.ResponseTime.Count != 6 || len(s.Balancer) > 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestHeaders(t *testing.T) {
	got := make(chan http.Header, 1)
	f := served(t, nil, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header })
	port := f.url[strings.LastIndex(f.url, ":")+1:]
	sent := func(header http.Header) http.Header {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return http.Header{"Code": {resp.Status}}
		}
		return <-got
	}
	for _, test := range []struct {
		name   string
		header http.Header
		want   map[string]string // as regular expressions
	}{
		{"none", http.Header{}, map[string]string{
			"X-Forwarded-For": "^127.0.0.1$", "X-Forwarded-Proto": "^http$", "X-Forwarded-Port": "^" + port + "$",
			"X-Amzn-Trace-Id": "^Root=1-[0-9a-f]{8}-[0-9a-f]{24}$", "Connection": "^$",
		}},
		{"those of others", http.Header{
			"X-Forwarded-For": {"203.0.113.7", "8.3.1.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Port": {"443"},
			"X-Amzn-Trace-Id": {"Root=1-67891233-abcdef012345678912345678"},
		}, map[string]string{
			"X-Forwarded-For": "^203.0.113.7, 8.3.1.1, 127.0.0.1$", "X-Forwarded-Proto": "^http$", "X-Forwarded-Port": "^" + port + "$",
			"X-Amzn-Trace-Id": "^Self=1-[0-9a-f]{8}-[0-9a-f]{24};Root=1-67891233-abcdef012345678912345678$",
		}},
		{"a trace without a root", http.Header{"X-Amzn-Trace-Id": {"App=x"}}, map[string]string{"X-Amzn-Trace-Id": "^Root=1-.*;App=x$"}},
		{
			"hop by hop",
			http.Header{"Connection": {"X-Mine, keep-alive"}, "X-Mine": {"1"}, "Keep-Alive": {"5"}, "Upgrade": {"x"}, "Te": {"trailers"}},
			map[string]string{"X-Mine": "^$", "Keep-Alive": "^$", "Upgrade": "^$", "Te": "^$", "Connection": "^$"},
		},
		{"30 addresses", http.Header{"X-Forwarded-For": {strings.Repeat("10.0.0.1, ", 29) + "10.0.0.2"}}, map[string]string{"X-Forwarded-For": "10.0.0.2, 127.0.0.1$"}},
		{"31 addresses", http.Header{"X-Forwarded-For": {strings.Repeat("10.0.0.1, ", 30) + "10.0.0.2"}}, map[string]string{"Code": "^463"}},
	} {
		header := sent(test.header)
		for name, want := range test.want {
			if value := strings.Join(header.Values(name), "|"); !regexp.MustCompile(want).MatchString(value) {
				t.Errorf("%s: %s is %q, want %s", test.name, name, value, want)
			}
		}
	}
}

func TestDrainingTargetFinishesWhatItHas(t *testing.T) {
	release := make(chan struct{})
	f := served(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			<-release
		}
		fmt.Fprint(w, "done")
	})
	answered := make(chan int)
	go func() {
		code, _ := f.get(t)
		answered <- code
	}()
	await(t, "the request is under way", func() bool { return f.group.report()[0].InFlight == 1 })
	f.group.deregister([]Address{f.targets[0].address}, at)
	if code, _ := f.get(t); code != http.StatusServiceUnavailable {
		t.Errorf("a new request is answered by %d, want 503", code)
	}
	close(release)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("the request under way is answered by %d, want 200", code)
	}
}

func TestKeptAliveConnectionOfADrainingTargetIsNotUsed(t *testing.T) {
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }
	}
	one, two := httptest.NewServer(handler("one")), httptest.NewServer(handler("two"))
	defer one.Close()
	defer two.Close()
	f := newFront(t, nil, one.Listener.Addr(), two.Listener.Addr())
	for range 4 {
		f.get(t)
	}
	f.group.deregister([]Address{f.targets[0].address}, at)
	for range 4 {
		if _, body := f.get(t); body != "two" {
			t.Errorf("answered by %s", body)
		}
	}
	if f.targets[0].calls.idles() != 1 {
		t.Error("there was no kept connection to the draining target")
	}
}

func TestDelayThatIsOverIs502(t *testing.T) {
	f := served(t, nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	answered := make(chan int)
	go func() {
		code, _ := f.get(t)
		answered <- code
	}()
	await(t, "the request is under way", func() bool { return f.targets[0].calls.opens() == 1 })
	f.group.deregister([]Address{f.targets[0].address}, at)
	cut(f.group.expire(at.Add(time.Hour)))
	if code := <-answered; code != http.StatusBadGateway {
		t.Errorf("answer is %d, want 502", code)
	}
	if _, err := f.targets[0].calls.get(t.Context(), f.opts, f.targets[0].address.String()); !errors.Is(err, errDrained) {
		t.Errorf("a target that is no more is connected to: %v", err)
	}
}

func TestClientThatGoesAwayIs460(t *testing.T) {
	gone := make(chan struct{})
	f := served(t, nil, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			t.Errorf("answer is %s", resp.Status)
			_ = resp.Body.Close()
		}
	}()
	await(t, "the request is under way", func() bool { return f.targets[0].calls.opens() == 1 })
	leave()
	<-gone // The target learns it.
	await(t, "it is counted", func() bool { return f.stats.snapshot().Balancer[460] == 1 })
	if s := f.stats.snapshot(); s.CloudWatch()["HTTPCode_ELB_4XX_Count"] != 1 || s.CloudWatch()["HTTPCode_ELB_5XX_Count"] != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestClientThatSendsTooSlowlyIs408(t *testing.T) {
	f := served(t, func(o *Options) { o.IdleTimeout = 200 * time.Millisecond }, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})
	c, err := dial(t, f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
		t.Errorf("answer is %s, close %t, want 408 and the end", resp.Status, resp.Close)
	}
}

func TestAnswerBeforeTheRequestIsComplete(t *testing.T) {
	f := served(t, nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	c, err := dial(t, f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n12345")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || !resp.Close {
		t.Errorf("answer is %s, close %t, want 403 and the end", resp.Status, resp.Close)
	}
	await(t, "the request ends", func() bool { return f.inFlight.Load() == 0 && f.targets[0].calls.opens() == 0 })
}

func TestAnswersAreStreamed(t *testing.T) {
	more := make(chan struct{})
	f := served(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "one")
		_ = http.NewResponseController(w).Flush()
		<-more
		fmt.Fprintln(w, "two")
	})
	resp, err := ask(t, http.MethodGet, f.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); line != "one\n" {
		t.Errorf("first line is %q, %v", line, err)
	}
	close(more)
	if rest, err := io.ReadAll(r); string(rest) != "two\n" || err != nil {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

func TestAnswerThatEndsEarlyIsCut(t *testing.T) {
	addr, _ := raw(t, func(c net.Conn, r *bufio.Reader) {
		readRequest(r)
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
	})
	f := newFront(t, nil, addr)
	resp, err := ask(t, http.MethodGet, f.url, nil)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looks like a whole one")
	}
	await(t, "it is counted", func() bool { s := f.stats.snapshot(); return s.Cut == 1 && s.Target[200] == 1 })
}

func TestInformationalAnswersAreNoAnswer(t *testing.T) {
	addr, _ := raw(t, func(c net.Conn, r *bufio.Reader) {
		readRequest(r)
		fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	if code, body := newFront(t, nil, addr).get(t); code != http.StatusOK || body != "ok" {
		t.Errorf("answer is %d %s", code, body)
	}
}

func TestLimitOfRequestsUnderWay(t *testing.T) {
	release := make(chan struct{})
	f := served(t, func(o *Options) { o.MaxRequests = 1 }, func(http.ResponseWriter, *http.Request) { <-release })
	answered := make(chan int)
	go func() {
		code, _ := f.get(t)
		answered <- code
	}()
	await(t, "the request is under way", func() bool { return f.inFlight.Load() == 1 })
	if code, _ := f.get(t); code != http.StatusServiceUnavailable {
		t.Errorf("the second is answered by %d, want 503", code)
	}
	close(release)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("the first is answered by %d, want 200", code)
	}
}

// TestManyAtOnce is for the race detector: requests while targets come and go.
func TestManyAtOnce(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	var addresses []net.Addr
	for range 4 {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		addresses = append(addresses, server.Listener.Addr())
	}
	f := newFront(t, nil, addresses...)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for n := range 200 {
				want := strings.Repeat("x", n)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url, strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK || string(got) != want || err != nil {
					t.Errorf("answer is %s with %d bytes, %v", resp.Status, len(got), err)
				}
			}
		})
	}
	for n := range 200 {
		target := f.targets[n%3]
		f.group.deregister([]Address{target.address}, time.Now())
		f.group.register([]endpoint{{address: target.address}})
		f.group.checked(target, nil)
	}
	clients.Wait()
	if s := f.stats.snapshot(); s.Target[200] != 8*200 {
		t.Errorf("counted %+v", s)
	}
}
