// Package sources_test runs the sources with their real clients against the
// stand-ins of their backends.
package sources_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
	"github.com/tidegauge/tidegauge/pkg/sources/sourcetest"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	reader = "arn:aws:iam::123456789012:role/reader"
	// adapter is the role that the adapter itself has by its ServiceAccount.
	adapter = "arn:aws:iam::123456789012:role/adapter"
	// namespace is of the metrics that the tests put.
	namespace = "Test"
)

// startAWS starts the stand-in and points the SDK at it, with static keys.
func startAWS(t *testing.T, options fakeaws.Options) *fakeaws.Server {
	t.Helper()
	aws, err := fakeaws.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(aws.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL":            aws.URL(),
		"AWS_REGION":                  fakeaws.DefaultRegion,
		"AWS_ACCESS_KEY_ID":           aws.AccessKeyID(),
		"AWS_SECRET_ACCESS_KEY":       aws.SecretAccessKey(),
		"AWS_SESSION_TOKEN":           "",
		"AWS_PROFILE":                 "",
		"AWS_CONFIG_FILE":             filepath.Join(t.TempDir(), "none"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
		"AWS_EC2_METADATA_DISABLED":   "true",
	} {
		t.Setenv(name, value)
	}
	return aws
}

func newSource(t *testing.T) *cloudwatch.Source {
	t.Helper()
	s, err := cloudwatch.New(t.Context(), cloudwatch.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newQuery(t *testing.T, spec cloudwatch.Spec) sources.Query {
	t.Helper()
	q, err := cloudwatch.NewQuery(spec)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// metric is a query of a metric without dimensions, every minute.
func metric(id, name, stat string) cloudwatch.MetricDataQuery {
	return cloudwatch.MetricDataQuery{ID: id, MetricStat: &cloudwatch.MetricStat{
		Metric: cloudwatch.Metric{Namespace: namespace, MetricName: name}, Period: 60, Stat: stat,
	}}
}

// hide is the query with returnData false.
func hide(d cloudwatch.MetricDataQuery) cloudwatch.MetricDataQuery {
	d.ReturnData = new(false)
	return d
}

func average(t *testing.T, name string) sources.Query {
	t.Helper()
	return newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{metric("m1", name, "Average")}})
}

// put has one value of each metric, measured some time ago.
func put(aws *fakeaws.Server, ago time.Duration, values map[string]float64) {
	for name, value := range values {
		aws.PutMetric(fakeaws.Metric{Namespace: namespace, Name: name, Value: fakeaws.Float(value), Time: time.Now().Add(-ago)})
	}
}

func fetchOne(t *testing.T, s sources.Source, q sources.Query) sources.Result {
	t.Helper()
	return s.Fetch(t.Context(), []sources.Query{q})[0]
}

func wantValue(t *testing.T, got sources.Result, want float64) {
	t.Helper()
	if got.Err != nil {
		t.Error(got.Err)
		return
	}
	if len(got.Samples) != 1 || got.Samples[0].Value != want {
		t.Errorf("got %+v, want the value %v", got.Samples, want)
	}
}

func TestCloudWatchContract(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
		t.Helper()
		aws := startAWS(t, fakeaws.Options{})
		put(aws, 0, map[string]float64{"a": 0.9, "b": -7.5, "c": 9.1e18})
		return sourcetest.Harness{
			Source: newSource(t),
			Good:   []sources.Query{average(t, "a"), average(t, "b"), average(t, "c")},
			Values: []float64{0.9, -7.5, 9.1e18},
			Twin:   average(t, "a"),
			Bad: newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{
				metric("m1", "a", "Average"), {ID: "e1", Expression: "m1 +"},
			}}),
			Empty: average(t, "empty"),
			Block: func() func() { return aws.Fault(fakeaws.Fault{Latency: time.Minute}) },
			Break: func() func() {
				aws.Pause()
				return func() {
					if err := aws.Resume(); err != nil {
						t.Error(err)
					}
				}
			},
			Secrets: []string{aws.SecretAccessKey(), aws.AccessKeyID()},
		}
	})
}

