package fakeaws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	gocmp "github.com/google/go-cmp/cmp"
)

func createQueue(t *testing.T, client *sqs.Client, name string) *string {
	t.Helper()
	out, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return out.QueueUrl
}

func wantDepth(t *testing.T, client *sqs.Client, queue *string, visible, notVisible, delayed int) {
	t.Helper()
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: queue, AttributeNames: []types.QueueAttributeName{attrVisible, attrNotVisible, attrDelayed},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{attrVisible: strconv.Itoa(visible), attrNotVisible: strconv.Itoa(notVisible), attrDelayed: strconv.Itoa(delayed)}
	if diff := gocmp.Diff(want, out.Attributes); diff != "" {
		t.Error(diff)
	}
}

func TestQueues(t *testing.T) {
	s := startAtNoon(t)
	client := sqsClient(s)
	first := createQueue(t, client, "work-1")
	second := createQueue(t, client, "work-2")
	createQueue(t, client, "other")
	if again := createQueue(t, client, "work-1"); *again != *first {
		t.Errorf("created again the queue is %s, want %s", *again, *first)
	}
	_, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("work-1"), Attributes: map[string]string{attrDelay: "5"}})
	wantCode(t, err, "QueueAlreadyExists", attrDelay)
	if want := s.URL() + "/" + DefaultAccount + "/work-1"; *first != want {
		t.Errorf("URL is %s, want %s", *first, want)
	}
	got, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("work-2")})
	if err != nil || *got.QueueUrl != *second {
		t.Errorf("URL is %v, %v, want %s", got, err, *second)
	}
	list, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("work"), MaxResults: aws.Int32(1)})
	if err != nil || !slices.Equal(list.QueueUrls, []string{*first}) {
		t.Fatalf("queues are %v, %v, want %s", list, err, *first)
	}
	list, err = client.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("work"), MaxResults: aws.Int32(1), NextToken: list.NextToken})
	if err != nil || !slices.Equal(list.QueueUrls, []string{*second}) || list.NextToken != nil {
		t.Errorf("queues are %v, %v, want %s", list, err, *second)
	}
	elsewhere, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{}, func(o *sqs.Options) { o.Region = "eu-west-1" })
	if err != nil || len(elsewhere.QueueUrls) > 0 {
		t.Errorf("queues of another region are %v, %v, want none", elsewhere, err)
	}
	if _, err := client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: first}); err != nil {
		t.Error(err)
	}
	_, err = client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("work-1")})
	wantCode(t, err, "AWS.SimpleQueueService.NonExistentQueue", "does not exist")
	if _, ok := errors.AsType[*types.QueueDoesNotExist](err); !ok {
		t.Errorf("error is %T, want QueueDoesNotExist", err)
	}
}

func TestQueueAttributes(t *testing.T) {
	s := startAtNoon(t)
	client := sqsClient(s)
	created, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("work"), Attributes: map[string]string{attrVisibility: "5"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: created.QueueUrl, Attributes: map[string]string{attrDelay: "7"}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: created.QueueUrl, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		t.Fatal(err)
	}
	now := strconv.FormatInt(noon.Unix(), 10)
	want := map[string]string{
		attrVisibility: "5", attrDelay: "7", attrRetention: "345600", attrMaxSize: "1048576", attrWait: "0",
		attrCreated: now, attrModified: now, attrARN: "arn:aws:sqs:us-east-1:123456789012:work",
		attrVisible: "0", attrNotVisible: "0", attrDelayed: "0",
	}
	if diff := gocmp.Diff(want, out.Attributes); diff != "" {
		t.Error(diff)
	}
	_, err = client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: created.QueueUrl, AttributeNames: []types.QueueAttributeName{"Colour"}})
	wantCode(t, err, "InvalidAttributeName", "Colour")
	_, err = client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: created.QueueUrl, Attributes: map[string]string{"Colour": "red"}})
	wantCode(t, err, "InvalidAttributeName", "Colour")
	_, err = client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("other"), Attributes: map[string]string{attrDelay: "901"}})
	wantCode(t, err, "InvalidAttributeValue", attrDelay)
	_, err = client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("a queue")})
	wantCode(t, err, "InvalidParameterValue", "alphanumeric")
}

