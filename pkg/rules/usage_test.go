package rules

import (
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	set := load(t, "stock.yaml")
	cpu, memory := set.Resource.CPU, set.Resource.Memory
	onePod := Ask{Namespace: "shop", Names: []string{"web"}, Series: "ignored", Resource: services}
	for _, test := range []struct {
		name  string
		asker ResourceAsker
		ask   Ask
		want  Question
	}{
		{"pod", cpu.ForPods(), onePod, Question{
			PromQL:      "sum by (pod,container) (\n  rate(container_cpu_usage_seconds_total{container!=\"\",namespace=\"shop\",pod=\"web\"}[3m])\n)",
			ObjectLabel: "pod", ContainerLabel: "container",
		}},
		{"all pods", cpu.ForPods(), Ask{Scope: Cluster}, Question{
			PromQL:      "sum by (pod,container,namespace) (\n  rate(container_cpu_usage_seconds_total{container!=\"\",namespace!=\"\",pod!=\"\"}[3m])\n)",
			ObjectLabel: "pod", ContainerLabel: "container", NamespaceLabel: "namespace",
		}},
		{"node", memory.ForNodes(), Ask{Namespace: "ignored", Names: []string{"n1", "n2"}}, Question{
			PromQL: "sum by (node) (\n  avg_over_time(node_memory_MemTotal_bytes{node=~\"n1|n2\"}[3m])\n  -\n" +
				"  avg_over_time(node_memory_MemAvailable_bytes{node=~\"n1|n2\"}[3m])\n)",
			ObjectLabel: "node",
		}},
		{"all nodes", cpu.ForNodes(), Ask{Scope: Cluster}, Question{
			PromQL:      "sum by (node) (\n  rate(node_cpu_seconds_total{mode!=\"idle\",mode!=\"iowait\",mode!=\"steal\",node!=\"\"}[3m])\n)",
			ObjectLabel: "node",
		}},
	} {
		test.want.Window = 3 * time.Minute
		if got, err := test.asker.Question(cluster, test.ask); err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v\nwant %+v", test.name, got, err, test.want)
		}
		for _, scope := range []Scope{Namespace, Cluster} {
			if err := test.asker.Shareable(cluster, Ask{Namespace: "shop", Scope: scope}); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
	if again := set.Resource.CPU; again.ForPods() != cpu.ForPods() || cpu.ForPods() == cpu.ForNodes() || cpu.ForPods() == memory.ForPods() {
		t.Error("askers of the same query are equal, and others are not")
	}
}

// usageRules are resourceRules with one more field each, for both and for cpu.
func usageRules(both, cpu string) string {
	return `
resourceRules:
  ` + both + `
  memory: {containerQuery: 'x{<<.LabelMatchers>>}', nodeQuery: 'x{<<.LabelMatchers>>}', resources: {template: <<.Resource>>}, containerLabel: container}
  cpu: {` + cpu + "}\n"
}

const aUsage = `containerQuery: 'rate(x{<<.LabelMatchers>>}[2m])', nodeQuery: 'x{<<.LabelMatchers>>}', `

func TestUsageOptions(t *testing.T) {
	r := mustCompile(t, usageRules("window: 5m", aUsage+"resources: {template: kube_<<.Resource>>}, containerLabel: container")+
		"  server: other\n  interval: 30s\n  maxAge: 1m\n  shareQueries: false\n").Resource
	if r.Server != "other" || r.Interval != 30*time.Second || r.MaxAge != time.Minute || r.Share {
		t.Errorf("got %+v", r)
	}
	ask := Ask{Namespace: "shop", Names: []string{"web"}}
	if q, err := r.CPU.ForPods().Question(cluster, ask); err != nil || q.Window != 5*time.Minute || q.PromQL != `rate(x{kube_namespace="shop",kube_pod="web"}[2m])` {
		t.Errorf("got %+v, %v", q, err)
	}
	r = mustCompile(t, usageRules("", aUsage+"resources: {template: kube_<<.Resource>>}, containerLabel: container")).Resource
	if r.Server != "default" || r.Interval != 15*time.Second || r.MaxAge != 0 || !r.Share {
		t.Errorf("defaults: got %+v", r)
	}
	if q, err := r.CPU.ForPods().Question(cluster, ask); err != nil || q.Window != 2*time.Minute {
		t.Errorf("the query's window: got %+v, %v", q, err)
	}
	if q, err := r.CPU.ForNodes().Question(cluster, ask); err != nil || q.Window != 0 {
		t.Errorf("no window: got %+v, %v", q, err)
	}
}

func TestUsageRefuses(t *testing.T) {
	const labels = "resources: {template: <<.Resource>>}, containerLabel: container"
	for _, test := range []struct{ name, text, want string }{
		{"nothing", usageRules("", labels), "resourceRules.cpu: needs containerQuery and nodeQuery"},
		{"no resources", usageRules("", aUsage+"containerLabel: c"), "resourceRules.cpu.resources: is required"},
		{"window", usageRules("window: soon", aUsage+labels), `resourceRules.window: "soon" is no duration`},
		{"long window", usageRules("window: 2d", aUsage+labels), `resourceRules.window: "2d" is no duration up to 24h`},
		{"zero", usageRules("noData: zero", aUsage+labels), "resourceRules.noData: cannot be zero"},
		{"interval", usageRules("interval: 1h", aUsage+labels), "resourceRules.interval: 1h0m0s is not between"},
		{"series", usageRules("", "nodeQuery: '<<.Series>>{<<.LabelMatchers>>}', containerQuery: x, "+labels), "resourceRules.cpu.nodeQuery: uses .Series, which resourceRules do not have"},
		{"no PromQL", usageRules("", "nodeQuery: 'x{', containerQuery: x, "+labels), "resourceRules.cpu.nodeQuery: gives no valid PromQL"},
		{"no template", usageRules("", "nodeQuery: x, containerQuery: <<, "+labels), "resourceRules.cpu.containerQuery: is no template"},
		{"a container's label", usageRules("", aUsage+"resources: {template: <<.Resource>>}, containerLabel: a-b"), `resourceRules.cpu.containerLabel: "a-b" is no Prometheus label name`},
		{"a container's label that is the pod's", usageRules("", aUsage+"resources: {template: <<.Resource>>}, containerLabel: pod"), "resourceRules.cpu.containerLabel: pod is the label of the pods"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set, err := compile(t, test.text)
			if err == nil {
				t.Fatalf("compiles: %+v", set)
			}
			if !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %q, want %q", err, test.want)
			}
		})
	}
}

