package fakeaws

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// noon is the time of servers whose clock stands still.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// start returns a server that is closed with the test.
func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// startAtNoon returns a server whose clock stands still.
func startAtNoon(t *testing.T) *Server {
	t.Helper()
	return start(t, Options{Now: func() time.Time { return noon }})
}

// config returns what a client of the server needs; clients do not retry.
func config(s *Server) aws.Config {
	return aws.Config{
		Region:       DefaultRegion,
		BaseEndpoint: aws.String(s.URL()),
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), ""),
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
		// A connection that is kept alive would tell of a pause too late.
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

func cloudWatchClient(s *Server) *cloudwatch.Client { return cloudwatch.NewFromConfig(config(s)) }
func sqsClient(s *Server) *sqs.Client               { return sqs.NewFromConfig(config(s)) }
func stsClient(s *Server) *sts.Client               { return sts.NewFromConfig(config(s)) }

// wantCode fails the test unless err is an error of the API with the code and the words.
func wantCode(t *testing.T, err error, code, words string) {
	t.Helper()
	apiErr, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("error is %v, want code %s", err, code)
	}
	if apiErr.ErrorCode() != code || !strings.Contains(apiErr.ErrorMessage(), words) {
		t.Errorf("error is %s: %q, want %s with %q", apiErr.ErrorCode(), apiErr.ErrorMessage(), code, words)
	}
}

func TestPauseRefusesConnectionsAndKeepsState(t *testing.T) {
	s := start(t, Options{})
	client := sqsClient(s)
	queue, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("work")})
	if err != nil {
		t.Fatal(err)
	}
	url := s.URL()
	s.Pause()
	s.Pause()
	if _, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{}); err == nil {
		t.Error("call succeeded while paused")
	}
	for range 2 {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if s.URL() != url {
		t.Errorf("URL is %s after Resume, want %s", s.URL(), url)
	}
	list, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.QueueUrls) != 1 || list.QueueUrls[0] != *queue.QueueUrl {
		t.Errorf("queues are %v, want %s", list.QueueUrls, *queue.QueueUrl)
	}
}

func TestCloseEndsLongPolls(t *testing.T) {
	s := start(t, Options{})
	client := sqsClient(s)
	queue, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("work")})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := client.ReceiveMessage(context.WithoutCancel(t.Context()), &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, WaitTimeSeconds: 20})
		failed <- err
	}()
	s.Close()
	if err := <-failed; err == nil {
		t.Error("long poll ended without an error")
	}
	if err := s.Resume(); err == nil {
		t.Error("a closed server listens again")
	}
}

func TestStartFailsOnTakenAddress(t *testing.T) {
	s := start(t, Options{})
	if _, err := Start(t.Context(), Options{Addr: strings.TrimPrefix(s.URL(), "http://")}); err == nil {
		t.Error("two servers listen on one address")
	}
}

