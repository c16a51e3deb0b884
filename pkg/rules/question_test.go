package rules

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func parseSelector(tb testing.TB, text string) labels.Selector {
	tb.Helper()
	s, err := labels.Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

const stockQuery = `sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)`

func TestQuestion(t *testing.T) {
	c := podRule(t, stockQuery)
	for _, test := range []struct {
		name string
		ask  Ask
		want Question
	}{
		{"one name", Ask{Resource: pods, Namespace: "shop", Names: []string{"web-1"}}, Question{
			PromQL: `sum(rate(x{namespace="shop",pod="web-1"}[2m])) by (pod)`, ObjectLabel: "pod",
		}},
		{"several names", Ask{Resource: pods, Namespace: "shop", Names: []string{"web-1", "web.2"}}, Question{
			PromQL: `sum(rate(x{namespace="shop",pod=~"web-1|web\\.2"}[2m])) by (pod)`, ObjectLabel: "pod",
		}},
		{"one name that is no regular expression", Ask{Resource: pods, Namespace: "shop", Names: []string{"web.2"}}, Question{
			PromQL: `sum(rate(x{namespace="shop",pod="web.2"}[2m])) by (pod)`, ObjectLabel: "pod",
		}},
		{"a namespace", Ask{Resource: pods, Namespace: "shop", Scope: Namespace}, Question{
			PromQL: `sum(rate(x{namespace="shop",pod!=""}[2m])) by (pod)`, ObjectLabel: "pod",
		}},
		{"all namespaces", Ask{Resource: pods, Scope: Cluster}, Question{
			PromQL: `sum(rate(x{namespace!="",pod!=""}[2m])) by (pod,namespace)`, ObjectLabel: "pod", NamespaceLabel: "namespace",
		}},
		{"a node", Ask{Resource: nodes, Names: []string{"n1"}}, Question{
			PromQL: `sum(rate(x{node="n1"}[2m])) by (node)`, ObjectLabel: "node",
		}},
		{"all nodes", Ask{Resource: nodes, Scope: Namespace}, Question{
			PromQL: `sum(rate(x{node!=""}[2m])) by (node)`, ObjectLabel: "node",
		}},
		{"all nodes of all namespaces", Ask{Resource: nodes, Scope: Cluster}, Question{
			PromQL: `sum(rate(x{node!=""}[2m])) by (node)`, ObjectLabel: "node",
		}},
		{"a namespace by itself", Ask{Resource: namespaces, Names: []string{"shop"}}, Question{
			PromQL: `sum(rate(x{namespace="shop"}[2m])) by (namespace)`, ObjectLabel: "namespace",
		}},
		{"all namespaces by themselves", Ask{Resource: namespaces, Scope: Cluster}, Question{
			PromQL: `sum(rate(x{namespace!=""}[2m])) by (namespace)`, ObjectLabel: "namespace",
		}},
		{"a selector of everything", Ask{Selector: labels.Everything(), Resource: pods, Namespace: "shop", Names: []string{"a"}}, Question{
			PromQL: `sum(rate(x{namespace="shop",pod="a"}[2m])) by (pod)`, ObjectLabel: "pod",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.ask.Series, test.want.Window = "x", 2*time.Minute
			for range 2 { // The second time from memory.
				got, err := c.Question(cluster, test.ask)
				if err != nil || got != test.want {
					t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
				}
			}
		})
	}
}

func TestQuestionSelectors(t *testing.T) {
	c := podRule(t, `<<.Series>>{<<.LabelMatchers>>}`)
	for _, test := range []struct{ selector, want string }{
		{"a=b", `a="b"`},
		{"a==b", `a="b"`},
		{"a!=b", `a!="b"`},
		{"a in (b)", `a=~"b"`},
		{"a in (b.c)", `a=~"b\\.c"`},
		{"a in (c,b.d)", `a=~"b\\.d|c"`},
		{"a in (,b)", `a=~"|b"`},
		{"a notin (b)", `a!~"b"`},
		{"a notin (b,c)", `a!~"b|c"`},
		{"a", `a!=""`},
		{"!a", `a=""`},
		{"b=1,a=2", `a="2",b="1"`},
		{"a!=b,a!=c", `a!="b",a!="c"`},
		{"namespace=other", `namespace="other"`},
	} {
		q, err := c.Question(cluster, Ask{Series: "x", Selector: parseSelector(t, test.selector), Resource: pods, Namespace: "shop", Names: []string{"web"}})
		want := `x{` + test.want + `,namespace="shop",pod="web"}`
		if err != nil || q.PromQL != want {
			t.Errorf("%s: got %s, %v; want %s", test.selector, q.PromQL, err, want)
		}
	}
}

func TestQuestionQuotes(t *testing.T) {
	c := podRule(t, `<<.Series>>{<<.LabelMatchers>>}`)
	for _, test := range []struct{ value, equal, among string }{
		{`a"b`, `"a\"b"`, `"a\"b|c"`},
		{`a\b`, `"a\\b"`, `"a\\\\b|c"`},
		{"a\nb", `"a\nb"`, `"a\nb|c"`},
		{`"} or vector(1) #`, `"\"} or vector(1) #"`, `"\"\\} or vector\\(1\\) #|c"`},
		{`.*|x`, `".*|x"`, `"\\.\\*\\|x|c"`},
		{"a'b`c", `"a\x27b\x60c"`, `"a\x27b\x60c|c"`},
		{"ä", `"ä"`, `"ä|c"`},
		{"<<.Series>>", `"<<.Series>>"`, `"<<\\.Series>>|c"`},
	} {
		for names, want := range map[*[]string]string{{test.value}: "=" + test.equal, {test.value, "c"}: "=~" + test.among} {
			q, err := c.Question(cluster, Ask{Series: "x", Resource: pods, Namespace: "shop", Names: *names})
			if want = `x{namespace="shop",pod` + want + `}`; err != nil || q.PromQL != want {
				t.Errorf("%q: got %s, %v; want %s", *names, q.PromQL, err, want)
			}
		}
		selector := labels.SelectorFromValidatedSet(labels.Set{"a": test.value})
		q, err := c.Question(cluster, Ask{Series: "x", Selector: selector, Resource: pods, Namespace: "shop", Names: []string{"web"}})
		if want := `x{a=` + test.equal + `,namespace="shop",pod="web"}`; err != nil || q.PromQL != want {
			t.Errorf("selector %q: got %s, %v; want %s", test.value, q.PromQL, err, want)
		}
	}
}

func TestQuestionRefuses(t *testing.T) {
	plain := podRule(t, stockQuery)
	values := podRule(t, `sum(<<.Series>>{pod=~"<<.LabelValuesByName.pod>>"}) by (pod)`)
	noNamespace := mustCompile(t, with(aSeries, "resources: {overrides: {pod: {resource: pod}}}", aQuery)).Custom[0]
	onePod := []string{"web"}
	for _, test := range []struct {
		name string
		c    *Compiled
		ask  Ask
		want string
	}{
		{"greater", plain, Ask{Selector: parseSelector(t, "a>1"), Namespace: "shop", Names: onePod}, `the metric selector compares "a" by "gt", which PromQL cannot do`},
		{"less", plain, Ask{Selector: parseSelector(t, "a<1"), Namespace: "shop", Names: onePod}, `the metric selector compares "a" by "lt", which PromQL cannot do`},
		{"a label of Kubernetes", plain, Ask{Selector: parseSelector(t, "app.kubernetes.io/name=x"), Namespace: "shop", Names: onePod}, `the metric selector has the label "app.kubernetes.io/name", which is no Prometheus label name: use the name that the series have, such as app_kubernetes_io_name`},
		{"a selector of nothing", plain, Ask{Selector: labels.Nothing(), Namespace: "shop", Names: onePod}, "the metric selector matches nothing"},
		{"not UTF-8", plain, Ask{Namespace: "shop", Names: []string{"a\xff"}}, `the value "a\xff" of the label pod is not UTF-8`},
		{"no names", plain, Ask{Namespace: "shop"}, "no objects are named"},
		{"an empty name", plain, Ask{Namespace: "shop", Names: []string{"a", ""}}, "an object has an empty name"},
		{"a series name with dots", plain, Ask{Series: "http.requests", Namespace: "shop", Names: onePod}, `the series name "http.requests" cannot be written as <<.Series>>`},
		{"a series name with a selector", plain, Ask{Series: "x{} or y", Namespace: "shop", Names: onePod}, `the series name "x{} or y" cannot be written as <<.Series>>`},
		{"a series name that is a number", plain, Ask{Series: "Inf", Namespace: "shop", Names: onePod}, "metricsQuery gives no valid PromQL"},
		{"no label of the resource", plain, Ask{Resource: services, Namespace: "shop", Names: onePod}, "no label names the services: add one to resources.overrides, or set resources.template"},
		{"an unknown resource", plain, Ask{Resource: schema.GroupResource{Resource: "cheeses"}, Names: onePod}, "the Kubernetes API has no resource cheeses"},
		{"no label of the namespace", noNamespace, Ask{Namespace: "shop", Names: onePod}, "no label names the namespaces"},
		{"no label of all namespaces", noNamespace, Ask{Scope: Cluster}, "no label names the namespaces"},
		{"raw values of many", values, Ask{Namespace: "shop", Scope: Namespace}, "metricsQuery uses .LabelValuesByName, which has values only for objects that are named"},
		{"a raw value that ends a string", values, Ask{Namespace: "shop", Names: []string{`a"`}}, `metricsQuery uses .LabelValuesByName, which cannot take the value "a\"" of the label pod`},
		{"a raw value with an alternative", values, Ask{Namespace: "shop", Names: []string{`a|b`}}, `metricsQuery uses .LabelValuesByName, which cannot take the value "a|b" of the label pod`},
		{"a raw value of a selector", values, Ask{Selector: labels.SelectorFromValidatedSet(labels.Set{"q": ".*"}), Namespace: "shop", Names: onePod}, `metricsQuery uses .LabelValuesByName, which cannot take the value ".*" of the label q`},
		{"a raw namespace", values, Ask{Namespace: "a b", Names: onePod}, `metricsQuery uses .LabelValuesByName, which cannot take the value "a b" of the label namespace`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.ask.Series == "" {
				test.ask.Series = "x"
			}
			if test.ask.Resource.Resource == "" {
				test.ask.Resource = pods
			}
			q, err := test.c.Question(cluster, test.ask)
			if err == nil || !strings.HasPrefix(err.Error(), test.c.ID+": "+test.want) || q != (Question{}) {
				t.Errorf("got %v, %v; want %q", q, err, test.want)
			}
		})
	}
}

