package chart

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/until"
)

const crdName = "externalmetrics.metrics.aws"

var (
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	crds        = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// TestLifecycle takes every file of ci through the life of a release, by both versions of
// Helm. The API server enforces Pod Security restricted.
func TestLifecycle(t *testing.T) {
	c := bed.Cluster(t)
	for _, name := range helmNames {
		h := newHelm(t, name).on(c)
		for _, variant := range variants(t) {
			t.Run(name+"/"+variant, func(t *testing.T) {
				lifecycle(t, c, h, variant)
			})
		}
	}
}

func lifecycle(t *testing.T, c *env.Cluster, h helm, variant string) {
	t.Helper()
	values := []string{"--values", valuesOf(t, variant)}
	if variant == "tls" {
		values = append(values, certificateFiles(t)...)
	}
	chart := func(command string, args ...string) string {
		return h.run(t, slices.Concat([]string{command, release, chartDir(t)}, values, args)...)
	}
	rendered := chart("template", "--skip-tests")
	if _, err := c.Kubectl(t.Context(), rendered, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	all := parse(t, rendered)
	name := all.deployment(t).GetName()

	chart("install")
	t.Cleanup(func() { forget(t, h) })
	if err := dryRunPod(t.Context(), c, name); err != nil {
		t.Errorf("the pod is refused: %v", err)
	}
	if diff := cmp.Diff(all.apis(), ownAPIs(t, c)); diff != "" {
		t.Errorf("the APIServices are not those rendered (-want +got):\n%s", diff)
	}
	before := historyLimit(t, c, name)
	chart("upgrade", "--set", "revisionHistoryLimit=3")
	if got := historyLimit(t, c, name); got != 3 {
		t.Errorf("revisionHistoryLimit is %d after the upgrade, want 3", got)
	}
	h.run(t, "rollback", release, "1")
	if got := historyLimit(t, c, name); got != before {
		t.Errorf("revisionHistoryLimit is %d after the rollback, want %d", got, before)
	}
	h.run(t, "uninstall", release)
	var want []string
	if all.find("CustomResourceDefinition", crdName) != nil {
		want = []string{"customresourcedefinition.apiextensions.k8s.io/" + crdName}
	}
	eventually(t, func(ctx context.Context) error {
		left, err := c.Kubectl(ctx, rendered, "get", "--ignore-not-found", "-o", "name", "-f", "-")
		if err != nil {
			return err
		}
		if got := strings.Fields(left); !slices.Equal(got, want) {
			return fmt.Errorf("uninstall leaves %v, want %v", got, want)
		}
		return nil
	})
}

// certificateFiles are the arguments that put a certificate into the values, which is its
// own authority.
func certificateFiles(t *testing.T) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		DNSNames:              []string{release + "." + namespace + ".svc"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return []string{"--set-file", "tls.certificate=" + certFile + ",tls.ca=" + certFile + ",tls.key=" + keyFile}
}

// dryRunPod asks the API server to take a pod of a Deployment, as it asks its admission
// plugins, and not to keep it.
func dryRunPod(ctx context.Context, c *env.Cluster, deployment string) error {
	d, err := c.Client().AppsV1().Deployments(namespace).Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
	pod.Name = "dry-run"
	_, err = c.Client().CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// ownAPIs are the APIServices that lead to the release.
func ownAPIs(t *testing.T, c *env.Cluster) []string {
	t.Helper()
	list, err := c.Dynamic().Resource(apiServices).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range list.Items {
		if nested(&o, "spec", "service", "namespace") == namespace {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

func historyLimit(t *testing.T, c *env.Cluster, deployment string) int32 {
	t.Helper()
	d, err := c.Client().AppsV1().Deployments(namespace).Get(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return *d.Spec.RevisionHistoryLimit
}

// TestCertificateStays shows that the certificate that the chart signs is one that the API
// server can verify, that it stays over upgrades and rollbacks, and how one gets another.
func TestCertificateStays(t *testing.T) {
	c := bed.Cluster(t)
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			h := newHelm(t, name).on(c)
			installed(t, h)
			first := certificateOf(t, c)
			first.verify(t)

			h.run(t, "upgrade", release, chartDir(t), "--set", "prometheus.url=http://p.m.svc")
			second := certificateOf(t, c)
			second.verify(t)
			if diff := cmp.Diff(first.secret, second.secret); diff != "" {
				t.Errorf("the upgrade changes the certificate (-before +after):\n%s", diff)
			}
			h.run(t, "rollback", release, "1")
			if diff := cmp.Diff(first.secret, certificateOf(t, c).secret); diff != "" {
				t.Errorf("the rollback changes the certificate (-before +after):\n%s", diff)
			}

			if err := c.Client().CoreV1().Secrets(namespace).Delete(t.Context(), release+"-tls", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			h.run(t, "upgrade", release, chartDir(t))
			third := certificateOf(t, c)
			third.verify(t)
			if bytes.Equal(third.secret["tls.crt"], first.secret["tls.crt"]) {
				t.Error("the certificate is the same after its Secret was deleted")
			}
		})
	}
}

// TestCertificateIsSignedAnew shows that the chart does not keep a certificate that was given
// or is for other days, and that the API server takes the old one until pods have read the
// new one: up to the next upgrade.
func TestCertificateIsSignedAnew(t *testing.T) {
	c := bed.Cluster(t)
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			h := newHelm(t, name).on(c)
			given := newAuthority(t)
			installed(t, h, given.issue(t).values(t)...)
			first := certificateOf(t, c)
			for _, days := range []string{"5000", "4000"} {
				h.run(t, "upgrade", release, chartDir(t), "--set", "tls.selfSignedDays="+days)
				second := certificateOf(t, c)
				second.verify(t)
				if bytes.Equal(second.secret["tls.crt"], first.secret["tls.crt"]) {
					t.Errorf("signed for %s days, the certificate is the one before", days)
				}
				want := slices.Concat(second.secret["ca.crt"], first.secret["ca.crt"])
				for api, bundle := range second.bundles {
					if !bytes.Equal(bundle, want) {
						t.Errorf("signed for %s days, the caBundle of %s is\n%s, want the new authority and the one before:\n%s", days, api, bundle, want)
					}
				}
				first = second
			}
			h.run(t, "upgrade", release, chartDir(t))
			last := certificateOf(t, c)
			if diff := cmp.Diff(first.secret, last.secret); diff != "" {
				t.Errorf("another upgrade changes the certificate (-before +after):\n%s", diff)
			}
			for api, bundle := range last.bundles {
				if !bytes.Equal(bundle, last.secret["ca.crt"]) {
					t.Errorf("the caBundle of %s is\n%s, want the present authority only", api, bundle)
				}
			}
		})
	}
}

// TestOwnObjectsAreNotTaken shows that an upgrade that names the release's own Secret or
// ConfigMap as one that is there already is refused, as Helm would delete it, and that it
// works once it is kept.
func TestOwnObjectsAreNotTaken(t *testing.T) {
	c := bed.Cluster(t)
	for _, name := range helmNames {
		for value, object := range map[string]string{
			"tls.existingSecret=" + release + "-tls": "secret/" + release + "-tls",
			"rules.existing=" + release:              "configmap/" + release,
		} {
			t.Run(name+"/"+value, func(t *testing.T) {
				h := newHelm(t, name).on(c)
				installed(t, h)
				_, err := h.try(t, "upgrade", release, chartDir(t), "--set", value)
				if err == nil || !strings.Contains(err.Error(), "is this release's own, and Helm would delete it now") {
					t.Errorf("the upgrade ends with %v", err)
				}
				if _, err := c.Kubectl(t.Context(), "", "annotate", object, "-n", namespace, "helm.sh/resource-policy=keep"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if _, err := c.Kubectl(context.WithoutCancel(t.Context()), "", "delete", object, "-n", namespace); err != nil {
						t.Error(err)
					}
				})
				h.run(t, "upgrade", release, chartDir(t), "--set", value)
				if _, err := c.Kubectl(t.Context(), "", "get", object, "-n", namespace); err != nil {
					t.Error(err)
				}
				h.run(t, "upgrade", release, chartDir(t), "--set", value)
			})
		}
	}
}

// installed is the release, which is uninstalled when the test ends.
func installed(t *testing.T, h helm, args ...string) {
	t.Helper()
	h.run(t, append([]string{"install", release, chartDir(t)}, args...)...)
	t.Cleanup(func() { uninstall(t, h) })
}

// forget uninstalls what a test that failed has left.
func forget(t *testing.T, h helm) {
	t.Helper()
	if t.Failed() {
		uninstall(t, h)
	}
}

// uninstall works when the test's own context has ended.
func uninstall(t *testing.T, h helm) {
	t.Helper()
	if _, err := h.tryIn(context.WithoutCancel(t.Context()), "uninstall", "--ignore-not-found", release); err != nil {
		t.Error(err)
	}
}

// certificate is what the Secret has, and what the APIServices trust.
type certificate struct {
	secret  map[string][]byte
	bundles map[string][]byte
}

func certificateOf(t *testing.T, c *env.Cluster) certificate {
	t.Helper()
	s, err := c.Client().CoreV1().Secrets(namespace).Get(t.Context(), release+"-tls", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Dynamic().Resource(apiServices).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
	if err != nil {
		t.Fatal(err)
	}
	got := certificate{secret: s.Data, bundles: map[string][]byte{}}
	for _, o := range list.Items {
		bundle, err := base64.StdEncoding.DecodeString(nested(&o, "spec", "caBundle"))
		if err != nil {
			t.Fatal(err)
		}
		got.bundles[o.GetName()] = bundle
	}
	return got
}

// verify does what the API server does with the certificate.
func (c certificate) verify(t *testing.T) {
	t.Helper()
	block, _ := pem.Decode(c.secret["tls.crt"])
	if block == nil {
		t.Fatalf("tls.crt is not PEM: %s", c.secret["tls.crt"])
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.bundles) == 0 {
		t.Error("there is no APIService")
	}
	for name, bundle := range c.bundles {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(bundle) {
			t.Errorf("the caBundle of %s has no certificate", name)
		}
		host := release + "." + namespace + ".svc"
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s does not trust the certificate for %s: %v", name, host, err)
		}
	}
	if left := time.Until(leaf.NotAfter); left < 9*365*24*time.Hour {
		t.Errorf("the certificate is valid for %v", left)
	}
}

// The authority of a Secret that is there need not be given, as Helm can read it.
func TestSecretOfSomebodyElse(t *testing.T) {
	c := bed.Cluster(t)
	authority := certificateOfValues(t)
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			_, err := c.Client().CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "mine"},
				Data:       map[string][]byte{"ca.crt": authority, "tls.crt": authority, "tls.key": []byte("none")},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Client().CoreV1().Secrets(namespace).Delete(context.WithoutCancel(t.Context()), "mine", metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			})
			installed(t, newHelm(t, name).on(c), "--set", "tls.existingSecret=mine")
			o, err := c.Dynamic().Resource(apiServices).Get(t.Context(), "v1beta1.external.metrics.k8s.io", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := nested(o, "spec", "caBundle"); got != base64.StdEncoding.EncodeToString(authority) {
				t.Errorf("the caBundle is %q, want the Secret's ca.crt", got)
			}
		})
	}
}

