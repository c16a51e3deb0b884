package demo

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cloudwatchtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// What the ExternalMetric of the manifests asks.
const (
	depthExpression = "waiting + FILL(in_work, 0)"
	visible         = "ApproximateNumberOfMessagesVisible"
	notVisible      = "ApproximateNumberOfMessagesNotVisible"
)

const (
	// publishInterval is how often the queue's depth becomes a metric. AWS takes a minute.
	publishInterval = 2 * time.Second
	// role is what the demo's own clients assume, so that their calls count apart from
	// the adapter's.
	role = "arn:aws:iam::" + fakeaws.DefaultAccount + ":role/demo"
	// metricLookback is how far back the demo looks for the newest datapoint.
	metricLookback = time.Minute
)

// amazon is the AWS stand-in with the queue, and real clients for it.
type amazon struct {
	server     *fakeaws.Server
	queue      *sqs.Client
	cloudWatch *cloudwatch.Client
	queueURL   *string
}

func startAmazon(ctx context.Context) (*amazon, error) {
	// The stand-in ends with Close, after the adapter: it answers up to the end.
	server, err := fakeaws.Start(context.WithoutCancel(ctx), fakeaws.Options{PublishInterval: publishInterval})
	if err != nil {
		return nil, fmt.Errorf("AWS stand-in: %w", err)
	}
	config := aws.Config{
		Region:       fakeaws.DefaultRegion,
		BaseEndpoint: aws.String(server.URL()),
		Credentials:  credentials.NewStaticCredentialsProvider(server.AccessKeyID(), server.SecretAccessKey(), ""),
	}
	config.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), role))
	a := &amazon{server: server, queue: sqs.NewFromConfig(config), cloudWatch: cloudwatch.NewFromConfig(config)}
	for _, name := range []string{deadQueueName, sineQueueName, queueName} { // The last one is measured.
		created, err := a.queue.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name})
		if err != nil {
			server.Close()
			return nil, fmt.Errorf("queue %s: %w", name, err)
		}
		a.queueURL = created.QueueUrl
	}
	return a, nil
}

// env are the variables that lead the adapter and the pods to the stand-in.
func (a *amazon) env() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + a.server.URL(),
		"AWS_REGION=" + fakeaws.DefaultRegion,
		"AWS_ACCESS_KEY_ID=" + a.server.AccessKeyID(),
		"AWS_SECRET_ACCESS_KEY=" + a.server.SecretAccessKey(),
	}
}

// depth is how many messages wait and how many are in work, as the queue says.
func (a *amazon) depth(ctx context.Context) (waiting, inWork int, err error) {
	counted := []sqstypes.QueueAttributeName{
		sqstypes.QueueAttributeNameApproximateNumberOfMessages,
		sqstypes.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
	}
	out, err := a.queue.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: a.queueURL, AttributeNames: counted})
	if err != nil {
		return 0, 0, err
	}
	for i, into := range []*int{&waiting, &inWork} {
		name := string(counted[i])
		if *into, err = strconv.Atoi(out.Attributes[name]); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return waiting, inWork, nil
}

// metric is the newest datapoint of what the ExternalMetric of the manifests asks.
// The time is zero if there is none yet.
func (a *amazon) metric(ctx context.Context) (value float64, at time.Time, err error) {
	now := time.Now()
	out, err := a.cloudWatch.GetMetricData(ctx, &cloudwatch.GetMetricDataInput{
		StartTime: aws.Time(now.Add(-metricLookback)), EndTime: aws.Time(now),
		ScanBy: cloudwatchtypes.ScanByTimestampDescending,
		MetricDataQueries: []cloudwatchtypes.MetricDataQuery{
			{Id: aws.String("depth"), Expression: aws.String(depthExpression)},
			queueMetric("waiting", visible),
			queueMetric("in_work", notVisible),
		},
	})
	if err != nil {
		return 0, time.Time{}, err
	}
	for _, r := range out.MetricDataResults {
		if len(r.Values) > 0 && len(r.Timestamps) > 0 {
			return r.Values[0], r.Timestamps[0], nil
		}
	}
	return 0, time.Time{}, nil
}

func queueMetric(id, name string) cloudwatchtypes.MetricDataQuery {
	return cloudwatchtypes.MetricDataQuery{
		Id:         &id,
		ReturnData: aws.Bool(false),
		MetricStat: &cloudwatchtypes.MetricStat{
			Period: aws.Int32(1),
			Stat:   aws.String("Maximum"),
			Metric: &cloudwatchtypes.Metric{
				Namespace: aws.String("AWS/SQS"), MetricName: &name,
				Dimensions: []cloudwatchtypes.Dimension{{Name: aws.String("QueueName"), Value: aws.String(queueName)}},
			},
		},
	}
}

// asked is what the adapter asked of CloudWatch so far.
func (a *amazon) asked() (calls, metrics int) {
	counts := a.server.Counts()
	adapter := a.server.AccessKeyID()
	return counts.CallsByCaller[adapter]["cloudwatch.GetMetricData"], counts.MetricsRequestedByCaller[adapter]
}
