package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/provider"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
	promsource "github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

var update = flag.Bool("update", false, "write the reference pages anew")

// TestReference keeps docs/reference in step with the code that it describes.
func TestReference(t *testing.T) {
	for page, text := range map[string]string{
		"flags.md":           flagsPage(),
		"metrics.md":         metricsPage(t),
		"externalmetrics.md": externalMetricsPage(t),
		"configuration.md":   configurationPage(t),
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
	t.Run("copies", testCopies)
}

func flagsPage() string {
	var b strings.Builder
	b.WriteString("# Flags of `adapter`\n\nWithout a command, and with `serve`. The last groups are those of the Kubernetes API server library.\n\n")
	root := newCommand()
	flagRows(&b, root.Flags(), nil)
	for _, command := range []string{"check", "query external", "query custom"} {
		c, _, err := root.Find(strings.Fields(command))
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "\n## `adapter %s`\n\n%s. Besides these it has `--prometheus-*`, `--config`, `--max-age`, `--metrics-max-age`, `--metrics-relist-interval` and\n`--cloudwatch-empty-as-zero` of serving. See [check.md](../check.md).\n\n", command, c.Short)
		flagRows(&b, c.Flags(), root.Flags())
	}
	return b.String()
}

// flagRows is a table of the flags that are not among the others, which may be nil.
func flagRows(b *strings.Builder, flags, but *pflag.FlagSet) {
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" || but != nil && but.Lookup(f.Name) != nil {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		short := ""
		if f.Shorthand != "" && but != nil {
			short = fmt.Sprintf("`-%s`, ", f.Shorthand)
		}
		fmt.Fprintf(b, "| %s`--%s` %s | %s | %s |\n", short, f.Name, name, code(f.DefValue), cell(usage))
	})
}

