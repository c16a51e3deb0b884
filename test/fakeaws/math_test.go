package fakeaws

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

func TestMath(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	put(s, "a", map[int]float64{1: 10, 2: 20, 4: -40.5})
	put(s, "b", map[int]float64{1: 2, 2: 0, 3: 3})
	put(s, "five", map[int]float64{5: 60, 10: 120})
	queries := []types.MetricDataQuery{
		metric("a", "a", 60, "Sum"), metric("b", "b", 60, "Sum"),
		metric("five", "five", 300, "Sum"), metric("none", "none", 60, "Sum"),
	}
	for i := range queries {
		queries[i].ReturnData = aws.Bool(false)
	}
	tests := []struct {
		expression string
		want       string // results with "; " between them
	}{
		{"a", "1:10 2:20 4:-40.5"},
		{"a+b", "1:12 2:20"},
		{"a-b", "1:8 2:20"},
		{"a*b", "1:20 2:0"},
		{"a/b", "1:5"},
		{"b^2", "1:4 2:0 3:9"},
		{"-b^2", "1:-4 2:-0 3:-9"},
		{"2^3^2*b/b", "1:512 3:512"},
		{"1 + 2 * b - 3", "1:2 2:-2 3:4"},
		{"(1 + 2) * b", "1:6 2:0 3:9"},
		{"1.5e1 * b", "1:30 2:0 3:45"},
		{".5*b", "1:1 2:0 3:1.5"},
		{"a > 10", "1:0 2:1 4:0"},
		{"a >= 10 AND a < 20", "1:1 2:0 4:0"},
		{"a == 10 || a == 20", "1:1 2:1 4:0"},
		{"a != 10 && 1", "1:0 2:1 4:1"},
		{"ABS(a)", "1:10 2:20 4:40.5"},
		{"CEIL(a)", "1:10 2:20 4:-40"},
		{"FLOOR(a)", "1:10 2:20 4:-41"},
		{"LOG10(a * 10 / a)", "1:1 2:1 4:1"},
		{"SUM([a, b])", "1:12 2:20 3:3 4:-40.5"},
		{"AVG([a, b])", "1:6 2:10 3:3 4:-40.5"},
		{"MIN([a,b])", "1:2 2:0 3:3 4:-40.5"},
		{"MAX([a,b])", "1:10 2:20 3:3 4:-40.5"},
		{"STDDEV([a,b])", "1:4 2:10 3:0 4:0"},
		{"SUM([none])", ""},
		{"SUM(METRICS('zzz'))", ""},
		{"SUM(METRICS(\"a\"))", "1:10 2:20 4:-40.5"},
		{"b + SUM(b)", "1:7 2:5 3:8"},
		{"b * AVG(b) * MIN(b) * STDDEV(none)", ""},
		{"b + MAX(a)", "1:22 2:20 3:23"},
		{"METRICS()", "1:10 2:20 4:-40.5; 1:2 2:0 3:3; 5:60 10:120; "},
		{"REMOVE_EMPTY(METRICS())", "1:10 2:20 4:-40.5; 1:2 2:0 3:3; 5:60 10:120"},
		{"[a,b]*2", "1:20 2:40 4:-81; 1:4 2:0 3:6"},
		{"[a,b]+a", "1:20 2:40 4:-81; 1:12 2:20"},
		{"a-[a,b]", "1:0 2:0 4:0; 1:8 2:20"},
		{"-[a,b]", "1:-10 2:-20 4:40.5; 1:-2 2:-0 3:-3"},
		{"FIRST([a,b])", "1:10 2:20 4:-40.5"},
		{"LAST([a,b])", "1:2 2:0 3:3"},
		{"METRIC_COUNT(METRICS()) * b", "1:8 2:0 3:12"},
		{"PERIOD(five) * b", "1:600 2:0 3:900"},
		{"five / PERIOD(five)", "5:0.2 10:0.4"},
		{"DIFF(a)", "2:10 4:-60.5"},
		{"DIFF_TIME(a)", "2:60 4:120"},
		{"RATE(a)", "2:0.16666666666666666 4:-0.5041666666666667"},
		{"RUNNING_SUM(b)", "1:2 2:2 3:5"},
		{"FILL(five, 0)", "0:0 5:60 10:120 15:0 20:0 25:0 30:0 35:0 40:0 45:0 50:0 55:0"},
		{"FILL(none, 1) * b", "1:2 2:0 3:3"},
		{"FILL(a, b) * 1", "1:10 2:20 3:3 4:-40.5"},
		{"FILL(five, REPEAT) - FILL(five, LINEAR)", "5:0 10:0"},
		{"FILL(a, REPEAT) + 0*b", "1:10 2:20 3:20"},
		{"FILL(a, LINEAR)", "1:10 2:20 3:-10.25 4:-40.5"},
		{"FILL([a,b], 5) * b", "1:20 2:0 3:15; 1:4 2:0 3:9"},
		{"IF(b, a, 7)", "1:10 2:7"},
		{"IF(b > 1, a)", "1:10"},
		{"IF(1, a, b)", "1:10 2:20 4:-40.5"},
		{"IF(0, a)", ""},
		{"IF(a > 15, 1, 0)", "1:0 2:1 4:0"},
		{"TIME_SERIES(3) + five", "5:63 10:123"},
		{"sum([a,b])", "1:12 2:20 3:3 4:-40.5"},
	}
	for _, test := range tests {
		t.Run(test.expression, func(t *testing.T) {
			out, err := client.GetMetricData(t.Context(), input(append(queries, mathQuery("e", test.expression))...))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range out.MetricDataResults {
				got = append(got, points(r))
			}
			if strings.Join(got, "; ") != test.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), test.want)
			}
		})
	}
}

