package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/schemas"
)

const (
	ordersNamespace = "orders"
	ordersAfter     = "deploy/demo/overlays/after"
	ordersBefore    = "deploy/demo/overlays/before"
	ordersFargate   = "deploy/demo/overlays/fargate"
	// withoutDatabase is how orders names the rendering whose pods keep orders for themselves.
	withoutDatabase = "after with sqlite"
	databaseURL     = "DATABASE_URL"
)

// rendering is a kustomization of the orders program, as kubectl renders it.
type rendering struct {
	objects

	dir  string
	text string
}

func render(t *testing.T, dir string) rendering {
	t.Helper()
	text, err := env.Run(t.Context(), "", "kubectl", "kustomize", dir)
	if err != nil {
		t.Fatal(err)
	}
	return rendering{objects: parse(t, text), dir: dir, text: text}
}

// orders are all that a user may apply: the overlays, and one with each component.
func orders(t *testing.T) map[string]rendering {
	t.Helper()
	all := map[string]rendering{}
	for _, dir := range []string{ordersBefore, ordersAfter, ordersFargate} {
		all[filepath.Base(dir)] = render(t, repo.Path(t, dir))
	}
	for _, file := range repo.Glob(t, "deploy/demo/components/*/kustomization.yaml") {
		component := filepath.Base(filepath.Dir(file))
		all["after with "+component] = render(t, ordersWith(t, component, ""))
	}
	return all
}

// ordersWith is a kustomization of a user's, of the overlay, a component, and an object of
// the user's own, if there is one.
func ordersWith(t *testing.T, component, own string) string {
	t.Helper()
	dir := t.TempDir()
	resolved, err := filepath.EvalSymlinks(dir) // As kustomize does with paths.
	if err != nil {
		t.Fatal(err)
	}
	relative := func(folder string) string {
		to, err := filepath.Rel(resolved, repo.Path(t, folder))
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	text := "resources:\n- " + relative(ordersAfter) + "\n"
	if own != "" {
		write(t, filepath.Join(dir, "own.yaml"), own)
		text += "- own.yaml\n"
	}
	write(t, filepath.Join(dir, "kustomization.yaml"), text+"components:\n- "+relative("deploy/demo/components/"+component)+"\n")
	return dir
}

// decode reads the object of a kind and name strictly.
func decode[T any](t *testing.T, all objects, name string) T {
	t.Helper()
	var into T
	kind := kindOf(into)
	for _, o := range all.of(kind) {
		if o.GetName() != name {
			continue
		}
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, &into); err != nil {
			t.Fatalf("%s %s: %v", kind, name, err)
		}
		return into
	}
	t.Fatalf("there is no %s %s", kind, name)
	return into
}

func kindOf(of any) string {
	name := fmt.Sprintf("%T", of)
	return name[strings.LastIndexByte(name, '.')+1:]
}

// allOf are the objects of a kind.
func allOf[T any](t *testing.T, all objects) []T {
	t.Helper()
	var into T
	var list []T
	for _, o := range all.of(kindOf(into)) {
		list = append(list, decode[T](t, all, o.GetName()))
	}
	return list
}

// TestOrdersVersions holds what kustomize makes of the orders program against every version
// of Kubernetes. TestEveryVersion holds the files, to which a patch may add what is wrong.
func TestOrdersVersions(t *testing.T) {
	apis, err := schemas.All()
	if err != nil {
		t.Fatal(err)
	}
	crd := parse(t, repo.Text(t, "deploy/crds/metrics.aws_externalmetrics.yaml"))[0]
	for name, r := range orders(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range r.objects {
				switch group := o.GroupVersionKind().Group; {
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
				}
			}
		})
	}
}

