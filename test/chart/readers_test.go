package chart

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
)

// grant is one verb of one resource, or of one path, in one of the ClusterRoles for people.
type grant struct{ role, verb, resource string }

// rule is the grant alone.
func (g grant) rule() rbacv1.PolicyRule {
	if strings.HasPrefix(g.resource, "/") {
		return rbacv1.PolicyRule{Verbs: []string{g.verb}, NonResourceURLs: []string{g.resource}}
	}
	resource, group, _ := strings.Cut(g.resource, ".")
	return rbacv1.PolicyRule{Verbs: []string{g.verb}, Resources: []string{resource}, APIGroups: []string{group}}
}

// request is what somebody does with a grant.
type request struct{ method, path, body string }

func (r request) do(ctx context.Context, client rest.Interface) error {
	path, query, _ := strings.Cut(r.path, "?")
	req := client.Verb(r.method).AbsPath(path)
	if query != "" {
		key, value, _ := strings.Cut(query, "=")
		req.Param(key, value)
	}
	if r.body != "" {
		kind := "application/json"
		if r.method == http.MethodPatch {
			kind = "application/merge-patch+json"
		}
		req.SetHeader("Content-Type", kind).Body([]byte(r.body))
	}
	return req.Do(ctx).Error()
}

const (
	objectsPath = "/apis/metrics.aws/v1alpha1/namespaces/" + namespace + "/externalmetrics"
	customPath  = "/apis/custom.metrics.k8s.io/v1beta2/"
	usagePath   = "/apis/metrics.k8s.io/v1beta1/"
	newMetric   = `{"apiVersion":"metrics.aws/v1alpha1","kind":"ExternalMetric","metadata":{"name":"new"},"spec":{"queries":[{"id":"a","expression":"1","period":60}]}}`
)

// uses are what each grant is for. What a request takes, no other may do.
var uses = map[grant][]request{
	{"metrics-reader", "get", "externalmetrics.metrics.aws"}:   {{"GET", objectsPath + "/new", ""}},
	{"metrics-reader", "list", "externalmetrics.metrics.aws"}:  {{"GET", objectsPath, ""}},
	{"metrics-reader", "watch", "externalmetrics.metrics.aws"}: {{"GET", "/apis/metrics.aws/v1alpha1/watch/namespaces/" + namespace + "/externalmetrics?timeoutSeconds=1", ""}},
	{"metrics-reader", "list", "*.external.metrics.k8s.io"}:    {{"GET", "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + namespace + "/demo", ""}},
	{"metrics-reader", "get", "*.custom.metrics.k8s.io"}: {
		{"GET", customPath + "namespaces/" + namespace + "/services/demo/demo", ""},
		{"GET", customPath + "namespaces/" + namespace + "/services/*/demo", ""},
		{"GET", customPath + "namespaces/" + namespace + "/metrics/demo", ""},
		{"GET", customPath + "nodes/*/demo", ""},
		{"GET", "/apis/custom.metrics.k8s.io/v1beta1/namespaces/" + namespace + "/services/*/demo", ""},
	},
	{"metrics-reader", "get", "pods.metrics.k8s.io"}:                    {{"GET", usagePath + "namespaces/" + namespace + "/pods/demo", ""}},
	{"metrics-reader", "list", "pods.metrics.k8s.io"}:                   {{"GET", usagePath + "namespaces/" + namespace + "/pods", ""}},
	{"metrics-reader", "get", "nodes.metrics.k8s.io"}:                   {{"GET", usagePath + "nodes/demo", ""}},
	{"metrics-reader", "list", "nodes.metrics.k8s.io"}:                  {{"GET", usagePath + "nodes", ""}},
	{"externalmetrics-editor", "create", "externalmetrics.metrics.aws"}: {{"POST", objectsPath + "?dryRun=All", newMetric}},
	{"externalmetrics-editor", "update", "externalmetrics.metrics.aws"}: {{"PUT", objectsPath + "/new?dryRun=All", newMetric}},
	{"externalmetrics-editor", "patch", "externalmetrics.metrics.aws"}:  {{"PATCH", objectsPath + "/new?dryRun=All", `{}`}},
	{"externalmetrics-editor", "delete", "externalmetrics.metrics.aws"}: {{"DELETE", objectsPath + "/new?dryRun=All", ""}},
	{"scraper", "get", "/metrics"}:                                      {{"GET", "/metrics", ""}},
}

// TestGrants shows of the ClusterRoles for people, and for whoever scrapes, that each right in
// them is good for something that no other right is good for.
func TestGrants(t *testing.T) {
	c := bed.Cluster(t)
	port := freePort(t)
	installed(t, newHelm(t, "helm").on(c), "--values", readersValues(t, startMeasures(t)), "--set", "podMonitor.enabled=true",
		"--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=0", port, port))
	a := startAdapter(t, c, port)
	route(t, c)
	for _, api := range ownAPIs(t, c) {
		eventually(t, func(ctx context.Context) error { return a.available(ctx, c, api) })
	}

	granted := peoplesGrants(t, c)
	for _, g := range granted {
		if len(uses[g]) == 0 {
			t.Errorf("%s-%s may %s %s: what for?", release, g.role, g.verb, g.resource)
		}
	}
	for _, g := range slices.SortedFunc(maps.Keys(uses), func(a, b grant) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) {
		t.Run(strings.ReplaceAll(fmt.Sprintf("%s %s %s", g.role, g.verb, g.resource), "/", ""), func(t *testing.T) {
			if !slices.Contains(granted, g) {
				t.Fatalf("%s-%s does not have it", release, g.role)
			}
			user := fmt.Sprintf("only-%d", slices.Index(granted, g))
			only(t, c, user, g)
			client, direct := clientOf(t, c, user), directClient(t, c, user, port)
			of := func(g grant) rest.Interface {
				if g.role == "scraper" {
					return direct
				}
				return client
			}
			for _, r := range uses[g] {
				// A right that was just given takes a moment to be known.
				eventually(t, func(ctx context.Context) error {
					if err := r.do(ctx, of(g)); apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsMethodNotSupported(err) {
						return fmt.Errorf("%s %s: %w", r.method, r.path, err)
					}
					return nil
				})
			}
			for other, requests := range uses {
				for _, r := range requests {
					if other == g {
						continue
					}
					if err := r.do(t.Context(), of(other)); !apierrors.IsForbidden(err) {
						t.Errorf("with it somebody may %s %s, too (%v), which is to take %v", r.method, r.path, err, other)
					}
				}
			}
		})
	}
}

// peoplesGrants are those of the ClusterRoles of the release that are not the adapter's own.
func peoplesGrants(t *testing.T, c *env.Cluster) []grant {
	t.Helper()
	roles, err := c.Client().RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
	if err != nil {
		t.Fatal(err)
	}
	var grants []grant
	for _, role := range roles.Items {
		name, peoples := strings.CutPrefix(role.Name, release+"-")
		if !peoples {
			continue
		}
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				for _, resource := range rule.Resources {
					grants = append(grants, grant{name, verb, resource + "." + rule.APIGroups[0]})
				}
				for _, path := range rule.NonResourceURLs {
					grants = append(grants, grant{name, verb, path})
				}
			}
		}
	}
	return grants
}

