package cloudwatch

import (
	"errors"
	"fmt"
	"slices"
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
	points   []datapoint
	// page is the latest page that has something of it, from 1.
	page int
	// repeated says that a later page has a result of its label and without data:
	// this series once more, or another one.
	repeated bool
	// fault is why the datapoints cannot be told; nil if they can.
	fault error
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
	pages    int
}

var (
	errTorn  = errors.New("CloudWatch returned timestamps and values of unequal numbers")
	errMixed = errors.New("CloudWatch returned several series of one label, which cannot be told apart over its pages")
)

// add merges a page into the answer.
func (a *answer) add(page *cloudwatch.GetMetricDataOutput) {
	a.pages++
	for _, r := range page.MetricDataResults {
		s := a.of(r)
		s.add(r)
		s.page = a.pages
	}
	a.messages = append(a.messages, page.Messages...)
}

// of is the series that the result belongs to. A series that goes on from page to
// page has the same id and label in each, but others may have them, too. Pages are
// scanned from the newest datapoint, so what goes on is older than what there was.
func (a *answer) of(r types.MetricDataResult) *series {
	id, label := aws.ToString(r.Id), aws.ToString(r.Label)
	fresh := &series{label: label}
	for _, s := range a.series[id] {
		if s.label != label || s.page == a.pages {
			continue
		}
		switch older := s.isAfter(r.Timestamps); {
		case s.status != types.StatusCodeComplete && (older || s.status != types.StatusCodePartialData):
			return s
		case s.status == types.StatusCodeComplete && len(r.Timestamps) == 0:
			s.repeated = true
			return s
		case s.status == types.StatusCodeComplete && older && len(s.points) > 0:
			fresh.fault = errMixed
		}
	}
	a.series[id] = append(a.series[id], fresh)
	return fresh
}

// isAfter says that all of the series' datapoints are after all of the times.
func (s *series) isAfter(times []time.Time) bool {
	if len(s.points) == 0 || len(times) == 0 {
		return true
	}
	return slices.MaxFunc(times, time.Time.Compare).Before(slices.MinFunc(s.points, byTime).time)
}

func byTime(a, b datapoint) int { return a.time.Compare(b.time) }

// add takes the status of the page, unless an earlier page had one that stays: more
// data completes a part, but mends no failure.
func (s *series) add(r types.MetricDataResult) {
	if s.page == 0 || s.status == types.StatusCodePartialData {
		s.status = r.StatusCode
	}
	s.messages = append(s.messages, r.Messages...)
	if len(r.Timestamps) != len(r.Values) {
		s.fault = errTorn
		return
	}
	for i, t := range r.Timestamps {
		s.points = append(s.points, datapoint{t, r.Values[i]})
	}
}

// newest is the series' newest datapoint that is not after the limit, if that is not
// zero. It is false if there is none.
func (s *series) newest(limit time.Time) (datapoint, bool) {
	var found datapoint
	for _, p := range s.points {
		if p.time.After(found.time) && (limit.IsZero() || !p.time.After(limit)) {
			found = p
		}
	}
	return found, !found.time.IsZero()
}

// messageArithmetic comes with datapoints that CloudWatch left out because they
// were no numbers, as after a division by zero. Those that are there are right, but
// the newest may be missing.
const messageArithmetic = "ArithmeticError"

// leavesOut says that CloudWatch left out some of the series' datapoints.
func (s *series) leavesOut() bool {
	return slices.ContainsFunc(s.messages, func(m types.MessageData) bool { return aws.ToString(m.Code) == messageArithmetic })
}

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
	if s.fault != nil {
		return s.fault
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
	return sources.Shorten(b.String(), maxWords)
}

// errNothing is why a query has no sample although CloudWatch had no trouble.
var errNothing = errors.New("no datapoint")

// results are the answers to the call's queries, in order.
func (c *call) results(a *answer, ids [][]string) []sources.Result {
	results, sets := make([]sources.Result, len(c.queries)), labelSets{}
	for i, q := range c.queries {
		samples, err := c.samples(q, a, ids[i], sets)
		results[i] = sources.Result{Samples: samples, Err: err}
	}
	return results
}

// samples are those of all the queries of q that are returned. An HPA adds them
// up, so when one of them fails, all of them do: the sum of the others would be a
// smaller number that looks like a good one. For the same reason it is no data
// only if none of them has any: what serves for no data, such as zero, would
// otherwise serve for those that have some, too.
func (c *call) samples(q *Query, a *answer, ids []string, sets labelSets) ([]sources.Sample, error) {
	var all []sources.Sample
	var missing []string
	var when string
	for i, d := range q.data {
		if !d.returned() {
			continue
		}
		samples, err := c.samplesOf(q, i, a, ids, sets)
		switch {
		case errors.Is(err, errNothing):
			missing = append(missing, d.describe())
			when = c.when(d.extent)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", d.describe(), err)
		}
		all = append(all, samples...)
	}
	if len(missing) == 0 {
		return all, nil
	}
	text := fmt.Sprintf("%v %s for %s", errNothing, when, sources.Shorten(strings.Join(missing, ", "), maxWords))
	if len(all) > 0 {
		return nil, fmt.Errorf("%s, while other series of the metric have one", text)
	}
	return nil, fmt.Errorf("%w: %s", sources.ErrNoData, text)
}

// when is the time that was read, in words that are the same at any time.
func (c *call) when(s extent) string {
	if settle := s.settle(c.settle); settle > 0 {
		return fmt.Sprintf("in the %v until %v ago", s.lookback(), settle)
	}
	return fmt.Sprintf("in the last %v", s.lookback())
}