// TestOrdersAgree shows that whatever one object says of another is so.
func TestOrdersAgree(t *testing.T) {
	for name, r := range orders(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range r.objects {
				if ns := o.GetNamespace(); ns != ordersNamespace && o.GetKind() != "Namespace" {
					t.Errorf("%s %s is in the namespace %q", o.GetKind(), o.GetName(), ns)
				}
			}
			for _, d := range allOf[appsv1.Deployment](t, r.objects) {
				r.agreeDeployment(t, d)
			}
			for _, err := range []error{r.agreeServices(t), r.agreeBudgets(t), r.agreePolicies(t), r.agreeScaling(t)} {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// podsOf are the labels of a Deployment's pods.
func (r rendering) podsOf(t *testing.T, name string) labels.Set {
	t.Helper()
	return decode[appsv1.Deployment](t, r.objects, name).Spec.Template.Labels
}

func (r rendering) agreeDeployment(t *testing.T, d appsv1.Deployment) {
	t.Helper()
	errorf := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: "+format, append([]any{d.Name}, args...)...)
	}
	pod := d.Spec.Template
	if !selects(d.Spec.Selector, pod.Labels) {
		errorf("the selector is not of its pods")
	}
	for _, spread := range pod.Spec.TopologySpreadConstraints {
		if !selects(spread.LabelSelector, pod.Labels) || !slices.Equal(spread.MatchLabelKeys, []string{"pod-template-hash"}) {
			errorf("the spread over %s counts other pods", spread.TopologyKey)
		}
	}
	if len(pod.Spec.Containers) != 1 || pod.Spec.Containers[0].Name != d.Name {
		t.Fatalf("%s: it has not one container of its name", d.Name)
	}
	c := pod.Spec.Containers[0]
	if c.Args[0] != d.Name {
		errorf("it runs the mode %s", c.Args[0])
	}
	if want := "ghcr.io/tidegauge/orders:" + chartVersion(t); c.Image != want {
		errorf("the image is %s, want %s", c.Image, want)
	}
	for _, err := range slices.Concat(ports(c), r.refers(t, pod.Spec), requests(c)) {
		errorf("%v", err)
	}
	if mounted := pod.Spec.AutomountServiceAccountToken; mounted == nil || *mounted != (d.Name == "simulator") {
		errorf("a token is mounted, or its place not decided: only the simulator speaks to the API server")
	}
	scraped := slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == "admin" })
	want := map[bool]string{true: "9797"}[scraped && len(r.of("PodMonitor")) == 0]
	if got := pod.Annotations["prometheus.io/port"]; got != want || pod.Annotations["prometheus.io/scrape"] != strconv.FormatBool(want != "") && want != "" {
		errorf("Prometheus is led to the port %q, want %q", got, want)
	}
}

func chartVersion(t *testing.T) string {
	t.Helper()
	return nested(parse(t, repo.Text(t, "charts/tidegauge/Chart.yaml"))[0], "appVersion")
}

func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(set)
}