func TestCloudWatchValues(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	values := map[string]float64{
		"fraction": 0.9, "negative": -7.5, "large": 9.1e18, "milli": 0.001, "past 2^53": 9007199254740993,
		"nothing": 0, "tiny": 4.9e-324, "502": 502,
	}
	put(aws, 0, values)
	s := newSource(t)
	for name, want := range values {
		wantValue(t, fetchOne(t, s, average(t, name)), want)
	}

	t.Run("no numbers", func(t *testing.T) {
		put(aws, 0, map[string]float64{"nan": math.NaN(), "inf": math.Inf(1)})
		for name, is := range map[string]func(float64) bool{
			"nan": math.IsNaN,
			"inf": func(v float64) bool { return math.IsInf(v, 1) },
		} {
			got := fetchOne(t, s, average(t, name))
			if got.Err != nil || !is(got.Samples[0].Value) {
				t.Errorf("%s is %+v, and must stay what it is", name, got)
			}
		}
	})
}

func TestCloudWatchTimes(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	ago := 3 * time.Minute
	put(aws, ago, map[string]float64{"x": 4})
	got := fetchOne(t, newSource(t), average(t, "x"))
	wantValue(t, got, 4)
	if t.Failed() {
		return
	}
	sample := got.Samples[0]
	if age := time.Since(sample.Time); age < ago || age > ago+2*time.Minute {
		t.Errorf("the sample is of %v, want the datapoint's own time, %v ago", sample.Time, ago)
	}
	if sample.Window != time.Minute {
		t.Errorf("the sample covers %v, want a minute", sample.Window)
	}
	if diff := cmp.Diff(map[string]string{"id": "m1", "label": "x"}, sample.Labels.Map()); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestCloudWatchPeriods(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	aws.PutMetric(fakeaws.Metric{Namespace: namespace, Name: "fast", Value: 6, HighResolution: true})
	put(aws, 0, map[string]float64{"now": 5})
	put(aws, 190*time.Second, map[string]float64{"ended": 7})
	put(aws, 8*time.Minute, map[string]float64{"five minutes ago": 8})
	s := newSource(t)
	ask := func(name, stat string, period int32) sources.Query {
		d := metric("m1", name, stat)
		d.MetricStat.Period = period
		return newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{d}})
	}
	for _, test := range []struct {
		name   string
		query  sources.Query
		want   float64
		noData bool
	}{
		{name: "gauge of five minutes", query: ask("now", "Average", 300), want: 5},
		{name: "gauge of an hour", query: ask("now", "Maximum", 3600), want: 5},
		{name: "sum of an ended minute", query: ask("ended", "Sum", 60), want: 7},
		{name: "count of an ended minute", query: ask("ended", "SampleCount", 60), want: 1},
		{name: "sum of ended five minutes", query: ask("five minutes ago", "Sum", 300), want: 8},
		{name: "sum of a day in progress", query: ask("now", "Sum", 86400), noData: true},
		{name: "gauge of five seconds", query: ask("fast", "Average", 5), want: 6},
		{name: "gauge of a second", query: ask("fast", "Minimum", 1), want: 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fetchOne(t, s, test.query)
			if test.noData {
				if !errors.Is(got.Err, sources.ErrNoData) {
					t.Errorf("got %+v, want no data", got)
				}
				return
			}
			wantValue(t, got, test.want)
		})
	}
}

