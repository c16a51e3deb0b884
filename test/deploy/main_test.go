// Package deploy tests what deploy has for users without Helm: install.yaml and the
// kustomize base, which it also writes (`make generate`), the IAM policies and the
// examples of HPAs; and holds every manifest against every version of Kubernetes that the
// chart is for.
package deploy

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
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

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	defer func() {
		if bed.cluster == nil {
			return
		}
		if err := bed.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// bed is the cluster that the tests share which need one. It has what the test bed installs,
// an adapter's CRD and policies among it, and kinds by the names of cert-manager's.
var bed struct {
	once    sync.Once
	cluster *env.Cluster
	err     error
}

func cluster(t *testing.T) *env.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	bed.once.Do(func() { bed.cluster, bed.err = startCluster(t) })
	if bed.err != nil {
		t.Fatal(bed.err)
	}
	return bed.cluster
}

func startCluster(t *testing.T) (*env.Cluster, error) {
	t.Helper()
	// The cluster is for the tests to come, too.
	c, err := env.Start(context.WithoutCancel(t.Context()), env.Options{Nodes: 2})
	if err != nil {
		return nil, err
	}
	if err := installCertManager(t.Context(), c); err != nil {
		return nil, fmt.Errorf("%w; %w", err, c.Stop())
	}
	return c, nil
}

const certManager = "cert-manager.io"

// installCertManager lets the API server take any object of cert-manager's kinds.
func installCertManager(ctx context.Context, c *env.Cluster) error {
	for _, kind := range []string{"Certificate", "Issuer"} {
		if err := c.Apply(ctx, []byte(anyCRD(kind))); err != nil {
			return err
		}
		crd := strings.ToLower(kind) + "s." + certManager
		if _, err := kubectl(ctx, c, "", "wait", "--for=condition=Established", "--timeout=60s", "crd/"+crd); err != nil {
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

// kubectl runs kubectl as an administrator and returns what it prints.
func kubectl(ctx context.Context, c *env.Cluster, stdin string, args ...string) (string, error) {
	return command(ctx, stdin, "kubectl", append([]string{"--kubeconfig", c.Kubeconfig(), "--cache-dir", filepath.Join(c.Dir(), "kubectl")}, args...)...)
}

// command runs a binary of the test bed and returns what it prints, or an error with what it
// complains of.
func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := env.Program(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, complaint.String(), out.String())
	}
	return out.String(), nil
}

// template renders the chart with values that `helm --set` takes.
func template(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), "", "helm", append([]string{
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
	out, err := command(t.Context(), "", "kubectl", "kustomize", repo.Path(t, folder))
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