// ports are the errors unless the ports are those that the program is told, and probes and
// hooks go to them.
func ports(c corev1.Container) (errs []error) {
	named := map[string]int32{}
	for _, p := range c.Ports {
		named[p.Name] = p.ContainerPort
	}
	want := map[string]int32{}
	for flag, name := range map[string]string{"listen": "http", "admin-listen": "admin"} {
		if address := argument(c, flag); address != "" {
			n, err := strconv.ParseInt(strings.TrimPrefix(address, ":"), 10, 32)
			errs = append(errs, err)
			want[name] = int32(n)
		}
	}
	if !maps.Equal(named, want) {
		errs = append(errs, fmt.Errorf("the ports are %v, and the program is told %v", named, want))
	}
	for what, action := range actions(c) {
		if _, ok := named[action.Port.StrVal]; !ok || action.Port.Type != intstr.String {
			errs = append(errs, fmt.Errorf("%s goes to the port %s, which has no such name", what, action.Port.String()))
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// argument is the value of a flag.
func argument(c corev1.Container, flag string) string {
	for _, arg := range c.Args {
		if value, ok := strings.CutPrefix(arg, "--"+flag+"="); ok {
			return value
		}
	}
	return ""
}

// actions are the requests that a kubelet makes.
func actions(c corev1.Container) map[string]*corev1.HTTPGetAction {
	all := map[string]*corev1.HTTPGetAction{}
	if c.ReadinessProbe != nil {
		all["readiness"] = c.ReadinessProbe.HTTPGet
	}
	if c.LivenessProbe != nil {
		all["liveness"] = c.LivenessProbe.HTTPGet
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		all["preStop"] = c.Lifecycle.PreStop.HTTPGet
	}
	return all
}

// refers are the errors unless what a pod refers to is there.
func (r rendering) refers(t *testing.T, pod corev1.PodSpec) (errs []error) {
	t.Helper()
	missing := func(kind, name string) {
		if !slices.ContainsFunc(r.of(kind), named(name)) {
			errs = append(errs, fmt.Errorf("there is no %s %s", kind, name))
		}
	}
	if pod.ServiceAccountName != "" {
		missing("ServiceAccount", pod.ServiceAccountName)
	}
	for _, c := range pod.Containers {
		for _, from := range c.EnvFrom {
			missing("ConfigMap", from.ConfigMapRef.Name)
		}
		for _, v := range c.Env {
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil && v.Name != databaseURL {
				errs = append(errs, fmt.Errorf("%s is of the Secret %s, which nobody is told to make", v.Name, v.ValueFrom.SecretKeyRef.Name))
			}
		}
		if file := argument(c, "sqlite"); file != "" && (len(c.VolumeMounts) != 1 || filepath.Dir(file) != c.VolumeMounts[0].MountPath) {
			errs = append(errs, fmt.Errorf("nothing can be written to %s", file))
		}
	}
	return errs
}

// requests are the errors unless the scheduler and the kernel know what a container takes.
func requests(c corev1.Container) []error {
	r := c.Resources
	switch {
	case r.Requests.Cpu().IsZero(), r.Requests.Memory().IsZero(), r.Limits.Memory().Cmp(*r.Requests.Memory()) != 0:
		return []error{errors.New("it does not request CPU and as much memory as its limit")}
	case !r.Limits.Cpu().IsZero():
		return []error{errors.New("its CPU is limited")}
	}
	return nil
}

func (r rendering) agreeServices(t *testing.T) error {
	t.Helper()
	var errs []error
	for _, s := range allOf[corev1.Service](t, r.objects) {
		d := decode[appsv1.Deployment](t, r.objects, s.Name)
		if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
			errs = append(errs, fmt.Errorf("the Service %s selects other pods", s.Name))
		}
		for _, p := range s.Spec.Ports {
			if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
				errs = append(errs, fmt.Errorf("the Service %s leads to the port %s", s.Name, p.TargetPort.String()))
			}
		}
	}
	if got := len(r.of("Service")); got != 5 {
		errs = append(errs, fmt.Errorf("there are %d Services, want one of each mode", got))
	}
	return errors.Join(errs...)
}

func (r rendering) agreeBudgets(t *testing.T) error {
	t.Helper()
	var errs []error
	var names []string
	for _, b := range allOf[policyv1.PodDisruptionBudget](t, r.objects) {
		names = append(names, b.Name)
		if !selects(b.Spec.Selector, r.podsOf(t, b.Name)) {
			errs = append(errs, fmt.Errorf("the budget %s is of other pods", b.Name))
		}
		// Else nodes could not be drained of the only pod.
		if most, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, 1, true); err != nil || most < 1 {
			errs = append(errs, fmt.Errorf("the budget %s lets no single pod go: %w", b.Name, err))
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"echo", "web", "worker"}) {
		errs = append(errs, fmt.Errorf("there are budgets of %v", names))
	}
	return errors.Join(errs...)
}

