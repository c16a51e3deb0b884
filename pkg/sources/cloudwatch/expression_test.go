package cloudwatch

import "testing"

func TestExpression(t *testing.T) {
	// m1 and m2 are metrics, e1 and sum are expressions; they become A, B, C and D.
	ids := map[string]int{"m1": 0, "m2": 1, "e1": 2, "sum": 3}
	written := []string{"A", "B", "C", "D"}
	for _, test := range []struct {
		text  string
		want  string
		alone bool
	}{
		{text: "m1+m2", want: "A+B"},
		{text: "m1 / m2 * 100", want: "A / B * 100"},
		{text: "(m1-m2)^2", want: "(A-B)^2"},
		{text: "m1", want: "A"},
		{text: "e1/m1", want: "C/A"},
		{text: "SUM([m1,m2])", want: "SUM([A,B])"},
		{text: "SUM(METRICS())", want: "SUM([A,B])"},
		{text: "METRICS()", want: "[A,B]"},
		{text: "AVG( METRICS ( ) ) / m1", want: "AVG( [A,B] ) / A"},
		{text: "metrics()", want: "[A,B]"},
		{text: "[SUM(METRICS()), m1]", want: "[SUM([A,B]), A]"},
		{text: "SUM(METRICS('m'))", alone: true},
		{text: `SUM(METRICS("m1"))`, alone: true},
		{text: "SUM([METRICS(), m1])", alone: true},
		{text: "FILL(m1, REPEAT)", want: "FILL(A, REPEAT)"},
		{text: "IF(m1 > 1e5 AND m2 <= 2.5, m1, m2)", want: "IF(A > 1e5 AND B <= 2.5, A, B)"},
		{text: "IF(m1>10,m1)", want: "IF(A>10,A)"},
		// A name before a bracket is a function's, whatever the ids are.
		{text: "sum(sum)", want: "sum(D)"},
		{text: "m10+m1", alone: true},
		{text: "m1m+m1", alone: true},
		{text: "other+1", alone: true},
		{text: "M1+m1", want: "M1+A"},
		{text: "SEARCH('{AWS/EC2,m1} MetricName=\"m2\"', 'Average', 300)", want: "SEARCH('{AWS/EC2,m1} MetricName=\"m2\"', 'Average', 300)"},
		{text: `m1 + SUM(SEARCH("{x,m1} it's m2", "Sum"))`, want: `A + SUM(SEARCH("{x,m1} it's m2", "Sum"))`},
		{text: `SEARCH('{x} a\'m1\'', 'Sum')`, alone: true},
		{text: "SEARCH('m1", alone: true},
		{text: "METRICS(“m1”)", alone: true},
		{text: "m1 + 'ü'", want: "A + 'ü'"},
		{text: "SELECT MAX(m1) FROM m2", want: "SELECT MAX(m1) FROM m2"},
		{text: " select\nAVG(m1) FROM SCHEMA(\"m2\", e1)", want: " select\nAVG(m1) FROM SCHEMA(\"m2\", e1)"},
		{text: "SELECTED(m1)", want: "SELECTED(A)"},
		{text: "METRICS", want: "METRICS"},
		{text: "SUM(", want: "SUM("},
		{text: ")]m1", want: ")]A"},
		{text: "2m1", want: "2m1"},
	} {
		t.Run(test.text, func(t *testing.T) {
			e := parseExpression(test.text, ids)
			if e.alone != test.alone {
				t.Fatalf("alone is %v, want %v", e.alone, test.alone)
			}
			if got := e.write(written, written[:2]); !e.alone && got != test.want {
				t.Errorf("written %q, want %q", got, test.want)
			}
		})
	}
}

func TestExpressionFindsPeriods(t *testing.T) {
	for text, want := range map[string]int32{
		"SEARCH('{AWS/EC2} x', 'Average', 300)":                    300,
		"SUM(SEARCH('x', 'Sum', 60)) + SUM(SEARCH('y','Sum',600))": 600,
		"SEARCH('x', 'Sum')":                                       0,
		"SEARCH('x', 'Sum', 61)":                                   0,
		"FILL(SEARCH('x', 'Sum', 60), 3600)":                       60,
		"SEARCH('x', 'Sum', 99999999999)":                          0,
	} {
		if got := parseExpression(text, nil).period; got != want {
			t.Errorf("%s has the period %d, want %d", text, got, want)
		}
	}
}

// FuzzExpression: an expression that can share a call is made of the same tokens
// again, its own ids aside, and never names an id of others.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		"m1+m2", "SUM(METRICS())", "SEARCH('{a,b} m1', \"Sum\", 60)", "[METRICS(),m1]", "select m1", "tg1+m1", "1e5+m1", "METRICS (", "m1\\'",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids := map[string]int{"m1": 0, "m2": 1}
		e := parseExpression(text, ids)
		if e.alone {
			return
		}
		if got := e.write([]string{"m1", "m2"}, nil); got != text && !e.allMetrics {
			t.Errorf("%q becomes %q with its own ids", text, got)
		}
		if e.insights {
			return
		}
		tokens, ok := tokenize(e.write([]string{"tg1", "tg2"}, []string{"tg1", "tg2"}))
		if !ok {
			t.Fatalf("%q cannot be read any more once it is written", text)
		}
		for i, token := range tokens {
			lower := token.kind == tokenWord && token.text[0] >= 'a' && token.text[0] <= 'z'
			if lower && token.text != "tg1" && token.text != "tg2" && nextMark(tokens[i+1:]) != "(" {
				t.Errorf("%q is written with the name %q", text, token.text)
			}
		}
	})
}

func nextMark(tokens []token) string {
	for _, t := range tokens {
		if t.kind != tokenBlank {
			return t.text
		}
	}
	return ""
}