func TestCloudWatchExpressions(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	put(aws, 2*time.Minute, map[string]float64{"a": 6, "b": 4, "c": 5, "tg0": 1})
	math := func(id, expression string) cloudwatch.MetricDataQuery {
		return cloudwatch.MetricDataQuery{ID: id, Expression: expression}
	}
	a, b, c := metric("m1", "a", "Average"), metric("m2", "b", "Average"), metric("m3", "c", "Average")
	tests := []struct {
		name    string
		queries []cloudwatch.MetricDataQuery
		want    map[string]float64 // by id and label
	}{
		{"math", []cloudwatch.MetricDataQuery{hide(a), hide(b), math("e1", "m1 / m2 * 100")}, map[string]float64{"e1=e1": 150}},
		{"the same ids again", []cloudwatch.MetricDataQuery{hide(b), hide(a), math("e1", "m2 - m1")}, map[string]float64{"e1=e1": -2}},
		{"nested", []cloudwatch.MetricDataQuery{hide(a), hide(math("e1", "m1 * 2")), math("e2", "e1 + m1")}, map[string]float64{"e2=e2": 18}},
		{"all metrics", []cloudwatch.MetricDataQuery{hide(a), hide(b), math("sum", "SUM(METRICS())")}, map[string]float64{"sum=sum": 10}},
		{"chosen metrics", []cloudwatch.MetricDataQuery{hide(a), hide(b), math("sum", "SUM(METRICS('m1'))")}, map[string]float64{"sum=sum": 6}},
		{"several returned", []cloudwatch.MetricDataQuery{a, b, hide(c)}, map[string]float64{"m1=a": 6, "m2=b": 4}},
		{"a name like a target group's", []cloudwatch.MetricDataQuery{metric("m1", "tg0", "Average")}, map[string]float64{"m1=tg0": 1}},
		{"a label", []cloudwatch.MetricDataQuery{hide(a), {ID: "e1", Expression: "m1", Label: "mine"}}, map[string]float64{"e1=mine": 6}},
		{"fill", []cloudwatch.MetricDataQuery{hide(c), math("e1", "FILL(m3, 0)")}, map[string]float64{"e1=e1": 5}},
	}
	s := newSource(t)
	var together []sources.Query
	for _, test := range tests {
		together = append(together, newQuery(t, cloudwatch.Spec{Queries: test.queries}))
	}
	shared := s.Fetch(t.Context(), together)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			alone := fetchOne(t, s, together[i])
			for name, got := range map[string]sources.Result{"alone": alone, "with others": shared[i]} {
				if got.Err != nil {
					t.Errorf("%s: %v", name, got.Err)
					continue
				}
				values := make(map[string]float64)
				for _, s := range got.Samples {
					values[s.Labels.Get("id")+"="+s.Labels.Get("label")] = s.Value
				}
				if diff := cmp.Diff(test.want, values); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

// TestCloudWatchLateData: services publish up to some minutes late, each on its own.
func TestCloudWatchLateData(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	for minute := range 7 {
		ago := time.Duration(minute) * time.Minute
		put(aws, ago, map[string]float64{"punctual": 50})
		if minute >= 3 {
			put(aws, ago, map[string]float64{"late": 950, "work": 100, "workers": 4})
			put(aws, ago, map[string]float64{"jobs": 60})
		}
	}
	put(aws, 2*time.Minute, map[string]float64{"work": 100, "workers": 0})
	put(aws, time.Minute, map[string]float64{"jobs": 10})
	late, punctual := hide(metric("m1", "late", "Average")), hide(metric("m2", "punctual", "Average"))
	over := func(expression string, metrics ...cloudwatch.MetricDataQuery) sources.Query {
		return newQuery(t, cloudwatch.Spec{Queries: append(metrics, cloudwatch.MetricDataQuery{ID: "e1", Expression: expression})})
	}
	tests := []struct {
		name  string
		query sources.Query
		want  float64
		fails string
	}{
		{name: "fill", query: over("FILL(m1, 0)", late), want: 950},
		{name: "sum of fills", query: over("FILL(m1, 0) + FILL(m2, 0)", late, punctual), want: 1000},
		{name: "sum of a list", query: over("SUM([m1, m2])", late, punctual), want: 1000},
		{name: "sum of all", query: over("SUM(METRICS())", late, punctual), want: 1000},
		{name: "choice", query: over("IF(m2 > 0, FILL(m1, 0), 1)", late, punctual), want: 950},
		{name: "operator", query: over("m1 + m2", late, punctual), want: 1000},
		{name: "sum of a minute", query: newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{metric("m1", "jobs", "Sum")}}), want: 60},
		{
			name:  "division by zero",
			query: over("m1 / m2", hide(metric("m1", "work", "Average")), hide(metric("m2", "workers", "Average"))),
			fails: "ArithmeticError: ",
		},
	}
	s := newSource(t)
	var together []sources.Query
	for _, test := range tests {
		together = append(together, test.query)
	}
	shared := s.Fetch(t.Context(), together)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, got := range []sources.Result{shared[i], fetchOne(t, s, test.query)} {
				if test.fails != "" {
					wantError(t, got, test.fails)
					continue
				}
				wantValue(t, got, test.want)
			}
		})
	}
}

func TestCloudWatchSharesCalls(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	var queries []sources.Query
	for i := range 600 {
		first, second := fmt.Sprint("first", i), fmt.Sprint("second", i)
		put(aws, 0, map[string]float64{first: float64(i), second: 0.5})
		queries = append(queries, newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{
			metric("m1", first, "Average"), metric("m2", second, "Average"),
		}}))
	}
	s := newSource(t)
	for i, r := range s.Fetch(t.Context(), queries) {
		if r.Err != nil || len(r.Samples) != 2 || r.Samples[0].Value != float64(i) || r.Samples[1].Value != 0.5 {
			t.Fatalf("result %d is %+v", i, r)
		}
	}
	counts := aws.Counts()
	if len(counts.GetMetricData) != 3 || counts.MetricsRequested != 1200 {
		t.Errorf("%d calls requested %d metrics, want 3 and 1200", len(counts.GetMetricData), counts.MetricsRequested)
	}
	for _, call := range counts.GetMetricData {
		if call.Queries > 500 || call.BodyBytes > 614_400 || call.More {
			t.Errorf("a call is over a limit: %+v", call)
		}
	}
}

