package fakeaws

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// idleQueue is how long a queue without messages is published after its last use, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-monitoring-using-cloudwatch.html
const idleQueue = 6 * time.Hour

// publisher publishes the queues to CloudWatch at the end of each interval, with
// the time of its start, so that a datapoint is complete once it is there.
type publisher struct {
	opts   Options
	queues *queues
	store  *store

	mu      sync.Mutex
	every   time.Duration
	changed chan struct{} // closed when every is another
}

func newPublisher(opts Options, q *queues, s *store) *publisher {
	return &publisher{opts: opts, queues: q, store: s, every: opts.PublishInterval, changed: make(chan struct{})}
}

func (p *publisher) interval() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.every
}

// SetPublishInterval says from now on how often queue depths are published, see
// Options. It takes whole seconds.
func (s *Server) SetPublishInterval(interval time.Duration) error {
	if err := checkInterval(interval); err != nil {
		return err
	}
	p := s.publish
	p.mu.Lock()
	defer p.mu.Unlock()
	p.every = interval
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func checkInterval(interval time.Duration) error {
	if interval < time.Second || interval%time.Second != 0 {
		return fmt.Errorf("publish interval %v is not a number of seconds", interval)
	}
	return nil
}

// run publishes until the server is closed.
func (p *publisher) run(ctx context.Context) {
	for {
		p.mu.Lock()
		every, changed := p.every, p.changed
		p.mu.Unlock()
		now := p.opts.Now()
		next := now.Truncate(every).Add(every)
		select {
		case <-p.opts.After(next.Sub(now)):
			p.publish(next, every)
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// publish publishes the interval that ended at the time.
func (p *publisher) publish(end time.Time, interval time.Duration) {
	resolution := int64(regular)
	if interval < time.Minute {
		resolution = fine
	}
	for id, q := range p.queues.snapshot() {
		depth, happened, active := q.report(end)
		if !active {
			continue
		}
		dimensions := dimensionQueueName(id.name)
		put := func(name string, unit types.StandardUnit, value float64) {
			d := newDatum("AWS/SQS", name, dimensions, newBucket(end.Add(-interval), resolution, unit))
			d.bucket.data.add(value, 1)
			p.store.put(id.scope, d)
		}
		put("ApproximateNumberOfMessagesVisible", types.StandardUnitCount, float64(depth.visible))
		put("ApproximateNumberOfMessagesNotVisible", types.StandardUnitCount, float64(depth.notVisible))
		put("ApproximateNumberOfMessagesDelayed", types.StandardUnitCount, float64(depth.delayed))
		put("ApproximateAgeOfOldestMessage", types.StandardUnitSeconds, depth.oldest.Seconds())
		put("NumberOfMessagesSent", types.StandardUnitCount, happened.sent)
		put("NumberOfMessagesReceived", types.StandardUnitCount, happened.received)
		put("NumberOfMessagesDeleted", types.StandardUnitCount, happened.deleted)
		put("NumberOfEmptyReceives", types.StandardUnitCount, happened.emptyReceives)
	}
	p.store.expire(end)
}

// dimensionQueueName is the one dimension of the metrics of SQS.
func dimensionQueueName(name string) []types.Dimension {
	return []types.Dimension{{Name: aws.String("QueueName"), Value: &name}}
}
