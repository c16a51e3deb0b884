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
	if got := q.data[0].describe(); !strings.Contains(got, "Average") || !strings.Contains(got, "orders") {
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
		{"sum", []MetricDataQuery{of("m1", "x", "Sum", 60)}, "12:00:00", "12:05:00"},
		{"count", []MetricDataQuery{of("m1", "x", "SampleCount", 60)}, "12:00:00", "12:05:00"},
		{"trimmed sum", []MetricDataQuery{of("m1", "x", "TS(10%:90%)", 60)}, "12:00:00", "12:05:00"},
		{"trimmed count", []MetricDataQuery{of("m1", "x", "tc99", 60)}, "12:00:00", "12:05:00"},
		{"five minutes", []MetricDataQuery{of("m1", "x", "Maximum", 300)}, "11:50:00", "12:10:00"},
		{"sum of five minutes", []MetricDataQuery{of("m1", "x", "Sum", 300)}, "11:50:00", "12:05:00"},
		{"sum of four minutes", []MetricDataQuery{of("m1", "x", "Sum", 240)}, "11:52:00", "12:04:00"},
		{"sum of two minutes", []MetricDataQuery{of("m1", "x", "Sum", 120)}, "11:58:00", "12:04:00"},
		{"sum of ten seconds", []MetricDataQuery{of("m1", "x", "Sum", 10)}, "12:02:30", "12:07:30"},
		{"an hour", []MetricDataQuery{of("m1", "x", "Minimum", 3600)}, "09:00:00", "13:00:00"},
		{"ten seconds", []MetricDataQuery{of("m1", "x", "Average", 10)}, "12:02:40", "12:07:50"},
		{"one second", []MetricDataQuery{of("m1", "x", "Average", 1)}, "12:02:43", "12:07:44"},
		{"two periods", []MetricDataQuery{of("m1", "x", "Average", 60), of("m2", "x", "Average", 300)}, "11:50:00", "12:10:00"},
		{"sum in an expression", []MetricDataQuery{hidden(of("m1", "x", "Sum", 60)), math("e1", "m1/2")}, "12:00:00", "12:05:00"},
		{"gauges in an expression", []MetricDataQuery{hidden(of("m1", "x", "Average", 60)), math("e1", "m1*2")}, "12:02:00", "12:08:00"},
		{"function", []MetricDataQuery{hidden(of("m1", "x", "Average", 60)), math("e1", "FILL(m1, 0)")}, "12:02:00", "12:08:00"},
		{"an hour's sum beside a minute", []MetricDataQuery{of("m1", "x", "Average", 60), of("h", "x", "Sum", 3600)}, "09:00:00", "12:08:00"},
		{"an hour's sum that nothing reads", []MetricDataQuery{of("m1", "x", "Average", 60), hidden(of("h", "x", "Sum", 3600))}, "12:02:00", "12:08:00"},
		{"search", []MetricDataQuery{math("e1", "SEARCH('{AWS/EC2} x', 'Average', 300)")}, "11:50:00", "12:05:00"},
		{"insights", []MetricDataQuery{{ID: "e1", Expression: "SELECT MAX(x) FROM y", Period: 600}}, "11:30:00", "12:00:00"},
		{"no period at all", []MetricDataQuery{math("e1", "TIME_SERIES(1)")}, "12:02:00", "12:07:00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := mustQuery(t, test.queries...).window(now, 2*time.Minute)
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
	w := q.window(now, 2*time.Minute)
	if w.start.Unix()%420 != 0 || w.end.Unix()%420 != 0 {
		t.Errorf("%v to %v is not on the grid of 7 minutes", w.start, w.end)
	}
	settled := now.Add(-2 * time.Minute)
	if w.end.After(settled) || settled.Sub(w.end) >= 7*time.Minute || w.end.Sub(w.start) != 21*time.Minute {
		t.Errorf("%v to %v is not the last 3 settled periods", w.start, w.end)
	}
}

// TestSettle: of data that is late, the period that has just ended has only a part.
func TestSettle(t *testing.T) {
	q := mustQuery(t, of("m1", "x", "Sum", 300))
	for after := range 300 {
		now := time.Date(2026, 3, 4, 12, 5, after, 0, time.UTC)
		want := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
		if after >= 120 {
			want = want.Add(5 * time.Minute)
		}
		if got := q.window(now, 2*time.Minute).end; !got.Equal(want) {
			t.Fatalf("at %v the window ends at %v, want %v", now, got, want)
		}
	}
}

func TestRelations(t *testing.T) {
	q := mustQuery(t,
		hidden(of("m0", "a", "Average", 60)), hidden(of("m1", "b", "Average", 60)), hidden(of("m2", "c", "Average", 60)),
		math("sum", "m0+m1"), hidden(math("twice", "sum*2")), math("nested", "twice+m1"), math("filled", "FILL(m0, 0)"),
		math("list", "[m0]"), math("circle", "m0+circle"), math("all", "METRICS()"), math("constant", "5"), math("other", "x+1"),
	)
	var inputs [][]int
	for _, d := range q.data[3:] {
		inputs = append(inputs, d.formula.inputs)
	}
	if got, want := fmt.Sprint(inputs), "[[0 1] [] [0 1] [0] [0] [0] [0 1 2] [] [0 1 2]]"; got != want {
		t.Errorf("the inputs are %s, want %s", got, want)
	}
	if got, want := idsWith(q, func(d datum) bool { return d.plain }), "m0 m1 m2 sum twice nested circle constant"; got != want {
		t.Errorf("plain are %s, want %s", got, want)
	}
	if got, want := idsWith(q, isAsked), "m0 m1 m2 sum nested filled list circle all constant other"; got != want {
		t.Errorf("asked are %s, want %s", got, want)
	}
	unread := mustQuery(t, hidden(of("m0", "a", "Average", 60)), of("m1", "b", "Average", 60), math("e", "m1*2"))
	if got, want := idsWith(unread, isAsked), "m1 e"; got != want {
		t.Errorf("of an object with a metric that nobody needs are asked %s, want %s", got, want)
	}
}

func isAsked(d datum) bool { return d.asked }

// idsWith are the ids of the queries that something is true of.
func idsWith(q *Query, is func(datum) bool) string {
	var ids []string
	for _, d := range q.data {
		if is(d) {
			ids = append(ids, d.ID)
		}
	}
	return strings.Join(ids, " ")
}

func TestLabelsThatDependOnOthers(t *testing.T) {
	for label, alone := range map[string]bool{"": false, "x": false, "${PROP('Region')}": false, "${LABEL}": true, "${LABEL|1}": true} {
		d := depth("m1", "a")
		d.Label = label
		if got := mustQuery(t, d).alone; got != alone {
			t.Errorf("a query with the label %q is alone: %v", label, got)
		}
	}
	if !mustQuery(t, of("m1", "${LAST}", "Average", 60)).alone {
		t.Error("a query whose metric's name cannot be its label is not alone")
	}
}

func TestQueryNamesItself(t *testing.T) {
	hidden := false
	q, err := NewQuery(Spec{Region: "eu-west-1", RoleARN: "arn:aws:iam::123456789012:role/reader", Queries: []MetricDataQuery{
		{ID: "rate", Expression: "sent / 60"},
		{ID: "sent", ReturnData: &hidden, MetricStat: &MetricStat{
			Metric: Metric{Namespace: "AWS/SQS", MetricName: "NumberOfMessagesSent"}, Period: 60, Stat: "Sum",
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := q.String(), "rate (sent / 60) in eu-west-1 as arn:aws:iam::123456789012:role/reader"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
