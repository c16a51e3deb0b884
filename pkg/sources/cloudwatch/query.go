package cloudwatch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Spec is what a Query asks: some metrics and expressions over them, of one
// region, as one identity.
type Spec struct {
	// Region is the AWS region to ask; if empty, the source's own.
	Region string `json:"region,omitempty"`
	// RoleARN is the IAM role to assume; if empty, the source's own identity asks.
	RoleARN string `json:"roleArn,omitempty"`
	// Queries are asked together. Each of them that is returned gives one sample,
	// or one for each series if it is an expression that makes several.
	Queries []MetricDataQuery `json:"queries"`
}

// MetricDataQuery is a metric, or an expression over the other queries of its
// Spec. Its fields are those of GetMetricData
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDataQuery.html).
type MetricDataQuery struct {
	// ID names the query in expressions and in its samples' label "id".
	ID string `json:"id"`
	// Expression is metric math or a Metrics Insights query. A query has either
	// an Expression or a MetricStat.
	Expression string      `json:"expression,omitempty"`
	MetricStat *MetricStat `json:"metricStat,omitempty"`
	// Label is the samples' label "label"; if empty, CloudWatch makes one up.
	Label string `json:"label,omitempty"`
	// Period is the length of an expression's datapoints in seconds, for an
	// expression that has no metric with a period to take it from; 0 if unset.
	Period int32 `json:"period,omitempty"`
	// ReturnData is false for a query that only serves expressions; nil is true.
	ReturnData *bool `json:"returnData,omitempty"`
}

// MetricStat is a statistic of a metric.
type MetricStat struct {
	Metric Metric `json:"metric"`
	// Period is the length of a datapoint in seconds.
	Period int32 `json:"period"`
	// Stat is the statistic, such as Average, Sum or p99.
	Stat string `json:"stat"`
	// Unit, if not empty, leaves out datapoints of other units.
	Unit string `json:"unit,omitempty"`
}

// Metric names a metric by its namespace, its name and all of its dimensions.
type Metric struct {
	Namespace  string      `json:"namespace"`
	MetricName string      `json:"metricName"`
	Dimensions []Dimension `json:"dimensions,omitempty"`
}

// Dimension is a name and a value that tell apart metrics of one name.
type Dimension struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Query is a Spec that can be asked. It implements sources.Query.
type Query struct {
	spec Spec
	key  string
	// expressions are the parsed ones of spec.Queries, by the same index.
	expressions []expression
	// extents are the times that may be read of each of spec.Queries.
	extents []extent
	// alone says that the query must have a call to itself.
	alone bool
	// inputs are, for each returned expression, the metrics that it is made of,
	// directly or through other expressions.
	inputs [][]int
	// plain says which of the queries have one series for certain.
	plain []bool
	// asked says of which queries CloudWatch is to return the data: the returned
	// ones and their inputs, which show how far the data has arrived.
	asked []bool
	// load is what the query takes of a call's limits.
	load load
}

// Key is equal for queries that ask the same. The order of dimensions does not
// matter to it; the order of the queries does, as it orders what METRICS() sees.
func (q *Query) Key() string { return q.key }

// Backend names the region and the role. The quotas of GetMetricData are those of an
// account in a region
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html).
func (q *Query) Backend() string { return q.spec.Region + " " + q.spec.RoleARN }

// NewQuery makes the query that asks the spec. Its error names every field that
// is not as GetMetricData requires, as far as that can be told without asking.
func NewQuery(spec Spec) (*Query, error) {
	spec = canonical(spec)
	if err := validate(spec); err != nil {
		return nil, err
	}
	q := &Query{spec: spec, expressions: make([]expression, len(spec.Queries))}
	key, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode the query's key: %w", err)
	}
	sum := sha256.Sum256(key)
	q.key = hex.EncodeToString(sum[:])

	q.parse()
	q.load = q.measure()
	switch {
	case q.load.insights > 1:
		return nil, errors.New("queries: only one Metrics Insights query (SELECT …) can be asked in a call")
	case q.load.bytes > maxBytes:
		return nil, fmt.Errorf("queries: too large for a call of %d bytes", maxBytes)
	}
	return q, nil
}

// parse reads the expressions, and what the window and the packing need to know.
func (q *Query) parse() {
	ids := make(map[string]int, len(q.spec.Queries))
	for i, d := range q.spec.Queries {
		ids[d.ID] = i
	}
	metrics := q.metrics()
	for i, d := range q.spec.Queries {
		if d.MetricStat != nil {
			q.alone = q.alone || d.labelledByOthers()
			continue
		}
		e := parseExpression(d.Expression, ids)
		q.alone = q.alone || d.labelledByOthers() || e.alone || e.allMetrics && metrics == 0 || e.size(metrics) > maxExpression
		q.expressions[i] = e
	}
	q.relate()
}

