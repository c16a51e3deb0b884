package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
)

// The tests of this file hold names against each other across the folders of deploy. Others
// have looked at some of it within a folder, and at what only they know: TestOrdersAgree,
// TestExamplesAreComplete, TestKustomization of test/monitoring, TestManifestsAgree of test/waysin,
// TestFluxParts of test/gitops, TestQueues and TestReviewNodes of test/cluster, and the dashboards
// and alerts, whose metrics test/gitops and test/monitoring have the programs serve.

// world is what is in a cluster together, and what makes the metrics of its HPAs.
type world struct {
	objects

	configs []*config.Config
	// part says that it is what somebody takes of a larger one, whose policies name pods that
	// are left out.
	part bool
}

// worlds are all that somebody may apply together.
func worlds(t *testing.T) map[string]world {
	t.Helper()
	var shared objects
	for _, file := range repo.Glob(t, "deploy/ingress/*.yaml") {
		shared = append(shared, parse(t, repo.Text(t, file))...)
	}
	shared = append(shared, kustomize(t, "deploy/gitops/prometheus")...)
	_, values := exampleConfig(t)
	adapter := configOf(t, repo.Text(t, "deploy/demo/prometheus/adapter.yaml"))
	all := map[string]world{}
	for name, r := range orders(t) {
		configs := []*config.Config{values, fluxConfig(t)}
		if !strings.Contains(name, "cpu") {
			configs = append(configs, adapter)
		}
		all["orders "+name] = world{objects: slices.Concat(r.objects, shared), configs: configs}
	}
	for _, component := range []string{"cpu", "cpu-5-percent"} { // By metrics-server, in place of a rule.
		name := "orders after with " + component
		all[name] = world{objects: all[name].objects, configs: []*config.Config{values}}
	}
	for _, file := range examples(t) {
		all[file] = world{objects: parse(t, repo.Text(t, file)), configs: []*config.Config{values}}
	}
	install := parse(t, repo.Text(t, "deploy/install.yaml"))
	all["install"] = world{objects: slices.Concat(install, kustomize(t, "deploy/monitoring"))}
	all["kustomize example"] = world{objects: kustomize(t, "deploy/kustomize/example")}
	all["base"] = world{objects: slices.Concat(files(t, "deploy/base/*.yaml", "deploy/crds/*.yaml", "deploy/policies/*.yaml", "deploy/resource-metrics/*.yaml"),
		install.of("Deployment"), install.of("ConfigMap"), install.of("Certificate"), install.of("Issuer"))}
	all["resource metrics"] = world{objects: slices.Concat(install, files(t, "deploy/kustomize/resource-metrics/apiservices.yaml"))}
	all["queue"] = world{objects: files(t, "deploy/demo/queue/*.yaml")}
	all["requests"] = world{objects: files(t, "deploy/demo/requests/*.yaml"), configs: []*config.Config{values, adapter}}
	all["Prometheus"] = world{objects: files(t, "deploy/demo/prometheus/rbac.yaml")}
	all["nodes"] = world{objects: files(t, "deploy/cluster/nodes/headroom.yaml", "deploy/cluster/nodes/karpenter/ec2nodeclass.yaml", "deploy/cluster/nodes/karpenter/nodepool.yaml")}
	all["review app"] = world{objects: slices.Concat(reviewApp(t), kustomize(t, "deploy/review-app/gateway"), kustomize(t, "deploy/gitops/prometheus")), configs: []*config.Config{values}, part: true}
	all["review app by NodePort"] = world{objects: slices.Concat(reviewApp(t), kustomize(t, "deploy/review-app/gateway-node-port"), kustomize(t, "deploy/gitops/prometheus")), configs: []*config.Config{values}, part: true}
	all["Flux"] = world{objects: slices.Concat(kustomize(t, "deploy/gitops/cluster"), kustomize(t, "deploy/gitops/adapter"), kustomize(t, "deploy/gitops/metrics-server"),
		kustomize(t, "deploy/gitops/prometheus"), all["orders after"].objects, kustomize(t, "deploy/review-app/gateway")), configs: []*config.Config{fluxConfig(t)}}
	return all
}

// reviewApp is what one pull request gets, in its namespace, which the program puts in.
func reviewApp(t *testing.T) objects {
	t.Helper()
	all := kustomize(t, "deploy/review-app/app")
	for _, o := range all {
		if o.GetKind() != "Namespace" {
			o.SetNamespace("web-pr-1")
		}
	}
	return all
}

func files(t *testing.T, patterns ...string) objects {
	t.Helper()
	var all objects
	for _, pattern := range patterns {
		for _, file := range repo.Glob(t, pattern) {
			all = append(all, parse(t, repo.Text(t, file))...)
		}
	}
	return all
}

