package rules

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

// shareCases are queries with M for the matchers and G for .GroupBy. namespace and
// cluster are pieces of why a query of a namespace, and one of all, is not shared; "" if
// it is.
var shareCases = []struct{ query, namespace, cluster string }{
	// Aggregations.
	{`sum(rate(x{M}[2m])) by (G)`, "", ""},
	{`sum by (G) (x{M})`, "", ""},
	{`sum(x{M}) by (pod)`, "", "sum does not group by the label namespace"},
	{`sum(x{M}) by (namespace, pod)`, "", ""},
	{`sum(x{M}) by (G, method)`, "", ""},
	{`sum(x{M})`, "sum does not group by the label pod (as <<.GroupBy>> does), and so takes objects together", "sum does not group by the label pod"},
	{`sum(x{M}) by (method)`, "sum does not group by the label pod", "sum does not group by the label pod"},
	{`sum(x{M}) without (instance, job)`, "", ""},
	{`sum(x{M}) without (pod)`, "sum drops the label pod", "sum drops the label pod"},
	{`sum(x{M}) without (G)`, "sum drops the label pod", "sum drops the label pod"},
	{`sum(x{M}) without (namespace)`, "", "sum drops the label namespace"},
	{`avg(x{M}) by (G) > 1`, "", ""},
	{`max(sum(x{M}) by (G, method)) by (G)`, "", ""},
	{`sum(max(x{M}) by (method)) by (G)`, "max does not group by the label pod", "max does not group by the label pod"},
	{`topk(3, x{M})`, "topk does not group by the label pod", "topk does not group by the label pod"},
	{`topk(3, x{M}) by (G)`, "", ""},
	{`bottomk(3, x{M}) by (G)`, "", ""},
	{`quantile(0.9, x{M}) by (G)`, "", ""},
	{`limitk(2, x{M}) by (G)`, "limitk takes any series", "limitk takes any series"},
	{`limit_ratio(0.5, x{M}) by (G)`, "", ""},
	{`limit_ratio(0.5, sum(x{M}) by (G, method)) by (G)`, "", "limit_ratio chooses by all labels"},
	{`count_values("version", x{M}) by (G)`, "", ""},
	{`count_values("pod", x{M}) by (G)`, "count_values replaces the label pod", "count_values replaces the label pod"},
	{`count_values("namespace", x{M}) by (G)`, "", "count_values replaces the label namespace"},
	{`topk(scalar(sum(y)), x{M}) by (G)`, "", ""},
	{`topk(scalar(x{M}), y) by (G)`, "scalar() asks whether", "scalar() asks whether"},
	// Functions.
	{`x{M}`, "", ""},
	{`x{M} offset 5m`, "", ""},
	{`x{M} @ end()`, "", ""},
	{`-x{M}`, "", ""},
	{`clamp_max(irate(x{M}[2m]), 100)`, "", ""},
	{`max_over_time(sum(rate(x{M}[1m])) by (G)[10m:1m])`, "", ""},
	{`quantile_over_time(0.5, x{M}[5m])`, "", ""},
	{`absent(x{M})`, "absent() asks whether there is any series at all", "absent() asks"},
	{`absent_over_time(x{M}[5m])`, "absent_over_time() asks whether there is any series at all", "absent_over_time() asks"},
	{`vector(scalar(x{M}))`, "scalar() asks whether there is one series only", "scalar() asks"},
	{`sum(x{M}) by (G) / scalar(sum(y))`, "", ""},
	{`histogram_quantile(0.9, sum(rate(x_bucket{M}[5m])) by (G, le))`, "", ""},
	{`histogram_quantile(0.9, sum(rate(x_bucket{M}[5m])) by (le))`, "sum does not group by the label pod", "sum does not group by the label pod"},
	{`histogram_quantiles(x_bucket{M}, "quantile", 0.5, 0.9)`, "", ""},
	{`histogram_quantiles(x_bucket{M}, "pod", 0.5, 0.9)`, "histogram_quantiles() changes the label pod", "histogram_quantiles() changes the label pod"},
	{`label_replace(x{M}, "host", "$1", "instance", "(.*):.*")`, "", ""},
	{`label_replace(x{M}, "pod", "$1", "pod_name", "(.*)")`, "label_replace() changes the label pod", "label_replace() changes the label pod"},
	{`label_replace(x{M}, "namespace", "$1", "ns", "(.*)")`, "", "label_replace() changes the label namespace"},
	{`label_replace(x{M}, "ns", "$1", "namespace", "(.*)")`, "", ""},
	{`label_replace(sum(x{M}) by (G), "ns", "$1", "namespace", "(.*)")`, "", "label_replace() reads the label namespace"},
	{`label_join(x{M}, "pod", "-", "a", "b")`, "label_join() changes the label pod", "label_join() changes the label pod"},
	{`label_join(sum(x{M}) by (G), "id", "-", "pod", "namespace")`, "", "label_join() reads the label namespace"},
	{`sort_desc(sum(x{M}) by (G))`, "", ""},
	{`info(x{M})`, "info() takes labels of other series", "info() takes"},
	// Two sides of the objects.
	{`sum(x{M}) by (G) / sum(y{M}) by (G)`, "", ""},
	{`x{M} / y{M}`, "", ""},
	{`sum(x{M}) by (G) / on (G) sum(y{M}) by (G)`, "", ""},
	{`sum(x{M}) by (G) / on (G) y{M}`, "", ""},
	{`sum(x{M}) by (G) / y{M}`, "", "the operator / would match differently in a query of all namespaces"},
	{`sum(x{M}) by (G, method) / on (G) group_left () sum(y{M}) by (G)`, "", ""},
	{`sum(x{M}) by (G, method) / on (pod) group_left () sum(y{M}) by (G)`, "", "the operator / does not match by the labels pod and namespace"},
	{`sum(y{M}) by (G) / on (G) group_right () sum(x{M}) by (G, method)`, "", ""},
	{`sum(x{M}) by (G, method) / ignoring (method) group_left () sum(y{M}) by (G)`, "", ""},
	{`x{M} / on (node) y{M}`, "the operator / does not match by the labels pod", "the operator / does not match by the labels pod and namespace"},
	{`x{M} / ignoring (pod) y{M}`, "the operator / does not match by the labels pod", "the operator /"},
	{`x{M} * on (G) group_left (node) y{M}`, "", ""},
	{`x{M} * on (node) group_left (pod) y{M}`, "the operator * replaces the label pod", "the operator * replaces the label pod"},
	{`x{M} and y{M}`, "", ""},
	{`x{M} and on (node) y{M}`, "the operator and does not match by the labels pod", "the operator and"},
	{`sum(x{M}) by (G) or sum(y{M}) by (G)`, "", ""},
	{`sum(x{M}) by (G) or on (G) y{M}`, "", "the operator or would match differently"},
	{`sum(x{M}) by (G) unless on (G) y{M}`, "", ""},
	{`sum(x{M}) by (G) + fill(0) sum(y{M}) by (G)`, "the operator + fills in samples", "the operator + fills in samples"},
	// The objects on the left.
	{`x{M} * on (node) group_left () node_factor`, "", ""},
	{`sum(x{M}) by (G, node) * on (node) group_left () node_factor`, "", ""},
	{`sum(x{M}) by (G) * on () group_left () sum(y)`, "", ""},
	{`sum(x{M}) by (G) / ignoring (pod) group_left () sum(y)`, "", "the operator / would match differently"},
	{`sum(x{M}) by (G) / on (G) y`, "", "the operator / would match differently"},
	{`x{M} / on (namespace, pod) y`, "", ""},
	{`x{M} / y`, "", ""},
	{`x{M} / on () sum(y)`, "the operator / does not match by the labels pod", "the operator / does not match"},
	{`x{M} * ignoring (method) group_left (pod) y`, "the operator * replaces the label pod", "the operator * replaces the label pod"},
	{`x{M} * on (namespace, pod) group_right () y`, "", ""},
	{`x{M} * on (node) group_right () y`, "the operator * does not match by the labels pod", "the operator *"},
	{`x{M} and on (node) y`, "", ""},
	{`x{M} unless on (node) y`, "", ""},
	{`sum(x{M}) by (G) unless y`, "", "the operator unless would match differently"},
	{`sum(x{M}) by (G) and on () (sum(y) > 3)`, "", ""},
	{`sum(x{M}) by (G) or vector(0)`, "", ""},
	{`sum(x{M}) by (G) or on () vector(0)`, "", ""},
	{`sum(x{M}) by (G) or on (G) (sum(y) * 0)`, "", ""},
	{`x{M} or y`, "", "the operator or adds series that are not selected by <<.LabelMatchers>>, of any namespace"},
	{`x{M} or on (node) y`, "the operator or does not match by the labels pod", "the operator or adds series"},
	// The objects on the right.
	{`100 - sum(x{M}) by (G)`, "", ""},
	{`node_factor * on (node) group_right () x{M}`, "", ""},
	{`y * on (node) group_left () x{M}`, "the operator * does not match by the labels pod", "the operator * does not match"},
	{`y * on (namespace, pod) group_left () x{M}`, "", ""},
	{`y and on (namespace, pod) x{M}`, "", ""},
	{`y and on (pod) x{M}`, "", "the operator and does not match by the labels pod and namespace"},
	{`y and on (node) x{M}`, "the operator and does not match by the labels pod", "the operator and does not match"},
	{`y unless on (namespace, pod) x{M}`, "", "the operator unless adds series that are not selected"},
	{`y or x{M}`, "", "the operator or adds series that are not selected"},
	{`y or on (node) x{M}`, "", "the operator or adds series that are not selected"},
	{`vector(0) or sum(x{M}) by (G)`, "", ""},
	{`vector(0) or on (namespace) sum(x{M}) by (G)`, "", "the operator or would match differently"},
	// Without the objects, or with a part of them.
	{`sum(y) by (pod)`, "no selector of metricsQuery has <<.LabelMatchers>>", "no selector of metricsQuery has"},
	{`sum(y) by (G)`, "no selector of metricsQuery has <<.LabelMatchers>>", "no selector of metricsQuery has"},
	{`sum(x{M}) by (G) / on (namespace, pod) sum(y) by (G)`, "", "the operator / would match differently"},
	{`sum(x{M}) by (G) * on () group_left () sum(sum(y) by (G))`, "", "metricsQuery uses <<.GroupBy>> also for series that are not selected"},
	{`x{M,M}`, "has only a part of <<.LabelMatchers>>, or has it twice", "has only a part of <<.LabelMatchers>>"},
	{`x{M,pod!="",namespace=~"a.*"}`, "", ""},
}

