package chart

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/env"
)

// helm is one of the two versions of Helm.
type helm struct {
	name string
	path string
	home string
	// kubeconfig of the cluster; without one it can only render.
	kubeconfig string
}

var helmNames = []string{"helm", "helm3"}

func newHelm(t *testing.T, name string) helm {
	t.Helper()
	path, err := env.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	return helm{name: name, path: path, home: t.TempDir(), kubeconfig: "/dev/null"}
}

// on is the same Helm for a cluster.
func (h helm) on(c *env.Cluster) helm {
	h.kubeconfig = c.Kubeconfig()
	return h
}

// try runs Helm in the test's namespace and returns what it prints, or an error with what
// it complains of.
func (h helm) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return h.tryIn(t.Context(), args...)
}

// tryIn is try in another context than the test's.
func (h helm) tryIn(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.path, append(args, "--namespace", namespace)...)
	cmd.Env = []string{"HOME=" + h.home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + h.kubeconfig}
	return env.Output(cmd)
}

func (h helm) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// template renders the chart as somebody does who has no cluster at hand.
func (h helm) template(t *testing.T, args ...string) objects {
	t.Helper()
	return parse(t, h.run(t, append([]string{"template", release, chartDir(t)}, args...)...))
}

// objects are what the chart renders.
type objects []*unstructured.Unstructured

func parse(t *testing.T, text string) objects {
	t.Helper()
	all, err := env.ParseObjects([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return all
}

// find is the object of that kind and name, or nil.
func (all objects) find(kind, name string) *unstructured.Unstructured {
	i := slices.IndexFunc(all, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		return nil
	}
	return all[i]
}

// get is find for an object that has to be there.
func (all objects) get(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	o := all.find(kind, name)
	if o == nil {
		t.Fatalf("there is no %s %s among %s", kind, name, all.names())
	}
	return o
}

// names are kind and name of each object.
func (all objects) names() []string {
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.GetKind() + "/" + o.GetName()
	}
	return names
}

// deployment is the only Deployment.
func (all objects) deployment(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(all, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	if i < 0 {
		t.Fatalf("there is no Deployment among %s", all.names())
	}
	return all[i]
}

// apis are the names of the APIServices.
func (all objects) apis() []string {
	var names []string
	for _, o := range all {
		if o.GetKind() == "APIService" {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// container is the adapter's.
func container(t *testing.T, deployment *unstructured.Unstructured) map[string]any {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) == 0 {
		t.Fatalf("there are no containers: %v", err)
	}
	c, ok := containers[0].(map[string]any)
	if !ok || c["name"] != "adapter" {
		t.Fatalf("the first container is not the adapter but %v", containers[0])
	}
	return c
}

// arguments are the adapter's.
func arguments(t *testing.T, deployment *unstructured.Unstructured) []string {
	t.Helper()
	args, _, err := unstructured.NestedStringSlice(container(t, deployment), "args")
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// flagValue is the last value of a flag: the one that counts.
func flagValue(args []string, name string) string {
	var value string
	for _, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			value = v
		}
	}
	return value
}

// nested is a text somewhere in an object, or empty.
func nested(o *unstructured.Unstructured, path ...string) string {
	text, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		return err.Error()
	}
	return text
}

// variants are the files of ci, without their common ending.
func variants(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir(t), "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no ci values: %v", err)
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), "-values.yaml")
	}
	return files
}

func valuesOf(t *testing.T, variant string) string {
	t.Helper()
	return filepath.Join(chartDir(t), "ci", variant+"-values.yaml")
}
