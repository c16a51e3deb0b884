package rules

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// apis is a Mapper that knows what it has.
type apis []api

type api struct {
	group, plural, singular string
	namespaced              bool
}

func (a apis) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	for _, each := range a {
		if (r.Resource == each.plural || r.Resource == each.singular) && (r.Group == "" || r.Group == each.group) {
			return schema.GroupResource{Group: each.group, Resource: each.plural}, each.namespaced, true
		}
	}
	return schema.GroupResource{}, false, false
}

func (a apis) Singular(r schema.GroupResource) string {
	for _, each := range a {
		if each.group == r.Group && each.plural == r.Resource {
			return each.singular
		}
	}
	return r.Resource
}

func (a apis) Known() bool { return len(a) > 0 }

func (a apis) Generation() uint64 { return uint64(len(a)) }

// cluster is what a cluster knows.
var cluster = apis{
	{"", "pods", "pod", true},
	{"", "services", "service", true},
	{"", "namespaces", "namespace", false},
	{"", "nodes", "node", false},
	{"", "persistentvolumes", "persistentvolume", false},
	{"apps", "deployments", "deployment", true},
	{"networking.k8s.io", "ingresses", "ingress", true},
	{"storage.k8s.io", "storageclasses", "storageclass", false},
}

var (
	deployments = schema.GroupResource{Group: "apps", Resource: "deployments"}
	ingresses   = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingresses"}
	services    = schema.GroupResource{Resource: "services"}
)

// compile reads a file and compiles it.
func compile(tb testing.TB, text string) (*Set, error) {
	tb.Helper()
	var f File
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		tb.Fatalf("%v in\n%s", err, text)
	}
	return f.Compile(nil)
}

// mustCompile is compile for a file without faults.
func mustCompile(tb testing.TB, text string) *Set {
	tb.Helper()
	set, err := compile(tb, text)
	if err != nil {
		tb.Fatalf("%v in\n%s", err, text)
	}
	return set
}

// podRule is a rule for pods and their namespaces, with the metricsQuery.
func podRule(tb testing.TB, metricsQuery string) *Compiled {
	tb.Helper()
	f := File{Rules: []Rule{{
		SeriesQuery: `{__name__=~"^http_.*"}`,
		Resources: Resources{Overrides: map[string]GroupResource{
			"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"}, "node": {Resource: "node"},
		}},
		MetricsQuery: metricsQuery,
	}}}
	set, err := f.Compile(nil)
	if err != nil {
		tb.Fatalf("%s: %v", metricsQuery, err)
	}
	return set.Custom[0]
}
