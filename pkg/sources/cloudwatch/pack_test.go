package cloudwatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

var noon = time.Date(2026, 3, 4, 12, 0, 7, 0, time.UTC)

// packAt packs as it is by default.
func packAt(now time.Time, queries ...*Query) []*call {
	return pack(queries, now, DefaultConfig().Settle)
}

// pair is an object of two metrics.
func pair(tb testing.TB, i int) *Query {
	tb.Helper()
	return mustQuery(tb, depth("m1", fmt.Sprint("a", i)), depth("m2", fmt.Sprint("b", i)))
}

func repeat(n int, query func(i int) *Query) []*Query {
	var queries []*Query
	for i := range n {
		queries = append(queries, query(i))
	}
	return queries
}

func TestPack(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, test := range []struct {
		name    string
		queries []*Query
		// want are the queries and expressions in each call.
		want []int
	}{
		{"nothing", nil, nil},
		{"one", repeat(1, func(i int) *Query { return pair(t, i) }), []int{2}},
		{"1,200 metrics in 600 objects", repeat(600, func(i int) *Query { return pair(t, i) }), []int{500, 500, 200}},
		{"exactly full", repeat(250, func(i int) *Query { return pair(t, i) }), []int{500}},
		{"objects are not split", repeat(168, func(i int) *Query {
			return mustQuery(t, depth("m1", "a"), depth("m2", strconv.Itoa(i)), math("e1", "m1+m2"))
		}), []int{498, 6}},
		{"later ones fill the gaps", slices.Concat(
			repeat(1, func(int) *Query { return mustQuery(t, manyMetrics(499)...) }),
			repeat(1, func(i int) *Query { return pair(t, i) }),
			repeat(1, func(int) *Query { return mustQuery(t, depth("m1", "last")) }),
		), []int{500, 2}},
		{"bytes", repeat(20, func(i int) *Query { return mustQuery(t, fat("m1", fmt.Sprint(i, long))) }), []int{19, 1}},
		{"datapoints", repeat(400, func(i int) *Query {
			return mustQuery(t, of("m1", fmt.Sprint("x", i), "Average", 1))
		}), []int{334, 66}},
		{"one Insights query a call", repeat(3, func(i int) *Query {
			return mustQuery(t, MetricDataQuery{ID: "e1", Expression: fmt.Sprint("SELECT MAX(x) FROM y", i), Period: 60})
		}), []int{1, 1, 1}},
		{"Insights beside metrics", []*Query{
			mustQuery(t, of("m1", "x", "Sum", 60)),
			mustQuery(t, MetricDataQuery{ID: "e1", Expression: "SELECT MAX(x) FROM y", Period: 60}),
		}, []int{2}},
		{"windows", []*Query{
			mustQuery(t, of("m1", "x", "Sum", 60)), mustQuery(t, of("m1", "x", "Average", 60)),
			mustQuery(t, of("m1", "x", "Average", 300)), mustQuery(t, of("m1", "y", "Average", 60)),
		}, []int{1, 2, 1}},
		{"alone", []*Query{
			mustQuery(t, of("m1", "x", "Sum", 60)),
			mustQuery(t, of("m1", "y", "Sum", 60), math("e1", "SUM(METRICS('m'))")),
			mustQuery(t, of("m1", "z", "Sum", 60)),
		}, []int{2, 2}},
		{"a list of metrics that is too long for an expression", []*Query{
			mustQuery(t, append(manyMetrics(400), math("e1", "SUM(METRICS())"))...),
			mustQuery(t, append(manyMetrics(10), math("e1", "SUM(METRICS())"))...),
			mustQuery(t, append(manyMetrics(10), math("e1", "SUM(METRICS())"))...),
		}, []int{401, 22}},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls := packAt(noon, test.queries...)
			var got []int
			for _, c := range calls {
				got = append(got, len(c.input(c.ids()).MetricDataQueries))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("calls of %v queries, want %v", got, test.want)
			}
			checkCalls(t, test.queries, calls)
		})
	}
}

func manyMetrics(n int) []MetricDataQuery {
	queries := make([]MetricDataQuery, n)
	for i := range queries {
		queries[i] = depth(fmt.Sprint("m", i), "orders")
	}
	return queries
}

