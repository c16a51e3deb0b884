package fakeaws

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func TestFaultErrors(t *testing.T) {
	s := start(t, Options{})
	tests := []struct {
		fault  Fault
		code   string
		status int
		words  string
	}{
		{Fault{ErrorCode: "Throttling"}, "Throttling", 400, "Rate exceeded"},
		{Fault{ErrorCode: "ThrottlingException"}, "ThrottlingException", 400, "Rate exceeded"},
		{Fault{ErrorCode: "InternalFailure"}, "InternalFailure", 500, "unknown error"},
		{Fault{ErrorCode: "InternalServiceError"}, "InternalServiceError", 500, "unknown error"},
		{Fault{ErrorCode: "ServiceUnavailable"}, "ServiceUnavailable", 503, "temporary"},
		{Fault{ErrorCode: "AccessDenied"}, "AccessDenied", 403, "user/fakeaws is not authorized to perform: "},
		{Fault{ErrorCode: "Odd", ErrorStatus: 418, ErrorMessage: "a teapot"}, "Odd", 418, "a teapot"},
	}
	for _, test := range tests {
		t.Run(test.code, func(t *testing.T) {
			lift := s.Fault(test.fault)
			_, errCloudWatch := cloudWatchClient(s).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
			_, errSQS := sqsClient(s).ListQueues(t.Context(), &sqs.ListQueuesInput{})
			_, errSTS := stsClient(s).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			for _, err := range []error{errCloudWatch, errSQS, errSTS} {
				wantCode(t, err, test.code, test.words)
				if e, ok := errors.AsType[*awshttp.ResponseError](err); !ok || e.HTTPStatusCode() != test.status {
					t.Errorf("error is %v, want status %d", err, test.status)
				}
			}
			lift()
			if _, err := cloudWatchClient(s).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{}); err != nil {
				t.Errorf("after it was lifted: %v", err)
			}
		})
	}
}

func TestFaultMatches(t *testing.T) {
	get := &cloudwatch.GetMetricDataInput{MetricDataQueries: input(metric("m1", "latency", 60, "Sum"), mathQuery("e1", "m1*2")).MetricDataQueries}
	c := &call{service: &service{name: "cloudwatch"}, operation: "GetMetricData", caller: caller{region: "eu-west-1", role: reader}}
	tests := []struct {
		fault Fault
		in    any
		want  bool
	}{
		{Fault{}, get, true},
		{Fault{Service: "cloudwatch"}, get, true},
		{Fault{Service: "sqs"}, get, false},
		{Fault{Operation: "GetMetricData"}, get, true},
		{Fault{Operation: "PutMetricData"}, get, false},
		{Fault{Region: "eu-west-1"}, get, true},
		{Fault{Region: "us-east-1"}, get, false},
		{Fault{Role: reader}, get, true},
		{Fault{Role: "arn:aws:iam::210987654321:role/other"}, get, false},
		{Fault{Role: "arn:aws:iam::210987654321:role/other"}, &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::210987654321:role/other")}, true},
		{Fault{Role: "arn:aws:iam::210987654321:role/web"}, &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String("arn:aws:iam::210987654321:role/web")}, true},
		{Fault{Metric: "latency"}, get, true},
		{Fault{Metric: "other"}, get, false},
		{Fault{Metric: "latency"}, &cloudwatch.ListMetricsInput{}, false},
		{Fault{QueryID: "e1"}, get, true},
		{Fault{QueryID: "e2"}, get, false},
		{Fault{Metric: "latency", QueryID: "e1"}, get, false},
	}
	for _, test := range tests {
		if got := test.fault.matchesCall(c, test.in); got != test.want {
			t.Errorf("%+v, %T: got %v, want %v", test.fault, test.in, got, test.want)
		}
	}
}

func TestFaultCount(t *testing.T) {
	s := start(t, Options{})
	s.Fault(Fault{Operation: "ListMetrics", ErrorCode: "Throttling", Count: 2})
	client := cloudWatchClient(s)
	var got []bool
	for range 3 {
		_, err := client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
		got = append(got, err != nil)
		if _, err := sqsClient(s).ListQueues(t.Context(), &sqs.ListQueuesInput{}); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(got) != "[true true false]" {
		t.Errorf("calls failed: %v, want the first two", got)
	}
	s.Fault(Fault{ErrorCode: "Throttling"})
	s.ClearFaults()
	if _, err := client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{}); err != nil {
		t.Error(err)
	}
}