func TestShareable(t *testing.T) {
	for _, test := range shareCases {
		c := podRule(t, strings.NewReplacer("M", "<<.LabelMatchers>>", "G", "<<.GroupBy>>").Replace(test.query))
		for scope, want := range map[Scope]string{Namespace: test.namespace, Cluster: test.cluster} {
			ask := Ask{Series: "x", Resource: pods, Namespace: "shop", Scope: scope}
			if scope == Cluster {
				ask.Namespace = ""
			}
			for range 2 { // The second time from memory.
				switch err := c.Shareable(cluster, ask); {
				case err == nil && want != "":
					t.Errorf("%s, scope %d: is shared, want %q", test.query, scope, want)
				case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
					t.Errorf("%s, scope %d: got %q, want %q", test.query, scope, err, want)
				}
			}
		}
		widest := c.Shareable(cluster, Ask{Series: "x", Resource: pods, Namespace: "shop"})
		if (widest == nil) != (test.namespace == "" && test.cluster == "") {
			t.Errorf("%s, any scope: got %v", test.query, widest)
		}
	}
}

// TestShareableTemplates has templates that are more than a row of fields.
func TestShareableTemplates(t *testing.T) {
	for _, test := range []struct{ template, want string }{
		{`sum(<<.Series>>{<<.LabelMatchers>>}) by (<<range .GroupBySlice>><<.>>,<<end>>)`, ""},
		{`sum(<<.Series>>{<<.LabelMatchers>>}) by (<<index .GroupBySlice 0>>)`, "sum does not group by the label namespace"},
		{`<<if eq .Series "x">>sum(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)<<else>>y<<end>>`, ""},
		{`<<if eq .Series "x">>sum(x{<<.LabelMatchers>>})<<else>>y<<end>>`, "sum does not group by the label pod"},
		{`<<if gt (len .GroupBySlice) 1>>sum<<else>>max<<end>>(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)`, "metricsQuery uses <<.GroupBy>> also"},
		{`<<if gt (len .GroupBySlice) 1>>abs(x{<<.LabelMatchers>>})<<else>>x{<<.LabelMatchers>>}<<end>>`, "metricsQuery gives another query for one object than for many"},
		{`x{<<.LabelMatchers | printf "%s">>}`, "metricsQuery does more with .LabelMatchers than to write it"},
		{`<<if .LabelMatchers>>x{<<.LabelMatchers>>}<<end>>`, "metricsQuery does more with .LabelMatchers than to write it"},
		{`<<with $a := .>>x{<<$a.LabelMatchers>>}<<end>>`, "metricsQuery uses .LabelValuesByName"},
		{`<<define "m">>x{<<.LabelMatchers>>}<<end>><<template "m" .>>`, "metricsQuery uses .LabelValuesByName"},
		{`x{<<$.LabelMatchers>>}`, "metricsQuery does more with .LabelMatchers than to write it"},
		{`x{<<.LabelMatchers>>,a=~"<<.LabelValuesByName.pod>>"}`, "metricsQuery uses .LabelValuesByName"},
		{`x{<<range $k, $v := $.LabelValuesByName>><<$k>>="<<$v>>",<<end>>}`, "metricsQuery uses .LabelValuesByName"},
		{`x{pod=~"<<index .LabelValuesByName "pod">>"}`, "metricsQuery uses .LabelValuesByName"},
	} {
		err := podRule(t, test.template).Shareable(cluster, Ask{Series: "x", Resource: pods, Scope: Cluster})
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), "rules[0]: "+test.want) {
			t.Errorf("%s: got %v, want %q", test.template, err, test.want)
		}
	}
}

