// Package chart tests charts/tidegauge with real Helm, 4 and 3: what it renders, and how
// it is installed, upgraded, rolled back and uninstalled on a real API server. It also
// writes the chart's generated files: `make generate`.
package chart

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// update writes the generated files anew, in place of comparing them.
var update = flag.Bool("update", false, "write the chart's generated files anew")

const (
	release   = "tidegauge"
	namespace = "tidegauge-chart"
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
)

// bed is the cluster that the tests share which need one, as a user's before the chart is
// installed. Each leaves none of the chart's objects behind but for its CRDs and its namespace.
var bed = testcluster.Shared{Options: env.Options{Nodes: 2, Bare: true}, Prepare: prepare}

func TestMain(m *testing.M) { os.Exit(bed.Run(m)) }

// prepare makes the namespace, whose pods have
// to be restricted, and the kinds of others that the chart has objects of.
func prepare(ctx context.Context, c *env.Cluster) error {
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
