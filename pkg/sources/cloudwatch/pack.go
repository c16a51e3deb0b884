package cloudwatch

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// Limits of one GetMetricData call
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html,
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html).
const (
	maxQueries    = 500
	maxDatapoints = 100_800
	maxInsights   = 1
	// maxBytes is the limit of 614,400 bytes less what a body has beside its
	// queries, of which the token of a next page is the most.
	maxBytes = 614_400 - 16_384
	// maxDimensions is how many a metric can have.
	maxDimensions = 30
	// maxExpression is how many characters an expression can have.
	maxExpression = 2048
)

// minLookback is how far back a value is looked for at least. Services publish
// their metrics up to some minutes late.
const minLookback = 5 * time.Minute

// window is the time that a call asks for: start is in it, end is not.
type window struct {
	start, end time.Time
}

// maxFineSettle is the longest that is waited for data of periods below a minute.
const maxFineSettle = 10 * time.Second

// extent is what may be read of one query of an object, whatever its others may be: a
// metric of an hour beside one of a minute must not make the latter an hour old.
type extent struct {
	// period is what a datapoint covers.
	period time.Duration
	// complete says that the period in progress must not be read: a sum of it is too
	// small, and a function has a value without its data. Of other statistics it is
	// the freshest value there is, and all there will be of a metric that is
	// published once in a period.
	complete bool
	// settles says that late data changes what is read, and that nothing in the
	// answer shows whether it arrived.
	settles bool
}

// settle is how long ago the data must have been complete, where settle is
// Config.Settle.
func (e extent) settle(settle time.Duration) time.Duration {
	switch {
	case !e.settles:
		return 0
	case e.period < time.Minute:
		return min(settle, maxFineSettle)
	default:
		return settle
	}
}

// window is the time to read, where settle is Config.Settle. It is on the grid of the
// period, which CloudWatch answers fastest, and which lets queries share calls.
func (e extent) window(now time.Time, settle time.Duration) window {
	begun := floor(now.Add(-e.settle(settle)), e.period)
	w := window{start: begun.Add(-e.lookback()), end: begun}
	if !e.complete {
		w.end = begun.Add(e.period)
	}
	return w
}

// lookback is a multiple of the period: every period under two minutes is a
// part of five minutes, and of a longer one there are three.
func (e extent) lookback() time.Duration { return max(minLookback, 3*e.period) }

func floor(t time.Time, period time.Duration) time.Time {
	seconds := int64(period / time.Second)
	return time.Unix(t.Unix()/seconds*seconds, 0).UTC()
}

func (w window) holds(t time.Time) bool { return !t.Before(w.start) && t.Before(w.end) }

// window is the time to ask the query for: that of all its parts that are asked, from
// a start that is on the grids of all of their periods if one is a multiple of the
// others. What is not of a part's own window is left out of the answer.
func (q *Query) window(now time.Time, settle time.Duration) window {
	var w window
	var longest time.Duration
	for _, d := range q.data {
		if !d.asked {
			continue
		}
		own := d.extent.window(now, settle)
		if longest == 0 || own.start.Before(w.start) {
			w.start = own.start
		}
		if own.end.After(w.end) {
			w.end = own.end
		}
		longest = max(longest, d.extent.period)
	}
	w.start = floor(w.start, longest)
	return w
}

// load is how much of a call's limits is taken.
type load struct {
	queries, bytes, datapoints, insights int
}

func (l load) plus(m load) load {
	return load{l.queries + m.queries, l.bytes + m.bytes, l.datapoints + m.datapoints, l.insights + m.insights}
}

func (l load) fits() bool {
	return l.queries <= maxQueries && l.bytes <= maxBytes && l.datapoints <= maxDatapoints && l.insights <= maxInsights
}

// Upper bounds of what a value takes in the body of a call, encoded as CBOR.
const (
	// queryBytes are a query's brackets, names of fields, period and flag.
	queryBytes = 160
	// dimensionBytes are a dimension's brackets and names of fields.
	dimensionBytes = 16
	// stringBytes is the length that stands before a string.
	stringBytes = 5
	// idBytes is the longest id that a shared call gives to a query.
	idBytes = len(idPrefix) + 3
)

// load is that of the query in a shared call or in one of its own, whichever is more.
func (q *Query) load() load {
	l := load{queries: len(q.data)}
	for _, d := range q.data {
		l.bytes += queryBytes + stringSize(d.ID) + idBytes + stringSize(d.Label)
		m := d.MetricStat
		if m == nil {
			// Its id may be written a second time, as the label.
			l.bytes += stringSize(d.ID) + stringBytes + max(len(d.Expression), d.formula.size(q.metrics()))
			if d.formula.insights {
				l.insights++
			}
			if d.returned() {
				l.datapoints += d.maxSeries() * q.maxPoints(d)
			}
			continue
		}
		l.datapoints += q.maxPoints(d)
		// The metric's name may be written a second time, as the label.
		l.bytes += stringSize(m.Metric.Namespace) + 2*stringSize(m.Metric.MetricName) + stringSize(m.Stat) + stringSize(m.Unit)
		for _, d := range m.Metric.Dimensions {
			l.bytes += dimensionBytes + stringSize(d.Name) + stringSize(d.Value)
		}
	}
	return l
}

// maxPoints is how many datapoints a series of one of the queries has at most.
func (q *Query) maxPoints(of datum) int {
	var longest time.Duration
	for _, d := range q.data {
		longest = max(longest, d.extent.lookback()+d.extent.period)
	}
	return int(longest / of.extent.period)
}

