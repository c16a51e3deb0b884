package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	externalmetrics "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
)

// other is the adapter that serves the APIs before tidegauge does. It gives constant values,
// by TLS that nobody can verify, as those adapters do.
type other struct {
	*bed

	server *httptest.Server
	mu     sync.Mutex
	// external are the values of external metrics, by "namespace/metric".
	external map[string]string
	// pods are the values of metrics of pods, for each pod of the Deployment that the
	// selector app=… names.
	pods map[string]string
}

// startOther starts it, as the Service of a name and namespace.
func (b *bed) startOther(namespace, name string, external, pods map[string]string) *other {
	b.t.Helper()
	o := &other{bed: b, external: external, pods: pods}
	o.server = httptest.NewTLSServer(o)
	b.t.Cleanup(o.server.Close)
	b.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, labels: {app.kubernetes.io/name: %[1]s, app.kubernetes.io/instance: %[1]s}}
spec: {type: ExternalName, externalName: localhost, ports: [{name: https, port: %[3]d}]}
`, name, namespace, o.port()))
	return o
}

func (o *other) port() int {
	u, err := url.Parse(o.server.URL)
	if err != nil {
		o.t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscan(u.Port(), &port); err != nil {
		o.t.Fatal(err)
	}
	return port
}

// apiService is one that leads to it.
func (o *other) apiService(group, namespace, name string) string {
	return fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.%[1]s}
spec:
  group: %[1]s
  version: v1beta1
  service: {name: %[3]s, namespace: %[2]s, port: %[4]d}
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
---
`, group, namespace, name, o.port())
}

// set changes the value of an external metric.
func (o *other) set(name, value string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.external[name] = value
}

func (o *other) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var answer any
	switch {
	case len(path) == 3 && path[0] == "apis":
		answer = o.discovery(path[1])
	case len(path) == 6 && path[1] == "external.metrics.k8s.io":
		answer = o.externalValues(path[4], path[5])
	case len(path) == 8 && path[1] == "custom.metrics.k8s.io" && path[5] == "pods":
		answer = o.podValues(r, path[4], path[7])
	}
	if answer == nil {
		http.NotFound(w, r)
		return
	}
	text, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

func (o *other) discovery(group string) any {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group + "/v1beta1"}
	add := func(name, kind string) {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name, Namespaced: true, Kind: kind, Verbs: []string{"get"}})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if group == externalmetrics.GroupName {
		for name := range o.external {
			_, metric, _ := strings.Cut(name, "/")
			add(metric, "ExternalMetricValueList")
		}
		return list
	}
	for metric := range o.pods {
		add("pods/"+metric, "MetricValueList")
		add("namespaces/"+metric, "MetricValueList")
	}
	return list
}

func (o *other) externalValues(namespace, metric string) any {
	o.mu.Lock()
	value, ok := o.external[namespace+"/"+metric]
	o.mu.Unlock()
	if !ok {
		return nil
	}
	return &externalmetrics.ExternalMetricValueList{
		TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: externalmetrics.SchemeGroupVersion.String()},
		Items:    []externalmetrics.ExternalMetricValue{{MetricName: metric, Timestamp: metav1.Now(), Value: resource.MustParse(value)}},
	}
}

func (o *other) podValues(r *http.Request, namespace, metric string) any {
	value, ok := o.pods[metric]
	if !ok {
		return nil
	}
	pods, err := o.Client().CoreV1().Pods(namespace).List(r.Context(), metav1.ListOptions{LabelSelector: r.URL.Query().Get("labelSelector")})
	if err != nil {
		return nil
	}
	list := &v1beta1.MetricValueList{TypeMeta: metav1.TypeMeta{Kind: "MetricValueList", APIVersion: v1beta1.SchemeGroupVersion.String()}}
	for _, pod := range pods.Items {
		v := v1beta1.MetricValue{MetricName: metric, Timestamp: metav1.Now(), Value: resource.MustParse(value)}
		v.DescribedObject.Kind, v.DescribedObject.APIVersion = "Pod", "v1"
		v.DescribedObject.Namespace, v.DescribedObject.Name = pod.Namespace, pod.Name
		list.Items = append(list.Items, v)
	}
	return list
}

// awaitHPAs waits until every HPA has its numbers.
func (b *bed) awaitHPAs() {
	b.t.Helper()
	eventually(b.t, func(ctx context.Context) error {
		list, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, h := range list.Items {
			if why := inactive(h.Status.Conditions); why != "" || !shown(h.Status) {
				return fmt.Errorf("HPA %s/%s: %s", h.Namespace, h.Name, why)
			}
		}
		return nil
	})
}

// shown says whether an HPA has seen its metrics and its pods: before that it divides by no
// replicas.
func shown(s autoscalingv2.HorizontalPodAutoscalerStatus) bool {
	for _, m := range s.CurrentMetrics {
		if m.External != nil && m.External.Current.AverageValue != nil && m.External.Current.AverageValue.Sign() < 0 {
			return false
		}
	}
	return len(s.CurrentMetrics) > 0 && s.CurrentReplicas > 0
}

// watcher remembers what became of workloads and their HPAs while the guide was followed.
type watcher struct {
	*bed

	want map[string]int32

	mu       sync.Mutex
	scaled   []string
	inactive []string
}

// watch begins to look at all workloads of a namespace that users have.
func (b *bed) watch(namespaces ...string) *watcher {
	b.t.Helper()
	w := &watcher{bed: b, want: map[string]int32{}}
	list := func(ctx context.Context) ([]appsv1.Deployment, error) {
		var all []appsv1.Deployment
		for _, n := range namespaces {
			found, err := b.Client().AppsV1().Deployments(n).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			all = append(all, found.Items...)
		}
		return all, nil
	}
	first, err := list(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, d := range first {
		w.want[d.Namespace+"/"+d.Name] = *d.Spec.Replicas
	}
	b.beside(func(ctx context.Context) {
		every(ctx, 250*time.Millisecond, func() {
			now, err := list(ctx)
			if err != nil {
				return // The API server is busy, or the test ends.
			}
			for _, d := range now {
				w.look(d)
			}
			w.lookAtHPAs(ctx)
		})
	})
	return w
}

func (w *watcher) look(d appsv1.Deployment) {
	name := d.Namespace + "/" + d.Name
	if want, ok := w.want[name]; ok && *d.Spec.Replicas != want {
		w.note(&w.scaled, fmt.Sprintf("%s has %d replicas, had %d", name, *d.Spec.Replicas, want))
	}
}

func (w *watcher) lookAtHPAs(ctx context.Context) {
	list, err := w.Client().AutoscalingV2().HorizontalPodAutoscalers("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, h := range list.Items {
		if why := inactive(h.Status.Conditions); why != "" {
			w.note(&w.inactive, fmt.Sprintf("%s/%s: %s", h.Namespace, h.Name, why))
		}
	}
}

func (w *watcher) note(list *[]string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(*list); n == 0 || (*list)[n-1] != text && n < 100 {
		*list = append(*list, text)
	}
}

// check fails the test if anything was scaled.
func (w *watcher) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.scaled) > 0 {
		t.Errorf("something was scaled: %q", w.scaled)
	}
	if len(w.inactive) > 0 {
		t.Logf("HPAs were without a metric, and kept their replicas: %q", w.inactive)
	}
}
