package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/config"
)

// found is a finding as a table of cases says it: Message is a part of the finding's.
type found = Finding

const (
	goodRule = `rules:
- seriesQuery: http_requests_total{namespace!="",pod!=""}
  resources: {template: <<.Resource>>}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)
`
	goodMetric = `apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: queue-depth, namespace: shop}
spec:
  queries:
  - id: visible
    metricStat:
      metric: {namespace: AWS/SQS, metricName: Visible, dimensions: [{name: QueueName, value: orders}]}
      period: 60
      stat: Average
`
	goodHPA = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics:
  - type: External
    external:
      metric: {name: queue-depth}
      target: {type: AverageValue, averageValue: "5"}
`
)

// nothing is found of files without anything to judge.
var nothing = found{Warning, "", 0, "", "nothing is checked: no file has a configuration, an ExternalMetric or an HPA", ""}

// run checks texts by the names of their files.
func run(t *testing.T, texts ...string) *Report {
	t.Helper()
	all := make([]Text, len(texts))
	for i, text := range texts {
		all[i] = Text{File: string(rune('a'+i)) + ".yaml", Text: []byte(text)}
	}
	return runAll(t, all...)
}

func optionsOf(texts ...Text) Options {
	return Options{Texts: texts, Namespace: "default", MaxAge: 10 * time.Minute, Overlay: func(*config.Config) error { return nil }}
}

func runAll(t *testing.T, texts ...Text) *Report {
	t.Helper()
	report, err := Run(t.Context(), optionsOf(texts...))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantFindings fails the test unless the findings are those, with parts of their messages.
func wantFindings(t *testing.T, got []Finding, want []found) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d findings, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		g := got[i]
		if g.Severity != w.Severity || g.File != w.File || g.Line != w.Line || g.Object != w.Object || !strings.Contains(g.Message, w.Message) {
			t.Errorf("finding %d: got %+v, want %+v", i, g, w)
		}
	}
}

func TestFindings(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []found
	}{
		"nothing wrong": {text: goodRule + "---\n" + goodMetric + "---\n" + goodHPA},
		"nothing":       {text: "# nothing\n---\n\n---\n", want: []found{nothing}},
		"an unknown field of the configuration": {
			text: "# comment\n---\nrules:\n- seriesQuerry: up\n",
			want: []found{
				{Error, "a.yaml", 4, "rules[0]", "field seriesQuerry is not known; did you mean seriesQuery?", ""},
			},
		},
		"a rule that makes no metric": {
			text: "rules:\n- seriesQuery: up\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)\n",
			want: []found{{Warning, "a.yaml", 2, "rules[0]", "makes no metric: it names no label of an object", ""}},
		},
		"no YAML": {
			text: goodRule + "---\na: [\n---\n" + goodMetric,
			want: []found{{Error, "a.yaml", 6, "", "not YAML: ", ""}},
		},
		"neither": {
			text: "--- []\n---\n- 1\n",
			want: []found{
				{Error, "a.yaml", 1, "", "neither a configuration nor a Kubernetes object", ""},
				{Error, "a.yaml", 3, "", "neither a configuration nor a Kubernetes object", ""},
			},
		},
		"values of the chart": {
			text: "# mine\nreplicas: 3\nprometheus: {url: 'http://a'}\n---\nrules:\n  default: false\n",
			want: []found{
				{Error, "a.yaml", 2, "", "values of a chart", ""},
				{Error, "a.yaml", 5, "", "values of a chart", ""},
			},
		},
		"the configuration of Prometheus": {
			text: "global: {}\nscrape_configs: []\n",
			want: []found{{Error, "a.yaml", 1, "", "of a Prometheus server", ""}},
		},
		"the configuration of a ConfigMap": {
			text: "kind: ConfigMap\napiVersion: v1\nmetadata: {name: rules}\ndata:\n  config.yaml: |\n    rules:\n    - {seriesQuery: ''}\n",
			want: []found{
				{Error, "a.yaml", 7, "rules[0].seriesQuery", "is required", ""},
				{Error, "a.yaml", 7, "rules[0].metricsQuery", "is required", ""},
			},
		},
		"the configuration of a ConfigMap on one line": {
			text: "kind: ConfigMap\napiVersion: v1\nmetadata: {name: rules}\ndata:\n  config.yaml: \"maxAge: 1\\n\"\n",
			want: []found{{Error, "a.yaml", 5, "maxAge", "1 is not a duration", ""}},
		},
		"an object of a List": {
			text: "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(strings.Replace(goodMetric, "period: 60", "period: 61", 1)), "\n", "\n  ") + "\n",
			want: []found{{Error, "a.yaml", 12, "ExternalMetric shop/queue-depth", "spec.queries[0].metricStat.period: ", ""}},
		},
		"other kinds": {
			text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n",
			want: []found{{Note, "a.yaml", 0, "", "not judged, as no configuration, ExternalMetric or HPA: 2 Service", ""}, nothing},
		},
		"no kind": {
			text: "apiVersion: v1\nmetadata: {name: a}\n",
			want: []found{{Error, "a.yaml", 1, "a", "needs kind and apiVersion", ""}},
		},
		"a field twice in an object": {
			text: goodMetric + "kind: ExternalMetric\n",
			want: []found{{Error, "a.yaml", 11, "", "already", ""}},
		},
		"what adapters ignore": {
			text: strings.Replace(goodMetric, "spec:", "spec:\n  name: other", 1),
			want: []found{{Warning, "a.yaml", 5, "ExternalMetric shop/queue-depth", `spec.name "other" is ignored`, ""}},
		},
		"an ExternalMetric twice": {
			text: goodMetric + "---\n" + goodMetric,
			want: []found{{Warning, "a.yaml", 12, "ExternalMetric shop/queue-depth", "is there already, in a.yaml line 1", ""}},
		},
		"an HPA's metric that is misspelt": {
			text: goodMetric + "---\n" + strings.Replace(goodHPA, "queue-depth", "queue-dept", 1),
			want: []found{{Warning, "a.yaml", 21, "HorizontalPodAutoscaler shop/web", "is it queue-depth that is meant?", ""}},
		},
		"an HPA's metric of another namespace": {
			text: strings.Replace(goodMetric, "shop", "other", 1) + "---\n" + goodHPA,
			want: []found{{Warning, "a.yaml", 21, "HorizontalPodAutoscaler shop/web", "no ExternalMetric of that name is in namespace shop", ""}},
		},
		"an HPA with an unknown field": {
			text: strings.Replace(goodHPA, "maxReplicas", "maximum", 1),
			want: []found{{Error, "a.yaml", 5, "HorizontalPodAutoscaler shop/web", `unknown field "spec.maximum"`, ""}},
		},
		"an HPA of an old version": {
			text: strings.Replace(goodHPA, "autoscaling/v2", "autoscaling/v2beta2", 1),
			want: []found{{Error, "a.yaml", 1, "HorizontalPodAutoscaler shop/web", "autoscaling/v2beta2 is not served any more", ""}},
		},
		"an HPA of a version that never was": {
			text: strings.Replace(goodHPA, "autoscaling/v2", "autoscaling/v3", 1),
			want: []found{{Error, "a.yaml", 1, "HorizontalPodAutoscaler shop/web", "autoscaling/v3 is not known: write autoscaling/v2", ""}},
		},
		"two configurations in a file": {
			text: "rules: []\n---\nrules: []\n",
			want: []found{{Error, "a.yaml", 3, "configuration", "more than one configuration in a file, which the adapter does not load: one begins on line 1, another on line 3", ""}},
		},
		"three configurations in a file, with objects between them": {
			text: "rules: []\n---\n" + goodMetric + "---\n# more\nmaxAge: 1\n---\nrules: []\n",
			want: []found{
				{Note, "a.yaml", 1, "", "of several configurations the objects are judged by this one", ""},
				{Error, "a.yaml", 15, "maxAge", "1 is not a duration", ""},
				{Error, "a.yaml", 15, "configuration", "one begins on line 1, another on line 15", ""},
				{Error, "a.yaml", 17, "configuration", "one begins on line 1, another on line 17", ""},
			},
		},
		"an unknown kind of the group": {
			text: strings.Replace(goodMetric, "kind: ExternalMetric", "kind: externalmetric", 1),
			want: []found{{Error, "a.yaml", 2, "externalmetric shop/queue-depth", "kind externalmetric is not known in metrics.aws/v1alpha1: write ExternalMetric", ""}},
		},
		"an unknown kind of another version of the group": {
			text: "apiVersion: metrics.aws/v1\nkind: ExternalMetrics\n",
			want: []found{{Error, "a.yaml", 2, "ExternalMetrics", "kind ExternalMetrics is not known in metrics.aws/v1: write ExternalMetric", ""}},
		},
		"an empty List": {text: "apiVersion: metrics.aws/v1alpha1\nkind: ExternalMetricList\nitems: []\n", want: []found{nothing}},
		"a ConfigMap without a configuration": {
			text: "kind: ConfigMap\napiVersion: v1\nmetadata: {name: rules}\ndata: {config.yml: 'rules: []'}\n",
			want: []found{{Note, "a.yaml", 0, "", "not judged, as no configuration, ExternalMetric or HPA: 1 ConfigMap", ""}, nothing},
		},
		"a ConfigMap with an empty configuration": {
			text: "kind: ConfigMap\napiVersion: v1\nmetadata: {name: rules}\ndata:\n  config.yaml: \"\\n\"\n",
			want: []found{{Warning, "a.yaml", 5, "ConfigMap rules", "the key config.yaml has no configuration", ""}},
		},
		"other kinds and one of ours": {
			text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n" + goodMetric,
			want: []found{{Note, "a.yaml", 0, "", "not judged, as no configuration, ExternalMetric or HPA: 1 Service", ""}},
		},
		"items that are no objects": {
			text: "apiVersion: v1\nkind: List\nitems:\n- 3\n- x\n- apiVersion: v1\n  kind: List\n  items:\n  - null\n  - []\n",
			want: []found{
				{Error, "a.yaml", 4, "", "an item of a List is no Kubernetes object", ""},
				{Error, "a.yaml", 5, "", "an item of a List is no Kubernetes object", ""},
				{Error, "a.yaml", 9, "", "an item of a List is no Kubernetes object", ""},
				{Error, "a.yaml", 10, "", "an item of a List is no Kubernetes object", ""},
			},
		},
		"a resource of a CRD": {
			text: strings.Replace(goodRule, "{template: <<.Resource>>}", "{overrides: {pod: {resource: pods}, namespace: {resource: namespaces}, roll: {group: argoproj.io, resource: rollouts}}}", 1),
			want: []found{{Note, "a.yaml", 2, "rules[0]", `name "rollouts.argoproj.io", which is none of Kubernetes' own resources`, ""}},
		},
	} {
		t.Run(name, func(t *testing.T) { wantFindings(t, run(t, test.text).Findings, test.want) })
	}
}

