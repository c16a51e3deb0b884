package waysin

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/gitops/modules"
	"github.com/tidegauge/tidegauge/test/repo"
)

// demo is the application that all but one of the ways lead to.
const demo = "deploy/demo/overlays/after"

// files are those of deploy/ingress.
func files(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(repo.Path(t, "deploy/ingress/*.yaml"))
	if err != nil || len(all) == 0 {
		t.Fatalf("deploy/ingress has no files: %v", err)
	}
	for i := range all {
		all[i] = "deploy/ingress/" + filepath.Base(all[i])
	}
	return all
}

// TestManifestsApply gives every file to the API server, which knows the kinds of the Gateway
// API and, as far as they are used, of the AWS Load Balancer Controller. kubectl has it refuse
// fields that a kind has not.
func TestManifestsApply(t *testing.T) {
	running(t)
	crds, err := modules.GatewayAPI.CRDs(t.Context(), "gatewayclasses", "gateways", "httproutes")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(crds, repo.Read(t, "test/reviewapp/testdata/gateway.k8s.aws.yaml")) {
		if err := bed.cluster.Apply(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(what ...string) error {
		_, err := bed.cluster.Kubectl(t.Context(), "", append([]string{"apply", "--server-side"}, what...)...)
		return err
	}
	if err := apply("-k", repo.Path(t, demo)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, ns := range []string{"orders", "books", "gateways"} {
			_, err := bed.cluster.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "namespace", ns, "--wait=false")
			if err != nil {
				t.Errorf("namespace %s: %v", ns, err)
			}
		}
	})
	for _, file := range files(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			eventually(t, "its kinds are known", func() error { return apply("-f", repo.Path(t, file)) })
		})
	}
}

// object is what of a manifest refers to another one.
type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		GatewayClassName string
		Infrastructure   struct{ ParametersRef struct{ Kind, Name string } }
		Listeners        []struct{ Name, Hostname string }
		ParentRefs       []struct{ Name, Namespace, SectionName string }
		Hostnames        []string
		Rules            []struct {
			BackendRefs []struct {
				Name string
				Port int32
			}
		}
		TargetReference        struct{ Name string }
		Scheme                 string
		ListenerConfigurations []struct{ ProtocolPort, DefaultCertificate, SSLPolicy string }
		DefaultConfiguration   struct {
			TargetType        string
			HealthCheckConfig struct {
				HealthCheckPath                                string
				HealthCheckInterval, HealthCheckTimeout        int
				HealthyThresholdCount, UnhealthyThresholdCount int
				Matcher                                        struct{ HTTPCode string }
			}
			TargetGroupAttributes []struct{ Key, Value string }
		}
	}
}

func (o object) name() string { return o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name }

// manifests are the objects of a file and of the application.
func manifests(t *testing.T, file string) (own, all []*unstructured.Unstructured) {
	t.Helper()
	text, err := env.Run(t.Context(), "", "kubectl", "kustomize", repo.Path(t, demo))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range [][]byte{repo.Read(t, file), []byte(text)} {
		objects, err := env.ParseObjects(source)
		if err != nil {
			t.Fatal(err)
		}
		if own == nil {
			own = objects
		}
		all = append(all, objects...)
	}
	return own, all
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

// TestManifestsAgree shows that whatever a file says of another object is so.
func TestManifestsAgree(t *testing.T) {
	for _, file := range files(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			own, all := manifests(t, file)
			names := map[string]object{}
			services := map[string]corev1.Service{}
			for _, o := range all {
				decoded := decode[object](t, o)
				names[decoded.name()] = decoded
				if o.GetKind() == "Service" {
					services[o.GetNamespace()+"/"+o.GetName()] = decode[corev1.Service](t, o)
				}
			}
			for _, o := range own {
				if ns := o.GetNamespace(); ns != "" && names["Namespace /"+ns].Kind == "" {
					t.Errorf("%s %s: there is no namespace %s", o.GetKind(), o.GetName(), ns)
				}
				switch o.GetKind() {
				case "Service":
					agreeService(t, decode[corev1.Service](t, o), all)
				case "Ingress":
					agreeIngress(t, decode[networkingv1.Ingress](t, o), services)
				default:
					agreeGateway(t, decode[object](t, o), names, services)
				}
				if targetsPods(o) {
					wantGate(t, o.GetNamespace(), all)
				}
			}
		})
	}
}

// targetsPods says whether a load balancer has pods as targets because of this object.
func targetsPods(o *unstructured.Unstructured) bool {
	a := o.GetAnnotations()
	of, _, _ := unstructured.NestedString(o.Object, "spec", "defaultConfiguration", "targetType")
	return a[albPrefix+"target-type"] == "ip" || a[nlbPrefix+"nlb-target-type"] == "ip" || of == "ip"
}