// fat is a query of as many and as long dimensions as there can be.
func fat(id, value string) MetricDataQuery {
	d := of(id, "x", "Average", 60)
	for i := range maxDimensions {
		d.MetricStat.Metric.Dimensions = append(d.MetricStat.Metric.Dimensions, Dimension{fmt.Sprint("d", i), value})
	}
	return d
}

// checkCalls checks what holds of every packing: all queries are asked once and
// whole, under ids of their own, in calls within the limits.
func checkCalls(t *testing.T, queries []*Query, calls []*call) {
	t.Helper()
	asked := make(map[*Query]int)
	for _, c := range calls {
		in := c.input(c.ids())
		ids := make(map[string]bool)
		for _, d := range in.MetricDataQueries {
			if id := aws.ToString(d.Id); ids[id] || !validID.MatchString(id) {
				t.Errorf("the id %q is used twice, or is none", id)
			}
			ids[aws.ToString(d.Id)] = true
		}
		if len(in.MetricDataQueries) > maxQueries || bodySize(t, in) > 614_400 {
			t.Errorf("a call of %d queries and %d bytes is over a limit", len(in.MetricDataQueries), bodySize(t, in))
		}
		if measured, sent := c.load.bytes, bodySize(t, in); measured+1024 < sent {
			t.Errorf("a body of %d bytes was taken for one of %d", sent, measured)
		}
		for _, q := range c.queries {
			asked[q]++
			if got := q.window(noon, DefaultConfig().Settle); got != c.window {
				t.Errorf("a query of %v is asked for %v", got, c.window)
			}
		}
	}
	for _, q := range queries {
		if asked[q] != 1 {
			t.Errorf("a query is asked %d times", asked[q])
		}
	}
}

// bodySize is how many bytes the SDK sends for the request.
func bodySize(t *testing.T, in *cloudwatch.GetMetricDataInput) int {
	t.Helper()
	var body bytes.Buffer
	c := cloudwatch.New(cloudwatch.Options{
		Region:           "eu-west-1",
		Credentials:      aws.AnonymousCredentials{},
		RetryMaxAttempts: 1,
		HTTPClient: roundTrip(func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(&body, r.Body)
			return nil, errors.Join(err, errors.New("not sent"))
		}),
	})
	if _, err := c.GetMetricData(t.Context(), in); err == nil || body.Len() == 0 {
		t.Fatalf("the request was not written: %v", err)
	}
	return body.Len()
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestPackIsStable(t *testing.T) {
	queries := repeat(700, func(i int) *Query { return mustQuery(t, manyMetrics(1+i%7)...) })
	first, second := packAt(noon, queries...), packAt(noon, queries...)
	for i := range first {
		if !slices.Equal(first[i].queries, second[i].queries) {
			t.Fatalf("call %d has other queries the second time", i)
		}
	}
}

func TestSplit(t *testing.T) {
	queries := repeat(5, func(i int) *Query { return pair(t, i) })
	whole := packAt(noon, queries...)[0]
	for n, want := range map[int][]int{1: {5}, 2: {3, 2}, 3: {2, 2, 1}, 5: {1, 1, 1, 1, 1}, 8: {1, 1, 1, 1, 1}} {
		parts := whole.split(n)
		checkCalls(t, queries, parts)
		var sizes []int
		var all load
		for _, p := range parts {
			sizes = append(sizes, len(p.queries))
			all = all.plus(p.load)
			if p.window != whole.window || p.settle != whole.settle {
				t.Error("a part has another window")
			}
		}
		if !slices.Equal(sizes, want) || all != whole.load {
			t.Errorf("%d parts are of %v queries and the load %v, want %v and %v", n, sizes, all, want, whole.load)
		}
	}
}

