package chart

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/env"
)

// TestServe installs the chart and runs the adapter as its pods would, with the rendered
// arguments, environment, configuration, certificate and ServiceAccount, until the API server
// finds every API of the release available.
func TestServe(t *testing.T) {
	c := bed.Cluster(t)
	for _, test := range []struct {
		variant string
		set     []string
		// port is the value that says where to listen.
		port string
	}{
		{variant: "default", port: "listenPort"},
		{variant: "cloudwatch", port: "listenPort"},
		{variant: "prometheus", port: "listenPort", set: []string{"prometheus.url=http://127.0.0.1:1", "config.prometheus.servers.tenant.url=http://127.0.0.1:1"}},
		{variant: "resource-metrics", port: "listenPort", set: []string{"prometheus.url=http://127.0.0.1:1"}},
		{variant: "prometheus-adapter", port: "listenPort", set: []string{"prometheus.url=http://127.0.0.1", "prometheus.port=1"}},
		{variant: "k8s-cloudwatch-adapter", port: "args.secure-port"},
		{variant: "tls", port: "listenPort"},
	} {
		t.Run(test.variant, func(t *testing.T) {
			h := newHelm(t, "helm").on(c)
			port := freePort(t)
			args := []string{
				"--values", valuesOf(t, test.variant), "--set", "shutdownDelaySeconds=1",
				"--set", fmt.Sprintf("%s=%d,service.port=%d", test.port, port, port),
			}
			for _, set := range test.set {
				args = append(args, "--set", set)
			}
			if test.variant == "tls" {
				args = append(args, certificateFiles(t)...)
			}
			installed(t, h, args...)
			a := startAdapter(t, c, port)
			route(t, c)
			for _, api := range ownAPIs(t, c) {
				eventually(t, func(ctx context.Context) error { return a.available(ctx, c, api) })
			}
			eventually(t, func(ctx context.Context) error { return configurationLoaded(ctx, c, a.pod) })
			if test.variant == "default" {
				checkReaders(t, c)
			}
			a.stop(t)
			if text := a.logs(); strings.Contains(text, "forbidden") {
				t.Errorf("the adapter lacks a right:\n%s", text)
			}
		})
	}
}

// process is a running adapter.
type process struct {
	cmd *exec.Cmd
	log string
	pod string
	// probe is the path of the readiness probe.
	probe string
	done  chan struct{}
	err   error // valid once done is closed
}

// startAdapter launches an adapter and returns when it is ready.
func startAdapter(t *testing.T, c *env.Cluster, port int) *process {
	t.Helper()
	p := launch(t, c)
	client := probeClient(t, c)
	url := fmt.Sprintf("https://127.0.0.1:%d%s", port, p.probe)
	eventually(t, func(ctx context.Context) error { return p.ready(ctx, client, url) })
	return p
}

// launch runs the container of the release's Deployment, under the name of one of its pods,
// which kwok plays.
func launch(t *testing.T, c *env.Cluster) *process {
	t.Helper()
	d, err := c.Client().AppsV1().Deployments(namespace).Get(t.Context(), release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := c.ServiceAccountKubeconfig(t.Context(), namespace, d.Spec.Template.Spec.ServiceAccountName)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{pod: podOf(t, c, d), probe: probePath(t, d), log: filepath.Join(t.TempDir(), "adapter.log"), done: make(chan struct{})}
	// What a process outside of a pod has to be told.
	args := append(mounted(t, c, d),
		"--lister-kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1")
	p.cmd = exec.Command(adapterBinary(t), args...)
	p.cmd.Env = environment(t, d, p.pod)
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-p.done
	})
	return p
}

func adapterBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("TIDEGAUGE_ADAPTER"); path != "" {
		return path
	}
	return filepath.Join(filepath.Dir(newHelm(t, "helm").path), "adapter")
}

// podOf is the name of a pod of the Deployment.
func podOf(t *testing.T, c *env.Cluster, d *appsv1.Deployment) string {
	t.Helper()
	var name string
	eventually(t, func(ctx context.Context) error {
		pods, err := c.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
				name = pod.Name
				return nil
			}
		}
		return fmt.Errorf("no pod of %d runs", len(pods.Items))
	})
	return name
}

// mounted are the container's arguments, with folders that have what its volumes have in the
// place of their mount paths.
func mounted(t *testing.T, c *env.Cluster, d *appsv1.Deployment) []string {
	t.Helper()
	spec := d.Spec.Template.Spec
	args := slices.Clone(spec.Containers[0].Args)
	for _, mount := range spec.Containers[0].VolumeMounts {
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 {
			t.Fatalf("there is no volume %s", mount.Name)
		}
		dir := t.TempDir()
		for name, text := range content(t, c, spec.Volumes[i]) {
			write(t, filepath.Join(dir, name), string(text))
		}
		for j := range args {
			args[j] = strings.Replace(args[j], "="+mount.MountPath+"/", "="+dir+"/", 1)
		}
	}
	return args
}