func TestControl(t *testing.T) {
	s := startAtNoon(t)
	do := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(answer))
	}
	steps := []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"POST", "/_control/faults", `{"errorCode": "Throttling", "count": 2, "latency": "1ms"}`, 200, `{"id":1}`},
		{"POST", "/_control/faults", `{"value": "NaN", "metric": "m"}`, 200, `{"id":2}`},
		{"GET", "/_control/faults", "", 200, `{"1":{"count":2,"errorCode":"Throttling","latency":"1ms"},"2":{"metric":"m","value":"NaN"}}`},
		{"POST", "/_control/faults", `{"operatoin": "GetMetricData"}`, 400, `reading JSON: json: unknown field "operatoin"`},
		{"POST", "/_control/faults", `{"latency": "soon"}`, 400, `reading JSON: latency: time: invalid duration "soon"`},
		{"DELETE", "/_control/faults/1", "", 200, ""},
		{"GET", "/_control/faults", "", 200, `{"2":{"metric":"m","value":"NaN"}}`},
		{"DELETE", "/_control/faults", "", 200, ""},
		{"GET", "/_control/faults", "", 200, `{}`},
		{"GET", "/_control/settings", "", 200, `{"publishInterval":"1m0s"}`},
		{"PUT", "/_control/settings", `{"publishInterval": "5s"}`, 200, `{"publishInterval":"5s"}`},
		{"GET", "/_control/settings", "", 200, `{"publishInterval":"5s"}`},
		{"PUT", "/_control/settings", `{"publishInterval": "5ms"}`, 400, "publishInterval: publish interval 5ms is not a number of seconds"},
		{"POST", "/_control/metrics", `[{"namespace": "n", "name": "m", "value": 1.5}]`, 200, ""},
		{"GET", "/_control/nothing", "", 404, "404 page not found"},
	}
	for _, step := range steps {
		if status, answer := do(step.method, step.path, step.body); status != step.status || !strings.HasSuffix(answer, step.answer) {
			t.Errorf("%s %s %s: got %d %s, want %d %s", step.method, step.path, step.body, status, answer, step.status, step.answer)
		}
	}
	if _, err := cloudWatchClient(s).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{}); err != nil {
		t.Fatal(err)
	}
	var counts Counts
	if _, answer := do("GET", "/_control/counts", ""); json.Unmarshal([]byte(answer), &counts) != nil || counts.Calls["cloudwatch.ListMetrics"] != 1 {
		t.Errorf("counts are %s, want one ListMetrics", answer)
	}
	do("DELETE", "/_control/counts", "")
	if got := s.Counts().Calls; len(got) != 0 {
		t.Errorf("calls are %v after a reset", got)
	}
}

func TestCounts(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	in := input(metric("a", "m1", 60, "Sum"), metric("b", "m2", 60, "Sum"), mathQuery("c", "a+b"))
	for range 3 {
		if _, err := client.GetMetricData(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.GetMetricData(t.Context(), input(metric("A", "m1", 60, "Sum"))); err == nil {
		t.Error("bad ID was taken")
	}
	got := s.Counts()
	if n := got.Calls["cloudwatch.GetMetricData"]; n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
	if n := got.Errors["cloudwatch.GetMetricData"]["ValidationError"]; n != 1 {
		t.Errorf("%d errors, want 1", n)
	}
	if n := got.CallsByCaller[DefaultAccessKeyID]["cloudwatch.GetMetricData"]; n != 4 {
		t.Errorf("%d calls by the static key, want 4", n)
	}
	if got.MetricsRequested != 6 || got.MetricsRequestedByCaller[DefaultAccessKeyID] != 6 {
		t.Errorf("%d metrics requested, want 6", got.MetricsRequested)
	}
	if len(got.GetMetricData) != 3 {
		t.Fatalf("%d calls remembered, want 3", len(got.GetMetricData))
	}
	call := got.GetMetricData[0]
	if call.Queries != 3 || call.Metrics != 2 || call.BodyBytes == 0 || !call.Start.Equal(*in.StartTime) || !call.End.Equal(*in.EndTime) {
		t.Errorf("call is %+v", call)
	}
	for range maxRecent {
		s.counts.gotMetricData(GetMetricDataCall{Queries: 7})
	}
	if recent := s.Counts().GetMetricData; len(recent) != maxRecent || recent[0].Queries != 7 {
		t.Errorf("%d calls remembered, the first of %d queries", len(recent), recent[0].Queries)
	}
}

// input asks for the hour before noon, the oldest first.
func input(queries ...types.MetricDataQuery) *cloudwatch.GetMetricDataInput {
	return &cloudwatch.GetMetricDataInput{
		StartTime:         aws.Time(noon.Add(-time.Hour)),
		EndTime:           aws.Time(noon),
		ScanBy:            types.ScanByTimestampAscending,
		MetricDataQueries: queries,
	}
}

func metric(id, name string, period int32, stat string) types.MetricDataQuery {
	return types.MetricDataQuery{Id: &id, MetricStat: &types.MetricStat{
		Metric: &types.Metric{Namespace: aws.String("test"), MetricName: &name},
		Period: &period,
		Stat:   &stat,
	}}
}

func mathQuery(id, expression string) types.MetricDataQuery {
	return types.MetricDataQuery{Id: &id, Expression: &expression}
}