// agreePolicies shows who may be reached, and who may reach what.
func (r rendering) agreePolicies(t *testing.T) error {
	t.Helper()
	in, out := map[string][]string{}, map[string][]string{}
	for _, p := range allOf[networkingv1.NetworkPolicy](t, r.objects) {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			return err
		}
		for _, d := range allOf[appsv1.Deployment](t, r.objects) {
			if !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				continue
			}
			for _, rule := range p.Spec.Ingress {
				in[d.Name] = append(in[d.Name], portNames(rule.Ports)...)
			}
			for _, rule := range p.Spec.Egress {
				out[d.Name] = append(out[d.Name], portNames(rule.Ports)...)
			}
		}
	}
	var errs []error
	for name, want := range map[string]struct{ in, out []string }{
		"web":       {[]string{"admin", "http"}, []string{"443", "53", "53", "5432", "80"}},
		"worker":    {[]string{"admin"}, []string{"443", "53", "53", "5432", "80"}},
		"echo":      {[]string{"admin", "http"}, []string{"53", "53"}},
		"loader":    {[]string{"admin"}, []string{"443", "53", "53", "80", "http"}},
		"simulator": {[]string{"admin"}, []string{"443", "443", "53", "53", "6443", "80"}},
	} {
		slices.Sort(in[name])
		slices.Sort(out[name])
		if !slices.Equal(in[name], want.in) || !slices.Equal(out[name], want.out) {
			errs = append(errs, fmt.Errorf("%s is reached on %v and reaches %v, want %v and %v", name, in[name], out[name], want.in, want.out))
		}
	}
	for name, want := range map[string]string{
		"users": "anybody", "metrics": "monitoring", "dns": "kube-system k8s-app=kube-dns, 169.254.20.10/32",
		"aws":        "0.0.0.0/0 but [169.254.169.254/32], 169.254.170.23/32",
		"api-server": "0.0.0.0/0 but [169.254.169.254/32]",
		"database":   "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16", "load": "app=web",
	} {
		if got := peers(decode[networkingv1.NetworkPolicy](t, r.objects, name).Spec); got != want {
			errs = append(errs, fmt.Errorf("the policy %s is of %q, want %q", name, got, want))
		}
	}
	if got := decode[corev1.Namespace](t, r.objects, ordersNamespace).Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		errs = append(errs, fmt.Errorf("the namespace takes pods that are %q", got))
	}
	deny := decode[networkingv1.NetworkPolicy](t, r.objects, "default-deny").Spec
	if len(deny.PodSelector.MatchLabels)+len(deny.PodSelector.MatchExpressions)+len(deny.Ingress)+len(deny.Egress) > 0 || len(deny.PolicyTypes) != 2 {
		errs = append(errs, errors.New("default-deny lets something through"))
	}
	return errors.Join(errs...)
}

// peers are those whom a policy lets in, or lets its pods reach.
func peers(spec networkingv1.NetworkPolicySpec) string {
	var all []networkingv1.NetworkPolicyPeer
	for _, rule := range spec.Ingress {
		all = append(all, rule.From...)
	}
	for _, rule := range spec.Egress {
		all = append(all, rule.To...)
	}
	var texts []string
	for _, p := range all {
		var parts []string
		if p.IPBlock != nil {
			parts = append(parts, p.IPBlock.CIDR)
			if len(p.IPBlock.Except) > 0 {
				parts = append(parts, fmt.Sprint("but ", p.IPBlock.Except))
			}
		}
		if p.NamespaceSelector != nil {
			parts = append(parts, strings.TrimPrefix(metav1.FormatLabelSelector(p.NamespaceSelector), corev1.LabelMetadataName+"="))
		}
		if p.PodSelector != nil {
			// Of every kustomization's pods there is one label more.
			own := p.PodSelector.DeepCopy()
			delete(own.MatchLabels, "app.kubernetes.io/part-of")
			parts = append(parts, metav1.FormatLabelSelector(own))
		}
		texts = append(texts, strings.Join(parts, " "))
	}
	return cmp.Or(strings.Join(texts, ", "), "anybody")
}

func portNames(ports []networkingv1.NetworkPolicyPort) []string {
	names := make([]string, 0, len(ports))
	for _, p := range ports {
		names = append(names, p.Port.String())
	}
	return names
}

// agreeScaling shows that an HPA finds what it scales and by what, and nobody else scales it.
func (r rendering) agreeScaling(t *testing.T) error {
	t.Helper()
	_, c := exampleConfig(t)
	owned := map[string]bool{"loader": true} // By the simulator.
	var errs []error
	for _, hpa := range allOf[autoscalingv2.HorizontalPodAutoscaler](t, r.objects) {
		owned[hpa.Spec.ScaleTargetRef.Name] = true
		e := example{objects: r.objects, hpa: hpa, deployment: decode[appsv1.Deployment](t, r.objects, hpa.Spec.ScaleTargetRef.Name)}
		for _, m := range hpa.Spec.Metrics {
			if err := e.made(m, c); err != nil {
				errs = append(errs, fmt.Errorf("HPA %s: %w", hpa.Name, err))
			}
		}
	}
	for _, d := range allOf[appsv1.Deployment](t, r.objects) {
		if (d.Spec.Replicas == nil) != owned[d.Name] {
			errs = append(errs, fmt.Errorf("%s has replicas and another owner, or neither", d.Name))
		}
	}
	return errors.Join(errs...)
}

