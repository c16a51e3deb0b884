package fakeaws

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const policyFormat = `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:%s","maxReceiveCount":%s}`

func TestRedrive(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		dead := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("dead")})).QueueUrl
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{
			QueueName: aws.String("work"), Attributes: map[string]string{attrRedrive: fmt.Sprintf(policyFormat, "dead", `"3"`)},
		})).QueueUrl
		sent := must[sqs.SendMessageOutput](t)(s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: aws.String("m")}))
		at := time.Now()
		receive := func(queue *string) []types.Message {
			return must[sqs.ReceiveMessageOutput](t)(s.receiveMessage(c, &sqs.ReceiveMessageInput{
				QueueUrl: queue, VisibilityTimeout: 5, MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
			})).Messages
		}
		var receipts []*string
		for range 3 {
			got := receive(queue)
			if len(got) != 1 {
				t.Fatalf("messages are %v, want one", got)
			}
			receipts = append(receipts, got[0].ReceiptHandle)
			pass(6 * time.Second)
		}
		if got := receive(queue); len(got) > 0 {
			t.Errorf("received a fourth time: %v", got)
		}
		for _, r := range receipts {
			must[sqs.DeleteMessageOutput](t)(s.deleteMessage(c, &sqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: r}))
		}
		got := receive(dead)
		if len(got) != 1 || *got[0].MessageId != *sent.MessageId || *got[0].Body != "m" ||
			got[0].Attributes["DeadLetterQueueSourceArn"] != "arn:aws:sqs:us-east-1:123456789012:work" ||
			got[0].Attributes["SentTimestamp"] != strconv.FormatInt(at.UnixMilli(), 10) {
			t.Errorf("dead letters are %+v, want the message with where it was and the time at which it was sent", got)
		}
		_, q, err := s.queue(c, queue)
		if err != nil {
			t.Fatal(err)
		}
		if d := q.depth(time.Now()); d != (depth{}) || len(q.byReceipt) > 0 || len(q.old) > 0 {
			t.Errorf("the queue still has %+v", d)
		}
		if _, q, _ = s.queue(c, dead); q.activity.sent != 0 {
			t.Errorf("%v messages were sent to the dead letters, want 0, as they were moved", q.activity.sent)
		}
	})
}

func TestRedrivePolicy(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("dead")}))
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("work")})).QueueUrl
		set := func(policy string) error {
			_, err := s.setQueueAttributes(c, &sqs.SetQueueAttributesInput{QueueUrl: queue, Attributes: map[string]string{attrRedrive: policy}})
			return err
		}
		get := func() map[string]string {
			return must[sqs.GetQueueAttributesOutput](t)(s.getQueueAttributes(c, &sqs.GetQueueAttributesInput{
				QueueUrl: queue, AttributeNames: []types.QueueAttributeName{attrRedrive},
			})).Attributes
		}
		for policy, want := range map[string]string{
			"3":                                    "valid JSON",
			fmt.Sprintf(policyFormat, "none", "3"): "does not exist",
			fmt.Sprintf(policyFormat, "dead", "0"): "maxReceiveCount",
			fmt.Sprintf(policyFormat, "dead", "1001"):            "maxReceiveCount",
			`{"deadLetterTargetArn":"dead","maxReceiveCount":3}`: "deadLetterTargetArn",
		} {
			if err := set(policy); err == nil || toAPIError(err).Code != "InvalidParameterValue" || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error is %v, want one of %s", policy, err, want)
			}
		}
		policy := fmt.Sprintf(policyFormat, "dead", "1")
		if err := set(policy); err != nil || get()[attrRedrive] != policy {
			t.Errorf("%v, and the policy is %v, want %s", err, get(), policy)
		}
		if err := set(""); err != nil || len(get()) > 0 {
			t.Errorf("%v, and the policy is %v, want none", err, get())
		}
	})
}

func TestMessageContents(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *call) {
		queue := must[sqs.CreateQueueOutput](t)(s.createQueue(c, &sqs.CreateQueueInput{QueueName: aws.String("work")})).QueueUrl
		text := func(value string) types.MessageAttributeValue {
			return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
		}
		many := map[string]types.MessageAttributeValue{}
		for i := range 11 {
			many[strconv.Itoa(i)] = text("v")
		}
		for name, test := range map[string]struct {
			body       string
			attributes map[string]types.MessageAttributeValue
			code       string
		}{
			"tab and tea":     {"a\t\n\r🍵", map[string]types.MessageAttributeValue{"why.not": text("because"), "n": {DataType: aws.String("Number.int"), StringValue: aws.String("7")}}, ""},
			"control":         {"a\x01", nil, "InvalidMessageContents"},
			"no character":    {"a\uffff", nil, "InvalidMessageContents"},
			"empty attribute": {"a", map[string]types.MessageAttributeValue{"why": text("")}, "InvalidParameterValue"},
			"no type":         {"a", map[string]types.MessageAttributeValue{"why": {StringValue: aws.String("v")}}, "InvalidParameterValue"},
			"reserved name":   {"a", map[string]types.MessageAttributeValue{"AWS.why": text("v")}, "InvalidParameterValue"},
			"bad name":        {"a", map[string]types.MessageAttributeValue{"why?": text("v")}, "InvalidParameterValue"},
			"bad value":       {"a", map[string]types.MessageAttributeValue{"why": text("\x00")}, "InvalidParameterValue"},
			"eleven":          {"a", many, "InvalidParameterValue"},
			"together long":   {strings.Repeat("x", maxMessage-5), map[string]types.MessageAttributeValue{"why": text("v")}, "InvalidParameterValue"},
		} {
			_, err := s.sendMessage(c, &sqs.SendMessageInput{QueueUrl: queue, MessageBody: &test.body, MessageAttributes: test.attributes})
			if test.code == "" && err != nil || test.code != "" && (err == nil || toAPIError(err).Code != test.code) {
				t.Errorf("%s: error is %v, want %q", name, err, test.code)
			}
		}
	})
}

func TestChangeMessageVisibilityBatch(t *testing.T) {
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
	entries := []types.ChangeMessageVisibilityBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: out.Messages[0].ReceiptHandle},
		{Id: aws.String("b"), ReceiptHandle: aws.String("of another message")},
	}
	got, err := client.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: queue, Entries: entries})
	if err != nil || len(got.Successful) != 1 || *got.Successful[0].Id != "a" || len(got.Failed) != 1 ||
		*got.Failed[0].Code != "AWS.SimpleQueueService.MessageNotInflight" {
		t.Errorf("batch is %+v, %v", got, err)
	}
	wantDepth(t, client, queue, 1, 0, 0)
	_, err = client.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: queue, Entries: entries[:0]})
	wantCode(t, err, "AWS.SimpleQueueService.EmptyBatchRequest", "")
}
