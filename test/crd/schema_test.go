package crd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

var definitionFile = filepath.Join("..", "..", "deploy", "crds", "metrics.aws_externalmetrics.yaml")

// Each file of testdata/good is accepted, with the warnings that its first comments
// say and no others, and is still accepted when the Go types have read and written it.
func TestGoodManifests(t *testing.T) {
	client, warned := metrics(t)
	awaitPolicy(t)

	for name, m := range manifests(t, "good") {
		t.Run(name, func(t *testing.T) {
			for _, o := range m.objects {
				if _, err := client.Create(t.Context(), o, dryRun); err != nil {
					t.Errorf("%s: %v", o.GetName(), err)
				}
			}
			if diff := cmp.Diff(m.comments, policyWarnings(warned.take()), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			for _, o := range m.objects {
				var typed v1alpha1.ExternalMetric
				const strict = true
				if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, strict); err != nil {
					t.Errorf("%s into the Go type: %v", o.GetName(), err)
				}
				if _, err := client.Create(t.Context(), toUnstructured(t, &typed), dryRun); err != nil {
					t.Errorf("%s from the Go type: %v", o.GetName(), err)
				}
			}
			warned.take()
		})
	}
}

// Each file of testdata/bad is refused for one reason, the one in its first comment:
// the field's path, and what the API server says of it.
func TestBadManifests(t *testing.T) {
	client, _ := metrics(t)

	for name, m := range manifests(t, "bad") {
		t.Run(name, func(t *testing.T) {
			if len(m.objects) != 1 || len(m.comments) != 1 {
				t.Fatalf("the file holds %d objects and %d comments, want one of each", len(m.objects), len(m.comments))
			}
			_, err := client.Create(t.Context(), m.objects[0], dryRun)
			checkRefusal(t, err, m.comments[0])
		})
	}
}

// checkRefusal checks that err is the API server's, and has one reason: want, which is
// a field's path, a colon and a part of the text.
func checkRefusal(t *testing.T, err error, want string) {
	t.Helper()
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		t.Fatalf("error %v, want %q", err, want)
	}
	if apierrors.IsBadRequest(err) { // A body that does not decode names no field apart from its text.
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
		return
	}
	reasons := causes(status.ErrStatus.Details)
	if len(reasons) != 1 {
		t.Fatalf("reasons %v, want one: %s", reasons, want)
	}
	field, text, _ := strings.Cut(want, ": ")
	if reasons[0].Field != field || !strings.Contains(reasons[0].Message, text) {
		t.Errorf("refused with\n  %s: %s\nwant\n  %s", reasons[0].Field, reasons[0].Message, want)
	}
}

// Each rule and pattern of the schema has a file of testdata/bad.
func TestEveryRuleHasABadManifest(t *testing.T) {
	var expected strings.Builder
	for _, m := range manifests(t, "bad") {
		expected.WriteString(strings.Join(m.comments, "\n") + "\n")
	}
	spec := definition(t).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	var rules int
	walk("spec", spec, func(path string, schema apiextensionsv1.JSONSchemaProps) {
		texts := messages(schema)
		rules += len(texts)
		for _, text := range texts {
			if !strings.Contains(expected.String(), text) {
				t.Errorf("%s: no file of testdata/bad expects %q", path, text)
			}
		}
	})
	if rules == 0 {
		t.Error("the schema has no rules")
	}
}

// messages are what the API server says when a value breaks a schema's own rules.
func messages(schema apiextensionsv1.JSONSchemaProps) []string {
	var texts []string
	for _, rule := range schema.XValidations {
		texts = append(texts, rule.Message)
	}
	if schema.Pattern != "" {
		texts = append(texts, "should match '"+schema.Pattern+"'")
	}
	return texts
}

func walk(path string, schema apiextensionsv1.JSONSchemaProps, visit func(string, apiextensionsv1.JSONSchemaProps)) {
	visit(path, schema)
	if schema.Items != nil && schema.Items.Schema != nil {
		walk(path+"[]", *schema.Items.Schema, visit)
	}
	for name, property := range schema.Properties {
		walk(path+"."+name, property, visit)
	}
}

func definition(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile(definitionFile)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	return &crd
}