// samplesOf are those of the query with that index; beside errNothing, those of its
// series that have one.
func (c *call) samplesOf(q *Query, i int, a *answer, ids []string, sets labelSets) ([]sources.Sample, error) {
	all := a.series[ids[i]]
	d := q.data[i]
	metric, finds := d.formula == nil, d.formula != nil && d.formula.finds
	if metric && len(all) != 1 {
		return nil, errNotOne(len(all))
	}
	own := d.extent.window(c.now, c.settle)
	settled, err := q.settled(i, own, a, ids)
	if err != nil {
		return nil, err
	}
	last := settled
	if last.IsZero() {
		last = own.end.Add(-d.extent.period)
	}
	var samples []sources.Sample
	for _, s := range all {
		p, err := c.own(s, d.extent).current(settled, last)
		switch {
		case errors.Is(err, errNothing):
			continue
		case err != nil:
			return nil, err
		case s.repeated && !finds && !metric:
			return nil, errMixed
		}
		samples = append(samples, sources.Sample{
			Labels: sets.of(d.ID, c.labelOf(q, d, s.label, ids)),
			Value:  p.value,
			Time:   p.time,
			Window: d.extent.period,
		})
	}
	if len(samples) == 0 && !settled.IsZero() {
		return nil, errPart
	}
	// What a search finds includes metrics that ended two weeks ago
	// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-search-expressions.html).
	if len(samples) == 0 || len(samples) < len(all) && !finds {
		return samples, errNothing
	}
	return samples, nil
}

// current is the series' newest datapoint that is not after settled, if that is not
// zero. Where CloudWatch left some out, one from before last is not current.
func (s *series) current(settled, last time.Time) (datapoint, error) {
	if err := s.check(); err != nil {
		return datapoint{}, err
	}
	p, ok := s.newest(settled)
	switch {
	case s.leavesOut() && p.time.Before(last):
		return datapoint{}, fmt.Errorf("the newest value is not a number, and CloudWatch left it out%s", quoteMessages(s.messages))
	case ok:
		return p, nil
	case len(s.points) > 0:
		return datapoint{}, errors.New("there are values only of times for which not all of the metrics have arrived")
	default:
		return datapoint{}, errNothing
	}
}

// errPart is why an expression has no value although some of its metrics have one. It
// is not no data: what serves for that would serve for those that have some, too.
var errPart = errors.New("no value, while metrics that it is made of have one")

// own is the series with the datapoints that may be read of that extent. A call may ask
// for more, because another query of the object needs it; and then the periods, which
// count from the call's start, may be off the extent's grid, so that one which begins
// before the end of its window is not over by then.
func (c *call) own(s *series, e extent) *series {
	w := e.window(c.now, c.settle)
	if w == c.window {
		return s
	}
	if e.complete {
		w.end = w.end.Add(-e.period + 1)
	}
	own := *s
	own.points = slices.DeleteFunc(slices.Clone(s.points), func(p datapoint) bool { return !w.holds(p.time) })
	return &own
}

func errNotOne(results int) error {
	return fmt.Errorf("CloudWatch returned %d results for one metric", results)
}

// settled is the newest time in the window of which all the inputs of the expression
// with that index have a datapoint. At a later one a function such as FILL or SUM has a value
// of which a part has yet to arrive. An input without any datapoint has ended or has
// not begun, and is not waited for. The time is zero if no input has a datapoint.
//
// Inputs that have no time in common do not report regularly. Then it is the newest
// time that none of them has still to reach.
func (q *Query) settled(i int, own window, a *answer, ids []string) (time.Time, error) {
	if q.data[i].formula == nil {
		return time.Time{}, nil // A metric is made of nothing else.
	}
	counts := make(map[time.Time]int)
	inputs := 0
	var reached time.Time
	for _, j := range q.data[i].formula.inputs {
		all := a.series[ids[j]]
		if len(all) != 1 {
			return time.Time{}, fmt.Errorf("%s: %w", q.data[j].describe(), errNotOne(len(all)))
		}
		points := slices.DeleteFunc(slices.Clone(all[0].points), func(p datapoint) bool { return !own.holds(p.time) })
		if err := all[0].check(); err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", q.data[j].describe(), err)
		}
		if len(points) == 0 {
			continue
		}
		inputs++
		for _, p := range points {
			counts[p.time.UTC()]++
		}
		if newest := slices.MaxFunc(points, byTime).time; inputs == 1 || newest.Before(reached) {
			reached = newest
		}
	}
	var common time.Time
	for t, n := range counts {
		if n == inputs && t.After(common) {
			common = t
		}
	}
	if common.IsZero() {
		return reached, nil
	}
	return common, nil
}

// labelOf is the label of a series, with the object's own ids in place of those of a shared
// call, of which CloudWatch may have made it up.
func (c *call) labelOf(q *Query, d datum, label string, ids []string) string {
	if len(c.queries) == 1 || d.Label != "" || d.MetricStat != nil {
		return label
	}
	return callID.ReplaceAllStringFunc(label, func(id string) string {
		if j := slices.Index(ids, id); j >= 0 {
			return q.data[j].ID
		}
		return id
	})
}

// labelSets are the labels of the samples of a call, which are the same ones for many of its
// queries, by the id and the label.
type labelSets map[[2]string]sources.Labels

func (l labelSets) of(id, label string) sources.Labels {
	set, ok := l[[2]string{id, label}]
	if !ok {
		label = strings.Clone(label) // It may be a part of the whole answer, which is not to live as long.
		set = sources.NewLabels("id", id, "label", label)
		l[[2]string{id, label}] = set
	}
	return set
}