// wantGate: pods that are targets get a readiness gate, which is by their namespace.
func wantGate(t *testing.T, namespace string, all []*unstructured.Unstructured) {
	t.Helper()
	const gate = "elbv2.k8s.aws/pod-readiness-gate-inject"
	for _, o := range all {
		if o.GetKind() == "Namespace" && o.GetName() == namespace && o.GetLabels()[gate] != "enabled" {
			t.Errorf("the namespace %s has the label %s=%q, want enabled", namespace, gate, o.GetLabels()[gate])
		}
	}
}

// What the AWS Load Balancer Controller takes of an Ingress, and of a Service.
const (
	albPrefix = "alb.ingress.kubernetes.io/"
	nlbPrefix = "service.beta.kubernetes.io/aws-load-balancer-"
)

// wantFront is what users see of every way: it is public, and takes no old TLS.
func wantFront(t *testing.T, name, scheme, policy, certificate string) {
	t.Helper()
	if scheme != "internet-facing" || policy != "ELBSecurityPolicy-TLS13-1-2-2021-06" || !strings.HasPrefix(certificate, "arn:aws:acm:") {
		t.Errorf("%s is %s, with TLS by %q and the certificate %q", name, scheme, policy, certificate)
	}
}

// agreeBalancer looks at the load balancer that a Service has to itself.
func agreeBalancer(t *testing.T, s corev1.Service) {
	t.Helper()
	get := func(name string) string { return s.Annotations[nlbPrefix+name] }
	wantFront(t, s.Name, get("scheme"), get("ssl-negotiation-policy"), get("ssl-cert"))
	wantHealth(t, s.Name, "", health{
		get("healthcheck-path"), get("healthcheck-interval"), get("healthcheck-timeout"),
		get("healthcheck-healthy-threshold"), get("healthcheck-unhealthy-threshold"), get("healthcheck-success-codes"), get("target-group-attributes"),
	})
	if c := s.Spec.LoadBalancerClass; c == nil || *c != "service.k8s.aws/nlb" || get("nlb-target-type") != "ip" || get("healthcheck-protocol") != "http" {
		t.Errorf("Service %s is of the class %v, with targets of type %q, and health is asked by %q", s.Name, c, get("nlb-target-type"), get("healthcheck-protocol"))
	}
	if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == get("ssl-ports") && p.Port == 443 }) {
		t.Errorf("Service %s: TLS is at the port %q, which is not 443", s.Name, get("ssl-ports"))
	}
}

// agreeService looks for the pods.
func agreeService(t *testing.T, s corev1.Service, all []*unstructured.Unstructured) {
	t.Helper()
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		agreeBalancer(t, s)
	}
	for _, o := range all {
		if o.GetKind() != "Deployment" || o.GetNamespace() != s.Namespace {
			continue
		}
		d := decode[appsv1.Deployment](t, o)
		if d.Spec.Template.Labels["app"] != s.Spec.Selector["app"] {
			continue
		}
		for _, p := range s.Spec.Ports {
			if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
				t.Errorf("Service %s: the pods have no port %s", s.Name, p.TargetPort.StrVal)
			}
		}
		return
	}
	t.Errorf("Service %s selects no pods", s.Name)
}

func agreeIngress(t *testing.T, i networkingv1.Ingress, services map[string]corev1.Service) {
	t.Helper()
	targets := i.Annotations[albPrefix+"target-type"]
	wantFront(t, i.Name, i.Annotations[albPrefix+"scheme"], i.Annotations[albPrefix+"ssl-policy"], i.Annotations[albPrefix+"certificate-arn"])
	if group := i.Annotations[albPrefix+"group.name"]; group != "public" {
		t.Errorf("Ingress %s is of the group %q, and has a load balancer to itself", i.Name, group)
	}
	for _, rule := range i.Spec.Rules {
		for _, p := range rule.HTTP.Paths {
			s, ok := services[i.Namespace+"/"+p.Backend.Service.Name]
			if !ok || !slices.ContainsFunc(s.Spec.Ports, func(o corev1.ServicePort) bool { return o.Name == p.Backend.Service.Port.Name }) {
				t.Errorf("Ingress %s: there is no Service %s with a port %s", i.Name, p.Backend.Service.Name, p.Backend.Service.Port.Name)
			}
			if (targets == "instance") != (s.Spec.Type == corev1.ServiceTypeNodePort) {
				t.Errorf("Ingress %s has targets of type %s, and the Service is %s", i.Name, targets, s.Spec.Type)
			}
			// What the Ingress does not say, the Service does.
			set := maps.Clone(s.Annotations)
			if set == nil {
				set = map[string]string{}
			}
			maps.Copy(set, i.Annotations)
			get := func(name string) string { return set[albPrefix+name] }
			wantHealth(t, i.Name, "200-301", health{
				get("healthcheck-path"), get("healthcheck-interval-seconds"), get("healthcheck-timeout-seconds"),
				get("healthy-threshold-count"), get("unhealthy-threshold-count"), get("success-codes"), get("target-group-attributes"),
			})
		}
	}
}

