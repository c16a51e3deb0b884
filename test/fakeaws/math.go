package fakeaws

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// kind is the type of a value of metric math.
type kind int

const (
	scalar kind = iota
	single      // one time series
	array       // any number of time series
	word
)

func (k kind) String() string { return [...]string{"number", "TimeSeries", "TimeSeries[]", "text"}[k] }

// value is what an expression or a part of it is worth. An expression's kind does
// not depend on the data.
type value struct {
	kind   kind
	number float64
	text   string
	series []*timeSeries // exactly one for single
}

func scalarValue(v float64) value          { return value{kind: scalar, number: v} }
func singleValue(ts *timeSeries) value     { return value{kind: single, series: []*timeSeries{ts}} }
func arrayValue(all []*timeSeries) value   { return value{kind: array, series: all} }
func wrongKind(want string, v value) error { return fmt.Errorf("expected %s and got %s", want, v.kind) }

// timeSeries is not changed once it is made.
type timeSeries struct {
	label    string
	period   int64   // seconds
	points   []point // oldest first
	status   types.StatusCode
	messages []types.MessageData
	dropped  bool // whether a calculation left out what is not a number
}

type point struct {
	at    int64 // Unix seconds
	value float64
}

// derive returns a time series that was calculated from others: with the label of
// the first, the longest period and the worst status. As CloudWatch does, it leaves
// out what is not a finite number.
func derive(points []point, from ...*timeSeries) *timeSeries {
	ts := &timeSeries{label: from[0].label, status: types.StatusCodeComplete}
	for _, f := range from {
		ts.period = max(ts.period, f.period)
		ts.dropped = ts.dropped || f.dropped
		if badness(f.status) > badness(ts.status) {
			ts.status = f.status
		}
	}
	for _, p := range points {
		if math.IsNaN(p.value) || math.IsInf(p.value, 0) {
			ts.dropped = true
			continue
		}
		ts.points = append(ts.points, p)
	}
	return ts
}

func badness(s types.StatusCode) int {
	return slices.Index([]types.StatusCode{
		types.StatusCodeComplete, types.StatusCodePartialData, types.StatusCodeInternalError, types.StatusCodeForbidden,
	}, s)
}

func (ts *timeSeries) each(f func(float64) float64) *timeSeries {
	points := slices.Clone(ts.points)
	for i := range points {
		points[i].value = f(points[i].value)
	}
	return derive(points, ts)
}

func (ts *timeSeries) at(t int64) (float64, bool) {
	i, ok := slices.BinarySearchFunc(ts.points, t, func(p point, t int64) int { return cmp.Compare(p.at, t) })
	if !ok {
		return 0, false
	}
	return ts.points[i].value, true
}

// evaluator evaluates the queries of one call, each of them once.
type evaluator struct {
	store       *store
	call        *call
	queries     []*query
	byID        map[string]*query
	start, end  time.Time
	now         time.Time
	known       map[string]value
	busy        map[string]bool // what is being evaluated, to find circles
	labels      map[string]int  // how many queries are of a metric of the name
	metricsRead int
}

func newEvaluator(s *store, c *call, queries []*query, in *cloudwatch.GetMetricDataInput, now time.Time) *evaluator {
	e := &evaluator{
		store: s, call: c, queries: queries, byID: map[string]*query{},
		start: *in.StartTime, end: *in.EndTime, now: now,
		known: map[string]value{}, busy: map[string]bool{}, labels: map[string]int{},
	}
	for _, q := range queries {
		e.byID[q.id] = q
		e.labels[q.metric.id.name]++
	}
	return e
}

func (e *evaluator) window(period int64) window { return newWindow(e.start, e.end, e.now, period) }

func (e *evaluator) scope(q *query) scope {
	return scope{cmp.Or(q.account, e.call.caller.account), e.call.caller.region}
}

// query returns the value of the query with the ID, with its faults applied.
func (e *evaluator) query(id string) (value, error) {
	if v, ok := e.known[id]; ok {
		return v, nil
	}
	if e.busy[id] {
		return value{}, expressionError(id, errors.New("the expression refers to itself"))
	}
	e.busy[id] = true
	defer delete(e.busy, id)
	q := e.byID[id]
	v, err := e.evaluate(q)
	if err != nil {
		return value{}, err
	}
	v.series = slices.Clone(v.series)
	for i, ts := range v.series {
		v.series[i] = e.spoil(q, ts)
	}
	e.known[id] = v
	return v, nil
}

func (e *evaluator) evaluate(q *query) (value, error) {
	switch {
	case q.stat != nil:
		return singleValue(e.readMetric(q)), nil
	case q.insights != nil:
		return e.readInsights(q), nil
	}
	v, err := q.math.eval(e)
	if err != nil {
		if _, ok := errors.AsType[*apiError](err); ok {
			return value{}, err // It names the expression that it is from.
		}
		return value{}, expressionError(q.id, err)
	}
	return v.labelled(q), nil
}

// labelled gives an expression's series the labels that they have in the answer.
func (v value) labelled(q *query) value {
	all := make([]*timeSeries, 0, len(v.series))
	for _, ts := range v.series {
		renamed := *ts
		switch {
		case v.kind == single:
			renamed.label = cmp.Or(q.label, q.id)
		case q.label != "":
			renamed.label = q.label + " " + ts.label
		}
		if renamed.dropped {
			renamed.messages = append(renamed.messages, types.MessageData{
				Code:  aws.String("ArithmeticError"),
				Value: aws.String("Data points that are not finite numbers were dropped."),
			})
		}
		all = append(all, &renamed)
	}
	v.series = all
	return v
}