func TestCloudWatchLargeBodies(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	var queries []sources.Query
	for i := range 60 {
		d := metric("m1", "x", "Average")
		for j := range 30 {
			d.MetricStat.Metric.Dimensions = append(d.MetricStat.Metric.Dimensions,
				cloudwatch.Dimension{Name: fmt.Sprint("d", j), Value: fmt.Sprint(i, strings.Repeat("v", 1000))})
		}
		queries = append(queries, newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{d}}))
	}
	for _, r := range newSource(t).Fetch(t.Context(), queries) {
		if !errors.Is(r.Err, sources.ErrNoData) {
			t.Fatalf("got %+v, want no data", r)
		}
	}
	if got := len(aws.Counts().GetMetricData); got != 4 {
		t.Errorf("%d calls, want 4", got)
	}
}

func TestCloudWatchRolesAndRegions(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	for region, value := range map[string]float64{"us-east-1": 1, "eu-central-1": 2} {
		aws.PutMetric(fakeaws.Metric{Region: region, Namespace: namespace, Name: "x", Value: fakeaws.Float(value)})
	}
	ask := func(region, role string) sources.Query {
		return newQuery(t, cloudwatch.Spec{
			Region: region, RoleARN: role, Queries: []cloudwatch.MetricDataQuery{metric("m1", "x", "Average")},
		})
	}
	s := newSource(t)
	queries := []sources.Query{ask("", ""), ask("eu-central-1", ""), ask("us-east-1", reader), ask("eu-central-1", reader)}
	for range 20 {
		got := s.Fetch(t.Context(), queries)
		for i, want := range []float64{1, 2, 1, 2} {
			wantValue(t, got[i], want)
		}
	}
	counts := aws.Counts()
	if diff := cmp.Diff(map[string]int{reader: 1}, counts.RolesAssumed); diff != "" {
		t.Errorf("roles assumed (-want +got):\n%s", diff)
	}
	for _, who := range []string{aws.AccessKeyID(), reader} {
		if got := counts.CallsByCaller[who]["cloudwatch.GetMetricData"]; got != 40 {
			t.Errorf("%s made %d calls, want 40", who, got)
		}
	}
}

// TestCloudWatchRenewsRoles: the stand-in's clock is behind, so what it issues for
// an hour has too little left to be used again.
func TestCloudWatchRenewsRoles(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{Now: func() time.Time { return time.Now().Add(-time.Hour + 10*time.Second) }})
	put(aws, 0, map[string]float64{"x": 1})
	s := newSource(t)
	q := newQuery(t, cloudwatch.Spec{RoleARN: reader, Queries: []cloudwatch.MetricDataQuery{metric("m1", "x", "Average")}})
	for range 3 {
		wantValue(t, fetchOne(t, s, q), 1)
	}
	if got := aws.Counts().RolesAssumed[reader]; got != 3 {
		t.Errorf("the role was assumed %d times, want 3", got)
	}
}

// withoutKeys takes the static keys away from the SDK, and puts a metric to read.
func withoutKeys(t *testing.T, aws *fakeaws.Server) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	put(aws, 0, map[string]float64{"x": 3})
}

