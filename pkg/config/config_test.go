package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

func TestLoadGood(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxAge != 90*time.Second || c.FetchTimeout != DefaultFetchTimeout || c.CloudWatch.Region != "eu-west-1" || c.CloudWatch.MaxCalls != 4 {
		t.Errorf("got %+v", c)
	}
	// The source is made of what is in CloudWatch, and not for the roles.
	if want := (cloudwatch.Roles{{Namespaces: []string{"shop", "team-*"}, ARNs: []string{"arn:aws:iam::123456789012:role/metrics-*"}}}); !reflect.DeepEqual(c.Roles, want) || c.CloudWatch.Roles != nil {
		t.Errorf("roles %+v beside %+v, want %+v", c.Roles, c.CloudWatch.Roles, want)
	}
	if s := c.Prometheus.Servers; len(s) != 3 || s["default"].URL != "http://prometheus.monitoring:9090/prom" ||
		s["amp"].SigV4 == nil || s["amp"].SigV4.Region != "eu-west-1" || s["tenant"].HTTP == nil ||
		s["tenant"].HTTP.Authorization.CredentialsFile != "/etc/token" || s["tenant"].HTTP.Authorization.Type != "Bearer" ||
		!s["tenant"].HTTP.FollowRedirects || s["tenant"].HTTP.HTTPHeaders.Headers["X-Scope-OrgID"].Values[0] != "shop" {
		t.Errorf("servers %+v", s)
	}
	no := false
	want := rules.Rule{
		SeriesQuery: `http_requests_total{namespace!="",pod!=""}`,
		Resources: rules.Resources{Overrides: map[string]rules.GroupResource{
			"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"},
		}},
		Name:         rules.Name{Matches: "^(.*)_total$", As: "${1}_per_second"},
		MetricsQuery: "sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)",
		Options:      rules.Options{Server: "tenant", Interval: 30 * time.Second, MaxAge: 3 * time.Minute, NoData: "zero", ShareQueries: &no},
	}
	if len(c.Rules) != 1 || !reflect.DeepEqual(c.Rules[0], want) {
		t.Errorf("rules %+v, want %+v", c.Rules, want)
	}
	if r := c.ExternalRules; len(r) != 1 || r[0].Resources.Namespaced == nil || *r[0].Resources.Namespaced || r[0].Server != "amp" {
		t.Errorf("external rules %+v", r)
	}
	if r := c.ResourceRules; r == nil || r.Window != "3m" || r.Memory.ContainerLabel != "container" ||
		!reflect.DeepEqual(r.Memory.Resources, r.CPU.Resources) || r.CPU.Resources.Overrides["node"].Resource != "node" {
		t.Errorf("resource rules %+v", r)
	}
	if c.Compiled == nil {
		t.Error("the rules are not compiled")
	}
	if want := "1 in rules, 1 in externalRules, resourceRules, 1 in cloudwatch.roles, Prometheus servers amp, default, tenant, digest " + c.Digest(); c.Summary() != want || c.Digest() == "" {
		t.Errorf("the summary is %q, want %q", c.Summary(), want)
	}
}

func TestLoadNothing(t *testing.T) {
	want := Default()
	want.Prometheus.Servers = map[string]prometheus.Server{"default": {URL: "https://localhost"}}
	for name, text := range map[string]string{
		"empty": "", "spaces": " \n\n", "comment": "# nothing\n", "null": "null\n", "document": "---\n", "documents": "---\n---\n# nothing\n",
		"sections without content": "rules:\nexternalRules: ~\nresourceRules:\nprometheus:\ncloudwatch:\nmaxAge:\n",
		"empty sections":           "rules: []\nexternalRules: []\nprometheus: {servers: {}}\ncloudwatch: {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, ""} {
				c, err := Load(path)
				if err != nil {
					t.Fatalf("%q: %v", path, err)
				}
				if hasFile := c.Digest() != ""; hasFile != (path != "") {
					t.Errorf("%q: the digest is %q", path, c.Digest())
				}
				c.digest = ""
				if len(c.Rules) == 0 && len(c.ExternalRules) == 0 {
					c.File = rules.File{}
				}
				if c.Compiled == nil || len(c.Compiled.Custom)+len(c.Compiled.External) > 0 || c.Compiled.Resource != nil {
					t.Errorf("%q: compiled %+v", path, c.Compiled)
				}
				c.Compiled = nil
				if got, want := fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", want); got != want {
					t.Errorf("%q: got %s, want the defaults, %s", path, got, want)
				}
			}
		})
	}
}

