// Package deploy tests what deploy has for users without Helm: install.yaml and the
// kustomize base, which it also writes (`make generate`), the IAM policies and the
// examples of HPAs; and holds every manifest against every version of Kubernetes that the
// chart is for.
package deploy

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/testcluster"
	"github.com/tidegauge/tidegauge/test/until"
)

// update writes the generated files anew, in place of comparing them.
var update = flag.Bool("update", false, "write the generated files of deploy anew")

const (
	release   = "tidegauge"
	namespace = env.Namespace
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
)

// bed is the cluster that the tests share which need one. It has what the test bed installs,
// an adapter's CRD and policies among it, and kinds by the names of cert-manager's.
var bed = testcluster.Shared{Options: env.Options{Nodes: 2}, Prepare: installCertManager}

func TestMain(m *testing.M) { os.Exit(bed.Run(m)) }

const certManager = "cert-manager.io"

// installCertManager lets the API server take any object of cert-manager's kinds.
func installCertManager(ctx context.Context, c *env.Cluster) error {
	for _, kind := range []string{"Certificate", "Issuer"} {
		if err := c.Apply(ctx, []byte(anyCRD(kind))); err != nil {
			return err
		}
		crd := strings.ToLower(kind) + "s." + certManager
		if _, err := c.Kubectl(ctx, "", "wait", "--for=condition=Established", "--timeout=60s", "crd/"+crd); err != nil {
			return err
		}
	}
	return nil
}

// anyCRD is a CRD of a kind of cert-manager's, without a schema.
func anyCRD(kind string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[1]ss.%[2]s
spec:
  group: %[2]s
  scope: Namespaced
  names: {kind: %[3]s, plural: %[1]ss}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, strings.ToLower(kind), certManager, kind)
}

// template renders the chart with values that `helm --set` takes.
func template(t *testing.T, args ...string) string {
	t.Helper()
	out, err := env.Run(t.Context(), "", "helm", append([]string{
		"template", release, repo.Path(t, "charts/tidegauge"), "--kubeconfig", os.DevNull, "--namespace", namespace, "--skip-tests",
	}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kustomize builds a folder of the repository.
func kustomize(t *testing.T, folder string) objects {
	t.Helper()
	out, err := env.Run(t.Context(), "", "kubectl", "kustomize", repo.Path(t, folder))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

type objects []*unstructured.Unstructured

func parse(t *testing.T, text string) objects {
	t.Helper()
	all, err := env.ParseObjects([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return all
}

// of are the objects of a kind.
func (all objects) of(kind string) objects {
	return slices.DeleteFunc(slices.Clone(all), func(o *unstructured.Unstructured) bool { return o.GetKind() != kind })
}

// own is the object of that kind with the release's name, which has to be there.
func (all objects) own(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range all.of(kind) {
		if o.GetName() == release {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, release)
	return nil
}

// contents are the objects by what names them.
func (all objects) contents() map[string]map[string]any {
	by := map[string]map[string]any{}
	for _, o := range all {
		by[fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())] = o.Object
	}
	return by
}

// nested is a text somewhere in an object, or empty.
func nested(o *unstructured.Unstructured, path ...string) string {
	text, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		return err.Error()
	}
	return text
}

// ownNamespace makes a namespace, which is deleted when the test ends.
func ownNamespace(t *testing.T, c *env.Cluster, name string) {
	t.Helper()
	text := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}", name)
	if err := c.Apply(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.Client().CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	until.Holds(t, what, deadline, check)
}

var (
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)
