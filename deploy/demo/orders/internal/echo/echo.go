// Package echo answers with what it was asked: which pod, under which Host, and what the
// load balancers on the way have added. With three of it behind one entry point it is seen which
// one a request reaches, and as what.
package echo

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
)

// Limits of what is sent back. A server takes requests that are larger.
const (
	maxValues = 8
	maxBytes  = 1024
)

// forwarded are the headers that say how a request came here. X-Forwarded-* are too.
var forwarded = []string{"Forwarded", "Via", "X-Amzn-Trace-Id", "X-Real-Ip"}

// Answer is what a request is answered with.
type Answer struct {
	Pod    string `json:"pod"`
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
	Client string `json:"client"` // The address that the connection came from.
	// Forwarded are the headers that say how the request came here.
	Forwarded map[string][]string `json:"forwarded"`
}

// Run is the mode: it answers until ctx is done.
func Run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("echo", flag.ContinueOnError)
	listen := fs.String("listen", ":8080", "where to answer")
	if err := flags.Parse(fs, args); err != nil {
		return err
	}
	pod := os.Getenv("POD_NAME")
	if pod == "" {
		pod, _ = os.Hostname() // Without either it has no name.
	}
	return serve.Run(ctx, serve.Port{Name: "echo", Address: *listen, Handler: Handler(pod)})
}

// Handler answers for the pod: as JSON to who accepts application/json, and otherwise as
// plain text, which no browser takes for HTML. /healthz is for the load balancer.
func Handler(pod string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Vary", "Accept")
		a := about(pod, r)
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(a) // It writes <, > and & as \u003c and so on. Who asked may have gone.
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		a.write(w)
	})
	return mux
}

func about(pod string, r *http.Request) Answer {
	a := Answer{
		Pod:    pod,
		Method: r.Method,
		Host:   short(r.Host),
		// As it was sent: decoded, it could have lines of its own.
		Path:      short(r.URL.RequestURI()),
		Client:    r.RemoteAddr,
		Forwarded: map[string][]string{},
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		values := r.Header[name]
		if !strings.HasPrefix(name, "X-Forwarded-") && !slices.Contains(forwarded, name) || len(a.Forwarded) >= maxValues {
			continue
		}
		for _, v := range values[:min(len(values), maxValues)] {
			a.Forwarded[short(name)] = append(a.Forwarded[short(name)], short(v))
		}
	}
	return a
}

// short is a text in valid UTF-8, cut where it gets too long.
func short(text string) string {
	if len(text) > maxBytes {
		text = text[:maxBytes] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

func (a Answer) write(w io.Writer) {
	fmt.Fprintf(w, "pod: %s\nmethod: %s\nhost: %s\npath: %s\nclient: %s\n", a.Pod, a.Method, a.Host, a.Path, a.Client)
	for _, name := range slices.Sorted(maps.Keys(a.Forwarded)) {
		for _, v := range a.Forwarded[name] {
			fmt.Fprintf(w, "%s: %s\n", strings.ToLower(name), v)
		}
	}
}
