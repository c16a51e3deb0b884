package crd

import (
	"context"
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const policy = "externalmetric-ignored-fields.tidegauge.dev"

// awaitPolicy waits until the API server, which reads policies from a watch, applies
// the warnings.
func awaitPolicy(t *testing.T) {
	t.Helper()
	client, warned := metrics(t)
	o := object(t, "good/old-resource.yaml")
	eventually(t, func(ctx context.Context) error {
		_, err := client.Create(ctx, o, dryRun)
		if err == nil && len(warned.take()) == 0 {
			err = errors.New("no warning yet")
		}
		return err
	})
}

// policyWarnings are the warnings of the policy, without what the API server puts in
// front, as testdata/good writes them.
func policyWarnings(texts []string) []string {
	const mark = "': "
	var own []string
	for _, text := range texts {
		head, rest, ok := strings.Cut(text, mark)
		if ok && strings.Contains(head, policy) {
			own = append(own, "warning: "+rest)
		}
	}
	return own
}

func TestPolicyWarnsOfUpdatesToo(t *testing.T) {
	client, warned := metrics(t)
	awaitPolicy(t)
	o := create(t, client, object(t, "good/old-sqs.yaml"))
	if texts := warned.take(); len(texts) > 0 {
		t.Fatalf("warned of a manifest without ignored fields: %q", texts)
	}

	patch := []byte(`{"spec":{"resource":{"resource":"deployment"}}}`)
	if _, err := client.Patch(t.Context(), o.GetName(), mergePatch, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	const want = "warning: spec.resource is ignored: remove it"
	if got := policyWarnings(warned.take()); len(got) != 1 || got[0] != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
}
