package deploy

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// TestInstall applies install.yaml to a cluster that has nothing of it, again when
// cert-manager has done its part, and deletes it. A warning is an error.
func TestInstall(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	c := testcluster.Start(t, env.Options{Nodes: 2, Bare: true})
	file := repo.Path(t, "deploy/install.yaml")
	apply := func(args ...string) {
		t.Helper()
		if _, err := c.Kubectl(t.Context(), "", append([]string{"apply", "--validate=strict", "--warnings-as-errors", "-f", file}, args...)...); err != nil {
			t.Fatal(err)
		}
	}

	// What it says of cert-manager is true, and so is what it needs.
	_, err := c.Kubectl(t.Context(), "", "apply", "--server-side", "--dry-run=server", "-f", file)
	if err == nil || !strings.Contains(err.Error(), `no matches for kind "Certificate" in version "cert-manager.io/v1"`) {
		t.Errorf("without cert-manager: %v", err)
	}
	if err := installCertManager(t.Context(), c); err != nil {
		t.Fatal(err)
	}

	apply("--server-side")
	if _, err := c.Kubectl(t.Context(), "", "-n", namespace, "rollout", "status", "deployment", release, "--timeout=120s"); err != nil {
		t.Fatal(err)
	}
	before := injected(t, c)
	apply("--server-side")
	if after := state(t, c); after != before {
		t.Errorf("applied again, it changes\n%s\nto\n%s", before, after)
	}
	uninstallAndKeep(t, c)
	apply("--server-side")
	if _, err := c.Kubectl(t.Context(), "", "delete", "--timeout=120s", "-f", file); err != nil {
		t.Fatal(err)
	}
	left, err := c.Kubectl(t.Context(), "", "get", "--ignore-not-found", "-o", "name", "-f", file)
	if err == nil && left != "" {
		t.Errorf("delete leaves %s", left)
	}
}

// uninstallAndKeep runs what docs/install.md says of an uninstallation that keeps the
// ExternalMetrics, in its order.
func uninstallAndKeep(t *testing.T, c *env.Cluster) {
	t.Helper()
	_, kept, there := strings.Cut(repo.Text(t, "docs/install.md"), "To keep them:\n\n")
	kept, _, ends := strings.Cut(kept, "\n\n")
	if !there || !ends {
		t.Fatal("docs/install.md does not say how to keep them")
	}
	for line := range strings.Lines(kept) {
		args := strings.Fields(line)
		if args[0] != "kubectl" {
			t.Fatalf("docs/install.md: %s", line)
		}
		if _, err := c.Kubectl(t.Context(), "", append(args[1:], "--timeout=60s")...); err != nil {
			t.Fatal(err)
		}
	}
	left, err := c.Kubectl(t.Context(), "", "get", "--ignore-not-found", "-o", "name", "-f", repo.Path(t, "deploy/install.yaml"))
	if err != nil && !strings.Contains(err.Error(), "cert-manager.io") {
		t.Error(err)
	}
	if got := strings.TrimSpace(left); got != "customresourcedefinition.apiextensions.k8s.io/externalmetrics.metrics.aws" {
		t.Errorf("of the installation there is left %q, want the CRD only", got)
	}
}

// injected plays cert-manager's injector, and returns the state that this leaves.
func injected(t *testing.T, c *env.Cluster) string {
	t.Helper()
	_, err := c.Dynamic().Resource(apiServices).Patch(t.Context(), "v1beta1.external.metrics.k8s.io", types.MergePatchType,
		[]byte(`{"spec":{"caBundle":"YXV0aG9yaXR5"}}`), metav1.PatchOptions{FieldManager: "cert-manager-cainjector"})
	if err != nil {
		t.Fatal(err)
	}
	return state(t, c)
}

// state is what must not change when the same is applied again.
func state(t *testing.T, c *env.Cluster) string {
	t.Helper()
	api, err := c.Dynamic().Resource(apiServices).Get(t.Context(), "v1beta1.external.metrics.k8s.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Dynamic().Resource(deployments).Namespace(namespace).Get(t.Context(), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("caBundle %s, Deployment %d", nested(api, "spec", "caBundle"), d.GetGeneration())
}

// TestKustomizeApplies gives what users of kustomize apply to the API server, to try only,
// in place of what the test bed has installed.
func TestKustomizeApplies(t *testing.T) {
	c := bed.Cluster(t)
	for name, dir := range map[string]string{
		"base":            repo.Path(t, "deploy/kustomize/base"),
		"example":         repo.Path(t, "deploy/kustomize/example"),
		"own certificate": overlay(t, "custom-metrics", "resource-metrics", "own-certificate"),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "own certificate" {
				certificate(t, dir)
			}
			args := []string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-k", dir}
			if _, err := c.Kubectl(t.Context(), "", args...); err != nil {
				t.Error(err)
			}
		})
	}
}