// The adapter loads all of its file as one configuration.
func TestTheFileOfConfigHasOneDocument(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []found
	}{
		"one":                   {text: "# mine\n---\n" + goodRule + "---\n# no more\n"},
		"an object behind":      {text: goodRule + "---\n" + goodMetric, want: []found{{Error, "a.yaml", 6, "configuration", "more than one YAML document in the file of --config", ""}}},
		"an object before":      {text: goodMetric + "---\n" + goodRule, want: []found{{Error, "a.yaml", 12, "configuration", "one begins on line 1, another on line 12", ""}}},
		"two configurations":    {text: "rules: []\n---\nrules: []\n", want: []found{{Error, "a.yaml", 3, "configuration", "one begins on line 1, another on line 3", ""}}},
		"an empty one before":   {text: "---\n---\nrules: []\n", want: []found{{Error, "a.yaml", 0, "configuration", "another begins on line 3", ""}}},
		"a fault behind a mark": {text: "# mine\n---\nmaxAge: 1\n", want: []found{{Error, "a.yaml", 3, "maxAge", "1 is not a duration", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			wantFindings(t, runAll(t, Text{File: "a.yaml", Text: []byte(test.text), Config: true}).Findings, test.want)
		})
	}
}

// A command that fails before its pipe leaves nothing, which must not pass for something well.
func TestStandardInputAndTheFileOfConfigAreNotEmpty(t *testing.T) {
	for _, text := range []string{"", "\n", "# Source: a\n---\n---\n", "---\nnull\n", "%YAML 1.2\n---\n...\n"} {
		wantFindings(t, runAll(t, Text{File: stdin, Text: []byte(text)}).Findings, []found{{Error, stdin, 0, "", "standard input has no YAML document", ""}})
		want := nothing
		if strings.TrimSpace(text) == "" {
			want = found{Error, "a.yaml", 0, "", "the file of --config has no configuration", ""}
		}
		wantFindings(t, runAll(t, Text{File: "a.yaml", Text: []byte(text), Config: true}).Findings, []found{want})
		wantFindings(t, runAll(t, Text{File: "a.yaml", Text: []byte(text)}).Findings, []found{nothing})
		// Beside something it is an error too.
		wantFindings(t, runAll(t, Text{File: stdin, Text: []byte(text)}, Text{File: "a.yaml", Text: []byte(goodMetric)}).Findings,
			[]found{{Error, stdin, 0, "", "standard input has no YAML document", ""}})
	}
	wantFindings(t, runAll(t, Text{File: stdin, Text: []byte("{}\n")}).Findings, nil)
	wantFindings(t, runAll(t, Text{File: "a.yaml", Text: []byte("{}\n"), Config: true}).Findings, nil)
	// What is no YAML has an error of its own.
	wantFindings(t, runAll(t, Text{File: stdin, Text: []byte("a: [\n")}).Findings, []found{{Error, stdin, 1, "", "not YAML: ", ""}})
	// Nothing is asked of files that are not there: --served needs none.
	wantFindings(t, runAll(t).Findings, nil)
}