func TestQuestionFields(t *testing.T) {
	ask := Ask{Series: "x", Selector: parseSelector(t, "q in (a,b),!r"), Resource: pods, Namespace: "shop", Names: []string{"a", "b.c"}}
	for _, test := range []struct{ template, want string }{
		{`<<.Series>>{pod=~"<<.LabelValuesByName.pod>>",q=~"<<index .LabelValuesByName "q">>"}`, `x{pod=~"a|b.c",q=~"a|b"}`},
		{`x{r="<<.LabelValuesByName.r>>",s="<<index .LabelValuesByName "s">>"}`, `x{r="",s=""}`},
		{`sum(x) by (<<range .GroupBySlice>><<.>>,<<end>>)`, `sum(x) by (pod,)`},
		{`<<if gt (len .GroupBySlice) 1>>x<<else>>y<<end>>`, `y`},
		{`<<with $q := .Series>><<printf "%s_%s" $q "y">><<end>>{<<$.LabelMatchers>>}`, `x_y{q=~"a|b",r="",namespace="shop",pod=~"a|b\\.c"}`},
		{`<<- /* gone */ ->> <<.Series>>`, `x`},
	} {
		q, err := podRule(t, test.template).Question(cluster, ask)
		if err != nil || q.PromQL != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.template, q.PromQL, err, test.want)
		}
	}
}

