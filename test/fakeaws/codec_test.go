package fakeaws

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go/encoding/cbor"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDecodeCBOR(t *testing.T) {
	tests := []struct {
		name string
		body cbor.Value
		want *cloudwatch.GetMetricDataInput
		err  string
	}{
		{
			"everything",
			cbor.Map{
				"StartTime":     &cbor.Tag{ID: 1, Value: cbor.Float64(1795345200.5)},
				"EndTime":       &cbor.Tag{ID: 1, Value: cbor.Uint(1795348800)},
				"MaxDatapoints": cbor.Uint(5),
				"ScanBy":        cbor.String("TimestampAscending"),
				"NextToken":     &cbor.Nil{},
				"Unheard":       cbor.List{cbor.Map{}},
				"MetricDataQueries": cbor.List{cbor.Map{
					"Id": cbor.String("m"), "ReturnData": cbor.Bool(false), "Period": cbor.Float64(60),
				}},
			},
			&cloudwatch.GetMetricDataInput{
				StartTime: aws.Time(time.UnixMilli(1795345200500)), EndTime: aws.Time(time.Unix(1795348800, 0)),
				MaxDatapoints: aws.Int32(5), ScanBy: types.ScanByTimestampAscending,
				MetricDataQueries: []types.MetricDataQuery{{Id: aws.String("m"), ReturnData: aws.Bool(false), Period: aws.Int32(60)}},
			},
			"",
		},
		{"list for text", cbor.Map{"NextToken": cbor.List{}}, nil, "NextToken: unexpected []interface {}"},
		{"text for list", cbor.Map{"MetricDataQueries": cbor.String("x")}, nil, "MetricDataQueries: unexpected string"},
		{"text for structure", cbor.Map{"LabelOptions": cbor.String("x")}, nil, "LabelOptions: unexpected string"},
		{"boolean for time", cbor.Map{"StartTime": cbor.Bool(true)}, nil, "StartTime: unexpected bool"},
		{"text for time", cbor.Map{"StartTime": cbor.String("noon")}, nil, "StartTime: parsing time"},
		{"too large", cbor.Map{"MaxDatapoints": cbor.Uint(1 << 40)}, nil, "MaxDatapoints: unexpected int64"},
		{"fraction", cbor.Map{"MaxDatapoints": cbor.Float64(1.5)}, nil, "MaxDatapoints: unexpected float64"},
		{"negative", cbor.Map{"MaxDatapoints": cbor.NegInt(3)}, &cloudwatch.GetMetricDataInput{MaxDatapoints: aws.Int32(-3)}, ""},
		{"inside a list", cbor.Map{"MetricDataQueries": cbor.List{cbor.Map{}, cbor.Map{"Id": cbor.Uint(1)}}}, nil, "MetricDataQueries.member.2.Id: unexpected int64"},
		{"no structure", cbor.String("x"), nil, "unexpected string"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := &cloudwatch.GetMetricDataInput{}
			err := cloudWatchCBOR.decode(cbor.Encode(test.body), got)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.want, got, cmpopts.IgnoreUnexported(cloudwatch.GetMetricDataInput{}, types.MetricDataQuery{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeMalformedBodies(t *testing.T) {
	tests := []struct {
		name  string
		codec codec
		body  string
		in    any
	}{
		{"CBOR", cloudWatchCBOR, "\xff", &cloudwatch.ListMetricsInput{}},
		{"JSON", sqsJSON, "{", &sqs.ListQueuesInput{}},
		{"JSON of another type", sqsJSON, `{"MessageAttributes": []}`, &sqs.SendMessageInput{}},
		{"JSON with a wrong member", sqsJSON, `{"MessageAttributes": {"a": {"BinaryValue": "!"}}}`, &sqs.SendMessageInput{}},
		{"JSON with a wrong kind of blob", sqsJSON, `{"MessageAttributes": {"a": {"BinaryValue": 1}}}`, &sqs.SendMessageInput{}},
		{"form", cloudWatchQuery, "a=%zz", &cloudwatch.ListMetricsInput{}},
		{"form with a wrong boolean", cloudWatchQuery, "IncludeLinkedAccounts=maybe", &cloudwatch.ListMetricsInput{}},
		{"form with a wrong number", cloudWatchQuery, "MetricData.member.1.Value=many", &cloudwatch.PutMetricDataInput{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.codec.decode([]byte(test.body), test.in); err == nil {
				t.Errorf("%q was read as %+v", test.body, test.in)
			}
		})
	}
	if err := sqsJSON.decode(nil, &sqs.ListQueuesInput{}); err != nil {
		t.Errorf("empty body: %v", err)
	}
}
