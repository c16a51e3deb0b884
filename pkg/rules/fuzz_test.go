package rules

import (
	"slices"
	"strings"
	"testing"

	promlabels "github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/selection"
)

var fuzzOperators = []selection.Operator{
	selection.Equals, selection.DoubleEquals, selection.NotEquals, selection.In, selection.NotIn,
	selection.Exists, selection.DoesNotExist, selection.GreaterThan, selection.LessThan,
}

// fuzzTemplates are queries with 1 or more selectors that have all matchers.
var fuzzTemplates = []string{
	stockQuery,
	`sum(<<.Series>>{<<.LabelMatchers>>,container!="POD"}) by (<<.GroupBy>>) / on (<<.GroupBy>>) max(y{a="b",<<.LabelMatchers>>}) by (<<.GroupBy>>)`,
	`<<if .Series>><<.Series>>{<<.LabelMatchers>>} > 0<<end>>`,
	"label_replace(<<.Series>>{<<.LabelMatchers>>}, \"a\", `$1`, 'b', '(.*)')",
}

// valuesTemplate takes the values as they are.
const valuesTemplate = `sum(x{pod=~"<<.LabelValuesByName.pod>>",namespace='<<index .LabelValuesByName "namespace">>'}) by (pod)`

// FuzzQuestion shows that a question is refused, or asks for exactly the objects and
// labels that it was given, and is otherwise the query of the rule.
func FuzzQuestion(f *testing.F) {
	for _, hard := range []string{
		"web-1", `a"b`, `a\`, `\"`, "a\nb", "a}b", `"} or vector(1) or x{a="`, ".*", "a|b", "(", "[a", "a.b", "^a$", "'", "`", "#", "\x00", "\xff",
		"<<.Series>>", "$1", "ä", "\u2028", "a,b", `\x22`, `"+"`, "", " ", "{{", "%s", `*`, `\Q`, `\E`,
	} {
		f.Add("q", hard, "b", "shop", hard, "web", uint8(0))
		f.Add("q", "a", hard, hard, "web", hard, uint8(3))
		f.Add(hard, "a", "b", "shop", "web", "web-2", uint8(4))
		f.Add("q", hard, "b", "shop", "web", "", uint8(12))
	}
	var rules []*Compiled
	for _, text := range fuzzTemplates {
		rules = append(rules, podRule(f, text))
	}
	values := podRule(f, valuesTemplate)
	f.Fuzz(func(t *testing.T, key, value, other, namespace, name, second string, choice uint8) {
		in := input{target: target{object: "pod", namespace: "namespace"}, series: "x", in: namespace, names: []string{name}}
		if second != "" {
			in.names = append(in.names, second)
		}
		operator := fuzzOperators[int(choice)%len(fuzzOperators)]
		switch operator {
		case selection.In, selection.NotIn:
			in.requirements = []requirement{{key, operator, []string{value}}}
			if other != "" {
				in.requirements[0].values = append(in.requirements[0].values, other)
			}
		case selection.Exists, selection.DoesNotExist:
			in.requirements = []requirement{{key, operator, nil}}
		default:
			in.requirements = []requirement{{key, operator, []string{value}}}
		}
		in.scope = Scope(int(choice) / len(fuzzOperators) % 3)
		for _, c := range rules {
			checkQuestion(t, c.query, in)
		}
		if in.scope == Named {
			checkValues(t, values.query, in)
		}
	})
}

// FuzzCompile shows that any file compiles in bounded time, or is refused in one line
// a fault.
func FuzzCompile(f *testing.F) {
	for _, text := range append(slices.Clone(fuzzTemplates), valuesTemplate, `<<range $i := 9>><<range .GroupBySlice>>x<<end>><<end>>`,
		`<<define "a">>x<<template "b" .>><<end>><<define "b">><<template "a" $>><<end>><<template "a" .>>`, `<<printf "%9999d" 1>>`, `sum((x{`) {
		f.Add(`{namespace!=""}`, "kube_<<.Group>>_<<.Resource>>", "namespace", "^(.*)_total$", "${1}_per_second", text)
	}
	f.Fuzz(func(t *testing.T, seriesQuery, template, label, matches, as, metricsQuery string) {
		rule := Rule{
			SeriesQuery: seriesQuery, SeriesFilters: []RegexFilter{{IsNot: matches}}, Name: Name{Matches: matches, As: as},
			Resources:    Resources{Template: template, Overrides: map[string]GroupResource{label: {Resource: "namespace"}}},
			MetricsQuery: metricsQuery,
		}
		usage := ResourceRule{ContainerQuery: metricsQuery, NodeQuery: metricsQuery, Resources: rule.Resources, ContainerLabel: label}
		set, err := (File{Rules: []Rule{rule}}).Compile(nil)
		if err == nil {
			c := set.Custom[0]
			c.MetricName("http_requests_total")
			c.Resources(cluster, []string{label, "kube_apps_deployment", template})
			for scope := Named; scope <= Cluster; scope++ {
				ask := Ask{Series: "x", Resource: pods, Namespace: "shop", Names: []string{"web"}, Scope: scope}
				if q, err := c.Question(cluster, ask); err == nil {
					mustParse(t, q.PromQL)
				}
				if err := c.Shareable(cluster, ask); err == nil && scope != Named {
					if _, err := c.Question(cluster, ask); err != nil {
						t.Errorf("shareable, but: %v", err)
					}
				}
			}
		}
		_, err = (File{ExternalRules: []Rule{rule}, ResourceRules: &ResourceRules{CPU: usage, Memory: usage}}).Compile(nil)
		if err != nil {
			for fault := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(fault, "externalRules[0].") && !strings.HasPrefix(fault, "resourceRules.") {
					t.Errorf("got %q among %q", fault, err)
				}
			}
		}
	})
}

