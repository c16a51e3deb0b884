package cloudwatch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// result is a complete result whose values are of the last minutes, newest first.
func result(id, label string, values ...float64) types.MetricDataResult {
	r := types.MetricDataResult{
		Id: aws.String(id), Label: aws.String(label), StatusCode: types.StatusCodeComplete, Values: values,
	}
	for i := range values {
		r.Timestamps = append(r.Timestamps, noon.Truncate(time.Minute).Add(-time.Duration(i)*time.Minute))
	}
	return r
}

// with is the result with that status and those messages, which are code: text.
func with(r types.MetricDataResult, status types.StatusCode, messages ...string) types.MetricDataResult {
	r.StatusCode = status
	r.Messages = says(messages...)
	return r
}

func says(messages ...string) []types.MessageData {
	var data []types.MessageData
	for _, m := range messages {
		code, text, _ := strings.Cut(m, ": ")
		data = append(data, types.MessageData{Code: aws.String(code), Value: aws.String(text)})
	}
	return data
}

// answeredAt is when the datapoints of noon are complete, and not too old for any query.
var answeredAt = noon.Add(time.Minute)

// answerOf reads the pages as the answer to a query that has a call to itself.
func answerOf(q *Query, pages ...[]types.MetricDataResult) sources.Result {
	a := &answer{series: make(map[string][]*series)}
	for _, page := range pages {
		a.add(&cloudwatch.GetMetricDataOutput{MetricDataResults: page})
	}
	c := packAt(answeredAt, q)[0]
	return c.results(a, c.ids())[0]
}

func TestSamples(t *testing.T) {
	minute := noon.Truncate(time.Minute)
	q := mustQuery(t,
		hidden(of("m1", "x", "Average", 60)), of("m2", "y", "Maximum", 60), math("e1", "m1+m2"), math("all", "METRICS()"))
	got := answerOf(q, []types.MetricDataResult{
		result("m1", "x", 2), result("m2", "y", -7.5, 3), result("e1", "both", 9.1e18), result("all", "x", 0.9), result("all", "y", 0),
	})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	want := []sources.Sample{
		{Labels: sources.NewLabels("id", "m2", "label", "y"), Value: -7.5, Time: minute, Window: time.Minute},
		{Labels: sources.NewLabels("id", "e1", "label", "both"), Value: 9.1e18, Time: minute, Window: time.Minute},
		{Labels: sources.NewLabels("id", "all", "label", "x"), Value: 0.9, Time: minute, Window: time.Minute},
		{Labels: sources.NewLabels("id", "all", "label", "y"), Value: 0, Time: minute, Window: time.Minute},
	}
	if len(got.Samples) != len(want) {
		t.Fatalf("got %d samples, want %d", len(got.Samples), len(want))
	}
	for i, s := range got.Samples {
		w := want[i]
		if s.Value != w.Value || !s.Time.Equal(w.Time) || s.Window != w.Window ||
			s.Labels.Get("id") != w.Labels.Get("id") || s.Labels.Get("label") != w.Labels.Get("label") {
			t.Errorf("sample %d is %+v, want %+v", i, s, w)
		}
	}
}

// TestPeriodsSideBySide: what one query of an object needs changes no other's answer.
func TestPeriodsSideBySide(t *testing.T) {
	at := func(id string, ages ...time.Duration) types.MetricDataResult {
		r := result(id, id, make([]float64, len(ages))...)
		for i, age := range ages {
			r.Timestamps[i] = answeredAt.Truncate(time.Minute).Add(-age)
			r.Values[i] = age.Minutes()
		}
		return r
	}
	q := mustQuery(t, of("now", "x", "Maximum", 60), of("sum", "x", "Sum", 60), of("hour", "y", "Sum", 3600))
	got := answerOf(q, []types.MetricDataResult{
		at("now", 0, time.Minute, time.Hour),
		at("sum", 0, time.Minute, 2*time.Minute, 3*time.Minute, time.Hour),
		at("hour", time.Minute, 61*time.Minute, 121*time.Minute),
	})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	for i, want := range []float64{0, 3, 121} {
		if v := got.Samples[i].Value; v != want {
			t.Errorf("%s is of %v minutes ago, want %v", got.Samples[i].Labels.Get("id"), v, want)
		}
	}

	// What is older than a query's own window is not its value either.
	got = answerOf(q, []types.MetricDataResult{
		at("now", 30*time.Minute), at("sum", 30*time.Minute), at("hour", 121*time.Minute),
	})
	if got.Err == nil || !strings.Contains(got.Err.Error(), "now (Maximum") || !strings.Contains(got.Err.Error(), "sum (Sum") {
		t.Errorf("got %+v, want an error about now and sum", got)
	}
}

