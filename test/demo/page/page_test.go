package page

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func add(t *testing.T, p *Page, word string) {
	t.Helper()
	if err := p.Add(Snapshot{Time: time.Unix(1, 0), Phase: Phase{Word: word}}); err != nil {
		t.Fatal(err)
	}
}

// get is the answer to a GET for a host.
func get(t *testing.T, p *Page, host, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, r)
	return w
}

func TestPageIsForLoopbackHostsOnly(t *testing.T) {
	p := New(nil)
	add(t, p, "idle")
	for host, want := range map[string]int{
		"127.0.0.1:8090":         http.StatusOK,
		"127.0.0.1":              http.StatusOK,
		"localhost:8090":         http.StatusOK,
		"[::1]:8090":             http.StatusOK,
		"[::1]":                  http.StatusOK,
		"evil.example:8090":      http.StatusMisdirectedRequest,
		"127.0.0.1.evil.example": http.StatusMisdirectedRequest,
		"localhost.evil.example": http.StatusMisdirectedRequest,
		"192.0.2.1:8090":         http.StatusMisdirectedRequest,
		"":                       http.StatusMisdirectedRequest,
	} {
		for _, path := range []string{"/", "/snapshot.json", "/static/page.js"} {
			if got := get(t, p, host, path).Code; got != want {
				t.Errorf("%s for host %q: got %d, want %d", path, host, got, want)
			}
		}
	}
}

func TestServeRefusesAddressesOfOthers(t *testing.T) {
	for _, address := range []string{":8090", "0.0.0.0:0", "192.0.2.1:80", "localhost:80", "[::]:0", ""} {
		if err := New(nil).Serve(t.Context(), address, nil); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%q: got %v", address, err)
		}
	}
}

func TestEverythingHasAPolicyAndIsNotKept(t *testing.T) {
	p := New(nil)
	add(t, p, "idle")
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/static/page.css": "text/css; charset=utf-8", "/static/plot.js": "text/javascript; charset=utf-8",
		"/static/page.js": "text/javascript; charset=utf-8", "/static/icon.svg": "image/svg+xml", "/snapshot.json": "application/json",
	} {
		r := get(t, p, "localhost", path)
		if r.Code != http.StatusOK || r.Header().Get("Content-Type") != kind {
			t.Errorf("%s: %d, %s", path, r.Code, r.Header().Get("Content-Type"))
		}
		csp := r.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if r.Header().Get("Cache-Control") != "no-store" || r.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, r.Header())
		}
	}
	for _, path := range []string{"/static/", "/static/../page.go", "/other"} {
		if r := get(t, p, "localhost", path); r.Code == http.StatusOK {
			t.Errorf("%s is there", path)
		}
	}
}

