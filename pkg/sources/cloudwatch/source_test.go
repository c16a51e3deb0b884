package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/sourcetest"
)

// fakeAWS answers a metric with the value of its name, and an expression with 1.
type fakeAWS struct {
	values map[string]float64
	// refused are the metrics for which a call is refused.
	refused map[string]bool
	// before, if not nil, is called before each call and may fail it.
	before func(ctx context.Context, region string, in *cloudwatch.GetMetricDataInput) error
	// after, if not nil, changes the answer.
	after func(*cloudwatch.GetMetricDataInput, *cloudwatch.GetMetricDataOutput)

	mu sync.Mutex
	// calls are the metrics and expressions that were asked, by call.
	calls []string
}

// region is the fakeAWS as a client of one region calls it.
type region struct {
	*fakeAWS

	name string
}

func (f *fakeAWS) source(config Config) *Source {
	return newSource(newClients(config, aws.Config{Region: "eu-west-1"}, func(c aws.Config) api {
		return region{f, c.Region}
	}))
}

func (r region) GetMetricData(ctx context.Context, in *cloudwatch.GetMetricDataInput, _ ...func(*cloudwatch.Options)) (*cloudwatch.GetMetricDataOutput, error) {
	r.mu.Lock()
	r.calls = append(r.calls, describeInput(in))
	r.mu.Unlock()
	if r.before != nil {
		if err := r.before(ctx, r.name, in); err != nil {
			return nil, err
		}
	}
	out := new(cloudwatch.GetMetricDataOutput)
	for _, d := range in.MetricDataQueries {
		one := types.MetricDataResult{Id: d.Id, Label: d.Label, StatusCode: types.StatusCodeComplete}
		value, ok := 1.0, true
		if d.MetricStat != nil {
			name := *d.MetricStat.Metric.MetricName
			if r.refused[name] {
				return nil, apiError("ValidationError", "no good: "+name)
			}
			value, ok = r.values[name]
		}
		if ok {
			one.Timestamps, one.Values = []time.Time{in.EndTime.Add(-time.Minute)}, []float64{value}
		}
		if *d.ReturnData {
			out.MetricDataResults = append(out.MetricDataResults, one)
		}
	}
	if r.after != nil {
		r.after(in, out)
	}
	return out, nil
}

func (f *fakeAWS) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func asQueries(queries []*Query) []sources.Query {
	out := make([]sources.Query, len(queries))
	for i, q := range queries {
		out[i] = q
	}
	return out
}

// numbered are n metrics of the values 0 to n-1, and their queries.
func numbered(tb testing.TB, n int) (map[string]float64, []*Query) {
	tb.Helper()
	values := make(map[string]float64)
	queries := make([]*Query, n)
	for i := range queries {
		name := fmt.Sprintf("x%03d", i)
		values[name] = float64(i)
		queries[i] = mustQuery(tb, of("m1", name, "Average", 60))
	}
	return values, queries
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
		t.Helper()
		f := &fakeAWS{values: map[string]float64{"a": 0.9, "b": -7.5, "c": 9.1e18}, refused: map[string]bool{"bad": true}}
		block, broken := new(gate), new(gate)
		f.before = func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error {
			if broken.closed() {
				return apiError("SignatureDoesNotMatch", "wrong\n\nx-amz-security-token:SECRET")
			}
			return block.pass(ctx)
		}
		query := func(metric string) sources.Query { return mustQuery(t, of("m1", metric, "Average", 60)) }
		return sourcetest.Harness{
			Source:  f.source(DefaultConfig()),
			Good:    []sources.Query{query("a"), query("b"), query("c")},
			Values:  []float64{0.9, -7.5, 9.1e18},
			Twin:    query("a"),
			Bad:     query("bad"),
			Empty:   query("empty"),
			Block:   block.close,
			Break:   broken.close,
			Secrets: []string{"SECRET"},
		}
	})
}

// gate lets calls pass unless it is closed.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) close() (open func()) {
	shut := make(chan struct{})
	g.set(shut)
	return func() {
		g.set(nil)
		close(shut)
	}
}

