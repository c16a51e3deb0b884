package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func sprint(r Resource) string { return fmt.Sprint(r.GroupResource, " ", r.Namespaced) }

func TestResources(t *testing.T) {
	for _, test := range []struct {
		name, resources, labels string
		want                    []string
	}{
		{"overrides", "overrides: {pod: {resource: pod}, ns: {resource: namespaces}}", "__name__ job ns pod", []string{"namespaces false", "pods true"}},
		{"no label of the namespace", "overrides: {pod: {resource: pod}, ns: {resource: namespaces}}", "pod", []string{"pods false"}},
		{"no label for namespaces at all", "overrides: {pod: {resource: pod}}", "namespace pod", []string{"pods false"}},
		{"without namespaces", "overrides: {class: {resource: storageclass}, node: {resource: node}, ns: {resource: namespace}}", "class node ns", []string{"storageclasses.storage.k8s.io false", "nodes false", "namespaces false"}},
		{"the same group", "overrides: {app: {group: apps, resource: deployment}, ns: {resource: namespace}}", "app ns", []string{"deployments.apps true", "namespaces false"}},
		{"another group", "overrides: {app: {group: extensions, resource: deployment}, ns: {resource: namespace}}", "app ns", []string{"namespaces false"}},
		{"of two labels the first by name", "overrides: {a: {resource: pod}, b: {resource: pods}}", "a b", []string{"pods false"}},
		{"template", "template: <<.Resource>>", "__name__ instance job namespace node pod", []string{"namespaces false", "nodes false", "pods true"}},
		{"template, plural", "template: <<.Resource>>", "namespaces pods", nil},
		{"template with a prefix", "template: kube_<<.Resource>>", "kube_namespace kube_pod pod kube_", []string{"namespaces false", "pods true"}},
		{"template with a suffix", "template: <<.Resource>>_name", "namespace_name pod_name", []string{"namespaces false", "pods true"}},
		{"template with the group", "template: kube_<<.Group>>_<<.Resource>>", "kube_apps_deployment kube__namespace kube__pod kube_pod", []string{"deployments.apps true", "namespaces false", "pods true"}},
		{"group with dots", "template: <<.Group>>_<<.Resource>>", "networking_k8s_io_ingress storage_k8s_io_storageclass _namespace", []string{"ingresses.networking.k8s.io true", "storageclasses.storage.k8s.io false", "namespaces false"}},
		{"group behind", "template: <<.Resource>>_of_<<.Group>>", "ingress_of_networking_k8s_io", []string{"ingresses.networking.k8s.io false"}},
		{"resource twice", "template: <<.Resource>>_<<.Resource>>", "pod_pod pod_node namespace_namespace", []string{"pods true", "namespaces false"}},
		{"template with a switch", `template: "<<if .Group>>kube_<<.Group>>_<<end>><<.Resource>>"`, "kube_apps_deployment namespace pod", []string{"deployments.apps true", "namespaces false", "pods true"}},
		{"both", "template: <<.Resource>>\n    overrides: {kubernetes_pod: {resource: pod}}", "kubernetes_pod namespace node", []string{"pods true", "namespaces false", "nodes false"}},
		{"an override hides the template's label", "template: <<.Resource>>\n    overrides: {kubernetes_pod: {resource: pod}}", "pod namespace", []string{"namespaces false"}},
		{"a label with another meaning", "template: <<.Resource>>\n    overrides: {service: {resource: pod}}", "namespace service", []string{"namespaces false", "pods true"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustCompile(t, with(aSeries, "resources:\n    "+test.resources, aQuery)).Custom[0]
			for range 2 { // The second time from memory.
				var got []string
				for _, r := range c.Resources(cluster, strings.Fields(test.labels)) {
					got = append(got, sprint(r))
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
		})
	}
}

func TestResourcesOfNoRule(t *testing.T) {
	c := mustCompile(t, "externalRules: [{seriesQuery: x, resources: {namespaced: false}, metricsQuery: x}]").External[0]
	if got := c.Resources(cluster, []string{"namespace", "pod"}); got != nil {
		t.Errorf("got %v", got)
	}
}

// TestResourcesThatComeLater shows that a rule for a custom resource works once the API
// server has it.
func TestResourcesThatComeLater(t *testing.T) {
	c := mustCompile(t, with(aSeries, "resources: {overrides: {brand: {group: cheese.io, resource: brand}}, template: <<.Resource>>}", aQuery)).Custom[0]
	labels := []string{"brand", "namespace", "shop"}
	if got := c.Resources(cluster, labels); len(got) != 1 {
		t.Errorf("before: got %v", got)
	}
	brands, shops := schema.GroupResource{Group: "cheese.io", Resource: "brands"}, schema.GroupResource{Group: "cheese.io", Resource: "shops"}
	ask := Ask{Series: "x", Resource: brands, Namespace: "dairy", Names: []string{"gouda"}}
	later := append(slices.Clone(cluster), api{"cheese.io", "brands", "brand", true}, api{"cheese.io", "shops", "shop", false})
	want := []Resource{{brands, true}, {namespaces, false}, {shops, false}}
	if got := c.Resources(later, labels); !slices.Equal(got, want) {
		t.Errorf("after: got %v, want %v", got, want)
	}
	q, err := c.Question(later, ask)
	if want := `sum(x{namespace="dairy",brand="gouda"}) by (brand)`; err != nil || q.PromQL != want {
		t.Errorf("got %q, %v; want %q", q.PromQL, err, want)
	}
}

func TestDescribes(t *testing.T) {
	overrides := mustCompile(t, minimal("")).Custom[0]
	template := mustCompile(t, with(aSeries, "resources: {template: kube_<<.Resource>>}", aQuery)).Custom[0]
	for _, test := range []struct {
		c    *Compiled
		r    schema.GroupResource
		want bool
	}{
		{overrides, pods, true},
		{overrides, namespaces, true},
		{overrides, nodes, false},
		{overrides, deployments, false},
		{template, pods, true},
		{template, ingresses, true},
	} {
		if got := test.c.Describes(cluster, test.r); got != test.want {
			t.Errorf("%v: got %v, want %v", test.r, got, test.want)
		}
	}
}

// TestReadingsAreBounded shows that a server with endless label names does not fill the
// memory.
func TestReadingsAreBounded(t *testing.T) {
	c := mustCompile(t, with(aSeries, aTemplate, aQuery)).Custom[0]
	for i := range 3 * maxRemembered / 2 {
		c.Resources(cluster, []string{fmt.Sprint("label_", i)})
	}
	if n := len(c.query.labels.readings.entries); n > maxRemembered {
		t.Errorf("%d labels are remembered", n)
	}
}
