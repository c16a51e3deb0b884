package cloudwatch

import (
	"errors"
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

// answerOf reads the pages as the answer to a query that has a call to itself.
func answerOf(q *Query, pages ...[]types.MetricDataResult) sources.Result {
	a := &answer{series: make(map[string][]*series)}
	for _, page := range pages {
		a.add(&cloudwatch.GetMetricDataOutput{MetricDataResults: page})
	}
	c := pack([]*Query{q}, noon)[0]
	return c.results(a, c.ids())[0]
}

func TestSamples(t *testing.T) {
	minute := noon.Truncate(time.Minute)
	q := mustQuery(t,
		hidden(of("m1", "x", "Average", 60)), of("m2", "y", "Sum", 300), math("e1", "m1+m2"), math("all", "METRICS()"))
	got := answerOf(q, []types.MetricDataResult{
		result("m2", "y", -7.5, 3), result("e1", "both", 9.1e18), result("all", "x", 0.9), result("all", "y", 0),
	})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	want := []sources.Sample{
		{Labels: map[string]string{"id": "m2", "label": "y"}, Value: -7.5, Time: minute, Window: 5 * time.Minute},
		{Labels: map[string]string{"id": "e1", "label": "both"}, Value: 9.1e18, Time: minute, Window: 5 * time.Minute},
		{Labels: map[string]string{"id": "all", "label": "x"}, Value: 0.9, Time: minute, Window: 5 * time.Minute},
		{Labels: map[string]string{"id": "all", "label": "y"}, Value: 0, Time: minute, Window: 5 * time.Minute},
	}
	if len(got.Samples) != len(want) {
		t.Fatalf("got %d samples, want %d", len(got.Samples), len(want))
	}
	for i, s := range got.Samples {
		w := want[i]
		if s.Value != w.Value || !s.Time.Equal(w.Time) || s.Window != w.Window ||
			s.Labels["id"] != w.Labels["id"] || s.Labels["label"] != w.Labels["label"] {
			t.Errorf("sample %d is %+v, want %+v", i, s, w)
		}
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
			[]types.MetricDataResult{result("all", "a", 1), result("all", "b")},
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

func TestArithmeticMessageIsNoError(t *testing.T) {
	q := mustQuery(t, hidden(depth("m1", "a")), math("e1", "100/m1"))
	got := answerOf(q, []types.MetricDataResult{with(result("e1", "e1", 4), types.StatusCodeComplete, "ArithmeticError: dropped")})
	if got.Err != nil || got.Samples[0].Value != 4 {
		t.Errorf("got %+v, want 4", got)
	}
}

func TestLabelsHaveTheObjectsOwnIDs(t *testing.T) {
	a := mustQuery(t, hidden(depth("m1", "a")), math("e1", "m1*2"), math("list", "METRICS()"))
	b := mustQuery(t, hidden(depth("m1", "a")), MetricDataQuery{ID: "e1", Expression: "ABS(m1)", Label: "of tg4"})
	c := pack([]*Query{a, b}, noon)[0]
	got := &answer{series: make(map[string][]*series)}
	got.add(&cloudwatch.GetMetricDataOutput{MetricDataResults: []types.MetricDataResult{
		result("tg1", "tg1", 1), result("tg2", "tg2 tg0 tg4 tg01x", 2), result("tg4", "of tg4", 3),
	}})
	results := c.results(got, c.ids())
	var labels []string
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, s := range r.Samples {
			labels = append(labels, s.Labels["id"]+"="+s.Labels["label"])
		}
	}
	if got, want := strings.Join(labels, ", "), "e1=e1, list=list m1 tg4 tg01x, e1=of tg4"; got != want {
		t.Errorf("the labels are %s, want %s", got, want)
	}
}