func configOf(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fluxConfig are the rules of the adapter that Flux installs.
func fluxConfig(t *testing.T) *config.Config {
	t.Helper()
	release := kustomize(t, "deploy/gitops/adapter").of("HelmRelease")[0]
	custom, _, err := unstructured.NestedSlice(release.Object, "spec", "values", "rules", "custom")
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{"rules": custom})
	if err != nil {
		t.Fatal(err)
	}
	return configOf(t, string(text))
}

// TestReferences follows whatever one object says of another, in every world.
func TestReferences(t *testing.T) {
	followed := 0
	for name, w := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range w.objects {
				n, err := w.follow(o)
				followed += n
				if err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
		})
	}
	if followed < 500 {
		t.Errorf("only %d references were followed", followed)
	}
}

// TestReferencesOfEveryFile shows that no object of deploy is in no world.
func TestReferencesOfEveryFile(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range worlds(t) {
		for _, o := range w.objects {
			seen[o.GetKind()+" "+o.GetName()] = true
		}
	}
	for _, file := range treeFiles(t) {
		if filepath.Ext(file) != ".yaml" || strings.HasPrefix(file, "cluster/cloudformation/") || filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		all, err := env.ParseObjects([]byte(repo.Text(t, "deploy/"+file)))
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, o := range all {
			if o.GetKind() != "" && o.GetKind() != "ClusterConfig" && !seen[o.GetKind()+" "+o.GetName()] {
				t.Errorf("deploy/%s: %s %s is in no world of this test: add it", file, o.GetKind(), o.GetName())
			}
		}
	}
}

// refs are references of one object: how many were followed, and which lead nowhere.
type refs struct {
	world

	namespace string
	followed  int
	errs      []error
}

// follow follows the references of an object.
func (w world) follow(o *unstructured.Unstructured) (int, error) {
	r := &refs{world: w, namespace: o.GetNamespace()}
	for _, f := range []func(*refs, *unstructured.Unstructured) error{
		(*refs).workload, (*refs).selecting, (*refs).scaling, (*refs).access, (*refs).api, (*refs).gateway, (*refs).platform,
	} {
		if err := f(r, o); err != nil {
			r.errs = append(r.errs, err)
		}
	}
	return r.followed, errors.Join(r.errs...)
}

// must counts a reference, and remembers if it leads nowhere.
func (r *refs) must(leads bool, format string, args ...any) { //nolint:revive // It is what is claimed, and switches nothing.
	r.followed++
	if !leads {
		r.errs = append(r.errs, fmt.Errorf(format, args...))
	}
}

// there looks for an object by name, in the namespace if it has one.
func (r *refs) there(kind, namespace, name string) *unstructured.Unstructured {
	for _, o := range r.of(kind) {
		if o.GetName() == name && (o.GetNamespace() == "" || o.GetNamespace() == namespace) {
			r.followed++
			return o
		}
	}
	r.must(false, "there is no %s %s in %q", kind, name, namespace)
	return nil
}

// as reads an object strictly.
func as[T any](o *unstructured.Unstructured) (into T, err error) {
	text, err := o.MarshalJSON()
	if err == nil {
		err = yaml.UnmarshalStrict(text, &into)
	}
	return into, err
}

// pods are the templates of the world's pods, by namespace and name of what has them.
func (w world) pods(namespace string) (map[string]corev1.PodTemplateSpec, error) {
	all := map[string]corev1.PodTemplateSpec{}
	for _, o := range w.of("Deployment") {
		if o.GetNamespace() != namespace {
			continue
		}
		d, err := as[appsv1.Deployment](o)
		if err != nil {
			return nil, err
		}
		all[d.Name] = d.Spec.Template
	}
	return all, nil
}

// containerPorts are those of a pod, by name and by number.
func containerPorts(pod corev1.PodSpec) []string {
	var all []string
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			all = append(all, p.Name, strconv.Itoa(int(p.ContainerPort)))
		}
	}
	return all
}

// envoyPort is that of the Envoy which a service mesh puts beside a pod.
const envoyPort = "9901"

