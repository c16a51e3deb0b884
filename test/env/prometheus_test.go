package env

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/player"
)

const (
	shopManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web, namespace: hers}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "9797"}
    spec:
      initContainers: [{name: migrate, image: web}]
      containers:
      - {name: web, image: web, ports: [{containerPort: 9898}, {containerPort: 9797}]}
      - {name: proxy, image: proxy}
---
apiVersion: v1
kind: Pod
metadata:
  name: odd
  namespace: shop
  annotations: {prometheus.io/scrape: "true", prometheus.io/path: /stats/prometheus}
spec:
  containers: [{name: odd, image: odd}]
---
apiVersion: v1
kind: Pod
metadata: {name: quiet, namespace: shop}
spec:
  containers: [{name: quiet, image: quiet}]
`
	// web is what the pods of the Deployment web are asked.
	web = `http_requests_total{namespace="shop",app="web",path="/"}`
)

// testPrometheus scrapes every second, to be short.
func testPrometheus(t *testing.T, c *Cluster) {
	played, err := c.StartPlayer(t.Context(), PlayerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.StartPrometheus(t.Context(), PrometheusOptions{PlayerURL: played.URL, ScrapeInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), []byte(shopManifest)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		played.SetRequests(t.Context(), player.Requests{Namespace: "shop", Workload: "web", PerSecond: 25}),
		played.SetUsage(t.Context(),
			player.Usage{Namespace: "shop", Workload: "web", Container: "web", Cores: 0.5, Bytes: 3e6},
			player.Usage{Node: "node-1", Cores: 2, Bytes: 1 << 30}),
		played.SetSeries(t.Context(), "test",
			player.Series{Name: "queue_depth", Labels: map[string]string{"namespace": "shop", "service": `a"b\c` + "\n"}, Value: 95},
			player.Series{Name: "orders.placed", Value: 7},
			player.Series{Name: "odd", Labels: map[string]string{"ingress": "nan"}, Value: model.SampleValue(math.NaN())},
			player.Series{Name: "odd", Labels: map[string]string{"ingress": "inf"}, Value: model.SampleValue(math.Inf(1))}),
	); err != nil {
		t.Fatal(err)
	}

	b := &scrapeBed{cluster: c, prometheus: p}
	t.Run("labels and rates of one pod", b.onePod)
	t.Run("the scrape is a request", b.idle)
	t.Run("three pods share", b.threePods)
	t.Run("containers and nodes", b.usage)
	t.Run("other series", b.series)
	t.Run("what is no vector", b.refusals)
	if p.Logs() != "" {
		t.Errorf("Prometheus warns:\n%s", p.Logs())
	}
	t.Run("restart keeps the data", b.restart)
}

// scrapeBed is a cluster and the Prometheus that scrapes its pods.
type scrapeBed struct {
	cluster    *Cluster
	prometheus *Prometheus
}

