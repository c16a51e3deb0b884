package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/sourcetest"
)

// fakeAWS answers a metric with the value of its name, and an expression with 1.
type fakeAWS struct {
	values map[string]float64
	// refused are the metrics for which a call is refused.
	refused map[string]bool
	// words, if not nil, are how a call is refused for its query of that index.
	words func(in *cloudwatch.GetMetricDataInput, i int) string
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
	if config.MaxCallsPerSecond == DefaultConfig().MaxCallsPerSecond {
		config.MaxCallsPerSecond = 1 << 20 // Those that count calls have no time to wait.
	}
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
	for i, d := range in.MetricDataQueries {
		one := types.MetricDataResult{Id: d.Id, Label: d.Label, StatusCode: types.StatusCodeComplete}
		value, ok := 1.0, true
		if d.MetricStat != nil {
			name := *d.MetricStat.Metric.MetricName
			if r.refused[name] {
				words := "no good: " + name
				if r.words != nil {
					words = r.words(in, i)
				}
				return nil, apiError("ValidationError", words)
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

// byID is how AWS refuses an expression.
func byID(in *cloudwatch.GetMetricDataInput, i int) string {
	return fmt.Sprintf("Error in expression '%s': bad", *in.MetricDataQueries[i].Id)
}

// byPlace is how AWS refuses what breaks a rule for a field.
func byPlace(_ *cloudwatch.GetMetricDataInput, i int) string {
	return fmt.Sprintf("The value x for parameter MetricDataQueries.member.%d.MetricStat.Stat is not supported.", i+1)
}

// byConstraint is how AWS refuses what breaks a constraint of its model.
func byConstraint(_ *cloudwatch.GetMetricDataInput, i int) string {
	return fmt.Sprintf("1 validation error detected: Value '' at 'metricDataQueries.%d.member.metricStat.stat' failed", i+1)
}

// byNeighbour names a query that is not to blame.
func byNeighbour(in *cloudwatch.GetMetricDataInput, i int) string {
	return byID(in, (i+1)%len(in.MetricDataQueries))
}

func TestRefusedQueriesAreFound(t *testing.T) {
	fifth := func(i int) bool { return i%5 == 2 }
	for _, test := range []struct {
		name    string
		words   func(in *cloudwatch.GetMetricDataInput, i int) string
		refused func(i int) bool
		// calls are how many there may be at most.
		calls int
	}{
		{"none", nil, func(int) bool { return false }, 1},
		{"the first", nil, func(i int) bool { return i == 0 }, 19},
		{"the last", nil, func(i int) bool { return i == 499 }, 19},
		{"some", nil, func(i int) bool { return i < 2 || i == 250 || i == 499 }, 60},
		{"a hundred", nil, fifth, 999},
		{"all", nil, func(int) bool { return true }, 999},
		{"one with its id", byID, func(i int) bool { return i == 123 }, 3},
		{"two with their ids", byID, func(i int) bool { return i == 0 || i == 499 }, 5},
		{"a hundred with their ids", byID, fifth, 1 + 2*100 + searchParts},
		{"a hundred with their places", byPlace, fifth, 1 + 2*100 + searchParts},
		{"a hundred with other places", byConstraint, fifth, 1 + 2*100 + searchParts},
		{"all with their ids", byID, func(int) bool { return true }, 1 + 2*500},
		{"one with its neighbour's id", byNeighbour, func(i int) bool { return i == 123 }, 3 + 2*searchParts + 19},
		{"a hundred with their neighbours' ids", byNeighbour, fifth, 999 + 2*searchParts},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, queries := numbered(t, 500)
			f := &fakeAWS{values: values, refused: make(map[string]bool), words: test.words}
			for i := range queries {
				f.refused[fmt.Sprintf("x%03d", i)] = test.refused(i)
			}
			for i, r := range f.source(DefaultConfig()).Fetch(t.Context(), asQueries(queries)) {
				if test.refused(i) {
					words := fmt.Sprintf("no good: x%03d", i)
					if test.words != nil {
						words = test.words(inputOf(queries[i]), 0)
					}
					if want := "cloudwatch in eu-west-1: ValidationError: " + words; !errors.Is(r.Err, sources.ErrRejected) || r.Err.Error() != want {
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

// TestRefusedQueriesDelayTheOthersLittle: with AWS answering in a tenth of a second,
// a hundred bad ones among five hundred are found in time for a fetch.
func TestRefusedQueriesDelayTheOthersLittle(t *testing.T) {
	for name, words := range map[string]func(*cloudwatch.GetMetricDataInput, int) string{"named": byID, "not named": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				values, queries := numbered(t, 500)
				f := &fakeAWS{values: values, refused: make(map[string]bool), words: words}
				for i := 2; i < len(queries); i += 5 {
					f.refused[fmt.Sprintf("x%03d", i)] = true
				}
				f.before = func(context.Context, string, *cloudwatch.GetMetricDataInput) error {
					<-time.After(100 * time.Millisecond)
					return nil
				}
				begun := time.Now()
				f.source(DefaultConfig()).Fetch(t.Context(), asQueries(queries))
				if took := time.Since(begun); took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestPanicFailsItsCallOnly(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"a": 1, "b": 2, "c": 3}}
	f.before = func(_ context.Context, region string, _ *cloudwatch.GetMetricDataInput) error {
		if region == "us-east-1" {
			panic("SECRET")
		}
		return nil
	}
	abroad := func(metric string) sources.Query {
		return mustSpec(t, Spec{Region: "us-east-1", Queries: []MetricDataQuery{of("m1", metric, "Average", 60)}})
	}
	config := DefaultConfig()
	config.MaxCalls = 1
	s := f.source(config)
	for range 2 { // a slot that is not given back would block the second
		got := s.Fetch(t.Context(), []sources.Query{abroad("a"), mustQuery(t, of("m1", "b", "Average", 60)), abroad("c")})
		wantSample(t, got[1], 2)
		for _, r := range []sources.Result{got[0], got[2]} {
			if r.Err == nil || r.Err.Error() != "cloudwatch in us-east-1: internal error, of which the adapter's log has the details" {
				t.Errorf("got %+v, want an error", r)
			}
		}
	}
}

func TestRegionsThatNobodyAnswersHaveNoCounts(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"a": 1}}
	f.before = func(_ context.Context, region string, _ *cloudwatch.GetMetricDataInput) error {
		switch {
		case strings.HasPrefix(region, "no-"):
			return unsent(&net.DNSError{Name: region, Err: "no such host"})
		case strings.HasPrefix(region, "sts-"):
			return withoutCredentials(apiError("AccessDenied", "no"))
		case region == "us-west-2":
			return failed(apiError("AccessDenied", "no"))
		}
		return nil
	}
	s := f.source(DefaultConfig())
	ask := func(region string) sources.Query {
		return mustSpec(t, Spec{Region: region, Queries: []MetricDataQuery{of("m1", "a", "Average", 60)}})
	}
	var queries []sources.Query
	for i := range 50 {
		queries = append(queries, ask(fmt.Sprint("no-where-", i)), ask(fmt.Sprint("sts-where-", i)))
	}
	s.Fetch(t.Context(), append(queries, ask(""), ask("us-west-2")))
	counts := gather(t, s)
	for name, want := range map[string]float64{
		"tidegauge_cloudwatch_calls_total{eu-west-1,ok}":     1,
		"tidegauge_cloudwatch_calls_total{us-west-2,denied}": 1,
		"tidegauge_cloudwatch_calls_total{other,failed}":     50,
		"tidegauge_cloudwatch_calls_total{other,denied}":     50,
	} {
		if counts[name] != want {
			t.Errorf("%s is %v, want %v", name, counts[name], want)
		}
	}

	t.Run("nor more than there are regions", func(t *testing.T) {
		var queries []sources.Query
		for i := range 3 * maxRegions {
			queries = append(queries, ask(fmt.Sprint("any-where-", i)))
		}
		s.Fetch(t.Context(), queries)
		regions := 0
		for name := range gather(t, s) {
			if strings.HasPrefix(name, "tidegauge_cloudwatch_metrics_requested_total{") {
				regions++
			}
		}
		if regions != maxRegions+1 {
			t.Errorf("counts of %d regions, want %d and the others together", regions, maxRegions)
		}
	})
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
				if page > 0 {
					out.MetricDataResults[0].Timestamps, out.MetricDataResults[0].Values = nil, nil
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

// Nobody is there where nothing comes back, and somebody wherever AWS says anything.
func TestNobodyThere(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return &smithy.OperationError{ServiceID: "CloudWatch", OperationName: operation, Err: &aws.RequestCanceledError{Err: ctx.Err()}}
	}
	connect := func(ctx context.Context) { httptrace.ContextClientTrace(ctx).GotConn(httptrace.GotConnInfo{}) }
	for _, test := range []struct {
		name string
		call func(ctx context.Context) error
		want bool
	}{
		{"refused", func(context.Context) error { return unsent(refused) }, true},
		{"reset before any byte", func(ctx context.Context) error { connect(ctx); return unsent(io.EOF) }, true},
		{"no connection in time", hang, true},
		{"STS refused", func(context.Context) error { return withoutCredentials(&smithyhttp.RequestSendError{Err: refused}) }, true},
		{"no answer in time", func(ctx context.Context) error { connect(ctx); return hang(ctx) }, false},
		{"cut after the first byte", func(ctx context.Context) error {
			connect(ctx)
			httptrace.ContextClientTrace(ctx).GotFirstResponseByte()
			return unsent(io.ErrUnexpectedEOF)
		}, false},
		{"cut in its body", func(context.Context) error {
			return failed(&smithy.DeserializationError{Err: io.ErrUnexpectedEOF})
		}, false},
		{"denied", func(context.Context) error { return failed(apiError("AccessDenied", "")) }, false},
		{"throttled", func(context.Context) error { return failed(apiError("Throttling", "")) }, false},
		{"rejected", func(context.Context) error { return failed(apiError("ValidationError", "")) }, false},
		{"500", func(context.Context) error { return failed(apiError("InternalFailure", "")) }, false},
		{"a role that is denied", func(context.Context) error { return withoutCredentials(apiError("AccessDenied", "")) }, false},
		{"given up", func(context.Context) error { return unsent(context.Canceled) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeAWS{before: func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error { return test.call(ctx) }}
				got := f.source(DefaultConfig()).Fetch(t.Context(), []sources.Query{mustQuery(t, of("m1", "a", "Average", 60))})
				if errors.Is(got[0].Err, sources.ErrAway) != test.want {
					t.Errorf("away is not %v: %v", test.want, got[0].Err)
				}
				if strings.HasSuffix(got[0].Err.Error(), sources.ErrAway.Error()) {
					t.Errorf("the text is %q, want AWS's or the SDK's words", got[0].Err)
				}
			})
		})
	}
}

// ownWindows are queries that share no call.
func ownWindows(t *testing.T, n int, role string) []sources.Query {
	t.Helper()
	var queries []sources.Query
	for i := range n {
		data := []MetricDataQuery{of("m1", "a", "Average", int32(i+1)*60)}
		queries = append(queries, mustSpec(t, Spec{RoleARN: role, Queries: data}))
	}
	return queries
}

func TestCallsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{values: map[string]float64{"a": 1}}
		config := DefaultConfig()
		config.MaxCallsPerSecond = 5
		s := f.source(config)
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		count := func(results []sources.Result) (answered, notAsked int) {
			for _, r := range results {
				switch {
				case r.Err == nil:
					answered++
				case errors.Is(r.Err, sources.ErrNotAsked) && !errors.Is(r.Err, context.DeadlineExceeded):
					notAsked++
				default:
					t.Errorf("the error is %v", r.Err)
				}
			}
			return answered, notAsked
		}
		// Roles of one account share its quota; another account has its own.
		var fetches sync.WaitGroup
		var mu sync.Mutex
		answered := map[string]int{}
		for _, role := range []string{"arn:aws:iam::111111111111:role/a", "arn:aws:iam::111111111111:role/b", "arn:aws:iam::222222222222:role/a"} {
			fetches.Go(func() {
				n, left := count(s.Fetch(ctx, ownWindows(t, 40, role)))
				if n+left != 40 {
					t.Errorf("%s: %d answered and %d not asked of 40", role, n, left)
				}
				mu.Lock()
				defer mu.Unlock()
				answered[role[:25]] += n
			})
		}
		fetches.Wait()
		// Five at once, and then five a second for 3.5 s.
		for account, n := range answered {
			if n < 21 || n > 22 {
				t.Errorf("%s had %d calls in 3.5 s, want 22", account, n)
			}
		}
	})
}

func TestQueriesWithoutAPlaceAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAWS{before: func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		config := DefaultConfig()
		config.MaxCalls, config.CallTimeout = 2, 30*time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		notAsked := 0
		for _, r := range f.source(config).Fetch(ctx, ownWindows(t, 10, "")) {
			if errors.Is(r.Err, sources.ErrNotAsked) {
				notAsked++
			} else if !errors.Is(r.Err, context.DeadlineExceeded) || errors.Is(r.Err, sources.ErrAway) {
				t.Errorf("the error is %v", r.Err)
			}
		}
		if notAsked != 8 {
			t.Errorf("%d were not asked, want 8", notAsked)
		}
	})
}