func TestNewestDatapoint(t *testing.T) {
	q := mustQuery(t, of("m1", "x", "Average", 60))
	r := result("m1", "x", 1, 2, 3)
	r.Timestamps[0], r.Timestamps[2] = r.Timestamps[2], r.Timestamps[0]
	if got := answerOf(q, []types.MetricDataResult{r}); got.Err != nil || got.Samples[0].Value != 3 {
		t.Errorf("got %+v, want the value with the latest time, 3", got)
	}
}

func TestPages(t *testing.T) {
	one := mustQuery(t, of("m1", "x", "Average", 60))
	search := mustQuery(t, math("s1", "SEARCH('{x} y', 'Average', 60)"))
	for _, test := range []struct {
		name  string
		query *Query
		pages [][]types.MetricDataResult
		want  []float64
		err   string
	}{
		{
			"the newest is on the first page", one,
			[][]types.MetricDataResult{{with(result("m1", "x", 5), types.StatusCodePartialData)}, {result("m1", "x")}},
			[]float64{5},
			"",
		},
		{
			"the first page has none of it", one,
			[][]types.MetricDataResult{{with(result("m1", "x"), types.StatusCodePartialData)}, {result("m1", "x", 5)}},
			[]float64{5},
			"",
		},
		{
			"never complete", one,
			[][]types.MetricDataResult{{with(result("m1", "x", 5), types.StatusCodePartialData)}, {}},
			nil, "PartialData",
		},
		{
			"fails on the first page", one,
			[][]types.MetricDataResult{{with(result("m1", "x"), types.StatusCodeInternalError)}, {result("m1", "x", 5)}},
			nil, "InternalError",
		},
		{
			"is forbidden on the first page", one,
			[][]types.MetricDataResult{{with(result("m1", "x", 5), types.StatusCodeForbidden)}, {ago(1, result("m1", "x", 5))}},
			nil, "Forbidden",
		},
		{
			"fails on the second page", one,
			[][]types.MetricDataResult{{with(result("m1", "x", 5), types.StatusCodePartialData)}, {with(result("m1", "x"), types.StatusCodeInternalError)}},
			nil, "InternalError",
		},
		{
			"series go on", search,
			[][]types.MetricDataResult{{result("s1", "a", 1), result("s1", "b", 2)}, {result("s1", "a"), result("s1", "b")}},
			[]float64{1, 2},
			"",
		},
		{
			"series of one label", search,
			[][]types.MetricDataResult{{result("s1", "a", 1), result("s1", "a", 2)}, {result("s1", "a"), result("s1", "a")}},
			[]float64{1, 2},
			"",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := answerOf(test.query, test.pages...)
			if test.err != "" {
				if got.Err == nil || !strings.Contains(got.Err.Error(), test.err) || errors.Is(got.Err, sources.ErrNoData) {
					t.Errorf("the error is %v, want %q", got.Err, test.err)
				}
				return
			}
			if got.Err != nil || len(got.Samples) != len(test.want) {
				t.Fatalf("got %+v, want %v", got, test.want)
			}
			for i, s := range got.Samples {
				if s.Value != test.want[i] {
					t.Errorf("sample %d is %v, want %v", i, s.Value, test.want[i])
				}
			}
		})
	}
}