// webIdentity is a token as Kubernetes projects it into a pod.
func webIdentity(t *testing.T) (token, file string) {
	t.Helper()
	part := func(claims map[string]string) string {
		text, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	token = part(map[string]string{"alg": "RS256"}) + "." + part(map[string]string{
		"iss": "https://oidc.example.org", "sub": "system:serviceaccount:tidegauge-system:tidegauge",
	}) + ".c2lnbmF0dXJl"
	file = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return token, file
}

func TestCloudWatchWebIdentity(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	withoutKeys(t, aws)
	token, file := webIdentity(t)
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	t.Setenv("AWS_ROLE_ARN", adapter)
	s := newSource(t)
	for range 20 {
		wantValue(t, fetchOne(t, s, average(t, "x")), 3)
	}
	chained := newQuery(t, cloudwatch.Spec{RoleARN: reader, Queries: []cloudwatch.MetricDataQuery{metric("m1", "x", "Average")}})
	for range 20 {
		wantValue(t, fetchOne(t, s, chained), 3)
	}
	counts := aws.Counts()
	if diff := cmp.Diff(map[string]int{adapter: 1, reader: 1}, counts.RolesAssumed); diff != "" {
		t.Errorf("roles assumed (-want +got):\n%s", diff)
	}
	if counts.CallsByCaller[adapter]["sts.AssumeRole"] != 1 {
		t.Errorf("the role was not assumed by the adapter's: %v", counts.CallsByCaller)
	}

	t.Run("refused", func(t *testing.T) {
		if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		got := fetchOne(t, newSource(t), average(t, "x"))
		wantError(t, got, "credentials: STS AssumeRoleWithWebIdentity: InvalidIdentityToken")
		if got.Err != nil && strings.Contains(got.Err.Error(), token) {
			t.Errorf("the token is in the error: %v", got.Err)
		}
	})
	t.Run("no token", func(t *testing.T) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		wantError(t, fetchOne(t, newSource(t), average(t, "x")), "no such file")
	})
}

// TestCloudWatchPodIdentity: the agent of EKS Pod Identity is a local web server.
func TestCloudWatchPodIdentity(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	withoutKeys(t, aws)
	asked := make(chan string, 100)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Authorization")
		fmt.Fprintf(w, `{"AccessKeyId": %q, "SecretAccessKey": %q, "Token": "", "Expiration": %q}`,
			aws.AccessKeyID(), aws.SecretAccessKey(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(agent.Close)
	token, file := webIdentity(t)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL)
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)
	s := newSource(t)
	for range 5 {
		wantValue(t, fetchOne(t, s, average(t, "x")), 3)
	}
	if len(asked) != 1 || <-asked != token {
		t.Errorf("the agent was asked %d more times, or without the token", len(asked))
	}
}

func TestCloudWatchWithoutCredentials(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	withoutKeys(t, aws)
	wantError(t, fetchOne(t, newSource(t), average(t, "x")), "cloudwatch in us-east-1: credentials: ")
}

func TestCloudWatchWithoutRegion(t *testing.T) {
	startAWS(t, fakeaws.Options{})
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	wantError(t, fetchOne(t, newSource(t), average(t, "x")), "no region: set it in the object")
}

func wantError(t *testing.T, got sources.Result, words string) {
	t.Helper()
	if got.Err == nil || !strings.Contains(got.Err.Error(), words) {
		t.Errorf("the error is %v, want %q in it", got.Err, words)
	}
	if errors.Is(got.Err, sources.ErrNoData) || errors.Is(got.Err, sources.ErrRejected) {
		t.Errorf("a failure is taken for an answer: %v", got.Err)
	}
}