// maxSeries is how many series the expression has at most, without those that searches
// find.
func (d datum) maxSeries() int {
	if d.plain {
		return 1
	}
	return max(1, len(d.formula.inputs))
}

func stringSize(s string) int { return stringBytes + len(s) }

// call is one GetMetricData call: some queries of one region and role, whole.
type call struct {
	window window
	// now and settle are what the window was made with; settle is Config.Settle.
	now     time.Time
	settle  time.Duration
	queries []*Query
	load    load
}

// pack puts queries of one region and role into as few calls as it can: each goes
// into the first call of its window that has room for it. settle is Config.Settle.
func pack(queries []*Query, now time.Time, settle time.Duration) []*call {
	var calls []*call
	open := make(map[window][]*call)
	for _, q := range queries {
		w := q.window(now, settle)
		if !q.alone {
			load := q.load()
			fitting := slices.IndexFunc(open[w], func(c *call) bool { return c.load.plus(load).fits() })
			if fitting >= 0 {
				open[w][fitting].add(q)
				continue
			}
		}
		c := &call{window: w, now: now, settle: settle}
		c.add(q)
		calls = append(calls, c)
		if !q.alone {
			open[w] = append(open[w], c)
		}
	}
	return calls
}

func (c *call) add(q *Query) {
	c.queries = append(c.queries, q)
	c.load = c.load.plus(q.load())
}

// part is a call for some of the queries of c, of the same window.
func (c *call) part(queries []*Query) *call {
	p := &call{window: c.window, now: c.now, settle: c.settle}
	for _, q := range queries {
		p.add(q)
	}
	return p
}

// split are n calls that together ask what c asks; fewer, if it has fewer queries.
func (c *call) split(n int) []*call {
	var parts []*call
	rest := c.queries
	for ; n > 0 && len(rest) > 0; n-- {
		size := (len(rest) + n - 1) / n
		parts = append(parts, c.part(rest[:size]))
		rest = rest[size:]
	}
	return parts
}

// metrics is how many metrics the call requests.
func (c *call) metrics() int {
	n := 0
	for _, q := range c.queries {
		n += q.metrics()
	}
	return n
}

// idPrefix starts the ids of a shared call. Nobody else's ids and labels have it.
const idPrefix = "tidegaugeq"

var callID = regexp.MustCompile(`\b` + idPrefix + `\d+\b`)

// ids are the ids of the queries in this call, by the index of the sources.Query
// and of the query in it. One that has the call to itself keeps its own, so that
// AWS's words about them can be understood; in a shared call all of them are new.
func (c *call) ids() [][]string {
	ids := make([][]string, len(c.queries))
	n := 0
	for i, q := range c.queries {
		ids[i] = make([]string, len(q.data))
		for j, d := range q.data {
			if ids[i][j] = d.ID; len(c.queries) > 1 {
				ids[i][j] = idPrefix + strconv.Itoa(n)
			}
			n++
		}
	}
	return ids
}

// input is the call's request, its queries under the given ids.
func (c *call) input(ids [][]string) *cloudwatch.GetMetricDataInput {
	in := &cloudwatch.GetMetricDataInput{
		StartTime:         aws.Time(c.window.start),
		EndTime:           aws.Time(c.window.end),
		ScanBy:            types.ScanByTimestampDescending,
		MetricDataQueries: make([]types.MetricDataQuery, 0, c.load.queries),
	}
	for i, q := range c.queries {
		for j, d := range q.data {
			out := d.input()
			out.Id = aws.String(ids[i][j])
			if out.Expression != nil && len(c.queries) > 1 {
				out.Expression = aws.String(d.formula.write(ids[i], q.metricIDs(ids[i])))
			}
			in.MetricDataQueries = append(in.MetricDataQueries, out)
		}
	}
	return in
}

// input is the query as AWS takes it.
func (d datum) input() types.MetricDataQuery {
	out := types.MetricDataQuery{Id: aws.String(d.ID), ReturnData: aws.Bool(d.asked)}
	switch {
	case d.Label != "":
		out.Label = aws.String(d.Label)
	case d.MetricStat == nil && d.plain:
		// It is what CloudWatch would say, if the id were this one in shared calls.
		// Several series would have it in front of labels of their own.
		out.Label = aws.String(d.ID)
	}
	if d.Period != 0 {
		out.Period = aws.Int32(d.Period)
	}
	if d.MetricStat == nil {
		out.Expression = aws.String(d.Expression)
		return out
	}
	m := d.MetricStat
	out.MetricStat = &types.MetricStat{
		Metric: &types.Metric{Namespace: aws.String(m.Metric.Namespace), MetricName: aws.String(m.Metric.MetricName)},
		Period: aws.Int32(m.Period),
		Stat:   aws.String(m.Stat),
		Unit:   types.StandardUnit(m.Unit),
	}
	for _, d := range m.Metric.Dimensions {
		out.MetricStat.Metric.Dimensions = append(out.MetricStat.Metric.Dimensions, types.Dimension{
			Name: aws.String(d.Name), Value: aws.String(d.Value),
		})
	}
	// The label that CloudWatch makes up tells apart the metrics of a call, and
	// must not depend on who shares it. "${" would start a dynamic label.
	if out.Label == nil && !strings.Contains(m.Metric.MetricName, "${") {
		out.Label = aws.String(m.Metric.MetricName)
	}
	return out
}

// metricIDs are the ids, out of all of the query's, that METRICS() stands for.
func (q *Query) metricIDs(ids []string) []string {
	var metrics []string
	for i, d := range q.data {
		if d.MetricStat != nil {
			metrics = append(metrics, ids[i])
		}
	}
	return metrics
}