func TestMessages(t *testing.T) {
	s := startAtNoon(t)
	client := sqsClient(s)
	queue := createQueue(t, client, "work")
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: queue, MessageBody: aws.String("first"),
		MessageAttributes: map[string]types.MessageAttributeValue{
			"Colour": {DataType: aws.String("String"), StringValue: aws.String("red")},
			"Raw":    {DataType: aws.String("Binary"), BinaryValue: []byte{0, 255}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: queue, Entries: []types.SendMessageBatchRequestEntry{
		{Id: aws.String("a"), MessageBody: aws.String("second")},
		{Id: aws.String("b"), MessageBody: aws.String("delayed"), DelaySeconds: 60},
		{Id: aws.String("c"), MessageBody: aws.String("")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Successful) != 2 || len(batch.Failed) != 1 || *batch.Failed[0].Id != "c" || *batch.Failed[0].Code != "MissingParameter" {
		t.Errorf("batch is %+v", batch)
	}
	wantDepth(t, client, queue, 2, 0, 1)
	out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: queue, MaxNumberOfMessages: 10,
		MessageAttributeNames:       []string{"Colour", "Raw"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{"ApproximateReceiveCount", "SentTimestamp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Messages) != 2 || *out.Messages[0].Body != "first" || *out.Messages[1].Body != "second" {
		t.Fatalf("messages are %v", out.Messages)
	}
	m := out.Messages[0]
	want := map[string]string{"ApproximateReceiveCount": "1", "SentTimestamp": strconv.FormatInt(noon.UnixMilli(), 10)}
	if diff := gocmp.Diff(want, m.Attributes); diff != "" {
		t.Error(diff)
	}
	if *m.MessageAttributes["Colour"].StringValue != "red" || !slices.Equal(m.MessageAttributes["Raw"].BinaryValue, []byte{0, 255}) {
		t.Errorf("attributes are %v", m.MessageAttributes)
	}
	wantDepth(t, client, queue, 0, 2, 1)
	if _, err := client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
		t.Error(err)
	}
	wantDepth(t, client, queue, 0, 1, 1)
	removed, err := client.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: queue, Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: out.Messages[1].ReceiptHandle},
		{Id: aws.String("b"), ReceiptHandle: m.ReceiptHandle},
	}})
	if err != nil || len(removed.Successful) != 2 {
		t.Errorf("batch is %v, %v", removed, err)
	}
	wantDepth(t, client, queue, 0, 0, 1)
	if _, err := client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: queue}); err != nil {
		t.Error(err)
	}
	wantDepth(t, client, queue, 0, 0, 0)
}

func TestChangeMessageVisibility(t *testing.T) {
	s := startAtNoon(t)
	client := sqsClient(s)
	queue := createQueue(t, client, "work")
	if _, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m")}); err != nil {
		t.Fatal(err)
	}
	out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queue})
	if err != nil || len(out.Messages) != 1 {
		t.Fatalf("messages are %v, %v", out, err)
	}
	change := &sqs.ChangeMessageVisibilityInput{QueueUrl: queue, ReceiptHandle: out.Messages[0].ReceiptHandle}
	if _, err := client.ChangeMessageVisibility(t.Context(), change); err != nil {
		t.Error(err)
	}
	wantDepth(t, client, queue, 1, 0, 0)
	_, err = client.ChangeMessageVisibility(t.Context(), change)
	wantCode(t, err, "AWS.SimpleQueueService.MessageNotInflight", "")
	change.VisibilityTimeout = 43_201
	_, err = client.ChangeMessageVisibility(t.Context(), change)
	wantCode(t, err, "InvalidParameterValue", "VisibilityTimeout")
	// A receipt deletes the message even when it is visible again.
	if _, err := client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: change.ReceiptHandle}); err != nil {
		t.Error(err)
	}
	wantDepth(t, client, queue, 0, 0, 0)
}