// TestOrdersScale shows by what the tiers are scaled.
func TestOrdersScale(t *testing.T) {
	all := orders(t)
	for _, test := range []struct{ of, hpa, want string }{
		{"after", "web", "1..10 http_requests_per_second 10"},
		{"before", "web", "1..10 http_requests_per_second 10"},
		{"fargate", "web", "1..10 http_requests_per_second 10"},
		{"after", "worker", "0..10 orders-queue-depth 30"},
		{"after with cpu", "web", "1..10 cpu 90%"},
		{"after with cpu", "worker", "0..10 orders-queue-depth 30"},
		{"after with cpu-5-percent", "web", "2..1000 cpu 5%"},
	} {
		spec := decode[autoscalingv2.HorizontalPodAutoscaler](t, all[test.of].objects, test.hpa).Spec
		if len(spec.Metrics) != 1 {
			t.Fatalf("%s: HPA %s has %d metrics", test.of, test.hpa, len(spec.Metrics))
		}
		m := spec.Metrics[0]
		got := fmt.Sprintf("%d..%d %s %s", *spec.MinReplicas, spec.MaxReplicas, metricName(m), target(m))
		if got != test.want {
			t.Errorf("%s: HPA %s is %q, want %q", test.of, test.hpa, got, test.want)
		}
	}
	depth := render(t, repo.Path(t, ordersAfter)).of("ExternalMetric")[0]
	for _, want := range []string{"metricName: ApproximateNumberOfMessagesVisible", "metricName: ApproximateNumberOfMessagesNotVisible", "value: orders\n", "period: 60", "stat: Maximum"} {
		text, err := yaml.Marshal(depth.Object)
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the ExternalMetric has no %q: %v", want, err)
		}
	}
}

// TestOrdersDatabase shows that web and worker have one database by the Secret that
// kustomization.yaml names, without which they do not start; a file of their own only with the
// component that says so.
func TestOrdersDatabase(t *testing.T) {
	const told = "kubectl create secret generic orders-database -n orders --from-literal=url="
	if !strings.Contains(repo.Text(t, "deploy/demo/base/kustomization.yaml"), told) {
		t.Errorf("nobody is told to %s…", told)
	}
	for name, r := range orders(t) {
		for _, d := range allOf[appsv1.Deployment](t, r.objects) {
			c := d.Spec.Template.Spec.Containers[0]
			var secret *corev1.SecretKeySelector
			for _, v := range c.Env {
				if v.Name == databaseURL {
					secret = v.ValueFrom.SecretKeyRef
				}
			}
			stores := d.Name == "web" || d.Name == "worker"
			if file := argument(c, "sqlite"); (file != "") != (stores && name == withoutDatabase) {
				t.Errorf("%s: %s keeps orders in the file %q", name, d.Name, file)
			}
			if (secret != nil) != (stores && name != withoutDatabase) {
				t.Errorf("%s: the database of %s is of the Secret %v", name, d.Name, secret)
			}
			if secret != nil && (secret.Name != "orders-database" || secret.Key != "url" || secret.Optional != nil && *secret.Optional) {
				t.Errorf("%s: %s starts without the key url of the Secret orders-database: %v", name, d.Name, secret)
			}
		}
	}
}

// userConnections is how many connections a PostgreSQL has for users as it is installed:
// max_connections less superuser_reserved_connections, see
// https://www.postgresql.org/docs/current/runtime-config-connection.html.
const userConnections = 100 - 3

// TestOrdersConnections shows that the pods of web and worker find a connection, as many as
// their HPAs may want, in the middle of a rollout of both.
func TestOrdersConnections(t *testing.T) {
	for name, r := range orders(t) {
		if name == withoutDatabase || name == "after with cpu-5-percent" { // Which says so.
			continue
		}
		total := 0
		for _, tier := range []string{"web", "worker"} {
			d := decode[appsv1.Deployment](t, r.objects, tier)
			each, err := strconv.Atoi(argument(d.Spec.Template.Spec.Containers[0], "connections"))
			if err != nil || each < 1 {
				t.Fatalf("%s: %s opens %d connections: %v", name, tier, each, err)
			}
			most := int(decode[autoscalingv2.HorizontalPodAutoscaler](t, r.objects, tier).Spec.MaxReplicas)
			total += (most + ending(t, d, most)) * each
		}
		if total > userConnections {
			t.Errorf("%s: web and worker may open %d connections, and PostgreSQL has %d", name, total, userConnections)
		}
	}
}