// TestNothingComesFromOutside looks for addresses in the files of the page: those of XML
// namespaces are none that a browser asks.
func TestNothingComesFromOutside(t *testing.T) {
	address := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}|@import|url\(`)
	err := fs.WalkDir(static, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(static, path)
		for _, found := range address.FindAllString(string(text), -1) {
			if found != "http://www.w3.org" {
				t.Errorf("%s has %s", path, found)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotIsTheNewest(t *testing.T) {
	p := New(nil)
	if r := get(t, p, "localhost", "/snapshot.json"); r.Code != http.StatusServiceUnavailable || r.Header().Get("Retry-After") == "" {
		t.Errorf("before the first: %d", r.Code)
	}
	add(t, p, "idle")
	add(t, p, "rise")
	var s Snapshot
	if err := json.Unmarshal(get(t, p, "localhost", "/snapshot.json").Body.Bytes(), &s); err != nil || s.Phase.Word != "rise" {
		t.Errorf("got %+v: %v", s, err)
	}
}

// event is one of a stream.
type event struct{ kind, data string }

// listen gives the events of a server.
func listen(t *testing.T, url string) (next func() (event, error), stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("got %s", response.Status)
	}
	stop = func() {
		cancel()
		_ = response.Body.Close()
	}
	t.Cleanup(stop)
	lines := bufio.NewReader(response.Body)
	return func() (event, error) {
		var e event
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return e, err
			}
			line = strings.TrimSuffix(line, "\n")
			if kind, ok := strings.CutPrefix(line, "event: "); ok {
				e.kind = kind
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				e.data = data
			}
			if line == "" && e.kind != "" {
				return e, nil
			}
		}
	}, stop
}

func TestEventsReplayTheHistoryAndThenFollow(t *testing.T) {
	p := New(nil)
	add(t, p, "idle")
	add(t, p, "rise")
	server := httptest.NewServer(p.Handler())
	t.Cleanup(server.Close)
	next, stop := listen(t, server.URL)
	history, err := next()
	if err != nil || history.kind != "history" {
		t.Fatalf("got %+v: %v", history, err)
	}
	var points []point
	if err := json.Unmarshal([]byte(history.data), &points); err != nil || len(points) != 2 || points[1].Phase != "rise" {
		t.Errorf("got %+v: %v", points, err)
	}
	if latest, err := next(); err != nil || latest.kind != "latest" || !strings.Contains(latest.data, `"word":"rise"`) {
		t.Errorf("got %+v: %v", latest, err)
	}
	add(t, p, "fall")
	if e, err := next(); err != nil || e.kind != "snapshot" || !strings.Contains(e.data, `"word":"fall"`) {
		t.Errorf("got %+v: %v", e, err)
	}
	stop()
	awaitClients(t, p, 0)
}

func awaitClients(t *testing.T, p *Page, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		p.mu.Lock()
		got := len(p.clients)
		p.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are %d clients, want %d", got, want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	p := New(nil)
	most := int(keepFor / Interval)
	for range most + 10 {
		add(t, p, "idle")
	}
	if got := len(p.history.all()); got != most {
		t.Errorf("got %d points, want %d", got, most)
	}
}

func TestClientsAreBounded(t *testing.T) {
	p := New(nil)
	add(t, p, "idle")
	server := httptest.NewServer(p.Handler())
	t.Cleanup(server.Close)
	var stops []func()
	for range maxClients {
		next, stop := listen(t, server.URL)
		if _, err := next(); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	r := get(t, p, "localhost", "/events")
	if r.Code != http.StatusServiceUnavailable || r.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: got %d", r.Code)
	}
	for _, stop := range stops {
		stop()
	}
	awaitClients(t, p, 0)
}

// TestSlowClientsAreDropped has a client that takes nothing, and one that takes all.
func TestSlowClientsAreDropped(t *testing.T) {
	p := New(nil)
	_, _, slow, ok := p.follow()
	_, _, quick, also := p.follow()
	if !ok || !also {
		t.Fatal("cannot follow")
	}
	for range backlog + 1 {
		add(t, p, "idle")
		<-quick
	}
	n := 0
	for range slow {
		n++
	}
	if n != backlog {
		t.Errorf("the slow client got %d, want %d and then the end", n, backlog)
	}
	add(t, p, "rise")
	if len(quick) != 1 {
		t.Error("the quick client was dropped too")
	}
	p.unfollow(slow) // As its handler does at its end.
}

// told is a Source.
type told func(context.Context) Snapshot

func (f told) Snapshot(ctx context.Context) Snapshot { return f(ctx) }

func TestRunAsksOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		calls := 0
		p := New(told(func(ctx context.Context) Snapshot {
			calls++
			if calls == 3 { // It hangs once.
				<-ctx.Done()
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					t.Errorf("got %v", ctx.Err())
				}
			}
			return Snapshot{}
		}))
		over := make(chan struct{})
		go func() {
			defer close(over)
			p.Run(ctx)
		}()
		<-time.After(9*Interval + Interval/2)
		synctest.Wait()
		if calls != 10 {
			t.Errorf("asked %d times in 9 s", calls)
		}
		var points []point
		for _, text := range p.history.all() {
			var pt point
			if err := json.Unmarshal(text, &pt); err != nil {
				t.Fatal(err)
			}
			points = append(points, pt)
		}
		for i := 1; i < len(points); i++ {
			if points[i].Time <= points[i-1].Time {
				t.Errorf("point %d is of %d, after %d", i, points[i].Time, points[i-1].Time)
			}
		}
		stop()
		<-over
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	p := New(nil)
	urls, over := make(chan string, 1), make(chan error, 1)
	go func() { over <- p.Serve(ctx, "127.0.0.1:0", func(url string) { urls <- url }) }()
	url := strings.TrimSuffix(<-urls, "/")
	next, _ := listen(t, url)
	if e, err := next(); err != nil || e.kind != "history" || e.data != "[]" {
		t.Errorf("got %+v: %v", e, err)
	}
	stop()
	if err := <-over; err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := next(); err == nil {
		t.Error("the stream goes on")
	}
}