// certificateOfValues is the authority of ci/tls-secret-values.yaml.
func certificateOfValues(t *testing.T) []byte {
	t.Helper()
	o := parse(t, string(read(t, valuesOf(t, "tls-secret"))))[0]
	return []byte(nested(o, "tls", "ca"))
}

// TestCRD shows that an upgrade of the chart upgrades the CRD, and that neither it nor the
// objects go when the release does.
func TestCRD(t *testing.T) {
	c := bed.Cluster(t)
	old := filepath.Join(t.TempDir(), "tidegauge")
	copyChart(t, old)
	file := filepath.Join(old, "files", "crds.yaml")
	write(t, file, strings.Replace(string(read(t, file)), "    - em\n", "    - old\n", 1))
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			h := newHelm(t, name).on(c)
			h.run(t, "install", release, old)
			if got := shortNames(t, c); !slices.Equal(got, []string{"old"}) {
				t.Errorf("the old chart's CRD has the short names %v, want old", got)
			}
			h.run(t, "upgrade", release, chartDir(t))
			if got := shortNames(t, c); !slices.Equal(got, []string{"em"}) {
				t.Errorf("the CRD has the short names %v after the upgrade, want em", got)
			}
			eventually(t, func(ctx context.Context) error {
				_, err := c.Kubectl(ctx, metric, "apply", "-n", namespace, "-f", "-")
				return err
			})
			h.run(t, "uninstall", release)
			out, err := c.Kubectl(t.Context(), metric, "get", "-n", namespace, "-o", "name", "-f", "-")
			if err != nil || strings.TrimSpace(out) != "externalmetric.metrics.aws/depth" {
				t.Errorf("of the ExternalMetric is left %q (%v)", out, err)
			}
			if _, err := c.Kubectl(t.Context(), metric, "delete", "-n", namespace, "-f", "-"); err != nil {
				t.Error(err)
			}
		})
	}
}