func TestNoValue(t *testing.T) {
	two := []MetricDataQuery{depth("m1", "orders"), depth("m2", "letters")}
	torn := result("m1", "x", 1, 2)
	torn.Values = torn.Values[:1]
	for _, test := range []struct {
		name    string
		queries []MetricDataQuery
		results []types.MetricDataResult
		noData  bool
		want    string
	}{
		{
			"no datapoint", two[:1],
			[]types.MetricDataResult{result("m1", "x")},
			true,
			"no data: no datapoint in the last 5m0s for m1 (Average of AWS/SQS ApproximateNumberOfMessagesVisible {QueueName=orders} every 1m0s)",
		},
		{"none of two", two, []types.MetricDataResult{result("m1", "x"), result("m2", "x")}, true, "QueueName=letters"},
		{
			"one of two", two,
			[]types.MetricDataResult{result("m1", "x", 3), result("m2", "x")},
			false,
			"no datapoint in the last 5m0s for m2 (Average of AWS/SQS ApproximateNumberOfMessagesVisible {QueueName=letters} every 1m0s), while other series of the metric have one",
		},
		{"a failure beside no data", two, []types.MetricDataResult{result("m1", "x"), with(result("m2", "x"), types.StatusCodeForbidden)}, false, "m2 (Average"},
		{"forbidden", two[:1], []types.MetricDataResult{with(result("m1", "x", 1), types.StatusCodeForbidden, "Access: denied")}, false, "Forbidden: CloudWatch does not let this identity read the data: Access: denied"},
		{"internal error", two[:1], []types.MetricDataResult{with(result("m1", "x", 1), types.StatusCodeInternalError)}, false, "InternalError"},
		{"partial data", two[:1], []types.MetricDataResult{with(result("m1", "x", 1), types.StatusCodePartialData)}, false, "PartialData"},
		{"unknown status", two[:1], []types.MetricDataResult{with(result("m1", "x", 1), "Tired")}, false, "Tired"},
		{"a message", two[:1], []types.MetricDataResult{with(result("m1", "x", 1), types.StatusCodeComplete, "Max: too many")}, false, "warns of the data: Max: too many"},
		{"torn", two[:1], []types.MetricDataResult{torn}, false, "unequal"},
		{"no result", two[:1], nil, false, "0 results for one metric"},
		{"two results", two[:1], []types.MetricDataResult{result("m1", "x", 1), result("m1", "y", 2)}, false, "2 results for one metric"},
		{"expression without a result", []MetricDataQuery{math("s1", "SEARCH('{x} y', 'Sum', 60)")}, nil, true, "s1 (SEARCH('{x} y', 'Sum', 60))"},
		{"search of nothing alive", []MetricDataQuery{math("s1", "SEARCH('{x} y', 'Sum', 60)")}, []types.MetricDataResult{result("s1", "a")}, true, "s1"},
		{
			"one series of a list",
			[]MetricDataQuery{hidden(two[0]), hidden(two[1]), math("all", "METRICS()")},
			[]types.MetricDataResult{result("m1", "a", 1), result("m2", "b"), result("all", "a", 1), result("all", "b")},
			false, "all (METRICS()), while other series",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := answerOf(mustQuery(t, test.queries...), test.results)
			if got.Err == nil || !strings.Contains(got.Err.Error(), test.want) {
				t.Fatalf("the error is %v, want %q in it", got.Err, test.want)
			}
			if len(got.Samples) != 0 {
				t.Errorf("there are samples beside the error: %+v", got.Samples)
			}
			if errors.Is(got.Err, sources.ErrNoData) != test.noData {
				t.Errorf("no data: %v, want %v", !test.noData, test.noData)
			}
		})
	}
}

