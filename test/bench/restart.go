package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	restartHPAs       = 1000
	restartNamespaces = 10
	restartPods       = 100
	restarts          = 3
	betweenRestarts   = 5 * time.Second
	// restartReaders are as many as the HPA controller has workers.
	restartReaders = 5
	// atOnce is how long a first read may take, and readyEvery the pause between two
	// looks whether the adapter is ready.
	atOnce     = 50 * time.Millisecond
	readyEvery = 10 * time.Millisecond
	readyLimit = time.Minute

	readsCounter = "tidegauge_reads_total"

	figReady   = "from the start to ready, at most"
	figSlow    = "first reads that took more than 50 ms"
	figSlowest = "slowest first read"
	figFirst99 = "p99 of the first reads, at most"
	figWaited  = "first reads that waited for the first fetch"
)

// restart measures an adapter that starts where many HPAs wait for it. The first reads are
// compared with the same reads made again at once: what these take too is not the start's.
func restart() measurement {
	return measurement{
		name: "restart",
		figures: []figure{
			{name: figReady, unit: "s", atMost: new(5.0)},
			{name: figSlow, atMost: new(0.0)},
			{name: figSlowest, unit: "ms"},
			{name: figFirst99, unit: "ms"},
			{name: figWaited},
		},
		run: measureRestart,
	}
}

func measureRestart(ctx context.Context, b *bed) (map[string]measured, error) {
	metrics, pods := spread("bench-restart", restartHPAs, restartNamespaces), spread("bench-restart", restartPods, restartNamespaces)
	values := map[string]measured{}
	err := b.withMany(ctx, metrics, pods, podLimit+hpaLimit, func(_ *fakeaws.Server, a *env.Adapter) error {
		client, err := b.reader(ctx, a)
		if err != nil {
			return err
		}
		urls := append(externalURLs(a, metrics), podsURLs(a, metrics)...)
		for n := range restarts {
			if err := pause(ctx, betweenRestarts); err != nil {
				return err
			}
			s, err := b.restartOnce(ctx, a, client, urls)
			if err != nil {
				return err
			}
			b.say("restart %d of %d: %v", n+1, restarts, s)
			s.into(values)
		}
		return nil
	})
	return values, err
}

// start is how an adapter started.
type start struct {
	ready time.Duration
	// first are the reads that came as soon as it was ready, and again the same reads
	// after them.
	first, again []time.Duration
	waited       float64 // of the first, for a fetch
}

func (s start) String() string {
	return fmt.Sprintf("ready after %v; first reads p50 %v, p99 %v, %v at most, %d of %d took more than %v, %v waited for a fetch; again p99 %v, %v at most, %d",
		s.ready.Round(time.Millisecond), durationAt(s.first, 0.5), durationAt(s.first, 0.99), durationAt(s.first, 1),
		slow(s.first), len(s.first), atOnce, s.waited,
		durationAt(s.again, 0.99), durationAt(s.again, 1), slow(s.again))
}

// into takes the worse of what is there and s.
func (s start) into(values map[string]measured) {
	worse := func(name string, value float64, again *float64) {
		m := values[name]
		m.value = max(m.value, value)
		if again != nil {
			if m.floor != nil {
				again = new(max(*again, *m.floor))
			}
			m.floor = again
		}
		values[name] = m
	}
	worse(figReady, s.ready.Seconds(), nil)
	worse(figWaited, s.waited, nil)
	worse(figSlow, float64(slow(s.first)), new(float64(slow(s.again))))
	worse(figSlowest, milliseconds(durationAt(s.first, 1)), new(milliseconds(durationAt(s.again, 1))))
	worse(figFirst99, milliseconds(durationAt(s.first, 0.99)), new(milliseconds(durationAt(s.again, 0.99))))
}

// durationAt is a quantile of some durations, to a tenth of a millisecond.
func durationAt(all []time.Duration, part float64) time.Duration {
	values := make([]float64, len(all))
	for i, d := range all {
		values[i] = float64(d)
	}
	return time.Duration(quantile(values, part)).Round(time.Millisecond / 10)
}

// restartOnce stops the adapter, starts it, and reads everything once it is ready.
func (b *bed) restartOnce(ctx context.Context, a *env.Adapter, client *http.Client, urls []string) (start, error) {
	stopping, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if _, err := a.Stop(stopping); err != nil {
		return start{}, err
	}
	client.CloseIdleConnections()

	var s start
	started := make(chan error, 1)
	began := time.Now()
	go func() { started <- a.Process.Restart(ctx) }()
	err := b.awaitReady(ctx, a)
	s.ready = time.Since(began)
	if err == nil {
		s.first, err = readEach(ctx, client, urls, restartReaders)
	}
	if err == nil {
		s.waited, err = b.waited(ctx, a, len(urls))
	}
	if err == nil {
		s.again, err = readEach(ctx, client, urls, restartReaders)
	}
	return s, errors.Join(err, <-started)
}

// waited is how many of the reads so far waited for a fetch.
func (b *bed) waited(ctx context.Context, a *env.Adapter, reads int) (float64, error) {
	all, err := counterOf(ctx, a.Config(b.Config()), readsCounter, nil)
	if err != nil {
		return 0, err
	}
	if all < float64(reads) {
		return 0, fmt.Errorf("%s is %v after %d reads", readsCounter, all, reads)
	}
	return counterOf(ctx, a.Config(b.Config()), readsCounter, map[string]string{"result": "waited"})
}

// awaitReady looks at the adapter's readiness all the time.
func (b *bed) awaitReady(ctx context.Context, a *env.Adapter) error {
	config := a.Config(b.Config())
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("the adapter was not ready within %v", readyLimit))
	defer cancel()
	for {
		_, err := read(ctx, client, config.Host+"/readyz")
		if err == nil {
			return nil
		}
		if pause(ctx, readyEvery) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
