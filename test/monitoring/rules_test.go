package monitoring

import (
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
)

// rule is an alert of a PrometheusRule, which has Prometheus' own format in its spec.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type group struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

type prometheusRule struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Groups []group `json:"groups"`
	} `json:"spec"`
}

func readRules(t *testing.T) []rule {
	t.Helper()
	var r prometheusRule
	if err := yaml.UnmarshalStrict(read(t, "deploy", "monitoring", "rules.yaml"), &r); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range r.Spec.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no rules")
	}
	return all
}

// where is where the repository's files are on the web.
const where = "https://github.com/tidegauge/tidegauge/blob/main/"

func TestAlertsSayWhatToDo(t *testing.T) {
	explained := string(read(t, "docs", "monitoring.md"))
	seen := map[string]bool{}
	for _, r := range readRules(t) {
		t.Run(r.Alert, func(t *testing.T) {
			if seen[r.Alert] {
				t.Error("there are two of the name")
			}
			seen[r.Alert] = true
			if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
				t.Errorf("the severity is %q", r.Labels["severity"])
			}
			for _, name := range []string{"summary", "description"} {
				if text := r.Annotations[name]; !strings.HasSuffix(text, ".") {
					t.Errorf("the %s is no sentence: %q", name, text)
				}
			}
			if !strings.Contains(explained, "\n### "+r.Alert+"\n") {
				t.Error("docs/monitoring.md does not explain it")
			}
			checkLink(t, r.Annotations["runbook_url"])
		})
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (Tidegauge\w+)$`).FindAllStringSubmatch(explained, -1) {
		if !seen[heading[1]] {
			t.Errorf("docs/monitoring.md explains %s, which is no alert", heading[1])
		}
	}
}

var (
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchors = regexp.MustCompile(`[^\w\- ]`)
)

// checkLink follows a link into the repository, to the heading.
func checkLink(t *testing.T, link string) {
	t.Helper()
	u, err := url.Parse(link)
	path, ok := strings.CutPrefix(link, where)
	if err != nil || !ok {
		t.Errorf("the runbook is %q, want a file at %s", link, where)
		return
	}
	path, _, _ = strings.Cut(path, "#")
	for _, h := range heading.FindAllStringSubmatch(string(read(t, path)), -1) {
		// As GitHub makes anchors of headings.
		if strings.ReplaceAll(notAnchors.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == u.Fragment {
			return
		}
	}
	t.Errorf("%s has no heading of the anchor %q", path, u.Fragment)
}

func TestAlertsAskWhatIsThere(t *testing.T) {
	all := known(t)
	for _, r := range readRules(t) {
		if err := check(r.Expr, all); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
	}
}

// TestEveryAlertFiresAndIsSilent says which lacks a case. TestAlerts runs them.
func TestEveryAlertFiresAndIsSilent(t *testing.T) {
	var cases struct {
		Tests []struct {
			Alerts []struct {
				Name string `json:"alertname"`
				Want []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "test", "monitoring", "testdata", "alerts.yaml"), &cases); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range cases.Tests {
		for _, a := range c.Alerts {
			fires[a.Name] = fires[a.Name] || len(a.Want) > 0
			silent[a.Name] = silent[a.Name] || len(a.Want) == 0
		}
	}
	for _, r := range readRules(t) {
		if !fires[r.Alert] {
			t.Errorf("no case of %s fires", r.Alert)
		}
		if !silent[r.Alert] {
			t.Errorf("no case of %s is silent", r.Alert)
		}
	}
}

// TestAlerts has promtool check the rules and run testdata/alerts.yaml over them.
func TestAlerts(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), program(t, "promtool"), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	write("rules.yaml", rulesFile(t, func(string) bool { return true }))
	promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")

	// A case has to repeat all annotations.
	write("rules.yaml", rulesFile(t, func(annotation string) bool { return annotation == "summary" }))
	write("alerts.yaml", read(t, "test", "monitoring", "testdata", "alerts.yaml"))
	promtool("test", "rules", "alerts.yaml")
}

// rulesFile are the rules in Prometheus' own format, with some of the annotations.
func rulesFile(t *testing.T, keep func(annotation string) bool) []byte {
	t.Helper()
	var r prometheusRule
	if err := yaml.UnmarshalStrict(read(t, "deploy", "monitoring", "rules.yaml"), &r); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Spec.Groups {
		for _, r := range g.Rules {
			maps.DeleteFunc(r.Annotations, func(name, _ string) bool { return !keep(name) })
		}
	}
	text, err := yaml.Marshal(r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// program is one of those that `make kube` builds.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := env.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
