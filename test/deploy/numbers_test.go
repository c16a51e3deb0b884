package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/repo"
)

// TestExamplesGetNumbers runs the adapter with the rules of the examples' values, in front of
// a real Prometheus and the AWS stand-in, and waits until the real HPA controller has a
// value of every metric of every example.
func TestExamplesGetNumbers(t *testing.T) {
	c := bed.Cluster(t)
	const own = "numbers"
	ownNamespace(t, c, own)
	backends := startBackends(t, c)
	backends.queue(t, "orders", 45)
	backends.queue(t, "returns", 20)
	startExampleAdapter(t, c, backends)
	for _, file := range examples(t) {
		// The player has every pod's metrics at one path.
		text := strings.ReplaceAll(repo.Text(t, file), "/stats/prometheus", "/metrics")
		if _, err := c.Kubectl(t.Context(), text, "apply", "--server-side", "-n", own, "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	backends.load(t, own)

	want := map[string][]string{
		"queue-worker": {"orders-depth"},
		"web":          {"http_requests_per_second"},
		"checkout":     {"service_requests_per_second"},
		"mesh-app":     {"envoy_requests_per_second"},
		"render":       {"cpu"},
		"orders":       {"cpu", "http_requests_per_second", "returns-waiting"},
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		t.Run(name, func(t *testing.T) {
			var hpa *autoscalingv2.HorizontalPodAutoscaler
			eventually(t, "metrics of "+name, func(ctx context.Context) error {
				var err error
				if hpa, err = c.Client().AutoscalingV2().HorizontalPodAutoscalers(own).Get(ctx, name, metav1.GetOptions{}); err != nil {
					return err
				}
				return hasNumbers(hpa, want[name])
			})
			for _, m := range hpa.Status.CurrentMetrics {
				name, value := number(m)
				t.Logf("%s is %s, and the HPA wants %d replicas", name, value, hpa.Status.DesiredReplicas)
			}
		})
	}
}

// hasNumbers is nil if the HPA has a value above zero of each of the metrics.
func hasNumbers(hpa *autoscalingv2.HorizontalPodAutoscaler, metrics []string) error {
	var got []string
	for _, m := range hpa.Status.CurrentMetrics {
		if name, value := number(m); value != "" && !strings.HasPrefix(value, "0") {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if slices.Equal(got, metrics) {
		return nil
	}
	err := fmt.Errorf("it has numbers of %v, want %v", got, metrics)
	for _, condition := range hpa.Status.Conditions {
		if condition.Status == corev1.ConditionFalse {
			err = fmt.Errorf("%w; %s: %s", err, condition.Reason, condition.Message)
		}
	}
	return err
}

// number is the name of a metric, and its value if there is one.
func number(m autoscalingv2.MetricStatus) (name, value string) {
	var current autoscalingv2.MetricValueStatus
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		name, current = m.External.Metric.Name, m.External.Current
	case autoscalingv2.PodsMetricSourceType:
		name, current = m.Pods.Metric.Name, m.Pods.Current
	case autoscalingv2.ObjectMetricSourceType:
		name, current = m.Object.Metric.Name, m.Object.Current
	case autoscalingv2.ResourceMetricSourceType:
		name, current = string(m.Resource.Name), m.Resource.Current
	default: // An HPA without a value of a metric leaves it empty.
		return "", ""
	}
	switch {
	case current.AverageValue != nil:
		return name, current.AverageValue.String()
	case current.Value != nil:
		return name, current.Value.String()
	default:
		return name, ""
	}
}

// backends are what the adapter asks, and what plays the pods towards Prometheus.
type backends struct {
	aws        *env.AWS
	player     *env.Player
	prometheus *env.Prometheus
}

func startBackends(t *testing.T, c *env.Cluster) backends {
	t.Helper()
	var b backends
	var errs [3]error
	ctx := t.Context()
	b.aws, errs[0] = c.StartAWS(ctx, env.AWSOptions{PublishInterval: time.Second})
	if b.player, errs[1] = c.StartPlayer(ctx, env.PlayerOptions{}); errs[1] == nil {
		b.prometheus, errs[2] = c.StartPrometheus(ctx, env.PrometheusOptions{PlayerURL: b.player.URL, ScrapeInterval: time.Second})
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return b
}

// startExampleAdapter starts the adapter with the examples' configuration.
func startExampleAdapter(t *testing.T, c *env.Cluster, b backends) {
	t.Helper()
	text, _ := exampleConfig(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, text)
	adapter, err := c.StartAdapter(t.Context(), env.AdapterOptions{
		Args: []string{"--config=" + file, "--prometheus-url=" + b.prometheus.URL, "--metrics-relist-interval=2s"},
		Env:  b.aws.Env(), ResourceMetrics: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		const tail = 5000
		if logs := adapter.Logs(); t.Failed() {
			t.Logf("the adapter's log:\n%s", logs[max(0, len(logs)-tail):])
		}
	})
}

// queue makes a queue with so many messages.
func (b backends) queue(t *testing.T, name string, messages int) {
	t.Helper()
	client := sqs.NewFromConfig(aws.Config{
		Region: b.aws.Region, BaseEndpoint: &b.aws.URL,
		Credentials: credentials.NewStaticCredentialsProvider(b.aws.AccessKeyID, b.aws.SecretAccessKey, ""),
	})
	q, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		_, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: q.QueueUrl, Entries: []types.SendMessageBatchRequestEntry{
			{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("work")},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// load gives the workloads of the examples something to do.
func (b backends) load(t *testing.T, namespace string) {
	t.Helper()
	ctx := t.Context()
	var requests []player.Requests
	for _, workload := range []string{"web", "mesh-app", "orders"} {
		requests = append(requests, player.Requests{Namespace: namespace, Workload: workload, PerSecond: 50})
	}
	err := errors.Join(
		b.player.SetRequests(ctx, requests...),
		b.player.SetUsage(ctx,
			player.Usage{Namespace: namespace, Workload: "render", Cores: 0.5, Bytes: 1 << 20},
			player.Usage{Namespace: namespace, Workload: "orders", Cores: 0.1, Bytes: 1 << 20}),
		b.player.SetSeries(ctx, namespace, player.Series{
			Name: "http_requests_total", Counter: true, PerSecond: 200, Labels: map[string]string{"namespace": namespace, "service": "checkout"},
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
}