// workload: what pods refer to.
func (r *refs) workload(o *unstructured.Unstructured) error {
	if o.GetKind() != "Deployment" {
		return nil
	}
	d, err := as[appsv1.Deployment](o)
	if err != nil {
		return err
	}
	pod := d.Spec.Template
	r.must(selects(d.Spec.Selector, pod.Labels), "the selector is of other pods")
	if name := pod.Spec.ServiceAccountName; name != "" {
		r.there("ServiceAccount", r.namespace, name)
	}
	if name := pod.Spec.PriorityClassName; name != "" && !strings.HasPrefix(name, "system-") {
		r.there("PriorityClass", "", name)
	}
	for _, s := range pod.Spec.TopologySpreadConstraints {
		r.must(selects(s.LabelSelector, pod.Labels), "the spread over %s is of other pods", s.TopologyKey)
	}
	if port := pod.Annotations["prometheus.io/port"]; port != "" && port != envoyPort {
		r.must(slices.Contains(containerPorts(pod.Spec), port), "Prometheus is led to the port %s", port)
	}
	r.volumes(pod.Spec)
	for _, c := range pod.Spec.Containers {
		r.environment(c)
		r.probes(c)
	}
	return nil
}

func (r *refs) volumes(pod corev1.PodSpec) {
	names := map[string]bool{}
	for _, v := range pod.Volumes {
		names[v.Name] = true
		if v.ConfigMap != nil {
			r.there("ConfigMap", r.namespace, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			r.secret(v.Secret.SecretName, false)
		}
	}
	for _, c := range pod.Containers {
		for _, m := range c.VolumeMounts {
			r.must(names[m.Name], "there is no volume %s", m.Name)
		}
	}
}

// byHand are the Secrets that whoever applies the files makes before, as
// deploy/demo/base/kustomization.yaml says.
var byHand = []string{"orders-database"}

// secret looks for a Secret, which may be a Certificate's, or optional and a user's.
func (r *refs) secret(name string, optional bool) {
	optional = optional || slices.Contains(byHand, name)
	of := slices.ContainsFunc(r.of("Certificate"), func(o *unstructured.Unstructured) bool { return nested(o, "spec", "secretName") == name })
	r.must(optional || of || slices.ContainsFunc(r.of("Secret"), named(name)), "there is no Secret %s, and nothing makes it", name)
}

func (r *refs) environment(c corev1.Container) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			r.there("ConfigMap", r.namespace, from.ConfigMapRef.Name)
		}
	}
	for _, v := range c.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			ref := v.ValueFrom.SecretKeyRef
			r.secret(ref.Name, ref.Optional != nil && *ref.Optional)
		}
	}
}

func (r *refs) probes(c corev1.Container) {
	names := map[string]bool{}
	for _, p := range c.Ports {
		names[p.Name], names[strconv.Itoa(int(p.ContainerPort))] = true, true
	}
	for what, action := range actions(c) {
		if action != nil {
			r.must(names[action.Port.String()], "%s goes to the port %s", what, action.Port.String())
		}
	}
}

// selecting: what finds pods by their labels, and ports by their names.
func (r *refs) selecting(o *unstructured.Unstructured) error {
	pods, err := r.pods(r.namespace)
	if err != nil {
		return err
	}
	switch o.GetKind() {
	case "Service":
		s, err := as[corev1.Service](o)
		if err != nil {
			return err
		}
		for _, p := range s.Spec.Ports {
			target := p.TargetPort.String()
			if p.TargetPort == (intstr.IntOrString{}) {
				target = strconv.Itoa(int(p.Port))
			}
			r.ports("Service", metav1.SetAsLabelSelector(s.Spec.Selector), pods, target)
		}
	case "PodDisruptionBudget":
		b, err := as[policyv1.PodDisruptionBudget](o)
		if err != nil {
			return err
		}
		r.ports("budget", b.Spec.Selector, pods)
	case "PodMonitor":
		return r.monitor(o, pods)
	case "NetworkPolicy":
		p, err := as[networkingv1.NetworkPolicy](o)
		if err != nil {
			return err
		}
		return r.policy(p, pods)
	}
	return nil
}

// ports counts a selector, which is to find pods, and names of ports, each of which one of the
// pods is to have.
func (r *refs) ports(what string, selector *metav1.LabelSelector, pods map[string]corev1.PodTemplateSpec, want ...string) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	var have []string
	found := false
	for _, pod := range pods {
		if s.Matches(labels.Set(pod.Labels)) {
			found = true
			have = append(have, containerPorts(pod.Spec)...)
		}
	}
	r.must(found, "the %s selects no pods: %s", what, s)
	for _, port := range want {
		r.must(slices.Contains(have, port), "the %s leads to the port %s, and its pods have %v", what, port, have)
	}
}