func TestSQSRefuses(t *testing.T) {
	s := startAtNoon(t)
	client := sqsClient(s)
	queue := createQueue(t, client, "work")
	entries := func(ids ...string) *sqs.SendMessageBatchInput {
		in := &sqs.SendMessageBatchInput{QueueUrl: queue, Entries: []types.SendMessageBatchRequestEntry{}}
		for _, id := range ids {
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: &id, MessageBody: aws.String("m")})
		}
		return in
	}
	ctx, nowhere := t.Context(), aws.String(s.URL()+"/"+DefaultAccount+"/nowhere")
	tests := []struct {
		name string
		call func() error
		code string
	}{
		{"send", func() error {
			_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: nowhere, MessageBody: aws.String("m")})
			return err
		}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"send batch", func() error {
			in := entries("a")
			in.QueueUrl = nowhere
			_, err := client.SendMessageBatch(ctx, in)
			return err
		}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"receive", func() error {
			_, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: nowhere})
			return err
		}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"attributes", func() error {
			_, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: nowhere})
			return err
		}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"purge", func() error { _, err := client.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: nowhere}); return err }, "AWS.SimpleQueueService.NonExistentQueue"},
		{"no URL", func() error {
			_, err := client.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: aws.String("::")})
			return err
		}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"no body", func() error {
			_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("")})
			return err
		}, "MissingParameter"},
		{"long body", func() error {
			_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String(strings.Repeat("x", maxMessage+1))})
			return err
		}, "InvalidParameterValue"},
		{"long delay", func() error {
			_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m"), DelaySeconds: 901})
			return err
		}, "InvalidParameterValue"},
		{"empty batch", func() error { _, err := client.SendMessageBatch(ctx, entries()); return err }, "AWS.SimpleQueueService.EmptyBatchRequest"},
		{"large batch", func() error {
			_, err := client.SendMessageBatch(ctx, entries(strings.Split("abcdefghijk", "")...))
			return err
		}, "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"},
		{"repeated ID", func() error { _, err := client.SendMessageBatch(ctx, entries("a", "a")); return err }, "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"},
		{"bad ID", func() error { _, err := client.SendMessageBatch(ctx, entries("a b")); return err }, "AWS.SimpleQueueService.InvalidBatchEntryId"},
		{"eleven at once", func() error {
			_, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: queue, MaxNumberOfMessages: 11})
			return err
		}, "InvalidParameterValue"},
		{"long wait", func() error {
			_, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: queue, WaitTimeSeconds: 21})
			return err
		}, "InvalidParameterValue"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { wantCode(t, test.call(), test.code, "") })
	}
}

// bubble runs a test without a network, in which time passes when nothing else happens.
func bubble(t *testing.T, test func(t *testing.T, s *Server, c *call)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t.Context(), Options{}.withDefaults())
		test(t, s, &call{ctx: t.Context(), caller: caller{account: DefaultAccount, region: DefaultRegion}})
	})
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// must returns the output of an operation that has to succeed.
func must[Out any](t *testing.T) func(*Out, error) *Out {
	t.Helper()
	return func(out *Out, err error) *Out {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func TestVisibilityTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("work")})).QueueUrl
		must[sqs.SendMessageOutput](t)(s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m")}))
		receive := &sqs.ReceiveMessageInput{QueueUrl: queue, WaitTimeSeconds: 20, VisibilityTimeout: 5, MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"}}
		for i := range 3 {
			began := time.Now()
			out := must[sqs.ReceiveMessageOutput](t)(s.receiveMessage(c, receive))
			if len(out.Messages) != 1 || out.Messages[0].Attributes["ApproximateReceiveCount"] != strconv.Itoa(i+1) {
				t.Fatalf("messages are %v", out.Messages)
			}
			if waited, want := time.Since(began), 5*time.Second; i > 0 && waited != want {
				t.Errorf("waited %v, want %v", waited, want)
			}
		}
	})
}

func TestLongPolling(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("work")})).QueueUrl
		poll := func() (int, time.Duration) {
			began := time.Now()
			out := must[sqs.ReceiveMessageOutput](t)(s.receiveMessage(c, &sqs.ReceiveMessageInput{QueueUrl: queue, WaitTimeSeconds: 20}))
			return len(out.Messages), time.Since(began)
		}
		if n, waited := poll(); n != 0 || waited != 20*time.Second {
			t.Errorf("%d messages of an empty queue after %v", n, waited)
		}
		time.AfterFunc(3*time.Second, func() {
			_, _ = s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m")})
		})
		if n, waited := poll(); n != 1 || waited != 3*time.Second {
			t.Errorf("%d messages after %v, want 1 after 3s", n, waited)
		}
		must[sqs.SendMessageOutput](t)(s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m"), DelaySeconds: 7}))
		if n, waited := poll(); n != 1 || waited != 7*time.Second {
			t.Errorf("%d messages after %v, want 1 after 7s", n, waited)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left := *c
		left.ctx = short
		if _, err := s.receiveMessage(&left, &sqs.ReceiveMessageInput{QueueUrl: queue, WaitTimeSeconds: 20}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v when the caller leaves", err)
		}
		must[sqs.PurgeQueueOutput](t)(s.purgeQueue(c, &sqs.PurgeQueueInput{QueueUrl: queue}))
		time.AfterFunc(time.Second, func() { _, _ = s.deleteQueue(c, &sqs.DeleteQueueInput{QueueUrl: queue}) })
		_, err := s.receiveMessage(c, &sqs.ReceiveMessageInput{QueueUrl: queue, WaitTimeSeconds: 20})
		if toAPIError(err).Code != "AWS.SimpleQueueService.NonExistentQueue" {
			t.Errorf("error is %v when the queue is deleted", err)
		}
	})
}