// ending is how many pods there may be beyond those that there are to be: those of maxSurge, or,
// as a Deployment does not count pods that drain, all of the version before.
func ending(t *testing.T, d appsv1.Deployment, pods int) int {
	t.Helper()
	surge := new(intstr.FromString("25%")) // The default.
	if update := d.Spec.Strategy.RollingUpdate; update != nil && update.MaxSurge != nil {
		surge = update.MaxSurge
	}
	more, err := intstr.GetScaledValueFromIntOrPercent(surge, pods, true)
	if err != nil {
		t.Fatalf("%s: maxSurge: %v", d.Name, err)
	}
	return max(pods, more)
}

func target(m autoscalingv2.MetricSpec) string {
	switch {
	case m.Pods != nil:
		return m.Pods.Target.AverageValue.String()
	case m.External != nil:
		return m.External.Target.AverageValue.String()
	default:
		return fmt.Sprintf("%d%%", *m.Resource.Target.AverageUtilization)
	}
}

// stop is what makes a graceful stop of web.
type stop struct {
	drain, idle, grace      time.Duration
	readiness, preStop      string
	period                  int32
	balancer, gate, rollout string
}

func (r rendering) stop(t *testing.T) stop {
	t.Helper()
	d := decode[appsv1.Deployment](t, r.objects, "web")
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	var s stop
	var err, errs error
	s.drain, err = time.ParseDuration(argument(c, "drain"))
	s.idle, errs = time.ParseDuration(argument(c, "drain-idle"))
	if err := errors.Join(err, errs); err != nil {
		t.Fatal(err)
	}
	if grace := pod.TerminationGracePeriodSeconds; grace != nil {
		s.grace = time.Duration(*grace) * time.Second
	}
	s.readiness, s.period = c.ReadinessProbe.HTTPGet.Path, c.ReadinessProbe.PeriodSeconds
	if hook := actions(c)["preStop"]; hook != nil {
		s.preStop = hook.Port.StrVal + hook.Path
	}
	var told []string
	for _, name := range []string{"healthcheck-path", "healthcheck-interval-seconds", "unhealthy-threshold-count", "success-codes", "target-group-attributes"} {
		told = append(told, decode[corev1.Service](t, r.objects, "web").Annotations["alb.ingress.kubernetes.io/"+name])
	}
	s.balancer = strings.Join(told, " ")
	s.gate = decode[corev1.Namespace](t, r.objects, ordersNamespace).Labels["elbv2.k8s.aws/pod-readiness-gate-inject"]
	if update := d.Spec.Strategy.RollingUpdate; update != nil {
		s.rollout = update.MaxUnavailable.String() + " unavailable"
	}
	return s
}

