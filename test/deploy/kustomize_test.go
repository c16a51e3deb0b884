package deploy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
)

// TestBase shows that both ways without Helm install the same.
func TestBase(t *testing.T) {
	want := parse(t, repo.Text(t, "deploy/install.yaml"))
	if diff := cmp.Diff(want.contents(), kustomize(t, "deploy/kustomize/base").contents()); diff != "" {
		t.Errorf("the base is not as install.yaml (-install +base):\n%s", diff)
	}
}

// TestComponents shows that each component makes of the base what its values make of the
// chart.
func TestComponents(t *testing.T) {
	base := parse(t, namespaceObject)
	for name, test := range map[string]struct {
		components []string
		values     string
		own        bool // certificate
	}{
		"custom-metrics":   {[]string{"custom-metrics"}, "certManager.enabled=true,apiServices.custom=true", false},
		"resource-metrics": {[]string{"resource-metrics"}, "certManager.enabled=true,apiServices.resource=true", false},
		"both":             {[]string{"custom-metrics", "resource-metrics"}, "certManager.enabled=true,apiServices.custom=true,apiServices.resource=true", false},
		"own-certificate":  {[]string{"custom-metrics", "own-certificate"}, "tls.enable=true,apiServices.custom=true", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := overlay(t, test.components...)
			values := []string{"--set", "crds.keep=false," + test.values}
			if test.own {
				certificate(t, dir)
				values = append(values, "--set-file", "tls.certificate="+filepath.Join(dir, "tls.crt")+",tls.key="+filepath.Join(dir, "tls.key")+",tls.ca="+filepath.Join(dir, "ca.crt"))
			}
			out, err := env.Run(t.Context(), "", "kubectl", "kustomize", dir)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Concat(base, parse(t, manifest(template(t, values...))))
			if diff := cmp.Diff(plain(want), plain(parse(t, out))); diff != "" {
				t.Errorf("the objects are not the chart's (-chart +component):\n%s", diff)
			}
		})
	}
}

// overlay is a kustomization of a user's, outside of the repository, of the base and
// components.
func overlay(t *testing.T, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	resolved, err := filepath.EvalSymlinks(dir) // As kustomize does with paths.
	if err != nil {
		t.Fatal(err)
	}
	relative := func(folder string) string {
		to, err := filepath.Rel(resolved, repo.Path(t, "deploy/kustomize/"+folder))
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	lines := []string{"resources:", "- " + relative("base"), "components:"}
	for _, component := range components {
		lines = append(lines, "- "+relative(component))
	}
	if slices.Contains(components, "own-certificate") {
		lines = append(lines, ownSecret(t))
	}
	write(t, filepath.Join(dir, "kustomization.yaml"), strings.Join(lines, "\n")+"\n")
	return dir
}

// ownSecret is what the comment of own-certificate says to write.
func ownSecret(t *testing.T) string {
	t.Helper()
	_, text, found := strings.Cut(repo.Text(t, "deploy/kustomize/own-certificate/kustomization.yaml"), "#   secretGenerator:\n")
	if !found {
		t.Fatal("own-certificate does not say what its Secret is")
	}
	text, _, _ = strings.Cut(text, "#\n")
	return "secretGenerator:\n" + strings.ReplaceAll(text, "#   ", "")
}

// certificate writes a certificate, which is its own authority, and its key.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{release + "." + namespace + ".svc"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, filepath.Join(dir, "tls.crt"), public)
	write(t, filepath.Join(dir, "ca.crt"), public)
	write(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// plain are the contents without the labels of a Secret, which those of kustomize have
// not, and with base64 on one line.
func plain(all objects) map[string]map[string]any {
	for _, o := range all {
		if o.GetKind() == "Secret" {
			o.SetLabels(nil)
			data, _, _ := unstructured.NestedStringMap(o.Object, "data")
			for key, text := range data {
				data[key] = oneLine(text)
			}
			_ = unstructured.SetNestedStringMap(o.Object, data, "data")
		}
		if bundle := nested(o, "spec", "caBundle"); bundle != "" {
			_ = unstructured.SetNestedField(o.Object, oneLine(bundle), "spec", "caBundle")
		}
		if len(o.GetAnnotations()) == 0 {
			o.SetAnnotations(nil)
		}
	}
	return all.contents()
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "") }

// TestExample shows what the example says of itself.
func TestExample(t *testing.T) {
	all := kustomize(t, "deploy/kustomize/example")
	var apis []string
	for _, api := range all.of("APIService") {
		apis = append(apis, api.GetName())
	}
	slices.Sort(apis)
	if want := []string{"v1beta1.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}; !slices.Equal(apis, want) {
		t.Errorf("the APIServices are %v, want %v", apis, want)
	}
	annotations := all.own(t, "ServiceAccount").GetAnnotations()
	if want := map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/tidegauge"}; !maps.Equal(annotations, want) {
		t.Errorf("the ServiceAccount has the annotations %v, want %v", annotations, want)
	}
	containers, _, err := unstructured.NestedSlice(all.own(t, "Deployment").Object, "spec", "template", "spec", "containers")
	if err != nil {
		t.Fatal(err)
	}
	container, _ := containers[0].(map[string]any)
	if image, _ := container["image"].(string); !strings.HasPrefix(image, "registry.example.com/mirror/tidegauge:") {
		t.Errorf("the image is %v", image)
	}
	// By its own name, so that the pods see it change.
	text := nested(all.own(t, "ConfigMap"), "data", "config.yaml")
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if want := "1 in rules, 0 in externalRules, Prometheus servers default"; !strings.HasPrefix(c.Summary(), want) {
		t.Errorf("the configuration has %s, want %s", c.Summary(), want)
	}
}

// TestOwnCertificateIsTrusted shows that the APIServices trust the authority of the user's
// files.
func TestOwnCertificateIsTrusted(t *testing.T) {
	dir := overlay(t, "custom-metrics", "own-certificate")
	certificate(t, dir)
	out, err := env.Run(t.Context(), "", "kubectl", "kustomize", dir)
	if err != nil {
		t.Fatal(err)
	}
	all := parse(t, out)
	apis := all.of("APIService")
	if len(apis) != 3 {
		t.Errorf("there are %d APIServices, want 3", len(apis))
	}
	for _, api := range apis {
		bundle, err := base64.StdEncoding.DecodeString(nested(api, "spec", "caBundle"))
		if err != nil || !x509.NewCertPool().AppendCertsFromPEM(bundle) {
			t.Errorf("the caBundle of %s is %q: %v", api.GetName(), bundle, err)
		}
	}
	for _, kind := range []string{"Certificate", "Issuer"} {
		if left := all.of(kind); len(left) > 0 {
			t.Errorf("%d objects of cert-manager's kind %s are left", len(left), kind)
		}
	}
}