// testCopies keeps what check judges by in step with what is deployed.
func testCopies(t *testing.T) {
	for copied, original := range map[string]string{
		"definition.yaml": filepath.Join("crds", "metrics.aws_externalmetrics.yaml"),
		"policy.yaml":     filepath.Join("policies", "externalmetric-ignored-fields.yaml"),
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", original))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("internal", "crd", copied)
		if *update {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, text) {
			t.Errorf("%s is not deploy/%s (%v): run `make generate`", path, original, err)
		}
	}
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
		newMemoryWatch(nil, nil),
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
					OpenAPIV3Schema jsonSchema `json:"openAPIV3Schema"`
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

// jsonSchema is the part of a JSON schema that the page shows.
type jsonSchema struct {
	Type        string                `json:"type"`
	Description string                `json:"description"`
	Properties  map[string]jsonSchema `json:"properties"`
	Items       *jsonSchema           `json:"items"`
	Required    []string              `json:"required"`
	Enum        []any                 `json:"enum"`
	Pattern     string                `json:"pattern"`
	MinItems    *int64                `json:"minItems"`
	MaxItems    *int64                `json:"maxItems"`
	MinLength   *int64                `json:"minLength"`
	MaxLength   *int64                `json:"maxLength"`
	Minimum     *float64              `json:"minimum"`
	Maximum     *float64              `json:"maximum"`
	Validations []struct {
		Message           string `json:"message"`
		MessageExpression string `json:"messageExpression"`
	} `json:"x-kubernetes-validations"`
}

func (s jsonSchema) rows(b *strings.Builder, path string) {
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

func (s jsonSchema) bounds() []string {
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

func (s jsonSchema) rules(b *strings.Builder, path string) {
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

// configurationPage describes the fields of the file by the types that it is decoded into,
// and by their comments.
func configurationPage(t *testing.T) string {
	t.Helper()
	c := &configurationFields{t: t, comments: fieldComments(t), first: map[reflect.Type]string{}}
	c.structure(reflect.TypeFor[config.Config](), reflect.ValueOf(*config.Default()), "")
	for path := range limits {
		if !c.has(path) {
			t.Errorf("there is no field %s, of which limits has bounds", path)
		}
	}
	var b strings.Builder
	b.WriteString("# The configuration file\n\nIn YAML, and named by `--config`. Every field may be left out, but for those that are required where their part is there. " +
		"A field that is not known, or a value out of its bounds, is refused with its line. " +
		"See [Configuration](../run.md#configuration) for an example, [Prometheus](../prometheus.md) for rules, and [Reload](../prometheus.md#reload).\n\n" +
		"`[]` stands for each item of a list, and `NAME` for each name. A duration is such as `30s` or `1m30s`.\n")
	section := "-"
	for _, f := range c.fields {
		if now := f.section(); now != section {
			section = now
			if section != "" {
				fmt.Fprintf(&b, "\n## `%s`\n", section)
			}
			b.WriteString("\n| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.path, f.kind, code(f.unset), cell(limits[f.path].String()), cell(f.meaning))
	}
	return b.String()
}

// configurationFields are the fields of the file, in the order of their types.
type configurationFields struct {
	t *testing.T
	// comments are those of the fields by package, type and field, in Go's names.
	comments map[string]string
	fields   []configurationField
	// first are the paths at which types were met first: only there their fields are listed.
	first map[reflect.Type]string
}

type configurationField struct {
	path, kind, unset, meaning string
	// alone is for a field that is in no section.
	alone bool
}

// section is the part of the file that the field is in.
func (f configurationField) section() string {
	if f.alone {
		return ""
	}
	section, _, _ := strings.Cut(f.path, ".")
	return strings.TrimSuffix(section, "[]")
}

func (c *configurationFields) has(path string) bool {
	return slices.ContainsFunc(c.fields, func(f configurationField) bool { return f.path == path })
}

// structure lists the fields of a type, of which v has the defaults if it is valid.
func (c *configurationFields) structure(of reflect.Type, v reflect.Value, path string) {
	for field := range of.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		var value reflect.Value
		if v.IsValid() {
			value = v.FieldByIndex(field.Index)
		}
		switch {
		case options == "inline":
			c.structure(field.Type, value, path)
		case name != "" && name != "-":
			c.field(of, field, value, strings.TrimPrefix(path+"."+name, "."))
		}
	}
}

// field lists a field, and those within it.
func (c *configurationFields) field(of reflect.Type, field reflect.StructField, v reflect.Value, path string) {
	name := path[strings.LastIndex(path, ".")+1:]
	kind := kindOf(field.Type)
	f := configurationField{path: path, kind: kind.text, unset: cmp.Or(unset[path], shownDefault(v)), meaning: c.meaning(of, field.Name, name)}
	f.alone = kind.of == nil && !strings.Contains(path, ".")
	if first := c.first[kind.of]; kind.of != nil && first != "" {
		f.meaning += " The fields are those of `" + first + "`."
	}
	c.fields = append(c.fields, f)
	if kind.of == nil || c.first[kind.of] != "" {
		return
	}
	c.first[kind.of] = path + kind.below
	if kind.of != field.Type {
		v = reflect.Value{}
	}
	c.structure(kind.of, v, path+kind.below)
}

// meaning is the comment of a field for whoever knows it by its name in the file.
func (c *configurationFields) meaning(of reflect.Type, field, name string) string {
	comment := c.comments[of.PkgPath()+"."+of.Name()+"."+field]
	text, ok := strings.CutPrefix(comment, field+" ")
	if !ok {
		c.t.Errorf("%v.%s needs a comment that begins with its name", of, field)
	}
	for _, verb := range []string{"is ", "are "} {
		if rest, ok := strings.CutPrefix(text, verb); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return "`" + name + "` " + text
}

// fieldKind is how a type is written in the file.
type fieldKind struct {
	text string
	// of is the type of the fields within, and below what their paths have behind the field's;
	// nil if there are none, or if they are another project's.
	of    reflect.Type
	below string
}

func kindOf(t reflect.Type) fieldKind {
	if t == reflect.TypeFor[time.Duration]() {
		return fieldKind{text: "duration"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Bool:
		return fieldKind{text: "true or false"}
	case reflect.Int:
		return fieldKind{text: "number"}
	case reflect.Slice:
		if item := kindOf(t.Elem()); item.text == "mapping" {
			return fieldKind{"list of mappings", item.of, "[]"}
		}
		return fieldKind{text: "list of texts"}
	case reflect.Map:
		if item := kindOf(t.Elem()); item.text == "mapping" {
			return fieldKind{"mappings by name", item.of, ".NAME"}
		}
		return fieldKind{text: "texts by name"}
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), module) {
			return fieldKind{"mapping", t, ""}
		}
		return fieldKind{text: "mapping"}
	default:
		return fieldKind{text: "text"}
	}
}

func shownDefault(v reflect.Value) string {
	if !v.IsValid() || v.IsZero() || v.Kind() == reflect.Struct {
		return ""
	}
	return strings.ReplaceAll(fmt.Sprint(v), "m0s", "m")
}

const module = "github.com/tidegauge/tidegauge/"

// fieldComments are the comments of the fields of all types of the packages that the
// configuration is of.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	comments := map[string]string{}
	for _, pkg := range []string{"pkg/config", "pkg/rules", "pkg/sources/cloudwatch", "pkg/sources/prometheus"} {
		files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(pkg), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				declared, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				if s, ok := declared.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, name := range field.Names {
							comments[module+pkg+"."+declared.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
						}
					}
				}
				return false
			})
		}
	}
	return comments
}