func TestShareableOfOtherResources(t *testing.T) {
	c := podRule(t, stockQuery)
	byNode := podRule(t, `sum(x{<<.LabelMatchers>>}) by (node)`)
	external := mustCompile(t, anExternal+"resources: {namespaced: false}\n  metricsQuery: x{<<.LabelMatchers>>}").External[0]
	for _, test := range []struct {
		name string
		c    *Compiled
		ask  Ask
		want string
	}{
		{"nodes", c, Ask{Resource: nodes, Scope: Namespace}, ""},
		{"nodes of all namespaces", byNode, Ask{Resource: nodes, Scope: Cluster}, ""},
		{"namespaces", c, Ask{Resource: namespaces, Scope: Cluster}, ""},
		{"no label", c, Ask{Resource: services, Scope: Namespace}, "no label names the services"},
		{"external", external, Ask{Scope: Namespace}, "an external metric is of no objects"},
	} {
		test.ask.Series = "x"
		err := test.c.Shareable(cluster, test.ask)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// TestFunctionsAreKnown fails when the parser learns a function: somebody has to look
// whether it treats each series by itself.
func TestFunctionsAreKnown(t *testing.T) {
	// These give one number of no series, or make a vector of one.
	ofScalars := []string{"end", "max_of", "min_of", "pi", "range", "start", "step", "time", "vector"}
	for name := range parser.Functions {
		known := 0
		for _, is := range []bool{sameEach[name], functionsOfAll[name] != "", labelsOf[name] != nil, slices.Contains(ofScalars, name)} {
			if is {
				known++
			}
		}
		if known != 1 {
			t.Errorf("%s is in %d of the lists of functions, want 1", name, known)
		}
	}
}
