package crd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects that the old adapter's CRD let through stay usable when ours replaces it:
// their status, their metadata and their other fields can be changed. What breaks a
// rule can only be changed into what does not.
func TestUpgradeFromPermissiveSchema(t *testing.T) {
	client, _ := metrics(t)
	old := object(t, "upgrade/object.yaml")
	lenient := metav1.CreateOptions{DryRun: dryRun.DryRun, FieldValidation: metav1.FieldValidationIgnore}
	t.Cleanup(func() { install(t, definitionFile) })

	install(t, filepath.Join("testdata", "upgrade", "crd.yaml"))
	eventually(t, func(ctx context.Context) error {
		_, err := client.Create(ctx, old, dryRun)
		return err
	})
	create(t, client, old)
	install(t, definitionFile)
	eventually(t, func(ctx context.Context) error {
		_, err := client.Create(ctx, old, lenient)
		if apierrors.IsInvalid(err) {
			return nil
		}
		return errors.Join(errors.New("the object is not refused yet"), err)
	})

	tests := []struct {
		name         string
		patch        string
		subresources []string
		want         string // empty when the patch is accepted
	}{
		{name: "status", patch: `{"status":{"value":"95"}}`, subresources: []string{"status"}},
		{name: "metadata", patch: `{"metadata":{"labels":{"team":"orders"}}}`},
		{name: "another field", patch: `{"spec":{"region":"eu-central-1"}}`},
		{
			name:  "the field, wrong again",
			patch: `{"spec":{"roleArn":"arn:aws:iam::123456789012:group/readers"}}`,
			want:  "spec.roleArn: roleArn must be the ARN of an IAM role",
		},
		{name: "the field, cured", patch: `{"spec":{"roleArn":"arn:aws:iam::123456789012:role/readers"}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := client.Patch(t.Context(), old.GetName(), mergePatch, []byte(test.patch), metav1.PatchOptions{}, test.subresources...)
			if test.want != "" {
				checkRefusal(t, err, test.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// install puts a file's CRD in the place of the one that is served.
func install(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := bed.Cluster(t).Apply(context.WithoutCancel(t.Context()), text); err != nil {
		t.Fatal(err)
	}
}
