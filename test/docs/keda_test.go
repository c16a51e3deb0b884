package docs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const kedaPage = "migrate-keda.md"

var scaledObjects = schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}

// TestFromKEDA follows the guide in a cluster with its ScaledObjects, where a stand-in does
// with HPAs what KEDA's operator does, and another gives KEDA's numbers.
func TestFromKEDA(t *testing.T) {
	for _, helm := range []string{"helm", "helm3"} {
		t.Run(helm, func(t *testing.T) { fromKEDA(t, newBed(t, helm)) })
	}
}

func fromKEDA(t *testing.T, b *bed) {
	t.Helper()
	const home, name = "keda", "keda-operator-metrics-apiserver"
	b.startPrometheus()
	b.publish(
		jobsMetric("ApproximateNumberOfMessagesVisible", 90),
		jobsMetric("ApproximateNumberOfMessagesNotVisible", 5),
		fakeaws.Metric{
			Namespace: "AWS/ApplicationELB", Name: "RequestCount", Value: 1500,
			Dimensions: map[string]string{"LoadBalancer": "app/web/50dc6c495c0c9188", "TargetGroup": "targetgroup/web/73e2d6bc24d8a067"},
		},
	)
	b.apply(namespaces(home, "demo") + kedaKinds)
	old := b.startOther(home, name, map[string]string{"demo/s0-worker": "95", "demo/s0-web": "1500", "demo/s0-shop": "250"}, nil)
	b.installOther(home, home, old.apiService("external.metrics.k8s.io", home, name))
	b.apply(workload("demo", "worker", 4) + workload("demo", "web", 3) + workload("demo", "shop", 3))
	pairs := scaledPairs(t)
	for _, p := range pairs {
		b.kubectl(p.before.text, "apply", "-f", "-")
	}
	b.startKEDA(pairs)
	eventually(t, func(ctx context.Context) error {
		return b.hpas(ctx, "keda-hpa-shop", "keda-hpa-web", "keda-hpa-worker")
	})
	b.awaitHPAs()
	w := b.watch("demo")

	g := &guide{bed: b, blocks: readPage(t, kedaPage)}
	g.backs = map[string]func(*testing.T){
		"switched": func(t *testing.T) {
			t.Helper()
			b.leadsTo(t, "v1beta1.external.metrics.k8s.io", home+"/"+name)
			eventually(t, func(ctx context.Context) error {
				return b.hpas(ctx, "keda-hpa-shop", "keda-hpa-web", "keda-hpa-worker")
			})
			b.awaitHPAs()
		},
	}
	g.again = map[string][]string{"switched": {"4. Pause KEDA", "5. Switch, and create the HPAs"}}
	g.follow(t)
	b.awaitHPAs()
	w.check(t)
	b.takesWithoutWarning(t)
	b.leadsTo(t, "v1beta1.external.metrics.k8s.io", namespace+"/"+release)
}

