package deploy

import (
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/schemas"
)

// foreign are the groups whose kinds are neither Kubernetes' nor ours. Their schemas are
// their projects'.
var foreign = []string{
	"cert-manager.io", "monitoring.coreos.com",
	"gateway.networking.k8s.io", "gateway.k8s.aws", "gateway.envoyproxy.io",
	"helm.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io", "source.toolkit.fluxcd.io",
}

// noManifests are the YAML files of deploy that nobody gives to an API server.
var noManifests = []string{
	"deploy/demo/prometheus/adapter.yaml", "deploy/demo/prometheus/prometheus.yaml",
	"deploy/hpa/helm/values.yaml", "deploy/hpa/helm/values-resource.yaml",
	"deploy/kustomize/example/config.yaml",
	"deploy/review-app/workflow.yaml",
}

// TestEveryVersion holds all that the chart renders and all of deploy against every version
// of Kubernetes that the chart is for: a field that one of them does not know, a value of
// another type and a field that is missing are errors.
func TestEveryVersion(t *testing.T) {
	apis, err := schemas.All()
	if err != nil {
		t.Fatal(err)
	}
	all := manifests(t)
	crd := parse(t, repo.Text(t, "deploy/crds/metrics.aws_externalmetrics.yaml"))[0]
	checked := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			for _, o := range all[name] {
				group := o.GroupVersionKind().Group
				switch {
				case slices.Contains(foreign, group):
				case group == nested(crd, "spec", "group"):
					if err := schemas.CheckCustom(crd, o); err != nil {
						t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
					}
				default:
					for _, api := range apis {
						if err := api.Check(o); err != nil {
							t.Error(err)
						}
					}
					checked++
				}
			}
		})
	}
	t.Logf("%d objects of %d sources, each against %d versions of Kubernetes", checked, len(all), len(apis))
}

// manifests are the objects by where they come from.
func manifests(t *testing.T) map[string]objects {
	t.Helper()
	all := map[string]objects{"kustomize": kustomize(t, "deploy/kustomize/example")}
	for _, file := range repo.Glob(t, "charts/tidegauge/ci/*-values.yaml") {
		args := []string{"--values", repo.Path(t, file)}
		if filepath.Base(file) == "tls-values.yaml" {
			args = append(args, "--set", "tls.certificate=c,tls.key=k,tls.ca=BEGIN CERTIFICATE")
		}
		all[file] = parse(t, template(t, args...))
	}
	all["the examples' values"] = parse(t, template(t, exampleValues(t)...))
	err := filepath.WalkDir(repo.Path(t, "deploy"), func(file string, entry fs.DirEntry, err error) error {
		if err == nil && file == repo.Path(t, "deploy/cluster") {
			return filepath.SkipDir // test/cluster walks it.
		}
		if err != nil || entry.IsDir() || filepath.Ext(file) != ".yaml" || filepath.Base(file) == "kustomization.yaml" {
			return err
		}
		name, err := filepath.Rel(repo.Path(t, "."), file)
		if err != nil || slices.Contains(noManifests, filepath.ToSlash(name)) {
			return err
		}
		all[name] = parse(t, repo.Text(t, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSupportedVersions shows that the chart promises what was looked at: no version that is
// older, and none that is newer than the test bed's without a schema of it.
func TestSupportedVersions(t *testing.T) {
	apis, err := schemas.All()
	if err != nil {
		t.Fatal(err)
	}
	for i, api := range apis {
		if want := "1." + strconv.Itoa(minor(t, apis[0].Minor)+i); api.Minor != want {
			t.Errorf("there is a schema of %s, and none of %s", api.Minor, want)
		}
		// Helm refuses a version that the chart is not for.
		template(t, "--kube-version", api.Version)
	}
	chart := parse(t, repo.Text(t, "charts/tidegauge/Chart.yaml"))[0]
	if got, want := nested(chart, "kubeVersion"), ">="+apis[0].Minor+".0-0"; got != want {
		t.Errorf("Chart.yaml is for Kubernetes %s, and the oldest schema is %s", got, apis[0].Minor)
	}
	bed := regexp.MustCompile(`k8s\.io/kubernetes v(1\.\d+)`).FindStringSubmatch(repo.Text(t, "test/kube/go.mod"))
	if newest := apis[len(apis)-1].Minor; len(bed) < 2 || bed[1] != newest {
		t.Errorf("the test bed runs Kubernetes %v, and the newest schema is %s: see test/schemas/README.md", bed, newest)
	}
}

func minor(t *testing.T, version string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimPrefix(version, "1."))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
