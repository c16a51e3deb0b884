package cloudwatch

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// depth is the usual query of a queue's depth.
func depth(id, queue string) MetricDataQuery {
	return MetricDataQuery{ID: id, MetricStat: &MetricStat{
		Metric: Metric{
			Namespace: "AWS/SQS", MetricName: "ApproximateNumberOfMessagesVisible",
			Dimensions: []Dimension{{"QueueName", queue}},
		},
		Period: 60, Stat: "Average",
	}}
}

// of is a query of a metric by its name alone.
func of(id, metric, stat string, period int32) MetricDataQuery {
	return MetricDataQuery{ID: id, MetricStat: &MetricStat{
		Metric: Metric{Namespace: "Test", MetricName: metric}, Period: period, Stat: stat,
	}}
}

// math is a query of an expression.
func math(id, expression string) MetricDataQuery {
	return MetricDataQuery{ID: id, Expression: expression}
}

// hidden is the query with returnData false.
func hidden(d MetricDataQuery) MetricDataQuery {
	d.ReturnData = new(false)
	return d
}

func mustQuery(tb testing.TB, queries ...MetricDataQuery) *Query {
	tb.Helper()
	return mustSpec(tb, Spec{Queries: queries})
}

func mustSpec(tb testing.TB, spec Spec) *Query {
	tb.Helper()
	q, err := NewQuery(spec)
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

func TestNewQueryRefuses(t *testing.T) {
	changed := func(change func(*MetricDataQuery)) Spec {
		d := depth("m1", "orders")
		change(&d)
		return Spec{Queries: []MetricDataQuery{d}}
	}
	many := make([]MetricDataQuery, maxQueries+1)
	for i := range many {
		many[i] = depth(fmt.Sprint("m", i), "orders")
	}
	large := make([]MetricDataQuery, 400)
	for i := range large {
		large[i] = math(fmt.Sprint("e", i), strings.Repeat("1", 2000))
	}
	for _, test := range []struct {
		name string
		spec Spec
		want string
	}{
		{"no queries", Spec{}, "queries: there are none"},
		{"too many queries", Spec{Queries: many}, "queries: 501 are more than the 500"},
		{"nothing returned", Spec{Queries: []MetricDataQuery{hidden(depth("m1", "orders"))}}, "returnData is false for every one"},
		{"id twice", Spec{Queries: []MetricDataQuery{depth("m1", "a"), depth("m1", "b")}}, `queries[1].id: "m1" is used twice`},
		{"upper-case id", changed(func(d *MetricDataQuery) { d.ID = "M1" }), `queries[0].id: "M1" must start with a lower-case letter`},
		{"both", changed(func(d *MetricDataQuery) { d.Expression = "m2" }), "queries[0].expression: cannot be beside metricStat"},
		{"neither", changed(func(d *MetricDataQuery) { d.MetricStat = nil }), "queries[0].metricStat: this or an expression is required"},
		{"period 0", changed(func(d *MetricDataQuery) { d.MetricStat.Period = 0 }), "queries[0].metricStat.period: 0 is not 1, 5, 10, 20, 30"},
		{"period 90", changed(func(d *MetricDataQuery) { d.MetricStat.Period = 90 }), "queries[0].metricStat.period: 90 is not"},
		{"period of an expression", Spec{Queries: []MetricDataQuery{{ID: "e1", Expression: "SELECT 1", Period: 7}}}, "queries[0].period: 7 is not"},
		{"no stat", changed(func(d *MetricDataQuery) { d.MetricStat.Stat = "" }), "queries[0].metricStat.stat: is required"},
		{"no namespace", changed(func(d *MetricDataQuery) { d.MetricStat.Metric.Namespace = "" }), "queries[0].metricStat.metric.namespace: is required"},
		{"no metric name", changed(func(d *MetricDataQuery) { d.MetricStat.Metric.MetricName = "" }), "queries[0].metricStat.metric.metricName: is required"},
		{"dimension without a value", changed(func(d *MetricDataQuery) {
			d.MetricStat.Metric.Dimensions = []Dimension{{Name: "QueueName"}}
		}), "queries[0].metricStat.metric.dimensions: name and value are required"},
		{"dimension twice", changed(func(d *MetricDataQuery) {
			d.MetricStat.Metric.Dimensions = []Dimension{{"a", "1"}, {"b", "2"}, {"a", "3"}}
		}), `queries[0].metricStat.metric.dimensions: "a" is named twice`},
		{"31 dimensions", changed(func(d *MetricDataQuery) {
			d.MetricStat.Metric.Dimensions = nil
			for i := range 31 {
				d.MetricStat.Metric.Dimensions = append(d.MetricStat.Metric.Dimensions, Dimension{fmt.Sprint("d", i), "v"})
			}
		}), "queries[0].metricStat.metric.dimensions: 31 are more than the 30"},
		{"region that is a host", Spec{Region: "x.example.org/", Queries: []MetricDataQuery{depth("m1", "q")}}, `region: "x.example.org/" is not`},
		{"role that is none", Spec{RoleARN: "reader", Queries: []MetricDataQuery{depth("m1", "q")}}, `roleArn: "reader" is not the ARN`},
		{"two Insights queries", Spec{Queries: []MetricDataQuery{
			{ID: "a", Expression: "SELECT MAX(x) FROM y", Period: 60}, {ID: "b", Expression: "\tselect MAX(x) FROM y", Period: 60},
		}}, "only one Metrics Insights query"},
		{"long expression", Spec{Queries: []MetricDataQuery{math("e1", strings.Repeat("1+", 1024)+"1")}}, "queries[0].expression: 2049 characters are more than the 2048"},
		{"too large", Spec{Queries: large}, "queries: too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewQuery(test.spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestNewQueryNamesEveryFault(t *testing.T) {
	_, err := NewQuery(Spec{Region: "?", Queries: []MetricDataQuery{{ID: "1"}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"region:", "queries[0].id:", "queries[0].metricStat:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestKey(t *testing.T) {
	base := func() Spec {
		return Spec{Region: "eu-west-1", Queries: []MetricDataQuery{{ID: "m1", MetricStat: &MetricStat{
			Metric: Metric{Namespace: "n", MetricName: "m", Dimensions: []Dimension{{"a", "1"}, {"b", "2"}}},
			Period: 60, Stat: "Sum",
		}}}}
	}
	for _, test := range []struct {
		name   string
		change func(*Spec)
		same   bool
	}{
		{"nothing", func(*Spec) {}, true},
		{"order of dimensions", func(s *Spec) { s.Queries[0].MetricStat.Metric.Dimensions = []Dimension{{"b", "2"}, {"a", "1"}} }, true},
		{"returnData said", func(s *Spec) { s.Queries[0].ReturnData = new(true) }, true},
		{"region", func(s *Spec) { s.Region = "eu-west-2" }, false},
		{"role", func(s *Spec) { s.RoleARN = "arn:aws:iam::123456789012:role/r" }, false},
		{"id", func(s *Spec) { s.Queries[0].ID = "m2" }, false},
		{"label", func(s *Spec) { s.Queries[0].Label = "x" }, false},
		{"dimension", func(s *Spec) { s.Queries[0].MetricStat.Metric.Dimensions[0].Value = "2" }, false},
		{"period", func(s *Spec) { s.Queries[0].MetricStat.Period = 300 }, false},
		{"stat", func(s *Spec) { s.Queries[0].MetricStat.Stat = "Average" }, false},
		{"unit", func(s *Spec) { s.Queries[0].MetricStat.Unit = "Count" }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := base()
			test.change(&spec)
			if got := mustSpec(t, spec).Key() == mustSpec(t, base()).Key(); got != test.same {
				t.Errorf("equal keys: %v, want %v", got, test.same)
			}
		})
	}
}

func TestNewQueryKeepsItsOwnCopy(t *testing.T) {
	spec := Spec{Queries: []MetricDataQuery{depth("m1", "orders")}}
	q := mustSpec(t, spec)
	spec.Queries[0].MetricStat.Metric.Dimensions[0].Value = "other"
	spec.Queries[0].MetricStat.Stat = "Sum"
	if got := q.describe(0); !strings.Contains(got, "Average") || !strings.Contains(got, "orders") {
		t.Errorf("a change of the spec reached the query: %s", got)
	}
}

func TestWindow(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 7, 43, 5, time.UTC)
	for _, test := range []struct {
		name       string
		queries    []MetricDataQuery
		start, end string
	}{
		{"gauge", []MetricDataQuery{of("m1", "x", "Average", 60)}, "12:02:00", "12:08:00"},
		{"percentile", []MetricDataQuery{of("m1", "x", "p99.9", 60)}, "12:02:00", "12:08:00"},
		{"sum", []MetricDataQuery{of("m1", "x", "Sum", 60)}, "12:02:00", "12:07:00"},
		{"count", []MetricDataQuery{of("m1", "x", "SampleCount", 60)}, "12:02:00", "12:07:00"},
		{"trimmed sum", []MetricDataQuery{of("m1", "x", "TS(10%:90%)", 60)}, "12:02:00", "12:07:00"},
		{"trimmed count", []MetricDataQuery{of("m1", "x", "tc99", 60)}, "12:02:00", "12:07:00"},
		{"five minutes", []MetricDataQuery{of("m1", "x", "Maximum", 300)}, "11:50:00", "12:10:00"},
		{"sum of five minutes", []MetricDataQuery{of("m1", "x", "Sum", 300)}, "11:50:00", "12:05:00"},
		{"an hour", []MetricDataQuery{of("m1", "x", "Minimum", 3600)}, "09:00:00", "13:00:00"},
		{"ten seconds", []MetricDataQuery{of("m1", "x", "Average", 10)}, "12:02:40", "12:07:50"},
		{"one second", []MetricDataQuery{of("m1", "x", "Average", 1)}, "12:02:43", "12:07:44"},
		{"two periods", []MetricDataQuery{of("m1", "x", "Average", 60), of("m2", "x", "Average", 300)}, "11:50:00", "12:10:00"},
		{"sum in an expression", []MetricDataQuery{hidden(of("m1", "x", "Sum", 60)), math("e1", "m1/2")}, "12:02:00", "12:07:00"},
		{"gauges in an expression", []MetricDataQuery{hidden(of("m1", "x", "Average", 60)), math("e1", "m1*2")}, "12:02:00", "12:08:00"},
		{"function", []MetricDataQuery{hidden(of("m1", "x", "Average", 60)), math("e1", "FILL(m1, 0)")}, "12:02:00", "12:07:00"},
		{"search", []MetricDataQuery{math("e1", "SEARCH('{AWS/EC2} x', 'Average', 300)")}, "11:50:00", "12:05:00"},
		{"insights", []MetricDataQuery{{ID: "e1", Expression: "SELECT MAX(x) FROM y", Period: 600}}, "11:30:00", "12:00:00"},
		{"no period at all", []MetricDataQuery{math("e1", "TIME_SERIES(1)")}, "12:02:00", "12:07:00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := mustQuery(t, test.queries...).window(now)
			if start, end := got.start.Format(time.TimeOnly), got.end.Format(time.TimeOnly); start != test.start || end != test.end {
				t.Errorf("asks for %s to %s, want %s to %s", start, end, test.start, test.end)
			}
		})
	}
}

// TestWindowOfOddPeriods: a period need not be a part of an hour or a day.
func TestWindowOfOddPeriods(t *testing.T) {
	q := mustQuery(t, of("m1", "x", "Sum", 420))
	now := time.Date(2026, 3, 4, 12, 7, 43, 0, time.UTC)
	w := q.window(now)
	if w.start.Unix()%420 != 0 || w.end.Unix()%420 != 0 {
		t.Errorf("%v to %v is not on the grid of 7 minutes", w.start, w.end)
	}
	if w.end.After(now) || now.Sub(w.end) >= 7*time.Minute || w.end.Sub(w.start) != 21*time.Minute {
		t.Errorf("%v to %v is not the last 3 complete periods", w.start, w.end)
	}
}