func TestQuestionExternal(t *testing.T) {
	const query = "\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})"
	in := Ask{Series: "x", Namespace: "shop"}
	selected := Ask{Series: "x", Namespace: "shop", Selector: parseSelector(t, "q=a")}
	for _, test := range []struct {
		name, resources string
		ask             Ask
		want, err       string
	}{
		{"override", "resources: {overrides: {ns: {resource: namespace}}}", in, `sum(x{ns="shop"})`, ""},
		{"template", "resources: {template: kube_<<.Resource>>}", in, `sum(x{kube_namespace="shop"})`, ""},
		{"selector", "resources: {template: kube_<<.Resource>>}", selected, `sum(x{q="a",kube_namespace="shop"})`, ""},
		{"for all namespaces", "resources: {namespaced: false}", in, `sum(x{})`, ""},
		{"for all namespaces, selector", "resources: {namespaced: false}", selected, `sum(x{q="a"})`, ""},
		{"no label", "resources: {}", in, "", "no label names the namespaces: add one to resources.overrides, or set resources.template, or set resources.namespaced: false if the metric belongs to no namespace"},
		{"a scope", "resources: {namespaced: false}", Ask{Series: "x", Scope: Cluster}, "", "an external metric is of no objects"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q, err := mustCompile(t, anExternal+test.resources+query).External[0].Question(cluster, test.ask)
			if test.err != "" {
				if err == nil || err.Error() != "externalRules[0]: "+test.err {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || q != (Question{PromQL: test.want}) {
				t.Errorf("got %+v, %v; want %s", q, err, test.want)
			}
		})
	}
}

func TestQuestionExternalWithoutSelector(t *testing.T) {
	c := mustCompile(t, anExternal+"resources: {namespaced: false}\n  metricsQuery: 'x{<<.LabelMatchers>>,a=\"b\"}'").External[0]
	if q, err := c.Question(cluster, Ask{Series: "x", Selector: parseSelector(t, "q=a")}); err != nil || q.PromQL != `x{q="a",a="b"}` {
		t.Errorf("with a selector: got %v, %v", q, err)
	}
	if _, err := c.Question(cluster, Ask{Series: "x"}); err == nil || !strings.Contains(err.Error(), "write it last between the braces") {
		t.Errorf("without: got %v", err)
	}
}

func TestWindow(t *testing.T) {
	for _, test := range []struct {
		query string
		want  time.Duration
	}{
		{`x{<<.LabelMatchers>>}`, 0},
		{`rate(x{<<.LabelMatchers>>}[90s])`, 90 * time.Second},
		{`rate(x{<<.LabelMatchers>>}[1m]) / rate(x{<<.LabelMatchers>>}[5m] offset 1h)`, 5 * time.Minute},
		{`max_over_time(rate(x{<<.LabelMatchers>>}[5m])[10m:1m])`, 10 * time.Minute},
		{`max_over_time(rate(x{<<.LabelMatchers>>}[5m])[2m:])`, 5 * time.Minute},
		{`rate(x{<<.LabelMatchers>>}[120])`, 2 * time.Minute},
		{`rate(x{<<.LabelMatchers>>}[2m+30s])`, 150 * time.Second},
		{`rate(x{<<.LabelMatchers>>}[(1m+step())*2-30s])`, 90 * time.Second},
		{`rate(x{<<.LabelMatchers>>}[max_of(range(), 2m)])`, 2 * time.Minute},
		{`max_over_time(x{<<.LabelMatchers>>}[min_of(2m, 4m/3 ):])`, 80 * time.Second},
		{`rate(x{<<.LabelMatchers>>}[2 ^ 3 % 5])`, 3 * time.Second},
		{`rate(x{<<.LabelMatchers>>}[5m-5m])`, 0},
	} {
		q, err := podRule(t, test.query).Question(cluster, Ask{Series: "x", Resource: pods, Namespace: "shop", Names: []string{"web"}})
		if err != nil || q.Window != test.want {
			t.Errorf("%s: got %v, %v; want %v", test.query, q.Window, err, test.want)
		}
	}
}

// TestWindowOfValues shows that a window that is in the selector is not remembered for
// another.
func TestWindowOfValues(t *testing.T) {
	c := podRule(t, `rate(x{pod="<<.LabelValuesByName.pod>>"}[<<.LabelValuesByName.window>>m])`)
	for value, want := range map[string]time.Duration{"1": time.Minute, "30": 30 * time.Minute} {
		ask := Ask{Series: "x", Selector: parseSelector(t, "window="+value), Resource: pods, Namespace: "shop", Names: []string{"web"}}
		for range 2 {
			if q, err := c.Question(cluster, ask); err != nil || q.Window != want {
				t.Errorf("%s: got %v, %v; want %v", value, q.Window, err, want)
			}
		}
	}
}

func TestShapesAreBounded(t *testing.T) {
	simple, not := podRule(t, stockQuery), podRule(t, stockQuery+"<<if .Series>><<end>>")
	for i := range maxShapes + maxShapes/2 {
		ask := Ask{Series: "x" + strings.Repeat("y", i), Resource: pods, Namespace: "shop", Names: []string{"web"}}
		for _, c := range []*Compiled{simple, not} {
			if _, err := c.Question(cluster, ask); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(simple.query.shapes.entries); n == 0 || n > maxShapes {
		t.Errorf("%d shapes are remembered", n)
	}
	if n := len(not.query.texts.entries); n == 0 || n > maxShapes {
		t.Errorf("%d texts are remembered", n)
	}
}

func TestHugeQuestionIsRefused(t *testing.T) {
	names := make([]string, 20_000)
	for i := range names {
		names[i] = strings.Repeat("x", 60)
	}
	ask := Ask{Series: "x", Resource: pods, Namespace: "shop", Names: names}
	if _, err := podRule(t, stockQuery).Question(cluster, ask); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
	ask.Names = names[:10_000]
	if _, err := podRule(t, `a{<<.LabelMatchers>>} + b{<<.LabelMatchers>>}`).Question(cluster, ask); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}