func TestMathRefuses(t *testing.T) {
	s := startAtNoon(t)
	client := cloudWatchClient(s)
	for expression, words := range map[string]string{
		"a +* a":              "syntax error",
		"a a":                 "syntax error",
		"(a":                  `")" is missing`,
		"[a, a":               `"]" is missing`,
		"a $ a":               "syntax error",
		"NOTHING(a)":          "unsupported function NOTHING",
		"SEARCH('x')":         "unsupported function SEARCH",
		"ABS()":               "ABS takes 1 to 1 arguments",
		"[a] + [a]":           "unsupported operand types for +",
		"a + REPEAT":          "unsupported operand types for +",
		"FILL(a, 'x')":        "REPEAT or LINEAR",
		"FILL(1, 1)":          "expected TimeSeries",
		"SUM(1)":              "expected TimeSeries",
		"ABS('a')":            "expected TimeSeries",
		"[1, a]":              "expected TimeSeries",
		"PERIOD(METRICS())":   "expected TimeSeries",
		"METRICS(a)":          "expected text",
		"FIRST(METRICS('z'))": "with members",
		"LAST(a)":             "with members",
		"METRIC_COUNT(a)":     "expected TimeSeries[]",
		"REMOVE_EMPTY(a)":     "expected TimeSeries[]",
		"TIME_SERIES(a)":      "expected number",
		"IF([a], 1, 2)":       "expected TimeSeries or number",
		"REPEAT":              "must return a time series, and returns a text",
		" ":                   "empty",
	} {
		t.Run(expression, func(t *testing.T) {
			_, err := client.GetMetricData(t.Context(), input(metric("a", "a", 60, "Sum"), mathQuery("e", expression)))
			wantCode(t, err, "ValidationError", "Error in expression 'e': ")
			wantCode(t, err, "ValidationError", words)
		})
	}
}

func TestMathSaysWhatItDropped(t *testing.T) {
	s := startAtNoon(t)
	put(s, "a", map[int]float64{1: 0, 2: 2})
	out, err := cloudWatchClient(s).GetMetricData(t.Context(), input(metric("a", "a", 60, "Sum"), mathQuery("e", "1/a")))
	if err != nil {
		t.Fatal(err)
	}
	r := out.MetricDataResults[1]
	if got := points(r); got != "2:0.5" {
		t.Errorf("got %s, want 2:0.5", got)
	}
	if len(r.Messages) != 1 || *r.Messages[0].Code != "ArithmeticError" {
		t.Errorf("messages are %v, want an ArithmeticError", r.Messages)
	}
}