func (g *gate) set(shut chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func (g *gate) get() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

func (g *gate) closed() bool { return g.get() != nil }

func (g *gate) pass(ctx context.Context) error {
	shut := g.get()
	if shut == nil {
		return nil
	}
	select {
	case <-shut:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestFetchSharesCalls(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"ApproximateNumberOfMessagesVisible": 4}}
	s := f.source(DefaultConfig())
	for i, r := range s.Fetch(t.Context(), asQueries(repeat(600, func(i int) *Query { return pair(t, i) }))) {
		if r.Err != nil || len(r.Samples) != 2 {
			t.Fatalf("result %d is %+v", i, r)
		}
	}
	if got := len(f.asked()); got != 3 {
		t.Errorf("1,200 metrics in 600 objects took %d calls, want 3", got)
	}
	counts := gather(t, s)
	for name, want := range map[string]float64{
		`tidegauge_cloudwatch_calls_total{eu-west-1,ok}`:             3,
		`tidegauge_cloudwatch_metrics_requested_total{eu-west-1}`:    1200,
		`tidegauge_cloudwatch_call_queries{eu-west-1}, how many`:     3,
		`tidegauge_cloudwatch_call_queries{eu-west-1}, all together`: 1200,
	} {
		if counts[name] != want {
			t.Errorf("%s is %v, want %v of %v", name, counts[name], want, counts)
		}
	}
}

// gather are the source's numbers by name and the values of the labels.
func gather(t *testing.T, s *Source) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			name := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			if family.GetType().String() == "HISTOGRAM" {
				numbers[name+", how many"] = float64(m.GetHistogram().GetSampleCount())
				numbers[name+", all together"] = m.GetHistogram().GetSampleSum()
				continue
			}
			numbers[name] = m.GetCounter().GetValue()
		}
	}
	return numbers
}

func TestFetchAsksEqualQueriesOnce(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"a": 1}}
	one := func() sources.Query { return mustQuery(t, of("m1", "a", "Average", 60)) }
	for _, r := range f.source(DefaultConfig()).Fetch(t.Context(), []sources.Query{one(), one(), one()}) {
		if r.Err != nil || r.Samples[0].Value != 1 {
			t.Errorf("got %+v", r)
		}
	}
	if got := f.asked(); !slices.Equal(got, []string{"m1:a"}) {
		t.Errorf("asked %q", got)
	}
}

func TestRegionsAndRoles(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"a": 1}}
	var mu sync.Mutex
	regions := make(map[string]int)
	f.before = func(_ context.Context, region string, _ *cloudwatch.GetMetricDataInput) error {
		mu.Lock()
		defer mu.Unlock()
		regions[region]++
		return nil
	}
	ask := func(region, role string) sources.Query {
		return mustSpec(t, Spec{Region: region, RoleARN: role, Queries: []MetricDataQuery{of("m1", "a", "Average", 60)}})
	}
	const role = "arn:aws:iam::123456789012:role/reader"
	s := f.source(DefaultConfig())
	for _, r := range s.Fetch(t.Context(), []sources.Query{ask("", ""), ask("eu-west-1", ""), ask("us-east-1", ""), ask("us-east-1", role), ask("", role)}) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	if want := map[string]int{"eu-west-1": 2, "us-east-1": 2}; !maps.Equal(regions, want) {
		t.Errorf("calls by region are %v, want %v", regions, want)
	}
	if a, b := s.clients.byKey[clientKey{"eu-west-1", role}], s.clients.byKey[clientKey{"us-east-1", role}]; a.credentials != b.credentials {
		t.Error("two regions do not share the credentials of a role")
	}
}

func TestNoRegion(t *testing.T) {
	s := newSource(newClients(DefaultConfig(), aws.Config{}, func(aws.Config) api { return region{new(fakeAWS), ""} }))
	got := s.Fetch(t.Context(), []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))})
	if got[0].Err == nil || !strings.Contains(got[0].Err.Error(), "AWS_REGION") {
		t.Errorf("the error is %v, and does not name the cure", got[0].Err)
	}
}

func TestIdleClientsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{}
		s := f.source(DefaultConfig())
		for _, region := range []string{"eu-west-1", "eu-west-2", "eu-west-3"} {
			if _, err := s.clients.get(clientKey{region: region}); err != nil {
				t.Fatal(err)
			}
			<-time.After(clientIdle/2 + time.Second)
		}
		got := slices.Sorted(func(yield func(string) bool) {
			for k := range s.clients.byKey {
				if !yield(k.region) {
					return
				}
			}
		})
		if want := []string{"eu-west-2", "eu-west-3"}; !slices.Equal(got, want) {
			t.Errorf("the clients are %v, want %v", got, want)
		}
	})
}

