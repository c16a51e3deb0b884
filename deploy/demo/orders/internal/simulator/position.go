package simulator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	// longPoll is how long a receive waits, in seconds: as long as SQS lets it. shortPoll is
	// for a queue that seems to be empty.
	longPoll  = 20
	shortPoll = 1
	// visibility is how long a received message is kept from others, in seconds. A step
	// that was not finished is done again after it.
	visibility = 30
	// maxDelay is the longest that a message can be delayed, in seconds, see
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
	maxDelay = 900
	// maxReceived is the most messages that a receive gives.
	maxReceived = 10
	// callTimeout is how long a call may take beside its polling.
	callTimeout = 10 * time.Second
)

// client has the methods of an SQS client that are called.
type client interface {
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
	DeleteMessage(context.Context, *sqs.DeleteMessageInput, ...func(*sqs.Options)) (*sqs.DeleteMessageOutput, error)
	ChangeMessageVisibility(context.Context, *sqs.ChangeMessageVisibilityInput, ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityOutput, error)
}

// position is a step of the wave, and the body of the message that stands for it.
type position struct {
	// Step counts the steps since the first one. Of two messages the one with more is right.
	Step int64 `json:"step"`
	// Phase is where in the wave the step is, from 0 up to 1. It is what a restart with
	// another period or other steps goes on from.
	Phase float64 `json:"phase"`
	// Due is when the step begins.
	Due time.Time `json:"due"`
}

func (p position) check() error {
	if p.Step < 0 || !(p.Phase >= 0 && p.Phase < 1) || p.Step == math.MaxInt64 {
		return fmt.Errorf("step %d at phase %v is no position", p.Step, p.Phase)
	}
	return nil
}

// received is a position that is kept from other simulators for now.
type received struct {
	position

	receipt string
}

// queue holds the position, as one message.
type queue struct {
	client client
	name   string
	url    string // Once it is known.
}

// find asks for the URL of the queue, once.
func (q *queue) find(ctx context.Context) error {
	if q.url != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := q.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &q.name})
	if err != nil {
		if _, ok := errors.AsType[*types.QueueDoesNotExist](err); ok {
			return fmt.Errorf("queue %s does not exist; create it, or name another one by --queue: %w", q.name, err)
		}
		return fmt.Errorf("finding queue %s: %w", q.name, err)
	}
	q.url = aws.ToString(out.QueueUrl)
	return nil
}

// empty says whether there is no message, also none that is delayed or that somebody has
// received. SQS knows it approximately.
func (q *queue) empty(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	names := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.url, AttributeNames: names})
	if err != nil {
		return false, fmt.Errorf("asking queue %s for its depth: %w", q.name, err)
	}
	for _, name := range names {
		n, err := strconv.Atoi(out.Attributes[string(name)])
		if err != nil {
			return false, fmt.Errorf("queue %s has %q for %s", q.name, out.Attributes[string(name)], name)
		}
		if n > 0 {
			return false, nil
		}
	}
	return true, nil
}

// receive waits up to so many seconds and returns what there is, the furthest position first.
// A message that is none is deleted.
func (q *queue) receive(ctx context.Context, wait int32) ([]received, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(wait)*time.Second+callTimeout)
	defer cancel()
	out, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.url, MaxNumberOfMessages: maxReceived, WaitTimeSeconds: wait, VisibilityTimeout: visibility,
	})
	if err != nil {
		return nil, fmt.Errorf("receiving from queue %s: %w", q.name, err)
	}
	var got []received
	for _, m := range out.Messages {
		r := received{receipt: aws.ToString(m.ReceiptHandle)}
		err := json.Unmarshal([]byte(aws.ToString(m.Body)), &r.position)
		if err == nil {
			err = r.check()
		}
		if err != nil {
			slog.Warn("a message that is no position is deleted", "queue", q.name, "error", err)
			if err := q.remove(ctx, r); err != nil {
				return nil, err
			}
			continue
		}
		got = append(got, r)
	}
	slices.SortFunc(got, func(a, b received) int { return -cmp.Compare(a.Step, b.Step) })
	return got, nil
}

// send sends a position, to be received when it is due.
func (q *queue) send(ctx context.Context, p position) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("writing a position: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	delay := min(max(int64(time.Until(p.Due)/time.Second), 0), maxDelay)
	_, err = q.client.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &q.url, MessageBody: aws.String(string(body)), DelaySeconds: int32(delay),
	})
	if err != nil {
		return fmt.Errorf("sending to queue %s: %w", q.name, err)
	}
	return nil
}

func (q *queue) remove(ctx context.Context, r received) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := q.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &q.url, ReceiptHandle: &r.receipt}); err != nil {
		return fmt.Errorf("deleting from queue %s: %w", q.name, err)
	}
	return nil
}

// giveBack has a message received again after a time.
func (q *queue) giveBack(ctx context.Context, r received, after time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	seconds := int32(min(max(after/time.Second, 0), maxDelay))
	_, err := q.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &q.url, ReceiptHandle: &r.receipt, VisibilityTimeout: seconds,
	})
	if err != nil {
		return fmt.Errorf("giving back to queue %s: %w", q.name, err)
	}
	return nil
}