// harmless is the input with other values.
func harmless(in input) input {
	in.in, in.names = "a", []string{"a", "b"}[:len(in.names)]
	in.requirements = slices.Clone(in.requirements)
	for i := range in.requirements {
		in.requirements[i].values = []string{"a", "b"}[:len(in.requirements[i].values)]
	}
	return in
}

func checkQuestion(t *testing.T, q *query, in input) {
	t.Helper()
	text, window, err := q.ask(in)
	if err != nil {
		return
	}
	plain, wantWindow, err := q.ask(harmless(in))
	if err != nil {
		t.Fatalf("%q is asked, but with other values: %v", text, err)
	}
	if window != wantWindow {
		t.Errorf("got window %v, want %v", window, wantWindow)
	}
	got, want := mustParse(t, text), mustParse(t, plain)
	gotSelectors, wantSelectors := selectors(got), selectors(want)
	if len(gotSelectors) != len(wantSelectors) {
		t.Fatalf("%q has %d selectors, want %d", text, len(gotSelectors), len(wantSelectors))
	}
	asked := len(in.requirements) + 2
	for i, s := range gotSelectors {
		w := wantSelectors[i]
		if len(s.LabelMatchers) != len(w.LabelMatchers) {
			t.Fatalf("%q has %d matchers, want %d", text, len(s.LabelMatchers), len(w.LabelMatchers))
		}
		start := slices.IndexFunc(s.LabelMatchers, func(m *promlabels.Matcher) bool { return m.Name == in.requirements[0].key })
		if start < 0 || start+asked > len(s.LabelMatchers) {
			t.Fatalf("%q lacks matchers", text)
		}
		if in.requirements[0].key == "a" && start == 0 && s.LabelMatchers[1].Name == "a" {
			start = 1 // That of the template comes before.
		}
		checkMatchers(t, in, s.LabelMatchers[start:start+asked])
		s.LabelMatchers, w.LabelMatchers = slices.Delete(s.LabelMatchers, start, start+asked), slices.Delete(w.LabelMatchers, start, start+asked)
	}
	if got.String() != want.String() {
		t.Errorf("%q is of another shape than %q", text, plain)
	}
}

