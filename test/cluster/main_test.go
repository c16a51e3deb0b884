// Package cluster tests what deploy/cluster has for a cluster on EKS: files of eksctl, of AWS
// CDK, of CloudFormation, of Cluster Autoscaler and of Karpenter. Each is held against the
// strongest check that needs no cloud, and against what the demo and the chart say of it.
package cluster

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	// folder is what the tests are about.
	folder = "deploy/cluster"

	// What users replace in all files.
	account = "111122223333"
	region  = "eu-central-1"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// decode reads YAML or JSON. A field that the type does not have is an error.
func decode[T any](t *testing.T, name, text string) T {
	t.Helper()
	var into T
	if err := yaml.UnmarshalStrict([]byte(text), &into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return into
}

// at is what is somewhere in a document: keys of objects, and numbers of lists.
func at(t *testing.T, in any, path ...any) any {
	t.Helper()
	for i, step := range path {
		switch step := step.(type) {
		case string:
			m, ok := in.(map[string]any)
			if !ok || m[step] == nil {
				t.Fatalf("there is nothing at %v", path[:i+1])
			}
			in = m[step]
		case int:
			l, ok := in.([]any)
			if !ok || step >= len(l) {
				t.Fatalf("there is nothing at %v", path[:i+1])
			}
			in = l[step]
		}
	}
	return in
}

// say is a value as JSON, in which equal ones are equal.
func say(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// command runs a program in a folder and returns what it prints. An error has that, too.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	return env.Output(cmd)
}

// oneOrMore is a list that may be written as its only item.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(o))
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