func (r *refs) monitor(o *unstructured.Unstructured, pods map[string]corev1.PodTemplateSpec) error {
	m, err := as[struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Selector            metav1.LabelSelector
			PodMetricsEndpoints []struct {
				Port, Path, Scheme, Interval string
				Authorization                struct {
					Type        string
					Credentials struct{ Name, Key string }
				}
				TLSConfig struct {
					ServerName string
					CA         struct{ Secret struct{ Name, Key string } }
				}
			}
		}
	}](o)
	if err != nil {
		return err
	}
	for _, e := range m.Spec.PodMetricsEndpoints {
		r.ports("PodMonitor", &m.Spec.Selector, pods, e.Port)
		for _, secret := range []string{e.Authorization.Credentials.Name, e.TLSConfig.CA.Secret.Name} {
			if secret != "" {
				r.secret(secret, false)
			}
		}
		if host := e.TLSConfig.ServerName; host != "" {
			name, rest, _ := strings.Cut(host, ".")
			r.there("Service", strings.TrimSuffix(rest, ".svc"), name)
		}
	}
	return nil
}

// policy: whom a NetworkPolicy is of, and whom and which ports it names.
func (r *refs) policy(p networkingv1.NetworkPolicy, pods map[string]corev1.PodTemplateSpec) error {
	s, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
	if err != nil {
		return err
	}
	var in []string
	for _, rule := range p.Spec.Ingress {
		in = append(in, names(rule.Ports)...)
		r.peers(rule.From, pods, nil)
	}
	r.ports("NetworkPolicy", &p.Spec.PodSelector, pods, in...)
	for _, rule := range p.Spec.Egress {
		r.peers(rule.To, pods, names(rule.Ports))
	}
	if s.Empty() || r.part {
		return nil
	}
	for _, e := range p.Spec.PodSelector.MatchExpressions {
		for _, value := range e.Values {
			r.must(slices.ContainsFunc(slices.Collect(maps.Values(pods)), func(pod corev1.PodTemplateSpec) bool { return pod.Labels[e.Key] == value }),
				"the NetworkPolicy is also of pods with %s=%s, which there are not", e.Key, value)
		}
	}
	return nil
}

// names are the ports that have one.
func names(ports []networkingv1.NetworkPolicyPort) []string {
	var all []string
	for _, p := range ports {
		if p.Port != nil && p.Port.Type == intstr.String {
			all = append(all, p.Port.StrVal)
		}
	}
	return all
}

// peers: pods of the same namespace, and namespaces, of which kube-system is everywhere.
func (r *refs) peers(peers []networkingv1.NetworkPolicyPeer, pods map[string]corev1.PodTemplateSpec, ports []string) {
	for _, peer := range peers {
		if peer.NamespaceSelector == nil && peer.PodSelector != nil {
			r.ports("NetworkPolicy's peer", peer.PodSelector, pods, ports...)
			continue
		}
		if peer.NamespaceSelector != nil {
			if name := peer.NamespaceSelector.MatchLabels[corev1.LabelMetadataName]; name != "kube-system" {
				r.there("Namespace", "", name)
			}
		}
	}
}

// scaling: what an HPA scales, and what makes its metrics.
func (r *refs) scaling(o *unstructured.Unstructured) error {
	if o.GetKind() != "HorizontalPodAutoscaler" {
		return nil
	}
	h, err := as[autoscalingv2.HorizontalPodAutoscaler](o)
	if err != nil {
		return err
	}
	target := r.there(h.Spec.ScaleTargetRef.Kind, r.namespace, h.Spec.ScaleTargetRef.Name)
	if target == nil {
		return nil
	}
	_, fixed, _ := unstructured.NestedFieldNoCopy(target.Object, "spec", "replicas")
	r.must(!fixed, "%s has replicas, which are the HPA's", target.GetName())
	for _, m := range h.Spec.Metrics {
		switch {
		case m.External != nil:
			r.there("ExternalMetric", r.namespace, m.External.Metric.Name)
		case m.Pods != nil:
			r.ruled("pod", m.Pods.Metric.Name)
		case m.Object != nil:
			r.there(m.Object.DescribedObject.Kind, r.namespace, m.Object.DescribedObject.Name)
			r.ruled(strings.ToLower(m.Object.DescribedObject.Kind), m.Object.Metric.Name)
		case m.Resource != nil:
			r.must(requesting(target, m.Resource.Name), "%s does not request %s", target.GetName(), m.Resource.Name)
		}
	}
	return nil
}

// requesting says whether every container of a Deployment requests a resource.
func requesting(target *unstructured.Unstructured, name corev1.ResourceName) bool {
	d, err := as[appsv1.Deployment](target)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(d.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
		_, ok := c.Resources.Requests[name]
		return !ok
	})
}

// ruled: each configuration that is for the world makes the metric.
func (r *refs) ruled(resource, metric string) {
	r.must(len(r.configs) > 0, "no configuration is for this world, and %s is of a rule", metric)
	for _, c := range r.configs {
		r.must(slices.Contains(made(c, resource), metric), "no rule makes %s of a %s: %v", metric, resource, made(c, resource))
	}
}

