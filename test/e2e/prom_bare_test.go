package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/player"
)

// peerRights are what prometheus-adapter's chart gives, beside the right to ask who a
// caller is.
const peerRights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: prometheus-adapter-resource-reader}
rules:
- apiGroups: [""]
  resources: [namespaces, pods, services, configmaps]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus-adapter-resource-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus-adapter-resource-reader}
subjects:
- {kind: ServiceAccount, name: tidegauge, namespace: tidegauge-system}
`

// peerConfig is a ConfigMap as prometheus-adapter's users have it: no resourceRules, and
// nothing that prometheus-adapter does not know.
const peerConfig = `
rules:
- seriesQuery: 'envoy_cluster_upstream_rq{kubernetes_namespace!="",kubernetes_pod_name!=""}'
  resources:
    overrides:
      kubernetes_namespace: {resource: namespace}
      kubernetes_pod_name: {resource: pod}
  name: {as: requests_per_second}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>}[10s])) by (<<.GroupBy>>)
- seriesQuery: '{__name__=~"^e2e_.*"}'
  resources: {template: <<.Resource>>}
  name: {matches: ^e2e_(.*)$}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
externalRules:
- seriesQuery: '{__name__=~"^external_.*",namespace!=""}'
  resources:
    overrides:
      namespace: {resource: namespace}
  name: {matches: ^external_(.*)$}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
`

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// newPeerBed is a cluster in which somebody replaced prometheus-adapter's image, and
// nothing else: the CRD is not there and the rights are the peer's. No adapter runs yet.
func newPeerBed(t *testing.T) *space {
	t.Helper()
	b := ownBed(t)
	ctx, rbac := t.Context(), b.Client().RbacV1()
	err := errors.Join(
		b.Dynamic().Resource(definitions).Delete(ctx, "externalmetrics."+metricsaws.GroupVersion.Group, metav1.DeleteOptions{}),
		rbac.ClusterRoleBindings().Delete(ctx, "tidegauge", metav1.DeleteOptions{}),
		rbac.ClusterRoles().Delete(ctx, "tidegauge", metav1.DeleteOptions{}),
		rbac.RoleBindings(env.Namespace).Delete(ctx, "tidegauge", metav1.DeleteOptions{}),
		rbac.Roles(env.Namespace).Delete(ctx, "tidegauge", metav1.DeleteOptions{}),
		b.Apply(ctx, []byte(peerRights)),
		b.startPrometheus(ctx),
	)
	if err != nil {
		t.Fatal(err)
	}
	s := b.newSpace(t)
	s.eventually("the CRD is gone", func(ctx context.Context) error {
		_, err := s.objects().List(ctx, metav1.ListOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the list of ExternalMetrics says %w", first(err, errors.New("nothing wrong")))
		}
		return nil
	})
	return s
}

// startAsPeer starts the adapter with the arguments of the chart's Deployment.
func (s *space) startAsPeer() {
	s.t.Helper()
	dir := s.t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(peerConfig), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var err error
	s.adapter, err = s.StartAdapter(s.t.Context(), env.AdapterOptions{
		Binary: s.adapterBinary(),
		Args: []string{
			"--cert-dir=" + filepath.Join(dir, "cert"), "--logtostderr=true", "--prometheus-url=" + s.proxy.URL(),
			"--metrics-relist-interval=1m", "--v=4", "--config=" + file,
		},
		Env: []string{
			"AWS_ENDPOINT_URL=" + s.aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion,
			"AWS_ACCESS_KEY_ID=" + s.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + s.aws.SecretAccessKey(),
		},
		OwnRights: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestInPlaceOfPrometheusAdapter(t *testing.T) {
	t.Parallel()
	s := newPeerBed(t)
	s.runScraped("web", 1)
	if err := s.player.SetRequests(player.Requests{Namespace: s.namespace, Workload: "web", PerSecond: 40}); err != nil {
		t.Fatal(err)
	}
	s.setSeries(
		described("depth", 12.5, s.here("service", "checkout")),
		described("heat", 61, map[string]string{"node": "node-0"}),
		outside("backlog", 95, s.here()),
	)
	if err := s.prometheusHas(`{__name__=~"e2e_depth|e2e_heat|external_backlog|envoy_cluster_upstream_rq"}`, 4); err != nil {
		t.Fatal(err)
	}
	s.startAsPeer()

	for _, path := range []string{"/healthz", "/readyz", "/livez"} {
		anonymous := s.client(s.adapter.Config(rest.AnonymousClientConfig(s.Config())))
		if err := anonymous.Get().AbsPath(path).Do(t.Context()).Error(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	s.awaitDescribed(texts{"checkout": "12500m"}, s.of("services", "checkout", "depth"))
	s.awaitDescribed(texts{"node-0": "61"}, "/nodes/node-0/heat")
	s.awaitRefusal(http.StatusServiceUnavailable, []string{"nodes", "forbidden", "verbs: [list, watch]"}, "/nodes/*/heat")
	s.awaitRefusal(http.StatusNotFound, []string{"the server could not find the metric nothing for pods"}, s.of("pods", "*", "nothing"))
	// There can be no ExternalMetric of that name, and no rule makes it.
	s.awaitError("nothing", http.StatusNotFound, "nothing")

	s.deploy(worker, 1)
	s.createHPA(autoscaler(worker, 1, "backlog"))
	s.createHPA(podsAutoscaler("web", "requests_per_second", 10))
	s.awaitReplicas(worker, 4)
	s.awaitReplicas("web", 4)

	s.toldOnce("ExternalMetrics cannot be read", "deploy/crds")
	s.toldOnce("HPAs cannot be read", `resources: [\"horizontalpodautoscalers\"]`)
	s.toldOnce("Status and Events are not written", `resources: [\"leases\"]`)
	s.toldOnce("The adapter cannot write the status of its pod", `resources: [\"pods/status\"]`)
	s.toldOnce("The adapter cannot write Events of its pod", `resources: [\"events\"]`)
	s.hasSelfMetrics()
	s.readsAreNoLists()
	s.thenInstalls()
}

