package docs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// TestFromCloudWatchAdapter follows the guide in a cluster that k8s-cloudwatch-adapter
// v0.10.0 was installed in: its CRD as the API server has kept it since apiextensions
// v1beta1, its objects, HPAs that read them, and an APIService that trusts anybody.
func TestFromCloudWatchAdapter(t *testing.T) {
	for _, helm := range []string{"helm", "helm3"} {
		t.Run(helm, func(t *testing.T) { fromCloudWatchAdapter(t, newBed(t, helm)) })
	}
}

func fromCloudWatchAdapter(t *testing.T, b *bed) {
	t.Helper()
	const name, home = "k8s-cloudwatch-adapter", "custom-metrics"
	b.publish(
		jobsMetric("ApproximateNumberOfMessagesVisible", 95),
		fakeaws.Metric{Account: otherAccount, Namespace: "Billing", Name: "FeesWaiting", Value: 40},
	)
	b.apply(namespaces(home, "demo", "payments"))
	old := b.startOther(home, name, map[string]string{"demo/jobs-depth": "95", "demo/parcels": "0", "payments/fees-waiting": "40"}, nil)
	b.oldDefinition()
	b.apply(oldObjects)
	b.apply(old.apiService("external.metrics.k8s.io", home, name))
	b.apply(workload(home, name, 1) + oldRights(home, name) +
		workload("demo", "worker", 4) + hpa("demo", "worker", external("jobs-depth", 30)) +
		workload("demo", "parcels", 1) + hpa("demo", "parcels", external("parcels", 30)) +
		workload("payments", "fees", 2) + hpa("payments", "fees", external("fees-waiting", 20)))
	b.awaitHPAs()
	w := b.watch("demo", "payments")

	g := &guide{bed: b, blocks: readPage(t, "migrate-k8s-cloudwatch-adapter.md")}
	g.backs = map[string]func(*testing.T){
		"beside": func(t *testing.T) {
			t.Helper()
			b.leadsTo(t, "v1beta1.external.metrics.k8s.io", home+"/"+name)
			if got := b.kubectl("", "get", "externalmetrics.metrics.aws", "-A", "-o", "name"); strings.Count(got, "\n") != 3 {
				t.Errorf("of the ExternalMetrics is left %q", got)
			}
			b.awaitHPAs()
		},
		"switched": func(t *testing.T) {
			t.Helper()
			b.leadsTo(t, "v1beta1.external.metrics.k8s.io", home+"/"+name)
			// The next numbers are the old adapter's: the page's are the same.
			old.set("demo/jobs-depth", "100")
			b.awaitValue(t, "demo", "worker", "25")
			old.set("demo/jobs-depth", "95")
			b.awaitHPAs()
		},
	}
	g.follow(t)
	w.check(t)
	b.leadsTo(t, "v1beta1.external.metrics.k8s.io", namespace+"/"+release)
	b.pruned(t)
}

// pruned fails the test if the CRD still lets fields through that it does not have, as the
// old one did.
func (b *bed) pruned(t *testing.T) {
	t.Helper()
	got := b.kubectl("", "get", "crd", "externalmetrics.metrics.aws", "-o", "jsonpath={.spec.preserveUnknownFields}")
	if got == "true" {
		t.Error("the CRD has spec.preserveUnknownFields of the old one, and prunes nothing")
	}
}

// jobsMetric is one of the queue that the pages have.
func jobsMetric(name string, value float64) fakeaws.Metric {
	return fakeaws.Metric{Namespace: "AWS/SQS", Name: name, Dimensions: map[string]string{"QueueName": "jobs"}, Value: fakeaws.Float(value)}
}

// oldObjects are as the old adapter's documentation had them.
const oldObjects = `
apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: jobs-depth, namespace: demo}
spec:
  name: jobs-depth
  resource: {resource: deployment}
  queries:
  - id: depth
    metricStat:
      metric:
        namespace: AWS/SQS
        metricName: ApproximateNumberOfMessagesVisible
        dimensions: [{name: QueueName, value: jobs}]
      period: 60
      stat: Average
      unit: None
    returnData: true
---
apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: parcels, namespace: demo}
spec:
  name: parcels
  queries:
  - id: depth
    metricStat:
      metric:
        namespace: AWS/SQS
        metricName: ApproximateNumberOfMessagesVisible
        dimensions: [{name: QueueName, value: parcels}]
      period: 60
      stat: Average
    returnData: true
---
apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: fees-waiting, namespace: payments}
spec:
  name: fees-waiting
  roleArn: arn:aws:iam::` + otherAccount + `:role/metrics-reader
  region: ` + region + `
  queries:
  - id: waiting
    metricStat:
      metric: {namespace: Billing, metricName: FeesWaiting}
      period: 60
      stat: Average
    returnData: true
`