func TestRetention(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{
			QueueName: aws.String("work"), Attributes: map[string]string{attrRetention: "60"},
		})).QueueUrl
		for range 2 {
			must[sqs.SendMessageOutput](t)(s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m")}))
			pass(45 * time.Second)
		}
		_, q, err := s.queue(c, queue)
		if err != nil {
			t.Fatal(err)
		}
		if d := q.depth(time.Now()); d != (depth{visible: 1, oldest: 45 * time.Second}) {
			t.Errorf("depth is %+v, want the younger message", d)
		}
	})
}

func TestPublish(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		s.Go(s.publish.run)
		defer s.Close()
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("work")})).QueueUrl
		for i := range 3 {
			must[sqs.SendMessageOutput](t)(s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m"), DelaySeconds: int32(600 * (i / 2))}))
		}
		must[sqs.ReceiveMessageOutput](t)(s.receiveMessage(c, &sqs.ReceiveMessageInput{QueueUrl: queue, VisibilityTimeout: 3600}))
		published := func(name string, period int64) string {
			synctest.Wait()
			now := time.Now()
			id := newMetricID("AWS/SQS", name, dimensionQueueName("work"))
			w := newWindow(now.Add(-2*time.Minute), now, now, period)
			var all []string
			for at, d := range s.store.read(scope{DefaultAccount, DefaultRegion}, id, "", w) {
				all = append(all, fmt.Sprintf("%v ago: %v", now.Sub(time.Unix(at, 0)), d.sum))
			}
			slices.Sort(all)
			return strings.Join(all, ", ")
		}
		if got := published("ApproximateNumberOfMessagesVisible", 60); got != "" {
			t.Errorf("published %s at once", got)
		}
		pass(time.Minute)
		for name, want := range map[string]string{
			"ApproximateNumberOfMessagesVisible":    "1m0s ago: 1",
			"ApproximateNumberOfMessagesNotVisible": "1m0s ago: 1",
			"ApproximateNumberOfMessagesDelayed":    "1m0s ago: 1",
			"ApproximateAgeOfOldestMessage":         "1m0s ago: 60",
			"NumberOfMessagesSent":                  "1m0s ago: 3",
			"NumberOfMessagesReceived":              "1m0s ago: 1",
			"NumberOfMessagesDeleted":               "1m0s ago: 0",
			"NumberOfEmptyReceives":                 "1m0s ago: 0",
		} {
			if got := published(name, 60); got != want {
				t.Errorf("%s: published %s, want %s", name, got, want)
			}
		}
		pass(time.Minute)
		if got, want := published("NumberOfMessagesSent", 60), "1m0s ago: 0, 2m0s ago: 3"; got != want {
			t.Errorf("published %s, want %s", got, want)
		}
		if err := s.SetPublishInterval(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if got, want := published("ApproximateNumberOfMessagesVisible", 5), "10s ago: 1, 1m10s ago: 1, 5s ago: 1"; got != want {
			t.Errorf("published %s, want %s", got, want)
		}
		if err := s.SetPublishInterval(time.Hour); err != nil {
			t.Fatal(err)
		}
		age := func() time.Duration {
			synctest.Wait()
			all := s.store.list(scope{DefaultAccount, DefaultRegion})
			if len(all) == 0 {
				return retention
			}
			return time.Since(time.Unix(all[0].newest, 0))
		}
		pass(9 * time.Hour)
		if got := age(); got > 2*time.Hour {
			t.Errorf("a queue with messages was last published %v ago", got)
		}
		must[sqs.PurgeQueueOutput](t)(s.purgeQueue(c, &sqs.PurgeQueueInput{QueueUrl: queue}))
		pass(9 * time.Hour)
		if got := age(); got < 3*time.Hour {
			t.Errorf("an idle queue was published %v ago", got)
		}
	})
}

func TestManyMessages(t *testing.T) {
	now := noon
	q := newQueue(map[string]string{attrRetention: "3600"}, now)
	const n = 10_000
	for range n {
		q.send("m", nil, 0, now)
	}
	seen := map[string]bool{}
	for len(seen) < n {
		taken, _, _ := q.receive(10, time.Minute, now)
		for _, d := range taken {
			seen[d.id] = true
			q.delete(d.receipt, now)
		}
	}
	if d := q.depth(now); d != (depth{}) || len(q.byReceipt) > 0 || len(q.ready) > 0 {
		t.Errorf("depth is %+v, with %d receipts and %d messages left", d, len(q.byReceipt), len(q.ready))
	}
}
