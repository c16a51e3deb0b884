package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
	"github.com/tidegauge/tidegauge/test/testcluster"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// release is the name of the guides' release of the chart, namespace where it is.
	release   = "tidegauge"
	namespace = "tidegauge-system"
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
	// otherAccount is the account of the guides whose metrics are read by a role.
	otherAccount = "210987654321"
	region       = "eu-central-1"
)

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// bed is a cluster as a user's is before tidegauge comes: without anything of deploy.
type bed struct {
	*env.Cluster

	t *testing.T
	// helm is the program that the steps know as helm: helm or helm3.
	helm string
	aws  *fakeaws.Server
	// prometheus plays the guides' series; nil unless startPrometheus was called.
	prometheus *promproxy.Server
	// dir is the working directory of the steps: it has the repository's charts and deploy.
	dir string
	// port is the one that the adapter listens on.
	port int
	node *node
}

// newBed starts a cluster that ends with the test, for steps that one of the two versions of
// Helm takes.
func newBed(t *testing.T, helm string) *bed {
	t.Helper()
	b := &bed{t: t, Cluster: testcluster.Start(t, env.Options{Nodes: 1, Bare: true}), helm: helm, dir: t.TempDir(), port: freePort(t)}
	var err error
	if b.aws, err = fakeaws.Start(context.WithoutCancel(t.Context()), fakeaws.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.aws.Close)
	for _, name := range []string{"charts", "deploy"} {
		if err := os.Symlink(filepath.Join(root(t), name), filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.commands()
	b.startNode()
	return b
}

// kubectl runs kubectl as an administrator and returns what it prints.
func (b *bed) kubectl(stdin string, args ...string) string {
	b.t.Helper()
	out, err := b.shell(b.t.Context(), stdin, filepath.Join(b.Binaries(), "kubectl"), args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// apply creates objects that the guide finds.
func (b *bed) apply(objects string) {
	b.t.Helper()
	if err := b.Apply(b.t.Context(), []byte(objects)); err != nil {
		b.t.Fatal(err)
	}
}

// commands puts the commands of the steps into a folder of their own.
func (b *bed) commands() {
	b.t.Helper()
	bin := filepath.Join(b.dir, ".bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		b.t.Fatal(err)
	}
	for name, program := range map[string]string{
		"kubectl": filepath.Join(b.Binaries(), "kubectl"),
		"adapter": b.adapterBinary(),
	} {
		if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "helm"), []byte(b.helmScript()), 0o700); err != nil {
		b.t.Fatal(err)
	}
}

// helmScript is what the steps find as helm. The process listens on a port of this machine,
// ends at once and asks the Prometheus of the test. With Helm 3 it does what the guides say of
// that version.
func (b *bed) helmScript() string {
	values := fmt.Sprintf("listenPort=%[1]d,service.port=%[1]d,shutdownDelaySeconds=0", b.port)
	var third string
	if b.helm == "helm3" {
		third = `args=("$@"); set --
for a in "${args[@]}"; do [[ $a == --force-conflicts ]] && a=--force; set -- "$@" "$a"; done`
	}
	return fmt.Sprintf(`#!/bin/bash
%s
case "$1 $2" in
"install tidegauge" | "upgrade tidegauge") set -- "$@" --set %s
  if [[ -n ${BED_PROMETHEUS-} ]]; then set -- "$@" --set "prometheus.url=$BED_PROMETHEUS"; fi ;;
esac
exec %s "$@"
`, third, values, filepath.Join(b.Binaries(), b.helm))
}

func (b *bed) adapterBinary() string {
	if path := os.Getenv("TIDEGAUGE_ADAPTER"); path != "" {
		return path
	}
	return filepath.Join(b.Binaries(), "adapter")
}

// publish has CloudWatch know values of metrics, one a minute, until the test ends.
func (b *bed) publish(metrics ...fakeaws.Metric) {
	const past = 10
	minute := time.Now().Truncate(time.Minute)
	put := func(at time.Time) {
		for _, m := range metrics {
			m.Region, m.Time = region, at
			b.aws.PutMetric(m)
		}
	}
	for i := range past {
		put(minute.Add(-time.Duration(i) * time.Minute))
	}
	b.beside(func(ctx context.Context) {
		every(ctx, time.Second, func() {
			if now := time.Now().Truncate(time.Minute); now.After(minute) {
				minute = now
				put(now)
			}
		})
	})
}

// beside runs a function until the test ends.
func (b *bed) beside(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func(context.Context) error) {
	t.Helper()
	until.Holds(t, "it does not hold", deadline, holds)
}

// workload is a Deployment that an HPA scales.
func workload(namespace, name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec: {containers: [{name: work, image: work}]}
---`, namespace, name, replicas)
}

// hpa scales the workload of its name by one metric.
func hpa(namespace, name, metric string) string {
	return fmt.Sprintf(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[2]s}
  minReplicas: 1
  maxReplicas: 10
  metrics: [%[3]s]
---`, namespace, name, metric)
}

func external(metric string, target int) string {
	return fmt.Sprintf(`{type: External, external: {metric: {name: %s}, target: {type: AverageValue, averageValue: "%d"}}}`, metric, target)
}

func namespaces(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n---\n", name)
	}
	return text.String()
}
