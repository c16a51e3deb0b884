package chart

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// typed is an object as its kind.
func typed[T any](t *testing.T, o *unstructured.Unstructured) *T {
	t.Helper()
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		t.Fatal(err)
	}
	return into
}

// testPod is the pod of `helm test`.
func (all objects) testPod(t *testing.T) *corev1.Pod {
	t.Helper()
	i := slices.IndexFunc(all, func(o *unstructured.Unstructured) bool { return o.GetAnnotations()["helm.sh/hook"] == "test" })
	if i < 0 || all[i].GetKind() != "Pod" {
		t.Fatalf("helm test has no Pod among %s", all.names())
	}
	return typed[corev1.Pod](t, all[i])
}

// TestTestPod shows, for each file of ci, that `helm test` asks for what the release
// registers, from a pod that is as the adapter's and that nobody takes for one of them.
func TestTestPod(t *testing.T) {
	h := newHelm(t, "helm")
	for _, variant := range variants(t) {
		t.Run(variant, func(t *testing.T) {
			all := h.template(t, "--values", valuesOf(t, variant), "--set", "networkPolicy.enabled=true")
			pod, d := all.testPod(t), typed[appsv1.Deployment](t, all.deployment(t))
			checkServed(t, all, pod)
			checkUnselected(t, all, pod)
			checkAlike(t, pod, d.Spec.Template.Spec)
			checkTaken(t, all, pod)
		})
	}
}

// checkServed fails the test unless the pod asks for the APIs of the release.
func checkServed(t *testing.T, all objects, pod *corev1.Pod) {
	t.Helper()
	var apis []string
	for api := range strings.SplitSeq(flagValue(pod.Spec.Containers[0].Args, "served"), ",") {
		group, version, _ := strings.Cut(api, "/")
		apis = append(apis, version+"."+group)
	}
	slices.Sort(apis)
	if diff := cmp.Diff(all.apis(), apis); diff != "" {
		t.Errorf("it does not ask for the APIServices of the release (-release +asked):\n%s", diff)
	}
}

// checkUnselected fails the test if the pod gets the adapter's calls, or counts as one of
// its replicas. One NetworkPolicy is its own.
func checkUnselected(t *testing.T, all objects, pod *corev1.Pod) {
	t.Helper()
	if len(pod.Spec.Containers[0].Ports) > 0 {
		t.Error("it has ports")
	}
	policies := 0
	for _, o := range all {
		for _, path := range [][]string{{"spec", "selector"}, {"spec", "selector", "matchLabels"}, {"spec", "podSelector", "matchLabels"}} {
			wanted, found, err := unstructured.NestedStringMap(o.Object, path...)
			if err != nil || !found || o.GetKind() == "ServiceMonitor" || !labels.SelectorFromSet(wanted).Matches(labels.Set(pod.Labels)) {
				continue
			}
			if o.GetKind() != "NetworkPolicy" {
				t.Errorf("%s %s selects it", o.GetKind(), o.GetName())
			}
			policies++
		}
	}
	if policies != 1 {
		t.Errorf("%d NetworkPolicies select it, want its own", policies)
	}
}

