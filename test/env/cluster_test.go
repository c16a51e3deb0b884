package env

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/until"
)

const externalMetrics = "/apis/external.metrics.k8s.io/v1beta1"

// TestCluster starts one cluster and looks at it from several sides, in order.
func TestCluster(t *testing.T) {
	c, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopped(t, c) })

	t.Run("deployment becomes ready", func(t *testing.T) { testDeployment(t, c) })
	t.Run("user without rights", func(t *testing.T) { testUser(t, c) })
	t.Run("rights", func(t *testing.T) { testRights(t, c) })
	t.Run("apply names what it cannot", func(t *testing.T) { testApply(t, c) })
	t.Run("API server restarts", func(t *testing.T) { testRestartAPIServer(t, c) })
	t.Run("adapter", func(t *testing.T) { testAdapter(t, c) })
	t.Run("prometheus", func(t *testing.T) { testPrometheus(t, c) })
	t.Run("only loopback", func(t *testing.T) { testLoopback(t, c) })
}

// stopped stops the cluster and looks for what is left of it.
func stopped(t *testing.T, c *Cluster) {
	processes := c.Processes()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	for _, p := range processes {
		if p.ID().Alive() {
			t.Errorf("%s still runs", p.Name())
		}
	}
	if err := c.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func testDeployment(t *testing.T, c *Cluster) {
	const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: web}]
