package cloudwatch

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// series is one time series of an answer, put together from all pages.
type series struct {
	label    string
	status   types.StatusCode
	messages []types.MessageData
	// newest is the datapoint to serve; its time is zero if there is none.
	newest datapoint
	// torn says that there were not as many values as timestamps.
	torn bool
}

type datapoint struct {
	time  time.Time
	value float64
}

// answer is what a call returned.
type answer struct {
	// series are by the id in the call. An expression may have several.
	series map[string][]*series
	// messages are about the call as a whole.
	messages []types.MessageData
}

// add merges a page into the answer. A series that goes on from page to page has
// the same id and label in each; those with one id and label keep their order.
func (a *answer) add(page *cloudwatch.GetMetricDataOutput) {
	type name struct{ id, label string }
	seen := make(map[name]int)
	for _, r := range page.MetricDataResults {
		n := name{aws.ToString(r.Id), aws.ToString(r.Label)}
		a.nth(n.id, n.label, seen[n]).add(r)
		seen[n]++
	}
	a.messages = append(a.messages, page.Messages...)
}

// nth is the series with that id and label that has n before it.
func (a *answer) nth(id, label string, n int) *series {
	for _, s := range a.series[id] {
		if s.label != label {
			continue
		}
		if n == 0 {
			return s
		}
		n--
	}
	s := &series{label: label}
	a.series[id] = append(a.series[id], s)
	return s
}

// add takes the status of the page, as the last page's is the one that holds.
func (s *series) add(r types.MetricDataResult) {
	s.status = r.StatusCode
	s.messages = append(s.messages, r.Messages...)
	if len(r.Timestamps) != len(r.Values) {
		s.torn = true
		return
	}
	for i, t := range r.Timestamps {
		if t.After(s.newest.time) {
			s.newest = datapoint{t, r.Values[i]}
		}
	}
}

// messageArithmetic comes with datapoints that CloudWatch left out because they
// were no numbers, as after a division by zero. Those that are there are right.
const messageArithmetic = "ArithmeticError"

// check is an error unless the datapoints of the series can be relied upon.
func (s *series) check() error {
	said := quoteMessages(s.messages)
	switch s.status {
	case types.StatusCodeComplete:
	case types.StatusCodePartialData:
		return fmt.Errorf("%s: CloudWatch returned only a part of the data%s", s.status, said)
	case types.StatusCodeInternalError:
		return fmt.Errorf("%s: CloudWatch failed to read the data%s", s.status, said)
	case types.StatusCodeForbidden:
		return fmt.Errorf("%s: CloudWatch does not let this identity read the data%s", s.status, said)
	default:
		return fmt.Errorf("%s: CloudWatch returned a status that is not known%s", s.status, said)
	}
	if s.torn {
		return errors.New("CloudWatch returned timestamps and values of unequal numbers")
	}
	for _, m := range s.messages {
		if aws.ToString(m.Code) != messageArithmetic {
			return fmt.Errorf("CloudWatch warns of the data%s", said)
		}
	}
	return nil
}

// quoteMessages is empty, or AWS's words after a colon.
func quoteMessages(messages []types.MessageData) string {
	var b strings.Builder
	for i, m := range messages {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(aws.ToString(m.Code) + ": " + aws.ToString(m.Value))
	}
	return shorten(b.String(), maxWords)
}

// errNothing is why a query has no sample although CloudWatch had no trouble.
var errNothing = errors.New("no datapoint")

// results are the answers to the call's queries, in order.
func (c *call) results(a *answer, ids [][]string) []sources.Result {
	results := make([]sources.Result, len(c.queries))
	for i, q := range c.queries {
		samples, err := c.samples(q, a, ids[i])
		results[i] = sources.Result{Samples: samples, Err: err}
	}
	return results
}

// samples are those of all the queries of q that are returned. An HPA adds them
// up, so when one of them fails, all of them do: the sum of the others would be a
// smaller number that looks like a good one. For the same reason it is no data
// only if none of them has any: what serves for no data, such as zero, would
// otherwise serve for those that have some, too.
func (c *call) samples(q *Query, a *answer, ids []string) ([]sources.Sample, error) {
	var all []sources.Sample
	var missing []string
	for i := range q.spec.Queries {
		if !q.returned(i) {
			continue
		}
		samples, err := q.samples(i, a.series[ids[i]])
		switch {
		case errors.Is(err, errNothing):
			missing = append(missing, q.describe(i))
		case err != nil:
			return nil, fmt.Errorf("%s: %w", q.describe(i), err)
		}
		all = append(all, c.restoreLabels(q, i, samples, ids)...)
	}
	if len(missing) == 0 {
		return all, nil
	}
	text := fmt.Sprintf("%v in the last %v for %s", errNothing, q.lookback(), shorten(strings.Join(missing, ", "), maxWords))
	if len(all) > 0 {
		return nil, fmt.Errorf("%s, while other series of the metric have one", text)
	}
	return nil, fmt.Errorf("%w: %s", sources.ErrNoData, text)
}

// samples are those of the query with that index; beside errNothing, those of its
// series that have one.
func (q *Query) samples(i int, all []*series) ([]sources.Sample, error) {
	if q.spec.Queries[i].MetricStat != nil && len(all) != 1 {
		return nil, fmt.Errorf("CloudWatch returned %d results for one metric", len(all))
	}
	var samples []sources.Sample
	for _, s := range all {
		if err := s.check(); err != nil {
			return nil, err
		}
		if s.newest.time.IsZero() {
			continue
		}
		samples = append(samples, sources.Sample{
			Labels: map[string]string{"id": q.spec.Queries[i].ID, "label": s.label},
			Value:  s.newest.value,
			Time:   s.newest.time,
			Window: q.periodOf(i),
		})
	}
	// What a search finds includes metrics that ended two weeks ago
	// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-search-expressions.html).
	if len(samples) == 0 || len(samples) < len(all) && !q.expressions[i].finds {
		return samples, errNothing
	}
	return samples, nil
}

// restoreLabels puts the object's own ids back into labels that CloudWatch made
// up from the ids of a shared call.
func (c *call) restoreLabels(q *Query, i int, samples []sources.Sample, ids []string) []sources.Sample {
	if len(c.queries) == 1 || q.spec.Queries[i].Label != "" {
		return samples
	}
	for _, s := range samples {
		s.Labels["label"] = callID.ReplaceAllStringFunc(s.Labels["label"], func(id string) string {
			for j, own := range ids {
				if own == id {
					return q.spec.Queries[j].ID
				}
			}
			return id
		})
	}
	return samples
}
