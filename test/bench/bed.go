package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	// nodes take the pods of all measurements.
	nodes = 3
	// hpaSync is how often the HPA controller looks at each HPA, which is its default.
	hpaSync = 15 * time.Second

	// lookInterval is the pause between two looks at something that is awaited, and
	// sayInterval that between two words about it.
	lookInterval = 500 * time.Millisecond
	sayInterval  = 5 * time.Second

	stopLimit = 30 * time.Second
)

// bed is a cluster in front of something that plays a Prometheus. Measurements start
// adapters of their own.
type bed struct {
	*env.Cluster

	proxy   *promproxy.Server
	adapter string // path of the binary
	out     io.Writer
	configs int // files written
}

func startBed(ctx context.Context, o Options) (*bed, error) {
	b := &bed{out: o.Progress, adapter: o.Adapter}
	if o.Adapter != "" {
		var err error
		if b.adapter, err = filepath.Abs(o.Adapter); err != nil {
			return nil, err
		}
	}
	var err error
	if b.proxy, err = promproxy.Start(context.WithoutCancel(ctx), promproxy.Options{}); err != nil {
		return nil, err
	}
	b.say("starting the control plane")
	b.Cluster, err = env.Start(ctx, env.Options{Nodes: nodes, HPASync: hpaSync})
	if err != nil {
		b.proxy.Close()
		return nil, err
	}
	return b, nil
}

func (b *bed) stop() error {
	b.say("stopping the control plane")
	b.proxy.Close()
	return b.Stop()
}

// say tells of what is being done.
func (b *bed) say(format string, args ...any) {
	fmt.Fprintf(b.out, format+"\n", args...)
}

// startAdapter starts an adapter with a configuration file, and leads it to the proxy.
func (b *bed) startAdapter(ctx context.Context, config []byte, args ...string) (*env.Adapter, error) {
	b.configs++
	file := filepath.Join(b.Dir(), fmt.Sprintf("bench-%d.yaml", b.configs))
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	return b.StartAdapter(ctx, env.AdapterOptions{
		Binary: b.adapter,
		Args:   append([]string{"--config=" + file, "--prometheus-url=" + b.proxy.URL()}, args...),
		// Nobody asks for a metric of CloudWatch, and nobody is to look for credentials.
		Env: []string{"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"},
	})
}

// with starts an adapter for the time of a function.
func (b *bed) with(ctx context.Context, config []byte, args []string, use func(*env.Adapter) error) error {
	a, err := b.startAdapter(ctx, config, args...)
	if err != nil {
		return err
	}
	used := use(a)
	if used != nil {
		used = fmt.Errorf("%w\nthe adapter's log ends with:\n%s", used, tail(a.Logs()))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	_, err = a.Stop(ctx)
	return errors.Join(used, err)
}

// tail is the end of a log.
func tail(log string) string {
	const enough = 2000
	return log[max(0, len(log)-enough):]
}

// await looks until what it awaits is there, and says from time to time what it sees.
func (b *bed) await(ctx context.Context, what string, limit time.Duration, look func(context.Context) (seen string, done bool, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	said := time.Now()
	for {
		seen, done, err := look(ctx)
		if done && err == nil {
			return nil
		}
		if err != nil {
			seen = err.Error()
		}
		if time.Since(said) >= sayInterval {
			said = time.Now()
			b.say("%s: %s", what, seen)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", what, context.Cause(ctx), seen)
		case <-tick.C:
		}
	}
}