// checkAlike fails the test unless the pod is as the adapter's in what an admission, a node
// and a backend see of it.
func checkAlike(t *testing.T, pod *corev1.Pod, of corev1.PodSpec) {
	t.Helper()
	got, want := pod.Spec.Containers[0], of.Containers[0]
	for _, test := range []struct {
		what      string
		want, got any
	}{
		{"image", want.Image, got.Image},
		{"imagePullPolicy", want.ImagePullPolicy, got.ImagePullPolicy},
		{"imagePullSecrets", of.ImagePullSecrets, pod.Spec.ImagePullSecrets},
		{"serviceAccountName", of.ServiceAccountName, pod.Spec.ServiceAccountName},
		{"automountServiceAccountToken", of.AutomountServiceAccountToken, pod.Spec.AutomountServiceAccountToken},
		{"securityContext", of.SecurityContext, pod.Spec.SecurityContext},
		{"the container's securityContext", want.SecurityContext, got.SecurityContext},
		{"resources", want.Resources, got.Resources},
		{"env", want.Env, got.Env},
		{"volumes", of.Volumes, pod.Spec.Volumes},
		{"volumeMounts", slices.DeleteFunc(slices.Clone(want.VolumeMounts), func(m corev1.VolumeMount) bool { return m.Name == "tls" }), got.VolumeMounts},
		{"nodeSelector", of.NodeSelector, pod.Spec.NodeSelector},
		{"tolerations", of.Tolerations, pod.Spec.Tolerations},
		{"hostNetwork", of.HostNetwork, pod.Spec.HostNetwork},
		{"dnsPolicy", of.DNSPolicy, pod.Spec.DNSPolicy},
		{"dnsConfig", of.DNSConfig, pod.Spec.DNSConfig},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s is not as the Deployment's (-Deployment +test):\n%s", test.what, diff)
		}
	}
	if len(pod.Spec.Containers) != 1 || len(pod.Spec.InitContainers) != len(of.Containers)-1 {
		t.Errorf("it has %d containers and %d sidecars, want all of the Deployment's", len(pod.Spec.Containers), len(pod.Spec.InitContainers))
	}
	for _, sidecar := range pod.Spec.InitContainers {
		if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("the test waits for the end of %s", sidecar.Name)
		}
	}
	if pod.Spec.RestartPolicy != corev1.RestartPolicyNever || pod.Spec.ActiveDeadlineSeconds == nil {
		t.Errorf("it is restarted (%s), or never ends", pod.Spec.RestartPolicy)
	}
}

// checkTaken fails the test unless check takes the arguments, and the configuration that the
// pod mounts: what is left is that there is no pod to find an API server in.
func checkTaken(t *testing.T, all objects, pod *corev1.Pod) {
	t.Helper()
	text := "rules: []\n" // Of a ConfigMap that somebody else makes.
	if o := all.find("ConfigMap", pod.Spec.Volumes[0].ConfigMap.Name); o != nil {
		text = nested(o, "data", "config.yaml")
	}
	args := configured(t, pod, text)
	out, code := runAdapter(t, args...)
	if code != 2 || !strings.Contains(out, "--served asks an API server: outside of a pod give --kubeconfig") {
		t.Errorf("adapter %s ended with %d:\n%s", strings.Join(args, " "), code, out)
	}
}

// configured are the pod's arguments, with files here for those that it mounts: the
// configuration of that text, and secrets.
func configured(t *testing.T, pod *corev1.Pod, text string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, text)
	args := slices.Clone(pod.Spec.Containers[0].Args)
	i := slices.Index(args, "--config=/etc/adapter/config.yaml")
	if i < 0 {
		t.Fatalf("the configuration is not among %s", args)
	}
	args[i] = "--config=" + path
	for i, arg := range args {
		if name, _, ok := strings.Cut(arg, "-file=/"); ok {
			secret := filepath.Join(t.TempDir(), "secret")
			write(t, secret, "secret")
			args[i] = name + "-file=" + secret
		}
	}
	return args
}

