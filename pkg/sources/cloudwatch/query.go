package cloudwatch

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unique"

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

// Query is a Spec that can be asked. It implements sources.Query. There are thousands of
// them, so that it holds what it is made of once, and shares what repeats.
type Query struct {
	region, role string
	// data are the queries of the Spec.
	data []datum
	key  string
	// alone says that the query must have a call to itself.
	alone bool
}

// datum is one of the queries of a Spec, in its one form, with what is known of it.
type datum struct {
	MetricDataQuery

	// formula is nil for a metric.
	formula *formula
	// extent is the time that may be read of it.
	extent extent
	// plain says that it has one series for certain.
	plain bool
	// asked says that CloudWatch is to return the data: of what is returned and of its
	// inputs, which show how far the data has arrived.
	asked bool
}

// formula is what is known of an expression.
type formula struct {
	expression

	// inputs are the metrics that a returned expression is made of, directly or through
	// other expressions.
	inputs []int
}

// Key is equal for queries that ask the same. The order of dimensions does not
// matter to it; the order of the queries does, as it orders what METRICS() sees.
func (q *Query) Key() string { return q.key }

// Backend names the region and the role. The quotas of GetMetricData are those of an
// account in a region
// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html).
func (q *Query) Backend() string { return q.region + " " + q.role }

// Role is the ARN of the role that asks; empty for the source's own identity.
func (q *Query) Role() string { return q.role }

// NewQuery makes the query that asks the spec. Its error names every field that
// is not as GetMetricData requires, as far as that can be told without asking.
func NewQuery(spec Spec) (*Query, error) {
	spec = canonical(spec)
	if err := validate(spec); err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode the query's key: %w", err)
	}
	sum := sha256.Sum256(text)
	q := &Query{region: spec.Region, role: spec.RoleARN, key: string(sum[:]), data: make([]datum, len(spec.Queries))}
	for i, d := range spec.Queries {
		q.data[i].MetricDataQuery = d
	}

	q.parse()
	switch load := q.load(); {
	case load.insights > 1:
		return nil, errors.New("queries: only one Metrics Insights query (SELECT …) can be asked in a call")
	case load.bytes > maxBytes:
		return nil, fmt.Errorf("queries: too large for a call of %d bytes", maxBytes)
	}
	return q, nil
}

// parse reads the expressions, and what the window and the packing need to know.
func (q *Query) parse() {
	ids := make(map[string]int, len(q.data))
	for i, d := range q.data {
		ids[d.ID] = i
	}
	metrics := q.metrics()
	for i, d := range q.data {
		q.alone = q.alone || d.labelledByOthers()
		if d.MetricStat != nil {
			continue
		}
		e := parseExpression(d.Expression, ids)
		q.alone = q.alone || e.alone || e.allMetrics && metrics == 0 || e.size(metrics) > maxExpression
		q.data[i].formula = &formula{expression: e}
	}
	q.relate()
}

// relate finds out which queries each expression is made of.
func (q *Query) relate() {
	for i := range q.data {
		d := &q.data[i]
		reached := make([]bool, len(q.data))
		q.reach(i, reached)
		d.plain = true
		d.extent = q.extentOf(reached)
		var inputs []int
		for j, is := range reached {
			switch e := q.data[j].formula; {
			case !is:
			case e == nil:
				inputs = append(inputs, j)
			default:
				d.plain = d.plain && !e.calls && !e.lists && !e.alone
			}
		}
		if !d.returned() {
			continue
		}
		d.asked = true
		if d.formula == nil {
			continue
		}
		d.formula.inputs = inputs
		for _, j := range inputs {
			q.data[j].asked = true
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
	e := q.data[i].formula
	if e == nil {
		return
	}
	for _, p := range e.parts {
		if p.kind == partReference {
			q.reach(p.query, reached)
		}
	}
	if e.alone || e.allMetrics {
		for j, d := range q.data {
			reached[j] = reached[j] || d.formula == nil
		}
	}
}

// extentOf is the extent of what is made of the queries that were reached.
func (q *Query) extentOf(reached []bool) extent {
	var period int32
	var s extent
	for j, is := range reached {
		d := q.data[j]
		switch e := d.formula; {
		case !is:
		case e == nil:
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
	for _, d := range q.data {
		if d.MetricStat != nil {
			n++
		}
	}
	return n
}

// Returned are the labels of the samples that the query gives, for each of the Spec's queries
// that are returned: without those that CloudWatch makes up.
func (q *Query) Returned() []sources.Labels {
	var all []sources.Labels
	for _, d := range q.data {
		if !d.returned() {
			continue
		}
		pairs := []string{"id", d.ID}
		if d.Label != "" {
			pairs = append(pairs, "label", d.Label)
		}
		all = append(all, sources.NewLabels(pairs...))
	}
	return all
}

// returned says that the query has samples.
func (d MetricDataQuery) returned() bool { return d.ReturnData == nil || *d.ReturnData }

// describe names what the query asks, for errors.
func (d datum) describe() string {
	if d.MetricStat == nil {
		return fmt.Sprintf("%s (%s)", d.ID, sources.Shorten(d.Expression, 200))
	}
	m := d.MetricStat.Metric
	dimensions := make([]string, len(m.Dimensions))
	for i, d := range m.Dimensions {
		dimensions[i] = d.Name + "=" + d.Value
	}
	return fmt.Sprintf("%s (%s of %s %s {%s} every %v)",
		d.ID, d.MetricStat.Stat, m.Namespace, m.MetricName, strings.Join(dimensions, ", "), d.extent.period)
}

// String names what the query asks, for the log.
func (q *Query) String() string {
	var returned []string
	for _, d := range q.data {
		if d.returned() {
			returned = append(returned, d.describe())
		}
	}
	text := strings.Join(returned, ", ")
	if q.region != "" {
		text += " in " + q.region
	}
	if q.role != "" {
		text += " as " + q.role
	}
	return text
}

// canonical is a copy of the spec in which what means the same is the same.
func canonical(spec Spec) Spec {
	spec.Queries = slices.Clone(spec.Queries)
	spec.Region, spec.RoleARN = intern(spec.Region), intern(spec.RoleARN)
	for i := range spec.Queries {
		d := &spec.Queries[i]
		d.ID = intern(d.ID)
		if d.returned() {
			d.ReturnData = &isReturned
		} else {
			d.ReturnData = &isHidden
		}
		if d.MetricStat == nil {
			continue
		}
		stat := *d.MetricStat
		stat.Stat, stat.Unit = intern(stat.Stat), intern(stat.Unit)
		stat.Metric.Namespace, stat.Metric.MetricName = intern(stat.Metric.Namespace), intern(stat.Metric.MetricName)
		stat.Metric.Dimensions = slices.SortedFunc(slices.Values(stat.Metric.Dimensions), func(a, b Dimension) int {
			return strings.Compare(a.Name, b.Name)
		})
		for i := range stat.Metric.Dimensions {
			stat.Metric.Dimensions[i].Name = intern(stat.Metric.Dimensions[i].Name)
		}
		d.MetricStat = &stat
	}
	return spec
}

// intern gives a text that queries have in common the same memory in all of them.
func intern(text string) string { return unique.Make(text).Value() }

// isReturned and isHidden are what ReturnData points to in a canonical spec.
var isReturned, isHidden = true, false

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