func TestSearchLeavesOutWhatEnded(t *testing.T) {
	q := mustQuery(t, math("s1", "SEARCH('{x} y', 'Average', 60)"))
	got := answerOf(q, []types.MetricDataResult{result("s1", "alive", 4), result("s1", "ended")})
	if got.Err != nil || len(got.Samples) != 1 || got.Samples[0].Value != 4 {
		t.Errorf("got %+v, want the one series with a datapoint", got)
	}
}

// TestArithmetic: CloudWatch leaves out what is no number, and says so.
func TestArithmetic(t *testing.T) {
	const message = "ArithmeticError: dropped"
	ratio := mustQuery(t, hidden(depth("m1", "a")), hidden(depth("m2", "b")), math("e1", "m1/m2"))
	search := mustQuery(t, math("s1", "SUM(SEARCH('{x} a', 'Sum', 60)) / SUM(SEARCH('{x} b', 'Sum', 60))"))
	said := func(r types.MetricDataResult) types.MetricDataResult {
		return with(r, types.StatusCodeComplete, message)
	}
	last := packAt(answeredAt, search)[0].window.end.Add(-time.Minute)
	for _, test := range []struct {
		name    string
		query   *Query
		results []types.MetricDataResult
		want    float64
		fails   bool
	}{
		{"an older one was no number", ratio, []types.MetricDataResult{
			result("m1", "a", 8, 8), result("m2", "b", 2, 0), said(result("e1", "e1", 4)),
		}, 4, false},
		{"the newest was no number", ratio, []types.MetricDataResult{
			result("m1", "a", 8, 8), result("m2", "b", 0, 2), said(ago(1, result("e1", "e1", 4))),
		}, 0, true},
		{"none was a number", ratio, []types.MetricDataResult{
			result("m1", "a", 8), result("m2", "b", 0), said(result("e1", "e1")),
		}, 0, true},
		{"the newest that counts is a number", ratio, []types.MetricDataResult{
			result("m1", "a", 8, 8, 8), ago(1, result("m2", "b", 2, 0)), said(ago(1, result("e1", "e1", 4))),
		}, 4, false},
		{"a search with the newest", search, []types.MetricDataResult{said(at(last, result("s1", "s1", 4)))}, 4, false},
		{"a search without the newest", search, []types.MetricDataResult{said(at(last.Add(-time.Minute), result("s1", "s1", 4)))}, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := answerOf(test.query, test.results)
			if !test.fails {
				wantSample(t, got, test.want)
				return
			}
			if got.Err == nil || errors.Is(got.Err, sources.ErrNoData) || !strings.HasSuffix(got.Err.Error(), message) {
				t.Errorf("got %+v, want an error with AWS's words", got)
			}
		})
	}
}

func wantSample(t *testing.T, got sources.Result, want float64) {
	t.Helper()
	if got.Err != nil || len(got.Samples) != 1 || got.Samples[0].Value != want {
		t.Errorf("got %+v, want the value %v", got, want)
	}
}

// ago is the result, so many minutes older.
func ago(minutes int, r types.MetricDataResult) types.MetricDataResult {
	return at(noon.Truncate(time.Minute).Add(-time.Duration(minutes)*time.Minute), r)
}

// at is the result with its newest datapoint at that time.
func at(newest time.Time, r types.MetricDataResult) types.MetricDataResult {
	for i := range r.Timestamps {
		r.Timestamps[i] = newest.Add(-time.Duration(i) * time.Minute)
	}
	return r
}

