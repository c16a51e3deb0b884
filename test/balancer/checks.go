package balancer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// probe asks one target for its health and returns the code of its answer.
type probe func(ctx context.Context, url string) (code int, err error)

// checker checks every target of a group, each at its own times.
type checker struct {
	opts    Options
	group   *group
	matcher matcher
	probe   probe
	running sync.WaitGroup
}

func newChecker(opts Options, g *group) (*checker, error) {
	m, err := parseMatcher(opts.Health.Matcher)
	return &checker{opts: opts, group: g, matcher: m, probe: newProbe(opts)}, err
}

// start checks targets until they drain or ctx is done: at once, and then at every
// interval, however long an answer takes.
func (c *checker) start(ctx context.Context, targets []*target) {
	for _, t := range targets {
		ctx, end := context.WithCancel(ctx)
		url := "http://" + t.health + c.opts.Health.Path
		c.group.started(t, end)
		c.running.Go(func() {
			ticker := time.NewTicker(c.opts.Health.Interval)
			defer ticker.Stop()
			for ctx.Err() == nil {
				if failure := c.check(ctx, url); ctx.Err() == nil {
					c.group.checked(t, failure)
				}
				select {
				case <-ctx.Done():
				case <-ticker.C:
				}
			}
		})
	}
}

// check asks once and returns what is wrong, or nil.
func (c *checker) check(ctx context.Context, url string) *Condition {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Health.Timeout)
	defer cancel()
	code, err := c.probe(ctx, url)
	switch {
	case timedOut(err):
		return &Condition{Unhealthy, "Target.Timeout", "Request timed out"}
	case err != nil:
		return &Condition{Unhealthy, "Target.FailedHealthChecks", "Health checks failed"}
	case !c.matcher.matches(code):
		return &Condition{Unhealthy, "Target.ResponseCodeMismatch", fmt.Sprintf("Health checks failed with these codes: [%d]", code)}
	}
	return nil
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// newProbe asks by GET, on a connection of its own that is closed after it.
func newProbe(opts Options) probe {
	client := &http.Client{
		Transport:     &http.Transport{DialContext: opts.Dial, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, url string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return 0, err
		}
		req.Header.Set("User-Agent", "ELB-HealthChecker/2.0")
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
}