// relate finds out which queries each expression is made of.
func (q *Query) relate() {
	n := len(q.spec.Queries)
	q.inputs, q.plain, q.asked, q.extents = make([][]int, n), make([]bool, n), make([]bool, n), make([]extent, n)
	for i, d := range q.spec.Queries {
		reached := make([]bool, n)
		q.reach(i, reached)
		q.plain[i] = true
		q.extents[i] = q.extentOf(reached)
		var inputs []int
		for j, is := range reached {
			switch e := q.expressions[j]; {
			case !is:
			case q.spec.Queries[j].MetricStat != nil:
				inputs = append(inputs, j)
			default:
				q.plain[i] = q.plain[i] && !e.calls && !e.lists && !e.alone
			}
		}
		if !q.returned(i) {
			continue
		}
		q.asked[i] = true
		if d.MetricStat != nil {
			continue
		}
		q.inputs[i] = inputs
		for _, j := range inputs {
			q.asked[j] = true
		}
	}
}

// reach marks the query with that index and what it refers to, in the end. An
// expression that cannot be read may refer to any metric.
func (q *Query) reach(i int, reached []bool) {
	if reached[i] {
		return
	}
	reached[i] = true
	e := q.expressions[i]
	for _, p := range e.parts {
		if p.kind == partReference {
			q.reach(p.query, reached)
		}
	}
	if e.alone || e.allMetrics {
		for j, d := range q.spec.Queries {
			reached[j] = reached[j] || d.MetricStat != nil
		}
	}
}

// extentOf is the extent of what is made of the queries that were reached.
func (q *Query) extentOf(reached []bool) extent {
	var period int32
	var s extent
	for j, is := range reached {
		d, e := q.spec.Queries[j], q.expressions[j]
		switch {
		case !is:
		case d.MetricStat != nil:
			period = max(period, d.MetricStat.Period)
			s.settles = s.settles || accumulates(d.MetricStat.Stat)
		default:
			period = max(period, d.Period, e.period)
			s.complete = s.complete || e.calls
			s.settles = s.settles || e.finds
		}
	}
	if period == 0 {
		period = 60
	}
	s.period = time.Duration(period) * time.Second
	s.complete = s.complete || s.settles
	return s
}

// labelledByOthers says that the label, as CloudWatch makes it up, depends on the
// metrics that share the call
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/graph-dynamic-labels.html).
func (d MetricDataQuery) labelledByOthers() bool {
	if d.Label == "" && d.MetricStat != nil {
		return strings.Contains(d.MetricStat.Metric.MetricName, "${")
	}
	return strings.Contains(d.Label, "${LABEL")
}

// accumulates says that a statistic grows while its period lasts, so that its
// value for a period in progress is too small: the sums and the counts, plain and
// trimmed (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html).
func accumulates(stat string) bool {
	stat = strings.ToLower(stat)
	return stat == "sum" || stat == "samplecount" || strings.HasPrefix(stat, "ts") || strings.HasPrefix(stat, "tc")
}

// metrics is how many metrics the query requests, which is what AWS bills.
func (q *Query) metrics() int {
	n := 0
	for _, d := range q.spec.Queries {
		if d.MetricStat != nil {
			n++
		}
	}
	return n
}

// returned says that the query with that index has samples.
func (q *Query) returned(i int) bool {
	r := q.spec.Queries[i].ReturnData
	return r == nil || *r
}

// describe names what the query with that index asks, for errors.
func (q *Query) describe(i int) string {
	d := q.spec.Queries[i]
	if d.MetricStat == nil {
		return fmt.Sprintf("%s (%s)", d.ID, sources.Shorten(d.Expression, 200))
	}
	m := d.MetricStat.Metric
	dimensions := make([]string, len(m.Dimensions))
	for i, d := range m.Dimensions {
		dimensions[i] = d.Name + "=" + d.Value
	}
	return fmt.Sprintf("%s (%s of %s %s {%s} every %v)",
		d.ID, d.MetricStat.Stat, m.Namespace, m.MetricName, strings.Join(dimensions, ", "), q.extents[i].period)
}

// String names what the query asks, for the log.
func (q *Query) String() string {
	var returned []string
	for i := range q.spec.Queries {
		if q.returned(i) {
			returned = append(returned, q.describe(i))
		}
	}
	text := strings.Join(returned, ", ")
	if q.spec.Region != "" {
		text += " in " + q.spec.Region
	}
	if q.spec.RoleARN != "" {
		text += " as " + q.spec.RoleARN
	}
	return text
}