// kedaKinds are KEDA's kinds of objects, of any content.
var kedaKinds = func() string {
	var text strings.Builder
	for _, kind := range []string{"ScaledObject", "ScaledJob", "TriggerAuthentication"} {
		fmt.Fprintf(&text, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]ss.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {kind: %[2]s, plural: %[1]ss, singular: %[1]s}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---`, strings.ToLower(kind), kind)
	}
	return text.String()
}()

// startKEDA starts what gives each ScaledObject its HPA, and takes it away while it is paused
// or once it is gone.
func (b *bed) startKEDA(pairs []scaledPair) {
	objects := map[string]string{}
	for _, p := range pairs {
		objects[p.scaled.Metadata.Name] = p.kedaHPA()
	}
	b.beside(func(ctx context.Context) {
		every(ctx, 200*time.Millisecond, func() {
			for name, object := range objects {
				_ = b.operate(ctx, name, object) // It is tried again.
			}
		})
	})
}

func (b *bed) operate(ctx context.Context, name, object string) error {
	o, err := b.Dynamic().Resource(scaledObjects).Namespace("demo").Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	hpas := b.Client().AutoscalingV2().HorizontalPodAutoscalers("demo")
	if err != nil || o.GetAnnotations()["autoscaling.keda.sh/paused"] == "true" {
		return hpas.Delete(ctx, "keda-hpa-"+name, metav1.DeleteOptions{})
	}
	if _, err := hpas.Get(ctx, "keda-hpa-"+name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	return b.Apply(ctx, []byte(object))
}

// hpas returns nil if there are these HPAs and no others.
func (b *bed) hpas(ctx context.Context, want ...string) error {
	list, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var got []string
	for _, h := range list.Items {
		got = append(got, h.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("there are the HPAs %v, want %v", got, want)
	}
	return nil
}

// scaledObject is what the page's ScaledObjects have, in KEDA's words.
type scaledObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount int32  `json:"minReplicaCount"`
		MaxReplicaCount int32  `json:"maxReplicaCount"`
		CooldownPeriod  *int32 `json:"cooldownPeriod"`
		Triggers        []struct {
			Type     string            `json:"type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// scaledPair is a ScaledObject of the page and what it becomes.
type scaledPair struct {
	before block
	scaled scaledObject
	hpa    autoscalingv2.HorizontalPodAutoscaler
	// metric is empty for a rule.
	metric metricsaws.ExternalMetric
}

// scaledPairs are those of the page.
func scaledPairs(t *testing.T) []scaledPair {
	t.Helper()
	files := map[string]block{}
	for _, b := range readPage(t, kedaPage) {
		if name, ok := b.is("file"); ok {
			files[name] = b
		}
	}
	var pairs []scaledPair
	for _, kind := range []string{"sqs", "cloudwatch", "prometheus"} {
		p := scaledPair{before: files["scaledobject-"+kind+".yaml"]}
		read(t, p.before, &p.scaled)
		read(t, files["hpa-"+kind+".yaml"], &p.hpa)
		if metric, ok := files["metric-"+kind+".yaml"]; ok {
			read(t, metric, &p.metric)
		}
		if len(p.scaled.Spec.Triggers) != 1 || len(p.hpa.Spec.Metrics) != 1 || p.hpa.Spec.Metrics[0].External == nil {
			t.Fatalf("%s: want one trigger and one external metric", p.before)
		}
		pairs = append(pairs, p)
	}
	return pairs
}

func read(t *testing.T, b block, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(b.text), into); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}

// kedaHPA is the HPA that KEDA makes of the ScaledObject, but for the metric's name.
func (p scaledPair) kedaHPA() string {
	target := p.hpa.Spec.Metrics[0].External.Target.AverageValue.String()
	return fmt.Sprintf(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: keda-hpa-%[1]s, namespace: demo}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[2]s}
  minReplicas: %[3]d
  maxReplicas: %[4]d
  metrics:
  - type: External
    external:
      metric: {name: s0-%[1]s, selector: {matchLabels: {scaledobject.keda.sh/name: %[1]s}}}
      target: {type: AverageValue, averageValue: "%[5]s"}
`, p.scaled.Metadata.Name, p.scaled.Spec.ScaleTargetRef.Name, max(1, p.scaled.Spec.MinReplicaCount), p.scaled.Spec.MaxReplicaCount, target)
}

// TestScaledObjects compares the numbers of each ScaledObject with those of what it becomes.
func TestScaledObjects(t *testing.T) {
	for _, p := range scaledPairs(t) {
		trigger := p.scaled.Spec.Triggers[0]
		t.Run(trigger.Type, func(t *testing.T) {
			p.sameScale(t)
			m := trigger.Metadata
			switch trigger.Type {
			case "aws-sqs-queue":
				p.sameQueue(t, m)
			case "aws-cloudwatch":
				p.sameMetric(t, m)
			case "prometheus":
				same(t, "threshold", p.hpa.Spec.Metrics[0].External.Target.AverageValue.String(), m["threshold"])
				selector := p.hpa.Spec.Metrics[0].External.Metric.Selector.MatchLabels
				for label, value := range selector {
					if matcher := fmt.Sprintf("%s=%q", label, value); !strings.Contains(m["query"], matcher) {
						t.Errorf("the HPA selects %s, which is not in the query %s", matcher, m["query"])
					}
				}
			}
		})
	}
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, was %v", what, got, want)
	}
}

func (p scaledPair) sameScale(t *testing.T) {
	t.Helper()
	before, after := p.scaled, p.hpa
	same(t, "namespace", after.Namespace, before.Metadata.Namespace)
	same(t, "scaleTargetRef.name", after.Spec.ScaleTargetRef.Name, before.Spec.ScaleTargetRef.Name)
	same(t, "minReplicas", *after.Spec.MinReplicas, before.Spec.MinReplicaCount)
	same(t, "maxReplicas", after.Spec.MaxReplicas, before.Spec.MaxReplicaCount)
	if before.Spec.CooldownPeriod != nil {
		same(t, "stabilizationWindowSeconds", *after.Spec.Behavior.ScaleDown.StabilizationWindowSeconds, *before.Spec.CooldownPeriod)
	}
	if p.metric.Name != "" {
		same(t, "metric", after.Spec.Metrics[0].External.Metric.Name, p.metric.Name)
		same(t, "namespace of the metric", p.metric.Namespace, before.Metadata.Namespace)
		same(t, "region", p.metric.Spec.Region, before.Spec.Triggers[0].Metadata["awsRegion"])
	}
}

func (p scaledPair) sameQueue(t *testing.T, m map[string]string) {
	t.Helper()
	same(t, "queueLength", p.hpa.Spec.Metrics[0].External.Target.AverageValue.String(), m["queueLength"])
	_, queue, _ := cutLast(m["queueURL"], "/")
	names := map[string]bool{}
	for _, q := range p.metric.Spec.Queries {
		if q.MetricStat == nil {
			continue
		}
		names[q.MetricStat.Metric.MetricName] = true
		same(t, "the queue of "+q.ID, q.MetricStat.Metric.Dimensions[0].Value, queue)
	}
	same(t, "scaleOnInFlight", names["ApproximateNumberOfMessagesNotVisible"], m["scaleOnInFlight"] != "false")
	same(t, "scaleOnDelayed", names["ApproximateNumberOfMessagesDelayed"], m["scaleOnDelayed"] == "true")
	if first := p.metric.Spec.Queries[0].Expression; !strings.Contains(first, "> "+m["activationQueueLength"]+",") {
		t.Errorf("%s does not compare with activationQueueLength %s", first, m["activationQueueLength"])
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (p scaledPair) sameMetric(t *testing.T, m map[string]string) {
	t.Helper()
	same(t, "targetMetricValue", p.hpa.Spec.Metrics[0].External.Target.AverageValue.String(), m["targetMetricValue"])
	stat := p.metric.Spec.Queries[0].MetricStat
	same(t, "namespace", stat.Metric.Namespace, m["namespace"])
	same(t, "metricName", stat.Metric.MetricName, m["metricName"])
	same(t, "metricStat", stat.Stat, m["metricStat"])
	same(t, "metricStatPeriod", strconv.Itoa(int(stat.Period)), m["metricStatPeriod"])
	var dimensions, values []string
	for _, d := range stat.Metric.Dimensions {
		dimensions, values = append(dimensions, d.Name), append(values, d.Value)
	}
	same(t, "dimensionName", strings.Join(dimensions, ";"), m["dimensionName"])
	same(t, "dimensionValue", strings.Join(values, ";"), m["dimensionValue"])
	same(t, "noData", p.metric.Spec.NoData == metricsaws.NoDataZero, m["ignoreNullValues"] != "false" && m["minMetricValue"] == "0")
}

// takesWithoutWarning shows that the API server takes every object of the page, field by
// field.
func (b *bed) takesWithoutWarning(t *testing.T) {
	t.Helper()
	for _, block := range readPage(t, kedaPage) {
		name, ok := block.is("file")
		if !ok || !strings.HasPrefix(name, "metric-") && !strings.HasPrefix(name, "hpa-") {
			continue
		}
		b.kubectl(block.text, "apply", "--server-side", "--force-conflicts", "--dry-run=server",
			"--validate=strict", "--warnings-as-errors", "-f", "-")
	}
}