// made are the metrics of a resource that rules make of the series that they name.
func made(c *config.Config, resource string) []string {
	var all []string
	for _, rule := range c.Rules {
		series, _, _ := strings.Cut(rule.SeriesQuery, "{")
		for _, of := range rule.Resources.Overrides {
			if of.Resource != resource {
				continue
			}
			expression, err := regexp.Compile(cmp.Or(rule.Name.Matches, ".*"))
			if err == nil && expression.MatchString(series) {
				all = append(all, expression.ReplaceAllString(series, rule.Name.As))
			}
		}
	}
	return all
}

// given are roles that are there without anybody's doing.
var given = map[string]bool{"system:auth-delegator": true, "extension-apiserver-authentication-reader": true}

// access: who is given which role, and what a role names.
func (r *refs) access(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "RoleBinding", "ClusterRoleBinding":
		b, err := as[rbacv1.RoleBinding](o) // One of the cluster has the same fields.
		if err != nil {
			return err
		}
		if !given[b.RoleRef.Name] {
			r.there(b.RoleRef.Kind, r.namespace, b.RoleRef.Name)
		}
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.ServiceAccountKind {
				r.there(s.Kind, s.Namespace, s.Name)
			}
		}
	case "Role":
		role, err := as[rbacv1.Role](o)
		if err != nil {
			return err
		}
		for _, rule := range role.Rules {
			for _, name := range rule.ResourceNames {
				if strings.HasPrefix(rule.Resources[0], "deployments") {
					r.there("Deployment", r.namespace, name)
				}
			}
		}
	case "Secret":
		if name := o.GetAnnotations()[corev1.ServiceAccountNameKey]; name != "" {
			r.there("ServiceAccount", r.namespace, name)
		}
	case "ValidatingAdmissionPolicyBinding":
		r.there("ValidatingAdmissionPolicy", "", nested(o, "spec", "policyName"))
	}
	return nil
}

// api: whom the API server asks, and whom it believes.
func (r *refs) api(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "APIService":
		namespace, name := nested(o, "spec", "service", "namespace"), nested(o, "spec", "service", "name")
		port, found, err := unstructured.NestedFieldNoCopy(o.Object, "spec", "service", "port")
		if err != nil {
			return err
		}
		if !found {
			port = 443 // The API's default.
		}
		r.service(namespace, name, fmt.Sprint(port))
		if from := o.GetAnnotations()["cert-manager.io/inject-ca-from"]; from != "" {
			in, certificate, _ := strings.Cut(from, "/")
			r.there("Certificate", in, certificate)
		}
	case "Certificate":
		r.there("Issuer", r.namespace, nested(o, "spec", "issuerRef", "name"))
	case "Issuer":
		if name := nested(o, "spec", "ca", "secretName"); name != "" {
			r.secret(name, false)
		}
	}
	return nil
}

// service: one with such a port, by name or by number.
func (r *refs) service(namespace, name, port string) {
	o := r.there("Service", namespace, name)
	if o == nil {
		return
	}
	s, err := as[corev1.Service](o)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	r.must(slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == port || strconv.Itoa(int(p.Port)) == port }),
		"the Service %s has no port %s", name, port)
}

// reference is how the kinds of the Gateway API, of the load balancer controller and of Flux name
// others. Numbers are read as they are written.
type reference struct {
	Kind, Name, Namespace, SectionName string
	Port                               any
}

// gateway: the way from a load balancer to a Service.
func (r *refs) gateway(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "Ingress":
		i, err := as[networkingv1.Ingress](o)
		if err != nil {
			return err
		}
		for _, rule := range i.Spec.Rules {
			for _, p := range rule.HTTP.Paths {
				r.service(r.namespace, p.Backend.Service.Name, cmp.Or(p.Backend.Service.Port.Name, strconv.Itoa(int(p.Backend.Service.Port.Number))))
			}
		}
	case "Gateway":
		r.there("GatewayClass", "", nested(o, "spec", "gatewayClassName"))
		r.there(nested(o, "spec", "infrastructure", "parametersRef", "kind"), r.namespace, nested(o, "spec", "infrastructure", "parametersRef", "name"))
	case "LoadBalancerConfiguration":
		if name := nested(o, "spec", "defaultTargetGroupConfiguration", "name"); name != "" {
			r.there("TargetGroupConfiguration", r.namespace, name)
		}
	case "TargetGroupConfiguration":
		if name := nested(o, "spec", "targetReference", "name"); name != "" {
			r.there("Service", r.namespace, name)
		}
	case "HTTPRoute":
		return r.route(o)
	}
	return nil
}

