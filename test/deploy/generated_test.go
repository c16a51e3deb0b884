package deploy

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/repo"
)

// install are the values of install.yaml. The certificate is cert-manager's: a chart that is
// rendered without a cluster would sign another one each time, whose key would be in a
// public file.
var install = []string{"--set", "certManager.enabled=true,crds.keep=false"}

const generatedNote = "# Rendered from charts/tidegauge: change it there and run `make generate`.\n"

// TestGenerated keeps install.yaml and the kustomize base in step with the chart.
func TestGenerated(t *testing.T) {
	all := manifest(template(t, install...))
	generated := map[string]string{
		"deploy/install.yaml":                                generatedNote + installNote + namespaceObject + all,
		"deploy/kustomize/base/tidegauge.yaml":               generatedNote + namespaceObject + all,
		"deploy/kustomize/custom-metrics/apiservices.yaml":   generatedNote + added(t, all, "apiServices.custom=true"),
		"deploy/kustomize/resource-metrics/apiservices.yaml": generatedNote + added(t, all, "apiServices.resource=true"),
	}
	for _, name := range slices.Sorted(maps.Keys(generated)) {
		if *update {
			write(t, repo.Path(t, name), generated[name])
			continue
		}
		have, err := os.ReadFile(repo.Path(t, name))
		if err != nil || string(have) != generated[name] {
			t.Errorf("%s is stale (%v): run `make generate`", name, err)
		}
	}
}

const installNote = `#
#   kubectl apply --server-side -f deploy/install.yaml
#
# Kubernetes 1.30 or later, and cert-manager, which issues the certificate that the API server
# verifies. It serves external.metrics.k8s.io for ExternalMetrics of CloudWatch. For Prometheus,
# other values or a certificate of your own: docs/install.md.
`

// The pods pass Pod Security restricted, so nothing else has to run here.
const namespaceObject = `---
apiVersion: v1
kind: Namespace
metadata:
  name: ` + namespace + `
  labels:
    app.kubernetes.io/name: tidegauge
    pod-security.kubernetes.io/enforce: restricted
`

// ofHelm are lines that are true of a release only.
var ofHelm = regexp.MustCompile(`(?m)^( +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*|# Source: .*)\n`)

// manifest is what Helm renders, without what is Helm's own. Comments stay.
func manifest(rendered string) string {
	text := ofHelm.ReplaceAllString(rendered, "")
	return regexp.MustCompile(`\n{2,}---\n`).ReplaceAllString(strings.TrimRight(text, "\n")+"\n", "\n---\n")
}

// added are the objects that a value adds to those there are.
func added(t *testing.T, all, value string) string {
	t.Helper()
	const separator = "---\n"
	before := map[string]bool{}
	for doc := range strings.SplitSeq(all, separator) {
		before[strings.TrimSpace(doc)] = true
	}
	var out strings.Builder
	for doc := range strings.SplitSeq(manifest(template(t, append(install, "--set", value)...)), separator) {
		if strings.Contains(doc, "\nkind: APIService\n") && !before[strings.TrimSpace(doc)] {
			out.WriteString(separator + doc)
		}
	}
	return out.String()
}

// TestInstallKeepsNoSecret shows that no key is in a public file, that the API server
// verifies the adapter's certificate, and whose it is.
func TestInstallKeepsNoSecret(t *testing.T) {
	text := repo.Text(t, "deploy/install.yaml")
	for _, word := range []string{"kind: Secret", "PRIVATE KEY", "tls.key:", "insecureSkipTLSVerify: true", "caBundle"} {
		if strings.Contains(text, word) {
			t.Errorf("install.yaml has %q", word)
		}
	}
	all := parse(t, text)
	apis := all.of("APIService")
	if len(apis) != 1 {
		t.Errorf("install.yaml has %d APIServices, want that of external.metrics.k8s.io", len(apis))
	}
	for _, api := range apis {
		if got, want := api.GetAnnotations()["cert-manager.io/inject-ca-from"], namespace+"/tidegauge-ca"; got != want {
			t.Errorf("the authority of %s is injected from %q, want %q", api.GetName(), got, want)
		}
	}
	if got := nested(all.own(t, "Certificate"), "spec", "secretName"); !strings.Contains(text, "secretName: "+got+"\n") || got != "tidegauge-tls" {
		t.Errorf("the certificate goes into the Secret %q", got)
	}
	if first := all[0]; first.GetKind() != "Namespace" || first.GetName() != namespace {
		t.Errorf("the first object is %s %s, want the namespace", first.GetKind(), first.GetName())
	}
	for _, o := range all {
		if ns := o.GetNamespace(); ns != "" && ns != namespace && ns != "kube-system" {
			t.Errorf("%s %s is in the namespace %s", o.GetKind(), o.GetName(), ns)
		}
	}
}
