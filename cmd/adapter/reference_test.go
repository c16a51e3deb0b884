package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/provider"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
)

var update = flag.Bool("update", false, "write the reference pages anew")

// TestReference keeps docs/reference in step with the code that it describes.
func TestReference(t *testing.T) {
	for page, text := range map[string]string{
		"flags.md":           flagsPage(),
		"metrics.md":         metricsPage(t),
		"externalmetrics.md": externalMetricsPage(t),
	} {
		path := filepath.Join("..", "..", "docs", "reference", page)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, []byte(text)) {
			t.Errorf("%s is stale (%v): run `make generate`", path, err)
		}
	}
}

func flagsPage() string {
	var b strings.Builder
	b.WriteString("# Flags of `adapter`\n\nWithout a command, and with `serve`. The last groups are those of the Kubernetes API server library.\n\n")
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	newCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, "| `--%s` %s | %s | %s |\n", f.Name, name, code(f.DefValue), cell(usage))
	})
	return b.String()
}

// described is how a prometheus.Desc prints its parts, which it gives no other way.
var described = regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)".*variableLabels: \{([^}]*)\}`)

func metricsPage(t *testing.T) string {
	t.Helper()
	c := config.Default()
	c.CloudWatch.Region = "eu-west-1"
	backends, err := builtin.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	collectors := []prometheus.Collector{
		backends, engine.New(engine.Options{}), config.NewReloader(config.ReloaderOptions{Current: c}),
		catalog.NewDiscovery(&catalog.Catalog{}, catalog.DiscoveryOptions{}), provider.NewReads(), &catalog.Catalog{},
	}
	var rows []string
	for _, c := range collectors {
		descs := make(chan *prometheus.Desc, 256)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("cannot read %s", d)
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", code(m[1]), strings.ReplaceAll(m[3], ",", ", "), cell(m[2])))
		}
	}
	slices.Sort(rows)
	return "# Self-metrics\n\nServed on `/metrics` beside those of the Kubernetes API server library.\n\n" +
		"| metric | labels | meaning |\n|---|---|---|\n" + strings.Join(rows, "")
}

func externalMetricsPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crds", "metrics.aws_externalmetrics.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# ExternalMetric (`metrics.aws/v1alpha1`, short name `em`)\n\n")
	root := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	for _, part := range []string{"spec", "status"} {
		fmt.Fprintf(&b, "## %s\n\n| field | type | bounds | meaning |\n|---|---|---|---|\n", part)
		root.Properties[part].rows(&b, part)
		b.WriteString("\n")
	}
	b.WriteString("## Rules\n\nBesides the bounds above, the API server refuses what breaks one of these.\n\n| where | message |\n|---|---|\n")
	root.rules(&b, "")
	return b.String()
}

// schema is the part of a JSON schema that the page shows.
type schema struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Properties  map[string]schema `json:"properties"`
	Items       *schema           `json:"items"`
	Required    []string          `json:"required"`
	Enum        []any             `json:"enum"`
	Pattern     string            `json:"pattern"`
	MinItems    *int64            `json:"minItems"`
	MaxItems    *int64            `json:"maxItems"`
	MinLength   *int64            `json:"minLength"`
	MaxLength   *int64            `json:"maxLength"`
	Minimum     *float64          `json:"minimum"`
	Maximum     *float64          `json:"maximum"`
	Validations []struct {
		Message           string `json:"message"`
		MessageExpression string `json:"messageExpression"`
	} `json:"x-kubernetes-validations"`
}

func (s schema) rows(b *strings.Builder, path string) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		at, kind := path+"."+name, p.Type
		if p.Items != nil {
			at, kind = at+"[]", "list of "+p.Items.Type
		}
		bounds := p.bounds()
		if slices.Contains(s.Required, name) {
			bounds = append([]string{"required"}, bounds...)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", at, kind, strings.Join(bounds, "; "), cell(p.Description))
		if p.Items != nil {
			p.Items.rows(b, at)
		}
		p.rows(b, at)
	}
}

func (s schema) bounds() []string {
	var out []string
	if len(s.Enum) > 0 {
		out = append(out, "one of "+cell(strings.Trim(fmt.Sprint(s.Enum), "[]")))
	}
	if s.Pattern != "" {
		out = append(out, code(s.Pattern))
	}
	for _, r := range []struct {
		least, most *int64
		unit        string
	}{{s.MinItems, s.MaxItems, "items"}, {s.MinLength, s.MaxLength, "characters"}} {
		out = append(out, between(r.least, r.most, r.unit)...)
	}
	return append(out, between(s.Minimum, s.Maximum, "")...)
}

func between[N int64 | float64](least, most *N, unit string) []string {
	switch {
	case least != nil && most != nil:
		return []string{strings.TrimSpace(fmt.Sprint(*least, " to ", *most, " ", unit))}
	case least != nil:
		return []string{strings.TrimSpace(fmt.Sprint("at least ", *least, " ", unit))}
	case most != nil:
		return []string{strings.TrimSpace(fmt.Sprint("at most ", *most, " ", unit))}
	}
	return nil
}

func (s schema) rules(b *strings.Builder, path string) {
	for _, v := range s.Validations {
		message := v.Message
		if message == "" {
			message = v.MessageExpression
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.TrimPrefix(path, "."), cell(message))
	}
	if s.Items != nil {
		s.Items.rules(b, path+"[]")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		s.Properties[name].rules(b, path+"."+name)
	}
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + cell(text) + "`"
}

// cell is text that stays in its cell of a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}