// canonical is a copy of the spec in which what means the same is the same.
func canonical(spec Spec) Spec {
	spec.Queries = slices.Clone(spec.Queries)
	for i := range spec.Queries {
		d := &spec.Queries[i]
		d.ReturnData = new(d.ReturnData == nil || *d.ReturnData)
		if d.MetricStat == nil {
			continue
		}
		stat := *d.MetricStat
		stat.Metric.Dimensions = slices.SortedFunc(slices.Values(stat.Metric.Dimensions), func(a, b Dimension) int {
			return strings.Compare(a.Name, b.Name)
		})
		d.MetricStat = &stat
	}
	return spec
}

var (
	validID     = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]{0,254}$`)
	validRegion = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)
	validRole   = regexp.MustCompile(`^arn:aws[a-z-]*:iam::\d{12}:role/[\x21-\x7e]+$`)
)

// checkRegion keeps a region from being anything but one label of a host name,
// because it becomes part of the endpoint that signed requests go to.
func checkRegion(region string) error {
	if len(region) > 63 || !validRegion.MatchString(region) {
		return fmt.Errorf("%q is not the name of an AWS region", region)
	}
	return nil
}

func validate(spec Spec) error {
	var errs []error
	if spec.Region != "" {
		if err := checkRegion(spec.Region); err != nil {
			errs = append(errs, fmt.Errorf("region: %w", err))
		}
	}
	if spec.RoleARN != "" && !validRole.MatchString(spec.RoleARN) {
		errs = append(errs, fmt.Errorf("roleArn: %q is not the ARN of an IAM role", spec.RoleARN))
	}
	switch n := len(spec.Queries); {
	case n == 0:
		errs = append(errs, errors.New("queries: there are none"))
	case n > maxQueries:
		errs = append(errs, fmt.Errorf("queries: %d are more than the %d that a call can hold", n, maxQueries))
	case !slices.ContainsFunc(spec.Queries, func(d MetricDataQuery) bool { return *d.ReturnData }):
		errs = append(errs, errors.New("queries: returnData is false for every one, so there is nothing to read"))
	}
	seen := make(map[string]bool, len(spec.Queries))
	for i, d := range spec.Queries {
		if seen[d.ID] {
			errs = append(errs, fmt.Errorf("queries[%d].id: %q is used twice", i, d.ID))
		}
		seen[d.ID] = true
		for _, err := range d.check() {
			errs = append(errs, fmt.Errorf("queries[%d].%w", i, err))
		}
	}
	return errors.Join(errs...)
}

func (d MetricDataQuery) check() []error {
	var errs []error
	if !validID.MatchString(d.ID) {
		errs = append(errs, fmt.Errorf("id: %q must start with a lower-case letter and have only letters, digits and _", d.ID))
	}
	if d.Period != 0 && !validPeriod(d.Period) {
		errs = append(errs, periodError("period", d.Period))
	}
	expression := strings.TrimSpace(d.Expression) != ""
	if n := utf8.RuneCountInString(d.Expression); n > maxExpression {
		errs = append(errs, fmt.Errorf("expression: %d characters are more than the %d that one can have", n, maxExpression))
	}
	switch {
	case expression && d.MetricStat != nil:
		errs = append(errs, errors.New("expression: cannot be beside metricStat"))
	case !expression && d.MetricStat == nil:
		errs = append(errs, errors.New("metricStat: this or an expression is required"))
	}
	if d.MetricStat != nil {
		errs = append(errs, d.MetricStat.check()...)
	}
	return errs
}

func (m *MetricStat) check() []error {
	var errs []error
	if m.Metric.Namespace == "" {
		errs = append(errs, errors.New("metricStat.metric.namespace: is required"))
	}
	if m.Metric.MetricName == "" {
		errs = append(errs, errors.New("metricStat.metric.metricName: is required"))
	}
	if n := len(m.Metric.Dimensions); n > maxDimensions {
		errs = append(errs, fmt.Errorf("metricStat.metric.dimensions: %d are more than the %d that a metric can have", n, maxDimensions))
	}
	for i, d := range m.Metric.Dimensions {
		switch {
		case d.Name == "" || d.Value == "":
			errs = append(errs, errors.New("metricStat.metric.dimensions: name and value are required"))
		case i > 0 && m.Metric.Dimensions[i-1].Name == d.Name:
			errs = append(errs, fmt.Errorf("metricStat.metric.dimensions: %q is named twice", d.Name))
		}
	}
	if !validPeriod(m.Period) {
		errs = append(errs, periodError("metricStat.period", m.Period))
	}
	if m.Stat == "" {
		errs = append(errs, errors.New("metricStat.stat: is required"))
	}
	return errs
}

// validPeriod is the rule of
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricStat.html.
func validPeriod(seconds int32) bool {
	return seconds > 0 && seconds%60 == 0 || slices.Contains([]int32{1, 5, 10, 20, 30}, seconds)
}

func periodError(field string, seconds int32) error {
	return fmt.Errorf("%s: %d is not 1, 5, 10, 20, 30 or a multiple of 60 seconds", field, seconds)
}

var _ sources.Query = (*Query)(nil)
