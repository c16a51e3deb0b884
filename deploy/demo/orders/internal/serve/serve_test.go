package serve

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestRequestsUnderWayEndBeforeAServerDoes(t *testing.T) {
	var log strings.Builder
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	arrived, goOn := make(chan struct{}), make(chan struct{})
	stop, err := Start(t.Context(), "test", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-goOn
		_, _ = io.WriteString(w, "whole")
	}))
	if err != nil {
		t.Fatal(err)
	}
	_, address, ok := strings.Cut(strings.TrimSpace(log.String()), "address=")
	if !ok {
		t.Fatalf("the log does not say where: %s", log.String())
	}
	answers := make(chan string)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		answers <- string(text)
	}()
	<-arrived
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	close(goOn)
	if got := <-answers; got != "whole" {
		t.Errorf("the answer is %q", got)
	}
	<-stopped
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

func TestAnAddressThatIsTakenIsSaid(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if _, err := Start(t.Context(), "admin", l.Addr().String(), http.NotFoundHandler()); err == nil || !strings.Contains(err.Error(), "listening for admin") {
		t.Errorf("%v, want what it was for", err)
	}
}
