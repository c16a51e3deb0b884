package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	// adapterVariable is the environment variable that names the adapter's binary, such
	// as one with the race detector, in place of the test bed's.
	adapterVariable = "TIDEGAUGE_ADAPTER"
	// publish is how often the stand-in makes metrics of queue depths.
	publish = time.Second
	// scrape is how often Prometheus scrapes.
	scrape = time.Second
	// maxClusters is how many clusters run at once beside the shared one.
	maxClusters = 3
)

// bed is a cluster, an AWS stand-in and, once started, an adapter between them.
type bed struct {
	*env.Cluster

	aws     *fakeaws.Server
	adapter *env.Adapter

	// These are nil unless startPrometheus was called.
	player     *player.Player
	prometheus *env.Prometheus
	proxy      *promproxy.Server // between the adapter and prometheus
}

// startBed starts a bed without an adapter.
func startBed(ctx context.Context) (*bed, error) {
	aws, err := fakeaws.Start(context.WithoutCancel(ctx), fakeaws.Options{PublishInterval: publish})
	if err != nil {
		return nil, err
	}
	cluster, err := env.Start(ctx, env.Options{Nodes: 1})
	if err != nil {
		aws.Close()
		return nil, err
	}
	return &bed{Cluster: cluster, aws: aws}, nil
}

// stop also tells of what the race detector found, if the adapter has it.
func (b *bed) stop() error {
	var raced error
	if b.adapter != nil && strings.Contains(b.adapter.Logs(), "WARNING: DATA RACE") {
		raced = fmt.Errorf("data race in the adapter:\n%s", tail(b.adapter.Logs()))
	}
	err := b.Stop()
	b.aws.Close()
	if b.proxy != nil {
		b.proxy.Close()
	}
	if b.player != nil {
		b.player.Close()
	}
	return errors.Join(raced, err)
}

// startPrometheus starts a real Prometheus that scrapes the bed's pods, which the player
// plays, and a proxy in front of it, by which tests see what it is asked and let it fail.
func (b *bed) startPrometheus(ctx context.Context) error {
	return b.startPrometheusEvery(ctx, scrape)
}

// startPrometheusEvery is startPrometheus with another interval of the scrapes.
func (b *bed) startPrometheusEvery(ctx context.Context, interval time.Duration) error {
	var err error
	if b.player, err = player.Start(context.WithoutCancel(ctx), player.Options{}); err != nil {
		return err
	}
	if b.proxy, err = promproxy.Start(context.WithoutCancel(ctx), promproxy.Options{}); err != nil {
		return err
	}
	b.prometheus, err = b.StartPrometheus(ctx, env.PrometheusOptions{PlayerURL: b.player.URL(), ScrapeInterval: interval})
	if err != nil {
		return err
	}
	return b.proxy.SetUpstream(b.prometheus.URL)
}

// withRules are the arguments of an adapter that asks the bed's Prometheus by the rules of
// testdata.
func (b *bed) withRules() []string {
	return []string{
		"--config=" + testdata("rules.yaml"),
		"--prometheus-url=" + b.proxy.URL(),
		"--metrics-relist-interval=2s",
	}
}

// testdata is the absolute path of a file of testdata, as the adapter has a folder of its own.
func testdata(file string) string {
	path, err := filepath.Abs(filepath.Join("testdata", file))
	if err != nil {
		panic(err) // The working directory is gone.
	}
	return path
}

// startAdapter starts the bed's adapter, which has the stand-in's static key pair.
func (b *bed) startAdapter(ctx context.Context, args ...string) error {
	return b.startAdapterAs(ctx, []string{
		"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID(),
		"AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey(),
	}, args...)
}

// startAdapterAs starts the bed's adapter with credentials of the caller's choice.
func (b *bed) startAdapterAs(ctx context.Context, credentials []string, args ...string) error {
	var err error
	b.adapter, err = b.StartAdapter(ctx, env.AdapterOptions{
		Binary: b.adapterBinary(),
		Args:   args,
		Env:    append([]string{"AWS_ENDPOINT_URL=" + b.aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion}, credentials...),

		ResourceMetrics: b.prometheus != nil,
	})
	return err
}

func (b *bed) adapterBinary() string {
	return cmp.Or(os.Getenv(adapterVariable), filepath.Join(b.Binaries(), "adapter"))
}

var (
	sharedMu sync.Mutex
	shared   *bed
)

// sharedBed is the bed of all tests that neither stop nor configure a part of it. The
// first one to ask starts it.
func sharedBed(t *testing.T) *bed {
	t.Helper()
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared != nil {
		return shared
	}
	ctx := context.WithoutCancel(t.Context()) // It outlives the test that starts it.
	b, err := startBed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.startPrometheus(ctx); err != nil {
		t.Fatal(errors.Join(err, b.stop()))
	}
	if err := b.startAdapter(ctx, b.withRules()...); err != nil {
		t.Fatal(errors.Join(err, b.stop()))
	}
	shared = b
	return b
}

func stopShared() error {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared == nil {
		return nil
	}
	if err := shared.stop(); err != nil {
		return fmt.Errorf("shared test bed: %w", err)
	}
	return nil
}

// slots hold an entry for each cluster that runs beside the shared one.
var slots = make(chan struct{}, maxClusters)

// ownBed is a bed for one test, without an adapter. The test may stop and restart what
// it likes.
func ownBed(t *testing.T) *bed {
	t.Helper()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	b, err := startBed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && b.adapter != nil {
			t.Logf("the adapter's log:\n%s", tail(b.adapter.Logs()))
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// ownBedWithAdapter is ownBed with an adapter of the default configuration and the
// additional arguments.
func ownBedWithAdapter(t *testing.T, args ...string) *bed {
	t.Helper()
	b := ownBed(t)
	if err := b.startAdapter(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	return b
}

// process is a component of the bed's cluster, by its name.
func (b *bed) process(t *testing.T, name string) *env.Process {
	t.Helper()
	for _, p := range b.Processes() {
		if p.Name() == name {
			return p
		}
	}
	t.Fatalf("the test bed has no process %s", name)
	return nil
}
