package reviewapp

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/gitops/modules"
)

// elbTemplate is the load balancer that gateway-node-port is behind.
const elbTemplate = "deploy/cluster/cloudformation/elb.yaml"

// gatewaySpec is the part of the entry point that the two ways differ in, or agree in.
type gatewaySpec struct {
	Spec struct {
		GatewayClassName string
		Infrastructure   struct {
			ParametersRef struct{ Group, Kind, Name string }
		}
		Listeners []listener
	}
}

type gatewayClass struct {
	Spec struct{ ControllerName string }
}

// envoyProxy is EnvoyProxy of Envoy Gateway, as far as it says where the proxies are.
type envoyProxy struct {
	Spec struct {
		Provider struct {
			Kubernetes struct {
				EnvoyService struct {
					Type, ExternalTrafficPolicy string
					Patch                       struct {
						Type  string
						Value struct{ Spec corev1.ServiceSpec }
					}
				}
				EnvoyDeployment struct{ Replicas int }
			}
		}
	}
}

type clientTrafficPolicy struct {
	Spec struct {
		TargetRefs        []struct{ Group, Kind, Name string }
		HealthCheck       struct{ Path string }
		ClientIPDetection struct {
			XForwardedFor struct{ NumTrustedHops int }
		}
	}
}

// one is the only object of a kind.
func one[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) T {
	t.Helper()
	all := allOf[T](t, objects, kind)
	if _, ok := all[name]; !ok || len(all) != 1 {
		t.Fatalf("there are %d %s, want 1 of the name %s", len(all), kind, name)
	}
	return all[name]
}

// TestNodePortGateway shows that the entry point behind a load balancer of one's own takes the
// same routes as the other one, and listens where that load balancer asks: at its port of the
// nodes, and at its path for their health.
func TestNodePortGateway(t *testing.T) {
	alb, own := kustomize(t, "gateway"), kustomize(t, "gateway-node-port")
	wantSharedObjects(t, alb, own)
	want, got := one[gatewaySpec](t, alb, "Gateway", "review-apps").Spec, one[gatewaySpec](t, own, "Gateway", "review-apps").Spec
	if class := one[gatewayClass](t, own, "GatewayClass", got.GatewayClassName).Spec.ControllerName; class != "gateway.envoyproxy.io/gatewayclass-controller" {
		t.Errorf("the controller is %s", class)
	}
	ref := got.Infrastructure.ParametersRef
	if ref.Group != "gateway.envoyproxy.io" || ref.Kind != "EnvoyProxy" {
		t.Errorf("the parameters are %+v", ref)
	}
	if len(got.Listeners) != 1 {
		t.Fatalf("there are %d listeners, want 1: the load balancer has the others", len(got.Listeners))
	}
	// TLS ends before, and all else is as there.
	apps := want.Listeners[0]
	apps.Protocol, apps.Port = "HTTP", 80
	if !reflect.DeepEqual(got.Listeners[0], apps) {
		t.Errorf("the listener is %+v, want %+v", got.Listeners[0], apps)
	}
	for name, r := range allOf[route](t, kustomize(t, "app"), "HTTPRoute") {
		if r.Spec.ParentRefs[0].SectionName != apps.Name {
			t.Errorf("route %s is for the listener %s, want %s", name, r.Spec.ParentRefs[0].SectionName, apps.Name)
		}
	}
	wantBehindLoadBalancer(t, own, ref.Name, apps.Port)
}

// wantSharedObjects looks for what does not depend on the way, and for what is the other's.
func wantSharedObjects(t *testing.T, alb, own []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range alb {
		at := slices.IndexFunc(own, func(p *unstructured.Unstructured) bool {
			return p.GetKind() == o.GetKind() && p.GetName() == o.GetName()
		})
		switch foreign := o.GroupVersionKind().Group == "gateway.k8s.aws" || slices.Contains([]string{"GatewayClass", "HTTPRoute"}, o.GetKind()); {
		case foreign && at >= 0:
			t.Errorf("%s %s is the ALB's", o.GetKind(), o.GetName())
		case !foreign && at < 0:
			t.Errorf("%s %s is not there", o.GetKind(), o.GetName())
		case !foreign && o.GetKind() != "Gateway" && !reflect.DeepEqual(o.Object, own[at].Object):
			t.Errorf("%s %s is another one", o.GetKind(), o.GetName())
		}
	}
}

func wantBehindLoadBalancer(t *testing.T, own []*unstructured.Unstructured, proxy string, listens int32) {
	t.Helper()
	template := read(t, strings.Split(elbTemplate, "/")...)
	k := one[envoyProxy](t, own, "EnvoyProxy", proxy).Spec.Provider.Kubernetes
	// By a strategic merge the port is that of the same number, and keeps its name and target.
	if s := k.EnvoyService; s.Type != "NodePort" || s.ExternalTrafficPolicy != "Cluster" || s.Patch.Type != "StrategicMerge" {
		t.Errorf("the Service is %+v", s)
	}
	ports := k.EnvoyService.Patch.Value.Spec.Ports
	node := setting(t, template, `(?ms)^  NodePort:\n.*?^    Default: (\S+)$`)
	if len(ports) != 1 || ports[0].Port != listens || strconv.Itoa(int(ports[0].NodePort)) != node {
		t.Errorf("the Service's ports are %+v, want %d at %s of the nodes", ports, listens, node)
	}
	if k.EnvoyDeployment.Replicas < 2 {
		t.Errorf("there are %d proxies: all review apps go with one", k.EnvoyDeployment.Replicas)
	}
	p := one[clientTrafficPolicy](t, own, "ClientTrafficPolicy", "review-apps").Spec
	if path := setting(t, template, `HealthCheckPath: (\S+)`); p.HealthCheck.Path != path {
		t.Errorf("health is answered at %q, and asked at %q", p.HealthCheck.Path, path)
	}
	if len(p.TargetRefs) != 1 || p.TargetRefs[0].Kind != "Gateway" || p.TargetRefs[0].Name != "review-apps" || p.ClientIPDetection.XForwardedFor.NumTrustedHops != 1 {
		t.Errorf("the policy is %+v", p)
	}
}