// TestOrdersStop shows all that the two overlays differ in.
func TestOrdersStop(t *testing.T) {
	all := orders(t)
	after := stop{
		drain: 2 * time.Minute, idle: 15 * time.Second, grace: 150 * time.Second, readiness: "/readyz", period: 2,
		// A pod that is quiet ends after 15 s: two checks of 5 s have failed by then.
		preStop: "admin/drain", balancer: "/healthz 5 2 200-301 deregistration_delay.timeout_seconds=90", gate: "enabled", rollout: "0 unavailable",
	}
	for name, want := range map[string]stop{"after": after, "fargate": after, "before": {readiness: "/", balancer: "/ 5 2 200-301 "}} {
		if got := all[name].stop(t); got != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
	// A pod is killed at the end of the grace period, so that has to be after the drain; and
	// Kubernetes hears of the drain no later than a load balancer that asks each 3 s.
	const balancerPeriod = 3
	for _, d := range allOf[appsv1.Deployment](t, all["after"].objects) {
		c := d.Spec.Template.Spec.Containers[0]
		grace := time.Duration(*cmp.Or(d.Spec.Template.Spec.TerminationGracePeriodSeconds, new(int64(30)))) * time.Second
		if text := argument(c, "drain"); text != "" {
			if drain, err := time.ParseDuration(text); err != nil || grace < drain+10*time.Second {
				t.Errorf("%s drains %s (%v) in a grace period of %s", d.Name, text, err, grace)
			}
		}
		if p := c.ReadinessProbe; p != nil && p.PeriodSeconds > balancerPeriod {
			t.Errorf("%s: readiness is asked each %d s", d.Name, p.PeriodSeconds)
		}
	}
	rest := func(r rendering) string {
		kept := r.contents()
		for _, name := range []string{"Deployment orders/web", "Service orders/web", "Namespace /orders"} {
			delete(kept, name)
		}
		text, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if rest(all["before"]) != rest(all["after"]) {
		t.Error("the overlays differ in more than web's Deployment and Service, and the namespace")
	}
}

// TestOrdersSimulator shows that it may scale the loaders, and nothing that an HPA owns.
func TestOrdersSimulator(t *testing.T) {
	r := render(t, repo.Path(t, ordersAfter))
	var lines []string
	for _, rule := range decode[rbacv1.Role](t, r.objects, "simulator").Rules {
		lines = append(lines, fmt.Sprint(rule.APIGroups, rule.Resources, rule.ResourceNames, rule.Verbs))
	}
	want := []string{"[apps] [deployments] [web loader] [get]", "[apps] [deployments/scale] [loader] [patch]", "[autoscaling] [horizontalpodautoscalers] [] [list]"}
	if !slices.Equal(lines, want) {
		t.Errorf("the simulator may %q, want %q", lines, want)
	}
	args := decode[appsv1.Deployment](t, r.objects, "simulator").Spec.Template.Spec.Containers[0].Args
	for _, want := range []string{"--deployment=$(POD_NAMESPACE)/loader", "--web=$(POD_NAMESPACE)/web", "--queue=orders-sine"} {
		if !slices.Contains(args, want) {
			t.Errorf("the simulator has not the argument %s", want)
		}
	}
}

// TestOrdersCheck shows that the adapter finds nothing wrong, with the rules of either
// configuration that the repository has for it.
func TestOrdersCheck(t *testing.T) {
	text, _ := exampleConfig(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, text)
	for name, r := range orders(t) {
		configs := []string{file}
		if !strings.Contains(name, "cpu") {
			configs = append(configs, repo.Path(t, "deploy/demo/prometheus/adapter.yaml"))
		}
		for _, config := range configs {
			out, err := env.Run(t.Context(), r.text, "adapter", "check", "--strict", config, "-")
			if err != nil || !strings.Contains(out, "1 ExternalMetric, 2 HPAs in 2 files: 0 errors, 0 warnings") {
				t.Errorf("%s with %s: %v\n%s", name, config, err, out)
			}
		}
	}
}

// podMonitors lets the API server take any PodMonitor.
const podMonitors = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: podmonitors.monitoring.coreos.com
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, plural: podmonitors}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// TestOrdersApply applies each kustomization over the other, strictly, in a namespace that
// takes restricted pods only. A warning is an error.
func TestOrdersApply(t *testing.T) {
	c := bed.Cluster(t)
	if err := c.Apply(t.Context(), []byte(podMonitors)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "", "wait", "--for=condition=Established", "--timeout=60s", "crd/podmonitors.monitoring.coreos.com"); err != nil {
		t.Fatal(err)
	}
	deleteOrders(t, c)
	all := orders(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			for range 2 { // The second time it changes nothing.
				_, err := c.Kubectl(t.Context(), "", "apply", "-k", all[name].dir, "--server-side", "--field-manager=example", "--validate=strict", "--warnings-as-errors")
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range allOf[appsv1.Deployment](t, all[name].objects) {
				if d.Name != "worker" { // It may have been scaled to none.
					ready(t, c, d.Name)
				}
			}
		})
	}
}

// deleteOrders deletes the namespace when the test ends, and waits for it.
func deleteOrders(t *testing.T, c *env.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "namespace", ordersNamespace, "--timeout=120s"); err != nil {
			t.Error(err)
		}
	})
}

