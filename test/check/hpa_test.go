package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// hpasOf are the HPAs of a file of testdata.
func hpasOf(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "hpas", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "---\n")
}

// create asks a real API server for what it would do with an object, as kubectl asks it.
func create(t *testing.T, c *env.Cluster, text string) error {
	t.Helper()
	objects, err := env.ParseObjects([]byte(text))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d objects: %v: %s", len(objects), err, text)
	}
	o := objects[0]
	resource := schema.FromAPIVersionAndKind(o.GetAPIVersion(), o.GetKind()).GroupVersion().WithResource("horizontalpodautoscalers")
	_, err = c.Dynamic().Resource(resource).Namespace("default").
		Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	return err
}

// refused are the errors that check finds in each of the texts.
func refused(t *testing.T, texts []string) map[string]string {
	t.Helper()
	folder := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var r struct {
		Findings []struct{ Severity, File, Message string }
		Checked  struct{ HPAs int }
	}
	(&bed{t: t}).run("check", "-o", "json", folder).into(&r)
	if r.Checked.HPAs != len(texts) {
		t.Fatalf("%d HPAs are checked, want %d", r.Checked.HPAs, len(texts))
	}
	all := map[string]string{}
	for _, f := range r.Findings {
		if f.Severity == "error" {
			all[filepath.Base(f.File)] = f.Message
		}
	}
	return all
}

// What check finds no error in, the API server takes, and nothing else.
func TestVerdictsOnHPAsAreTheAPIServers(t *testing.T) {
	c := testcluster.Start(t, env.Options{Nodes: 1})
	for name, good := range map[string]bool{"good.yaml": true, "bad.yaml": false} {
		texts := hpasOf(t, name)
		found := refused(t, texts)
		for i, text := range texts {
			said, wrong := found[fmt.Sprintf("%d.yaml", i)]
			err := create(t, c, text)
			if wrong == good || (err == nil) != good {
				t.Errorf("%s: check says %q, and the API server %v, of %s", name, said, err, text)
			}
		}
	}
}
