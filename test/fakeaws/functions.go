package fakeaws

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// function is a function of metric math with its number of arguments.
type function struct {
	least, most int
	call        func(e *evaluator, args []value) (value, error)
}

// functions are those of
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html#metric-math-syntax
// that are common.
var functions = map[string]function{
	"ABS":          pointwise(math.Abs),
	"CEIL":         pointwise(math.Ceil),
	"FLOOR":        pointwise(math.Floor),
	"LOG":          pointwise(math.Log),
	"LOG10":        pointwise(math.Log10),
	"SUM":          reduction(sum),
	"AVG":          reduction(func(v []float64) float64 { return sum(v) / float64(len(v)) }),
	"MIN":          reduction(slices.Min[[]float64]),
	"MAX":          reduction(slices.Max[[]float64]),
	"STDDEV":       reduction(stddev),
	"DIFF":         stepwise(func(from, to point) float64 { return to.value - from.value }),
	"DIFF_TIME":    stepwise(func(from, to point) float64 { return float64(to.at - from.at) }),
	"RATE":         stepwise(func(from, to point) float64 { return (to.value - from.value) / float64(to.at-from.at) }),
	"RUNNING_SUM":  {1, 1, runningSum},
	"FILL":         {2, 2, fillGaps},
	"IF":           {2, 3, choose},
	"METRICS":      {0, 1, metrics},
	"METRIC_COUNT": {1, 1, metricCount},
	"FIRST":        {1, 1, first},
	"LAST":         {1, 1, last},
	"REMOVE_EMPTY": {1, 1, removeEmpty},
	"PERIOD":       {1, 1, period},
	"TIME_SERIES":  {1, 1, constant},
}

func pointwise(f func(float64) float64) function {
	return function{1, 1, func(_ *evaluator, args []value) (value, error) { return args[0].each(f) }}
}

// reduction makes a number of one time series and one time series of several. f
// gets at least one number.
func reduction(f func([]float64) float64) function {
	return function{1, 1, func(_ *evaluator, args []value) (value, error) {
		switch v := args[0]; v.kind {
		case single:
			points := v.series[0].points
			if len(points) == 0 {
				return scalarValue(math.NaN()), nil
			}
			return scalarValue(f(values(points))), nil
		case array:
			return singleValue(reduceArray(v.series, f)), nil
		default:
			return value{}, wrongKind("TimeSeries", v)
		}
	}}
}

func values(points []point) []float64 {
	all := make([]float64, 0, len(points))
	for _, p := range points {
		all = append(all, p.value)
	}
	return all
}

// reduceArray calculates at the times that any of the series has a datapoint for.
func reduceArray(all []*timeSeries, f func([]float64) float64) *timeSeries {
	if len(all) == 0 {
		return &timeSeries{status: types.StatusCodeComplete}
	}
	byTime := map[int64][]float64{}
	for _, ts := range all {
		for _, p := range ts.points {
			byTime[p.at] = append(byTime[p.at], p.value)
		}
	}
	var points []point
	for _, at := range slices.Sorted(maps.Keys(byTime)) {
		points = append(points, point{at, f(byTime[at])})
	}
	return derive(points, all...)
}

func sum(v []float64) float64 {
	total := 0.0
	for _, x := range v {
		total += x
	}
	return total
}

func stddev(v []float64) float64 {
	mean, squares := sum(v)/float64(len(v)), 0.0
	for _, x := range v {
		squares += (x - mean) * (x - mean)
	}
	return math.Sqrt(squares / float64(len(v)))
}

// seriesWise applies f to each time series of a value.
func seriesWise(v value, f func(*timeSeries) *timeSeries) (value, error) {
	if v.kind != single && v.kind != array {
		return value{}, wrongKind("TimeSeries", v)
	}
	all := make([]*timeSeries, 0, len(v.series))
	for _, ts := range v.series {
		all = append(all, f(ts))
	}
	v.series = all
	return v, nil
}

// stepwise calculates each datapoint but the first from itself and the one before.
func stepwise(f func(from, to point) float64) function {
	return function{1, 1, func(_ *evaluator, args []value) (value, error) {
		return seriesWise(args[0], func(ts *timeSeries) *timeSeries {
			var points []point
			for i := 1; i < len(ts.points); i++ {
				points = append(points, point{ts.points[i].at, f(ts.points[i-1], ts.points[i])})
			}
			return derive(points, ts)
		})
	}}
}

func runningSum(_ *evaluator, args []value) (value, error) {
	return seriesWise(args[0], func(ts *timeSeries) *timeSeries {
		total := 0.0
		return ts.each(func(x float64) float64 { total += x; return total })
	})
}

// metrics are the metrics of the call, or those whose ID contains the argument.
func metrics(e *evaluator, args []value) (value, error) {
	part := ""
	if len(args) == 1 {
		if args[0].kind != word {
			return value{}, wrongKind("text", args[0])
		}
		part = args[0].text
	}
	var all []*timeSeries
	for _, q := range e.queries {
		if q.stat == nil || !strings.Contains(q.id, part) {
			continue
		}
		v, err := e.query(q.id)
		if err != nil {
			return value{}, err
		}
		all = append(all, v.series...)
	}
	return arrayValue(all), nil
}