// TestInputsThatArriveLate: what an expression makes of a part of its inputs, such as
// what FILL puts in place of one, is not served.
func TestInputsThatArriveLate(t *testing.T) {
	one, two := hidden(depth("m1", "a")), hidden(depth("m2", "b"))
	slow := hidden(of("m3", "slow", "Average", 300))
	fill := mustQuery(t, one, math("e1", "FILL(m1, 0)"))
	sum := mustQuery(t, one, two, math("e1", "SUM([m1, m2])"))
	nested := mustQuery(t, one, two, hidden(math("e0", "FILL(m2, 0)")), math("e1", "FILL(m1, 0) + e0"))
	all := mustQuery(t, one, two, math("e1", "SUM(METRICS('m'))"))
	mixed := mustQuery(t, one, slow, math("e1", "FILL(m1, 0) + FILL(m3, 0)"))
	five := noon.Truncate(5 * time.Minute)
	for _, test := range []struct {
		name    string
		query   *Query
		results []types.MetricDataResult
		want    float64
	}{
		{"fill", fill, []types.MetricDataResult{ago(2, result("m1", "a", 950, 900)), result("e1", "e1", 0, 0, 950, 900)}, 950},
		{"fill of what has no data", fill, []types.MetricDataResult{result("m1", "a"), result("e1", "e1", 7, 7)}, 7},
		{"sum", sum, []types.MetricDataResult{
			ago(1, result("m1", "a", 950, 950)), result("m2", "b", 50, 50, 50), result("e1", "e1", 50, 1000, 1000),
		}, 1000},
		{"sum without what has ended", sum, []types.MetricDataResult{
			result("m1", "a"), result("m2", "b", 50), result("e1", "e1", 50),
		}, 50},
		{"a gap before the newest", sum, []types.MetricDataResult{
			{Id: aws.String("m1"), StatusCode: types.StatusCodeComplete, Values: []float64{1, 1}, Timestamps: []time.Time{
				noon.Truncate(time.Minute), noon.Truncate(time.Minute).Add(-2 * time.Minute),
			}},
			ago(1, result("m2", "b", 2, 2)), result("e1", "e1", 1, 2, 3),
		}, 3},
		{"no time in common", sum, []types.MetricDataResult{
			result("m1", "a", 1), ago(2, result("m2", "b", 2)), result("e1", "e1", 1, 0, 2),
		}, 2},
		{"through another expression", nested, []types.MetricDataResult{
			result("m1", "a", 1, 1, 1), ago(2, result("m2", "b", 2)), result("e1", "e1", 1, 1, 3),
		}, 3},
		{"an expression that cannot be read", all, []types.MetricDataResult{
			result("m1", "a", 1, 1), ago(1, result("m2", "b", 2)), result("e1", "e1", 1, 3),
		}, 3},
		{"inputs of two periods", mixed, []types.MetricDataResult{
			result("m1", "a", 1, 1, 1, 1, 1, 1, 1), at(five.Add(-5*time.Minute), result("m3", "slow", 20)),
			{
				Id: aws.String("e1"), StatusCode: types.StatusCodeComplete, Values: []float64{1, 21},
				Timestamps: []time.Time{five, five.Add(-5 * time.Minute)},
			},
		}, 21},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantSample(t, answerOf(test.query, test.results), test.want)
		})
	}
}

func TestInputsThatFail(t *testing.T) {
	q := mustQuery(t, hidden(depth("m1", "a")), math("e1", "FILL(m1, 0)"))
	for _, test := range []struct {
		name   string
		inputs []types.MetricDataResult
		want   string
	}{
		{"forbidden", []types.MetricDataResult{with(result("m1", "a"), types.StatusCodeForbidden)}, "m1 (Average of AWS/SQS"},
		{"missing", nil, "0 results for one metric"},
		{"none that the expression has a value for", []types.MetricDataResult{ago(4, result("m1", "a", 1))}, "not all of the metrics have arrived"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := answerOf(q, append(test.inputs, result("e1", "e1", 0, 0)))
			if got.Err == nil || errors.Is(got.Err, sources.ErrNoData) || !strings.Contains(got.Err.Error(), test.want) {
				t.Errorf("got %+v, want an error with %q", got, test.want)
			}
		})
	}
}