func TestInput(t *testing.T) {
	a := mustQuery(t, hidden(of("m1", "errors", "Sum", 60)), hidden(of("m2", "calls", "Sum", 60)), math("rate", "m1/m2"))
	b := mustQuery(t, MetricDataQuery{ID: "m1", Label: "mine", MetricStat: &MetricStat{
		Metric: Metric{"Test", "x", []Dimension{{"b", "2"}, {"a", "1"}}}, Period: 60, Stat: "Sum", Unit: "Count",
	}}, math("all", "SUM(METRICS())"))

	t.Run("alone", func(t *testing.T) {
		in := inputOf(a)
		if got := describeInput(in); got != "m1:errors m2:calls rate=m1/m2" {
			t.Errorf("asks %s", got)
		}
		if in.ScanBy != types.ScanByTimestampDescending {
			t.Errorf("scans by %s", in.ScanBy)
		}
	})
	t.Run("shared", func(t *testing.T) {
		in := inputOf(a, b)
		if got := describeInput(in); got != "tidegaugeq0:errors tidegaugeq1:calls tidegaugeq2=tidegaugeq0/tidegaugeq1 tidegaugeq3:x tidegaugeq4=SUM([tidegaugeq3])" {
			t.Errorf("asks %s", got)
		}
		returned := make([]bool, len(in.MetricDataQueries))
		for i, d := range in.MetricDataQueries {
			returned[i] = *d.ReturnData
		}
		if !slices.Equal(returned, []bool{true, true, true, true, true}) {
			t.Errorf("returned: %v", returned)
		}
		m := in.MetricDataQueries[3]
		if *m.Label != "mine" || m.MetricStat.Unit != "Count" || *m.MetricStat.Metric.Dimensions[0].Name != "a" {
			t.Errorf("a metric is asked as %+v", m)
		}
		if label := in.MetricDataQueries[0].Label; label == nil || *label != "errors" {
			t.Errorf("a metric without a label has the label %v", label)
		}
	})
	t.Run("a dynamic label in a name", func(t *testing.T) {
		if label := inputOf(mustQuery(t, of("m1", "${LAST}", "Sum", 60))).MetricDataQueries[0].Label; label != nil {
			t.Errorf("the label is %q", *label)
		}
	})
}

func inputOf(queries ...*Query) *cloudwatch.GetMetricDataInput {
	c := packAt(noon, queries...)[0]
	return c.input(c.ids())
}

// describeInput has the ids with the names of their metrics or their expressions.
func describeInput(in *cloudwatch.GetMetricDataInput) string {
	var parts []string
	for _, d := range in.MetricDataQueries {
		if d.MetricStat != nil {
			parts = append(parts, *d.Id+":"+*d.MetricStat.Metric.MetricName)
			continue
		}
		parts = append(parts, *d.Id+"="+*d.Expression)
	}
	return strings.Join(parts, " ")
}

// FuzzPack: whatever the mixture, checkCalls holds.
func FuzzPack(f *testing.F) {
	f.Add(uint64(1), uint16(40))
	f.Add(uint64(2), uint16(300))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16) {
		random := rand.New(rand.NewPCG(seed, 0))
		queries := repeat(int(n%400), func(int) *Query { return randomQuery(t, random) })
		checkCalls(t, queries, packAt(noon, queries...))
	})
}

func randomQuery(t *testing.T, random *rand.Rand) *Query {
	t.Helper()
	periods := []int32{1, 10, 60, 300}
	expressions := []string{
		"m0", "SUM(METRICS())", "METRICS('m')", "FILL(m0,0)", "m0+other", "SELECT MAX(x) FROM y", "SEARCH('{x} m0', 'Sum', 60)",
	}
	queries := []MetricDataQuery{of("m0", "x", "Average", periods[random.IntN(len(periods))])}
	for i := range random.IntN(30) {
		queries = append(queries, fat(fmt.Sprint("m", i+1), strings.Repeat("v", 1+random.IntN(200))))
	}
	if random.IntN(2) == 0 {
		queries = append(queries, MetricDataQuery{ID: "e", Expression: expressions[random.IntN(len(expressions))], Period: 60})
	}
	return mustQuery(t, queries...)
}

// BenchmarkPack packs 1,000 metrics, each an object of its own, and makes the calls' bodies.
func BenchmarkPack(b *testing.B) {
	queries := repeat(1000, func(i int) *Query { return mustQuery(b, depth("m1", fmt.Sprint("a", i))) })
	b.Run("pack", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if calls := packAt(noon, queries...); len(calls) != 2 {
				b.Fatalf("%d calls", len(calls))
			}
		}
	})
	b.Run("input", func(b *testing.B) {
		calls := packAt(noon, queries...)
		b.ReportAllocs()
		for b.Loop() {
			for _, c := range calls {
				c.input(c.ids())
			}
		}
	})
}
