package chart

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestGenerated keeps the chart's copies of what lies elsewhere in the repository, and its
// README, in step with their origins.
func TestGenerated(t *testing.T) {
	generated := map[string][]byte{
		"README.md":              readme(t),
		"files/crds.yaml":        join(t, "deploy/crds"),
		"files/policies.yaml":    join(t, "deploy/policies"),
		"files/rules.yaml":       read(t, root(t), "deploy/monitoring/rules.yaml"),
		"files/dashboard.json":   read(t, root(t), "deploy/monitoring/dashboard.json"),
		"files/stock-rules.yaml": read(t, root(t), "test/bench/stock.yaml"),
	}
	for _, name := range slices.Sorted(maps.Keys(generated)) {
		path := filepath.Join(chartDir(t), name)
		if *update {
			if err := os.WriteFile(path, generated[name], 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, generated[name]) {
			t.Errorf("charts/tidegauge/%s is stale (%v): run `make generate`", name, err)
		}
	}
}

// join puts the YAML files of a folder into one.
func join(t *testing.T, folder string) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no YAML file: %v", folder, err)
	}
	var all [][]byte
	for _, file := range files {
		all = append(all, bytes.TrimPrefix(read(t, file), []byte("---\n")))
	}
	return bytes.Join(all, []byte("---\n"))
}

//go:embed readme.md
var readmeText string

func readme(t *testing.T) []byte {
	t.Helper()
	text := read(t, chartDir(t), "values.yaml")
	var defaults map[string]any
	if err := yaml.Unmarshal(text, &defaults); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, v := range commented(string(text)) {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", strings.Join(v.path, "."), v.shown(t, defaults), strings.ReplaceAll(v.comment, "|", `\|`))
	}
	return []byte(strings.Replace(readmeText, "{{values}}\n", table.String(), 1))
}

// value is a key of values.yaml with a comment above it.
type value struct {
	path    []string
	comment string
	// section is for a key whose own keys have comments.
	section bool
}

// commented are the keys of values.yaml that have comments, in the order of the file.
func commented(text string) []value {
	var values []value
	var path, comment []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimLeft(line, " ")
		if note, ok := strings.CutPrefix(trimmed, "# "); ok {
			comment = append(comment, note)
			continue
		}
		key, _, ok := strings.Cut(trimmed, ":")
		if ok && !strings.HasPrefix(key, "- ") {
			path = append(slices.Clone(path[:min(len(path), (len(line)-len(trimmed))/2)]), key)
		}
		if ok && len(comment) > 0 {
			values = append(values, value{path: path, comment: strings.Join(comment, " ")})
		}
		comment = nil
	}
	for i := range values {
		values[i].section = i+1 < len(values) && len(values[i+1].path) > len(values[i].path) &&
			slices.Equal(values[i+1].path[:len(values[i].path)], values[i].path)
	}
	return values
}

// shown is the default value, for the table.
func (v value) shown(t *testing.T, defaults map[string]any) string {
	t.Helper()
	if v.section {
		return ""
	}
	text, err := json.Marshal(lookup(t, defaults, v.path))
	if err != nil {
		t.Fatal(err)
	}
	if string(text) == "null" {
		return ""
	}
	return "`" + string(text) + "`"
}

func lookup(t *testing.T, in map[string]any, path []string) any {
	t.Helper()
	at, ok := in[path[0]]
	if !ok {
		t.Fatalf("values.yaml has no %s", strings.Join(path, "."))
	}
	if len(path) == 1 {
		return at
	}
	return lookup(t, at.(map[string]any), path[1:])
}

// Whoever reads the table misses no value.
func TestEveryValueIsExplained(t *testing.T) {
	text := read(t, chartDir(t), "values.yaml")
	var defaults map[string]any
	if err := yaml.Unmarshal(text, &defaults); err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, v := range commented(string(text)) {
		explained[strings.Join(v.path, ".")] = !v.section
	}
	var walk func(at map[string]any, path []string)
	walk = func(at map[string]any, path []string) {
		for key, v := range at {
			path := append(slices.Clone(path), key)
			name := strings.Join(path, ".")
			inner, ok := v.(map[string]any)
			switch {
			case explained[name]:
			case ok && len(inner) > 0:
				walk(inner, path)
			default:
				t.Errorf("%s has no comment", name)
			}
		}
	}
	walk(defaults, nil)
}