// TestSeriesOfOneLabel: what may be two series is never taken for one, nor one for two.
func TestSeriesOfOneLabel(t *testing.T) {
	search := mustQuery(t, math("s1", "SEARCH('{x} y', 'Average', 60)"))
	list := mustQuery(t, hidden(depth("m1", "a")), hidden(depth("m2", "b")), math("s1", "METRICS()"))
	inputs := []types.MetricDataResult{result("m1", "m", 1), result("m2", "m", 1)}
	partial := func(r types.MetricDataResult) types.MetricDataResult { return with(r, types.StatusCodePartialData) }
	for _, test := range []struct {
		name  string
		query *Query
		pages [][]types.MetricDataResult
		want  []float64
		err   string
	}{
		{
			"the second is on the second page", search,
			[][]types.MetricDataResult{{result("s1", "depth", 400)}, {result("s1", "depth", 500)}},
			[]float64{400, 500},
			"",
		},
		{
			"the first goes on beside the second", search,
			[][]types.MetricDataResult{{partial(result("s1", "depth", 400))}, {ago(1, result("s1", "depth", 300)), result("s1", "depth", 500)}},
			[]float64{400, 500},
			"",
		},
		{
			"the second is newer than the end of the first", search,
			[][]types.MetricDataResult{{partial(result("s1", "depth", 400, 300))}, {ago(1, result("s1", "depth", 500))}, {ago(2, result("s1", "depth", 200))}},
			[]float64{400, 500},
			"",
		},
		{
			"older than one that was complete", search,
			[][]types.MetricDataResult{{result("s1", "depth", 400)}, {ago(1, result("s1", "depth", 500))}},
			nil, "several series of one label",
		},
		{
			"two that end at once", search,
			[][]types.MetricDataResult{
				{partial(result("s1", "depth", 400)), partial(result("s1", "depth", 500))},
				{ago(1, result("s1", "depth", 1)), ago(1, result("s1", "depth", 2))},
			},
			[]float64{400, 500},
			"",
		},
		{
			"without data, of a list", list,
			[][]types.MetricDataResult{append(inputs, result("s1", "m", 1)), {result("s1", "m")}},
			nil, "several series of one label",
		},
		{
			"without data, of a search", search,
			[][]types.MetricDataResult{{result("s1", "depth", 400)}, {result("s1", "depth")}},
			[]float64{400},
			"",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := answerOf(test.query, test.pages...)
			if test.err != "" {
				if got.Err == nil || errors.Is(got.Err, sources.ErrNoData) || !strings.Contains(got.Err.Error(), test.err) {
					t.Errorf("got %+v, want the error %q", got, test.err)
				}
				return
			}
			var values []float64
			for _, s := range got.Samples {
				values = append(values, s.Value)
			}
			if got.Err != nil || !slices.Equal(values, test.want) {
				t.Errorf("got %v and the error %v, want %v", values, got.Err, test.want)
			}
		})
	}
}

// TestLabels: they are the same whoever shares the call.
func TestLabels(t *testing.T) {
	a := mustQuery(t, of("m1", "tg0", "Average", 60), math("e1", "m1*2"), math("list", "METRICS()"))
	b := mustQuery(t, hidden(depth("m1", "a")), MetricDataQuery{ID: "e1", Expression: "ABS(m1)", Label: "of tidegaugeq4"})
	for name, c := range map[string]*call{"alone": packAt(answeredAt, a)[0], "shared": packAt(answeredAt, a, b)[0]} {
		t.Run(name, func(t *testing.T) {
			ids := c.ids()
			var out cloudwatch.GetMetricDataOutput
			for _, d := range c.input(ids).MetricDataQueries {
				label := aws.ToString(d.Label)
				if label == "" {
					label = *d.Id + " of " + ids[0][0] + " and tg1"
				}
				out.MetricDataResults = append(out.MetricDataResults, result(*d.Id, label, 1))
			}
			got := &answer{series: make(map[string][]*series)}
			got.add(&out)
			var labels []string
			for _, r := range c.results(got, ids) {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				for _, s := range r.Samples {
					labels = append(labels, s.Labels.Get("id")+"="+s.Labels.Get("label"))
				}
			}
			want := "m1=tg0, e1=e1, list=list of m1 and tg1"
			if name == "shared" {
				want += ", e1=of tidegaugeq4"
			}
			if got := strings.Join(labels, ", "); got != want {
				t.Errorf("the labels are %s, want %s", got, want)
			}
		})
	}
}

