package gitops

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/gitops/modules"
	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// entry is the folder that Flux is pointed at.
const entry = "deploy/gitops/cluster"

// named is an object that another one names.
type named struct{ APIVersion, Kind, Name, Namespace string }

// part is a Kustomization of Flux.
type part struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Interval, RetryInterval, Timeout, Path string
		Prune, Suspend                         bool
		SourceRef                              named
		DependsOn                              []named
		HealthChecks                           []named
		HealthCheckExprs                       []struct{ APIVersion, Kind, Current, InProgress, Failed string }
	}
}

// release is a HelmRelease.
type release struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Interval, ReleaseName string
		ChartRef              named
		Chart                 struct {
			Spec struct {
				Chart, Version string
				SourceRef      named
			}
		}
		Values map[string]any
	}
}

// build is what kustomize makes of a folder, as Flux does too.
func build(t *testing.T, folder string) (string, []*unstructured.Unstructured) {
	t.Helper()
	text, err := env.Run(t.Context(), "", "kubectl", "kustomize", repo.Path(t, folder))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := env.ParseObjects([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return text, objects
}

func decode[T any](t *testing.T, o *unstructured.Unstructured) T {
	t.Helper()
	var into T
	text, err := o.MarshalJSON()
	if err == nil {
		err = yaml.Unmarshal(text, &into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return into
}

func parts(t *testing.T) map[string]part {
	t.Helper()
	all := map[string]part{}
	_, objects := build(t, entry)
	for _, o := range objects {
		p := decode[part](t, o)
		all[p.Metadata.Name] = p
	}
	if len(all) != 5 {
		t.Fatalf("there are %d parts, want 5", len(all))
	}
	return all
}

// TestFluxParts shows that the order can be kept, that each part finds its files, and that
// what it takes for its health is in them.
func TestFluxParts(t *testing.T) {
	all := parts(t)
	var suspended []string
	for name, p := range all {
		s := p.Spec
		if s.Interval != "5m" || s.RetryInterval == "" || s.Timeout == "" || !s.Prune || s.SourceRef.Kind != "GitRepository" || s.SourceRef.Name != "flux-system" || p.Metadata.Namespace != "flux-system" {
			t.Errorf("%s: %+v", name, p)
		}
		if s.Suspend {
			suspended = append(suspended, name)
		}
		if err := reaches(all, name, nil); err != nil {
			t.Error(err)
		}
		_, objects := build(t, strings.TrimPrefix(s.Path, "./"))
		if len(s.HealthChecks) == 0 {
			t.Errorf("%s: nothing says when it is well", name)
		}
		for _, h := range s.HealthChecks {
			if !slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool {
				return h == named{o.GetAPIVersion(), o.GetKind(), o.GetName(), o.GetNamespace()}
			}) {
				t.Errorf("%s: there is no %+v in %s", name, h, s.Path)
			}
		}
		for _, e := range s.HealthCheckExprs {
			if !slices.ContainsFunc(s.HealthChecks, func(h named) bool { return h.APIVersion == e.APIVersion && h.Kind == e.Kind }) {
				t.Errorf("%s: nothing of kind %s is looked at", name, e.Kind)
			}
		}
	}
	if !slices.Equal(suspended, []string{"review-apps"}) {
		t.Errorf("suspended are %v, want review-apps", suspended)
	}
	if got := all["orders"].Spec.DependsOn; !slices.Equal(got, []named{{Name: "adapter"}, {Name: "metrics-server"}}) {
		t.Errorf("orders comes after %v", got)
	}
}

// reaches follows what a part comes after.
func reaches(all map[string]part, name string, way []string) error {
	p, ok := all[name]
	if !ok {
		return fmt.Errorf("%v leads to %s, which is not there", way, name)
	}
	if slices.Contains(way, name) {
		return fmt.Errorf("%v leads back to %s", way, name)
	}
	var errs []error
	for _, d := range p.Spec.DependsOn {
		errs = append(errs, reaches(all, d.Name, append(slices.Clone(way), name)))
	}
	return errors.Join(errs...)
}

// TestFluxHealthExpressions evaluates what says that an HPA is well, on what the controller
// writes, and on what is there before it has looked.
func TestFluxHealthExpressions(t *testing.T) {
	expressions := parts(t)["orders"].Spec.HealthCheckExprs
	if len(expressions) != 1 {
		t.Fatalf("there are %d", len(expressions))
	}
	condition := func(status string) map[string]any {
		return map[string]any{"conditions": []any{
			map[string]any{"type": "AbleToScale", "status": "True"}, map[string]any{"type": "ScalingActive", "status": status},
		}}
	}
	for name, test := range map[string]struct {
		status              map[string]any
		current, inProgress bool
	}{
		"its metric is there":     {condition("True"), true, false},
		"its metric is not there": {condition("False"), false, true},
		"nobody has looked":       {map[string]any{}, false, true},
	} {
		for expression, want := range map[string]bool{expressions[0].Current: test.current, expressions[0].InProgress: test.inProgress} {
			if got, err := evaluate(expression, test.status); err != nil || got != want {
				t.Errorf("%s: %s is %v, want %v: %v", name, expression, got, want, err)
			}
		}
	}
}

func evaluate(expression string, status map[string]any) (any, error) {
	env, err := cel.NewEnv(cel.Variable("status", cel.DynType))
	if err != nil {
		return nil, err
	}
	checked, issues := env.Compile(expression)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	program, err := env.Program(checked)
	if err != nil {
		return nil, err
	}
	out, _, err := program.Eval(map[string]any{"status": status})
	if err != nil {
		return nil, err
	}
	return out.Value(), nil
}

func releaseOf(t *testing.T, folder string) (release, []*unstructured.Unstructured) {
	t.Helper()
	_, objects := build(t, folder)
	for _, o := range objects {
		if o.GetKind() == "HelmRelease" {
			return decode[release](t, o), objects
		}
	}
	t.Fatalf("%s has no HelmRelease", folder)
	return release{}, nil
}

// TestFluxReleases shows that each release names a chart of a version, from a source beside it.
func TestFluxReleases(t *testing.T) {
	for _, folder := range []string{"metrics-server", "prometheus", "adapter"} {
		t.Run(folder, func(t *testing.T) {
			r, objects := releaseOf(t, "deploy/gitops/"+folder)
			source, version := r.Spec.ChartRef, ""
			if source.Name == "" {
				source, version = r.Spec.Chart.Spec.SourceRef, r.Spec.Chart.Spec.Version
			}
			for _, o := range objects {
				if o.GetKind() != source.Kind || o.GetName() != source.Name || o.GetNamespace() != r.Metadata.Namespace {
					continue
				}
				if tag, found, _ := unstructured.NestedString(o.Object, "spec", "ref", "tag"); found {
					version = tag
				}
				if version == "" || strings.ContainsAny(version, "x*><~^") || r.Spec.Interval != "5m" {
					t.Errorf("the version is %q, and the interval %s", version, r.Spec.Interval)
				}
				return
			}
			t.Errorf("there is no %+v", source)
		})
	}
}

// template renders a chart with the values of a release.
func template(t *testing.T, chart string, r release) string {
	t.Helper()
	values, err := yaml.Marshal(r.Spec.Values)
	if err != nil {
		t.Fatal(err)
	}
	out, err := env.Run(t.Context(), string(values), "helm", "template", r.Metadata.Name, chart, "--namespace", r.Metadata.Namespace,
		"--kubeconfig", os.DevNull, "--values", "-")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func version(t *testing.T, chart string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var of struct{ Version string }
	if err := yaml.Unmarshal(text, &of); err != nil {
		t.Fatal(err)
	}
	return of.Version
}

// TestFluxAdapter renders this repository's chart with the values. Its schema refuses what it
// does not know. The rule is the examples', and Prometheus is the one that is installed.
func TestFluxAdapter(t *testing.T) {
	r, objects := releaseOf(t, "deploy/gitops/adapter")
	chart := repo.Path(t, "charts/tidegauge")
	out := template(t, chart, r)
	prometheus, _ := releaseOf(t, "deploy/gitops/prometheus")
	// As the chart of Prometheus names its Service.
	service := "http://" + prometheus.Spec.ReleaseName + "-server." + prometheus.Metadata.Namespace + ".svc"
	if !strings.Contains(out, service+":80\n") {
		t.Errorf("the adapter does not ask %s at port 80", service)
	}
	for _, o := range objects {
		if o.GetKind() == "OCIRepository" {
			wantSigned(t, o)
		}
		if tag, found, _ := unstructured.NestedString(o.Object, "spec", "ref", "tag"); found && tag != version(t, chart) {
			t.Errorf("the chart is of version %s, want %s", tag, version(t, chart))
		}
	}
	var examples struct{ Rules struct{ Custom []any } }
	if err := yaml.Unmarshal(repo.Read(t, "deploy/hpa/helm/values.yaml"), &examples); err != nil {
		t.Fatal(err)
	}
	custom, _, err := unstructured.NestedSlice(r.Spec.Values, "rules", "custom")
	if err != nil || len(custom) != 1 || !reflect.DeepEqual(custom[0], examples.Rules.Custom[0]) {
		t.Errorf("the rule is %v, want the first of deploy/hpa/helm/values.yaml: %v", custom, err)
	}
}

// wantSigned: the chart is taken from nobody but this repository's release workflow, run for a
// tag. Flux takes both texts for regular expressions, which have to match as a whole only where
// they say so.
func wantSigned(t *testing.T, source *unstructured.Unstructured) {
	t.Helper()
	got, _, err := unstructured.NestedMap(source.Object, "spec", "verify")
	want := map[string]any{"provider": "cosign", "matchOIDCIdentity": []any{map[string]any{
		"issuer":  `^https://token\.actions\.githubusercontent\.com$`,
		"subject": `^https://github\.com/tidegauge/tidegauge/\.github/workflows/release\.yaml@refs/tags/v[0-9.]+$`,
	}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the chart's signature is checked by %v, want %v: %v", got, want, err)
	}
}

// TestFluxMetricsServer renders metrics-server's own chart.
func TestFluxMetricsServer(t *testing.T) {
	chart, err := modules.MetricsServer.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, _ := releaseOf(t, "deploy/gitops/metrics-server")
	if got, want := r.Spec.Chart.Spec.Version, version(t, chart); got != want {
		t.Errorf("the chart is of version %s, want %s", got, want)
	}
	if out := template(t, chart, r); !strings.Contains(out, "replicas: 2") || !strings.Contains(out, "kind: PodDisruptionBudget") {
		t.Error("the values have no effect")
	}
}

// TestFluxPrometheus shows that Prometheus scrapes pods as the test bed's does, and each once:
// the chart's own jobs that do it too are off. promtool reads the result.
func TestFluxPrometheus(t *testing.T) {
	r, _ := releaseOf(t, "deploy/gitops/prometheus")
	var bed map[string]any
	if err := yaml.Unmarshal(repo.Read(t, "deploy/demo/prometheus/prometheus.yaml"), &bed); err != nil {
		t.Fatal(err)
	}
	files, _, err := unstructured.NestedMap(r.Spec.Values, "serverFiles", "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(files["scrape_configs"], bed["scrape_configs"]) {
		t.Error("the scrape configuration is not that of deploy/demo/prometheus/prometheus.yaml")
	}
	for _, job := range []string{"kubernetes-pods", "kubernetes-pods-slow"} {
		if on, found, _ := unstructured.NestedBool(r.Spec.Values, "scrapeConfigs", job, "enabled"); on || !found {
			t.Errorf("the chart's job %s is on: pods count twice", job)
		}
	}
	global, _, err := unstructured.NestedMap(r.Spec.Values, "server", "global")
	if err != nil || !maps.Equal(global, map[string]any{"scrape_interval": "5s", "scrape_timeout": "5s"}) {
		t.Errorf("global is %v: %v", global, err)
	}
	text, err := yaml.Marshal(map[string]any{"global": global, "scrape_configs": files["scrape_configs"]})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := env.Run(t.Context(), "", "promtool", "check", "config", file); err != nil {
		t.Error(err)
	}
}

// TestFluxApply gives the parts, and what each part leads to, to an API server with the CRDs
// of Flux. It refuses fields that a kind has not, and values that break its rules.
func TestFluxApply(t *testing.T) {
	c := testcluster.Start(t, env.Options{Nodes: 1})
	install := func(m modules.Module, kinds ...string) {
		t.Helper()
		crds, err := m.CRDs(t.Context(), kinds...)
		if err != nil {
			t.Fatal(err)
		}
		for _, crd := range crds {
			if err := c.Apply(t.Context(), crd); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(modules.SourceController, "helmrepositories", "ocirepositories")
	install(modules.KustomizeController, "kustomizations")
	install(modules.HelmController, "helmreleases")
	install(modules.GatewayAPI, "gatewayclasses", "gateways", "httproutes")
	if err := c.Apply(t.Context(), repo.Read(t, "test/reviewapp/testdata/gateway.k8s.aws.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), []byte("{apiVersion: v1, kind: Namespace, metadata: {name: flux-system}}")); err != nil {
		t.Fatal(err)
	}
	folders := []string{entry}
	for _, p := range parts(t) {
		folders = append(folders, strings.TrimPrefix(p.Spec.Path, "./"))
	}
	for _, folder := range folders {
		text, _ := build(t, folder)
		eventually(t, folder, func() error {
			_, err := c.Kubectl(t.Context(), text, "apply", "--server-side", "--field-manager=kustomize-controller", "--validate=strict", "--warnings-as-errors", "-f", "-")
			return err
		})
	}
	const wrong = `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: wrong, namespace: flux-system},
  spec: {interval: 5m, prune: true, sourceRef: {kind: GitRepository, name: flux-system}, suspended: true}}`
	_, err := c.Kubectl(t.Context(), wrong, "apply", "--server-side", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), ".spec.suspended: field not declared in schema") {
		t.Errorf("a field that Flux has not: %v", err)
	}
}
