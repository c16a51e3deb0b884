package e2e

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// sdk configures a real AWS client for the stand-in, in the region of the space.
func (s *space) sdk() aws.Config {
	return aws.Config{
		Region:       s.region,
		BaseEndpoint: aws.String(s.aws.URL()),
		Credentials:  credentials.NewStaticCredentialsProvider(s.aws.AccessKeyID(), s.aws.SecretAccessKey(), ""),
	}
}

func (s *space) cloudWatch() *cloudwatch.Client { return cloudwatch.NewFromConfig(s.sdk()) }

// queue is a queue at the stand-in.
type queue struct {
	*space

	client *sqs.Client
	url    *string
}

func (s *space) newQueue(name string) *queue {
	s.t.Helper()
	q := &queue{space: s, client: sqs.NewFromConfig(s.sdk())}
	out, err := q.client.CreateQueue(s.t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		s.t.Fatal(err)
	}
	q.url = out.QueueUrl
	return q
}

// send sends so many messages.
func (q *queue) send(n int) {
	q.t.Helper()
	const batch = 10 // https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
	var senders sync.WaitGroup
	for from := 0; from < n; from += batch {
		in := &sqs.SendMessageBatchInput{QueueUrl: q.url}
		for i := from; i < min(from+batch, n); i++ {
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("work")})
		}
		senders.Go(func() {
			out, err := q.client.SendMessageBatch(q.t.Context(), in)
			if err == nil && len(out.Failed) > 0 {
				err = fmt.Errorf("%d messages were refused", len(out.Failed))
			}
			if err != nil {
				q.t.Error(err)
			}
		})
	}
	senders.Wait()
}

func (q *queue) purge() {
	q.t.Helper()
	if _, err := q.client.PurgeQueue(q.t.Context(), &sqs.PurgeQueueInput{QueueUrl: q.url}); err != nil {
		q.t.Fatal(err)
	}
}

// asked are the GetMetricData calls of the space's region, the oldest first.
func (s *space) asked() []fakeaws.GetMetricDataCall {
	var calls []fakeaws.GetMetricDataCall
	for _, c := range s.aws.Counts().GetMetricData {
		if c.Region == s.region {
			calls = append(calls, c)
		}
	}
	return calls
}

// lastAsked is when GetMetricData was last called in the space's region.
func (s *space) lastAsked() time.Time {
	calls := s.asked()
	if len(calls) == 0 {
		return time.Time{}
	}
	return calls[len(calls)-1].Time
}

// fault puts a fault in force for the space's region, and takes it out of force at the
// end of the test if nobody does before.
func (s *space) fault(f fakeaws.Fault) (end func()) {
	f.Region = s.region
	end = s.aws.Fault(f)
	s.t.Cleanup(end)
	return end
}