// FuzzPages: however an answer is cut into pages, it has the sum of the whole one, or
// is an error.
func FuzzPages(f *testing.F) {
	f.Add(uint64(1), uint8(3))
	f.Add(uint64(7), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, size uint8) {
		random := rand.New(rand.NewPCG(seed, 0))
		q := mustQuery(t, math("s1", "SEARCH('{x} y', 'Average', 60)"))
		var all []types.MetricDataResult
		for range 1 + random.IntN(5) {
			values := make([]float64, random.IntN(5))
			for i := range values {
				values[i] = float64(random.IntN(1000))
			}
			all = append(all, ago(random.IntN(3), result("s1", []string{"a", "b"}[random.IntN(2)], values...)))
		}
		want, got := answerOf(q, all), answerOf(q, cut(all, 1+int(size%8))...)
		if errors.Is(got.Err, sources.ErrNoData) != errors.Is(want.Err, sources.ErrNoData) {
			t.Fatalf("the error is %v, want %v", got.Err, want.Err)
		}
		if got.Err == nil && total(got.Samples) != total(want.Samples) {
			t.Errorf("the sum is %v, want %v", total(got.Samples), total(want.Samples))
		}
	})
}

// cut makes pages of that many datapoints. Results without any are on the first.
func cut(all []types.MetricDataResult, size int) [][]types.MetricDataResult {
	pages := [][]types.MetricDataResult{nil}
	room := size
	for _, r := range all {
		if len(r.Values) == 0 {
			pages[0] = append(pages[0], r)
		}
		for len(r.Values) > 0 {
			if room == 0 {
				pages, room = append(pages, nil), size
			}
			n := min(room, len(r.Values))
			piece := r
			piece.Values, piece.Timestamps = r.Values[:n], r.Timestamps[:n]
			r.Values, r.Timestamps = r.Values[n:], r.Timestamps[n:]
			if len(r.Values) > 0 {
				piece.StatusCode = types.StatusCodePartialData
			}
			pages[len(pages)-1] = append(pages[len(pages)-1], piece)
			room -= n
		}
	}
	return pages
}

func total(samples []sources.Sample) float64 {
	sum := 0.0
	for _, s := range samples {
		sum += s.Value
	}
	return sum
}

// TestInputLateBeyondItsOwnWindow: what an expression may wait for is within the
// expression's window, which may reach back further than the input's own.
func TestInputLateBeyondItsOwnWindow(t *testing.T) {
	q := mustQuery(t, hidden(of("a", "x", "Average", 60)), hidden(of("b", "y", "Sum", 60)), math("e", "FILL(a,0)+b"))
	own := q.data[2].extent.window(answeredAt, DefaultConfig().Settle)
	newest := own.end.Add(-time.Minute)
	got := answerOf(q, []types.MetricDataResult{
		at(own.start.Add(time.Minute), result("a", "a", 1000, 1000)),
		at(newest, result("b", "b", 5, 5, 5, 5, 5)),
		at(newest, result("e", "e", 5, 5, 5, 1005, 1005)),
	})
	wantSample(t, got, 1005)
}

// TestExpressionWithoutAllOfItsData: it is not no data as long as one of its metrics
// has some, or noData: zero would hide that.
func TestExpressionWithoutAllOfItsData(t *testing.T) {
	q := mustQuery(t, hidden(of("a", "x", "Average", 60)), hidden(of("b", "y", "Average", 60)), math("e", "a/b"))
	for name, b := range map[string]types.MetricDataResult{
		"one has none":      result("b", "b"),
		"no time in common": at(answeredAt.Add(-3*time.Minute), result("b", "b", 2)),
	} {
		t.Run(name, func(t *testing.T) {
			got := answerOf(q, []types.MetricDataResult{result("a", "a", 1000), b, result("e", "e")})
			if got.Err == nil || errors.Is(got.Err, sources.ErrNoData) || !strings.Contains(got.Err.Error(), errPart.Error()) {
				t.Errorf("got %+v, want the error %q", got, errPart)
			}
		})
	}
}

