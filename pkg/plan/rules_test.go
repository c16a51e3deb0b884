package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// core is a mapper of pods, services, nodes and namespaces.
type core struct{}

func (core) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	name := strings.TrimSuffix(r.Resource, "s") + "s"
	known := []string{"pods", "services", "nodes", "namespaces"}
	return schema.GroupResource{Resource: name}, slices.Index(known, name) < 2, r.Group == "" && slices.Contains(known, name)
}

func (m core) Singular(r schema.GroupResource) string {
	if _, _, ok := m.Normalize(r); !ok {
		return r.Resource
	}
	return strings.TrimSuffix(r.Resource, "s")
}

func (core) Known() bool { return true }

func (core) Generation() uint64 { return 1 }

// TestRules plans what a file's rules ask, in each scope.
func TestRules(t *testing.T) {
	labels := rules.Resources{Overrides: map[string]rules.GroupResource{
		"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"}, "service": {Resource: "service"}, "node": {Resource: "node"},
	}}
	usage := rules.ResourceRule{
		ContainerQuery: "sum(usage{<<.LabelMatchers>>}) by (<<.GroupBy>>)", NodeQuery: "sum(machine{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
		Resources: labels, ContainerLabel: "container",
	}
	set, err := rules.File{
		Rules: []rules.Rule{
			{SeriesQuery: "requests", Resources: labels, MetricsQuery: "sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)"},
			{SeriesQuery: "requests", Resources: labels, MetricsQuery: "max(<<.Series>>{<<.LabelMatchers>>})"},
		},
		ExternalRules: []rules.Rule{{SeriesQuery: "queue", Resources: labels, MetricsQuery: "sum(<<.Series>>{<<.LabelMatchers>>})"}},
		ResourceRules: &rules.ResourceRules{CPU: usage, Memory: usage, Window: "3m"},
	}.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	opts := b.options(b.engine)
	opts.Mapper = core{}
	b.Planner = New(opts)
	services := schema.GroupResource{Resource: "services"}
	of := func(rule int, resource schema.GroupResource, namespace string) Subject {
		return OfRule(set.Custom[rule], "requests", resource, namespace, parse(t, "verb=GET"))
	}
	var wide []Demand
	for _, n := range numbered("n", 20) {
		wide = append(wide, Demand{Subject: of(0, pods, n), Replicas: 1})
	}
	for _, tc := range []struct {
		name    string
		demands []Demand
		want    string
	}{
		{
			name: "pods", demands: []Demand{{Subject: of(0, pods, "shop"), Replicas: 3}},
			want: `sum(rate(requests{verb="GET",namespace="shop",pod!=""}[2m])) by (pod)`,
		},
		{
			name: "pods of many namespaces", demands: wide,
			want: `sum(rate(requests{verb="GET",namespace!="",pod!=""}[2m])) by (pod, namespace)`,
		},
		{
			name: "an object", demands: []Demand{{Subject: of(0, services, "shop"), Names: []string{"front"}}},
			want: `sum(rate(requests{verb="GET",namespace="shop",service="front"}[2m])) by (service)`,
		},
		{name: "a query that is not shared", demands: []Demand{{Subject: of(1, pods, "shop"), Replicas: 3}}},
		{
			name: "usage of pods", demands: []Demand{{Subject: PodUsage(set.Resource, set.Resource.CPU, "shop"), Replicas: 3}},
			want: `sum(usage{namespace="shop",pod!=""}) by (pod, container)`,
		},
		{
			name: "usage of nodes", demands: []Demand{{Subject: NodeUsage(set.Resource, set.Resource.CPU), Replicas: 3}},
			want: `sum(machine{node!=""}) by (node)`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := squeeze(b.update(tc.demands)); got != squeeze(tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
	r, err := b.External(set.External[0], "queue", "shop", parse(t, "verb=GET"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `sum(queue{verb="GET",namespace="shop"})`; promQL(r) != want {
		t.Errorf("an external metric: %s, want %s", promQL(r), want)
	}
	if r.Interval != 15*time.Second || r.MaxAge != 5*time.Minute {
		t.Errorf("%v %v", r.Interval, r.MaxAge)
	}
	if _, err := b.External(set.External[0], "queue", "shop", parse(t, "verb>1")); err == nil {
		t.Error("a selector that cannot be expressed is asked")
	}
}

// squeeze leaves out what PromQL does not heed.
func squeeze(text string) string { return strings.ReplaceAll(text, " ", "") }
