// Package queue is a queue of SQS that carries orders.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	// MaxBatch is the most messages that SQS takes or gives at once, see
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	MaxBatch = 10
	// MaxVisibility is how long SQS hides a message at most, see the same page.
	MaxVisibility = 12 * time.Hour

	// longPoll is how long a receive waits for a message: the longest there is, as each
	// receive costs the same. See
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
	longPoll = 20 * time.Second
	// callLimit bounds a call with all of the SDK's retries; a receive has longPoll more.
	callLimit = 5 * time.Second
	// maxReason is the longest reason that goes with a dead letter, in bytes.
	maxReason = 500
	// reasonAttribute is the message attribute that says why a dead letter is one.
	reasonAttribute = "reason"
)

// API is what is used of SQS.
type API interface {
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
	SendMessageBatch(context.Context, *sqs.SendMessageBatchInput, ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	ChangeMessageVisibility(context.Context, *sqs.ChangeMessageVisibilityInput, ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityOutput, error)
	DeleteMessage(context.Context, *sqs.DeleteMessageInput, ...func(*sqs.Options)) (*sqs.DeleteMessageOutput, error)
}

// Connect returns a client with the region, credentials and endpoint that the SDK finds. It
// does not ask SQS anything yet.
func Connect(ctx context.Context) (*sqs.Client, error) {
	c, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("AWS: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("AWS: there is no region: set AWS_REGION")
	}
	return sqs.NewFromConfig(c), nil
}

// event is the body of a message.
type event struct {
	Order string `json:"order"`
}

// Order is the order that a message's body names.
func Order(body string) (string, error) {
	var e event
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		return "", fmt.Errorf("the body is not {\"order\":\"ID\"}: %w", err)
	}
	if e.Order == "" {
		return "", errors.New("the body names no order")
	}
	return e.Order, nil
}

// Message is a message that was received. It is hidden from others for a while.
type Message struct {
	ID   string
	Body string
	// Received is how often it was received, with this time; 0 if SQS does not say.
	Received int

	receipt string
}

// Queue is a queue by its name.
type Queue struct {
	api  API
	name string

	url atomic.Pointer[string] // nil until SQS has said it
}

// New returns a Queue that may not exist yet.
func New(api API, name string) *Queue { return &Queue{api: api, name: name} }

// address asks for the queue's URL, until there is an answer.
func (q *Queue) address(ctx context.Context) (*string, error) {
	if url := q.url.Load(); url != nil {
		return url, nil
	}
	out, err := q.api.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &q.name})
	if err != nil {
		return nil, err
	}
	q.url.Store(out.QueueUrl)
	return out.QueueUrl, nil
}

// call gives f the queue's URL and little time.
func (q *Queue) call(ctx context.Context, limit time.Duration, f func(ctx context.Context, url *string) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	url, err := q.address(ctx)
	if err == nil {
		err = f(ctx, url)
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", q.name, err)
	}
	return nil
}

// Send sends up to MaxBatch orders. It returns those that SQS took, even with an error.
func (q *Queue) Send(ctx context.Context, orders []string) (sent []string, err error) {
	entries := make([]types.SendMessageBatchRequestEntry, len(orders))
	for i, order := range orders {
		body, err := json.Marshal(event{Order: order})
		if err != nil {
			return nil, fmt.Errorf("order %s: %w", order, err)
		}
		entries[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(body))}
	}
	err = q.call(ctx, callLimit, func(ctx context.Context, url *string) error {
		out, err := q.api.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: url, Entries: entries})
		if err != nil {
			return err
		}
		for _, e := range out.Successful {
			i, err := strconv.Atoi(aws.ToString(e.Id))
			if err != nil || i < 0 || i >= len(orders) {
				return fmt.Errorf("SQS took an entry %q that was not sent", aws.ToString(e.Id))
			}
			sent = append(sent, orders[i])
		}
		if len(out.Failed) > 0 {
			first := out.Failed[0]
			return fmt.Errorf("SQS refused %d of %d orders, the first with %s: %s",
				len(out.Failed), len(orders), aws.ToString(first.Code), aws.ToString(first.Message))
		}
		return nil
	})
	return sent, err
}

// Receive waits for messages and returns up to MaxBatch of them, or none after a while. They
// are hidden for so long.
func (q *Queue) Receive(ctx context.Context, most int, visibility time.Duration) (messages []Message, err error) {
	err = q.call(ctx, longPoll+callLimit, func(ctx context.Context, url *string) error {
		out, err := q.api.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl: url, WaitTimeSeconds: seconds(longPoll), VisibilityTimeout: seconds(visibility),
			MaxNumberOfMessages:         int32(min(most, MaxBatch)), //nolint:gosec // It is small.
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
		})
		if err != nil {
			return err
		}
		for _, m := range out.Messages {
			messages = append(messages, Message{
				ID: aws.ToString(m.MessageId), Body: aws.ToString(m.Body), Received: received(m), receipt: aws.ToString(m.ReceiptHandle),
			})
		}
		return nil
	})
	return messages, err
}

func received(m types.Message) int {
	n, err := strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	if err != nil {
		return 0
	}
	return n
}

// seconds are at most those of MaxVisibility.
func seconds(d time.Duration) int32 { return int32(min(d, MaxVisibility) / time.Second) } //nolint:gosec // They fit.

// Hide hides a message for so long from now on; 0 gives it back.
func (q *Queue) Hide(ctx context.Context, m Message, visibility time.Duration) error {
	return q.call(ctx, callLimit, func(ctx context.Context, url *string) error {
		_, err := q.api.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
			QueueUrl: url, ReceiptHandle: &m.receipt, VisibilityTimeout: seconds(visibility),
		})
		return err
	})
}

// Delete takes a message away for good.
func (q *Queue) Delete(ctx context.Context, m Message) error {
	return q.call(ctx, callLimit, func(ctx context.Context, url *string) error {
		_, err := q.api.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: url, ReceiptHandle: &m.receipt})
		return err
	})
}

// Bury sends the body of a message of another queue to this one, with the reason.
func (q *Queue) Bury(ctx context.Context, m Message, reason string) error {
	return q.call(ctx, callLimit, func(ctx context.Context, url *string) error {
		_, err := q.api.SendMessage(ctx, &sqs.SendMessageInput{
			QueueUrl: url, MessageBody: &m.Body,
			MessageAttributes: map[string]types.MessageAttributeValue{
				reasonAttribute: {DataType: aws.String("String"), StringValue: aws.String(sendable(reason))},
			},
		})
		return err
	})
}

// sendable is a text without what SQS refuses in messages, and not too long, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
func sendable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError || r >= 0xFFFE && r <= 0xFFFF {
			return ' '
		}
		return r
	}, text)
	for len(text) > maxReason {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}