// setting is what a pattern finds in a text.
func setting(t *testing.T, text, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("nothing is like %s", pattern)
	}
	return found[1]
}

// readmeLine is the command of README.md that begins so, with the lines that it goes on in.
func readmeLine(t *testing.T, begin string) string {
	t.Helper()
	text := strings.ReplaceAll(read(t, "deploy", "review-app", "README.md"), "\\\n", "")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, begin) {
			return line
		}
	}
	t.Fatalf("README.md does not say %s", begin)
	return ""
}

// TestReadmeVersions: what README.md has people install is what the tests have.
func TestReadmeVersions(t *testing.T) {
	for begin, want := range map[string]string{
		"kubectl apply --server-side -f https://github.com/": "/kubernetes-sigs/gateway-api/releases/download/" + modules.GatewayAPI.Version + "/standard-install.yaml",
		"helm template ": " oci://docker.io/envoyproxy/gateway-crds-helm --version " + modules.EnvoyGateway.Version + " ",
		"helm install ":  " oci://docker.io/envoyproxy/gateway-helm --version " + modules.EnvoyGateway.Version + " ",
	} {
		if line := readmeLine(t, begin); !strings.Contains(line, want) {
			t.Errorf("README.md says %s, want%s", line, want)
		}
	}
	charts, err := modules.EnvoyGateway.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chart, err := os.ReadFile(filepath.Join(charts, "gateway-helm", "Chart.yaml"))
	if err != nil || !strings.Contains(string(chart), "condition: crds.enabled") {
		t.Errorf("the chart has no crds.enabled: %v", err)
	}
	if line := readmeLine(t, "helm install "); !strings.Contains(line, " --set crds.enabled=false ") {
		t.Errorf("the chart brings its own CRDs of the Gateway API: %s", line)
	}
}

// TestEnvoyRequests: what the documents say that the proxies and their controller request is
// what Envoy Gateway has as its defaults.
func TestEnvoyRequests(t *testing.T) {
	charts, err := modules.EnvoyGateway.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(filepath.Dir(charts), "api", "v1alpha1", "shared_types.go"))
	if err != nil {
		t.Fatal(err)
	}
	values, err := os.ReadFile(filepath.Join(charts, "gateway-helm", "values.tmpl.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	proxies := one[envoyProxy](t, kustomize(t, "gateway-node-port"), "EnvoyProxy", "review-apps").Spec.Provider.Kubernetes.EnvoyDeployment.Replicas
	sum := func(kind, name string) resource.Quantity {
		all := resource.MustParse(setting(t, string(values), `(?s)  envoyGateway:\n.{0,600}?requests:\n.*?`+name+`: (\S+)`))
		for range proxies {
			for _, of := range []string{"Deployment", "ShutdownManager"} {
				all.Add(resource.MustParse(setting(t, string(source), `Default`+of+kind+`ResourceRequests = "(\S+)"`)))
			}
		}
		return all
	}
	cpu, memory := sum("CPU", "cpu"), sum("Memory", "memory")
	want := fmt.Sprintf("%.1f CPU and %.1f GiB", cpu.AsApproximateFloat64(), memory.AsApproximateFloat64()/(1<<30))
	for file, text := range map[string]string{
		"README.md":      read(t, "deploy", "review-app", "README.md"),
		"review-apps.md": strings.ReplaceAll(read(t, "docs", "review-apps.md"), " CPU, ", " CPU and "),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s does not say %s", file, want)
		}
	}
}

// TestNodePortGatewayApplies gives the entry point to the API server with the CRDs that the
// command of README.md prints. It refuses fields that a kind has not, and values that break its
// rules.
func TestNodePortGatewayApplies(t *testing.T) {
	b := running(t)
	charts, err := modules.EnvoyGateway.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(readmeLine(t, "helm template "), " |")
	args := strings.Fields(line)[1:]
	for i, arg := range args {
		if name, ok := strings.CutPrefix(arg, "oci://docker.io/envoyproxy/"); ok {
			args[i] = filepath.Join(charts, name)
		}
	}
	at := slices.Index(args, "--version") // A folder has one version.
	args = slices.Delete(args, at, at+2)
	var complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(b.cluster.Binaries(), "helm"), append(args, "--kubeconfig", os.DevNull)...)
	cmd.Stderr = &complaint
	crds, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	objects, err := env.ParseObjects(crds)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if group, _, _ := unstructured.NestedString(o.Object, "spec", "group"); o.GetKind() != "CustomResourceDefinition" || group != "gateway.envoyproxy.io" {
			t.Errorf("it makes the %s %s", o.GetKind(), o.GetName())
		}
	}
	if err := b.cluster.Apply(t.Context(), crds); err != nil {
		t.Fatal(err)
	}
	folder, err := folder("gateway-node-port")
	if err != nil {
		t.Fatal(err)
	}
	// The other tests' entry point stays.
	eventually(t, "the API server takes it", func(ctx context.Context) error {
		_, err := b.cluster.Kubectl(ctx, "", "apply", "--server-side", "--dry-run=server", "-k", folder)
		return err
	})
}
