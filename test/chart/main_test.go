// Package chart tests charts/tidegauge with real Helm, 4 and 3: what it renders, and how
// it is installed, upgraded, rolled back and uninstalled on a real API server. It also
// writes the chart's generated files: `make generate`.
package chart

import (
	"bytes"
	"context"
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
)

// update writes the generated files anew, in place of comparing them.
var update = flag.Bool("update", false, "write the chart's generated files anew")

const (
	release   = "tidegauge"
	namespace = "tidegauge-chart"
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	defer func() {
		if err := bed.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// bed is the cluster that the tests share which need one. Each leaves none of the chart's
// objects behind but for its CRDs and its namespace.
var bed shared

type shared struct {
	once    sync.Once
	cluster *env.Cluster
	err     error
}

func (s *shared) stop() error {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Stop()
}

// cluster is the shared cluster, with nothing of deploy in it, as a user's before the chart
// is installed.
func cluster(t *testing.T) *env.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	bed.once.Do(func() { bed.cluster, bed.err = startCluster(t) })
	if bed.err != nil {
		t.Fatal(bed.err)
	}
	return bed.cluster
}

func startCluster(t *testing.T) (*env.Cluster, error) {
	t.Helper()
	// The cluster is for the tests to come, too.
	c, err := env.Start(context.WithoutCancel(t.Context()), env.Options{Nodes: 2})
	if err != nil {
		return nil, err
	}
	if err := prepare(t.Context(), c); err != nil {
		return nil, fmt.Errorf("%w; %w", err, c.Stop())
	}
	return c, nil
}

// prepare takes away what the test bed installs, and makes the namespace, whose pods have
// to be restricted, and the kinds of others that the chart has objects of.
func prepare(ctx context.Context, c *env.Cluster) error {
	root, err := env.Root()
	if err != nil {
		return err
	}
	deploy := filepath.Join(root, "deploy")
	_, err = kubectl(ctx, c, "", "delete", "--ignore-not-found", "--cascade=foreground",
		"-f", filepath.Join(deploy, "base"), "-f", filepath.Join(deploy, "crds"), "-f", filepath.Join(deploy, "policies"))
	if err != nil {
		return err
	}
	objects := []string{fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata:
  name: %s
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
`, namespace)}
	for _, kind := range []struct{ group, version, kind string }{
		{"cert-manager.io", "v1", "Certificate"},
		{"cert-manager.io", "v1", "Issuer"},
		{"monitoring.coreos.com", "v1", "PodMonitor"},
		{"monitoring.coreos.com", "v1", "ServiceMonitor"},
		{"monitoring.coreos.com", "v1", "PrometheusRule"},
	} {
		objects = append(objects, anyCRD(kind.group, kind.version, kind.kind))
	}
	return c.Apply(ctx, []byte(strings.Join(objects, "---\n")))
}

// anyCRD lets the API server take any object of a kind.
func anyCRD(group, version, kind string) string {
	name := strings.ToLower(kind)
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[1]ss.%[2]s
spec:
  group: %[2]s
  scope: Namespaced
  names: {kind: %[4]s, plural: %[1]ss}
  versions:
  - name: %[3]s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, name, group, version, kind)
}

// kubectl runs kubectl as an administrator and returns what it prints.
func kubectl(ctx context.Context, c *env.Cluster, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Binaries(), "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return out.String(), nil
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func chartDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(root(t), "charts", "tidegauge")
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