func (r *refs) route(o *unstructured.Unstructured) error {
	var route struct {
		Spec struct {
			ParentRefs []reference
			Rules      []struct{ BackendRefs []reference }
		}
	}
	if err := loose(o, &route); err != nil {
		return err
	}
	for _, parent := range route.Spec.ParentRefs {
		gateway := r.there("Gateway", cmp.Or(parent.Namespace, r.namespace), parent.Name)
		if gateway == nil {
			continue
		}
		var g struct {
			Spec struct{ Listeners []struct{ Name string } }
		}
		if err := loose(gateway, &g); err != nil {
			return err
		}
		r.must(slices.ContainsFunc(g.Spec.Listeners, func(l struct{ Name string }) bool { return l.Name == parent.SectionName }),
			"the Gateway %s has no listener %s", parent.Name, parent.SectionName)
	}
	for _, rule := range route.Spec.Rules {
		for _, b := range rule.BackendRefs {
			r.service(r.namespace, b.Name, fmt.Sprint(b.Port))
		}
	}
	return nil
}

// loose reads a part of an object.
func loose(o *unstructured.Unstructured, into any) error {
	text, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

// platform: what Karpenter and Flux name.
func (r *refs) platform(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "NodePool":
		r.there(nested(o, "spec", "template", "spec", "nodeClassRef", "kind"), "", nested(o, "spec", "template", "spec", "nodeClassRef", "name"))
	case "HelmRelease":
		for _, at := range [][]string{{"spec", "chartRef"}, {"spec", "chart", "spec", "sourceRef"}} {
			if kind := nested(o, append(slices.Clone(at), "kind")...); kind != "" {
				r.there(kind, r.namespace, nested(o, append(slices.Clone(at), "name")...))
			}
		}
	case "Kustomization":
		var k struct {
			Spec struct{ DependsOn, HealthChecks []reference }
		}
		if err := loose(o, &k); err != nil {
			return err
		}
		for _, d := range k.Spec.DependsOn {
			r.there("Kustomization", r.namespace, d.Name)
		}
		for _, h := range k.Spec.HealthChecks {
			r.there(h.Kind, h.Namespace, h.Name)
		}
	}
	return nil
}

// TestReferencesFind breaks a reference of each kind, and shows that it is found.
func TestReferencesFind(t *testing.T) {
	all := worlds(t)
	for _, test := range []struct{ world, old, new, want string }{
		{"orders after", `"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"}`, `"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"www"}`, "there is no Deployment www"},
		{"orders after", `"metric":{"name":"orders-queue-depth"}`, `"metric":{"name":"orders-depth"}`, "there is no ExternalMetric orders-depth"},
		{"orders after", `"metric":{"name":"http_requests_per_second"}`, `"metric":{"name":"http_requests"}`, "no rule makes http_requests of a pod"},
		{"orders after", `"serviceAccountName":"worker"`, `"serviceAccountName":"work"`, "there is no ServiceAccount work"},
		{"orders after", `"targetPort":"http"`, `"targetPort":"https"`, "leads to the port https"},
		{"orders after", `"selector":{"app":"web"}`, `"selector":{"app":"www"}`, "the Service selects no pods: app=www"},
		{"orders after", `"path":"/drain","port":"admin"`, `"path":"/drain","port":"drain"`, "preStop goes to the port drain"},
		{"orders after", `"prometheus.io/port":"9797"`, `"prometheus.io/port":"9090"`, "Prometheus is led to the port 9090"},
		{"orders after", `"ports":[{"port":"admin"}]`, `"ports":[{"port":"metrics"}]`, "leads to the port metrics"},
		{"orders after", `"kubernetes.io/metadata.name":"monitoring"`, `"kubernetes.io/metadata.name":"prometheus"`, "there is no Namespace prometheus"},
		{"orders after", `"resourceNames":["web","loader"]`, `"resourceNames":["web","load"]`, "there is no Deployment load"},
		{"orders after", `"gatewayClassName":"alb"`, `"gatewayClassName":"nlb"`, "there is no GatewayClass nlb"},
		{"orders after", `"sectionName":"https"`, `"sectionName":"tls"`, "has no listener tls"},
		{"orders after", `"backendRefs":[{"name":"web","port":80}]`, `"backendRefs":[{"name":"web","port":8080}]`, "has no port 8080"},
		{"orders after with podmonitor", `"podMetricsEndpoints":[{"interval":"15s","path":"/metrics","port":"admin"}]`, `"podMetricsEndpoints":[{"interval":"15s","path":"/metrics","port":"http-admin"}]`, "the PodMonitor leads to the port http-admin"},
		{"install", `"issuerRef":{"name":"tidegauge-ca"}`, `"issuerRef":{"name":"ca"}`, "there is no Issuer ca"},
		{"install", `"secretName":"tidegauge-tls"`, `"secretName":"tls"`, "there is no Secret"},
		{"install", `"policyName":"externalmetric-ignored-fields.tidegauge.dev"`, `"policyName":"ignored"`, "there is no ValidatingAdmissionPolicy ignored"},
		{"deploy/hpa/service.yaml", `"name":"service_requests_per_second"`, `"name":"service_requests"`, "no rule makes service_requests of a service"},
		{"nodes", `"kind":"EC2NodeClass","name":"general"}`, `"kind":"EC2NodeClass","name":"special"}`, "there is no EC2NodeClass special"},
		{"nodes", `"priorityClassName":"headroom"`, `"priorityClassName":"low"`, "there is no PriorityClass low"},
		{"Flux", `"dependsOn":[{"name":"prometheus"}]`, `"dependsOn":[{"name":"metrics"}]`, "there is no Kustomization metrics"},
		{"Flux", `"chartRef":{"kind":"OCIRepository","name":"tidegauge"}`, `"chartRef":{"kind":"OCIRepository","name":"chart"}`, "there is no OCIRepository chart"},
		{"review app", `"defaultTargetGroupConfiguration":{"name":"review-apps"}`, `"defaultTargetGroupConfiguration":{"name":"apps"}`, "there is no TargetGroupConfiguration apps"},
	} {
		if err := broken(t, all[test.world], test.old, test.new); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %s: %v, want %q", test.world, test.new, err, test.want)
		}
	}
}

