package fakeaws

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// points writes a result's datapoints as "minute:value", counted from eleven o'clock.
func points(r types.MetricDataResult) string {
	var all []string
	for i, v := range r.Values {
		at := r.Timestamps[i].Sub(noon.Add(-time.Hour))
		all = append(all, fmt.Sprintf("%v:%v", at.Minutes(), v))
	}
	return strings.Join(all, " ")
}

// put stores values of a metric at minutes after eleven o'clock.
func put(s *Server, name string, values map[int]float64) {
	for minute, value := range values {
		s.PutMetric(Metric{
			Namespace: "test", Name: name, Value: Float(value),
			Time: noon.Add(-time.Hour + time.Duration(minute)*time.Minute),
		})
	}
}

func TestStatistics(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	_, err := client.PutMetricData(t.Context(), &cloudwatch.PutMetricDataInput{
		Namespace: aws.String("test"),
		MetricData: []types.MetricDatum{
			{MetricName: aws.String("latency"), Timestamp: aws.Time(noon.Add(-30 * time.Minute)), Values: []float64{1, 2, 3, 4}, Counts: []float64{2, 3, 4, 1}},
			{MetricName: aws.String("latency"), Timestamp: aws.Time(noon.Add(-29*time.Minute - time.Second)), Value: aws.Float64(10)},
			{MetricName: aws.String("set"), Timestamp: aws.Time(noon.Add(-30 * time.Minute)), StatisticValues: &types.StatisticSet{
				Sum: aws.Float64(30), SampleCount: aws.Float64(4), Minimum: aws.Float64(-1.5), Maximum: aws.Float64(20),
			}},
			{MetricName: aws.String("constant"), Timestamp: aws.Time(noon.Add(-30 * time.Minute)), StatisticValues: &types.StatisticSet{
				Sum: aws.Float64(8), SampleCount: aws.Float64(4), Minimum: aws.Float64(2), Maximum: aws.Float64(2),
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ metric, stat, want string }{
		{"latency", "Sum", "30:34"},
		{"latency", "SampleCount", "30:11"},
		{"latency", "Average", "30:3.090909090909091"},
		{"latency", "Minimum", "30:1"},
		{"latency", "Maximum", "30:10"},
		{"latency", "p0", "30:1"},
		{"latency", "p50", "30:3"},
		{"latency", "p90", "30:4"},
		{"latency", "p90.5", "30:4"},
		{"latency", "p99", "30:10"},
		{"latency", "p100", "30:10"},
		{"latency", "tc(1:3)", "30:7"},
		{"latency", "TS(1:3)", "30:18"},
		{"latency", "tm(:4)", "30:2.4"},
		{"latency", "PR(2:)", "30:54.54545454545455"},
		{"latency", "wm(1:3)", "30:2.5454545454545454"},
		{"latency", "ts100", "30:34"},
		{"latency", "tm(0%:100%)", "30:3.090909090909091"},
		{"latency", "wm100", "30:3.090909090909091"},
		{"latency", "tm(50:60)", ""},
		{"latency", "wm(50:60)", ""},
		{"set", "Sum", "30:30"},
		{"set", "Minimum", "30:-1.5"},
		{"set", "Average", "30:7.5"},
		{"set", "p50", ""},
		{"set", "tm90", ""},
		{"constant", "p50", "30:2"},
		{"constant", "IQM", "30:2"},
		{"unknown", "Sum", ""},
	}
	for _, test := range tests {
		t.Run(test.metric+" "+test.stat, func(t *testing.T) {
			out, err := client.GetMetricData(t.Context(), input(metric("m", test.metric, 60, test.stat)))
			if err != nil {
				t.Fatal(err)
			}
			if got := points(out.MetricDataResults[0]); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestExactValues(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	for i, v := range []float64{0.9, -7.5, 9.1e18, 0.001, 123456789.123, math.Copysign(0, -1), math.NaN(), math.Inf(1)} {
		name := fmt.Sprint("m", i)
		put(s, name, map[int]float64{5: v})
		out, err := client.GetMetricData(t.Context(), input(metric("m", name, 60, "Average")))
		if err != nil {
			t.Fatal(err)
		}
		if got := out.MetricDataResults[0].Values; !gocmp.Equal(got, []float64{v}, cmpopts.EquateNaNs()) {
			t.Errorf("got %v, want %v", got, v)
		}
	}
}

func TestPutMetricDataRefuses(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	datum := func(change func(*types.MetricDatum)) *cloudwatch.PutMetricDataInput {
		d := types.MetricDatum{MetricName: aws.String("m"), Value: aws.Float64(1)}
		change(&d)
		return &cloudwatch.PutMetricDataInput{Namespace: aws.String("test"), MetricData: []types.MetricDatum{d}}
	}
	valid := types.MetricDatum{MetricName: aws.String("m"), Value: aws.Float64(1)}
	dimensions := make([]types.Dimension, maxDimensions+1)
	for i := range dimensions {
		dimensions[i] = types.Dimension{Name: aws.String(fmt.Sprint("d", i)), Value: aws.String("v")}
	}
	tests := []struct {
		name        string
		in          *cloudwatch.PutMetricDataInput
		code, words string
	}{
		{"AWS namespace", &cloudwatch.PutMetricDataInput{Namespace: aws.String("AWS/SQS"), MetricData: []types.MetricDatum{valid}}, "InvalidParameterValue", "AWS/SQS"},
		{"no namespace", &cloudwatch.PutMetricDataInput{Namespace: aws.String(""), MetricData: []types.MetricDatum{valid}}, "MissingParameter", "Namespace"},
		{"no data", &cloudwatch.PutMetricDataInput{Namespace: aws.String("test")}, "MissingParameter", "MetricData"},
		{"too many", &cloudwatch.PutMetricDataInput{Namespace: aws.String("test"), MetricData: slices.Repeat([]types.MetricDatum{valid}, 1001)}, "InvalidParameterValue", "1000"},
		{"no name", datum(func(d *types.MetricDatum) { d.MetricName = aws.String("") }), "MissingParameter", "MetricData.member.1.MetricName"},
		{"NaN", datum(func(d *types.MetricDatum) { d.Value = aws.Float64(math.NaN()) }), "InvalidParameterValue", "NaN"},
		{"infinite", datum(func(d *types.MetricDatum) { d.Value = aws.Float64(math.Inf(1)) }), "InvalidParameterValue", "Inf"},
		{"too large", datum(func(d *types.MetricDatum) { d.Value = aws.Float64(math.Ldexp(1, 361)) }), "InvalidParameterValue", "Value"},
		{"no value", datum(func(d *types.MetricDatum) { d.Value = nil }), "MissingParameter", "Value"},
		{"two kinds", datum(func(d *types.MetricDatum) { d.Values = []float64{1} }), "InvalidParameterCombination", "mutually exclusive"},
		{"counts", datum(func(d *types.MetricDatum) { d.Value, d.Values, d.Counts = nil, []float64{1, 2}, []float64{1} }), "InvalidParameterValue", "Counts"},
		{"count 0", datum(func(d *types.MetricDatum) { d.Value, d.Values, d.Counts = nil, []float64{1}, []float64{0} }), "InvalidParameterValue", "Counts.member.1"},
		{"151 values", datum(func(d *types.MetricDatum) { d.Value, d.Values = nil, make([]float64, 151) }), "InvalidParameterValue", "150"},
		{"empty set", datum(func(d *types.MetricDatum) { d.Value, d.StatisticValues = nil, statisticSet(0, 1, 1, 1) }), "InvalidParameterValue", "SampleCount"},
		{"unit", datum(func(d *types.MetricDatum) { d.Unit = "Parsec" }), "InvalidParameterValue", "Unit"},
		{"resolution", datum(func(d *types.MetricDatum) { d.StorageResolution = aws.Int32(5) }), "InvalidParameterValue", "StorageResolution"},
		{"too old", datum(func(d *types.MetricDatum) { d.Timestamp = aws.Time(noon.AddDate(0, 0, -15)) }), "InvalidParameterValue", "two weeks"},
		{"too new", datum(func(d *types.MetricDatum) { d.Timestamp = aws.Time(noon.Add(3 * time.Hour)) }), "InvalidParameterValue", "two hours"},
		{"31 dimensions", datum(func(d *types.MetricDatum) { d.Dimensions = dimensions }), "InvalidParameterValue", "Dimensions"},
		{"same dimension", datum(func(d *types.MetricDatum) { d.Dimensions = slices.Repeat(dimensions[:1], 2) }), "InvalidParameterValue", "repeats"},
		{"empty dimension", datum(func(d *types.MetricDatum) {
			d.Dimensions = []types.Dimension{{Name: aws.String("d"), Value: aws.String(" ")}}
		}), "InvalidParameterValue", "Value"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := client.PutMetricData(t.Context(), test.in)
			wantCode(t, err, test.code, test.words)
		})
	}
	list, err := client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
	if err != nil || len(list.Metrics) > 0 {
		t.Errorf("metrics are %v, %v, want none", list, err)
	}
}

func statisticSet(count, sum, minimum, maximum float64) *types.StatisticSet {
	return &types.StatisticSet{SampleCount: &count, Sum: &sum, Minimum: &minimum, Maximum: &maximum}
}

func TestPutMetricDataCompressed(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	data := make([]types.MetricDatum, 1000) // The SDK compresses what is longer than 10 KiB.
	for i := range data {
		data[i] = types.MetricDatum{MetricName: aws.String("m"), Value: aws.Float64(1), Timestamp: aws.Time(noon.Add(-time.Minute))}
	}
	_, err := client.PutMetricData(t.Context(), &cloudwatch.PutMetricDataInput{Namespace: aws.String("test"), MetricData: data},
		func(o *cloudwatch.Options) { o.RequestMinCompressSizeBytes = 10240 })
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.GetMetricData(t.Context(), input(metric("m", "m", 60, "Sum")))
	if err != nil {
		t.Fatal(err)
	}
	if got := points(out.MetricDataResults[0]); got != "59:1000" {
		t.Errorf("got %s, want 59:1000", got)
	}
}

func TestPeriodsAndWindows(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	put(s, "coarse", map[int]float64{10: 1, 11: 2, 14: 4, 15: 8, 20: 16})
	for second, value := range map[int]float64{0: 1, 3: 2, 5: 4, 12: 8, 61: 16} {
		at := noon.Add(-time.Hour + 10*time.Minute + time.Duration(second)*time.Second)
		s.PutMetric(Metric{Namespace: "test", Name: "fine", Value: Float(value), Time: at, HighResolution: true})
	}
	s.PutMetric(Metric{Namespace: "test", Name: "old", Value: 1, Time: noon.Add(-4 * time.Hour), HighResolution: true})
	minutes := func(m float64) time.Duration { return time.Duration(m * float64(time.Minute)) }
	tests := []struct {
		name, metric string
		period       int32
		start, end   time.Duration // after eleven
		want         string
	}{
		{"start is inclusive, end is not", "coarse", 60, minutes(10), minutes(15), "10:1 11:2 14:4"},
		{"start is rounded down to the minute", "coarse", 60, minutes(10.9), minutes(12), "10:1 11:2"},
		{"period in progress", "coarse", 60, minutes(10), minutes(11) + time.Millisecond, "10:1 11:2"},
		{"five minutes", "coarse", 300, minutes(10), minutes(25), "10:7 15:8 20:16"},
		{"periods count from the start", "coarse", 300, minutes(11), minutes(21), "11:14 16:16"},
		{"data after the end is left out", "coarse", 300, minutes(10), minutes(11), "10:1"},
		{"regular data with a short period", "coarse", 5, minutes(10), minutes(12), "10:1 11:2"},
		{"fine data by the second", "fine", 1, minutes(10), minutes(10.1), "10:1 10.05:2 10.083333333333334:4"},
		{"fine data by five seconds", "fine", 5, minutes(10), minutes(11), "10:3 10.083333333333334:4 10.166666666666666:8"},
		{"both ends are rounded down", "fine", 5, minutes(10) + 4*time.Second, minutes(10) + 14*time.Second, "10:3 10.083333333333334:4"},
		{"fine data by the minute", "fine", 60, minutes(10), minutes(12), "10:15 11:16"},
		{"old fine data with a short period", "old", 1, minutes(-181), minutes(-179), ""},
		{"old fine data by the minute", "old", 60, minutes(-181), minutes(-179), "-180:1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := input(metric("m", test.metric, test.period, "Sum"))
			in.StartTime, in.EndTime = aws.Time(noon.Add(test.start-time.Hour)), aws.Time(noon.Add(test.end-time.Hour))
			out, err := client.GetMetricData(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if got := points(out.MetricDataResults[0]); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestWindowRounding(t *testing.T) {
	at := func(h, m, s int) time.Time { return time.Date(2026, 11, 22, h, m, s, 0, time.UTC) }
	tests := []struct {
		name       string
		start, end time.Time
		age        time.Duration
		period     int64
		want       window
	}{
		{"documented: 12:32:34", at(12, 32, 34), at(13, 0, 0), time.Hour, 60, window{start: at(12, 32, 0).Unix(), end: at(13, 0, 0).Unix()}},
		{"documented: two weeks", at(12, 32, 34), at(13, 0, 0), 16 * 24 * time.Hour, 300, window{start: at(12, 30, 0).Unix(), end: at(13, 0, 0).Unix()}},
		{"documented: nine weeks", at(12, 32, 34), at(13, 0, 0), 64 * 24 * time.Hour, 3600, window{start: at(12, 0, 0).Unix(), end: at(13, 0, 0).Unix()}},
		{"documented: 01:05:23, ten seconds", at(1, 5, 13), at(1, 5, 23), time.Hour, 10, window{start: at(1, 5, 10).Unix(), end: at(1, 5, 20).Unix()}},
		{"documented: 15:07:17, five seconds", at(15, 2, 17), at(15, 7, 17), time.Hour, 5, window{start: at(15, 2, 15).Unix(), end: at(15, 7, 15).Unix()}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := newWindow(test.start, test.end, test.start.Add(test.age), test.period)
			if got.start != test.want.start || got.end != test.want.end {
				t.Errorf("got %v to %v", time.Unix(got.start, 0).UTC(), time.Unix(got.end, 0).UTC())
			}
		})
	}
}

func TestUnits(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	for unit, value := range map[string]Float{"Seconds": 1, "Count": 2, "": 4} {
		s.PutMetric(Metric{Namespace: "test", Name: "m", Unit: unit, Value: value, Time: noon.Add(-time.Minute)})
	}
	for unit, want := range map[types.StandardUnit]string{"": "59:7", "Seconds": "59:1", "Count": "59:2", "None": "59:4", "Bytes": ""} {
		q := metric("m", "m", 60, "Sum")
		q.MetricStat.Unit = unit
		out, err := client.GetMetricData(t.Context(), input(q))
		if err != nil {
			t.Fatal(err)
		}
		if got := points(out.MetricDataResults[0]); got != want {
			t.Errorf("%q: got %s, want %s", unit, got, want)
		}
	}
}

func TestGetMetricDataRefuses(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	valid := metric("m", "m", 60, "Sum")
	with := func(change func(*types.MetricDataQuery)) *cloudwatch.GetMetricDataInput {
		q := metric("m", "m", 60, "Sum")
		change(&q)
		return input(q)
	}
	many := make([]types.MetricDataQuery, 501)
	for i := range many {
		many[i] = metric(fmt.Sprint("m", i), "m", 60, "Sum")
	}
	insights := mathQuery("i", `SELECT AVG(m) FROM "test"`)
	insights.Period = aws.Int32(60)
	insights2 := insights
	insights2.Id = aws.String("j")
	tests := []struct {
		name        string
		in          *cloudwatch.GetMetricDataInput
		code, words string
	}{
		{"501 queries", input(many...), "ValidationError", "must not have a size greater than 500"},
		{"no queries", &cloudwatch.GetMetricDataInput{StartTime: aws.Time(noon.Add(-1)), EndTime: &noon, MetricDataQueries: []types.MetricDataQuery{}}, "ValidationError", "MetricDataQueries"},
		{"empty window", &cloudwatch.GetMetricDataInput{StartTime: &noon, EndTime: &noon, MetricDataQueries: []types.MetricDataQuery{valid}}, "ValidationError", "StartTime"},
		{"same ID", input(valid, valid), "ValidationError", "not unique: m"},
		{"upper-case ID", with(func(q *types.MetricDataQuery) { q.Id = aws.String("M") }), "ValidationError", "MetricDataQueries.member.1.Id"},
		{"dash in ID", with(func(q *types.MetricDataQuery) { q.Id = aws.String("m-1") }), "ValidationError", "m-1"},
		{"long ID", with(func(q *types.MetricDataQuery) { q.Id = aws.String(strings.Repeat("m", 256)) }), "ValidationError", "pattern"},
		{"period 7", with(func(q *types.MetricDataQuery) { q.MetricStat.Period = aws.Int32(7) }), "ValidationError", "7"},
		{"period 90", with(func(q *types.MetricDataQuery) { q.MetricStat.Period = aws.Int32(90) }), "ValidationError", "90"},
		{"period 0", with(func(q *types.MetricDataQuery) { q.MetricStat.Period = aws.Int32(0) }), "ValidationError", "Period"},
		{"statistic", with(func(q *types.MetricDataQuery) { q.MetricStat.Stat = aws.String("Median") }), "ValidationError", "Median"},
		{"p101", with(func(q *types.MetricDataQuery) { q.MetricStat.Stat = aws.String("p101") }), "ValidationError", "p101"},
		{"tm(:)", with(func(q *types.MetricDataQuery) { q.MetricStat.Stat = aws.String("tm(:)") }), "ValidationError", "bound"},
		{"PR(1%:)", with(func(q *types.MetricDataQuery) { q.MetricStat.Stat = aws.String("PR(1%:)") }), "ValidationError", "percentages"},
		{"unit", with(func(q *types.MetricDataQuery) { q.MetricStat.Unit = "Parsec" }), "ValidationError", "Parsec"},
		{"both", with(func(q *types.MetricDataQuery) { q.Expression = aws.String("1") }), "ValidationError", "Exactly one"},
		{"neither", with(func(q *types.MetricDataQuery) { q.MetricStat = nil }), "ValidationError", "Exactly one"},
		{"nothing returned", with(func(q *types.MetricDataQuery) { q.ReturnData = aws.Bool(false) }), "ValidationError", "ReturnData"},
		{"31 dimensions", with(func(q *types.MetricDataQuery) {
			q.MetricStat.Metric.Dimensions = slices.Repeat([]types.Dimension{{Name: aws.String("d"), Value: aws.String("v")}}, 31)
		}), "ValidationError", "30"},
		{"unknown reference", input(valid, mathQuery("e", "m + other")), "ValidationError", `Error in expression 'e': unknown identifier "other"`},
		{"circle", input(mathQuery("e", "f"), mathQuery("f", "ABS(e)")), "ValidationError", "refers to itself"},
		{"syntax", input(valid, mathQuery("e", "m +")), "ValidationError", "Error in expression 'e'"},
		{"scalar", input(valid, mathQuery("e", "SUM(m)")), "ValidationError", "time series"},
		{"two Insights queries", input(insights, insights2), "ValidationError", "Only one Metrics Insights query"},
		{"Insights without a period", input(mathQuery("i", `SELECT AVG(m) FROM "test"`)), "ValidationError", "Period"},
		{"page size", func() *cloudwatch.GetMetricDataInput {
			in := input(valid)
			in.MaxDatapoints = aws.Int32(100_801)
			return in
		}(), "ValidationError", "MaxDatapoints"},
		{"order", func() *cloudwatch.GetMetricDataInput { in := input(valid); in.ScanBy = "Random"; return in }(), "ValidationError", "ScanBy"},
		{"token", func() *cloudwatch.GetMetricDataInput {
			in := input(valid)
			in.NextToken = aws.String("b3RoZXI=")
			return in
		}(), "InvalidNextToken", "invalid"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := client.GetMetricData(t.Context(), test.in)
			wantCode(t, err, test.code, test.words)
		})
	}
}

func TestBodyLimit(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	// CBOR of the rest is shorter than a kilobyte.
	withLabel := func(length int) *cloudwatch.GetMetricDataInput {
		q := metric("m", "m", 60, "Sum")
		q.Label = aws.String(strings.Repeat("x", length))
		return input(q)
	}
	if _, err := client.GetMetricData(t.Context(), withLabel(maxGetBody-1000)); err != nil {
		t.Error(err)
	}
	_, err := client.GetMetricData(t.Context(), withLabel(maxGetBody))
	wantCode(t, err, "RequestEntityTooLarge", "exceeded 614400 bytes")
	_, err = client.GetMetricData(t.Context(), withLabel(maxBody))
	wantCode(t, err, "RequestEntityTooLarge", "exceeded")
}

func TestPages(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	put(s, "a", map[int]float64{1: 1, 2: 2, 3: 3})
	put(s, "b", map[int]float64{1: 10, 2: 20})
	for _, order := range []types.ScanBy{types.ScanByTimestampAscending, types.ScanByTimestampDescending, ""} {
		in := input(metric("a", "a", 60, "Sum"), metric("none", "none", 60, "Sum"), metric("b", "b", 60, "Sum"))
		in.ScanBy, in.MaxDatapoints = order, aws.Int32(2)
		var got []string
		for pager := cloudwatch.NewGetMetricDataPaginator(client, in); pager.HasMorePages(); {
			out, err := pager.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var results []string
			for _, r := range out.MetricDataResults {
				results = append(results, fmt.Sprintf("%s %s [%s]", *r.Id, r.StatusCode, points(r)))
			}
			got = append(got, strings.Join(results, " "))
		}
		want := []string{
			"a PartialData [3:3 2:2] none Complete []",
			"a Complete [1:1] b PartialData [2:20]",
			"b Complete [1:10]",
		}
		if order == types.ScanByTimestampAscending {
			want = []string{
				"a PartialData [1:1 2:2] none Complete []",
				"a Complete [3:3] b PartialData [1:10]",
				"b Complete [2:20]",
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", order, diff)
		}
	}
}

func TestTokenIsForOneRequest(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	put(s, "a", map[int]float64{1: 1, 2: 2})
	in := input(metric("a", "a", 60, "Sum"))
	in.MaxDatapoints = aws.Int32(1)
	out, err := client.GetMetricData(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	other := input(metric("a", "a", 60, "Average"))
	other.NextToken = out.NextToken
	_, err = client.GetMetricData(t.Context(), other)
	wantCode(t, err, "InvalidNextToken", "")
}

func TestLabels(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	put(s, "a", map[int]float64{1: 1})
	put(s, "b", map[int]float64{1: 2})
	labelled := func(q types.MetricDataQuery, label string) types.MetricDataQuery { q.Label = &label; return q }
	queue := func(id, name string) types.MetricDataQuery {
		q := metric(id, "depth", 60, "Sum")
		q.MetricStat.Metric.Dimensions = []types.Dimension{{Name: aws.String("QueueName"), Value: &name}}
		return q
	}
	out, err := client.GetMetricData(t.Context(), input(
		metric("m1", "a", 60, "Sum"), labelled(metric("m2", "b", 60, "Sum"), "second"),
		mathQuery("sum", "m1+m2"), labelled(mathQuery("e2", "m1+m2"), "total"),
		mathQuery("e3", "METRICS('m')*1"), labelled(mathQuery("e4", "METRICS('m')*1"), "each"),
		queue("q1", "x"), queue("q2", "y"),
	))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range out.MetricDataResults {
		got = append(got, *r.Id+": "+*r.Label)
	}
	want := []string{"m1: a", "m2: second", "sum: sum", "e2: total", "e3: a", "e3: second", "e4: each a", "e4: each second", "q1: x depth", "q2: y depth"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInsights(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	for queue, value := range map[string]Float{"a": 1, "b": 5, "c": 3} {
		s.PutMetric(Metric{Namespace: "test", Name: "depth", Dimensions: map[string]string{"QueueName": queue}, Value: value, Time: noon.Add(-time.Minute)})
	}
	s.PutMetric(Metric{Namespace: "test", Name: "depth", Dimensions: map[string]string{"QueueName": "a", "Zone": "z"}, Value: 7, Time: noon.Add(-time.Minute)})
	tests := []struct {
		query, want string
		metrics     int
	}{
		{`SELECT SUM(depth) FROM "test"`, "depth 59:16", 4},
		{`SELECT MAX(depth) FROM SCHEMA("test", QueueName)`, "depth 59:5", 3},
		{`select avg(depth) from schema(test, QueueName) group by QueueName order by max() desc limit 2`, "b 59:5, c 59:3", 3},
		{`SELECT MIN(depth) FROM SCHEMA("test", QueueName) GROUP BY QueueName ORDER BY AVG() ASC`, "a 59:1, c 59:3, b 59:5", 3},
		{`SELECT COUNT(depth) FROM test WHERE QueueName = 'a' AND Zone != 'y'`, "depth 59:1", 1},
		{`SELECT AVG(depth) FROM test GROUP BY QueueName, Zone`, "a z 59:7", 1},
		{`SELECT AVG(other) FROM test`, "other ", 0},
	}
	for _, test := range tests {
		t.Run(test.query, func(t *testing.T) {
			s.ResetCounts()
			q := mathQuery("i", test.query)
			q.Period = aws.Int32(60)
			out, err := client.GetMetricData(t.Context(), input(q))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range out.MetricDataResults {
				got = append(got, *r.Label+" "+points(r))
			}
			if strings.Join(got, ", ") != test.want {
				t.Errorf("got %s, want %s", strings.Join(got, ", "), test.want)
			}
			if n := s.Counts().MetricsRequested; n != test.metrics {
				t.Errorf("%d metrics requested, want %d", n, test.metrics)
			}
		})
	}
	for query, words := range map[string]string{
		"SELECT depth FROM test":                                   "syntax error",
		"SELECT MEDIAN(depth) FROM test":                           "MEDIAN",
		"SELECT AVG(depth) FROM test WHERE QueueName > 'a'":        "condition",
		"SELECT AVG(depth) FROM test GROUP BY QueueName LIMIT 501": "LIMIT",
		"SELECT AVG(depth) FROM test ORDER BY MEDIAN()":            "MEDIAN",
	} {
		q := mathQuery("i", query)
		q.Period = aws.Int32(60)
		_, err := client.GetMetricData(t.Context(), input(q))
		wantCode(t, err, "ValidationError", words)
	}
}

func TestListMetrics(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	dimensions := map[string]string{"Queue": "a", "Zone": "z"}
	s.PutMetric(
		Metric{Namespace: "one", Name: "m", Dimensions: dimensions, Value: 1},
		Metric{Namespace: "one", Name: "n", Value: 1, Time: noon.Add(-5 * time.Hour)},
		Metric{Namespace: "two", Name: "m", Value: 1},
		Metric{Namespace: "two", Name: "elsewhere", Region: "eu-west-1", Value: 1},
		Metric{Namespace: "two", Name: "elsewhere", Account: "210987654321", Value: 1},
	)
	tests := []struct {
		name string
		in   cloudwatch.ListMetricsInput
		want []string
	}{
		{"all", cloudwatch.ListMetricsInput{}, []string{"one m", "one n", "two m"}},
		{"namespace", cloudwatch.ListMetricsInput{Namespace: aws.String("one")}, []string{"one m", "one n"}},
		{"name", cloudwatch.ListMetricsInput{MetricName: aws.String("m")}, []string{"one m", "two m"}},
		{"dimension", cloudwatch.ListMetricsInput{Dimensions: []types.DimensionFilter{{Name: aws.String("Zone")}}}, []string{"one m"}},
		{"value", cloudwatch.ListMetricsInput{Dimensions: []types.DimensionFilter{{Name: aws.String("Zone"), Value: aws.String("y")}}}, nil},
		{"recent", cloudwatch.ListMetricsInput{RecentlyActive: types.RecentlyActivePt3h}, []string{"one m", "two m"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out, err := client.ListMetrics(t.Context(), &test.in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range out.Metrics {
				got = append(got, *m.Namespace+" "+*m.MetricName)
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	_, err := client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{RecentlyActive: "PT1H"})
	wantCode(t, err, "ValidationError", "PT3H")
	_, err = client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{NextToken: aws.String("!")})
	wantCode(t, err, "InvalidNextToken", "")
}

func TestListMetricsPages(t *testing.T) {
	s := startAtNoon(t)
	for i := range 501 {
		s.PutMetric(Metric{Namespace: "test", Name: fmt.Sprint("m", i), Value: 1})
	}
	seen := map[string]bool{}
	var sizes []int
	pager := cloudwatch.NewListMetricsPaginator(cloudWatchClient(s), &cloudwatch.ListMetricsInput{})
	for pager.HasMorePages() {
		out, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range out.Metrics {
			seen[*m.MetricName] = true
		}
		sizes = append(sizes, len(out.Metrics))
	}
	if !slices.Equal(sizes, []int{500, 1}) || len(seen) != 501 {
		t.Errorf("pages of %v with %d metrics, want 500 and 1 with 501", sizes, len(seen))
	}
}

func TestStoreForgets(t *testing.T) {
	s := newStore()
	where := scope{"a", "r"}
	for _, age := range []time.Duration{0, 5 * time.Hour, 7 * time.Hour, 8 * time.Hour} {
		for _, name := range []string{"m", "n"} {
			if name == "n" && age < retention {
				continue
			}
			d := newDatum("test", name, nil, newBucket(noon.Add(-age), regular, ""))
			d.bucket.data.add(1, 1)
			s.put(where, d)
		}
	}
	s.expire(noon)
	got := slices.Collect(maps.Keys(s.scopes[where]))
	if len(got) != 1 || got[0].name != "m" || len(s.scopes[where][got[0]].buckets) != 2 {
		t.Errorf("store has %v", s.scopes[where])
	}
	if !slices.IsSortedFunc(s.scopes[where][got[0]].buckets, func(a, b bucket) int { return cmp.Compare(a.at, b.at) }) {
		t.Error("buckets are not in order")
	}
}
