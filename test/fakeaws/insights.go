package fakeaws

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// maxInsightsSeries is how many series a Metrics Insights query returns, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-limits.html
const maxInsightsSeries = 500

// insightsQuery is a Metrics Insights query, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-querylanguage.html
// WHERE takes = and != with AND between them.
type insightsQuery struct {
	statistic  statistic
	metric     string
	namespace  string
	schema     []string // the names of exactly the dimensions; nil for any
	where      []insightsCondition
	groupBy    []string
	orderBy    func([]float64) float64 // nil for no order
	descending bool
	limit      int
}

type insightsCondition struct {
	dimension, value string
	equal            bool
}

const (
	insightsName  = `("[^"]+"|[\w./:#-]+)`
	insightsNames = `((?:"[^"]+"|[\w./:#-]+)(?:\s*,\s*(?:"[^"]+"|[\w./:#-]+))*)`
)

var (
	insightsStart   = regexp.MustCompile(`(?i)^SELECT\s`)
	insightsPattern = regexp.MustCompile(`(?is)^SELECT\s+(\w+)\s*\(\s*` + insightsName + `\s*\)` +
		`\s+FROM\s+(?:SCHEMA\s*\(\s*` + insightsNames + `\s*\)|` + insightsName + `)` +
		`(?:\s+WHERE\s+(.+?))?` +
		`(?:\s+GROUP\s+BY\s+` + insightsNames + `)?` +
		`(?:\s+ORDER\s+BY\s+(\w+)\s*\(\s*\)(?:\s+(ASC|DESC))?)?` +
		`(?:\s+LIMIT\s+(\d+))?$`)
	insightsAnd   = regexp.MustCompile(`(?i)\s+AND\s+`)
	insightsWhere = regexp.MustCompile(`^` + insightsName + `\s*(!?=)\s*'([^']*)'$`)

	insightsStatistics = map[string]string{
		"AVG": "Average", "SUM": "Sum", "MIN": "Minimum", "MAX": "Maximum", "COUNT": "SampleCount",
	}
	insightsOrders = map[string]func([]float64) float64{
		"AVG":   func(v []float64) float64 { return sum(v) / float64(len(v)) },
		"SUM":   sum,
		"MIN":   slices.Min[[]float64],
		"MAX":   slices.Max[[]float64],
		"COUNT": func(v []float64) float64 { return float64(len(v)) },
	}
)

func isInsights(expression string) bool { return insightsStart.MatchString(expression) }

func parseInsightsQuery(expression string) (*insightsQuery, error) {
	m := insightsPattern.FindStringSubmatch(expression)
	if m == nil {
		return nil, errors.New("syntax error in the Metrics Insights query")
	}
	stat, err := parseStatistic(insightsStatistics[strings.ToUpper(m[1])])
	if err != nil {
		return nil, fmt.Errorf("%s is no function of Metrics Insights", m[1])
	}
	q := &insightsQuery{statistic: stat, metric: unquote(m[2]), namespace: unquote(m[4]), limit: maxInsightsSeries}
	if m[3] != "" {
		names := splitNames(m[3])
		q.namespace, q.schema = names[0], names[1:]
	}
	if err := q.parseWhere(m[5]); err != nil {
		return nil, err
	}
	q.groupBy = splitNames(m[6])
	q.orderBy, q.descending = insightsOrders[strings.ToUpper(m[7])], strings.EqualFold(m[8], "DESC")
	if m[7] != "" && q.orderBy == nil {
		return nil, fmt.Errorf("%s is no function of Metrics Insights", m[7])
	}
	if m[9] != "" {
		limit, err := strconv.Atoi(m[9])
		if err != nil || limit < 1 || limit > maxInsightsSeries {
			return nil, fmt.Errorf("LIMIT must be between 1 and %d", maxInsightsSeries)
		}
		q.limit = limit
	}
	return q, nil
}

func (q *insightsQuery) parseWhere(text string) error {
	if text == "" {
		return nil
	}
	for _, condition := range insightsAnd.Split(text, -1) {
		m := insightsWhere.FindStringSubmatch(strings.TrimSpace(condition))
		if m == nil {
			return fmt.Errorf("syntax error in the condition %q", condition)
		}
		q.where = append(q.where, insightsCondition{dimension: unquote(m[1]), equal: m[2] == "=", value: m[3]})
	}
	return nil
}

func splitNames(text string) []string {
	if text == "" {
		return nil
	}
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		names = append(names, unquote(strings.TrimSpace(name)))
	}
	return names
}

func unquote(name string) string { return strings.Trim(name, `"`) }

// matches says whether the query reads a metric, and returns the label of the
// group that the metric belongs to.
func (q *insightsQuery) matches(m storedMetric) (group string, ok bool) {
	if m.id.namespace != q.namespace || m.id.name != q.metric {
		return "", false
	}
	dimensions := map[string]string{}
	for _, d := range m.dimensions {
		dimensions[*d.Name] = *d.Value
	}
	if q.schema != nil && !slices.Equal(slices.Sorted(maps.Keys(dimensions)), slices.Sorted(slices.Values(q.schema))) {
		return "", false
	}
	for _, c := range q.where {
		if value, ok := dimensions[c.dimension]; !ok || (value == c.value) != c.equal {
			return "", false
		}
	}
	var labels []string
	for _, name := range q.groupBy {
		value, ok := dimensions[name]
		if !ok {
			return "", false
		}
		labels = append(labels, value)
	}
	return strings.Join(labels, " "), true
}

// readInsights returns one time series, or with GROUP BY one for each group that has data.
func (e *evaluator) readInsights(q *query) value {
	groups := map[string]map[int64]*distribution{}
	where := e.scope(q)
	for _, m := range e.store.list(where) {
		group, ok := q.insights.matches(m)
		if !ok {
			continue
		}
		e.metricsRead++
		if groups[group] == nil {
			groups[group] = map[int64]*distribution{}
		}
		for at, d := range e.store.read(where, m.id, "", e.window(q.period)) {
			if groups[group][at] == nil {
				groups[group][at] = &distribution{}
			}
			groups[group][at].merge(*d)
		}
	}
	if q.insights.groupBy == nil {
		ts := q.insightsSeries(groups[""])
		ts.label = cmp.Or(q.label, q.insights.metric)
		return singleValue(ts)
	}
	var all []*timeSeries
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if ts := q.insightsSeries(groups[group]); len(ts.points) > 0 {
			ts.label = strings.TrimSpace(q.label + " " + group)
			all = append(all, ts)
		}
	}
	return arrayValue(q.insights.ordered(all))
}

func (q *query) insightsSeries(periods map[int64]*distribution) *timeSeries {
	ts := &timeSeries{period: q.period, status: types.StatusCodeComplete}
	for _, at := range slices.Sorted(maps.Keys(periods)) {
		if v, ok := q.insights.statistic(periods[at]); ok {
			ts.points = append(ts.points, point{at, v})
		}
	}
	return ts
}

// ordered sorts as ORDER BY says and cuts to the LIMIT.
func (q *insightsQuery) ordered(all []*timeSeries) []*timeSeries {
	if q.orderBy != nil {
		slices.SortStableFunc(all, func(a, b *timeSeries) int {
			order := cmp.Compare(q.orderBy(values(a.points)), q.orderBy(values(b.points)))
			if q.descending {
				return -order
			}
			return order
		})
	}
	return all[:min(len(all), q.limit)]
}