func checkMatchers(t *testing.T, in input, got []*promlabels.Matcher) {
	t.Helper()
	r := in.requirements[0]
	switch r.operator {
	case selection.Equals, selection.DoubleEquals:
		checkMatcher(t, got[0], r.key, promlabels.MatchEqual, r.values)
	case selection.NotEquals:
		checkMatcher(t, got[0], r.key, promlabels.MatchNotEqual, r.values)
	case selection.In:
		checkMatcher(t, got[0], r.key, promlabels.MatchRegexp, r.values)
	case selection.NotIn:
		checkMatcher(t, got[0], r.key, promlabels.MatchNotRegexp, r.values)
	case selection.Exists:
		checkMatcher(t, got[0], r.key, promlabels.MatchNotEqual, []string{""})
	case selection.DoesNotExist:
		checkMatcher(t, got[0], r.key, promlabels.MatchEqual, []string{""})
	default:
		t.Errorf("the operator %s is asked", r.operator)
	}
	if in.scope == Cluster {
		checkMatcher(t, got[1], "namespace", promlabels.MatchNotEqual, []string{""})
	} else {
		checkMatcher(t, got[1], "namespace", promlabels.MatchEqual, []string{in.in})
	}
	switch {
	case in.scope != Named:
		checkMatcher(t, got[2], "pod", promlabels.MatchNotEqual, []string{""})
	case len(in.names) == 1:
		checkMatcher(t, got[2], "pod", promlabels.MatchEqual, in.names)
	default:
		checkMatcher(t, got[2], "pod", promlabels.MatchRegexp, in.names)
	}
}

// checkMatcher looks whether a matcher is about exactly those values.
func checkMatcher(t *testing.T, m *promlabels.Matcher, name string, kind promlabels.MatchType, values []string) {
	t.Helper()
	if m.Name != name || m.Type != kind {
		t.Errorf("got matcher %s, want one of %q by %s", m, name, kind)
	}
	positive := kind == promlabels.MatchEqual || kind == promlabels.MatchRegexp
	try := append([]string{"", "a", "web", "\n"}, values...)
	for _, v := range values {
		try = append(try, v+"x", "x"+v, strings.ToUpper(v), strings.ReplaceAll(v, ".", "x"), strings.TrimSuffix(v, "\n"))
		if v != "" {
			try = append(try, v[1:], v[:len(v)-1])
		}
	}
	for _, v := range try {
		if m.Matches(v) != (slices.Contains(values, v) == positive) {
			t.Errorf("matcher %s of %q: matches %q: %v", m, values, v, m.Matches(v))
		}
	}
}

// checkValues looks whether values that a template takes as they are change nothing else.
func checkValues(t *testing.T, q *query, in input) {
	t.Helper()
	text, _, err := q.ask(in)
	if err != nil {
		return
	}
	expr := mustParse(t, text)
	list := selectors(expr)
	if len(list) != 1 || len(list[0].LabelMatchers) != 3 {
		t.Fatalf("%q is of another shape", text)
	}
	matchers := list[0].LabelMatchers
	for _, name := range in.names {
		if !matchers[0].Matches(name) {
			t.Errorf("%q does not match %q", text, name)
		}
	}
	if matchers[1].Value != in.in {
		t.Errorf("%q has another namespace than %q", text, in.in)
	}
	list[0].LabelMatchers = matchers[2:]
	if expr.String() != "sum by (pod) (x)" {
		t.Errorf("%q is of another shape", text)
	}
}

func mustParse(tb testing.TB, text string) parser.Expr {
	tb.Helper()
	expr, err := promQL.ParseExpr(text)
	if err != nil {
		tb.Fatalf("%q: %v", text, err)
	}
	return expr
}

func selectors(expr parser.Expr) []*parser.VectorSelector {
	var list []*parser.VectorSelector
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			list = append(list, s)
		}
		return nil
	})
	return list
}