// ready waits until all pods of a Deployment are of its newest version and ready.
func ready(t *testing.T, c *env.Cluster, name string) {
	t.Helper()
	eventually(t, "pods of "+name, func(ctx context.Context) error {
		d, err := c.Client().AppsV1().Deployments(ordersNamespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.Replicas == 0 || s.UpdatedReplicas != s.Replicas || s.ReadyReplicas != s.Replicas {
			return fmt.Errorf("%d of %d pods are ready, %d new: %v", s.ReadyReplicas, s.Replicas, s.UpdatedReplicas, s.Conditions)
		}
		return nil
	})
}

// agents is a DaemonSet of a user's, as agents are: it tolerates every taint.
const agents = `
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
  namespace: orders
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      tolerations: [{operator: Exists}]
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: agent
        image: registry.example.com/agent:1.0
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// TestDaemonSetsOffFargate shows a DaemonSet on every node, and with the component on every
// node but Fargate's.
func TestDaemonSetsOffFargate(t *testing.T) {
	c := bed.Cluster(t)
	deleteOrders(t, c)
	fargateNode(t, c)
	nodes, err := c.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "", "create", "namespace", ordersNamespace); err != nil {
		t.Fatal(err)
	}
	own := func(dir string) string {
		all := render(t, dir).of("DaemonSet")
		if len(all) != 1 {
			t.Fatalf("there are %d DaemonSets", len(all))
		}
		text, err := all[0].MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, test := range []struct {
		name, text string
		want       int
	}{
		{"as it is", agents, len(nodes.Items)},
		{"with the component", own(ordersWith(t, "off-fargate", agents)), len(nodes.Items) - 1},
	} {
		if _, err := c.Kubectl(t.Context(), test.text, "apply", "--server-side", "--validate=strict", "--warnings-as-errors", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		eventually(t, test.name, func(ctx context.Context) error {
			d, err := c.Client().AppsV1().DaemonSets(ordersNamespace).Get(ctx, "agent", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := d.Status; s.ObservedGeneration < d.Generation || int(s.DesiredNumberScheduled) != test.want || int(s.NumberReady) != test.want || s.NumberMisscheduled != 0 {
				return fmt.Errorf("%d pods of %d nodes, want %d, %d of them ready", s.DesiredNumberScheduled, len(nodes.Items), test.want, s.NumberReady)
			}
			return nil
		})
	}
}

// fargateNode makes a simulated node with the label and the taint that Fargate's have.
func fargateNode(t *testing.T, c *env.Cluster) {
	t.Helper()
	const name, computeType, fargate = "fargate-0", "eks.amazonaws.com/compute-type", "fargate"
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")}
	_, err := c.Client().CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"tidegauge.dev/node": "simulated", corev1.LabelHostname: name, corev1.LabelOSStable: "linux", computeType: fargate,
		}},
		Spec:   corev1.NodeSpec{Taints: []corev1.Taint{{Key: computeType, Value: fargate, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.63.9.9"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Client().CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// TestOrdersFargate shows which pods go to Fargate, and that it takes them.
func TestOrdersFargate(t *testing.T) {
	r := render(t, repo.Path(t, ordersFargate))
	var on []string
	for _, d := range allOf[appsv1.Deployment](t, r.objects) {
		pod := d.Spec.Template
		if pod.Labels["scheduler"] != "fargate" {
			continue
		}
		on = append(on, d.Name)
		// The smallest of https://docs.aws.amazon.com/eks/latest/userguide/fargate-pod-configuration.html,
		// of whose memory 256 MB are Kubernetes'.
		if got := pod.Spec.Containers[0].Resources.Requests; got.Cpu().String() != "250m" || got.Memory().String() != "256Mi" {
			t.Errorf("%s requests %v", d.Name, got)
		}
		if pod.Spec.HostNetwork || pod.Spec.HostPID || slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil }) {
			t.Errorf("%s wants something of its node", d.Name)
		}
	}
	slices.Sort(on)
	if !slices.Equal(on, []string{"echo", "web", "worker"}) {
		t.Errorf("on Fargate are %v", on)
	}
}