// content are the files of a volume.
func content(t *testing.T, c *env.Cluster, v corev1.Volume) map[string][]byte {
	t.Helper()
	if v.Secret != nil {
		s, err := c.Client().CoreV1().Secrets(namespace).Get(t.Context(), v.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Data
	}
	m, err := c.Client().CoreV1().ConfigMaps(namespace).Get(t.Context(), v.ConfigMap.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, text := range m.Data {
		files[name] = []byte(text)
	}
	return files
}

// environment is the container's, with what AWS's client does not find on this machine.
func environment(t *testing.T, d *appsv1.Deployment, pod string) []string {
	t.Helper()
	fields := map[string]string{"metadata.name": pod, "metadata.namespace": namespace}
	vars := []string{"PATH=" + os.Getenv("PATH"), "AWS_REGION=eu-west-1", "AWS_EC2_METADATA_DISABLED=true"}
	for _, v := range d.Spec.Template.Spec.Containers[0].Env {
		text := v.Value
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil {
			text = fields[v.ValueFrom.FieldRef.FieldPath]
		}
		vars = append(vars, v.Name+"="+text)
	}
	return vars
}

func probePath(t *testing.T, d *appsv1.Deployment) string {
	t.Helper()
	probe := d.Spec.Template.Spec.Containers[0].ReadinessProbe
	if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Scheme != corev1.URISchemeHTTPS {
		t.Fatalf("the readiness probe is not by HTTPS: %v", probe)
	}
	return probe.HTTPGet.Path
}

// probeClient believes who the API server believes.
func probeClient(t *testing.T, c *env.Cluster) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificateOf(t, c).secret["ca.crt"])
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: release + "." + namespace + ".svc"}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func (p *process) ready(ctx context.Context, client *http.Client, url string) error {
	select {
	case <-p.done:
		return fmt.Errorf("the adapter has ended: %w\n%s", p.err, p.logs())
	default:
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, p.logs())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s\n%s", url, resp.Status, p.logs())
	}
	return nil
}

func (p *process) logs() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// stop ends the adapter as the kubelet does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			t.Errorf("the adapter ends with %v\n%s", p.err, p.logs())
		}
	case <-time.After(deadline):
		t.Errorf("the adapter does not end\n%s", p.logs())
	}
}

// route leads the release's Service to this machine: nothing serves the cluster's own
// addresses here. The API server verifies the certificate for the Service's name all the same.
func route(t *testing.T, c *env.Cluster) {
	t.Helper()
	patch := []byte(`{"spec":{"type":"ExternalName","externalName":"localhost","clusterIP":null,"clusterIPs":null,"ipFamilies":null,"ipFamilyPolicy":null,"internalTrafficPolicy":null}}`)
	_, err := c.Client().CoreV1().Services(namespace).Patch(t.Context(), release, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// available returns nil if the API server can reach the API. One that was away it looks at
// anew when its APIService changes.
func (p *process) available(ctx context.Context, c *env.Cluster, api string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"tidegauge.dev/looked-at":%q}}}`, time.Now().Format(time.RFC3339Nano))
	if _, err := c.Dynamic().Resource(apiServices).Patch(ctx, api, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	version, group, _ := strings.Cut(api, ".")
	if err := c.Client().Discovery().RESTClient().Get().AbsPath("/apis/" + group + "/" + version).Do(ctx).Error(); err != nil {
		return fmt.Errorf("%s: %w\n%s", api, err, p.logs())
	}
	o, err := c.Dynamic().Resource(apiServices).Get(ctx, api, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, item := range conditions {
		if condition, ok := item.(map[string]any); ok && condition["type"] == "Available" && condition["status"] == "True" {
			return nil
		}
	}
	return fmt.Errorf("%s has the conditions %v", api, conditions)
}

// configurationLoaded returns nil if the adapter has written into the condition of its pod
// that the rendered configuration is in force.
func configurationLoaded(ctx context.Context, c *env.Cluster, pod string) error {
	p, err := c.Client().CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == "tidegauge.dev/ConfigurationLoaded" && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("the pod has the conditions %v", p.Status.Conditions)
}

// checkReaders shows who may read: the HPA controller everywhere, who may view a namespace
// there, and nobody else.
func checkReaders(t *testing.T, c *env.Cluster) {
	t.Helper()
	for group, verbs := range map[string][]string{"external.metrics.k8s.io": {"list"}, "custom.metrics.k8s.io": {"get", "list"}} {
		for _, verb := range verbs {
			review, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{
					User:               "system:serviceaccount:kube-system:horizontal-pod-autoscaler",
					Groups:             []string{"system:serviceaccounts"},
					ResourceAttributes: &authorizationv1.ResourceAttributes{Group: group, Resource: "*", Verb: verb},
				},
			}, metav1.CreateOptions{})
			if err != nil || !review.Status.Allowed {
				t.Errorf("the HPA controller may not %s in %s: %v", verb, group, err)
			}
		}
	}
	config, err := c.UserConfig("viewer")
	if err != nil {
		t.Fatal(err)
	}
	viewer, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client().RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "viewer", APIGroup: rbacv1.GroupName}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(ctx context.Context, namespace string) error {
		return viewer.Discovery().RESTClient().Get().AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces", namespace, "nothing").Do(ctx).Error()
	}
	eventually(t, func(ctx context.Context) error {
		if err := get(ctx, namespace); !apierrors.IsNotFound(err) {
			return fmt.Errorf("whoever may view the namespace gets %w, want that there is no such metric", err)
		}
		return nil
	})
	if err := get(t.Context(), metav1.NamespaceDefault); !apierrors.IsForbidden(err) {
		t.Errorf("whoever may view another namespace gets %v, want a refusal", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := env.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
