package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// rollouts are rules for the objects of a CRD.
const rollouts = `rules:
- seriesQuery: 'rollout_lag{namespace!="",rollout!=""}'
  resources: {overrides: {namespace: {resource: namespace}, rollout: {group: argoproj.io, resource: rollouts}}}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
`

const rolloutCRD = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rollouts.argoproj.io}
spec:
  group: argoproj.io
  scope: Namespaced
  names: {kind: Rollout, plural: rollouts, singular: rollout}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: web, namespace: shop}
`

// podOfShop is a pod of an app. Nothing runs in it.
const podOfShop = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %s}}
spec:
  automountServiceAccountToken: false
  containers: [{name: c, image: c}]
`

// startCluster starts a real control plane with a CRD, an object of it, and two pods.
func startCluster(t *testing.T) *env.Cluster {
	t.Helper()
	c := testcluster.Start(t, env.Options{Nodes: 1})
	for _, text := range []string{rolloutCRD, shop} {
		apply(t, c, text)
	}
	for name, app := range map[string]string{"web-0": "web", "web-1": "other"} {
		apply(t, c, fmt.Sprintf(podOfShop, name, app))
	}
	return c
}

// apply waits for what has to be there first: a CRD, and the ServiceAccount of a namespace.
func apply(t *testing.T, c *env.Cluster, text string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if err = c.Apply(t.Context(), []byte(text)); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// The cluster of --kubeconfig says which resources there are, which objects a selector finds,
// and which APIs it serves.
func TestACluster(t *testing.T) {
	b, c := start(t), startCluster(t)
	config, pods := file(t, "rollouts.yaml", rollouts), file(t, "rules.yaml", rules)
	of := "--kubeconfig=" + c.Kubeconfig()

	t.Run("rules of a CRD's resource", func(t *testing.T) {
		b.check(config).want(0, `"rollouts.argoproj.io", which is none of Kubernetes' own resources`, "give --kubeconfig of a cluster that has its CRD")
		r := b.live(0, of, config)
		if len(r.Findings) > 0 || len(r.Rules) != 1 || !strings.Contains(fmt.Sprint(r.Rules[0].Exposes), "rollouts.argoproj.io/rollout_lag") {
			t.Errorf("got %+v and %+v, want the metric of the CRD's resource", r.Findings, r.Rules)
		}
		b.run("check", of, config).want(0, "checked 1 configuration in 1 file: 0 errors, 0 warnings")
		missing := file(t, "missing.yaml", strings.ReplaceAll(rollouts, "rollouts", "rolouts"))
		b.run("check", of, missing).want(0, "warning", "rolouts")
	})
	query := func(args ...string) *outcome {
		return b.run(append([]string{"query", "custom", "--prometheus-url=" + b.prometheus, "-n", "shop", of}, args...)...)
	}
	t.Run("a metric of a CRD's object", func(*testing.T) {
		query("rollouts.argoproj.io/web", "rollout_lag", "--config="+config).want(0, "Rollout shop/web", " 3 ")
		query("rollouts.argoproj.io/*", "rollout_lag", "--config="+config).want(0, "Rollout shop/web", " 3 ")
	})
	t.Run("a metric of all pods", func(t *testing.T) {
		query("pods/*", "http_requests_now", "--config="+pods).want(0, "Pod shop/web-0", "1500m", "Pod shop/web-1", "2500m")
		o := query("pods/*", "http_requests_now", "--config="+pods, "--selector=app=web")
		o.want(0, "Pod shop/web-0")
		if strings.Contains(o.out, "web-1") {
			t.Errorf("the selector finds another pod: %v", o)
		}
		query("pods/*", "http_requests_now", "--config="+pods, "--selector=app=none").want(1)
	})
	t.Run("served", func(t *testing.T) { served(t, b, of) })
}

// served asks for APIs that the API server serves, and for one that it does not.
func served(t *testing.T, b *bed, of string) {
	t.Helper()
	b.run("check", of, "--served=apps/v1,argoproj.io/v1alpha1").
		want(0, "apps/v1", "argoproj.io/v1alpha1", "yes", "checked 2 API versions: 0 errors, 0 warnings")
	o := b.run("check", of, "--served=apps/v1,custom.metrics.k8s.io/v1beta2", "--timeout=4s", "-o", "json", file(t, "rules.yaml", rules))
	o.want(1, "adapter check: ", "custom.metrics.k8s.io/v1beta2 is not served yet: 404: ")
	var r struct {
		report
		Served []struct {
			API, Error string
			Resources  int
			Names      []string
		}
	}
	o.into(&r)
	if len(r.Served) != 2 || r.Served[0].Resources < 5 || len(r.Served[0].Names) != r.Served[0].Resources || !strings.HasPrefix(r.Served[1].Error, "404: ") {
		t.Errorf("got %+v", r.Served)
	}
	if len(r.Findings) != 1 || !strings.HasPrefix(r.Findings[0].Message, "is not served: 404: ") {
		t.Errorf("got %+v", r.Findings)
	}
}
