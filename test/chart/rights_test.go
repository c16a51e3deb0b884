package chart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/env"
)

// measured are the resources that the rule of TestRights makes metrics of, by their label.
var measured = map[string]metav1.GroupResource{
	"pod":              {Resource: "pods"},
	"service":          {Resource: "services"},
	"node":             {Resource: "nodes"},
	"persistentvolume": {Resource: "persistentvolumes"},
	"ingress":          {Group: "networking.k8s.io", Resource: "ingresses"},
	"deployment":       {Group: "apps", Resource: "deployments"},
	"statefulset":      {Group: "apps", Resource: "statefulsets"},
	"replicaset":       {Group: "apps", Resource: "replicasets"},
	"daemonset":        {Group: "apps", Resource: "daemonsets"},
	"job":              {Group: "batch", Resource: "jobs"},
	"cronjob":          {Group: "batch", Resource: "cronjobs"},
}

// TestRights runs the adapter with the chart's rights but for some, and sees it miss each of
// them. Nothing is missed when it has all. TestBindings has those of the bindings.
func TestRights(t *testing.T) {
	c := bed.Cluster(t)
	port := freePort(t)
	h := newHelm(t, "helm").on(c)
	installed(t, h, "--values", measuringValues(t, startMeasures(t)), "--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=0", port, port))
	route(t, c)
	if _, err := c.Kubectl(t.Context(), demand, "apply", "-n", namespace, "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.WithoutCancel(t.Context()), demand, "delete", "-n", namespace, "-f", "-"); err != nil {
			t.Error(err)
		}
	})

	watched := []string{"externalmetrics", "horizontalpodautoscalers", "namespaces"}
	for _, r := range measured {
		watched = append(watched, r.Resource)
	}
	tests := []struct {
		name  string
		taken []right
		// missed are the rights that are complained of, if those are not all that were taken.
		missed []right
		// provoke has the adapter do what takes the rights, if it does not by itself.
		provoke func(context.Context, *env.Cluster) error
	}{
		{name: "nothing"},
		{name: "watch", taken: each("watch", watched)},
		// Whoever may watch does not list, on API servers that begin a watch with what is there.
		{name: "list", taken: append(each("list", watched), each("watch", watched)...), missed: each("list", watched)},
		{name: "create the lease", taken: []right{{"create", "leases"}, {"get", "pods"}}},
		{name: "get the lease", taken: []right{{"get", "leases"}, {"patch", "pods/status"}}},
		{name: "update the lease", taken: []right{{"update", "leases"}}},
		{name: "patch the status of objects", taken: []right{{"patch", "externalmetrics/status"}}},
		{name: "create Events", taken: []right{{"create", "events"}}},
		{name: "patch Events", taken: []right{{"patch", "events"}}, provoke: repeat},
	}
	granted, tried := grantedRights(t, c), map[right]bool{}
	for _, test := range tests {
		for _, r := range test.taken {
			tried[r] = true
			if !slices.Contains(granted, r) {
				t.Errorf("the adapter may not %s %s anyway", r.verb, r.resource)
			}
		}
	}
	for _, r := range granted {
		if !tried[r] {
			t.Errorf("no case takes away the right to %s %s: is it needed?", r.verb, r.resource)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			afresh(t, c)
			restore := takeAway(t, c, test.taken)
			defer restore()
			a := startAdapter(t, c, port)
			missed := test.missed
			if missed == nil {
				missed = test.taken
			}
			eventually(t, func(ctx context.Context) error {
				if len(missed) == 0 {
					return a.missesNothing(ctx, c)
				}
				if test.provoke == nil {
					return misses(a.said(ctx, c), missed)
				}
				if err := test.provoke(ctx, c); err != nil {
					return err
				}
				return misses(a.plain(), missed)
			})
			a.stop(t)
		})
	}
}

