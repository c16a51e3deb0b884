package reviewapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/env"
)

// wantOwnScale gives the queue of 101 messages, which by the adapter become workers of 101, and
// nobody else's.
func (b *testbed) wantOwnScale(t *testing.T) {
	t.Helper()
	b.holdMessages(t)
	_, err := b.cluster.StartAdapter(t.Context(), env.AdapterOptions{Binary: os.Getenv("TIDEGAUGE_ADAPTER"), Env: b.aws.Env()})
	if err != nil {
		t.Fatal(err)
	}
	idle := scale{most: 1, each: "0"}
	for _, number := range []string{"101", "102"} {
		eventually(t, "the HPA of "+number+" reads its queue", func(ctx context.Context) error { return b.wantScale(ctx, number, idle) })
	}
	b.send(t, "orders-pr-101", 60)
	eventually(t, "the workers of 101 follow their queue", func(ctx context.Context) error {
		return b.wantScale(ctx, "101", scale{least: 2, most: 2})
	})
	// It is looked at as often.
	if err := b.wantScale(t.Context(), "102", idle); err != nil {
		t.Errorf("the queue of 101 is full, and not that of 102: %v", err)
	}
}

// holdMessages has nobody get a message until the test ends, but for those who wait for one
// already: ten at most.
func (b *testbed) holdMessages(t *testing.T) {
	t.Helper()
	const faults = "/_control/faults"
	b.control(t.Context(), t, http.MethodPost, faults, `{"service": "sqs", "operation": "ReceiveMessage", "errorCode": "InternalFailure"}`)
	t.Cleanup(func() { b.control(context.WithoutCancel(t.Context()), t, http.MethodDelete, faults, "") })
}

func (b *testbed) control(ctx context.Context, t *testing.T, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, b.aws.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s is answered %s", method, path, resp.Status)
	}
}

// send puts messages into a queue, ten in a call.
func (b *testbed) send(t *testing.T, queue string, messages int) {
	t.Helper()
	url, err := b.sqs().GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &queue})
	if err != nil {
		t.Fatal(err)
	}
	for range messages / 10 {
		var entries []types.SendMessageBatchRequestEntry
		for i := range 10 {
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("1")})
		}
		if _, err := b.sqs().SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: url.QueueUrl, Entries: entries}); err != nil {
			t.Fatal(err)
		}
	}
}

// scale is how many workers there are, and how many messages the HPA reads for each, if it
// matters.
type scale struct {
	least, most int32
	each        string
}

// wantScale is nil when the workers of a review app and its HPA are like that.
func (b *testbed) wantScale(ctx context.Context, number string, want scale) error {
	namespace := "web-pr-" + number
	hpa, err := b.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, "worker", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive && c.Status != corev1.ConditionTrue {
			return fmt.Errorf("the HPA is not active: %s: %s", c.Reason, c.Message)
		}
	}
	if len(hpa.Status.CurrentMetrics) != 1 || hpa.Status.CurrentMetrics[0].External == nil || hpa.Status.CurrentMetrics[0].External.Current.AverageValue == nil {
		return errors.New("the HPA has read nothing")
	}
	if got := hpa.Status.CurrentMetrics[0].External.Current.AverageValue.String(); want.each != "" && got != want.each {
		return fmt.Errorf("the HPA of %s reads %s messages a worker, want %s", number, got, want.each)
	}
	worker, err := b.cluster.Client().AppsV1().Deployments(namespace).Get(ctx, "worker", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, got := range []int32{hpa.Status.DesiredReplicas, worker.Status.ReadyReplicas} {
		if got < want.least || got > want.most {
			return fmt.Errorf("%s has %d workers and its HPA wants %d, want %d to %d",
				number, worker.Status.ReadyReplicas, hpa.Status.DesiredReplicas, want.least, want.most)
		}
	}
	return nil
}
