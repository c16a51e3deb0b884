// Package node tests the chart as it is installed: on a node with real containers, which
// run the chart's own image as its own pods. The tests share one cluster and one release.
// They need root and containerd; see env.CanRunNode.
package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	release   = "tidegauge"
	namespace = "scaling"
	// workloads is the namespace of what is scaled.
	workloads = "shop"
	image     = "ghcr.io/tidegauge/tidegauge"
	queueName = "jobs"
	// deadline is how long a test waits for a condition, however loaded the machine is.
	deadline = 3 * time.Minute
	interval = 100 * time.Millisecond
)

func TestMain(m *testing.M) { os.Exit(env.Apart(func() int { return run(m) })) }

func run(m *testing.M) (code int) {
	flag.Parse()
	if err := env.CanRunNode(); err != nil && !testing.Short() {
		fmt.Fprintf(os.Stderr, "\nNOT TESTED HERE, the chart's pods: %v\n\n", err)
	}
	defer func() {
		if err := stopShared(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// bed is a cluster with a real node, on which the chart is installed, and the stand-ins of
// its backends.
type bed struct {
	*env.Cluster

	aws  *fakeaws.Server
	prom *promproxy.Server
	home string // of Helm
}

var shared struct {
	once sync.Once
	bed  *bed
	err  error
}

func stopShared() error {
	if shared.bed == nil {
		return nil
	}
	return shared.bed.stop()
}

// sharedBed is the bed of all tests, on which the release is as they found it and serves.
func sharedBed(t *testing.T) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	if err := env.CanRunNode(); err != nil {
		if os.Getenv(env.RequireNodeVariable) != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	shared.once.Do(func() {
		// The bed is for the tests to come, too.
		shared.bed, shared.err = startBed(context.WithoutCancel(t.Context()))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	b := shared.bed
	t.Cleanup(func() {
		if t.Failed() {
			b.tell(t)
		}
	})
	b.awaitServing(t)
	return b
}

func startBed(ctx context.Context) (*bed, error) {
	cluster, err := env.Start(ctx, env.Options{Nodes: 1, RealNode: true, Bare: true})
	if err != nil {
		return nil, err
	}
	b := &bed{Cluster: cluster, home: filepath.Join(cluster.Dir(), "helm")}
	if err := b.prepare(ctx); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *bed) stop() error {
	err := b.Stop()
	if b.aws != nil {
		b.aws.Close()
	}
	if b.prom != nil {
		b.prom.Close()
	}
	return err
}

// prepare starts the backends, and installs the chart.
func (b *bed) prepare(ctx context.Context) error {
	root, err := env.Root()
	if err != nil {
		return err
	}
	anywhere := env.NodeAddress + ":0"
	if b.aws, err = fakeaws.Start(ctx, fakeaws.Options{Addr: anywhere, PublishInterval: time.Second}); err != nil {
		return err
	}
	if b.prom, err = promproxy.Start(ctx, promproxy.Options{Addr: anywhere}); err != nil {
		return err
	}
	b.prom.Play(play)
	if err := b.createQueue(ctx); err != nil {
		return err
	}
	if err := b.loadImages(ctx, root); err != nil {
		return err
	}
	if err := b.Apply(ctx, []byte(workload)); err != nil {
		return err
	}
	return b.install(ctx)
}

// play answers as a Prometheus with one series.
func play(c promproxy.Call) (promproxy.Answer, bool) {
	labels := map[string]string{"__name__": "requests_in_progress", "namespace": workloads}
	switch c.Endpoint {
	case promproxy.Series:
		return promproxy.JSON(200, `{"status":"success","data":[{"__name__":"requests_in_progress","namespace":"`+workloads+`"}]}`), true
	case promproxy.Query:
		return promproxy.Vector(promproxy.Sample{Labels: labels, Value: "17"}), true
	}
	return promproxy.Answer{}, false
}

// loadImages gives the node the adapter's image, as `make image` built it or made around
// the adapter that `make build` built, under the name that the chart has.
func (b *bed) loadImages(ctx context.Context, root string) error {
	out, err := b.helm(ctx, "show", "chart", chartDir(root))
	if err != nil {
		return err
	}
	var version string
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "appVersion:"); ok {
			version = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	path := filepath.Join(b.Binaries(), "image")
	if _, err := os.Stat(path); err != nil {
		path = filepath.Join(b.Binaries(), "adapter")
	}
	return b.LoadImage(ctx, image+":"+version, path)
}

func chartDir(root string) string { return filepath.Join(root, "charts", "tidegauge") }

// tell writes what one has to know of a test that failed.
func (b *bed) tell(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, args := range [][]string{
		{"get", "pods,apiservices,hpa", "-A", "-o", "wide"},
		{"describe", "pods", "-n", namespace},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/name=tidegauge", "--tail=30", "--prefix"},
		{"get", "events", "-n", namespace},
	} {
		out, err := b.Kubectl(ctx, "", args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// helm runs Helm in the release's namespace and returns what it prints.
func (b *bed) helm(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.Binaries(), "helm"), append(args, "--namespace", namespace)...)
	cmd.Env = []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + b.Kubeconfig()}
	return env.Output(cmd)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func(ctx context.Context) error) {
	t.Helper()
	until.Holds(t, what, deadline, holds)
}