// only gives a user a right, and no other, until the test ends.
func only(t *testing.T, c *env.Cluster, user string, g grant) {
	t.Helper()
	rbac, meta := c.Client().RbacV1(), metav1.ObjectMeta{Name: user}
	if _, err := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{g.rule()}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user, APIGroup: rbacv1.GroupName}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "clusterrole/"+user, "clusterrolebinding/"+user); err != nil {
			t.Error(err)
		}
	})
}

func clientOf(t *testing.T, c *env.Cluster, user string) rest.Interface {
	t.Helper()
	config, err := c.UserConfig(user)
	if err != nil {
		t.Fatal(err)
	}
	return restClient(t, config)
}

// directClient asks the adapter itself, past the API server.
func directClient(t *testing.T, c *env.Cluster, user string, port int) rest.Interface {
	t.Helper()
	config, err := c.UserConfig(user)
	if err != nil {
		t.Fatal(err)
	}
	config.Host = fmt.Sprintf("https://127.0.0.1:%d", port)
	config.CAData = certificateOf(t, c).secret["ca.crt"]
	config.ServerName = release + "." + namespace + ".svc"
	return restClient(t, config)
}

func restClient(t *testing.T, config *rest.Config) rest.Interface {
	t.Helper()
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Discovery().RESTClient()
}

// readersValues is a file with rules for each of the APIs.
func readersValues(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	write(t, path, fmt.Sprintf(`
prometheus: {url: %q}
apiServices: {resource: true}
rules:
  default: false
  custom:
  - seriesQuery: demo
    resources: {overrides: {namespace: {resource: namespace}, service: {resource: service}, node: {resource: node}}}
    metricsQuery: sum(demo{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  external:
  - seriesQuery: demo
    resources: {overrides: {namespace: {resource: namespace}}}
    metricsQuery: sum(demo{<<.LabelMatchers>>})
`, url))
	return path
}

// TestNamespaceReader shows that a Role lets a user read the external metrics of its namespace
// that it names, and no others: neither through the API server nor past it.
func TestNamespaceReader(t *testing.T) {
	c := bed.Cluster(t)
	port := freePort(t)
	installed(t, newHelm(t, "helm").on(c), "--values", readersValues(t, startMeasures(t)),
		"--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=0", port, port))
	startAdapter(t, c, port)
	route(t, c)
	const user = "namespace-reader"
	rbac, meta := c.Client().RbacV1(), metav1.ObjectMeta{Name: user}
	_, err := rbac.Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, Resources: []string{"demo"}, APIGroups: []string{"external.metrics.k8s.io"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rbac.RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user, APIGroup: rbacv1.GroupName}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.WithoutCancel(t.Context()), "", "-n", namespace, "delete", "role/"+user, "rolebinding/"+user); err != nil {
			t.Error(err)
		}
	})
	for name, client := range map[string]rest.Interface{"aggregated": clientOf(t, c, user), "direct": directClient(t, c, user, port)} {
		read := func(ctx context.Context, namespace, metric string) (string, error) {
			text, err := client.Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces", namespace, metric).Do(ctx).Raw()
			return string(text), err
		}
		eventually(t, func(ctx context.Context) error {
			text, err := read(ctx, namespace, "demo")
			if err != nil || !strings.Contains(text, `"value":"1"`) {
				return fmt.Errorf("%s: its own metric is %s (%w)", name, text, err)
			}
			return nil
		})
		for _, other := range [][2]string{{metav1.NamespaceDefault, "demo"}, {namespace, "other"}} {
			if text, err := read(t.Context(), other[0], other[1]); !apierrors.IsForbidden(err) {
				t.Errorf("%s: of %v it gets %s (%v), want a refusal", name, other, text, err)
			}
		}
	}
}
