package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/promproxy"
)

// TestFromPrometheusAdapter follows the guide in a cluster where Helm has installed
// prometheus-adapter, or at least what it leads the API server to.
func TestFromPrometheusAdapter(t *testing.T) {
	for _, helm := range []string{"helm", "helm3"} {
		t.Run(helm, func(t *testing.T) { fromPrometheusAdapter(t, newBed(t, helm)) })
	}
}

func fromPrometheusAdapter(t *testing.T, b *bed) {
	t.Helper()
	const name, home = "prometheus-adapter", "monitoring"
	b.startPrometheus()
	b.apply(namespaces(home, "demo"))
	old := b.startOther(home, name, map[string]string{"demo/orders_waiting": "30"}, map[string]string{"http_requests_per_second": "10"})
	b.installOther(home, name, old.apiService("custom.metrics.k8s.io", home, name)+old.apiService("external.metrics.k8s.io", home, name)+oldRelease)
	b.apply(workload("demo", "web", 3) + workload("demo", "orders", 2) +
		hpa("demo", "web", `{type: Pods, pods: {metric: {name: http_requests_per_second}, target: {type: AverageValue, averageValue: "10"}}}`) +
		hpa("demo", "orders", external("orders_waiting", 15)))
	b.awaitHPAs()
	w := b.watch("demo")

	g := &guide{bed: b, blocks: readPage(t, "migrate-prometheus-adapter.md")}
	g.backs = map[string]func(*testing.T){
		"beside": func(t *testing.T) {
			t.Helper()
			b.leadsTo(t, "v1beta1.custom.metrics.k8s.io", home+"/"+name)
			b.awaitHPAs()
		},
		"switched": func(t *testing.T) {
			t.Helper()
			b.leadsTo(t, "v1beta1.custom.metrics.k8s.io", home+"/"+name)
			b.leadsTo(t, "v1beta1.external.metrics.k8s.io", home+"/"+name)
			old.set("demo/orders_waiting", "32")
			b.awaitValue(t, "demo", "orders", "16")
			old.set("demo/orders_waiting", "30")
			b.awaitHPAs()
		},
	}
	g.follow(t)
	w.check(t)
	for _, api := range []string{"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io"} {
		b.leadsTo(t, api, namespace+"/"+release)
	}
}

// startPrometheus has the chart be told of a Prometheus that plays the guides' series.
func (b *bed) startPrometheus() {
	b.t.Helper()
	ctx := context.WithoutCancel(b.t.Context())
	server, err := promproxy.Start(ctx, promproxy.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(server.Close)
	server.Play(func(c promproxy.Call) (promproxy.Answer, bool) { return b.series(ctx).Play(c) })
	b.prometheus = server
}

// series are what Prometheus has in the guides: requests of each pod, of the shop as a whole,
// and a queue.
func (b *bed) series(ctx context.Context) promproxy.Data {
	data := promproxy.Data{
		{Labels: map[string]string{"__name__": "orders_waiting", "namespace": "demo"}, Value: "30"},
		{Labels: map[string]string{"__name__": "http_requests_total", "namespace": "demo", "app": "shop"}, Value: "250"},
	}
	pods, err := b.Client().CoreV1().Pods("demo").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		return data
	}
	for _, pod := range pods.Items {
		data = append(data, promproxy.Sample{
			Labels: map[string]string{"__name__": "http_requests_total", "namespace": pod.Namespace, "pod": pod.Name}, Value: "10",
		})
	}
	return data
}

// oldRelease is what the release of the other adapter has besides its APIServices, by names
// and labels only.
const oldRelease = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus-adapter, labels: {app.kubernetes.io/name: prometheus-adapter, app.kubernetes.io/instance: prometheus-adapter}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prometheus-adapter, labels: {app.kubernetes.io/name: prometheus-adapter, app.kubernetes.io/instance: prometheus-adapter}}
data:
  config.yaml: |
    rules:
    - seriesQuery: 'http_requests_total{namespace!="",pod!=""}'
      resources:
        overrides:
          namespace: {resource: namespace}
          pod: {resource: pod}
      name: {matches: "^(.*)_total$", as: "${1}_per_second"}
      metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: prometheus-adapter-resource-reader, labels: {app.kubernetes.io/name: prometheus-adapter, app.kubernetes.io/instance: prometheus-adapter}}
rules: []
---
`

// installOther has Helm install a release of objects that a chart of another project would
// have, which is not here.
func (b *bed) installOther(namespace, name, objects string) {
	b.t.Helper()
	chart := filepath.Join(b.t.TempDir(), name)
	for file, text := range map[string]string{
		"Chart.yaml":           fmt.Sprintf("{apiVersion: v2, name: %s, version: 1.0.0}\n", name),
		"values.yaml":          "{}\n",
		"templates/other.yaml": `{{ .Files.Get "objects.yaml" }}`,
		"objects.yaml":         objects,
	} {
		path := filepath.Join(chart, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	if _, err := b.shell(b.t.Context(), "", "helm", "install", name, chart, "--namespace", namespace); err != nil {
		b.t.Fatal(err)
	}
}