func metricCount(_ *evaluator, args []value) (value, error) {
	if args[0].kind != array {
		return value{}, wrongKind("TimeSeries[]", args[0])
	}
	return scalarValue(float64(len(args[0].series))), nil
}

func first(_ *evaluator, args []value) (value, error) {
	if args[0].kind != array || len(args[0].series) == 0 {
		return value{}, wrongKind("TimeSeries[] with members", args[0])
	}
	return singleValue(args[0].series[0]), nil
}

func last(_ *evaluator, args []value) (value, error) {
	if args[0].kind != array || len(args[0].series) == 0 {
		return value{}, wrongKind("TimeSeries[] with members", args[0])
	}
	return singleValue(args[0].series[len(args[0].series)-1]), nil
}

func removeEmpty(_ *evaluator, args []value) (value, error) {
	if args[0].kind != array {
		return value{}, wrongKind("TimeSeries[]", args[0])
	}
	empty := func(ts *timeSeries) bool { return len(ts.points) == 0 }
	return arrayValue(slices.DeleteFunc(slices.Clone(args[0].series), empty)), nil
}

func period(_ *evaluator, args []value) (value, error) {
	if args[0].kind != single {
		return value{}, wrongKind("TimeSeries", args[0])
	}
	return scalarValue(float64(args[0].series[0].period)), nil
}

// constant is a number at every time of the window, at the longest period of the call.
func constant(e *evaluator, args []value) (value, error) {
	if args[0].kind != scalar {
		return value{}, wrongKind("number", args[0])
	}
	ts := &timeSeries{status: types.StatusCodeComplete}
	for _, q := range e.queries {
		ts.period = max(ts.period, q.period)
	}
	if ts.period == 0 {
		ts.period = 60
	}
	var points []point
	for _, t := range e.window(ts.period).times() {
		points = append(points, point{t, args[0].number})
	}
	return singleValue(derive(points, ts)), nil
}

// at is what the value is worth at a time: always the number, or the time series' datapoint.
func (v value) at(t int64) (float64, bool) {
	if v.kind == scalar {
		return v.number, true
	}
	return v.series[0].at(t)
}

// choose is IF: at each time that the condition has a datapoint for, one of two values.
func choose(_ *evaluator, args []value) (value, error) {
	condition := args[0]
	branches := append(slices.Clone(args[1:]), singleValue(&timeSeries{status: types.StatusCodeComplete}))[:2]
	if condition.kind == scalar {
		if condition.number != 0 {
			return branches[0], nil
		}
		return branches[1], nil
	}
	from := slices.Clone(condition.series)
	for _, v := range append(branches, condition) {
		if v.kind != scalar && v.kind != single {
			return value{}, wrongKind("TimeSeries or number", v)
		}
		from = append(from, v.series...)
	}
	var points []point
	for _, p := range condition.series[0].points {
		chosen := branches[0]
		if p.value == 0 {
			chosen = branches[1]
		}
		if v, ok := chosen.at(p.at); ok {
			points = append(points, point{p.at, v})
		}
	}
	return singleValue(derive(points, from...)), nil
}

// fillGaps puts datapoints where a time series has none: a number, another time
// series' datapoints, the datapoint before (REPEAT) or those on a line (LINEAR).
func fillGaps(e *evaluator, args []value) (value, error) {
	with := args[1]
	var gap func(ts *timeSeries, t int64) (float64, bool)
	switch {
	case with.kind == scalar, with.kind == single:
		gap = func(_ *timeSeries, t int64) (float64, bool) { return with.at(t) }
	case with.kind == word && with.text == "REPEAT":
		gap = before
	case with.kind == word && with.text == "LINEAR":
		gap = between
	default:
		return value{}, fmt.Errorf("%w, REPEAT or LINEAR", wrongKind("TimeSeries, number", with))
	}
	return seriesWise(args[0], func(ts *timeSeries) *timeSeries {
		filled := map[int64]float64{}
		for _, p := range ts.points {
			filled[p.at] = p.value
		}
		for _, t := range e.window(ts.period).times() {
			if _, ok := filled[t]; ok {
				continue
			}
			if v, ok := gap(ts, t); ok {
				filled[t] = v
			}
		}
		var points []point
		for _, t := range slices.Sorted(maps.Keys(filled)) {
			points = append(points, point{t, filled[t]})
		}
		return derive(points, ts)
	})
}

// after returns the index of the first datapoint after t.
func (ts *timeSeries) after(t int64) int {
	i := slices.IndexFunc(ts.points, func(p point) bool { return p.at > t })
	if i < 0 {
		return len(ts.points)
	}
	return i
}

func before(ts *timeSeries, t int64) (float64, bool) {
	i := ts.after(t)
	if i == 0 {
		return 0, false
	}
	return ts.points[i-1].value, true
}

func between(ts *timeSeries, t int64) (float64, bool) {
	i := ts.after(t)
	if i == 0 || i == len(ts.points) {
		return 0, false
	}
	from, to := ts.points[i-1], ts.points[i]
	return from.value + (to.value-from.value)*float64(t-from.at)/float64(to.at-from.at), true
}
