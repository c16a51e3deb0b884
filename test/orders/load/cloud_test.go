package load

import (
	"context"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func config(s *fakeaws.Server) sdk.Config {
	return sdk.Config{
		Region:       fakeaws.DefaultRegion,
		BaseEndpoint: sdk.String(s.URL()),
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), ""),
	}
}

// published is a statistic of a metric of appsimulator, added up over the minutes; false is
// for a metric that is not there.
func published(ctx context.Context, t *testing.T, s *fakeaws.Server, name, stat string) (float64, bool) {
	t.Helper()
	out, err := cloudwatch.NewFromConfig(config(s)).GetMetricData(ctx, &cloudwatch.GetMetricDataInput{
		StartTime: sdk.Time(time.Now().Truncate(time.Minute).Add(-30 * time.Minute)),
		EndTime:   sdk.Time(time.Now().Truncate(time.Minute).Add(time.Minute)),
		MetricDataQueries: []cwtypes.MetricDataQuery{{Id: sdk.String("q"), MetricStat: &cwtypes.MetricStat{
			Metric: &cwtypes.Metric{Namespace: sdk.String("appsimulator"), MetricName: &name},
			Period: sdk.Int32(60), Stat: &stat,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, v := range out.MetricDataResults[0].Values {
		total += v
	}
	return total, len(out.MetricDataResults[0].Values) > 0
}

// sum is how often a status code is published.
func sum(ctx context.Context, t *testing.T, s *fakeaws.Server, code string) float64 {
	t.Helper()
	n, _ := published(ctx, t, s, code, "Sum")
	return n
}

// newQueue creates a queue and returns how many messages it has, of all kinds.
func newQueue(ctx context.Context, t *testing.T, s *fakeaws.Server, name string) (depth func() string) {
	t.Helper()
	client := sqs.NewFromConfig(config(s))
	created, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: created.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameAll},
		})
		if err != nil {
			t.Fatal(err)
		}
		a := out.Attributes
		return a["ApproximateNumberOfMessages"] + "+" + a["ApproximateNumberOfMessagesNotVisible"] + "+" + a["ApproximateNumberOfMessagesDelayed"]
	}
}