`
	if err := c.Apply(t.Context(), []byte(manifest)); err != nil {
		t.Fatal(err)
	}
	deployments := c.Client().AppsV1().Deployments("default")
	await(t, func(ctx context.Context) error {
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%d pods are ready", d.Status.ReadyReplicas)
		}
		return err
	})
	pods, err := c.Client().CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	ips := map[string]bool{}
	for _, pod := range pods.Items {
		ips[pod.Status.PodIP] = true
	}
	if len(ips) != 2 || ips[""] {
		t.Errorf("the pods' addresses are %v, want two", ips)
	}
	foreground := metav1.DeletePropagationForeground
	if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	await(t, func(ctx context.Context) error {
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, left(d))
	})
}

func left(d *appsv1.Deployment) error {
	return fmt.Errorf("the Deployment is still there with %d replicas", d.Status.Replicas)
}

func testUser(t *testing.T, c *Cluster) {
	client := kubernetes.NewForConfigOrDie(must(c.UserConfig("nobody", "strangers")))
	_, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("list pods: %v, want nobody to be refused", err)
	}
}

// testRights asks the API server what the adapter and the HPA controller may do.
func testRights(t *testing.T, c *Cluster) {
	const (
		adapter = "system:serviceaccount:" + Namespace + ":" + ServiceAccount
		hpa     = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
	)
	for _, test := range []struct {
		user, verb, group, resource, subresource, namespace, name string
		allowed                                                   bool
	}{
		{adapter, "watch", "metrics.aws", "externalmetrics", "", "", "", true},
		{adapter, "patch", "metrics.aws", "externalmetrics", "status", "default", "x", true},
		{adapter, "patch", "metrics.aws", "externalmetrics", "", "default", "x", false},
		{adapter, "watch", "autoscaling", "horizontalpodautoscalers", "", "", "", true},
		{adapter, "create", "events.k8s.io", "events", "", "default", "", true},
		{adapter, "update", "coordination.k8s.io", "leases", "", Namespace, "tidegauge", true},
		{adapter, "update", "coordination.k8s.io", "leases", "", Namespace, "another", false},
		{adapter, "get", "coordination.k8s.io", "leases", "", "kube-system", "tidegauge", false},
		{adapter, "create", "authorization.k8s.io", "subjectaccessreviews", "", "", "", true},
		{adapter, "get", "", "configmaps", "", "kube-system", "extension-apiserver-authentication", true},
		{adapter, "get", "", "secrets", "", Namespace, "x", false},
		{adapter, "list", "", "pods", "", "default", "", true},
		{adapter, "get", "", "pods", "log", "default", "", false},
		{adapter, "patch", "", "pods", "status", Namespace, PodName, true},
		{adapter, "patch", "", "pods", "status", "default", "x", false},
		{hpa, "list", "custom.metrics.k8s.io", "pods", "anything", "default", "*", true},
		{hpa, "list", "external.metrics.k8s.io", "anything", "", "default", "", true},
	} {
		review, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: test.user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: test.verb, Group: test.group, Resource: test.resource, Subresource: test.subresource,
				Namespace: test.namespace, Name: test.name,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != test.allowed {
			t.Errorf("%+v: allowed = %t", test, review.Status.Allowed)
		}
	}
}

func testApply(t *testing.T, c *Cluster) {
	for _, test := range []struct{ name, manifest, want string }{
		{"invalid object", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A, namespace: default}", "ConfigMap default/A: "},
		{"no namespace", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "ConfigMap a: metadata.namespace is missing"},
		{"no YAML", "{", "EOF"},
	} {
		if err := c.Apply(t.Context(), []byte(test.manifest)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func testRestartAPIServer(t *testing.T, c *Cluster) {
	before := c.apiserver.ID()
	if err := c.RestartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.apiserver.ID() == before {
		t.Error("the API server is the same process")
	}
	if _, err := c.Client().CoreV1().Namespaces().Get(t.Context(), Namespace, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func testAdapter(t *testing.T, c *Cluster) {
	aws, err := c.StartAWS(t.Context(), AWSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.StartAdapter(t.Context(), AdapterOptions{Env: aws.Env()})
	if err != nil {
		t.Fatal(err)
	}
	testSpoofing(t, c, a)

	if err := a.Restart(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, a.Logs())
	}
	if err := c.Client().Discovery().RESTClient().Get().AbsPath(externalMetrics).Do(t.Context()).Error(); err != nil {
		t.Errorf("discovery after Restart: %v", err)
	}
	if state, err := a.Stop(t.Context()); err != nil || !state.Success() {
		t.Errorf("Stop = %v, %v, want success\n%s", state, err, a.Logs())
	}
	if strings.Contains(a.Logs(), "forbidden") {
		t.Errorf("the adapter lacks rights:\n%s", a.Logs())
	}
}

// testSpoofing asks the adapter directly, with headers in which kube-apiserver says
// for whom it asks. Only the front proxy's own certificate may send them.
func testSpoofing(t *testing.T, c *Cluster, a *Adapter) {
	for _, test := range []struct {
		name string
		cert pair
		want []int
	}{
		{"front proxy", must(c.pki.frontProxy.client(proxyUser)), []int{http.StatusNotFound}}, // allowed, and there is no metric x
		{"client of the front proxy's authority", must(c.pki.frontProxy.client("somebody")), []int{http.StatusUnauthorized, http.StatusForbidden}},
		{"user", must(c.pki.cluster.client("nobody")), []int{http.StatusUnauthorized, http.StatusForbidden}},
		{"user with the front proxy's name", must(c.pki.cluster.client(proxyUser)), []int{http.StatusUnauthorized, http.StatusForbidden}},
		{"no certificate", pair{}, []int{http.StatusUnauthorized, http.StatusForbidden}},
	} {
		as := &rest.Config{TLSClientConfig: rest.TLSClientConfig{CertData: test.cert.cert, KeyData: test.cert.key}}
		client, err := rest.HTTPClientFor(a.Config(as))
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.URL+externalMetrics+"/namespaces/default/x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Remote-User", "admin")
		req.Header.Set("X-Remote-Group", admins)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !slices.Contains(test.want, resp.StatusCode) {
			t.Errorf("%s: %s, want %v", test.name, resp.Status, test.want)
		}
	}
}

// TestStartFailure puts a program that fails in a component's place.
func TestStartFailure(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ component, wants string }{
		{"etcd", "disk full"},
		{"kube-scheduler", "bad flag"},
	} {
		t.Run(test.component, func(t *testing.T) {
			bin := t.TempDir()
			for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"} {
				if err := os.Symlink(filepath.Join(binaries(root), name), filepath.Join(bin, name)); err != nil {
					t.Fatal(err)
				}
			}
			broken := filepath.Join(bin, test.component)
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf("#!/bin/sh\necho %s\nexit 1\n", test.wants)
			if err := os.WriteFile(broken, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv(BinVariable, bin)

			var ids []ProcessID
			_, err := Start(t.Context(), Options{Dir: t.TempDir(), Started: func(p *Process) { ids = append(ids, p.ID()) }})
			for _, want := range []string{test.component, "exit status 1", test.wants} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Start: %v, want %q in it", err, want)
				}
			}
			if len(ids) == 0 || slices.ContainsFunc(ids, ProcessID.Alive) {
				t.Errorf("of %v some still run", ids)
			}
		})
	}
}

func TestStartWithoutBinaries(t *testing.T) {
	t.Setenv(BinVariable, t.TempDir())
	if _, err := Start(t.Context(), Options{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "make build kube") {
		t.Errorf("Start: %v, want what to run", err)
	}
}

func TestNodeReady(t *testing.T) {
	ready := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	for _, test := range []struct {
		name string
		node corev1.Node
		want bool
	}{
		{"new", corev1.Node{}, false},
		{"ready", corev1.Node{Status: ready}, true},
		{"ready but tainted", corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady}}}}, false},
	} {
		if got := nodeReady(&test.node); got != test.want {
			t.Errorf("%s: nodeReady = %t", test.name, got)
		}
	}
}

// await fails the test unless condition returns nil within the time that a loaded
// machine may need.
func await(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	until.Holds(t, "it does not hold", time.Minute, condition)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