func TestFaultBodies(t *testing.T) {
	s := start(t, Options{})
	for name, fault := range map[string]Fault{"cut": {Cut: true}, "garbage": {Garbage: true}} {
		t.Run(name, func(t *testing.T) {
			defer s.Fault(fault)()
			for range 3 {
				_, errCloudWatch := cloudWatchClient(s).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
				_, errSQS := sqsClient(s).ListQueues(t.Context(), &sqs.ListQueuesInput{})
				_, errSTS := stsClient(s).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
				if errCloudWatch == nil || errSQS == nil || errSTS == nil {
					t.Errorf("errors are %v, %v, %v", errCloudWatch, errSQS, errSTS)
				}
			}
		})
	}
}

func TestFaultResults(t *testing.T) {
	s := startAtNoon(t)
	put(s, "a", map[int]float64{1: 1, 2: 2})
	put(s, "b", map[int]float64{1: 10, 2: 20})
	message := []Message{{Code: "Odd", Value: "very"}}
	tests := []struct {
		name  string
		fault Fault
		want  string
	}{
		{"none", Fault{}, "a Complete 1:1 2:2; b Complete 1:10 2:20; e Complete 1:11 2:22"},
		{"Forbidden", Fault{Metric: "a", StatusCode: "Forbidden"}, "a Forbidden ; b Complete 1:10 2:20; e Forbidden "},
		{"InternalError", Fault{QueryID: "b", StatusCode: "InternalError"}, "a Complete 1:1 2:2; b InternalError ; e InternalError "},
		{"PartialData", Fault{QueryID: "b", StatusCode: "PartialData"}, "a Complete 1:1 2:2; b PartialData 1:10 2:20; e PartialData 1:11 2:22"},
		{"everything", Fault{StatusCode: "Forbidden"}, "a Forbidden ; b Forbidden ; e Forbidden "},
		{"empty", Fault{Metric: "a", Empty: true}, "a Complete ; b Complete 1:10 2:20; e Complete "},
		{"value", Fault{QueryID: "e", Value: new(Float(0.9))}, "a Complete 1:1 2:2; b Complete 1:10 2:20; e Complete 1:0.9 2:0.9"},
		{"NaN", Fault{QueryID: "e", Value: nan()}, "a Complete 1:1 2:2; b Complete 1:10 2:20; e Complete 1:NaN 2:NaN"},
		{"NaN below math", Fault{Metric: "b", Value: nan()}, "a Complete 1:1 2:2; b Complete 1:NaN 2:NaN; e Complete  ArithmeticError"},
		{"message", Fault{Metric: "a", Messages: message}, "a Complete 1:1 2:2 Odd; b Complete 1:10 2:20; e Complete 1:11 2:22"},
		{"message of the call", Fault{Messages: message}, "Odd: a Complete 1:1 2:2; b Complete 1:10 2:20; e Complete 1:11 2:22"},
		{"pages", Fault{MaxDatapoints: 3}, "a Complete 1:1 2:2; b PartialData 1:10 +"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			defer s.Fault(test.fault)()
			out, err := cloudWatchClient(s).GetMetricData(t.Context(),
				input(metric("a", "a", 60, "Sum"), metric("b", "b", 60, "Sum"), mathQuery("e", "a+b")))
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(out); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func nan() *Float {
	var f Float
	if err := f.UnmarshalJSON([]byte(`"NaN"`)); err != nil {
		panic(err)
	}
	return &f
}

// describe writes an answer in one line, with a plus if there is more.
func describe(out *cloudwatch.GetMetricDataOutput) string {
	var words []string
	for _, m := range out.Messages {
		words = append(words, *m.Code+":")
	}
	var results []string
	for _, r := range out.MetricDataResults {
		result := []string{*r.Id, string(r.StatusCode), points(r)}
		for _, m := range r.Messages {
			result = append(result, *m.Code)
		}
		results = append(results, strings.Join(result, " "))
	}
	words = append(words, strings.Join(results, "; "))
	if out.NextToken != nil {
		words = append(words, "+")
	}
	return strings.Join(words, " ")
}

func TestFaultLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t.Context(), Options{}.withDefaults())
		c := &call{ctx: t.Context(), faults: []Fault{{Latency: 9 * time.Second}, {Latency: time.Second}}}
		began := time.Now()
		if err := s.delay(c); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %v, want 10s", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.ctx = ctx
		if err := s.delay(c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v when the caller leaves", err)
		}
	})
}
