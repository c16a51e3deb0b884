package serve

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// start starts a server, and returns its address as the log says it.
func start(t *testing.T, p Port) (*Server, string) {
	t.Helper()
	var log strings.Builder
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	s, err := Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	_, address, ok := strings.Cut(strings.TrimSpace(log.String()), "port="+p.Name+" address=")
	if !ok {
		t.Fatalf("the log does not say where: %s", log.String())
	}
	return s, address
}

// dial opens a connection on which nothing takes longer than a minute.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a request on a connection that stays open, and returns the answer's body.
func ask(t *testing.T, c net.Conn) string {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return answer(t, c)
}

func answer(t *testing.T, c net.Conn) string {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRequestsUnderWayEndBeforeAServerDoes(t *testing.T) {
	arrived, goOn := make(chan struct{}), make(chan struct{})
	s, address := start(t, Port{Name: "test", Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-goOn
		_, _ = io.WriteString(w, "whole")
	})})
	c := dial(t, address)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.WithoutCancel(t.Context())) }()
	close(goOn)
	if got := answer(t, c); got != "whole" {
		t.Errorf("the answer is %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// TestStopCutsWhatTakesTooLong: ctx is done, which has not to wait for the 5 s.
func TestStopCutsWhatTakesTooLong(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	s, address := start(t, Port{Name: "test", Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	})})
	if _, err := io.WriteString(dial(t, address), "GET / HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err == nil || !strings.Contains(err.Error(), "test port: requests were cut") {
		t.Errorf("error is %v, want that requests were cut", err)
	}
	<-ended
}

func TestConnectionsAreLimited(t *testing.T) {
	const most = 3
	asked, more := atomic.Int64{}, make(chan struct{}, 2)
	s, address := start(t, Port{Name: "test", Address: "127.0.0.1:0", MaxConnections: most, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > most {
			more <- struct{}{}
		}
		_, _ = io.WriteString(w, "ok")
	})})
	var idle []net.Conn
	for range most {
		c := dial(t, address)
		ask(t, c)
		idle = append(idle, c)
	}
	waiting := dial(t, address)
	if _, err := io.WriteString(waiting, "GET / HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(300 * time.Millisecond):
	case <-more:
		t.Errorf("connection %d is served, of %d at most", most+1, most)
	}
	if got := ask(t, idle[0]); got != "ok" {
		t.Errorf("an open connection is answered %q", got)
	}
	if err := idle[1].Close(); err != nil {
		t.Fatal(err)
	}
	if got := answer(t, waiting); got != "ok" {
		t.Errorf("when there is room the answer is %q", got)
	}
	// Accept waits for room again, and ends all the same.
	if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if len(s.Failed()) > 0 {
		t.Error(<-s.Failed())
	}
}

// TestRefusalCanBeRead: the end of the connection comes after the answer, and is no reset.
func TestRefusalCanBeRead(t *testing.T) {
	s, address := start(t, Port{Name: "test", Address: "127.0.0.1:0", Handler: http.NotFoundHandler()})
	c := dial(t, address)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\nX: "+strings.Repeat("x", 2*maxHeader)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 431") {
		t.Errorf("got %.40q, %v, want 431 and the end", got, err)
	}
	if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Port{Name: "test", Address: "127.0.0.1:0", Handler: http.NotFoundHandler()}) }()
	cancel()
	select {
	case err := <-ended:
		// It may have been told to end before it listened.
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
}

func TestAnAddressThatIsTakenIsSaid(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := Run(t.Context(), Port{Name: "admin", Address: l.Addr().String(), Handler: http.NotFoundHandler()}); err == nil || !strings.Contains(err.Error(), "admin port") {
		t.Errorf("%v, want what it was for", err)
	}
}