func TestSeveralFilesMayHaveAConfigurationEach(t *testing.T) {
	wantFindings(t, run(t, "rules: []\n", "rules: []\n").Findings, nil)
}

func TestTooManyDocumentsAreAnError(t *testing.T) {
	for name, text := range map[string]string{
		"documents": strings.Repeat("a: 1\n---\n", maxDocuments+1),
		"items":     "apiVersion: v1\nkind: List\nitems:\n" + strings.Repeat("- 1\n", maxDocuments+1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), optionsOf(Text{File: "a.yaml", Text: []byte(text)}))
			if err == nil || err.Error() != "a.yaml: more than 20000 documents and items of Lists: check them in parts" {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// What rules find is known to their servers only, so that an HPA's metric may be there.
func TestAMetricThatARuleMayMakeIsNoWarning(t *testing.T) {
	const discovering = "externalRules:\n- seriesQuery: '{__name__=~\"^jobs_.*\"}'\n  resources: {namespaced: false}\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})\n"
	got := run(t, discovering, goodHPA).Findings
	wantFindings(t, got, []found{{Note, "b.yaml", 10, "HorizontalPodAutoscaler shop/web", "a rule may make it of the series of its server", ""}})
	got = run(t, discovering, goodMetric, strings.Replace(goodHPA, "queue-depth", "queue-dept", 1)).Findings
	wantFindings(t, got, []found{{Warning, "c.yaml", 10, "HorizontalPodAutoscaler shop/web", "is it queue-depth that is meant?", ""}})
}

// Without its rules nobody knows what a configuration makes.
func TestMetricsAreNotLookedUpInRulesThatAreNotThere(t *testing.T) {
	wantFindings(t, run(t, "rules: 1\n", goodHPA).Findings, []found{
		{Error, "a.yaml", 1, "rules", "a list is wanted here", ""},
		{Note, "b.yaml", 10, "HorizontalPodAutoscaler shop/web", "the configuration has errors", ""},
	})
	pods := strings.NewReplacer("type: External", "type: Pods", "external:", "pods:").Replace(goodHPA)
	wantFindings(t, run(t, pods).Findings, []found{
		{Note, "a.yaml", 10, "HorizontalPodAutoscaler shop/web", "no configuration is among the files", ""},
	})
}

func TestASelectorThatARuleCannotExpressIsAnError(t *testing.T) {
	rule := "externalRules:\n- seriesQuery: queue_depth\n  resources: {namespaced: false}\n  name: {as: queue-depth}\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})\n"
	hpa := strings.Replace(goodHPA, "{name: queue-depth}", "{name: queue-depth, selector: {matchLabels: {a.b/c: d}}}", 1)
	if got := run(t, rule, goodHPA).Findings; len(got) > 0 {
		t.Errorf("without a selector there are findings: %+v", got)
	}
	bad := strings.Replace(hpa, "matchLabels: {a.b/c: d}", "matchExpressions: [{key: a, operator: Near}]", 1)
	wantFindings(t, run(t, rule, bad).Findings, []found{
		{Error, "b.yaml", 10, "HorizontalPodAutoscaler shop/web", `"Near" is not a valid label selector operator`, ""},
	})
}

func TestStrictMakesErrorsOfWarnings(t *testing.T) {
	report := run(t, strings.Replace(goodMetric, "spec:", "spec:\n  name: other", 1))
	if !report.OK() || report.Checked.Warnings != 1 {
		t.Fatalf("got %+v, want one warning", report.Checked)
	}
	report.Strict()
	if report.OK() || report.Checked.Warnings != 0 || report.Checked.Errors != 1 {
		t.Errorf("got %+v, want one error", report.Checked)
	}
}

// The manifests are those that the tests of the CRD send to a real API server, with what
// it says of them in their first comments.
func TestVerdictsAreTheAPIServers(t *testing.T) {
	manifests := filepath.Join("..", "..", "..", "..", "test", "crd", "testdata")
	for _, verdict := range []struct {
		folder   string
		severity Severity
	}{{"good", Warning}, {"bad", Error}} {
		files, err := filepath.Glob(filepath.Join(manifests, verdict.folder, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no manifests of %s: %v", verdict.folder, err)
		}
		for _, file := range files {
			t.Run(verdict.folder+"/"+filepath.Base(file), func(t *testing.T) {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var got []Finding
				for _, f := range run(t, string(text)).Findings {
					if f.Severity == verdict.severity {
						got = append(got, f)
					}
				}
				want := comments(string(text))
				// The API server says no more once it has met an unknown field.
				if len(want) > 0 && strings.Contains(want[0], "unknown field") {
					got = got[len(got)-1:]
				}
				if len(got) != len(want) {
					t.Fatalf("got %+v, want %q", got, want)
				}
				for i, f := range got {
					if _, words, _ := strings.Cut(want[i], ": "); !strings.Contains(f.Message, words) {
						t.Errorf("got %+v, want %q", f, want[i])
					}
				}
			})
		}
	}
}

func comments(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(line, "# ")
		if !ok {
			break
		}
		all = append(all, strings.TrimSpace(comment))
	}
	return all
}
