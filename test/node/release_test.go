package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// workload is what the tests scale, on the simulated node: its pods run nothing. The
// adapter's own have to be restricted.
const workload = `
apiVersion: v1
kind: Namespace
metadata:
  name: ` + namespace + `
  labels:
    pod-security.kubernetes.io/enforce: restricted
---
apiVersion: v1
kind: Namespace
metadata:
  name: ` + workloads + `
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: worker
  namespace: ` + workloads + `
spec:
  replicas: 1
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      nodeSelector: {tidegauge.dev/node: simulated}
      tolerations: [{key: ` + env.SimulatedTaint + `, operator: Exists}]
      containers: [{name: worker, image: worker}]
`

// metrics are an ExternalMetric of the queue's depth, and an HPA that scales by it.
const metrics = `
apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata:
  name: jobs-depth
  namespace: ` + workloads + `
spec:
  interval: 1s
  queries:
  - id: depth
    metricStat:
      metric:
        namespace: AWS/SQS
        metricName: ApproximateNumberOfMessagesVisible
        dimensions: [{name: QueueName, value: ` + queueName + `}]
      period: 1
      stat: Maximum
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: worker
  namespace: ` + workloads + `
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: worker}
  minReplicas: 0
  maxReplicas: 10
  metrics:
  - type: External
    external:
      metric: {name: jobs-depth}
      target: {type: AverageValue, averageValue: "30"}
  behavior: {scaleDown: {stabilizationWindowSeconds: 5}}
`

// paths are those of two metrics, each of another API, with the values that they have
// while the queue holds backlog messages.
var paths = map[string]string{
	"/apis/external.metrics.k8s.io/v1beta1/namespaces/" + workloads + "/jobs-depth":                 `"value":"95"`,
	"/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + workloads + "/metrics/requests_in_progress": `"value":"17"`,
}

const (
	backlog = 95
	// needed is how many workers the HPA wants for the backlog.
	needed = 4
)

// install installs the chart with its defaults, led to the stand-ins, and what it scales.
func (b *bed) install(ctx context.Context) error {
	root, err := env.Root()
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(map[string]any{
		"env": []map[string]string{
			{"name": "AWS_ENDPOINT_URL", "value": b.aws.URL()},
			{"name": "AWS_REGION", "value": fakeaws.DefaultRegion},
			{"name": "AWS_ACCESS_KEY_ID", "value": b.aws.AccessKeyID()},
			{"name": "AWS_SECRET_ACCESS_KEY", "value": b.aws.SecretAccessKey()},
		},
		"prometheus": map[string]any{"url": b.prom.URL()},
		"rules": map[string]any{"default": false, "custom": []map[string]any{{
			"seriesQuery":  `requests_in_progress{namespace!=""}`,
			"resources":    map[string]any{"overrides": map[string]any{"namespace": map[string]string{"resource": "namespace"}}},
			"metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
		}}},
		"metricsRelistInterval": "2s",
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.values(), text, 0o600); err != nil {
		return err
	}
	if _, err := b.helm(ctx, "install", release, chartDir(root), "--values", b.values(), "--wait", "--timeout", deadline.String()); err != nil {
		pods, told := b.Kubectl(ctx, "", "describe", "pods", "-n", namespace)
		return fmt.Errorf("%w\n%s", errors.Join(err, told), pods)
	}
	return b.Apply(ctx, []byte(metrics))
}

func (b *bed) values() string { return filepath.Join(b.Dir(), "values.yaml") }

// upgrade is a new revision of the release, with values besides those of the install.
func (b *bed) upgrade(t *testing.T, args ...string) {
	t.Helper()
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"upgrade", release, chartDir(root), "--values", b.values(), "--wait", "--timeout", deadline.String()}, args...)
	if _, err := b.helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) sqs() *sqs.Client {
	return sqs.NewFromConfig(aws.Config{
		Region: fakeaws.DefaultRegion, BaseEndpoint: aws.String(b.aws.URL()),
		Credentials: credentials.NewStaticCredentialsProvider(b.aws.AccessKeyID(), b.aws.SecretAccessKey(), ""),
	})
}

// createQueue makes the queue, with the backlog in it.
func (b *bed) createQueue(ctx context.Context) error {
	if _, err := b.sqs().CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(queueName)}); err != nil {
		return err
	}
	return b.send(ctx)
}

// send puts the backlog into the queue.
func (b *bed) send(ctx context.Context) error {
	url, err := b.sqs().GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(queueName)})
	if err != nil {
		return err
	}
	messages := make([]types.SendMessageBatchRequestEntry, backlog)
	for i := range messages {
		messages[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("work")}
	}
	for batch := range slices.Chunk(messages, 10) {
		if _, err := b.sqs().SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: url.QueueUrl, Entries: batch}); err != nil {
			return err
		}
	}
	return nil
}

// purge empties the queue.
func (b *bed) purge(t *testing.T) {
	t.Helper()
	url, err := b.sqs().GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String(queueName)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.sqs().PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: url.QueueUrl}); err != nil {
		t.Fatal(err)
	}
}

// ofAdapter selects the adapter's pods, and not that of `helm test`, which stays.
const ofAdapter = "app.kubernetes.io/instance=" + release + ",app.kubernetes.io/component!=test"

// pods are those of the release that nobody has told to stop, the oldest first.
func (b *bed) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := b.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofAdapter})
	if err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// awaitPods waits until the release has two pods that are ready, and no other, and returns
// them.
func (b *bed) awaitPods(t *testing.T) []corev1.Pod {
	t.Helper()
	var found []corev1.Pod
	eventually(t, "two pods", func(ctx context.Context) error {
		list, err := b.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofAdapter})
		if err != nil {
			return err
		}
		if found, err = b.pods(ctx); err != nil {
			return err
		}
		if len(list.Items) != 2 || len(found) != 2 {
			return fmt.Errorf("there are %d pods, of which %d are to stay", len(list.Items), len(found))
		}
		for _, pod := range found {
			if !isReady(pod) {
				return fmt.Errorf("%s is not ready: %v", pod.Name, pod.Status.Conditions)
			}
		}
		return nil
	})
	return found
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// awaitServing waits until the release has two ready pods, and each of them serves every
// metric, as the API server does.
func (b *bed) awaitServing(t *testing.T) {
	t.Helper()
	readers := []*reader{b.reader(t)}
	for _, pod := range b.awaitPods(t) {
		readers = append(readers, b.readerOf(t, pod))
	}
	eventually(t, "APIServices", func(ctx context.Context) error { return env.Aggregated(ctx, b.Kubeconfig()) })
	for _, r := range readers {
		for path, value := range paths {
			eventually(t, r.host+path, func(ctx context.Context) error { return r.read(ctx, path, value) })
		}
	}
}

// awaitReplicas waits until the HPA has given the workload so many pods.
func (b *bed) awaitReplicas(t *testing.T, want int32) {
	t.Helper()
	eventually(t, "replicas", func(ctx context.Context) error {
		d, err := b.Client().AppsV1().Deployments(workloads).Get(ctx, "worker", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := d.Status.ReadyReplicas; got != want || *d.Spec.Replicas != want {
			return fmt.Errorf("%d of %d replicas are ready, want %d", got, *d.Spec.Replicas, want)
		}
		return nil
	})
}
