package rules

import (
	"errors"
	"testing"
	"time"
)

// The singular name of a resource that is not known is a guess, and a label that does not
// exist reads as no data.
func TestLabelsOfResourcesThatAreNotKnown(t *testing.T) {
	set := mustCompile(t, `
rules:
- {seriesQuery: x, resources: {template: <<.Resource>>}, metricsQuery: "sum(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)"}
externalRules:
- {seriesQuery: x, resources: {template: <<.Resource>>}, metricsQuery: "sum(x{<<.LabelMatchers>>})"}
- {seriesQuery: x, resources: {overrides: {ns: {resource: namespace}}}, metricsQuery: "sum(x{<<.LabelMatchers>>})"}
`)
	for _, c := range set.External {
		if q, err := c.Question(apis{}, Ask{Series: "x", Namespace: "shop"}); !errors.Is(err, ErrNotReady) {
			t.Errorf("%s of no known resources: %v, %v", c.ID, q, err)
		}
		if _, err := c.Question(cluster, Ask{Series: "x", Namespace: "shop"}); err != nil {
			t.Error(err)
		}
	}
	ofPods := Ask{Series: "x", Resource: pods, Namespace: "shop", Names: []string{"a"}}
	for _, tc := range []struct {
		mapper Mapper
		want   string
	}{
		{apis{}, "rules[0]: the resources of the Kubernetes API are not known yet"},
		{apis{{"", "namespaces", "namespace", false}}, "rules[0]: the Kubernetes API has no resource pods"},
		{apis{{"", "namespaces", "namespace", false}, {"other.io", "pods", "pod", true}}, "rules[0]: the Kubernetes API has no resource pods"},
	} {
		_, err := set.Custom[0].Question(tc.mapper, ofPods)
		if err == nil || err.Error() != tc.want {
			t.Errorf("Question: got %v, want %s", err, tc.want)
		}
		if err := set.Custom[0].Shareable(tc.mapper, ofPods); err == nil || err.Error() != tc.want {
			t.Errorf("Shareable: got %v, want %s", err, tc.want)
		}
		if set.Custom[0].Describes(tc.mapper, pods) {
			t.Errorf("describes pods where %s", tc.want)
		}
	}
}

func TestIdentity(t *testing.T) {
	file := func(change func(*Rule)) File {
		r := Rule{
			SeriesQuery: "x", MetricsQuery: "sum(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
			Resources: Resources{Template: "<<.Resource>>", Overrides: map[string]GroupResource{"ns": {Resource: "namespace"}}},
		}
		change(&r)
		return File{Rules: []Rule{{SeriesQuery: "first", Resources: r.Resources, MetricsQuery: "max(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)"}, r}, ExternalRules: []Rule{r}}
	}
	compiled := func(f File) *Set {
		t.Helper()
		set, err := f.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	no := false
	is := compiled(file(func(*Rule) {}))
	if is.Custom[0].Identity() == is.Custom[1].Identity() || is.Custom[1].Identity() == is.External[0].Identity() || is.Custom[1].Identity() == "" {
		t.Error("different rules are the same")
	}
	for name, tc := range map[string]struct {
		change func(*Rule)
		same   bool
	}{
		"compiled again": {func(*Rule) {}, true},
		"defaults":       {func(r *Rule) { r.Server, r.Interval = "default", 15*time.Second }, true},
		"seriesQuery":    {func(r *Rule) { r.SeriesQuery = "y" }, true},
		"name":           {func(r *Rule) { r.Name.As = "y" }, true},
		"noData":         {func(r *Rule) { r.NoData = "zero" }, true},
		"server":         {func(r *Rule) { r.Server = "other" }, false},
		"interval":       {func(r *Rule) { r.Interval = time.Minute }, false},
		"maxAge":         {func(r *Rule) { r.MaxAge = time.Minute }, false},
		"shareQueries":   {func(r *Rule) { r.ShareQueries = &no }, false},
		"metricsQuery":   {func(r *Rule) { r.MetricsQuery = "avg(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)" }, false},
		"template":       {func(r *Rule) { r.Resources.Template = "kube_<<.Resource>>" }, false},
		"overrides":      {func(r *Rule) { r.Resources.Overrides = map[string]GroupResource{"namespace": {Resource: "namespace"}} }, false},
	} {
		other := compiled(file(tc.change))
		if got := other.Custom[1].Identity() == is.Custom[1].Identity(); got != tc.same {
			t.Errorf("%s: the same rule: %t", name, got)
		}
		if got := other.External[0].Identity() == is.External[0].Identity(); got != tc.same {
			t.Errorf("%s: the same external rule: %t", name, got)
		}
	}
	if other := compiled(file(func(r *Rule) { r.Resources.Namespaced = &no })); other.External[0].Identity() == is.External[0].Identity() {
		t.Error("namespaced does not count")
	}
}

func TestIdentityOfUsage(t *testing.T) {
	compiled := func(window string) *CompiledResource {
		t.Helper()
		u := ResourceRule{
			ContainerQuery: "sum(usage{<<.LabelMatchers>>}) by (<<.GroupBy>>)", NodeQuery: "sum(usage{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
			Resources: Resources{Template: "<<.Resource>>"}, ContainerLabel: "container",
		}
		m := u
		m.NodeQuery = ""
		set, err := File{ResourceRules: &ResourceRules{CPU: u, Memory: m, Window: window}}.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		return set.Resource
	}
	a, again, other := compiled("3m"), compiled("3m"), compiled("5m")
	switch {
	case a.CPU.ForPods().Identity() != again.CPU.ForPods().Identity(), a.CPU.ForNodes().Identity() != again.CPU.ForNodes().Identity():
		t.Error("the same rules differ")
	case a.CPU.ForPods().Identity() == a.CPU.ForNodes().Identity(), a.CPU.ForPods().Identity() == other.CPU.ForPods().Identity():
		t.Error("different rules are the same")
	case a.Memory.ForNodes().Identity() != "":
		t.Error("no query has an identity")
	}
}