func (e *evaluator) readMetric(q *query) *timeSeries {
	e.metricsRead++
	ts := &timeSeries{label: e.metricLabel(q), period: q.period, status: types.StatusCodeComplete}
	periods := e.store.read(e.scope(q), q.metric.id, q.metric.unit, e.window(q.period))
	for _, at := range slices.Sorted(maps.Keys(periods)) {
		if v, ok := q.stat(periods[at]); ok {
			ts.points = append(ts.points, point{at, v})
		}
	}
	return ts
}

// metricLabel is the query's own label, or the metric's name with what tells it
// apart from other metrics of the name.
func (e *evaluator) metricLabel(q *query) string {
	if q.label != "" || e.labels[q.metric.id.name] == 1 {
		return cmp.Or(q.label, q.metric.id.name)
	}
	var parts []string
	for _, d := range q.metric.dimensions {
		parts = append(parts, *d.Value)
	}
	return strings.Join(append(parts, q.metric.id.name), " ")
}

// spoil applies the faults for results.
func (e *evaluator) spoil(q *query, ts *timeSeries) *timeSeries {
	spoiled := *ts
	for _, f := range e.call.faults {
		if !f.matchesQuery(q.id, q.metric.id.name) {
			continue
		}
		if f.StatusCode != "" {
			spoiled.status = types.StatusCode(f.StatusCode)
		}
		withoutData := spoiled.status == types.StatusCodeForbidden || spoiled.status == types.StatusCodeInternalError
		if f.Empty || withoutData {
			spoiled.points = nil
		}
		if f.Value != nil {
			spoiled.points = slices.Clone(spoiled.points)
			for i := range spoiled.points {
				spoiled.points[i].value = float64(*f.Value)
			}
		}
		if f.onQueries() {
			spoiled.messages = append(slices.Clone(spoiled.messages), toMessages(f.Messages)...)
		}
	}
	return &spoiled
}

func (n numberNode) eval(*evaluator) (value, error) { return scalarValue(float64(n)), nil }

func (n wordNode) eval(*evaluator) (value, error) { return value{kind: word, text: string(n)}, nil }

func (n referenceNode) eval(e *evaluator) (value, error) { return e.query(string(n)) }

func (n listNode) eval(e *evaluator) (value, error) {
	var all []*timeSeries
	for _, item := range n {
		v, err := item.eval(e)
		if err != nil {
			return value{}, err
		}
		if v.kind != single && v.kind != array {
			return value{}, wrongKind("TimeSeries", v)
		}
		all = append(all, v.series...)
	}
	return arrayValue(all), nil
}

func (n negationNode) eval(e *evaluator) (value, error) {
	v, err := n.operand.eval(e)
	if err != nil {
		return value{}, err
	}
	return v.each(func(x float64) float64 { return -x })
}

// each applies f to a number or to every datapoint.
func (v value) each(f func(float64) float64) (value, error) {
	if v.kind == word {
		return value{}, wrongKind("TimeSeries", v)
	}
	v.number = f(v.number)
	all := make([]*timeSeries, 0, len(v.series))
	for _, ts := range v.series {
		all = append(all, ts.each(f))
	}
	v.series = all
	return v, nil
}

func (n binaryNode) eval(e *evaluator) (value, error) {
	left, err := n.left.eval(e)
	if err != nil {
		return value{}, err
	}
	right, err := n.right.eval(e)
	if err != nil {
		return value{}, err
	}
	f := operators[n.operator]
	switch {
	case left.kind == word || right.kind == word || left.kind == array && right.kind == array:
		return value{}, fmt.Errorf("unsupported operand types for %s: %s and %s", n.operator, left.kind, right.kind)
	case right.kind == scalar:
		return left.each(func(x float64) float64 { return f(x, right.number) })
	case left.kind == scalar:
		return right.each(func(x float64) float64 { return f(left.number, x) })
	}
	combined := value{kind: max(left.kind, right.kind)}
	for _, a := range left.series {
		for _, b := range right.series {
			ts := combine(a, b, f)
			if right.kind == array {
				ts.label = b.label
			}
			combined.series = append(combined.series, ts)
		}
	}
	return combined, nil
}

// combine calculates at the times that both have a datapoint for.
func combine(a, b *timeSeries, f func(a, b float64) float64) *timeSeries {
	var points []point
	for _, p := range a.points {
		if other, ok := b.at(p.at); ok {
			points = append(points, point{p.at, f(p.value, other)})
		}
	}
	return derive(points, a, b)
}

var operators = map[string]func(a, b float64) float64{
	"+":   func(a, b float64) float64 { return a + b },
	"-":   func(a, b float64) float64 { return a - b },
	"*":   func(a, b float64) float64 { return a * b },
	"/":   func(a, b float64) float64 { return a / b },
	"^":   math.Pow,
	"<":   func(a, b float64) float64 { return truth[a < b] },
	"<=":  func(a, b float64) float64 { return truth[a <= b] },
	">":   func(a, b float64) float64 { return truth[a > b] },
	">=":  func(a, b float64) float64 { return truth[a >= b] },
	"==":  func(a, b float64) float64 { return truth[a == b] },
	"!=":  func(a, b float64) float64 { return truth[a != b] },
	"AND": and, "&&": and,
	"OR": or, "||": or,
}

func and(a, b float64) float64 { return truth[a != 0 && b != 0] }

func or(a, b float64) float64 { return truth[a != 0 || b != 0] }

// truth is what a comparison is worth.
var truth = map[bool]float64{true: 1}

func (n callNode) eval(e *evaluator) (value, error) {
	args := make([]value, 0, len(n.args))
	for _, arg := range n.args {
		v, err := arg.eval(e)
		if err != nil {
			return value{}, err
		}
		args = append(args, v)
	}
	v, err := functions[n.name].call(e, args)
	if err != nil {
		return value{}, fmt.Errorf("%s: %w", n.name, err)
	}
	return v, nil
}