// runAdapter runs the adapter outside of a pod to its end, and gives what it says and its
// exit code.
func runAdapter(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), adapterBinary(t), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			t.Fatal(err)
		}
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestTestPodArguments shows that the pod has those of the adapter's flags that check has.
func TestTestPodArguments(t *testing.T) {
	h := newHelm(t, "helm")
	const own = "check --live --served=external.metrics.k8s.io/v1beta1 --timeout=2m --config=/etc/adapter/config.yaml --metrics-relist-interval=1m"
	for name, test := range map[string]struct{ set, want string }{
		"nothing": {"", own},
		"flags of serving": {
			"extraArguments={--disable-http2,--v=4,--prometheus-auth-incluster,--client-qps=5,--cloudwatch-empty-as-zero=true,--metrics-max-age=1h,--max-age=9m}",
			own + " --prometheus-auth-incluster --cloudwatch-empty-as-zero=true --metrics-max-age=1h --max-age=9m",
		},
		"underscores":            {"extraArguments={--prometheus_header=a=b,--max_age=9m}", own + " --prometheus_header=a=b --max_age=9m"},
		"flags by name":          {"args.max-age=9m,args.logtostderr=true,args.prometheus-verb=POST", own + " --max-age=9m --prometheus-verb=POST"},
		"another file":           {"extraArguments={--config=/mine/config.yaml}", own + " --config=/mine/config.yaml"},
		"flags that begin alike": {"extraArguments={--max-requests-inflight=5,--config-dir=x}", own},
		"no API":                 {"apiServices.external=false", strings.Replace(own, " --served=external.metrics.k8s.io/v1beta1", "", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			pod := h.template(t, "--set", test.set).testPod(t)
			if got := strings.Join(pod.Spec.Containers[0].Args, " "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestTestPodNetwork shows that what the adapter may reach, the test may, and that nobody
// may call it.
func TestTestPodNetwork(t *testing.T) {
	h := newHelm(t, "helm")
	if h.template(t).find("NetworkPolicy", release+"-test") != nil {
		t.Error("there is a NetworkPolicy without networkPolicy.enabled")
	}
	all := h.template(t, "--set", "networkPolicy.enabled=true,networkPolicy.extraEgress[0].ports[0].port=8428,prometheus.url=http://p.m.svc:81")
	adapter, own := all.get(t, "NetworkPolicy", release), all.get(t, "NetworkPolicy", release+"-test")
	want, got := adapter.Object["spec"], own.Object["spec"]
	for _, field := range []string{"egress", "policyTypes"} {
		w, _, _ := unstructured.NestedSlice(adapter.Object, "spec", field)
		g, _, _ := unstructured.NestedSlice(own.Object, "spec", field)
		if diff := cmp.Diff(w, g); diff != "" || len(g) == 0 {
			t.Errorf("%s is not as the adapter's (-adapter +test):\n%s", field, diff)
		}
	}
	if _, found, _ := unstructured.NestedSlice(own.Object, "spec", "ingress"); found {
		t.Errorf("it may be called: %v, and the adapter %v", got, want)
	}
}

// TestTestPodOnACluster shows that a namespace that enforces Pod Security restricted takes
// the pod, and that what runs in it sees whether the release serves, with no more rights
// than the adapter's. A release without rules needs no Prometheus.
func TestTestPodOnACluster(t *testing.T) {
	c := bed.Cluster(t)
	port := freePort(t)
	h := newHelm(t, "helm").on(c)
	values := []string{"--set", fmt.Sprintf("listenPort=%d,service.port=%d,shutdownDelaySeconds=0,apiServices.custom=true", port, port)}
	installed(t, h, values...)
	rendered := h.run(t, append([]string{"template", release, chartDir(t), "-s", "templates/tests/check.yaml"}, values...)...)
	if _, err := c.Kubectl(t.Context(), rendered, "create", "--dry-run=server", "-f", "-"); err != nil {
		t.Errorf("the pod is refused: %v", err)
	}
	pod := parse(t, rendered).testPod(t)
	config, err := c.Client().CoreV1().ConfigMaps(namespace).Get(t.Context(), pod.Spec.Volumes[0].ConfigMap.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := c.ServiceAccountKubeconfig(t.Context(), namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		t.Fatal(err)
	}
	args := append(configured(t, pod, config.Data["config.yaml"]), "--kubeconfig="+kubeconfig)

	out, code := runAdapter(t, append(args, "--timeout=3s")...)
	if code != 1 || !strings.Contains(out, "503: ") || !strings.Contains(out, "kubectl describe apiservice v1beta1.external.metrics.k8s.io") {
		t.Errorf("without an adapter it ended with %d:\n%s", code, out)
	}
	a := startAdapter(t, c, port)
	route(t, c)
	if out, code := runAdapter(t, args...); code != 0 || !strings.Contains(out, "3 API versions in 1 file: 0 errors, 0 warnings") {
		t.Errorf("with an adapter it ended with %d:\n%s", code, out)
	}
	a.stop(t)
}

// The pod of `helm test` is no part of what is installed.
func TestTestPodIsAHookOnly(t *testing.T) {
	for _, name := range helmNames {
		text := newHelm(t, name).run(t, "template", release, chartDir(t), "--skip-tests")
		if strings.Contains(text, "kind: Pod\n") {
			t.Errorf("%s takes it for a part of the release", name)
		}
	}
	if _, err := os.Stat(filepath.Join(chartDir(t), "templates", "tests", "check.yaml")); err != nil {
		t.Error(err)
	}
}