// TestPeriodsOffEachOthersGrid: CloudWatch counts periods from a call's start, so that
// of two periods one may be off its grid, and begin before the end of its window
// without being over by then. The sums are of 100 a minute.
func TestPeriodsOffEachOthersGrid(t *testing.T) {
	q := mustQuery(t, of("s", "x", "Sum", 240), of("g", "y", "Maximum", 300))
	for m := range 60 {
		now := time.Date(2026, 3, 4, 12, m, 0, 0, time.UTC)
		c := packAt(now, q)[0]
		a := &answer{series: make(map[string][]*series)}
		a.add(&cloudwatch.GetMetricDataOutput{MetricDataResults: []types.MetricDataResult{
			risen(c.window, now, "s", 4*time.Minute), risen(c.window, now, "g", 5*time.Minute),
		}})
		got := c.results(a, c.ids())[0]
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		if v := got.Samples[0].Value; v != 400 {
			t.Errorf("at 12:%02d the sum is %v, want 400", m, v)
		}
	}
}

// risen has a datapoint for each period from the window's start, of 100 for each
// minute of it that was asked for and has passed.
func risen(w window, now time.Time, id string, period time.Duration) types.MetricDataResult {
	r := types.MetricDataResult{Id: aws.String(id), Label: aws.String(id), StatusCode: types.StatusCodeComplete}
	for begun := w.start; begun.Before(w.end) && begun.Before(now); begun = begun.Add(period) {
		end := slices.MinFunc([]time.Time{begun.Add(period), now, w.end}, time.Time.Compare)
		r.Timestamps = append(r.Timestamps, begun)
		r.Values = append(r.Values, 100*end.Sub(begun).Minutes())
	}
	return r
}

// TestPeriodOfUnreadableSearch: a search that cannot be cut into tokens still has a
// period, which its window must fit.
func TestPeriodOfUnreadableSearch(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`SEARCH('{x} MetricName="a\"b"', 'Sum', 300)`:  5 * time.Minute,
		`SEARCH('{x} MetricName="a\"b"', 'Sum', 3600)`: time.Hour,
		`SEARCH('{x} MetricName="a\"77"', 'Sum', 60)`:  time.Minute,
	} {
		if got := mustQuery(t, math("s", text)).data[0].extent.period; got != want {
			t.Errorf("%s: a period of %v, want %v", text, got, want)
		}
	}
}

// TestLabelsOfACall: those of one query are not another one's, though equal ones are shared.
func TestLabelsOfACall(t *testing.T) {
	c := packAt(answeredAt,
		mustQuery(t, depth("a", "one")), mustQuery(t, depth("a", "two")), mustQuery(t, depth("b", "one")), mustQuery(t, math("a", "1+1")))[0]
	ids := c.ids()
	a := &answer{series: make(map[string][]*series)}
	a.add(&cloudwatch.GetMetricDataOutput{MetricDataResults: []types.MetricDataResult{
		result(ids[0][0], "x", 1), result(ids[1][0], "x", 2), result(ids[2][0], "x", 3), result(ids[3][0], ids[3][0], 4),
	}})
	results := c.results(a, ids)
	labels := make([]sources.Labels, len(results))
	for i, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		labels[i] = r.Samples[0].Labels
	}
	if got, want := fmt.Sprint(labels), "[{id=a,label=x} {id=a,label=x} {id=b,label=x} {id=a,label=a}]"; got != want {
		t.Errorf("the labels are %s, want %s", got, want)
	}
}
