package orders

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// load is clients that ask one after the other on connections that they keep.
type load struct {
	sent, closed atomic.Int64
	stop         chan struct{}
	clients      sync.WaitGroup

	mu       sync.Mutex
	failures []string
}

func startLoad(url string, clients int) *load {
	l := &load{stop: make(chan struct{})}
	for i := range clients {
		l.clients.Go(func() { l.run(url, i) })
	}
	return l
}

func (l *load) run(url string, client int) {
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	keeping := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		// A POST is not sent again by the client when its connection is cut.
		method, path, body, want := http.MethodPost, "/token", "", http.StatusOK
		switch client % 3 {
		case 0:
			path, body, want = "/api/orders", `{"item":"tea","quantity":1}`, http.StatusCreated
		case 1:
			method, path = http.MethodGet, "/api/orders"
		}
		l.sent.Add(1)
		a, err := askWith(keeping, method, url+path, body)
		if a.last {
			l.closed.Add(1)
		}
		if err != nil || a.status != want {
			l.mu.Lock()
			l.failures = append(l.failures, fmt.Sprintf("%s %s: %d %s %v", method, path, a.status, a.body, err))
			l.mu.Unlock()
		}
	}
}

// end stops the clients, of which no request may have failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.clients.Wait()
	if n := len(l.failures); n > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", n, l.sent.Load(), l.failures[0])
	}
}

// during lets the load go on for so many requests.
func (l *load) during(t *testing.T, requests int64) {
	t.Helper()
	until := l.sent.Load() + requests
	eventually(t, "requests", func() error {
		if got := l.sent.Load(); got < until {
			return fmt.Errorf("%d requests were sent, want %d", got, until)
		}
		return nil
	})
}

func TestStopFailsNoRequest(t *testing.T) {
	tests := []struct {
		name string
		stop func(t *testing.T, p *process)
	}{
		{"SIGTERM", func(_ *testing.T, p *process) { p.Terminate() }},
		{"/drain and SIGTERM", func(t *testing.T, p *process) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if a, err := ask(method, p.admin+"/drain", ""); err != nil || a.status != http.StatusOK {
					t.Errorf("%s /drain: %d %v", method, a.status, err)
				}
			}
			p.Terminate()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			web := b.web(t, "--drain", "1m", "--drain-idle", "1s", "--token-cost", "2ms")
			load := startLoad(web.http, 6)
			load.during(t, 100)
			test.stop(t, web)
			for _, path := range []string{"/healthz", "/readyz"} {
				eventually(t, path, func() error { return web.wantStatus(path, http.StatusServiceUnavailable) })
			}
			// As long as a load balancer sends requests they are served, and the metrics are there.
			before := load.closed.Load()
			load.during(t, 300)
			if load.closed.Load() == before {
				t.Error("no answer says that its connection ends")
			}
			if _, err := web.metric("http_requests_total"); err != nil {
				t.Error(err)
			}
			load.end(t)
			web.wantEnd(t, 0)
			b.wantDepth(t, ordersQueue, placed(t, b))
		})
	}
}

// placed is how many orders there are, as another web says.
func placed(t *testing.T, b *bed) int {
	t.Helper()
	all, _, err := b.web(t).counts()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDrainAloneEndsNothing(t *testing.T) {
	web := newBed(t).web(t, "--drain", "100ms", "--drain-idle", "0s")
	if a, err := ask(http.MethodPost, web.admin+"/drain", ""); err != nil || a.status != http.StatusOK {
		t.Fatalf("/drain: %d %v", a.status, err)
	}
	// It answered when health was bad.
	for _, path := range []string{"/healthz", "/readyz"} {
		if err := web.wantStatus(path, http.StatusServiceUnavailable); err != nil {
			t.Error(err)
		}
	}
	for range 20 {
		<-time.After(interval)
		web.place(t)
	}
	if a, err := ask(http.MethodGet, web.admin+"/livez", ""); err != nil || a.status != http.StatusOK {
		t.Errorf("/livez: %d %v: it would be restarted", a.status, err)
	}
	web.Terminate()
	web.wantEnd(t, 0)
}

func TestDrainTimeIsTheEnd(t *testing.T) {
	web := newBed(t).web(t, "--drain", "1s", "--drain-idle", "30s", "--token-cost", "1ms")
	load := startLoad(web.http, 3)
	load.during(t, 50)
	began := time.Now()
	web.Terminate()
	web.wantEnd(t, 0)
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("it took %v, want the 1s of --drain and little more", took)
	}
	close(load.stop)
	load.clients.Wait()
}

