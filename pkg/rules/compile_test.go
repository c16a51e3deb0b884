package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// minimal is a rule with one more field.
func minimal(field string) string {
	return `
rules:
- seriesQuery: '{pod!=""}'
  resources: {overrides: {pod: {resource: pod}, namespace: {resource: namespace}}}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  ` + field
}

// with is a rule of these fields.
func with(fields ...string) string { return "rules:\n- " + strings.Join(fields, "\n  ") }

const (
	aSeries    = `seriesQuery: '{namespace!=""}'`
	aTemplate  = `resources: {template: <<.Resource>>}`
	aQuery     = `metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)`
	anExternal = "externalRules:\n- seriesQuery: x\n  "
)

// A series makes a metric if metricsQuery asks for it with its name in the place of .Series.
func TestNamesThatAQueryCannotHave(t *testing.T) {
	for _, tc := range []struct {
		query string
		names map[string]bool
	}{
		{"sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)", map[string]bool{"inf": false, "nan": false, "Inf": false, "up": true, "some_series": true, "rate": true}},
		{"rate(<<.Series>>[2m])", map[string]bool{"http.requests": false, "http-requests": false, "größe": false, "a:b": true}},
		{"sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)", map[string]bool{"http-requests": false, "sum(up) or up": false, "up{} or up": false}},
		{`sum({__name__="<<.Series>>",<<.LabelMatchers>>}) by (<<.GroupBy>>)`, map[string]bool{
			"inf": true, "nan": true, "up": true, "http.requests": true, "größe": true, `a"b`: false, `a\b`: false, "a\nb": false, "": false, "\xff": false,
			`a",b="c`: false, `x"} or {"y`: false, strings.Repeat("ä", 200): false,
		}},
		{`sum({"<<.Series>>",<<.LabelMatchers>>}) by (<<.GroupBy>>) / count({'<<.Series>>'})`, map[string]bool{"inf": true, "http.requests": true, "a b": true, "it's": false}},
		{`sum({__name__=~"<<.Series>>_.*",<<.LabelMatchers>>})`, map[string]bool{"up": true, "http.requests": false}},
		{`sum({__name__=~"<<.Series>>",<<.LabelMatchers>>})`, map[string]bool{"up": true, "http.requests": false}},
	} {
		set, err := File{Rules: []Rule{{SeriesQuery: `{app="a"}`, Resources: Resources{Template: "<<.Resource>>"}, MetricsQuery: tc.query}}}.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range tc.names {
			for range 2 { // The second time it is remembered.
				if _, got := set.Custom[0].MetricName(name); got != want {
					t.Errorf("%s with %s: got %v, want %v", tc.query, name, got, want)
				}
				// What is listed can be read, and nothing else.
				ask := Ask{Series: name, Resource: pods, Namespace: "shop", Names: []string{"a"}}
				if _, err := set.Custom[0].Question(cluster, ask); (err == nil) != want {
					t.Errorf("%s with %s: the question is %v, want one: %v", tc.query, name, err, want)
				}
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	long := strings.Repeat("x", maxTextBytes+1)
	for _, test := range []struct {
		name, text string
		// want are pieces of the error; the first is its start.
		want []string
	}{
		{"no seriesQuery", with(aTemplate, aQuery), []string{"rules[0].seriesQuery: is required"}},
		{"seriesQuery is an expression", with(`seriesQuery: sum(x)`, aTemplate, aQuery), []string{"rules[0].seriesQuery: is no series selector: 1:4: parse error: unexpected"}},
		{"seriesQuery of everything", with(`seriesQuery: '{__name__!="^container_.*"}'`, aTemplate, aQuery), []string{"rules[0].seriesQuery: selects all series", "(add one"}},
		{"seriesQuery of an empty regex", with(`seriesQuery: '{pod=~".*"}'`, aTemplate, aQuery), []string{"rules[0].seriesQuery: selects all series"}},
		{"long seriesQuery", with(`seriesQuery: `+long, aTemplate, aQuery), []string{"rules[0].seriesQuery: has 16385 bytes, of which at most 16384 are allowed"}},
		{"two filters in one", minimal(`seriesFilters: [{is: a, isNot: b}]`), []string{"rules[0].seriesFilters[0]: needs one of is and isNot"}},
		{"an empty filter", minimal(`seriesFilters: [{is: a}, {}]`), []string{"rules[0].seriesFilters[1]: needs one of is and isNot"}},
		{"a broken filter", minimal(`seriesFilters: [{isNot: 'a('}]`), []string{"rules[0].seriesFilters[0].isNot: is no regular expression: missing closing ): `a(`"}},
		{"name.matches", minimal(`name: {matches: '(a'}`), []string{"rules[0].name.matches: is no regular expression"}},
		{"two captures without as", minimal(`name: {matches: '(a)(b)'}`), []string{"rules[0].name.as: is required, since name.matches has 2 captures"}},
		{"a capture too many", minimal(`name: {matches: '(a)', as: '$2'}`), []string{"rules[0].name.as: refers to capture 2, but name.matches has 1"}},
		{"a capture without name.matches", minimal(`name: {as: '$1'}`), []string{"rules[0].name.as: refers to capture 1, but name.matches has 0"}},
		{"an unnamed capture", minimal(`name: {matches: '(a)', as: '${b}'}`), []string{`rules[0].name.as: refers to a capture of the name "b"`}},
		{"a capture that swallows what follows", minimal(`name: {matches: '^(.*)_total$', as: '$1_per_second'}`), []string{`rules[0].name.as: refers to a capture of the name "1_per_second", which name.matches does not have (write ${1}_per_second)`}},
		{"a name with a slash", minimal(`name: {matches: '(a)', as: 'x/$1'}`), []string{"rules[0].name.as: has a character that cannot be in the path of a URL"}},
		{"a template that does not parse", with(aSeries, `resources: {template: 'kube_<<.Resource'}`, aQuery), []string{"rules[0].resources.template: is no template"}},
		{"a template without resource", with(aSeries, `resources: {template: 'kube_<<.Group>>'}`, aQuery), []string{"rules[0].resources.template: does not have <<.Resource>>"}},
		{"a template of another field", with(aSeries, `resources: {template: '<<.Kind>>'}`, aQuery), []string{"rules[0].resources.template: fails", "can't evaluate field Kind", "(it may use .Group and .Resource"}},
		{"a template that cuts", with(aSeries, `resources: {template: '<<slice .Resource 1>>'}`, aQuery), []string{"rules[0].resources.template: does not have <<.Resource>> as it is"}},
		{"a template of no label name", with(aSeries, `resources: {template: 'kube-<<.Resource>>'}`, aQuery), []string{`rules[0].resources.template: gives "kube-deployment", which is no Prometheus label name`}},
		{"a template that grows", with(aSeries, `resources: {template: '<<range 999999999>>x<<end>><<.Resource>>'}`, aQuery), []string{"rules[0].resources.template: gives more than"}},
		{"an override of no label name", with(aSeries, `resources: {overrides: {app.kubernetes.io/name: {resource: pod}}}`, aQuery), []string{`rules[0].resources.overrides: "app.kubernetes.io/name" is no Prometheus label name`}},
		{"an override of nothing", with(aSeries, `resources: {overrides: {pod: {group: apps}}}`, aQuery), []string{"rules[0].resources.overrides.pod: names no resource"}},
		{"no metricsQuery", with(aSeries, aTemplate), []string{"rules[0].metricsQuery: is required"}},
		{"a metricsQuery that is no template", with(aSeries, aTemplate, `metricsQuery: sum(<<.Series)`), []string{"rules[0].metricsQuery: is no template: metricsQuery:1: unexpected right paren"}},
		{"a metricsQuery of another field", with(aSeries, aTemplate, `metricsQuery: sum(<<.Serie>>)`), []string{"rules[0].metricsQuery: fails: metricsQuery:1:6", "can't evaluate field Serie (it may use .Series,"}},
		{"a metricsQuery of no PromQL", with(aSeries, aTemplate, `metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>} by (<<.GroupBy>>)`), []string{"rules[0].metricsQuery: gives no valid PromQL: 1:", `: sum(some_series{namespace="some-namespace",pod="some-object"} by (pod) (its labels are examples)`}},
		{"an unknown function", with(aSeries, aTemplate, `metricsQuery: smu(<<.Series>>{<<.LabelMatchers>>})`), []string{`rules[0].metricsQuery: gives no valid PromQL: 1:1: parse error: unknown function with name "smu"`}},
		{"a matrix", with(aSeries, aTemplate, `metricsQuery: <<.Series>>{<<.LabelMatchers>>}[5m]`), []string{"rules[0].metricsQuery: gives a range vector, not an instant vector"}},
		{"a scalar", with(aSeries, aTemplate, `metricsQuery: scalar(<<.Series>>{<<.LabelMatchers>>})`), []string{"rules[0].metricsQuery: gives a scalar, not an instant vector"}},
		{"a string", anExternal + `metricsQuery: '"x"'`, []string{"externalRules[0].metricsQuery: gives a string"}},
		{"an empty query", with(aSeries, aTemplate, `metricsQuery: "<<if false>>x<<end>> "`, "noData: never"), []string{`rules[0].noData: "never" is neither error nor zero`}},
		{"blanks", with(aSeries, aTemplate, `metricsQuery: " "`), []string{"rules[0].metricsQuery: gives an empty query"}},
		{"a container that is not there", with(aSeries, aTemplate, `metricsQuery: 'sum(<<.Series>>{<<.LabelMatchers>>}) by (<<index .GroupBySlice 1>>)'`), []string{"rules[0].metricsQuery: fails", "index out of range"}},
		{"an endless loop", with(aSeries, aTemplate, `metricsQuery: 'x{<<.LabelMatchers>>}<<range 9999999999>><<range 9999999999>><<end>><<end>>'`), []string{"rules[0].metricsQuery: takes more than 10000 turns"}},
		{"an endless recursion", with(aSeries, aTemplate, `metricsQuery: '<<define "a">><<template "a">><<end>><<template "a">>'`), []string{"rules[0].metricsQuery: takes more than 10000 turns"}},
		{"a doubling loop", with(aSeries, aTemplate, `metricsQuery: 'x<<$a := "xx">><<range 9999>><<$a = print $a $a>><<end>>'`), []string{"rules[0].metricsQuery: gives more than 1048576 bytes"}},
		{"a wide verb", with(aSeries, aTemplate, `metricsQuery: 'x<<printf "%999999d" 1>>'`), []string{"rules[0].metricsQuery: gives more than 1048576 bytes"}},
		{"interval", minimal("interval: 500ms"), []string{"rules[0].interval: 500ms is not between 1s and 10m"}},
		{"negative interval", minimal("interval: -1s"), []string{"rules[0].interval: -1s is not between"}},
		{"maxAge", minimal("maxAge: 1s"), []string{"rules[0].maxAge: 1s is not between 2s and 24h"}},
		{"maxAge below the default interval", minimal("maxAge: 10s"), []string{"rules[0].maxAge: 10s is shorter than the interval of 15s"}},
		{"too many rules", "rules: [" + strings.Repeat("{},", maxRules+1) + "]", []string{"rules: has 1001 rules"}},
		{"external without a query", anExternal + `noData: error`, []string{"externalRules[0].metricsQuery: is required"}},
		{"external groups", anExternal + "resources: {namespaced: false}\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<index .GroupBySlice 0>>)", []string{"externalRules[0].metricsQuery: fails"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			set, err := compile(t, test.text)
			if err == nil {
				t.Fatalf("compiles: %+v", set)
			}
			for i, want := range test.want {
				if !strings.Contains(err.Error(), want) || i == 0 && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("got %q, want %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("got more than one fault: %v", err)
			}
		})
	}
}

// TestCompileTellsAllFaults also shows that each has the line of its field, or of what the
// field would be in.
func TestCompileTellsAllFaults(t *testing.T) {
	f := File{
		Rules: []Rule{
			{SeriesQuery: "sum(", Resources: Resources{Template: "<<.Resource>>"}, MetricsQuery: "<<.Series>>{<<.LabelMatchers>>}"},
			{SeriesQuery: "a", SeriesFilters: []RegexFilter{{Is: "("}}, Options: Options{NoData: "x"}},
		},
		ExternalRules: []Rule{{SeriesQuery: "a", MetricsQuery: "(", Resources: Resources{Namespaced: new(bool)}}},
	}
	lines := map[string]int{
		"rules": 1, "rules[0]": 2, "rules[0].seriesQuery": 3, "rules[1]": 10, "rules[1].seriesFilters[0]": 12, "rules[1].noData": 14,
		"externalRules[0]": 20,
	}
	_, err := f.Compile(func(path string) int { return lines[path] })
	if err == nil {
		t.Fatal("compiles")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		"line 3: rules[0].seriesQuery: is no series selector",
		"line 14: rules[1].noData: ",
		"line 12: rules[1].seriesFilters[0].is: ",
		"line 10: rules[1].metricsQuery: is required",
		"line 20: externalRules[0].metricsQuery: gives no valid PromQL",
	}
	if len(got) != len(want) {
		t.Fatalf("got %d faults, want %d:\n%v", len(got), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("fault %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

func TestCompileDefaults(t *testing.T) {
	set := mustCompile(t, minimal("")+`
- seriesQuery: 'y{pod!=""}'
  resources: {template: kube_<<.Resource>>}
  metricsQuery: <<.Series>>{<<.LabelMatchers>>}
  server: other
  interval: 1m
  maxAge: 2m
  noData: zero
  shareQueries: false
`)
	if set.Resource != nil || len(set.External) != 0 || len(set.Warnings) != 0 || len(set.Custom) != 2 {
		t.Fatalf("got %+v", set)
	}
	one, two := set.Custom[0], set.Custom[1]
	if one.ID != "rules[0]" || one.Server != "default" || one.Interval != 15*time.Second || one.MaxAge != 0 || one.ZeroForNoData || !one.Share {
		t.Errorf("defaults: got %+v", one)
	}
	if two.ID != "rules[1]" || two.Server != "other" || two.Interval != time.Minute || two.MaxAge != 2*time.Minute || !two.ZeroForNoData || two.Share {
		t.Errorf("options: got %+v", two)
	}
	if two.SeriesQuery != `y{pod!=""}` {
		t.Errorf("seriesQuery: got %q", two.SeriesQuery)
	}
}

// TestCompileAccepts has what prometheus-adapter accepts and what newer servers understand.
func TestCompileAccepts(t *testing.T) {
	for name, text := range map[string]string{
		"a query without matchers":          with(aSeries, aTemplate, `metricsQuery: 'count(cheddar{sharp="true"})'`),
		"a resource that is not there yet":  with(aSeries, `resources: {overrides: {brand: {group: cheese.io, resource: brand}}}`, aQuery),
		"experimental functions":            with(aSeries, aTemplate, `metricsQuery: sort_by_label(mad_over_time(<<.Series>>{<<.LabelMatchers>>}[5m]), "a")`),
		"experimental aggregations":         with(aSeries, aTemplate, `metricsQuery: limitk(1, <<.Series>>{<<.LabelMatchers>>})`),
		"duration expressions":              with(aSeries, aTemplate, `metricsQuery: rate(<<.Series>>{<<.LabelMatchers>>}[2m+1m])`),
		"extended ranges":                   with(aSeries, aTemplate, `metricsQuery: rate(<<.Series>>{<<.LabelMatchers>>}[5m] anchored)`),
		"fill modifiers":                    with(aSeries, aTemplate, `metricsQuery: <<.Series>>{<<.LabelMatchers>>} + fill(0) y{<<.LabelMatchers>>}`),
		"values as numbers":                 with(aSeries, aTemplate, `metricsQuery: topk(<<.LabelValuesByName.k>>, <<.Series>>{<<.LabelMatchers>>})`),
		"values as words":                   with(aSeries, aTemplate, `metricsQuery: '<<.Series>>{q="<<index .LabelValuesByName "queue">>"}'`),
		"loops":                             with(aSeries, aTemplate, `metricsQuery: 'sum(<<.Series>>{<<range $l, $v := .LabelValuesByName>><<$l>>=~"<<$v>>",<<end>>}) by (<<range .GroupBySlice>><<.>>,<<end>>)'`),
		"templates in the template":         with(aSeries, aTemplate, `metricsQuery: '<<define "m">>{<<.LabelMatchers>>}<<end>>sum(<<.Series>><<template "m" .>>)'`),
		"only for some series":              with(aSeries, aTemplate, `metricsQuery: '<<if eq .Series "mine">><<.Series>>{<<.LabelMatchers>>}<<end>>'`),
		"only for pods":                     with(aSeries, aTemplate, `metricsQuery: '<<if eq .GroupBy "pod">><<.Series>>{<<.LabelMatchers>>}<<else>>(<<end>>'`),
		"external, scalar":                  anExternal + "resources: {namespaced: false}\n  metricsQuery: scalar(sum(<<.Series>>{<<.LabelMatchers>>}))",
		"external, number":                  anExternal + "resources: {namespaced: false}\n  metricsQuery: 42",
		"a resource template with a switch": with(aSeries, `resources: {template: "<<if .Group>>kube_<<.Group>>_<<end>><<.Resource>>"}`, aQuery),
		"empty as":                          minimal(`name: {matches: "^(.*)_total", as: ""}`),
		"named capture":                     minimal(`name: {matches: "^(?P<x>.*)_total", as: "${x}_s"}`),
		"a dollar":                          minimal(`name: {matches: "^(.*)_total", as: "$$${1}$"}`),
	} {
		t.Run(name, func(t *testing.T) {
			set := mustCompile(t, text)
			if len(set.Warnings) != 0 {
				t.Errorf("got warnings: %q", set.Warnings)
			}
		})
	}
}

func TestCompileWarns(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"no resources", with(aSeries, aQuery), "rules[0]: makes no metric: it names no label of an object (set resources.template, or"},
		{
			"external without a label of namespaces", anExternal + `metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (name)`,
			"externalRules[0]: cannot be read, since no label names the namespace of the reader",
		},
		{
			"external that needs a selector", anExternal + "resources: {namespaced: false}\n  metricsQuery: 'x{<<.LabelMatchers>>,a=\"b\"}'",
			"externalRules[0].metricsQuery: gives no valid PromQL: 1:3: parse error: unexpected \",\" in label matching, expected identifier or \"}\": x{,a=\"b\"} (without a namespace and a metric selector .LabelMatchers is empty: write it last",
		},
		{"no metric", with("seriesQuery: x", aTemplate, aQuery, `seriesFilters: [{isNot: "^x$"}]`), "rules[0]: makes no metric: its seriesFilters and name leave out x"},
		{"a name that the query cannot have", with(`seriesQuery: '{"x-y"}'`, aTemplate, aQuery), "rules[0]: makes no metric: metricsQuery cannot have x-y, the only series of seriesQuery, in the place of .Series (write {\"<<.Series>>\",<<.LabelMatchers>>}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := mustCompile(t, test.text)
			if len(set.Warnings) != 1 || !strings.HasPrefix(set.Warnings[0], test.want) {
				t.Errorf("got %q, want %q", set.Warnings, test.want)
			}
		})
	}
}

func TestLiteral(t *testing.T) {
	for _, test := range []struct{ seriesQuery, want string }{
		{`x`, "x"},
		{`x{a="b"}`, "x"},
		{`{__name__="x",a="b"}`, "x"},
		{`{"x"}`, "x"},
		{`{__name__=~"x"}`, "x"},
		{`{__name__=~"x|y"}`, ""},
		{`{__name__=~"^x.*"}`, ""},
		{`{__name__!="x",a="b"}`, ""},
		{`{a="b"}`, ""},
	} {
		set := mustCompile(t, with(fmt.Sprintf("seriesQuery: '%s'", test.seriesQuery), aTemplate, aQuery))
		if got := set.Custom[0].Literal; got != test.want {
			t.Errorf("%s: got %q, want %q", test.seriesQuery, got, test.want)
		}
		metric, ok := set.Custom[0].LiteralMetric()
		if metric != test.want || ok != (test.want != "") {
			t.Errorf("%s: metric %q, %v", test.seriesQuery, metric, ok)
		}
	}
}

func TestMetricName(t *testing.T) {
	for _, test := range []struct {
		name, field, series, want string
	}{
		{"as it is", "", "http_requests", "http_requests"},
		{"without captures", "name: {matches: .*_total$}", "http_requests_total", "http_requests_total"},
		{"only what matches", "name: {matches: requests_total$}", "http_requests_total", "requests_total"},
		{"left out by name.matches", "name: {matches: _total$}", "http_requests", ""},
		{"one capture", "name: {matches: '^(.*)_total$'}", "http_requests_total", "http_requests"},
		{"replacement", "name: {matches: '^(.*)_total$', as: '${1}_per_second'}", "http_requests_total", "http_requests_per_second"},
		{"unanchored", "name: {matches: '^(.*)_total', as: '${1}_per_second'}", "http_requests_total_x", "http_requests_per_second"},
		{"two captures", "name: {matches: '^(.*)_(.*)_total$', as: '${2}_$1'}", "http_requests_total", "requests_http"},
		{"another name", "name: {as: other}", "http_requests", "other"},
		{"filters", "seriesFilters: [{is: http}, {isNot: _total$}]", "http_requests", "http_requests"},
		{"is", "seriesFilters: [{is: http}, {isNot: _total$}]", "grpc_requests", ""},
		{"isNot", "seriesFilters: [{is: http}, {isNot: _total$}]", "http_requests_total", ""},
		{"empty", "name: {matches: '^x(.*)'}", "x", ""},
		{"quoted in PromQL", "", "http.requests", ""},
		{"colons", "", "job:http_requests:rate5m", "job:http_requests:rate5m"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustCompile(t, minimal(test.field)).Custom[0]
			got, ok := c.MetricName(test.series)
			if got != test.want || ok != (test.want != "") {
				t.Errorf("got %q, %v; want %q", got, ok, test.want)
			}
		})
	}
}
