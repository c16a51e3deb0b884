package check

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// taken are documents without apiVersion and kind that are taken for a configuration, by
// fields that only they have.
var taken = []struct {
	fields     []string
	what, cure string
}{
	{
		// Values of the chart, and of those of the older adapters.
		fields: []string{"image", "replicas", "replicaCount", "serviceAccount", "apiServices", "logLevel", "metricsRelistInterval", "listenPort", "rbac", "tls", "certManager", "podDisruptionBudget"},
		what:   "these are values of a chart, and no configuration",
		cure:   "helm template charts/tidegauge -f values.yaml | adapter check -",
	},
	{
		fields: []string{"scrape_configs", "scrape_config_files", "rule_files", "remote_write"},
		what:   "this is the configuration of a Prometheus server, and not the adapter's",
		cure:   "leave it out",
	},
	{
		fields: []string{"resources", "bases", "components", "patches"},
		what:   "this is a kustomization, and no configuration",
		cure:   "kubectl kustomize FOLDER | adapter check -",
	},
}

// other is what a document is instead of a configuration, and what to do about it; empty if
// nothing is known that speaks against one.
func other(n *yaml.Node) (what, cure string) {
	for _, t := range taken {
		if slices.ContainsFunc(t.fields, func(name string) bool { return field(n, name) != nil }) {
			return t.what, t.cure
		}
	}
	if rules := field(n, "rules"); rules != nil && rules.Kind == yaml.MappingNode {
		return taken[0].what, taken[0].cure
	}
	return "", ""
}