// TestLoadBad reads every file of testdata/bad, whose first line is a comment with
// the phrase that the error must have.
func TestLoadBad(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "bad", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want := strings.TrimPrefix(first, "# ")
			_, err = Load(path)
			if err == nil {
				t.Fatal("loads")
			}
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with the path and %q", err, want)
			}
			for _, secret := range []string{"mine", "secret"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("got %q, which has a password in it", err)
				}
			}
		})
	}
}

func TestLoadRefusesHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	if err := os.WriteFile(path, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

// TestEveryFaultIsThere breaks one file in several places.
func TestEveryFaultIsThere(t *testing.T) {
	_, err := Parse([]byte(`
fetchTimeout: 2m
maxAge: soon
rules:
- seriesquery: x
- server: [eu]
  resources: {namespaced: 7}
cloudwatch: {settle: 1h}
`))
	faults, ok := errors.AsType[FaultsError](err)
	if !ok {
		t.Fatalf("the error is %T: %v", err, err)
	}
	var got []string
	for _, f := range faults {
		got = append(got, f.String())
	}
	want := []string{
		"line 2: fetchTimeout: 2m0s is not between 1s and 1m",
		"line 3: maxAge: soon is not a duration such as 30s",
		"line 5: rules[0]: field seriesquery is not known; did you mean seriesQuery?",
		"line 6: rules[1].server: a single value is wanted here, and not a list",
		"line 7: rules[1].resources.namespaced: 7 is neither true nor false",
		"line 8: cloudwatch.settle: 1h0m0s is not between 0s and 15m",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestManyFaultsAreCounted(t *testing.T) {
	_, err := Parse([]byte("rules:\n" + strings.Repeat("- {bad: 1}\n", 30)))
	if err == nil || !strings.HasSuffix(err.Error(), "; and 10 more") || !strings.Contains(err.Error(), "line 21: rules[19]: ") {
		t.Errorf("got %v", err)
	}
}

// TestWhatPrometheusAdapterReads loads what its decoder takes, YAML 1.1 and all.
func TestWhatPrometheusAdapterReads(t *testing.T) {
	const rule = `
- seriesQuery: http_requests_total
  resources: {template: "<<.Resource>>"}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
`
	for name, test := range map[string]struct {
		text string
		want func(c *Config) bool
	}{
		"quoted keys":  {`"rules": []`, func(c *Config) bool { return c.Rules != nil }},
		"JSON":         {`{"rules": [], "externalRules": null}`, func(c *Config) bool { return c.ExternalRules == nil }},
		"a BOM":        {"\uFEFFrules: []\n", func(c *Config) bool { return c.Rules != nil }},
		"CR LF":        {strings.ReplaceAll("rules:"+rule, "\n", "\r\n"), func(c *Config) bool { return len(c.Rules) == 1 }},
		"old booleans": {"rules:" + rule + "  shareQueries: off\n", func(c *Config) bool { return !*c.Rules[0].ShareQueries }},
		"numbers as text": {
			"rules:" + rule + "  name: {as: 502}\n",
			func(c *Config) bool { return c.Rules[0].Name.As == "502" },
		},
		"booleans as text and as keys": {
			"rules:\n- seriesQuery: up\n  resources: {overrides: {on: {resource: node}}}\n  name: {as: yes}\n  metricsQuery: sum(up{<<.LabelMatchers>>}) by (<<.GroupBy>>)\n",
			func(c *Config) bool {
				r := c.Rules[0]
				return r.Name.As == "yes" && r.Resources.Overrides["on"].Resource == "node"
			},
		},
		"null parts": {
			"rules:\n- seriesQuery: http_requests_total\n  seriesFilters:\n  name: ~\n  resources: {template: \"<<.Resource>>\", overrides: null, namespaced: null}\n  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)\n",
			func(c *Config) bool { return c.Rules[0].SeriesFilters == nil },
		},
		"anchors and merges": {
			"externalRules:\n- &one\n  seriesQuery: queue_depth\n  metricsQuery: &query sum(<<.Series>>{<<.LabelMatchers>>})\n- <<: *one\n  seriesQuery: queue_age\n- <<: [*one, {server: default}]\n  metricsQuery: *query\n",
			func(c *Config) bool {
				r := c.ExternalRules
				return len(r) == 3 && r[1].SeriesQuery == "queue_age" && r[1].MetricsQuery == r[0].MetricsQuery &&
					r[2].SeriesQuery == "queue_depth" && r[2].Server == "default"
			},
		},
		"block texts": {
			"externalRules:\n- seriesQuery: >-\n    queue_depth\n  metricsQuery: |\n    sum(\n      <<.Series>>{<<.LabelMatchers>>}\n    )\n",
			func(c *Config) bool { return c.ExternalRules[0].SeriesQuery == "queue_depth" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if !test.want(c) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestAliasesStayBounded(t *testing.T) {
	rule := "- &a0 {seriesQuery: x, resources: {overrides: {" + strings.Repeat("k", 5)
	var overrides strings.Builder
	for i := range 2000 {
		overrides.WriteString(": {resource: pod}, l" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + time.Duration(i).String())
	}
	text := "rules:\n" + rule + overrides.String() + ": {resource: pod}}}}\n" + strings.Repeat("- *a0\n", 2000)
	began := time.Now()
	_, err := Parse([]byte(text))
	if err == nil || !strings.Contains(err.Error(), "its aliases stand for more than 100000 nodes") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
}

func TestOverlay(t *testing.T) {
	text := []byte("externalRules: [{seriesQuery: queue_depth, metricsQuery: \"sum(<<.Series>>{<<.LabelMatchers>>})\"}]\n")
	here := func(c *Config) error {
		c.Prometheus.Servers = map[string]prometheus.Server{"default": {URL: "http://here:9090"}}
		return nil
	}
	c, err := Parse(text, here)
	if err != nil || c.Prometheus.Servers["default"].URL != "http://here:9090" {
		t.Errorf("got %+v, %v", c, err)
	}
	for name, test := range map[string]struct {
		overlay Overlay
		want    string
	}{
		"its error":            {func(*Config) error { return errors.New("--flag: is wrong") }, "--flag: is wrong"},
		"its faults":           {func(*Config) error { return FaultsError{{Path: "--a", Text: "is wrong"}, {Path: "--b", Text: "too"}} }, "--a: is wrong; --b: too"},
		"what it sets":         {func(c *Config) error { c.MaxAge = time.Second; return nil }, "maxAge: 1s is not between 2s and 24h"},
		"a server that it has": {func(c *Config) error { c.ExternalRules[0].Server = "eu"; return nil }, "there is no server eu; prometheus.servers has default"},
	} {
		if _, err := Parse(text, test.overlay); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// TestCallTimeout is that of servers beside a fetchTimeout.
func TestCallTimeout(t *testing.T) {
	const servers = "prometheus:\n  servers:\n    a: {url: 'http://a'}\n    b:\n      url: http://b\n      callTimeout: 6s\n"
	for _, test := range []struct {
		fetchTimeout string
		a            time.Duration
		want         string
	}{
		{"", 0, ""},
		{"fetchTimeout: 8s", 0, ""},
		{"fetchTimeout: 6s", 6 * time.Second, ""},
		{"fetchTimeout: 5s", 0, "line 6: prometheus.servers.b.callTimeout: 6s is longer than fetchTimeout, which is 5s: raise that, or lower this"},
		{"fetchTimeout: 10ms", 0, "line 7: fetchTimeout: 10ms is not between 1s and 1m"},
	} {
		c, err := Parse([]byte(servers + test.fetchTimeout))
		if test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("%q: the error is %v, want %s", test.fetchTimeout, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if a, b := c.Prometheus.Servers["a"].CallTimeout, c.Prometheus.Servers["b"].CallTimeout; a != test.a || b != 6*time.Second {
			t.Errorf("%q: calls may take %v and %v, want %v and 6s", test.fetchTimeout, a, b, test.a)
		}
	}
	c, err := Parse([]byte("fetchTimeout: 3s"))
	if err != nil || c.Prometheus.Servers["default"].CallTimeout != 3*time.Second {
		t.Errorf("without servers got %+v, %v", c, err)
	}
}

// No rule is asked more often than its server scrapes.
func TestScrapeInterval(t *testing.T) {
	c, err := Parse([]byte(`
prometheus:
  servers:
    default: {url: "http://a:9090", scrapeInterval: 30s}
    fast: {url: "http://b:9090", scrapeInterval: 5s}
rules:
- {seriesQuery: a, resources: {template: <<.Resource>>}, metricsQuery: sum(<<.Series>>)}
- {seriesQuery: a, resources: {template: <<.Resource>>}, metricsQuery: sum(<<.Series>>), interval: 1m}
- {seriesQuery: a, resources: {template: <<.Resource>>}, metricsQuery: sum(<<.Series>>), server: fast}
externalRules:
- {seriesQuery: a, metricsQuery: sum(<<.Series>>), interval: 2s, server: fast}
- {seriesQuery: a, metricsQuery: sum(<<.Series>>), interval: 2s}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []time.Duration
	for _, r := range slices.Concat(c.Compiled.Custom, c.Compiled.External) {
		got = append(got, r.Interval)
	}
	if want := []time.Duration{30 * time.Second, time.Minute, 15 * time.Second, 5 * time.Second, 30 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("the intervals are %v, want %v", got, want)
	}
	_, err = Parse([]byte(`
prometheus: {servers: {default: {url: "http://a:9090", scrapeInterval: 1m}}}
externalRules:
- {seriesQuery: a, metricsQuery: sum(<<.Series>>), maxAge: 45s}
- {seriesQuery: a, metricsQuery: sum(<<.Series>>), interval: 1ms}
`))
	for _, want := range []string{"maxAge: 45s is shorter than the interval of 1m0s", "externalRules[1].interval: 1ms"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPositions(t *testing.T) {
	document, err := parse([]byte("rules:\n- seriesQuery: a\n  name:\n    as: b\n- &r\n  metricsQuery: c\n-\n  <<: *r\n"))
	if err != nil {
		t.Fatal(err)
	}
	found := inspect(document, reflect.TypeFor[Config]())
	for path, want := range map[string]int{
		"rules": 2, "rules[0]": 2, "rules[0].name.as": 4, "rules[0].metricsQuery": 2, "rules[0].name.matches": 4,
		"rules[1].metricsQuery": 6, "rules[2]": 8, "rules[2].metricsQuery": 6, "rules[9].name": 2, "maxAge": 0, "": 0,
	} {
		if got := found.line(path); got != want {
			t.Errorf("%q is on line %d, want %d", path, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*", "*.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, filepath.Join("testdata", "good.yaml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err == nil {
			if again, err := Parse(text); err != nil || !reflect.DeepEqual(c.File, again.File) {
				t.Errorf("the second time: %+v, %v", again, err)
			}
			return
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is of several lines: %q", err)
		}
	})
}