func TestCloudWatchFaults(t *testing.T) {
	onCall := fakeaws.Fault{Service: "cloudwatch", Operation: "GetMetricData"}
	with := func(change func(*fakeaws.Fault)) fakeaws.Fault {
		f := onCall
		change(&f)
		return f
	}
	tests := []struct {
		name  string
		fault fakeaws.Fault
		want  string
	}{
		{"throttling", with(func(f *fakeaws.Fault) { f.ErrorCode = "Throttling" }), "Throttling: Rate exceeded"},
		{"throttling by another name", with(func(f *fakeaws.Fault) { f.ErrorCode = "ThrottlingException" }), "ThrottlingException: Rate exceeded"},
		{"500", with(func(f *fakeaws.Fault) { f.ErrorCode, f.ErrorStatus = "InternalFailure", http.StatusInternalServerError }), "InternalFailure: "},
		{"503", with(func(f *fakeaws.Fault) {
			f.ErrorCode, f.ErrorStatus = "ServiceUnavailable", http.StatusServiceUnavailable
		}), "ServiceUnavailable: "},
		{"latency", with(func(f *fakeaws.Fault) { f.Latency = time.Minute }), "no answer in time"},
		{"access denied", with(func(f *fakeaws.Fault) { f.ErrorCode, f.ErrorStatus = "AccessDenied", http.StatusForbidden }), "AccessDenied: "},
		{"expired token", with(func(f *fakeaws.Fault) { f.ErrorCode, f.ErrorStatus = "ExpiredToken", http.StatusForbidden }), "ExpiredToken: "},
		{"cut", with(func(f *fakeaws.Fault) { f.Cut = true }), "connection cut before the end of the answer"},
		{"garbage", with(func(f *fakeaws.Fault) { f.Garbage = true }), "deserialization failed"},
		{"forbidden", with(func(f *fakeaws.Fault) { f.StatusCode = "Forbidden" }), "Forbidden: "},
		{"internal error", with(func(f *fakeaws.Fault) { f.StatusCode = "InternalError" }), "InternalError: "},
		{"partial data", with(func(f *fakeaws.Fault) { f.StatusCode = "PartialData" }), "PartialData: "},
		{"message of the call", with(func(f *fakeaws.Fault) {
			f.Messages = []fakeaws.Message{{Code: "Max", Value: "too many"}}
		}), "Max: too many"},
		{"message of a result", with(func(f *fakeaws.Fault) {
			f.Metric, f.Messages = "x", []fakeaws.Message{{Code: "Max", Value: "too many"}}
		}), "Max: too many"},
		{"no role", fakeaws.Fault{Service: "sts", ErrorCode: "AccessDenied", ErrorStatus: http.StatusForbidden}, "credentials: STS AssumeRole: AccessDenied: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			aws := startAWS(t, fakeaws.Options{})
			put(aws, 0, map[string]float64{"x": 2})
			s := newSource(t)
			q := newQuery(t, cloudwatch.Spec{RoleARN: reader, Queries: []cloudwatch.MetricDataQuery{metric("m1", "x", "Average")}})
			mend := aws.Fault(test.fault)
			ctx := t.Context()
			if test.fault.Latency > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			got := s.Fetch(ctx, []sources.Query{q})[0]
			wantError(t, got, test.want)
			wantError(t, got, "cloudwatch in us-east-1 as "+reader+": ")
			_, throttled := errors.AsType[*sources.ThrottledError](got.Err)
			if throttled != strings.HasPrefix(test.want, "Throttling") {
				t.Errorf("throttled is %v: %v", throttled, got.Err)
			}
			mend()
			wantValue(t, fetchOne(t, s, q), 2)
		})
	}
}

func TestCloudWatchPages(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	values := make(map[string]float64)
	var queries []sources.Query
	for i := range 9 {
		name := fmt.Sprint("x", i)
		values[name] = float64(i)
		queries = append(queries, average(t, name))
	}
	put(aws, 0, values)
	put(aws, 2*time.Minute, values)
	aws.Fault(fakeaws.Fault{MaxDatapoints: 5})
	for i, r := range newSource(t).Fetch(t.Context(), queries) {
		wantValue(t, r, float64(i))
	}
	if got := len(aws.Counts().GetMetricData); got < 2 {
		t.Errorf("%d calls: the answer had no pages", got)
	}
}

// TestCloudWatchRefusedInSharedCall: AWS names what it refuses, so that telling the
// bad ones from the good ones takes two calls for each.
func TestCloudWatchRefusedInSharedCall(t *testing.T) {
	aws := startAWS(t, fakeaws.Options{})
	values := make(map[string]float64)
	var queries []sources.Query
	bad := func(i int) bool { return i%5 == 3 }
	for i := range 300 {
		name := fmt.Sprint("x", i)
		values[name] = float64(i)
		switch {
		case !bad(i):
			queries = append(queries, average(t, name))
		case i%2 == 0:
			queries = append(queries, newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{metric("rate", name, "Median")}}))
		default:
			queries = append(queries, newQuery(t, cloudwatch.Spec{Queries: []cloudwatch.MetricDataQuery{
				metric("m1", name, "Average"), {ID: "rate", Expression: fmt.Sprint("m1 / / ", i)},
			}}))
		}
	}
	put(aws, 0, values)
	for i, r := range newSource(t).Fetch(t.Context(), queries) {
		if !bad(i) {
			wantValue(t, r, float64(i))
			continue
		}
		words := "Error in expression 'rate': "
		if i%2 == 0 {
			words = "The value Median for parameter MetricDataQueries.member.1.MetricStat.Stat is not supported"
		}
		if !errors.Is(r.Err, sources.ErrRejected) || !strings.Contains(r.Err.Error(), words) {
			t.Errorf("the error is %v, want AWS's words on the query", r.Err)
		}
	}
	if got := aws.Counts().CallsByCaller[aws.AccessKeyID()]["cloudwatch.GetMetricData"]; got > 1+2*60+8 {
		t.Errorf("60 bad queries took %d calls", got)
	}
}