// oldRights are the names of what else the old adapter has.
func oldRights(namespace, name string) string {
	return fmt.Sprintf(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: %[2]s, namespace: %[1]s}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "%[2]s:crd-metrics-reader"}, rules: []}
---
`, namespace, name)
}

// oldDefinition stores the CRD as it is in a cluster that had it before Kubernetes 1.22:
// without a schema, and with spec.preserveUnknownFields, which no API server takes any more.
func (b *bed) oldDefinition() {
	b.t.Helper()
	const name = "externalmetrics.metrics.aws"
	names := map[string]any{"kind": "ExternalMetric", "listKind": "ExternalMetricList", "plural": "externalmetrics", "singular": "externalmetric"}
	b.store("/registry/apiextensions.k8s.io/customresourcedefinitions/"+name, map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": name, "uid": "5f0f4a3c-6a0c-4c1f-9d50-52a4e5a0c6b1", "creationTimestamp": "2020-07-01T12:00:00Z", "generation": 1},
		"spec": map[string]any{
			"group": "metrics.aws", "scope": "Namespaced", "names": names, "preserveUnknownFields": true,
			"conversion": map[string]any{"strategy": "None"},
			"versions":   []any{map[string]any{"name": "v1alpha1", "served": true, "storage": true}},
		},
		"status": map[string]any{
			"acceptedNames": names, "storedVersions": []any{"v1alpha1"},
			"conditions": []any{
				map[string]any{"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "lastTransitionTime": "2020-07-01T12:00:00Z"},
				map[string]any{"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "lastTransitionTime": "2020-07-01T12:00:00Z"},
			},
		},
	})
	eventually(b.t, func(ctx context.Context) error {
		_, err := b.shell(ctx, "", "kubectl", "get", "externalmetrics.metrics.aws", "-A")
		return err
	})
}

// store writes an object into etcd, past the API server.
func (b *bed) store(key string, object any) {
	b.t.Helper()
	value, err := json.Marshal(object)
	if err != nil {
		b.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{
		"key": base64.StdEncoding.EncodeToString([]byte(key)), "value": base64.StdEncoding.EncodeToString(value),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.etcd()+"/v3/kv/put", bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("etcd answers %s", resp.Status)
	}
}

// etcd is its URL.
func (b *bed) etcd() string {
	b.t.Helper()
	for _, p := range b.Processes() {
		if p.Name() == "etcd" {
			return strings.TrimSuffix(p.Health().URL, "/health")
		}
	}
	b.t.Fatal("there is no etcd")
	return ""
}

// leadsTo fails the test if an APIService does not lead to a Service.
func (b *bed) leadsTo(t *testing.T, api, want string) {
	t.Helper()
	o, err := b.Dynamic().Resource(apiServices).Get(t.Context(), api, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service, _, err := unstructured.NestedStringMap(withoutPort(o.Object), "spec", "service")
	if err != nil {
		t.Fatal(err)
	}
	if got := service["namespace"] + "/" + service["name"]; got != want {
		t.Errorf("%s leads to %s, want %s", api, got, want)
	}
}

func withoutPort(object map[string]any) map[string]any {
	unstructured.RemoveNestedField(object, "spec", "service", "port")
	return object
}

// awaitValue waits until an HPA has seen an average of its external metric.
func (b *bed) awaitValue(t *testing.T, namespace, name, want string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		h, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, m := range h.Status.CurrentMetrics {
			if m.External != nil && m.External.Current.AverageValue != nil && m.External.Current.AverageValue.String() == want {
				return nil
			}
		}
		return fmt.Errorf("HPA %s/%s has the metrics %v", namespace, name, h.Status.CurrentMetrics)
	})
}