func TestProbesDoNotKeepItFromEnding(t *testing.T) {
	web := newBed(t).web(t, "--drain", "10m", "--drain-idle", "500ms")
	web.Terminate()
	for until := time.Now().Add(deadline); time.Now().Before(until); {
		if err := web.wantStatus("/healthz", http.StatusServiceUnavailable); err != nil {
			break // It has ended.
		}
		<-time.After(interval)
	}
	web.wantEnd(t, 0)
}

// TestRequestInFlightIsFinished: a request that has begun is answered, though nothing else
// comes and the time for new ones is over.
func TestRequestInFlightIsFinished(t *testing.T) {
	web := newBed(t).web(t, "--drain", "100ms", "--drain-idle", "0s", "--token-cost", "1s")
	answered := make(chan error, 1)
	go func() {
		a, err := ask(http.MethodPost, web.http+"/token", "")
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("answers %d", a.status)
		}
		answered <- err
	}()
	eventually(t, "the request is in flight", func() error {
		v, err := web.metric("process_cpu_seconds_total")
		if err == nil && v < 0.3 {
			err = errors.New("it has not begun")
		}
		return err
	})
	web.Terminate()
	if err := <-answered; err != nil {
		t.Errorf("the request that was in flight: %v", err)
	}
	web.wantEnd(t, 0)
}

func TestLimitsOfConnections(t *testing.T) {
	web := newBed(t).web(t)
	address := strings.TrimPrefix(web.http, "http://")
	tests := []struct {
		name, send, want string
	}{
		{"long header", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 64<<10), "HTTP/1.1 431"},
		{"long body", "POST /api/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n{\"item\":\"" + strings.Repeat("x", 19991), "HTTP/1.1 413"},
		{"slow header", "GET / HTTP/1.1\r\nHo", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, test.send); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			// It is answered or cut; the deadline says that it was neither.
			got, err := io.ReadAll(conn)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix(string(got), test.want) {
				t.Errorf("got %.40q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestTooManyAtOnce(t *testing.T) {
	web := newBed(t).web(t, "--max-in-flight", "2", "--token-cost", "300ms")
	var served, refused atomic.Int64
	var clients sync.WaitGroup
	for range 12 {
		clients.Go(func() {
			a, err := ask(http.MethodPost, web.http+"/token", "")
			switch {
			case err == nil && a.status == http.StatusOK:
				served.Add(1)
			case err == nil && a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "":
				refused.Add(1)
			default:
				t.Errorf("%d %s %v", a.status, a.body, err)
			}
		})
	}
	if err := web.wantStatus("/healthz", http.StatusOK); err != nil {
		t.Errorf("under load: %v", err)
	}
	clients.Wait()
	if served.Load() < 2 || refused.Load() == 0 {
		t.Errorf("%d were served and %d refused, of 12 with 2 at once", served.Load(), refused.Load())
	}
	wantSum(t, float64(refused.Load()), `http_requests_total{code="503",method="POST",path="/token"}`, web)
}

func TestToken(t *testing.T) {
	web := newBed(t).web(t, "--token-cost", "100ms")
	before, err := web.metric("process_cpu_seconds_total")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if a, err := ask(http.MethodPost, web.http+"/token", ""); err != nil || a.status != http.StatusOK || !strings.Contains(a.body, `"token"`) {
			t.Fatalf("%d %s %v", a.status, a.body, err)
		}
	}
	after, err := web.metric("process_cpu_seconds_total")
	if used := after - before; err != nil || used < 0.5 || used > 1 {
		t.Errorf("5 tokens of 100ms took %.2f s of CPU, %v", used, err)
	}
}