const metric = `
apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: depth}
spec:
  queries:
  - id: depth
    metricStat:
      metric: {namespace: AWS/SQS, metricName: ApproximateNumberOfMessagesVisible, dimensions: [{name: QueueName, value: jobs}]}
      period: 60
      stat: Average
`

func shortNames(t *testing.T, c *env.Cluster) []string {
	t.Helper()
	o, err := c.Dynamic().Resource(crds).Get(t.Context(), crdName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names, _, err := unstructured.NestedStringSlice(o.Object, "spec", "names", "shortNames")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestTakeOver shows that Helm takes nothing of somebody else's by accident, and does so
// when it is told to.
func TestTakeOver(t *testing.T) {
	c := bed.Cluster(t)
	files := filepath.Join(root(t), "deploy")
	for _, name := range helmNames {
		t.Run(name, func(t *testing.T) {
			h := newHelm(t, name).on(c)
			if _, err := c.Kubectl(t.Context(), "", "delete", "--ignore-not-found", "crd", crdName); err != nil {
				t.Fatal(err)
			}
			crd := strings.Replace(string(read(t, files, "crds", "metrics.aws_externalmetrics.yaml")), "    - em\n", "    - old\n", 1)
			if _, err := c.Kubectl(t.Context(), crd, "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Kubectl(t.Context(), "", "apply", "-f", filepath.Join(files, "policies")); err != nil {
				t.Fatal(err)
			}
			_, err := h.try(t, "install", release, chartDir(t))
			if err == nil || !strings.Contains(err.Error(), "invalid ownership metadata") {
				t.Errorf("install says %v, want a refusal of objects that have another owner", err)
			}
			installed(t, h, h.taking()...)
			if got := shortNames(t, c); !slices.Equal(got, []string{"em"}) {
				t.Errorf("the CRD has the short names %v, want the chart's", got)
			}
		})
	}
}

// taking are the flags by which Helm takes over, and changes, what somebody else has brought.
// Helm 4 applies on the server, where fields are somebody else's. Helm 3 compares with what it
// would have applied before, and so finds nothing to change, unless it replaces.
func (h helm) taking() []string {
	if h.name == "helm3" {
		return []string{"--take-ownership", "--force"}
	}
	return []string{"--take-ownership", "--force-conflicts"}
}

// theirs is an API that somebody else serves.
const theirs = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {namespace: keda, name: keda-operator-metrics-apiserver}
  insecureSkipTLSVerify: true
`

const (
	theirService = "keda/keda-operator-metrics-apiserver"
	ownService   = namespace + "/" + release
)

// TestTakeAPI shows that the chart takes an API from somebody only when its values say so,
// whatever Helm is told.
func TestTakeAPI(t *testing.T) {
	c := bed.Cluster(t)
	for _, test := range []struct {
		name, first, then string
		flags             []string
	}{
		{name: "helm", first: "helm", then: "helm"},
		{name: "helm3", first: "helm3", then: "helm3"},
		{name: "helm, of a release of helm3", first: "helm3", then: "helm", flags: []string{"--server-side=true"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHelm(t, test.then).on(c)
			upgrade := func(set string) (string, error) {
				args := slices.Concat([]string{"upgrade", release, chartDir(t), "--set", set}, h.taking(), test.flags)
				return h.try(t, args...)
			}
			installed(t, newHelm(t, test.first).on(c), "--set", "apiServices.external=false")
			if _, err := c.Kubectl(t.Context(), theirs, "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { dropTheirs(t, c) })

			refused := func() {
				t.Helper()
				_, err := upgrade("logLevel=1")
				for _, word := range []string{"v1beta1.external.metrics.k8s.io leads to the Service " + theirService, "apiServices.external=false", "kubectl annotate apiservice NAME helm.sh/resource-policy=keep", "apiServices.takeOver=true"} {
					if err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("the upgrade does not say %q: %v", word, err)
					}
				}
				serves(t, c, theirService)
			}
			refused()

			notes, err := upgrade("apiServices.takeOver=true")
			if err != nil || !strings.Contains(notes, "led to "+theirService) {
				t.Errorf("the notes of the upgrade do not say whom it took the API from (%v):\n%s", err, notes)
			}
			serves(t, c, ownService)
			if notes, err = upgrade("logLevel=1"); err != nil || strings.Contains(notes, "led to") {
				t.Errorf("what is its own the chart takes from somebody (%v):\n%s", err, notes)
			}

			if _, err := c.Kubectl(t.Context(), theirs, "replace", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			refused()
			// Helm deletes what a release had and has no more, whoever has changed it since.
			if _, err := c.Kubectl(t.Context(), "", "annotate", "apiservice", "v1beta1.external.metrics.k8s.io", "helm.sh/resource-policy=keep"); err != nil {
				t.Fatal(err)
			}
			if _, err := upgrade("apiServices.external=false"); err != nil {
				t.Error(err)
			}
			serves(t, c, theirService)
		})
	}
}

// TestHelm3TakesWithoutEffect shows what the notes warn of.
func TestHelm3TakesWithoutEffect(t *testing.T) {
	c := bed.Cluster(t)
	h := newHelm(t, "helm3").on(c)
	installed(t, h, "--set", "apiServices.external=false")
	if _, err := c.Kubectl(t.Context(), theirs, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropTheirs(t, c) })
	notes := h.run(t, "upgrade", release, chartDir(t), "--set", "apiServices.takeOver=true", "--take-ownership")
	for _, word := range []string{"STATUS: deployed", "v1beta1.external.metrics.k8s.io led to " + theirService, "Helm 3 needs --force"} {
		if !strings.Contains(notes, word) {
			t.Errorf("Helm does not say %q:\n%s", word, notes)
		}
	}
	serves(t, c, theirService)
}

// TestUninstallOfTaken shows what uninstall does with an API that somebody has taken since.
func TestUninstallOfTaken(t *testing.T) {
	c := bed.Cluster(t)
	for _, test := range []struct {
		helm string
		// off says that the release was told before that it does not serve the API.
		off, left bool
	}{
		{helm: "helm", left: true},
		{helm: "helm", off: true, left: true},
		{helm: "helm3", left: false},
		{helm: "helm3", off: true, left: true},
	} {
		t.Run(fmt.Sprintf("%s, off %t", test.helm, test.off), func(t *testing.T) {
			h := newHelm(t, test.helm).on(c)
			installed(t, h)
			t.Cleanup(func() { dropTheirs(t, c) })
			if _, err := c.Kubectl(t.Context(), theirs, "replace", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			if test.off {
				if _, err := c.Kubectl(t.Context(), "", "annotate", "apiservice", "v1beta1.external.metrics.k8s.io", "helm.sh/resource-policy=keep"); err != nil {
					t.Fatal(err)
				}
				h.run(t, "upgrade", release, chartDir(t), "--set", "apiServices.external=false")
			}
			h.run(t, "uninstall", release)
			if !test.left {
				eventually(t, func(ctx context.Context) error {
					out, err := c.Kubectl(ctx, "", "get", "--ignore-not-found", "apiservice", "v1beta1.external.metrics.k8s.io", "-o", "name")
					if err != nil || out != "" {
						return fmt.Errorf("there is %s (%w)", out, err)
					}
					return nil
				})
				return
			}
			serves(t, c, theirService)
		})
	}
}

// TestRenamed shows that a release takes from nobody when its objects get other names.
func TestRenamed(t *testing.T) {
	c := bed.Cluster(t)
	h := newHelm(t, "helm").on(c)
	installed(t, h)
	h.run(t, "upgrade", release, chartDir(t), "--set", "fullnameOverride=renamed")
	serves(t, c, namespace+"/renamed")
}

func dropTheirs(t *testing.T, c *env.Cluster) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if _, err := c.Kubectl(ctx, theirs, "delete", "--ignore-not-found", "-f", "-"); err != nil {
		t.Error(err)
	}
}

// serves fails the test if external metrics are served by another Service.
func serves(t *testing.T, c *env.Cluster, want string) {
	t.Helper()
	o, err := c.Dynamic().Resource(apiServices).Get(t.Context(), "v1beta1.external.metrics.k8s.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := nested(o, "spec", "service", "namespace") + "/" + nested(o, "spec", "service", "name"); got != want {
		t.Errorf("external metrics are served by %s, want %s", got, want)
	}
}

// TestFromHelm3 shows that a release of Helm 3 can be upgraded by Helm 4.
func TestFromHelm3(t *testing.T) {
	c := bed.Cluster(t)
	newHelm(t, "helm3").on(c).run(t, "install", release, chartDir(t))
	h := newHelm(t, "helm").on(c)
	t.Cleanup(func() { uninstall(t, h) })
	before := certificateOf(t, c)
	h.run(t, "upgrade", release, chartDir(t), "--set", "revisionHistoryLimit=3")
	if got := historyLimit(t, c, release); got != 3 {
		t.Errorf("revisionHistoryLimit is %d after the upgrade, want 3", got)
	}
	if diff := cmp.Diff(before.secret, certificateOf(t, c).secret); diff != "" {
		t.Errorf("the upgrade changes the certificate (-before +after):\n%s", diff)
	}
}

// TestRestricted shows that the API server of these tests does refuse pods that are not
// restricted: TestLifecycle relies on it.
func TestRestricted(t *testing.T) {
	c := bed.Cluster(t)
	installed(t, newHelm(t, "helm").on(c), "--set", "hostNetwork.enabled=true")
	if err := dryRunPod(t.Context(), c, release); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("the pod with its node's network is refused with %v, want a violation of Pod Security", err)
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func(context.Context) error) {
	t.Helper()
	until.Holds(t, "it does not hold", deadline, holds)
}
