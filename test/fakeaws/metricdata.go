package fakeaws

import (
	"context"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// query is a MetricDataQuery that was checked. Exactly one of stat, insights and
// math is set.
type query struct {
	id       string
	label    string
	returned bool
	account  string
	period   int64 // seconds; of math it is not used
	metric   metricQuery
	stat     statistic
	insights *insightsQuery
	math     node
}

// metricQuery is the metric of a query that has stat set.
type metricQuery struct {
	id         metricID
	dimensions []types.Dimension
	unit       types.StandardUnit
}

var queryID = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]{0,254}$`)

// getMetricData follows
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
func (s *Server) getMetricData(c *call, in *cloudwatch.GetMetricDataInput) (*cloudwatch.GetMetricDataOutput, error) {
	queries, err := parseQueries(in)
	if err != nil {
		return nil, err
	}
	e := newEvaluator(s.store, c, queries, in, s.opts.Now())
	results, err := e.results(in.ScanBy)
	if err != nil {
		return nil, err
	}
	out, err := page(c, in, results)
	if err != nil {
		return nil, err
	}
	for _, f := range c.faults {
		if !f.onQueries() {
			out.Messages = append(out.Messages, toMessages(f.Messages)...)
		}
	}
	s.counts.gotMetricData(GetMetricDataCall{
		Time: s.opts.Now(), Caller: c.caller.name(), Region: c.caller.region,
		Queries: len(queries), Metrics: e.metricsRead, BodyBytes: c.bodyBytes,
		Start: *in.StartTime, End: *in.EndTime,
		Datapoints: datapoints(out.MetricDataResults), More: out.NextToken != nil,
	})
	return out, nil
}

func datapoints(results []types.MetricDataResult) int {
	n := 0
	for _, r := range results {
		n += len(r.Values)
	}
	return n
}

// parseQueries checks everything about a request that does not need data.
func parseQueries(in *cloudwatch.GetMetricDataInput) ([]*query, error) {
	if err := checkInput(in); err != nil {
		return nil, err
	}
	queries := make([]*query, 0, len(in.MetricDataQueries))
	for i := range in.MetricDataQueries {
		q, err := parseQuery(&in.MetricDataQueries[i], fmt.Sprintf("MetricDataQueries.member.%d", i+1))
		if err != nil {
			return nil, err
		}
		queries = append(queries, q)
	}
	return queries, checkTogether(queries)
}

func checkInput(in *cloudwatch.GetMetricDataInput) error {
	switch {
	case in.StartTime == nil:
		return missingParameter("StartTime")
	case in.EndTime == nil:
		return missingParameter("EndTime")
	case !in.StartTime.Before(*in.EndTime):
		return validationError("The parameter StartTime must be less than the parameter EndTime.")
	case len(in.MetricDataQueries) == 0:
		return validationError("The parameter MetricDataQueries is required.")
	case len(in.MetricDataQueries) > maxQueries:
		return validationError("The collection MetricDataQueries must not have a size greater than %d.", maxQueries)
	case in.MaxDatapoints != nil && (*in.MaxDatapoints < 1 || *in.MaxDatapoints > maxDatapoints):
		return validationError("The parameter MaxDatapoints must be between 1 and %d.", maxDatapoints)
	case in.ScanBy != "" && !slices.Contains(in.ScanBy.Values(), in.ScanBy):
		return validationError("The parameter ScanBy must be a value in the set %v.", in.ScanBy.Values())
	}
	return nil
}

// checkTogether checks the rules over all queries of a call.
func checkTogether(queries []*query) error {
	seen := map[string]bool{}
	returned, insights := 0, 0
	for _, q := range queries {
		if seen[q.id] {
			return validationError("The values for parameter id in MetricDataQueries are not unique: %s.", q.id)
		}
		seen[q.id] = true
		if q.returned {
			returned++
		}
		if q.insights != nil {
			insights++
		}
	}
	if returned == 0 {
		return validationError("At least one query must have ReturnData set to true.")
	}
	if insights > 1 {
		return validationError("Only one Metrics Insights query is allowed in a GetMetricData request.")
	}
	for _, q := range queries {
		if q.math == nil {
			continue
		}
		for id := range references(q.math) {
			if !seen[id] {
				return expressionError(q.id, fmt.Errorf("unknown identifier %q", id))
			}
		}
	}
	return nil
}

func expressionError(id string, err error) *apiError {
	return validationError("Error in expression '%s': %v", id, err)
}

// parseQuery checks one query; path names it in errors.
func parseQuery(in *types.MetricDataQuery, path string) (*query, error) {
	q := &query{
		id:       aws.ToString(in.Id),
		label:    aws.ToString(in.Label),
		returned: in.ReturnData == nil || *in.ReturnData,
		account:  aws.ToString(in.AccountId),
	}
	if !queryID.MatchString(q.id) {
		return nil, validationError("The value %s for parameter %s.Id is not matching the expected pattern %s", q.id, path, queryID)
	}
	var err error
	switch expression := strings.TrimSpace(aws.ToString(in.Expression)); {
	case in.MetricStat != nil && in.Expression != nil, in.MetricStat == nil && in.Expression == nil:
		return nil, validationError("Exactly one of the parameters %s.MetricStat and %[1]s.Expression must be set.", path)
	case in.MetricStat != nil:
		err = q.parseMetricStat(in.MetricStat, path+".MetricStat")
	case isInsights(expression):
		err = q.parseInsights(expression, in.Period, path)
	default:
		err = q.parseMath(expression, in.Period, path)
	}
	return q, err
}

func (q *query) parseMath(expression string, period *int32, path string) error {
	var err error
	if q.math, err = parseExpression(expression); err != nil {
		return expressionError(q.id, err)
	}
	if period != nil {
		return checkPeriod(*period, path+".Period")
	}
	return nil
}

func (q *query) parseInsights(expression string, period *int32, path string) error {
	if period == nil {
		return validationError("The parameter %s.Period is required for a Metrics Insights query.", path)
	}
	q.period = int64(*period)
	var err error
	if q.insights, err = parseInsightsQuery(expression); err != nil {
		return expressionError(q.id, err)
	}
	return checkPeriod(*period, path+".Period")
}

func (q *query) parseMetricStat(in *types.MetricStat, path string) error {
	if in.Metric == nil || aws.ToString(in.Metric.MetricName) == "" || aws.ToString(in.Metric.Namespace) == "" {
		return validationError("The parameters %s.Metric.Namespace and %[1]s.Metric.MetricName are required.", path)
	}
	if err := checkDimensions(in.Metric.Dimensions, path+".Metric"); err != nil {
		return validationError("%s", toAPIError(err).Message)
	}
	if in.Period == nil {
		return validationError("The parameter %s.Period is required.", path)
	}
	if err := checkPeriod(*in.Period, path+".Period"); err != nil {
		return err
	}
	if in.Unit != "" && !slices.Contains(in.Unit.Values(), in.Unit) {
		return validationError("The value %s for parameter %s.Unit is invalid.", in.Unit, path)
	}
	var err error
	if q.stat, err = parseStatistic(aws.ToString(in.Stat)); err != nil {
		return validationError("The value %s for parameter %s.Stat is not supported: %v.", aws.ToString(in.Stat), path, err)
	}
	q.period = int64(*in.Period)
	q.metric = metricQuery{
		id:         newMetricID(*in.Metric.Namespace, *in.Metric.MetricName, in.Metric.Dimensions),
		dimensions: in.Metric.Dimensions,
		unit:       in.Unit,
	}
	return nil
}

func checkPeriod(period int32, path string) error {
	if slices.Contains([]int32{1, 5, 10, 20, 30}, period) || period > 0 && period%60 == 0 && period <= 86_400 {
		return nil
	}
	return validationError("The value %d for parameter %s must be 1, 5, 10, 20, 30 or a multiple of 60 up to 86400.", period, path)
}

// pageToken is where the next page of an answer starts.
type pageToken struct {
	request uint64 // hash of the request that the token is good for
	offset  int    // in datapoints over all results
}

// page cuts from the results what belongs on the page that is asked for. Results
// whose data ends on an earlier page or starts on a later one are left out.
func page(c *call, in *cloudwatch.GetMetricDataInput, results []types.MetricDataResult) (*cloudwatch.GetMetricDataOutput, error) {
	hash, err := requestHash(c.ctx, in)
	if err != nil {
		return nil, err
	}
	token := pageToken{request: hash}
	from, err := token.offsetOf(aws.ToString(in.NextToken))
	if err != nil {
		return nil, err
	}
	size := pageSize(c, in)
	out := &cloudwatch.GetMetricDataOutput{MetricDataResults: []types.MetricDataResult{}}
	seen := 0 // datapoints of the results so far
	for _, r := range results {
		first, last := min(max(from-seen, 0), len(r.Values)), min(max(from+size-seen, 0), len(r.Values))
		seen += len(r.Values)
		if last < len(r.Values) {
			r.StatusCode = types.StatusCodePartialData
			token.offset = from + size
			out.NextToken = token.encode()
		}
		if first < last || len(r.Values) == 0 && from == 0 {
			r.Values, r.Timestamps = r.Values[first:last], r.Timestamps[first:last]
			out.MetricDataResults = append(out.MetricDataResults, r)
		}
	}
	return out, nil
}

func pageSize(c *call, in *cloudwatch.GetMetricDataInput) int {
	size := maxDatapoints
	if in.MaxDatapoints != nil {
		size = int(*in.MaxDatapoints)
	}
	for _, f := range c.faults {
		if f.MaxDatapoints > 0 {
			size = min(size, f.MaxDatapoints)
		}
	}
	return size
}

func (t pageToken) encode() *string {
	return aws.String(base64.URLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d", t.request, t.offset)))
}

// offsetOf is the offset of a token of the same request; no token is the first page.
func (t pageToken) offsetOf(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	text, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		return 0, invalidNextToken()
	}
	var got pageToken
	if _, err := fmt.Sscanf(string(text), "%d %d", &got.request, &got.offset); err != nil || got.request != t.request || got.offset < 0 {
		return 0, invalidNextToken()
	}
	return got.offset, nil
}

// requestHash is equal for two requests that ask for pages of the same answer.
func requestHash(ctx context.Context, in *cloudwatch.GetMetricDataInput) (uint64, error) {
	same := *in
	same.NextToken, same.MaxDatapoints = nil, nil
	text, err := cloudWatchCBOR.encode(ctx, "GetMetricData", &same)
	if err != nil {
		return 0, err
	}
	h := fnv.New64a()
	_, _ = h.Write(text) // It never fails.
	return h.Sum64(), nil
}

// results evaluates the queries that return data, in order.
func (e *evaluator) results(order types.ScanBy) ([]types.MetricDataResult, error) {
	var all []types.MetricDataResult
	for _, q := range e.queries {
		v, err := e.query(q.id)
		if err != nil {
			return nil, err
		}
		if !q.returned {
			continue
		}
		if v.kind != single && v.kind != array {
			return nil, expressionError(q.id, fmt.Errorf("the expression must return a time series, and returns a %s", v.kind))
		}
		for _, ts := range v.series {
			r := ts.result(q)
			if order != types.ScanByTimestampAscending {
				slices.Reverse(r.Timestamps)
				slices.Reverse(r.Values)
			}
			all = append(all, r)
		}
	}
	return all, nil
}

// result writes one series as a result of the query, the oldest datapoint first.
func (ts *timeSeries) result(q *query) types.MetricDataResult {
	r := types.MetricDataResult{
		Id:         &q.id,
		Label:      aws.String(ts.label),
		StatusCode: ts.status,
		Messages:   ts.messages,
		Timestamps: make([]time.Time, 0, len(ts.points)),
		Values:     make([]float64, 0, len(ts.points)),
	}
	for _, p := range ts.points {
		r.Timestamps = append(r.Timestamps, time.Unix(p.at, 0).UTC())
		r.Values = append(r.Values, p.value)
	}
	return r
}

func toMessages(messages []Message) []types.MessageData {
	var all []types.MessageData
	for _, m := range messages {
		all = append(all, types.MessageData{Code: &m.Code, Value: &m.Value})
	}
	return all
}