// broken follows the references of a world in which a text is another one, once.
func broken(t *testing.T, w world, old, replacement string) error {
	t.Helper()
	done := false
	changed := world{configs: w.configs, part: w.part}
	for _, o := range w.objects {
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if !done && strings.Contains(string(text), old) {
			done = true
			o = parse(t, strings.Replace(string(text), old, replacement, 1))[0]
		}
		changed.objects = append(changed.objects, o)
	}
	if !done {
		t.Fatalf("nothing has %s", old)
	}
	var errs []error
	for _, o := range changed.objects {
		_, err := changed.follow(o)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// found are the first groups of an expression in the files that patterns match.
func found(t *testing.T, expression string, patterns ...string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, pattern := range patterns {
		for _, file := range repo.Glob(t, pattern) {
			for _, match := range regexp.MustCompile(expression).FindAllStringSubmatch(repo.Text(t, file), -1) {
				all[match[1]] = true
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("no file of %v has %s", patterns, expression)
	}
	return all
}

// TestReferencesToQueues shows that whoever names a queue of the demo means one that both roads
// make: manifests, rights, dashboard.
func TestReferencesToQueues(t *testing.T) {
	const cluster = "deploy/cluster/"
	made := found(t, `(?m)^      QueueName: (\S+)$`, cluster+"cloudformation/orders.yaml")
	if other := found(t, `queueName: '([^']+)'`, cluster+"cdk/lib/orders.ts"); !maps.Equal(made, other) {
		t.Errorf("CloudFormation makes %v, CDK makes %v", made, other)
	}
	for what, names := range map[string]map[string]bool{
		"rights":    found(t, `arn:aws:sqs:[a-z0-9-]+:\d+:(\S+)`, cluster+"eksctl/*.yaml"),
		"metrics":   found(t, `(?s)name: QueueName\s+value: (\S+)`, "deploy/demo/base/*.yaml"),
		"arguments": found(t, `--queue=(\S+)`, "deploy/demo/base/*.yaml"),
		"variables": found(t, `ORDERS_[A-Z_]*QUEUE=(\S+)`, "deploy/demo/base/kustomization.yaml"),
		"dashboard": found(t, `"QueueName", "([^"]+)"`, "deploy/monitoring/cloudwatch-dashboard.json"),
		"example":   found(t, `(?s)name: QueueName\s+value: (\S+)`, "deploy/hpa/queue.yaml"),
	} {
		for name := range names {
			if !made[name] {
				t.Errorf("%s: nothing makes the queue %s", what, name)
			}
		}
	}
	// The other demo's queue is its user's; its worker and its metric are of the same.
	if worker, metric := found(t, `(?s)name: QUEUE_NAME\s+value: (\S+)`, "deploy/demo/queue/2-worker.yaml"), found(t, `(?s)name: QueueName\s+value: (\S+)`, "deploy/demo/queue/3-metric.yaml"); !maps.Equal(worker, metric) {
		t.Errorf("the worker takes from %v, and is scaled by %v", worker, metric)
	}
}

// TestReferencesToAccounts shows that each role is given to a ServiceAccount that is there, that
// both roads give the same, and that each ServiceAccount which wants a role is named alike.
func TestReferencesToAccounts(t *testing.T) {
	there := map[string]bool{}
	for _, name := range []string{"orders after", "install"} {
		for _, o := range worlds(t)[name].of("ServiceAccount") {
			there[o.GetNamespace()+"/"+o.GetName()] = true
		}
	}
	// Of charts of others, whose values or arguments name them.
	for file, expression := range map[string]string{
		"deploy/cluster/nodes/cluster-autoscaler/values.yaml": `(?s)serviceAccount:\s+create: true\s+name: (\S+)`,
		"deploy/cluster/nodes/karpenter/values.yaml":          `(?s)serviceAccount:\s+create: true\s+name: (\S+)`,
		"docs/clusters.md": `serviceAccount\.name=([a-z-]+)`,
	} {
		for name := range found(t, expression, file) {
			there["kube-system/"+name] = true
		}
	}
	roads := map[string]map[string]bool{}
	for road, where := range map[string]struct{ file, expression string }{
		"eksctl hpa":     {"deploy/cluster/eksctl/hpa.yaml", `(?m)^  - namespace: (\S+)\n    serviceAccountName: (\S+)$`},
		"eksctl load":    {"deploy/cluster/eksctl/load.yaml", `(?m)^  - namespace: (\S+)\n    serviceAccountName: (\S+)$`},
		"eksctl review":  {"deploy/cluster/eksctl/review.yaml", `(?m)^  - namespace: (\S+)\n    serviceAccountName: (\S+)$`},
		"CDK":            {"deploy/cluster/cdk/lib/identities.ts", `this\.add\('([^']+)', '([^']+)'`},
		"CloudFormation": {"deploy/cluster/cloudformation/karpenter.yaml", `(?m)^      Namespace: (\S+)\n      ServiceAccount: (\S+)$`},
		"Pod Identity":   {"deploy/iam/trust-pod-identity.json", `(?s)kubernetes-namespace": "([^"]+)".*?kubernetes-service-account": "([^"]+)"`},
		"IRSA":           {"deploy/iam/trust-irsa.json", `system:serviceaccount:([^:"]+):([^:"]+)`},
	} {
		roads[road] = map[string]bool{}
		for _, match := range regexp.MustCompile(where.expression).FindAllStringSubmatch(repo.Text(t, where.file), -1) {
			roads[road][match[1]+"/"+match[2]] = true
		}
		if len(roads[road]) == 0 {
			t.Errorf("%s gives no roles", road)
		}
		for account := range roads[road] {
			if !there[account] {
				t.Errorf("%s gives a role to %s, which nothing has", road, account)
			}
		}
	}
	for _, road := range []string{"eksctl load", "CDK"} {
		if !maps.Equal(roads[road], roads["eksctl hpa"]) {
			t.Errorf("%s gives roles to %v, and eksctl's HPA cluster to %v", road, roads[road], roads["eksctl hpa"])
		}
	}
	for account := range there {
		name, ok := strings.CutPrefix(account, "orders/")
		if !ok {
			continue
		}
		if !roads["eksctl hpa"][account] {
			t.Errorf("%s gets no role", account)
		}
		if role := found(t, `role-arn: arn:aws:iam::\d+:role/(\S+)`, "deploy/demo/base/"+name+".yaml"); !maps.Equal(role, map[string]bool{"orders-" + name: true}) {
			t.Errorf("%s is to have the role %v", account, role)
		}
	}
}

// TestReferencesToSeries shows that the demo's programs count what the rules ask, as far as it is
// not others' to count.
func TestReferencesToSeries(t *testing.T) {
	const others = "container_cpu_usage_seconds_total container_memory_working_set_bytes envoy_cluster_upstream_rq"
	counted := found(t, `Name:\s+"([a-z_]+)"`, "deploy/demo/orders/internal/*/*.go")
	_, values := exampleConfig(t)
	for _, c := range []*config.Config{values, fluxConfig(t), configOf(t, repo.Text(t, "deploy/demo/prometheus/adapter.yaml")), configOf(t, repo.Text(t, "deploy/kustomize/example/config.yaml"))} {
		for _, rule := range slices.Concat(c.Rules, c.ExternalRules) {
			series, _, _ := strings.Cut(rule.SeriesQuery, "{")
			if !counted[series] && !slices.Contains(strings.Fields(others), series) {
				t.Errorf("nobody counts %s", series)
			}
		}
	}
}