// TestUsageWithGaps shows that what works with prometheus-adapter, works, and that the
// rest says why not.
func TestUsageWithGaps(t *testing.T) {
	set := mustCompile(t, usageRules("", "containerQuery: 'sum(x{<<.LabelMatchers>>}) by (<<.GroupBy>>)', resources: {overrides: {pod: {resource: pod}, ns: {resource: namespace}}}"))
	want := []string{
		"resourceRules.cpu.nodeQuery: is missing",
		"resourceRules.cpu.containerLabel: is missing",
	}
	if len(set.Warnings) != len(want) {
		t.Fatalf("got %q", set.Warnings)
	}
	for i := range want {
		if !strings.HasPrefix(set.Warnings[i], want[i]) {
			t.Errorf("got %q, want %q", set.Warnings[i], want[i])
		}
	}
	q, err := set.Resource.CPU.ForPods().Question(cluster, Ask{Namespace: "shop", Names: []string{"web"}})
	if err != nil || q.PromQL != `sum(x{ns="shop",pod="web"}) by (pod)` || q.ContainerLabel != "" {
		t.Errorf("got %+v, %v", q, err)
	}
	for _, err := range []error{
		func() error {
			_, err := set.Resource.CPU.ForNodes().Question(cluster, Ask{Names: []string{"n"}})
			return err
		}(),
		set.Resource.CPU.ForNodes().Shareable(cluster, Ask{Scope: Namespace}),
	} {
		if err == nil || err.Error() != "resourceRules.cpu has no nodeQuery" {
			t.Errorf("got %v", err)
		}
	}
}

func TestUsageWithoutLabels(t *testing.T) {
	set := mustCompile(t, usageRules("", aUsage+"containerLabel: c, resources: {overrides: {ns: {resource: namespace}}}"))
	want := []string{
		"resourceRules.cpu.containerQuery: cannot be asked, since no label names the pods",
		"resourceRules.cpu.nodeQuery: cannot be asked, since no label names the nodes",
	}
	if len(set.Warnings) != 2 || !strings.HasPrefix(set.Warnings[0], want[0]) || !strings.HasPrefix(set.Warnings[1], want[1]) {
		t.Errorf("got %q", set.Warnings)
	}
	if _, err := set.Resource.CPU.ForPods().Question(cluster, Ask{Namespace: "shop", Names: []string{"web"}}); err == nil || !strings.HasPrefix(err.Error(), "resourceRules.cpu: no label names the pods") {
		t.Errorf("got %v", err)
	}
}