// vector waits until an expression gives as many elements as wanted, each near to a value.
func (b *scrapeBed) vector(t *testing.T, expression string, length int, value, tolerance float64) model.Vector {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got model.Vector
	err := b.prometheus.Await(ctx, expression, func(v model.Vector) error {
		if len(v) != length {
			return fmt.Errorf("%d elements, want %d: %v", len(v), length, v)
		}
		for _, s := range v {
			if math.Abs(float64(s.Value)-value) > tolerance {
				return fmt.Errorf("want %v near %v", v, value)
			}
		}
		got = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (b *scrapeBed) onePod(t *testing.T) {
	b.vector(t, "sum(rate("+web+"[30s])) by (kubernetes_namespace, kubernetes_pod_name) > bool 0", 1, 1, 0)
	b.vector(t, "sum(rate("+web+"[4s])) by (namespace, pod)", 1, 25, 3)
	pods, err := b.cluster.Client().CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	pod := pods.Items[0]
	got := b.vector(t, web+"-"+web, 1, 0, 0)[0].Metric // an operation drops the name only
	for name, want := range map[model.LabelName]string{
		"kubernetes_namespace": "shop", "kubernetes_pod_name": pod.Name, "namespace": "shop", "pod": pod.Name,
		"app": "web", "job": "kubernetes-pods", "instance": pod.Status.PodIP,
	} {
		if string(got[name]) != want {
			t.Errorf("label %s = %q, want %q", name, got[name], want)
		}
	}
	// Another path is its own; a pod without the annotation is not scraped.
	b.vector(t, `count(up{job="kubernetes-pods",namespace="shop"})`, 1, 2, 0)
	b.vector(t, `envoy_cluster_upstream_rq{kubernetes_namespace="shop",kubernetes_pod_name="odd"}`, 1, 0, 0)
}

func (b *scrapeBed) idle(t *testing.T) {
	b.vector(t, `sum(rate(http_requests_total{pod="odd"}[5s])) by (namespace, pod)`, 1, 1, 0.3)
}

func (b *scrapeBed) threePods(t *testing.T) {
	b.scale(t, 3)
	b.vector(t, "sum(rate("+web+"[4s])) by (namespace, pod)", 3, 25.0/3, 2)
	b.scale(t, 1)
	b.vector(t, "sum(rate("+web+"[4s])) by (namespace, pod)", 1, 25, 3)
}

func (b *scrapeBed) scale(t *testing.T, replicas int) {
	t.Helper()
	scale, err := b.cluster.Client().AppsV1().Deployments("shop").GetScale(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = int32(replicas)
	if _, err := b.cluster.Client().AppsV1().Deployments("shop").UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (b *scrapeBed) usage(t *testing.T) {
	b.vector(t, `sum(rate(container_cpu_usage_seconds_total{namespace="shop",container="web"}[4s])) by (namespace, pod, container, node)`, 1, 0.5, 0.2)
	b.vector(t, `sum(container_memory_working_set_bytes{namespace="shop",container!=""}) by (namespace, container)`, 4, 0, 3e6)
	b.vector(t, `sum(rate(container_cpu_usage_seconds_total{id="/"}[4s])) by (node) > 0`, 1, 2, 0.5)
	b.vector(t, `node_memory_MemTotal_bytes{node="node-1"} - node_memory_MemAvailable_bytes`, 1, 1<<30, 0)
}

func (b *scrapeBed) series(t *testing.T) {
	b.vector(t, `queue_depth{namespace="shop",service="a\"b\\c\n"}`, 1, 95, 0)
	b.vector(t, `{"orders.placed"}`, 1, 7, 0)
	b.vector(t, `odd == +Inf`, 1, 0, math.Inf(1))
	b.vector(t, `odd unless odd == odd`, 1, 0, 0)
}

func (b *scrapeBed) restart(t *testing.T) {
	if err := b.prometheus.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.vector(t, "count(count_over_time("+web+"[5m]))", 1, 3, 0) // Two of them are gone.
}

func (b *scrapeBed) refusals(t *testing.T) {
	for _, test := range []struct{ expression, words string }{
		{"sum(", "unclosed left parenthesis"},
		{"1", "cannot unmarshal"},
	} {
		if v, err := b.prometheus.Query(t.Context(), test.expression); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s = %v, %v, want %q", test.expression, v, err, test.words)
		}
	}
}

func TestPrometheusConfig(t *testing.T) {
	c := &Cluster{root: must(Root())}
	for _, u := range []string{"", "127.0.0.1:80", "http://"} {
		if _, err := c.prometheusConfig(PrometheusOptions{PlayerURL: u}, ""); err == nil || !strings.Contains(err.Error(), "PlayerURL") {
			t.Errorf("PlayerURL %q: %v", u, err)
		}
	}
	text := string(must(c.prometheusConfig(PrometheusOptions{PlayerURL: "http://127.0.0.1:2345"}, "/a/kubeconfig")))
	for want, times := range map[string]int{
		"scrape_interval: 5s": 1, "time: 2h": 1, "kubeconfig_file: /a/kubeconfig": 2, "replacement: 127.0.0.1:2345": 2, "- 127.0.0.1:2345": 2,
	} {
		if strings.Count(text, want) != times {
			t.Errorf("%q is not there %d times:\n%s", want, times, text)
		}
	}
}