func TestRefusedQueriesAreFound(t *testing.T) {
	for _, test := range []struct {
		name    string
		refused []int
		calls   int
	}{
		{"none", nil, 1},
		{"the first", []int{0}, 17},
		{"the last", []int{399}, 19},
		{"some", []int{3, 100, 250, 251, 399}, 71},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, queries := numbered(t, 400)
			f := &fakeAWS{values: values, refused: make(map[string]bool)}
			for _, i := range test.refused {
				f.refused[fmt.Sprintf("x%03d", i)] = true
			}
			for i, r := range f.source(DefaultConfig()).Fetch(t.Context(), asQueries(queries)) {
				if slices.Contains(test.refused, i) {
					want := fmt.Sprintf("cloudwatch in eu-west-1: ValidationError: no good: x%03d", i)
					if !errors.Is(r.Err, sources.ErrRejected) || r.Err.Error() != want {
						t.Errorf("the error of query %d is %q, want %q", i, r.Err, want)
					}
					continue
				}
				if r.Err != nil || r.Samples[0].Value != float64(i) {
					t.Errorf("query %d is %+v", i, r)
				}
			}
			if got := len(f.asked()); got > test.calls {
				t.Errorf("%d calls, want at most %d", got, test.calls)
			}
		})
	}
}

func TestTooManyRefused(t *testing.T) {
	values, queries := numbered(t, 400)
	f := &fakeAWS{values: values, refused: make(map[string]bool)}
	for name := range values {
		f.refused[name] = true
	}
	for i, r := range f.source(DefaultConfig()).Fetch(t.Context(), asQueries(queries)) {
		if r.Err == nil {
			t.Fatalf("query %d has no error", i)
		}
		if alone := !strings.Contains(r.Err.Error(), "asked together"); errors.Is(r.Err, sources.ErrRejected) != alone {
			t.Errorf("query %d is blamed for what may be another's fault: %v", i, r.Err)
		}
	}
	if got := len(f.asked()); got > 1+maxSplits {
		t.Errorf("%d calls, want at most %d", got, 1+maxSplits)
	}
}

func TestMessageOfACall(t *testing.T) {
	values, queries := numbered(t, 10)
	f := &fakeAWS{values: values}
	f.after = func(in *cloudwatch.GetMetricDataInput, out *cloudwatch.GetMetricDataOutput) {
		if strings.Contains(describeInput(in), "x004") {
			out.Messages = says("MaxMetricsExceeded: more than there can be")
		}
	}
	for i, r := range f.source(DefaultConfig()).Fetch(t.Context(), asQueries(queries)) {
		if i != 4 {
			if r.Err != nil {
				t.Errorf("query %d: %v", i, r.Err)
			}
			continue
		}
		if r.Err == nil || !strings.Contains(r.Err.Error(), "MaxMetricsExceeded: more than there can be") || errors.Is(r.Err, sources.ErrRejected) {
			t.Errorf("the error is %v, want the message", r.Err)
		}
	}
}

func TestPagesOfACall(t *testing.T) {
	for _, test := range []struct {
		pages int
		err   string
	}{{1, ""}, {3, ""}, {maxPages, ""}, {maxPages + 1, "more than 20 pages"}} {
		t.Run(strconv.Itoa(test.pages), func(t *testing.T) {
			f := &fakeAWS{values: map[string]float64{"a": 1}}
			page := 0
			f.after = func(in *cloudwatch.GetMetricDataInput, out *cloudwatch.GetMetricDataOutput) {
				if want := fmt.Sprint("after ", page); page > 0 && aws.ToString(in.NextToken) != want {
					t.Errorf("page %d is asked with the token %q, want %q", page, aws.ToString(in.NextToken), want)
				}
				page++
				if page < test.pages {
					out.NextToken = aws.String(fmt.Sprint("after ", page))
					out.MetricDataResults[0].StatusCode = types.StatusCodePartialData
				}
			}
			got := f.source(DefaultConfig()).Fetch(t.Context(), []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))})[0]
			switch {
			case test.err == "" && (got.Err != nil || len(got.Samples) != 1):
				t.Errorf("got %+v, want the value", got)
			case test.err != "" && (got.Err == nil || !strings.Contains(got.Err.Error(), test.err)):
				t.Errorf("the error is %v, want %q", got.Err, test.err)
			}
		})
	}
}

func TestFinishedCallsKeepTheirAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{values: map[string]float64{"a": 1, "b": 2}}
		hang := make(chan struct{})
		f.before = func(_ context.Context, region string, _ *cloudwatch.GetMetricDataInput) error {
			if region == "us-east-1" {
				<-hang // whatever the context says
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := f.source(DefaultConfig()).Fetch(ctx, []sources.Query{
			mustQuery(t, of("m1", "a", "Average", 60)),
			mustSpec(t, Spec{Region: "us-east-1", Queries: []MetricDataQuery{of("m1", "b", "Average", 60)}}),
		})
		if got[0].Err != nil || got[0].Samples[0].Value != 1 {
			t.Errorf("the finished call's answer is %+v", got[0])
		}
		if got[1].Err == nil || got[1].Err.Error() != "cloudwatch in us-east-1: no answer in time" {
			t.Errorf("the hanging call's error is %v", got[1].Err)
		}
		close(hang)
	})
}

func TestCallsHaveATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{values: map[string]float64{"a": 1}}
		f.before = func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error {
			<-ctx.Done()
			return ctx.Err()
		}
		begun := time.Now()
		got := f.source(DefaultConfig()).Fetch(t.Context(), []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))})
		if !errors.Is(got[0].Err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", got[0].Err)
		}
		if took := time.Since(begun); took != DefaultConfig().CallTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

func TestCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{values: make(map[string]float64)}
		var mu sync.Mutex
		inFlight, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			inFlight += n
			most = max(most, inFlight)
		}
		f.before = func(context.Context, string, *cloudwatch.GetMetricDataInput) error {
			count(1)
			defer count(-1)
			<-time.After(time.Second)
			return nil
		}
		var queries []sources.Query
		for i := range 10 { // each with a window of its own
			queries = append(queries, mustQuery(t, of("m1", "a", "Average", int32(i+1)*60)))
		}
		config := DefaultConfig()
		config.MaxCalls = 3
		s := f.source(config)
		var fetches sync.WaitGroup
		for range 2 {
			fetches.Go(func() { s.Fetch(t.Context(), queries) })
		}
		fetches.Wait()
		if most != 3 {
			t.Errorf("%d calls were in flight, want 3", most)
		}
	})
}

func TestExpiredCredentialsAreRenewed(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"a": 1}}
	retrieved := 0
	base := aws.Config{Region: "eu-west-1", Credentials: aws.NewCredentialsCache(aws.CredentialsProviderFunc(
		func(context.Context) (aws.Credentials, error) {
			retrieved++
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "key"}, nil
		}))}
	s := newSource(newClients(DefaultConfig(), base, func(c aws.Config) api {
		f.before = func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error {
			if _, err := c.Credentials.Retrieve(ctx); err != nil {
				return err
			}
			if retrieved == 1 {
				return apiError("ExpiredToken", "The security token included in the request is expired")
			}
			return nil
		}
		return region{f, c.Region}
	}))
	query := []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))}
	if first := s.Fetch(t.Context(), query); first[0].Err == nil {
		t.Error("expired credentials gave a value")
	}
	for range 3 {
		if next := s.Fetch(t.Context(), query); next[0].Err != nil {
			t.Errorf("after that: %v", next[0].Err)
		}
	}
	if retrieved != 2 {
		t.Errorf("credentials were retrieved %d times, want 2", retrieved)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{apiError("Throttling", ""), "throttled"},
		{apiError("ValidationError", ""), "rejected"},
		{apiError("AccessDenied", ""), "denied"},
		{apiError("InternalFailure", ""), "failed"},
		{context.DeadlineExceeded, "timeout"},
	} {
		f := &fakeAWS{before: func(context.Context, string, *cloudwatch.GetMetricDataInput) error { return test.err }}
		s := f.source(DefaultConfig())
		s.Fetch(t.Context(), []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))})
		if name := "tidegauge_cloudwatch_calls_total{eu-west-1," + test.want + "}"; gather(t, s)[name] != 1 {
			t.Errorf("%v is not counted as %s", test.err, test.want)
		}
	}
}
