package rules

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

func BenchmarkQuestion(b *testing.B) {
	stock := podRule(b, stockQuery)
	executed := podRule(b, stockQuery+`<<if eq .Series "y">> + 1<<end>>`)
	many := make([]string, 150)
	for i := range many {
		many[i] = fmt.Sprintf("web-7c9d8f6b5-%05d", i)
	}
	one := Ask{Series: "http_requests_total", Resource: pods, Namespace: "shop", Names: many[:1]}
	selected := one
	selected.Selector = labels.SelectorFromSet(labels.Set{"method": "GET", "code": "200"})
	for _, bench := range []struct {
		name string
		c    *Compiled
		ask  Ask
	}{
		{"one", stock, one},
		{"selector", stock, selected},
		{"many", stock, Ask{Series: one.Series, Resource: pods, Namespace: "shop", Names: many}},
		{"namespace", stock, Ask{Series: one.Series, Resource: pods, Namespace: "shop", Scope: Namespace}},
		{"cluster", stock, Ask{Series: one.Series, Resource: pods, Scope: Cluster}},
		{"executed", executed, one},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bench.c.Question(cluster, bench.ask); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkShareable(b *testing.B) {
	c := podRule(b, stockQuery)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Shareable(cluster, Ask{Series: "x", Resource: pods, Scope: Cluster}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResources is one series of 13 labels. A listing may have 300,000.
func BenchmarkResources(b *testing.B) {
	names := []string{"__name__", "app", "code", "container", "endpoint", "env", "instance", "job", "method", "namespace", "node", "pod", "service"}
	for name, resources := range map[string]string{
		"overrides": "resources: {overrides: {pod: {resource: pod}, namespace: {resource: namespace}}}",
		"template":  aTemplate,
		"prefix":    "resources: {template: kube_<<.Group>>_<<.Resource>>}",
	} {
		b.Run(name, func(b *testing.B) {
			c := mustCompile(b, with(aSeries, resources, aQuery)).Custom[0]
			b.ReportAllocs()
			for b.Loop() {
				c.Resources(cluster, names)
			}
		})
	}
}

func BenchmarkMetricName(b *testing.B) {
	c := mustCompile(b, minimal("name: {matches: '^(.*)_total$', as: '${1}_per_second'}")).Custom[0]
	b.ReportAllocs()
	for b.Loop() {
		c.MetricName("http_requests_total")
	}
}
