package rules

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// load compiles a file of testdata.
func load(tb testing.TB, name string) *Set {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return mustCompile(tb, string(text))
}

// TestStock has the metrics that prometheus-adapter lists for series of a real cluster.
func TestStock(t *testing.T) {
	set := load(t, "stock.yaml")
	if len(set.Warnings) != 0 {
		t.Errorf("got warnings: %q", set.Warnings)
	}
	cadvisor := []string{"__name__", "container", "cpu", "id", "image", "instance", "job", "name", "namespace", "node", "pod"}
	app := []string{"__name__", "instance", "job", "method", "namespace", "node", "pod", "service"}
	for _, test := range []struct {
		series string
		labels []string
		// want are the names of the metric and the ids of their rules, and of its resources.
		want, resources map[string]bool
	}{
		{
			"container_cpu_usage_seconds_total", cadvisor,
			map[string]bool{"rules[0] cpu_usage": true},
			map[string]bool{"namespaces false": true, "pods true": true},
		},
		{
			"container_network_receive_bytes_total", cadvisor,
			map[string]bool{"rules[1] network_receive_bytes": true},
			map[string]bool{"namespaces false": true, "pods true": true},
		},
		{
			"container_memory_working_set_bytes", cadvisor,
			map[string]bool{"rules[2] memory_working_set_bytes": true},
			map[string]bool{"namespaces false": true, "pods true": true},
		},
		{
			"http_requests_total", app,
			map[string]bool{"rules[4] http_requests": true},
			map[string]bool{"namespaces false": true, "nodes false": true, "pods true": true, "services true": true},
		},
		{
			"http_request_duration_seconds_total", app,
			map[string]bool{"rules[5] http_request_duration": true},
			map[string]bool{"namespaces false": true, "nodes false": true, "pods true": true, "services true": true},
		},
		{
			"go_goroutines",
			[]string{"__name__", "kube_apps_deployment", "kube__namespace", "kube__pod", "namespace", "kube_networking_k8s_io_ingress"},
			map[string]bool{"rules[3] go_goroutines": true},
			map[string]bool{"namespaces false": true, "pods true": true, "deployments.apps true": true, "ingresses.networking.k8s.io true": true},
		},
	} {
		metrics, resources := map[string]bool{}, map[string]bool{}
		for i, c := range set.Custom {
			if cadvisorRule := i < 3; cadvisorRule != (test.labels[1] == "container") {
				continue // The seriesQuery leaves the series out.
			}
			metric, ok := c.MetricName(test.series)
			if !ok {
				continue
			}
			metrics[c.ID+" "+metric] = true
			for _, r := range c.Resources(cluster, test.labels) {
				resources[sprint(r)] = true
			}
		}
		if !equalSets(metrics, test.want) || !equalSets(resources, test.resources) {
			t.Errorf("%s: got %v of %v, want %v of %v", test.series, metrics, resources, test.want, test.resources)
		}
	}
}

func equalSets(a, b map[string]bool) bool {
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestStockQuestions(t *testing.T) {
	set := load(t, "stock.yaml")
	ask := Ask{Series: "container_cpu_usage_seconds_total", Resource: pods, Namespace: "shop", Names: []string{"web-1"}}
	q, err := set.Custom[0].Question(cluster, ask)
	if err != nil {
		t.Fatal(err)
	}
	want := `sum(rate(container_cpu_usage_seconds_total{namespace="shop",pod="web-1",container!="POD"}[5m])) by (pod)`
	if q.PromQL != want || q.Window != 5*time.Minute || q.ObjectLabel != "pod" {
		t.Errorf("got %+v, want %s", q, want)
	}
	for _, c := range set.Custom {
		for _, scope := range []Scope{Namespace, Cluster} {
			if err := c.Shareable(cluster, Ask{Series: "x", Resource: pods, Namespace: "shop", Scope: scope}); err != nil {
				t.Errorf("%v", err)
			}
		}
	}
	for _, c := range set.External {
		if _, err := c.Question(cluster, Ask{Series: "queue_depth", Namespace: "shop"}); err != nil {
			t.Error(err)
		}
	}
}

// TestSystems is rows A4 and A5 of the systems that the project stands in for, whose rules
// load unchanged.
func TestSystems(t *testing.T) {
	set := load(t, "systems.yaml")
	labels := []string{"__name__", "instance", "job", "kubernetes_namespace", "kubernetes_pod_name", "method"}
	for i, test := range []struct{ series, metric, promQL string }{
		{
			"http_requests_total", "http_requests_per_second",
			`sum(rate(http_requests_total{kubernetes_namespace="demo",kubernetes_pod_name=~"web-1|web-2"}[2m])) by (kubernetes_pod_name)`,
		},
		{
			"envoy_cluster_upstream_rq", "appmesh_requests_per_second",
			`sum(rate(envoy_cluster_upstream_rq{kubernetes_namespace="demo",kubernetes_pod_name=~"web-1|web-2"}[1m])) by (kubernetes_pod_name)`,
		},
	} {
		c := set.Custom[i]
		if c.Literal != test.series {
			t.Errorf("literal: got %q, want %q", c.Literal, test.series)
		}
		if metric, ok := c.LiteralMetric(); !ok || metric != test.metric {
			t.Errorf("metric: got %q, want %q", metric, test.metric)
		}
		var resources []string
		for _, r := range c.Resources(cluster, labels) {
			resources = append(resources, sprint(r))
		}
		if len(resources) != 2 || resources[0] != "namespaces false" || resources[1] != "pods true" {
			t.Errorf("resources: got %v", resources)
		}
		q, err := c.Question(cluster, Ask{Series: test.series, Resource: pods, Namespace: "demo", Names: []string{"web-1", "web-2"}})
		if err != nil || q.PromQL != test.promQL {
			t.Errorf("got %q, %v; want %q", q.PromQL, err, test.promQL)
		}
	}
}
