package catalog

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func TestNearestNameIsSuggested(t *testing.T) {
	known := slices.Values([]string{"http_requests", "http_request_errors", "queue_depth", "up"})
	for name, want := range map[string]string{
		"http_reqests":           " (is it http_requests that is meant?)",
		"http_requests_":         " (is it http_requests that is meant?)",
		"queue_dpeth":            " (is it queue_depth that is meant?)",
		"upp":                    "",
		"memory":                 "",
		"":                       "",
		strings.Repeat("x", 999): "",
	} {
		if got := suggest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestOnlyWhatTheReaderCanHaveIsSuggested(t *testing.T) {
	b := newBench(t)
	shown(t, b.watcher, "shop", "queue-depth", 1)
	b.rebuild()
	c, requests := b.catalog, CustomName{Resource: podResource, Namespaced: true, Metric: "requests"}
	c.setRules(&ruleSnapshot{
		customNames: []CustomName{requests},
		external:    map[string]*RuleMetric{"errors": {}}, externalNames: []string{"errors"},
	})
	for name, want := range map[types.NamespacedName]string{
		{Namespace: "shop", Name: "queue-dpeth"}: " (is it queue-depth that is meant?)",
		{Namespace: "bank", Name: "queue-dpeth"}: "",
		{Namespace: "bank", Name: "error"}:       " (is it errors that is meant?)",
	} {
		if got := c.SuggestExternal(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for name, want := range map[CustomName]string{
		{Resource: podResource, Namespaced: true, Metric: "reqests"}:                             " (is it requests that is meant?)",
		{Resource: podResource, Metric: "reqests"}:                                               "",
		{Resource: schema.GroupResource{Resource: "nodes"}, Namespaced: true, Metric: "reqests"}: "",
	} {
		if got := c.SuggestCustom(name); got != want {
			t.Errorf("%v: got %q, want %q", name, got, want)
		}
	}
}
