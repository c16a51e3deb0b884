package chart

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// everything switches on what is off by default, so that every template has its part.
var everything = []string{
	"--set", "certManager.enabled=true,networkPolicy.enabled=true,podMonitor.enabled=true,serviceMonitor.enabled=true",
	"--set", "prometheusRule.enabled=true,dashboard.enabled=true,service.ipDualStack.enabled=true,hostNetwork.enabled=true",
	"--set", "prometheus.url=http://p.m.svc,apiServices.custom=true,apiServices.resource=true",
}

// TestNull sets each key of values.yaml to null, as a file does that has the key and nothing
// behind it: that means the default or nothing, or is refused with the key's name. Helm
// takes the key away before the schema and the templates see it.
func TestNull(t *testing.T) {
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			for _, path := range keys(t) {
				t.Run(strings.Join(path, "."), func(t *testing.T) {
					t.Parallel()
					checkNull(t, newHelm(t, name), path)
				})
			}
		})
	}
}

func checkNull(t *testing.T, h helm, path []string) {
	t.Helper()
	set := strings.Join(path, ".") + "=null"
	out, err := h.try(t, slices.Concat([]string{"template", release, chartDir(t)}, everything, []string{"--set", set})...)
	switch {
	case required(t, path):
		if err == nil {
			t.Fatal("the schema demands the key, and Helm renders without it")
		}
		section, key := strings.Join(path[:len(path)-1], "/"), path[len(path)-1]
		if section != "" {
			section = "/" + section
		}
		if want := fmt.Sprintf("at '%s': missing property '%s'", section, key); !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q: %v", want, err)
		}
	case err != nil:
		t.Error(err)
	default:
		checkComplete(t, parse(t, out))
	}
}

// TestAllNull sets all keys to null at once that may be, with what is off by default and
// without it.
func TestAllNull(t *testing.T) {
	var set []string
	var within []string
	for _, path := range keys(t) {
		name := strings.Join(path, ".")
		switch {
		case len(within) > 0 && slices.Equal(path[:min(len(path), len(within))], within):
		case !required(t, path):
			within = path
			set = append(set, "--set", name+"=null")
		}
	}
	for _, name := range helmNames {
		h := newHelm(t, name)
		for _, more := range []string{
			"",
			"podMonitor.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true",
			"certManager.enabled=true,networkPolicy.enabled=true,hostNetwork.enabled=true,service.ipDualStack.enabled=true",
			"apiServices.custom=true,apiServices.resource=true",
		} {
			checkComplete(t, h.template(t, append(set, "--set", more)...))
		}
	}
}

// keys are the paths of all keys of values.yaml, sorted, those of sections too.
func keys(t *testing.T) [][]string {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal(read(t, chartDir(t), "values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	var all [][]string
	var walk func(at map[string]any, path []string)
	walk = func(at map[string]any, path []string) {
		for _, key := range slices.Sorted(maps.Keys(at)) {
			path := append(slices.Clone(path), key)
			all = append(all, path)
			if inner, ok := at[key].(map[string]any); ok {
				walk(inner, path)
			}
		}
	}
	walk(values, nil)
	if len(all) == 0 {
		t.Fatal("values.yaml has no keys")
	}
	return all
}

// required is whether the schema demands the key.
func required(t *testing.T, path []string) bool {
	t.Helper()
	at := parse(t, string(read(t, chartDir(t), "values.schema.json")))[0].Object
	for _, key := range path[:len(path)-1] {
		inner, found, err := unstructured.NestedMap(at, "properties", key)
		if err != nil || !found {
			return false
		}
		at = inner
	}
	names, _, err := unstructured.NestedStringSlice(at, "required")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(names, path[len(path)-1])
}

// checkComplete looks for what no object may lack, and the API server would refuse.
func checkComplete(t *testing.T, all objects) {
	t.Helper()
	all.deployment(t)
	for _, o := range all {
		if text := fmt.Sprint(o.Object); strings.Contains(text, "<no value>") {
			t.Errorf("%s %s has a hole: %s", o.GetKind(), o.GetName(), text)
		}
		if o.GetKind() != "ClusterRole" {
			continue
		}
		rules, _, err := unstructured.NestedSlice(o.Object, "rules")
		if err != nil || len(rules) == 0 {
			t.Errorf("the ClusterRole %s has the rules %v (%v)", o.GetName(), rules, err)
		}
		for _, rule := range rules {
			r, ok := rule.(map[string]any)
			if !ok || r["resources"] == nil && r["nonResourceURLs"] == nil {
				t.Errorf("the ClusterRole %s has a rule for nothing: %v", o.GetName(), rule)
			}
		}
	}
	if pdb := all.find("PodDisruptionBudget", release); pdb != nil {
		if spec := fmt.Sprint(pdb.Object["spec"]); strings.Contains(spec, "<nil>") {
			t.Errorf("the PodDisruptionBudget has no number: %s", spec)
		}
	}
}