// grantedRights are all rights that the release's Role and ClusterRole give to the adapter.
func grantedRights(t *testing.T, c *env.Cluster) []right {
	t.Helper()
	clusterRole, err := c.Client().RbacV1().ClusterRoles().Get(t.Context(), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role, err := c.Client().RbacV1().Roles(namespace).Get(t.Context(), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var rights []right
	for _, rule := range slices.Concat(clusterRole.Rules, role.Rules) {
		for _, verb := range rule.Verbs {
			rights = append(rights, each(verb, rule.Resources)...)
		}
	}
	return rights
}

// repeat breaks the ExternalMetric in another way as soon as its status has the last one, so
// that Events repeat: those are patched.
func repeat(ctx context.Context, c *env.Cluster) error {
	reason, err := c.Kubectl(ctx, "", "-n", namespace, "get", "em", "depth", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].reason}`)
	if err != nil {
		return err
	}
	annotation := "tidegauge.dev/no-data=nonsense"
	switch reason {
	case "":
		return nil
	case "Invalid":
		annotation = "tidegauge.dev/no-data-"
	}
	_, err = c.Kubectl(ctx, "", "-n", namespace, "annotate", "--overwrite", "em", "depth", annotation)
	return err
}

// TestBindings shows what becomes of an adapter that may not ask who a caller is and what
// the caller may read, or not whom to believe.
func TestBindings(t *testing.T) {
	c := bed.Cluster(t)
	port := freePort(t)
	installed(t, newHelm(t, "helm").on(c), "--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=0", port, port))
	route(t, c)
	config, err := c.UserConfig("somebody")
	if err != nil {
		t.Fatal(err)
	}
	somebody, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	rbac := c.Client().RbacV1()
	tests := []struct {
		name, resource string
		remove         func() error
	}{
		{"auth-delegator", "subjectaccessreviews", func() error {
			return rbac.ClusterRoleBindings().Delete(t.Context(), release+":system:auth-delegator", metav1.DeleteOptions{})
		}},
		{"authentication reader", "configmaps", func() error {
			return rbac.RoleBindings("kube-system").Delete(t.Context(), release+":extension-apiserver-authentication-reader", metav1.DeleteOptions{})
		}},
	}
	// Besides these it is bound to its own ClusterRole and to its own Role.
	bound, err := c.Kubectl(t.Context(), "", "get", "clusterrolebindings,rolebindings", "-A", "-l", "app.kubernetes.io/instance="+release, "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(bound); len(got) != len(tests)+2 {
		t.Errorf("the release has the bindings %v: is there one that no case takes away?", got)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.remove(); err != nil {
				t.Fatal(err)
			}
			a := launch(t, c)
			eventually(t, func(ctx context.Context) error {
				answer := somebody.Discovery().RESTClient().Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces/default/nothing").Do(ctx).Error()
				if text := a.plain(); !strings.Contains(text, fmt.Sprintf("resource %q", test.resource)) {
					return fmt.Errorf("nobody misses the right; the answer is %w, and the log\n%s", answer, text)
				}
				return nil
			})
		})
	}
}

// TestEditors shows who may make metrics: by default nobody whom nobody lets, and with
// rbac.aggregateToEdit who may edit or administer a namespace, in that namespace.
func TestEditors(t *testing.T) {
	c := bed.Cluster(t)
	h := newHelm(t, "helm").on(c)
	installed(t, h)
	roles := []string{"view", "edit", "admin", release + "-externalmetrics-editor"}
	for _, role := range roles {
		bind(t, c, role)
	}
	eventually(t, func(ctx context.Context) error { return editors(ctx, c, roles, release+"-externalmetrics-editor") })
	h.run(t, "upgrade", release, chartDir(t), "--set", "rbac.aggregateToEdit=true")
	eventually(t, func(ctx context.Context) error {
		return editors(ctx, c, roles, "edit", "admin", release+"-externalmetrics-editor")
	})
}

// bind gives a ClusterRole to a user of its name in the namespace of the release.
func bind(t *testing.T, c *env.Cluster, role string) {
	t.Helper()
	bindings := c.Client().RbacV1().RoleBindings(namespace)
	_, err := bindings.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: role, APIGroup: rbacv1.GroupName}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if err := bindings.Delete(ctx, role, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// editors returns nil if of the users those may write ExternalMetrics in the namespace, and
// nobody their status or those of another namespace.
func editors(ctx context.Context, c *env.Cluster, users []string, want ...string) error {
	for _, user := range users {
		for _, of := range []struct {
			namespace, subresource string
			verbs                  []string
			want                   bool
		}{
			{namespace, "", []string{"create", "update", "patch", "delete"}, slices.Contains(want, user)},
			{namespace, "", []string{"deletecollection"}, false},
			{namespace, "status", []string{"update", "patch"}, false},
			{metav1.NamespaceDefault, "", []string{"create", "update", "patch", "delete"}, false},
		} {
			for _, verb := range of.verbs {
				attributes := &authorizationv1.ResourceAttributes{
					Namespace: of.namespace, Group: "metrics.aws", Resource: "externalmetrics", Subresource: of.subresource, Verb: verb,
				}
				review, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
					Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes},
				}, metav1.CreateOptions{})
				if err != nil {
					return err
				}
				if review.Status.Allowed != of.want {
					return fmt.Errorf("%s: allowed is %t, want %t, of %+v", user, review.Status.Allowed, of.want, attributes)
				}
			}
		}
	}
	return nil
}

// afresh takes away what adapters that ran before have written: their Lease, the conditions
// of their pod and their Events.
func afresh(t *testing.T, c *env.Cluster) {
	t.Helper()
	_, err := c.Kubectl(t.Context(), "", "-n", namespace, "delete", "--ignore-not-found", "lease/tidegauge")
	if err == nil {
		_, err = c.Kubectl(t.Context(), "", "-n", namespace, "delete", "pods", "--all", "--wait=false")
	}
	if err == nil {
		// In one call: kubectl deletes one by one, and the other tests leave hundreds.
		err = c.Client().EventsV1().Events(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// right is a verb of a resource.
type right struct{ verb, resource string }

func each(verb string, resources []string) []right {
	rights := make([]right, len(resources))
	for i, r := range resources {
		rights[i] = right{verb, r}
	}
	return rights
}

// takeAway takes rights out of the release's Role and ClusterRole, and returns what gives
// them back.
func takeAway(t *testing.T, c *env.Cluster, taken []right) func() {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	rbac := c.Client().RbacV1()
	clusterRole, err := rbac.ClusterRoles().Get(ctx, release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role, err := rbac.Roles(namespace).Get(ctx, release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	update := func(cluster, own []rbacv1.PolicyRule) {
		clusterRole.Rules, role.Rules = cluster, own
		clusterRole.ResourceVersion, role.ResourceVersion = "", ""
		if _, err := rbac.ClusterRoles().Update(ctx, clusterRole, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := rbac.Roles(namespace).Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	had, hadOwn := clusterRole.Rules, role.Rules
	update(without(had, taken), without(hadOwn, taken))
	for _, rule := range slices.Concat(had, hadOwn) {
		for _, r := range taken {
			if slices.Contains(rule.Resources, r.resource) && slices.Contains(rule.Verbs, r.verb) {
				eventually(t, func(ctx context.Context) error { return mayNot(ctx, c, r, rule.APIGroups[0]) })
			}
		}
	}
	return func() { update(had, hadOwn) }
}

// mayNot returns nil once the API server refuses a right to the adapter.
func mayNot(ctx context.Context, c *env.Cluster, r right, group string) error {
	resource, subresource, _ := strings.Cut(r.resource, "/")
	review, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + namespace + ":" + release,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Group: group, Resource: resource, Subresource: subresource, Verb: r.verb,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if review.Status.Allowed {
		return fmt.Errorf("the adapter may still %s %s", r.verb, r.resource)
	}
	return nil
}

// without are the rules without the rights that were taken.
func without(rules []rbacv1.PolicyRule, taken []right) []rbacv1.PolicyRule {
	var kept []rbacv1.PolicyRule
	for _, rule := range rules {
		for _, resource := range rule.Resources {
			one := *rule.DeepCopy()
			one.Resources = []string{resource}
			one.Verbs = slices.DeleteFunc(one.Verbs, func(verb string) bool { return slices.Contains(taken, right{verb, resource}) })
			if len(one.Verbs) > 0 {
				kept = append(kept, one)
			}
		}
	}
	return kept
}

// misses returns nil if the adapter has complained of every right that is missing.
func misses(said string, rights []right) error {
	var silent []string
	for _, r := range rights {
		if !strings.Contains(said, fmt.Sprintf("cannot %s resource %q", r.verb, r.resource)) {
			silent = append(silent, r.verb+" "+r.resource)
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("nobody misses the right to %s; they say\n%s", strings.Join(silent, ", "), said[max(0, len(said)-3000):])
	}
	return nil
}

// missesNothing returns nil once everything that takes a right was done.
func (p *process) missesNothing(ctx context.Context, c *env.Cluster) error {
	said := p.said(ctx, c)
	if strings.Contains(said, "cannot ") || strings.Contains(said, "forbidden") {
		return errors.New(said)
	}
	if err := configurationLoaded(ctx, c, p.pod); err != nil {
		return err
	}
	if _, err := c.Client().CoordinationV1().Leases(namespace).Get(ctx, "tidegauge", metav1.GetOptions{}); err != nil {
		return err
	}
	status, err := c.Kubectl(ctx, "", "-n", namespace, "get", "em", "depth", "-o", "jsonpath={.status.conditions}")
	if err != nil {
		return err
	}
	if status == "" {
		return errors.New("the ExternalMetric has no conditions yet")
	}
	return nil
}

// said is the log, and how each metric is answered that is not read without fault.
func (p *process) said(ctx context.Context, c *env.Cluster) string {
	said := []string{p.plain()}
	for _, r := range measured {
		path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + namespace + "/"
		if r.Resource == "nodes" || r.Resource == "persistentvolumes" {
			path = "/apis/custom.metrics.k8s.io/v1beta2/"
		}
		path += strings.TrimSuffix(r.Resource+"."+r.Group, ".") + "/*/demo"
		if err := c.Client().Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error(); err != nil {
			said = append(said, path+": "+err.Error())
		}
	}
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/*/metrics/demo"
	if err := c.Client().Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error(); err != nil {
		said = append(said, path+": "+err.Error())
	}
	return strings.Join(said, "\n")
}

// plain is the log without the marks that quote quotes in it.
func (p *process) plain() string { return strings.ReplaceAll(p.logs(), `\"`, `"`) }

// startMeasures starts a Prometheus with one series that has every label, and returns its URL.
func startMeasures(t *testing.T) string {
	t.Helper()
	labels := map[string]string{"__name__": "demo", "namespace": namespace}
	for label := range measured {
		labels[label] = "demo"
	}
	answer := func(w http.ResponseWriter, data any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data}); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/series", func(w http.ResponseWriter, _ *http.Request) { answer(w, []any{labels}) })
	mux.HandleFunc("/api/v1/query", func(w http.ResponseWriter, _ *http.Request) {
		sample := map[string]any{"metric": labels, "value": []any{float64(time.Now().Unix()), "1"}}
		answer(w, map[string]any{"resultType": "vector", "result": []any{sample}})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// measuringValues is a file with a rule of all measured resources.
func measuringValues(t *testing.T, url string) string {
	t.Helper()
	overrides := map[string]any{"namespace": map[string]string{"resource": "namespace"}}
	for label, r := range measured {
		overrides[label] = map[string]string{"group": r.Group, "resource": r.Resource}
	}
	text, err := json.Marshal(map[string]any{
		"prometheus": map[string]any{"url": url},
		"rules": map[string]any{"default": false, "custom": []any{map[string]any{
			"seriesQuery":  "demo",
			"resources":    map[string]any{"overrides": overrides},
			"metricsQuery": "sum(demo{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "values.yaml")
	write(t, path, string(text))
	return path
}

// demand is an ExternalMetric, which nobody can read without an identity at AWS, and an HPA
// that names it.
const demand = metric + `---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: depth}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: worker}
  maxReplicas: 2
  metrics:
  - type: External
    external: {metric: {name: depth}, target: {type: AverageValue, averageValue: "10"}}
`
