package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// loaderTimeout is how long a loader may take to answer.
	loaderTimeout = 2 * time.Second
	// maxLoaders bounds the loaders.
	maxLoaders = 100
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 64 << 10
)

// loaders are driven by their admin ports. Each gets an equal share, also of one
// that does not answer: that one may go on with what it was told before.
type loaders struct {
	urls   []string // of /rate
	client *http.Client
	failed *prometheus.CounterVec

	mu     sync.Mutex
	silent map[string]bool
}

// parseLoaders reads the URLs of admin ports, with commas between them.
func parseLoaders(text string) ([]string, error) {
	var urls []string
	for part := range strings.SplitSeq(text, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("%q is not http:// and a host and a port", u.Redacted())
		}
		urls = append(urls, u.JoinPath("rate").String())
	}
	if len(urls) > maxLoaders {
		return nil, fmt.Errorf("%d loaders are more than %d", len(urls), maxLoaders)
	}
	return urls, nil
}

func newLoaders(urls []string, r *prometheus.Registry) *loaders {
	l := &loaders{
		urls:   urls,
		client: &http.Client{Timeout: loaderTimeout, Transport: &http.Transport{}},
		silent: map[string]bool{},
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "simulator_loader_failures_total", Help: "Times that a loader did not take its rate, by its URL.",
		}, []string{"loader"}),
	}
	r.MustRegister(l.failed)
	return l
}

// drive has them send so many requests a second together.
func (l *loaders) drive(ctx context.Context, rate float64) {
	body := fmt.Appendf(nil, `{"rate":%g}`, atLeast(rate/float64(len(l.urls))))
	l.each(func(u string) {
		err := l.ask(ctx, http.MethodPut, u, body)
		if err != nil {
			l.failed.WithLabelValues(u).Inc()
		}
		l.say(u, err)
	})
}

// atLeast makes a rate that is too low to be one into none. The lowest one that a
// loader takes is 0.001.
func atLeast(rate float64) float64 {
	if rate < 0.001 {
		return 0
	}
	return rate
}

// workers is how many answer.
func (l *loaders) workers(ctx context.Context) (int, error) {
	var mu sync.Mutex
	n := 0
	l.each(func(u string) {
		if l.ask(ctx, http.MethodGet, u, nil) == nil {
			mu.Lock()
			defer mu.Unlock()
			n++
		}
	})
	return n, nil
}

// each does something with all of them at the same time.
func (l *loaders) each(do func(u string)) {
	var all sync.WaitGroup
	for _, u := range l.urls {
		all.Go(func() { do(u) })
	}
	all.Wait()
}

// say logs that a loader does not answer, or does again.
func (l *loaders) say(u string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil && !l.silent[u]:
		slog.Warn("a loader is skipped", "loader", u, "error", err)
	case err == nil && l.silent[u]:
		slog.Info("a loader takes its rate again", "loader", u)
	}
	l.silent[u] = err != nil
}

func (l *loaders) ask(ctx context.Context, method, u string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return err
	}
	return send(l.client, req, nil)
}

// send sends a request and reads the JSON of its answer into a value, if there is one.
func send(client *http.Client, req *http.Request, into any) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %.300s", req.Method, req.URL.Redacted(), resp.Status, bytes.TrimSpace(text))
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
	}
	return nil
}