// unset are the defaults of fields that the loader leaves as they are.
var unset = map[string]string{
	"prometheus.servers.NAME.verb":              http.MethodGet,
	"prometheus.servers.NAME.callTimeout":       promsource.DefaultCallTimeout.String(),
	"prometheus.servers.NAME.maxCalls":          "8",
	"prometheus.servers.NAME.maxCallsPerSecond": "0",
	"prometheus.servers.NAME.scrapeInterval":    "0s",
	"prometheus.servers.NAME.inCluster":         "false",
	"rules[].resources.namespaced":              "true",
	"rules[].server":                            promsource.DefaultServer,
	"rules[].interval":                          rules.DefaultInterval.String(),
	"rules[].noData":                            "error",
	"rules[].shareQueries":                      "true",
	"resourceRules.server":                      promsource.DefaultServer,
	"resourceRules.interval":                    rules.DefaultInterval.String(),
	"resourceRules.noData":                      "error",
	"resourceRules.shareQueries":                "true",
}

// limit is what the loader holds the value of a field to.
type limit struct {
	// least and most are the bounds of a number or a duration.
	least, most string
	// says is any other rule, and bad are values that break it.
	says string
	bad  []string
}

func (l limit) String() string {
	var parts []string
	if l.least != "" {
		parts = append(parts, l.least+" to "+l.most)
	}
	if l.says != "" {
		parts = append(parts, l.says)
	}
	return strings.Join(parts, "; ")
}

// limits are the bounds by path. TestLimits holds the loader to them.
var limits = map[string]limit{
	"maxAge":                                    {least: "2s", most: "24h"},
	"fetchTimeout":                              {least: "1s", most: "1m"},
	"cloudwatch.region":                         {says: "such as eu-central-1", bad: []string{"EU West", "x.example.com"}},
	"cloudwatch.roleSessionName":                {says: "2 to 64 letters, digits or any of `_+=,.@-`", bad: []string{"x", "a b"}},
	"cloudwatch.callTimeout":                    {least: "1s", most: "1m"},
	"cloudwatch.maxCalls":                       {least: "1", most: "50"},
	"cloudwatch.maxCallsPerSecond":              {least: "1", most: "500"},
	"cloudwatch.settle":                         {least: "0s", most: "15m"},
	"cloudwatch.roles":                          {says: "5000 namespaces and ARNs at most in all"},
	"cloudwatch.roles[].namespaces":             {says: "required", bad: []string{"[]", "[A]"}},
	"cloudwatch.roles[].arns":                   {says: "required; `*` behind `role/` only", bad: []string{"[]", `["*"]`, `["arn:aws:iam::*:role/reader"]`}},
	"prometheus.servers":                        {says: "names of 1 to 63 letters, digits or any of `._-`, the first no sign", bad: []string{"{-a: {url: 'http://a'}}"}},
	"prometheus.servers.NAME.url":               {says: "required; http or https, without user, `?` and `#`", bad: []string{"''", "ftp://a", "http://me@a", "http://a?b"}},
	"prometheus.servers.NAME.verb":              {says: "GET or POST", bad: []string{"PUT"}},
	"prometheus.servers.NAME.callTimeout":       {least: "1s", most: "1m"},
	"prometheus.servers.NAME.maxCalls":          {least: "1", most: "50"},
	"prometheus.servers.NAME.maxCallsPerSecond": {least: "0", most: "10000"},
	"prometheus.servers.NAME.scrapeInterval":    {least: "1s", most: "10m"},
	"prometheus.servers.NAME.headers":           {says: "none that describes a content, such as Content-Type", bad: []string{"{Content-Type: a}", "{a b: c}"}},
	"rules":                                     {says: "1000 at most"},
	"externalRules":                             {says: "1000 at most"},
	"rules[].seriesQuery":                       {says: "required; not all series", bad: []string{"''", "'{'", `'{a=~".*"}'`}},
	"rules[].seriesFilters":                     {says: "100 at most", bad: []string{"[{}]", "[{is: a, isNot: b}]"}},
	"rules[].seriesFilters[].is":                {says: "[RE2](https://github.com/google/re2/wiki/Syntax)", bad: []string{"("}},
	"rules[].seriesFilters[].isNot":             {says: "[RE2](https://github.com/google/re2/wiki/Syntax)"},
	"rules[].resources.template":                {says: "has `<<.Resource>>`", bad: []string{"resource", "<<.Resource"}},
	"rules[].resources.overrides":               {says: "100 at most, by names of labels", bad: []string{"{a-b: {resource: pod}}"}},
	"rules[].resources.overrides.NAME.resource": {says: "required", bad: []string{"''"}},
	"rules[].name.matches":                      {says: "[RE2](https://github.com/google/re2/wiki/Syntax)", bad: []string{"("}},
	"rules[].name.as":                           {says: "no `/` and `%`; captures that matches has", bad: []string{"a/b", "$2"}},
	"rules[].metricsQuery":                      {says: "required", bad: []string{"''", "sum(", "<<.Serie>>"}},
	"rules[].interval":                          {least: "1s", most: "10m"},
	"rules[].maxAge":                            {least: "2s", most: "24h"},
	"rules[].noData":                            {says: "error or zero", bad: []string{"none"}},
	"resourceRules.cpu.containerLabel":          {says: "the name of a label", bad: []string{"a-b", "pod"}},
	"resourceRules.cpu.resources":               {says: "required", bad: []string{"{}"}},
	"resourceRules.window":                      {says: "24h at most", bad: []string{"25h", "often"}},
	"resourceRules.interval":                    {least: "1s", most: "10m"},
	"resourceRules.maxAge":                      {least: "2s", most: "24h"},
	"resourceRules.noData":                      {says: "error", bad: []string{"zero", "none"}},
}