// health is how a load balancer asks for it, in seconds and answers, and what else its target
// group is told.
type health struct{ path, interval, timeout, healthy, unhealthy, codes, attributes string }

// wantHealth is what every way asks for. The delay is less than the 120 s of drain. An NLB has
// its own default of codes.
func wantHealth(t *testing.T, name, codes string, got health) {
	t.Helper()
	want := health{"/healthz", "5", "2", "2", "2", codes, "deregistration_delay.timeout_seconds=90"}
	if got != want {
		t.Errorf("%s: health is asked as %+v, want %+v", name, got, want)
	}
}

func agreeGateway(t *testing.T, o object, names map[string]object, services map[string]corev1.Service) {
	t.Helper()
	there := func(kind, namespace, name string) object {
		t.Helper()
		found, ok := names[object{Kind: kind, Metadata: struct{ Name, Namespace string }{name, namespace}}.name()]
		if !ok {
			t.Errorf("%s: there is no %s %s/%s", o.name(), kind, namespace, name)
		}
		return found
	}
	switch o.Kind {
	case "Gateway":
		there("GatewayClass", "", o.Spec.GatewayClassName)
		there(o.Spec.Infrastructure.ParametersRef.Kind, o.Metadata.Namespace, o.Spec.Infrastructure.ParametersRef.Name)
	case "LoadBalancerConfiguration":
		for _, l := range o.Spec.ListenerConfigurations {
			wantFront(t, o.name(), o.Spec.Scheme, l.SSLPolicy, l.DefaultCertificate)
		}
	case "TargetGroupConfiguration":
		there("Service", o.Metadata.Namespace, o.Spec.TargetReference.Name)
		var attributes []string
		for _, a := range o.Spec.DefaultConfiguration.TargetGroupAttributes {
			attributes = append(attributes, a.Key+"="+a.Value)
		}
		h := o.Spec.DefaultConfiguration.HealthCheckConfig
		wantHealth(t, o.name(), "200-301", health{
			h.HealthCheckPath, strconv.Itoa(h.HealthCheckInterval), strconv.Itoa(h.HealthCheckTimeout),
			strconv.Itoa(h.HealthyThresholdCount), strconv.Itoa(h.UnhealthyThresholdCount), h.Matcher.HTTPCode, strings.Join(attributes, ","),
		})
	case "HTTPRoute":
		parent := o.Spec.ParentRefs[0]
		if parent.Namespace == "" {
			parent.Namespace = o.Metadata.Namespace
		}
		agreeListener(t, o, there("Gateway", parent.Namespace, parent.Name), parent.SectionName)
		for _, rule := range o.Spec.Rules {
			for _, b := range rule.BackendRefs {
				s := services[o.Metadata.Namespace+"/"+b.Name]
				if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == b.Port }) {
					t.Errorf("%s: there is no Service %s with a port %d", o.name(), b.Name, b.Port)
				}
			}
		}
	}
}

func agreeListener(t *testing.T, route, gateway object, section string) {
	t.Helper()
	for _, l := range gateway.Spec.Listeners {
		if l.Name != section {
			continue
		}
		for _, host := range route.Spec.Hostnames {
			if !strings.HasSuffix(host, strings.TrimPrefix(l.Hostname, "*")) {
				t.Errorf("%s: the listener %s is not for %s", route.name(), section, host)
			}
		}
		return
	}
	t.Errorf("%s: the Gateway has no listener %s", route.name(), section)
}

// TestNodePort shows that the load balancer outside and the Service agree, if there is the
// template.
func TestNodePort(t *testing.T) {
	own, _ := manifests(t, "deploy/ingress/node-port.yaml")
	if s := decode[corev1.Service](t, own[0]); s.Spec.Ports[0].NodePort != 30080 {
		t.Errorf("the port is %d, want 30080", s.Spec.Ports[0].NodePort)
	}
	template, err := os.ReadFile(repo.Path(t, "deploy/cluster/cloudformation/elb.yaml"))
	if err != nil {
		t.Skip(err)
	}
	for _, want := range []string{"30080", "/healthz"} {
		if !strings.Contains(string(template), want) {
			t.Errorf("the template does not say %s", want)
		}
	}
}
