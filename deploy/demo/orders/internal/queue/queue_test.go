package queue

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// fakeAPI has one queue. What it does not have panics.
type fakeAPI struct {
	API

	missing bool
	asked   int // for the URL
	refuse  map[string]bool
	hangs   bool
	buried  *sqs.SendMessageInput
	receive *sqs.ReceiveMessageInput
	count   string // of receives
}

//nolint:revive,staticcheck // The name is the SDK's.
func (f *fakeAPI) GetQueueUrl(_ context.Context, in *sqs.GetQueueUrlInput, _ ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error) {
	f.asked++
	if f.missing {
		return nil, &types.QueueDoesNotExist{Message: aws.String("The specified queue does not exist.")}
	}
	return &sqs.GetQueueUrlOutput{QueueUrl: aws.String("https://sqs/" + *in.QueueName)}, nil
}

func (f *fakeAPI) SendMessageBatch(ctx context.Context, in *sqs.SendMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	if f.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	out := &sqs.SendMessageBatchOutput{}
	for i, e := range slices.Backward(in.Entries) {
		if order, _ := Order(*e.MessageBody); f.refuse[order] {
			out.Failed = append(out.Failed, types.BatchResultErrorEntry{Id: e.Id, Code: aws.String("InternalError"), Message: aws.String("not now")})
			continue
		}
		out.Successful = append(out.Successful, types.SendMessageBatchResultEntry{Id: in.Entries[i].Id})
	}
	return out, nil
}

func (f *fakeAPI) SendMessage(_ context.Context, in *sqs.SendMessageInput, _ ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	f.buried = in
	return &sqs.SendMessageOutput{}, nil
}

func (f *fakeAPI) ReceiveMessage(_ context.Context, in *sqs.ReceiveMessageInput, _ ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	f.receive = in
	m := types.Message{MessageId: aws.String("m"), Body: aws.String("b"), ReceiptHandle: aws.String("r")}
	if slices.Contains(in.MessageSystemAttributeNames, types.MessageSystemAttributeNameApproximateReceiveCount) {
		m.Attributes = map[string]string{"ApproximateReceiveCount": f.count}
	}
	return &sqs.ReceiveMessageOutput{Messages: []types.Message{m}}, nil
}

func TestSend(t *testing.T) {
	api := &fakeAPI{refuse: map[string]bool{"b": true, "d": true}}
	q := New(api, "orders")
	for range 2 {
		sent, err := q.Send(t.Context(), []string{"a", "b", "c", "d"})
		slices.Sort(sent)
		if !slices.Equal(sent, []string{"a", "c"}) || err == nil || !strings.Contains(err.Error(), "queue orders: SQS refused 2 of 4 orders") || !strings.Contains(err.Error(), "not now") {
			t.Errorf("sent are %v, %v, want a and c, and why not the others", sent, err)
		}
	}
	if api.asked != 1 {
		t.Errorf("the URL was asked for %d times, want once", api.asked)
	}
	api.refuse = nil
	if sent, err := q.Send(t.Context(), []string{"b"}); err != nil || len(sent) != 1 {
		t.Errorf("sent are %v, %v", sent, err)
	}
}

func TestQueueThatIsMadeLater(t *testing.T) {
	api := &fakeAPI{missing: true}
	q := New(api, "orders")
	if _, err := q.Send(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), "queue orders") {
		t.Errorf("error is %v, want one that names the queue", err)
	}
	api.missing = false
	if _, err := q.Send(t.Context(), []string{"a"}); err != nil {
		t.Error(err)
	}
}

func TestSendDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := New(&fakeAPI{hangs: true}, "orders").Send(t.Context(), []string{"a"})
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != callLimit {
			t.Errorf("error is %v after %v, want after %v", err, took, callLimit)
		}
	})
}

func TestReceive(t *testing.T) {
	api := &fakeAPI{}
	for count, want := range map[string]int{"1": 1, "37": 37, "": 0, "often": 0} {
		api.count = count
		messages, err := New(api, "orders").Receive(t.Context(), 50, 30*time.Second)
		if err != nil || len(messages) != 1 || messages[0] != (Message{ID: "m", Body: "b", Received: want, receipt: "r"}) {
			t.Errorf("received %q times the messages are %+v, %v", count, messages, err)
		}
	}
	if in := api.receive; in.MaxNumberOfMessages != 10 || in.WaitTimeSeconds != 20 || in.VisibilityTimeout != 30 {
		t.Errorf("asked for %+v", in)
	}
}

func TestBury(t *testing.T) {
	api := &fakeAPI{}
	reason := "bad\x00\n\uffff\xff" + strings.Repeat("é", 400)
	if err := New(api, "dead").Bury(t.Context(), Message{Body: "b"}, reason); err != nil {
		t.Fatal(err)
	}
	got := *api.buried.MessageAttributes["reason"].StringValue
	if *api.buried.MessageBody != "b" || !strings.HasPrefix(got, "bad    é") || len(got) > maxReason || len(got) < maxReason-4 || !utf8.ValidString(got) {
		t.Errorf("buried is %q with the reason %q of %d bytes", *api.buried.MessageBody, got, len(got))
	}
}

func TestOrder(t *testing.T) {
	if got, err := Order(`{"order":"a","more":1}`); got != "a" || err != nil {
		t.Errorf("order is %q, %v", got, err)
	}
	for _, body := range []string{"", "a", "[]", "{}", `{"order":""}`, `{"order":7}`} {
		if got, err := Order(body); err == nil {
			t.Errorf("%s is of the order %q", strconv.Quote(body), got)
		}
	}
}
