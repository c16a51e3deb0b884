package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	// nodes take the pods of all measurements.
	nodes = 6
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

	proxy *promproxy.Server
	// adapter and peer are paths of binaries; empty is the one that was built, and none.
	adapter, peer string
	profiles      string // a folder; none if it is empty
	out           io.Writer
	configs       int          // files written
	as            *rest.Config // of the ServiceAccount that reads; nil until somebody does
	floor         *env.Adapter // nil until somebody compares with it
}

func startBed(ctx context.Context, o Options) (*bed, error) {
	b := &bed{out: o.Progress}
	var err error
	if b.adapter, err = absolute(o.Adapter); err != nil {
		return nil, err
	}
	if b.peer, err = absolute(o.Peer); err != nil {
		return nil, err
	}
	if b.profiles, err = absolute(o.Profiles); err != nil {
		return nil, err
	}
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

// noAmazon is for adapters that nobody asks for a metric of CloudWatch, so that they do not
// look for credentials.
var noAmazon = []string{"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"}

// absolute is a path from the root, as programs start in folders of their own; empty
// stays empty.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// with starts an adapter with a configuration file for the time of a function, and leads
// it to the proxy.
func (b *bed) with(ctx context.Context, config []byte, args []string, use func(*env.Adapter) error) error {
	led, err := b.toProxy(config)
	if err != nil {
		return err
	}
	return b.during(ctx, env.AdapterOptions{
		Binary: b.adapter,
		Args:   append(led, args...),
		Env:    noAmazon,
	}, use)
}

// withPeer starts prometheus-adapter for the time of a function; without one the function
// gets nil.
func (b *bed) withPeer(ctx context.Context, config []byte, use func(*env.Adapter) error) error {
	if b.peer == "" {
		return use(nil)
	}
	led, err := b.toProxy(config)
	if err != nil {
		return err
	}
	return b.during(ctx, env.AdapterOptions{
		Binary: b.peer,
		// By default it asks the API server 5 times a second at most, and a query for many pods is too long for an address.
		Args:  append(led, "--client-qps=500", "--client-burst=500", "--prometheus-verb=POST"),
		Apart: true,
	}, use)
}

// toProxy are the flags that give an adapter a configuration and lead it to the proxy.
func (b *bed) toProxy(config []byte) ([]string, error) {
	file, err := b.writeConfig(config)
	return []string{"--config=" + file, "--prometheus-url=" + b.proxy.URL()}, err
}

// writeConfig writes a configuration and gives its path.
func (b *bed) writeConfig(config []byte) (string, error) {
	b.configs++
	file := filepath.Join(b.Dir(), fmt.Sprintf("bench-%d.yaml", b.configs))
	return file, os.WriteFile(file, config, 0o600)
}

// startFloor starts what does nothing but answer, once; it runs until the bed stops.
func (b *bed) startFloor(ctx context.Context) (*env.Adapter, error) {
	if b.floor != nil {
		return b.floor, nil
	}
	var err error
	b.floor, err = b.StartAdapter(ctx, env.AdapterOptions{Binary: filepath.Join(b.Binaries(), "floor"), Apart: true})
	return b.floor, err
}

// during starts an adapter for the time of a function.
func (b *bed) during(ctx context.Context, o env.AdapterOptions, use func(*env.Adapter) error) error {
	a, err := b.StartAdapter(ctx, o)
	if err != nil {
		return err
	}
	used := use(a)
	if used != nil {
		used = fmt.Errorf("%w\nthe log of %s ends with:\n%s", used, a.Name(), tail(a.Logs()))
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
