// Package page shows the demo in a browser: one page on a loopback address, whose plots
// follow a stream of snapshots. It asks nobody but the server that it came from.
package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// Interval is how often a Page asks its Source.
	Interval = time.Second
	// askLimit is less, so that a Source that hangs costs one snapshot and not the next.
	askLimit = Interval * 9 / 10
	// keepFor is how long the history is.
	keepFor = 30 * time.Minute
	// maxClients is how many browsers may follow at a time.
	maxClients = 16
	// backlog is how many snapshots a browser may be behind before it is dropped. It
	// comes back by itself and gets the whole history.
	backlog = 10
	// writeLimit bounds one write to a browser, and readLimit a request's headers.
	writeLimit = 5 * time.Second
	readLimit  = 5 * time.Second
	// retryAfter is when a browser that was dropped tries again.
	retryAfter = 2 * time.Second
	maxHeader  = 16 << 10
)

// Source says how things are.
type Source interface {
	// Snapshot is what is known now. It must not wait for what is away: it is called once
	// in an Interval, with a context that ends before the next, and while it takes longer the
	// page shows a gap. A Time of zero is when it was called.
	Snapshot(ctx context.Context) Snapshot
}

// Page keeps the history and serves it. It is safe for concurrent use.
type Page struct {
	source Source

	mu      sync.Mutex
	history *ring[json.RawMessage] // points
	latest  json.RawMessage        // nil before the first snapshot
	clients map[chan json.RawMessage]struct{}
}

// New makes a page of what the source says once Run is called. The source may be nil if
// Add is called instead.
func New(source Source) *Page {
	return &Page{
		source:  source,
		history: newRing[json.RawMessage](int(keepFor / Interval)),
		clients: map[chan json.RawMessage]struct{}{},
	}
}

// Run asks the source in each Interval until ctx is done.
func (p *Page) Run(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		p.ask(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Page) ask(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	s := p.source.Snapshot(ctx)
	if s.Time.IsZero() {
		s.Time = began
	}
	if err := p.Add(s); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot show a snapshot")
	}
}

// Add shows a snapshot. Snapshots are to come in the order of their times.
func (p *Page) Add(s Snapshot) error {
	s = s.bounded()
	point, err := json.Marshal(pointOf(&s))
	if err != nil {
		return err
	}
	latest, err := json.Marshal(s)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history.add(point)
	p.latest = latest
	for client := range p.clients {
		select {
		case client <- latest:
		default: // Too slow: it finds out by the end of its channel.
			delete(p.clients, client)
			close(client)
		}
	}
	return nil
}

// follow gives what was and then what comes. It is false if there are too many already.
func (p *Page) follow() (history []json.RawMessage, latest json.RawMessage, next chan json.RawMessage, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.clients) >= maxClients {
		return nil, nil, nil, false
	}
	next = make(chan json.RawMessage, backlog)
	p.clients[next] = struct{}{}
	return p.history.all(), p.latest, next, true
}

func (p *Page) unfollow(client chan json.RawMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.clients, client)
}

// Serve serves the page on a loopback address, such as 127.0.0.1:0, until ctx is done. Ready
// is told the page's URL once it is there; it may be nil.
func (p *Page) Serve(ctx context.Context, address string, ready func(url string)) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return fmt.Errorf("page: %q is no loopback address and port, such as 127.0.0.1:8090: the page has no passwords and is for this machine only", address)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("page: %w", err)
	}
	server := &http.Server{
		Handler:           p.Handler(),
		ReadHeaderTimeout: readLimit,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if ready != nil {
		ready("http://" + listener.Addr().String() + "/")
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("page: %w", err)
	}
	return nil
}

//go:embed static
var static embed.FS

// policy lets the page load its own files and talk to its own server, and nothing else
// (https://www.w3.org/TR/CSP3/).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handler serves /, /static/, /events and /snapshot.json to whoever asks for a loopback
// host.
func (p *Page) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]struct{ name, kind string }{
		"/{$}":             {"index.html", "text/html; charset=utf-8"},
		"/static/page.css": {"page.css", "text/css; charset=utf-8"},
		"/static/plot.js":  {"plot.js", "text/javascript; charset=utf-8"},
		"/static/page.js":  {"page.js", "text/javascript; charset=utf-8"},
		"/static/icon.svg": {"icon.svg", "image/svg+xml"},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			text, err := fs.ReadFile(static, "static/"+file.name)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", file.kind)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
		})
	}
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("GET /snapshot.json", p.snapshot)
	return guarded(mux)
}

// guarded refuses other hosts than this machine by its own names. A page of elsewhere whose
// name was made to lead to 127.0.0.1 says its own name in Host, and so cannot read this one.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if !isLoopback(r.Host) {
			http.Error(w, "this page is for 127.0.0.1 and localhost only", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isLoopback says whether a Host header, with or without a port, names this machine.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func (p *Page) snapshot(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	latest := p.latest
	p.mu.Unlock()
	if latest == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "there is no snapshot yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(latest)
}

// events is a stream of server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html): one history, an array of
// points, and then snapshots.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	history, latest, next, ok := p.follow()
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(writeLimit.Seconds())))
		http.Error(w, fmt.Sprintf("%d browsers follow already: close one", maxClients), http.StatusServiceUnavailable)
		return
	}
	defer p.unfollow(next)
	w.Header().Set("Content-Type", "text/event-stream")
	s := stream{w, http.NewResponseController(w)}
	if s.begin(history, latest) != nil {
		return
	}
	for {
		select {
		case snapshot, ok := <-next:
			if !ok || s.send("snapshot", snapshot) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// stream writes events to a browser.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s stream) begin(history []json.RawMessage, latest json.RawMessage) error {
	points, err := json.Marshal(history)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.w, "retry: %d\n", retryAfter.Milliseconds()); err != nil {
		return err
	}
	if err := s.send("history", points); err != nil || latest == nil {
		return err
	}
	return s.send("latest", latest)
}

// send writes an event. JSON as encoding/json writes it has no line breaks.
func (s stream) send(kind string, data []byte) error {
	// Where nobody listens to deadlines, as in a test's recorder, there are none.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", kind, data); err != nil {
		return err
	}
	return s.control.Flush()
}