// everything is a file in which each field that has limits can be replaced.
const everything = `
fetchTimeout: 1m
cloudwatch: {roles: [{namespaces: [a], arns: ["arn:aws:iam::123456789012:role/reader"]}]}
prometheus: {servers: {default: {url: 'http://a'}, NAME: {url: 'http://a'}}}
rules:
- seriesQuery: up
  seriesFilters: [{is: u}]
  resources: {template: <<.Resource>>, overrides: {NAME: {resource: pod}}}
  name: {matches: ^(.*)$, as: $1}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 1s
  maxAge: 24h
resourceRules:
  cpu:
    containerQuery: sum(cpu{<<.LabelMatchers>>}) by (<<.GroupBy>>)
    nodeQuery: sum(cpu{<<.LabelMatchers>>}) by (<<.GroupBy>>)
    resources: {template: <<.Resource>>}
    containerLabel: container
  memory:
    containerQuery: sum(memory{<<.LabelMatchers>>}) by (<<.GroupBy>>)
    nodeQuery: sum(memory{<<.LabelMatchers>>}) by (<<.GroupBy>>)
    resources: {template: <<.Resource>>}
    containerLabel: container
  interval: 1s
  maxAge: 24h
`

// TestLimits holds the loader to the bounds that the page shows.
func TestLimits(t *testing.T) {
	if _, err := config.Parse([]byte(everything)); err != nil {
		t.Fatal(err)
	}
	for path, l := range limits {
		t.Run(path, func(t *testing.T) {
			bad := slices.Clone(l.bad)
			if l.least != "" {
				for _, value := range []string{l.least, l.most} {
					if err := loads(t, path, value); err != nil {
						t.Errorf("%s is refused: %v", value, err)
					}
				}
				bad = append(bad, beyond(t, l.least, -1), beyond(t, l.most, 1))
			}
			for _, value := range bad {
				switch err := loads(t, path, value); {
				case err == nil:
					t.Errorf("%s loads", value)
				case !strings.Contains(err.Error(), path[strings.LastIndex(path, ".")+1:]):
					t.Errorf("%s is refused without the field's name: %v", value, err)
				}
			}
		})
	}
}

// beyond is a value on the other side of a bound. Of a number it is the one after next, as
// 0 may stand for the default.
func beyond(t *testing.T, bound string, direction int) string {
	t.Helper()
	if n, err := strconv.Atoi(bound); err == nil {
		return strconv.Itoa(n + 2*direction)
	}
	d, err := time.ParseDuration(bound)
	if err != nil {
		t.Fatal(err)
	}
	return (d + time.Duration(direction)*time.Millisecond).String()
}

// loads gives the loader the file of everything with another value of a field.
func loads(t *testing.T, path, value string) error {
	t.Helper()
	var file, v any
	if err := errors.Join(yaml.Unmarshal([]byte(everything), &file), yaml.Unmarshal([]byte(value), &v)); err != nil {
		t.Fatal(err)
	}
	at, parts := file, strings.Split(path, ".")
	for i, part := range parts {
		name, ofList := strings.CutSuffix(part, "[]")
		in := at.(map[string]any)
		if i == len(parts)-1 {
			in[name] = v
			break
		}
		if in[name] == nil {
			in[name] = map[string]any{}
		}
		if at = in[name]; ofList {
			at = at.([]any)[0]
		}
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = config.Parse(text)
	return err
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