// thenInstalls brings the CRD and then the rights, each of which counts without a restart.
func (s *space) thenInstalls() {
	s.t.Helper()
	root, err := env.Root()
	if err != nil {
		s.t.Fatal(err)
	}
	apply := func(file string) {
		text, err := os.ReadFile(filepath.Join(root, "deploy", file))
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.Apply(s.t.Context(), text); err != nil {
			s.t.Fatal(err)
		}
	}
	apply("crds/metrics.aws_externalmetrics.yaml")
	s.put("Orders", 42.5)
	s.eventually("an ExternalMetric", func(ctx context.Context) error {
		_, err := s.objects().Create(ctx, s.unstructured(s.metric("orders", "Orders")), metav1.CreateOptions{})
		return err
	})
	s.awaitError("orders", http.StatusServiceUnavailable, "ExternalMetrics", "forbidden", `resources: ["externalmetrics"]`)
	s.awaitValue("backlog", "95")
	apply("base/rbac.yaml")
	s.awaitValue("orders", "42500m")
	s.awaitValue("backlog", "95")
	s.awaitDescribed(texts{"node-0": "61"}, "/nodes/*/heat")
	s.awaitError("nothing", http.StatusNotFound, "nothing")
}

// toldOnce is whether the adapter's log has the text once, on a line with the words.
func (s *space) toldOnce(text string, words ...string) {
	s.t.Helper()
	s.eventually(text, func(context.Context) error {
		if !strings.Contains(s.adapter.Logs(), text) {
			return errors.New("the log does not say so")
		}
		return nil
	})
	var lines []string
	for line := range strings.Lines(s.adapter.Logs()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	if err := mentions(lines[0], words...); err != nil || len(lines) != 1 {
		s.t.Errorf("%q is said %d times: %v\n%s", text, len(lines), err, strings.Join(lines, ""))
	}
}

// readsAreNoLists is whether the adapter knows the pods without asking for them again and
// again.
func (s *space) readsAreNoLists() {
	s.t.Helper()
	before := s.podLists()
	err := parallelReads(200, func() error {
		_, err := s.described(s.t.Context(), s.of("pods", "*", "requests_per_second"), "labelSelector", "app=web")
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
	if got := s.podLists() - before; got > 0 {
		s.t.Errorf("200 reads came with %d LISTs of pods", got)
	}
}

// podLists is how many LISTs of pods the API server has answered.
func (s *space) podLists() int {
	s.t.Helper()
	text, err := s.admin().Get().AbsPath("/metrics").DoRaw(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || mentions(line, `resource="pods"`, `verb="LIST"`) != nil {
			continue
		}
		var n int
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &n); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		total += n
	}
	if total == 0 {
		s.t.Fatal("the API server counts no LIST of pods")
	}
	return total
}

// hasSelfMetrics is whether the adapter counts its calls of Prometheus, without resourceRules.
func (s *space) hasSelfMetrics() {
	s.t.Helper()
	text, err := s.client(s.adapter.Config(s.Config())).Get().AbsPath("/metrics").DoRaw(s.t.Context())
	if err := first(err, mentions(string(text),
		`tidegauge_prometheus_calls_total{endpoint="query",result="ok",server="default"} `,
		`tidegauge_prometheus_calls_total{endpoint="series",result="ok",server="default"} `,
		`tidegauge_prometheus_call_duration_seconds_count{endpoint="query",server="default"} `,
	)); err != nil {
		s.t.Error(err)
	}
}

// prometheusHas waits until Prometheus has at least so many series of a selector.
func (s *space) prometheusHas(selector string, least int) error {
	return eventually(s.t.Context(), func(ctx context.Context) error {
		vector, err := s.prometheus.Query(ctx, selector)
		if err == nil && len(vector) < least {
			err = fmt.Errorf("%s has %d series, want %d", selector, len(vector), least)
		}
		return err
	})
}

// podsAutoscaler is an HPA that scales the Deployment of its own name by a metric of its
// pods, to so much of it a pod.
func podsAutoscaler(name, metric string, target int64) *autoscalingv2.HorizontalPodAutoscaler {
	hpa := autoscaler(name, 1, metric)
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
		Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: metric},
			Target: autoscalingv2.MetricTarget{
				Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(target, resource.DecimalSI),
			},
		},
	}}
	return hpa
}
