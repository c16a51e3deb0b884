package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
)

// template is a pod of the program, which tests change.
func template(t *testing.T, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	err := yaml.UnmarshalStrict([]byte(`
metadata:
  labels: {app: program}
spec:
  nodeSelector: {tidegauge.dev/runner: "true"}
  tolerations: [{key: tidegauge.dev/runner, operator: Exists}]
  terminationGracePeriodSeconds: 60
  containers:
  - name: program
    image: program
    args: ["--listen=:8080", "--admin-listen", ":9797"]
    ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9797}]
    readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 1, failureThreshold: 1}
`), pod)
	if err != nil {
		t.Fatal(err)
	}
	pod.Name = name
	for _, f := range change {
		f(pod)
	}
	return pod
}

func create(t *testing.T, c *env.Cluster, namespace string, pod *corev1.Pod) {
	t.Helper()
	if _, err := c.Client().CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// become waits until a pod is as check wants it, and returns it.
func become(t *testing.T, c *env.Cluster, namespace, name string, check func(*corev1.Pod) error) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	eventually(t, "pod "+name, func(ctx context.Context) error {
		var err error
		if pod, err = c.Client().CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return check(pod)
	})
	return pod
}

// isReady is an error unless the pod is as it says, True or False.
func isReady(want corev1.ConditionStatus) func(*corev1.Pod) error {
	return func(pod *corev1.Pod) error {
		if got := conditionOf(pod, corev1.PodReady).Status; got != want {
			return fmt.Errorf("Ready is %q, want %q: %+v", got, want, pod.Status)
		}
		return nil
	}
}

func conditionOf(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// isGone waits until there is no such pod.
func isGone(t *testing.T, c *env.Cluster, namespace, name string) {
	t.Helper()
	eventually(t, "deletion of "+name, func(ctx context.Context) error {
		_, err := c.Client().CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
}

// through is a client that reaches pods by their own addresses.
func through(t *testing.T, r *Runner) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: r.Dial, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: deadline}
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(text), err
}

func ask(t *testing.T, r *Runner, pod *corev1.Pod, port int, path string) string {
	t.Helper()
	text, err := get(t.Context(), through(t, r), fmt.Sprintf("http://%s:%d%s", pod.Status.PodIP, port, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func about(t *testing.T, r *Runner, pod *corev1.Pod) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(ask(t, r, pod, 8080, "/")), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func logOf(t *testing.T, r *Runner, namespace, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.opts.Dir, "logs", namespace+"_"+name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPodRuns shows that a pod is a process with the pod's own arguments and environment,
// which answers at the pod's address.
func TestPodRuns(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	objects := fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: %[1]s}
data: {REGION: of the ConfigMap, COLOUR: green, queue: orders}
---
apiVersion: v1
kind: Secret
metadata: {name: database, namespace: %[1]s}
stringData: {url: postgres://somewhere}
---
apiVersion: v1
kind: Service
metadata: {name: program, namespace: %[1]s}
spec: {selector: {app: program}, ports: [{port: 80, targetPort: http}]}
`, ns)
	if err := c.Apply(t.Context(), []byte(objects)); err != nil {
		t.Fatal(err)
	}
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		container := &p.Spec.Containers[0]
		container.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		container.Args = append(container.Args, "--file=/data/a", "--more=$(POD_NAME)")
		container.Env = []corev1.EnvVar{
			field1("POD_NAME", "metadata.name"), field1("POD_IP", "status.podIP"), field1("APP", "metadata.labels['app']"),
			secret("DATABASE_URL", "database", "url", false), secret("NOT_THERE", "other", "url", true),
			{Name: "GREETING", Value: "$(POD_NAME) is $(COLOUR), $(UNKNOWN) and $$(POD_NAME)"},
		}
		container.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}))
	pod := become(t, c, ns, "one", isReady("True"))

	got := about(t, r, pod)
	want := map[string]string{
		"REGION": "of the bed", "COLOUR": "green", "POD_NAME": "one", "POD_IP": pod.Status.PodIP, "APP": "program",
		"DATABASE_URL": "postgres://somewhere", "GREETING": "one is green, $(UNKNOWN) and $(POD_NAME)",
	}
	for name, value := range want {
		if got.Env[name] != value {
			t.Errorf("%s is %q, want %q", name, got.Env[name], value)
		}
	}
	if value, ok := got.Env["NOT_THERE"]; ok {
		t.Errorf("the variable of no Secret is %q", value)
	}
	listen, _ := r.Address(ns, "one", "http")
	admin, _ := r.Address(ns, "one", "9797")
	file := filepath.Join(r.opts.Dir, "pods", string(pod.UID), "volumes", "data", "a")
	wantArgs := []string{"--listen=" + listen, "--admin-listen", admin, "--file=" + file, "--more=one", "--more=one"}
	if !slices.Equal(got.Args, wantArgs) {
		t.Errorf("the arguments are %q, want %q", got.Args, wantArgs)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "written" {
		t.Errorf("the volume has %q, %v", text, err)
	}
	s := pod.Status
	if s.Phase != corev1.PodRunning || s.HostIP != "10.62.0.1" || s.ContainerStatuses[0].State.Running == nil {
		t.Errorf("the status is %+v", s)
	}

	eventually(t, "EndpointSlice", func(ctx context.Context) error { return endpoint(ctx, c, ns, pod.Status.PodIP+" ready") })
	if text := ask(t, r, pod, 9797, "/turn?ready=false"); text != "" {
		t.Errorf("got %q", text)
	}
	become(t, c, ns, "one", isReady("False"))
	eventually(t, "EndpointSlice", func(ctx context.Context) error { return endpoint(ctx, c, ns, pod.Status.PodIP+" not ready") })

	server := httptest.NewServer(r.Handler(nil))
	t.Cleanup(server.Close)
	if text, err := get(t.Context(), http.DefaultClient, server.URL+"/"+ns+"/one/metrics"); err != nil || text != "program_up 1\n" {
		t.Errorf("the metrics are %q, %v", text, err)
	}
	if _, err := get(t.Context(), http.DefaultClient, server.URL+"/"+ns+"/two/metrics"); err == nil {
		t.Error("a pod that is not there has metrics")
	}
	if at := slices.IndexFunc(r.Pods(), func(s State) bool { return s.Namespace == ns }); at < 0 || r.Pods()[at].PID != got.PID || r.Pods()[at].Ready {
		t.Errorf("the runner has %+v, want process %d, not ready", r.Pods(), got.PID)
	}
}

func field1(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func secret(name, of, key string, optional bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: of}, Key: key, Optional: &optional,
	}}}
}

// endpoint is an error unless the Service's only address is as it says.
func endpoint(ctx context.Context, c *env.Cluster, namespace, want string) error {
	list, err := c.Client().DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=program"})
	if err != nil {
		return err
	}
	var got []string
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			got = append(got, e.Addresses[0]+map[bool]string{true: " ready", false: " not ready"}[*e.Conditions.Ready])
		}
	}
	if len(got) != 1 || got[0] != want {
		return fmt.Errorf("the endpoints are %q, want %q", got, want)
	}
	return nil
}

// TestStop shows how a pod ends: the hook, SIGTERM, and the deletion when the process has
// ended; it answers until then, and its readiness is looked at.
func TestStop(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		container := &p.Spec.Containers[0]
		container.Args = append(container.Args, "--linger=3s")
		container.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/drain", Port: intstr.FromString("admin")}}}
	}))
	pod := become(t, c, ns, "one", isReady("True"))
	client := through(t, r)
	if err := c.Client().CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGTERM", func(context.Context) error {
		if log := logOf(t, r, ns, "one"); log != "started\ndrained\nterminated\n" {
			return fmt.Errorf("the log is %q", log)
		}
		return nil
	})
	if text := ask(t, r, pod, 8080, "/"); text == "" {
		t.Error("a pod that ends does not answer")
	}
	ending := become(t, c, ns, "one", isReady("False"))
	if ending.DeletionTimestamp == nil || ending.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod is %+v", ending)
	}
	isGone(t, c, ns, "one")
	if log := logOf(t, r, ns, "one"); log != "started\ndrained\nterminated\nended\n" {
		t.Errorf("when the pod was gone, the log was %q", log)
	}
	eventually(t, "unreachable", func(ctx context.Context) error {
		_, err := get(ctx, client, "http://"+pod.Status.PodIP+":8080/")
		if !errors.Is(err, syscall.EHOSTUNREACH) {
			return fmt.Errorf("the pod's address: %w", err)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(r.opts.Dir, "pods", string(pod.UID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
}

// TestStopLate shows that a process which takes longer than the grace period is killed at its
// end, and that a deletion with a shorter one counts.
func TestStopLate(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	for name, again := range map[string]int64{"late": 60, "shortened": 3} {
		create(t, c, ns, template(t, name, func(p *corev1.Pod) {
			p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--linger=10m")
			if name == "late" {
				p.Spec.TerminationGracePeriodSeconds = new(int64(3))
			}
		}))
		pod := become(t, c, ns, name, isReady("True"))
		pid := about(t, r, pod).PID
		began := time.Now()
		if err := c.Client().CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if name == "shortened" {
			if err := c.Client().CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &again}); err != nil {
				t.Fatal(err)
			}
		}
		isGone(t, c, ns, name)
		if took := time.Since(began); took < 2500*time.Millisecond || took > time.Minute {
			t.Errorf("%s: it took %s to end, want 3 s", name, took)
		}
		if log := logOf(t, r, ns, name); log != "started\nterminated\n" {
			t.Errorf("%s: the log is %q", name, log)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s: process %d is there: %v", name, pid, err)
		}
	}
}

// TestKill shows that a process which is killed is started again at once, and one that keeps
// ending with pauses.
func TestKill(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	create(t, c, ns, template(t, "one"))
	pod := become(t, c, ns, "one", isReady("True"))
	before := about(t, r, pod).PID
	if err := r.Kill(ns, "one"); err != nil {
		t.Fatal(err)
	}
	pod = become(t, c, ns, "one", func(pod *corev1.Pod) error {
		if pod.Status.ContainerStatuses[0].RestartCount != 1 {
			return fmt.Errorf("the status is %+v", pod.Status)
		}
		return isReady("True")(pod)
	})
	if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Signal != 9 {
		t.Errorf("the last end was %+v, want by SIGKILL", last)
	}
	if after := about(t, r, pod).PID; after == before {
		t.Errorf("process %d answers after it was killed", after)
	}
	if err := r.Kill(ns, "two"); err == nil {
		t.Error("a pod that is not there was killed")
	}

	create(t, c, ns, template(t, "crash", func(p *corev1.Pod) { p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--crash") }))
	become(t, c, ns, "crash", func(pod *corev1.Pod) error {
		if len(pod.Status.ContainerStatuses) == 0 {
			return errors.New("it has no status")
		}
		s := pod.Status.ContainerStatuses[0]
		if w := s.State.Waiting; s.RestartCount < 3 || w == nil || w.Reason != "CrashLoopBackOff" || s.LastTerminationState.Terminated.ExitCode != 1 {
			return fmt.Errorf("the status is %+v", s)
		}
		return isReady("False")(pod)
	})
}

// TestLiveness shows that a process which is not alive is ended and started again.
func TestLiveness(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		// One answer that is bad is enough; on a busy machine none may come for a while.
		probe := corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/livez", Port: intstr.FromInt32(9797)}},
			PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 1,
		}
		p.Spec.Containers[0].LivenessProbe = &probe
		startup := probe
		startup.FailureThreshold = 100
		p.Spec.Containers[0].StartupProbe = &startup
	}))
	pod := become(t, c, ns, "one", isReady("True"))
	ask(t, r, pod, 9797, "/die")
	become(t, c, ns, "one", func(pod *corev1.Pod) error {
		if got := pod.Status.ContainerStatuses[0].RestartCount; got != 1 {
			return fmt.Errorf("%d restarts", got)
		}
		return isReady("True")(pod)
	})
	if log := logOf(t, r, ns, "one"); log != "started\nterminated\nended\nstarted\n" {
		t.Errorf("the log is %q", log)
	}
}

// TestReadinessGate shows that a gated pod is not ready until its condition is set, whatever
// its probe says (row B19 of the systems).
func TestReadinessGate(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	const gate = "target-health.elbv2.k8s.aws/orders"
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
	}))
	pod := become(t, c, ns, "one", func(pod *corev1.Pod) error {
		if conditionOf(pod, corev1.ContainersReady).Status != corev1.ConditionTrue {
			return errors.New("its container is not ready")
		}
		return isReady("False")(pod)
	})
	if got := conditionOf(pod, corev1.PodReady).Reason; got != "ReadinessGatesNotReady" {
		t.Errorf("it is not ready because of %q", got)
	}
	for _, status := range []corev1.ConditionStatus{"True", "False", "True"} {
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q}]}}`, gate, status)
		if _, err := c.Client().CoreV1().Pods(ns).Patch(t.Context(), "one", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		become(t, c, ns, "one", isReady(status))
	}
	// What the runner writes leaves the gate's condition as it is.
	ask(t, r, pod, 9797, "/turn?ready=false")
	pod = become(t, c, ns, "one", isReady("False"))
	if conditionOf(pod, gate).Status != corev1.ConditionTrue {
		t.Errorf("the conditions are %+v", pod.Status.Conditions)
	}
}

// TestWaits shows why a pod has no process: what it refers to is not there, and is waited
// for; or the runner does not play it.
func TestWaits(t *testing.T) {
	c, _ := running(t)
	ns := namespace(t, c)
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{secret("DATABASE_URL", "database", "url", false)}
	}))
	create(t, c, ns, template(t, "two", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/bin/sh"} }))
	for name, want := range map[string]string{"one": `CreateContainerConfigError: variable DATABASE_URL: secrets "database" not found`, "two": "NotPlayed: a command"} {
		become(t, c, ns, name, func(pod *corev1.Pod) error {
			if len(pod.Status.ContainerStatuses) == 0 {
				return errors.New("it has no status")
			}
			if w := pod.Status.ContainerStatuses[0].State.Waiting; w == nil || !strings.HasPrefix(w.Reason+": "+w.Message, want) {
				return fmt.Errorf("it waits for %+v, want %q", w, want)
			}
			return nil
		})
	}
	text := fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: database, namespace: %s}, stringData: {url: postgres://somewhere}}", ns)
	if err := c.Apply(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	become(t, c, ns, "one", isReady("True"))
}

// TestToken shows that a program can ask the API server as its pod's ServiceAccount.
func TestToken(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	const at = "/var/run/secrets/kubernetes.io/serviceaccount"
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) {
		p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--file="+at+"/written")
	}))
	pod := become(t, c, ns, "one", isReady("True"))
	got := about(t, r, pod)
	var dir string
	for _, arg := range got.Args {
		if file, ok := strings.CutPrefix(arg, "--file="); ok {
			dir = filepath.Dir(file)
		}
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	config := c.Config()
	config.BearerToken, config.CertData, config.KeyData = string(token), nil, nil
	if config.Host != "https://"+got.Env["KUBERNETES_SERVICE_HOST"]+":"+got.Env["KUBERNETES_SERVICE_PORT"] {
		t.Errorf("the API server is at %q %q, want %s", got.Env["KUBERNETES_SERVICE_HOST"], got.Env["KUBERNETES_SERVICE_PORT"], config.Host)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !bytes.Equal(authority, config.CAData) {
		t.Errorf("the authority is not the API server's: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "namespace")); err != nil || string(text) != ns {
		t.Errorf("the namespace is %q, %v", text, err)
	}
	who, err := whoIs(t.Context(), config)
	if want := "system:serviceaccount:" + ns + ":default"; err != nil || who != want {
		t.Errorf("the token is of %q, want %q: %v", who, want, err)
	}
}

// TestManyPods shows that the scheduler keeps pods Pending that are more than the runner
// takes, and places them when there is room.
func TestManyPods(t *testing.T) {
	c, r := running(t)
	eventually(t, "other tests' pods", func(context.Context) error {
		if n := len(r.Pods()); n > 0 {
			return fmt.Errorf("%d pods are there", n)
		}
		return nil
	})
	ns := namespace(t, c)
	for n := range mostPods + 1 {
		create(t, c, ns, template(t, fmt.Sprintf("pod-%d", n)))
	}
	var pending string
	eventually(t, "pods", func(ctx context.Context) error {
		list, err := c.Client().CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, pod := range list.Items {
			if isReady("True")(&pod) == nil {
				ready++
			}
			if conditionOf(&pod, corev1.PodScheduled).Status == corev1.ConditionFalse && strings.Contains(conditionOf(&pod, corev1.PodScheduled).Message, "Too many pods") {
				pending = pod.Name
			}
		}
		if ready != mostPods || pending == "" {
			return fmt.Errorf("%d are ready, and pending is %q", ready, pending)
		}
		return nil
	})
	if n := len(r.Pods()); n != mostPods {
		t.Errorf("the runner has %d pods, want %d", n, mostPods)
	}
	victim := "pod-0"
	if victim == pending {
		victim = "pod-1"
	}
	if err := c.Client().CoreV1().Pods(ns).Delete(t.Context(), victim, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	become(t, c, ns, pending, isReady("True"))
}

// TestClose shows that no process outlives the runner, and that the next one starts the pods
// anew.
func TestClose(t *testing.T) {
	c, r := running(t)
	ns := namespace(t, c)
	create(t, c, ns, template(t, "one", func(p *corev1.Pod) { p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--linger=10m") }))
	pid := about(t, r, become(t, c, ns, "one", isReady("True"))).PID
	r.Close()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is there: %v", pid, err)
	}
	next, err := Start(context.WithoutCancel(t.Context()), r.opts)
	if err != nil {
		t.Fatal(err)
	}
	bed.runner = next
	eventually(t, "a new process", func(ctx context.Context) error {
		pod, err := c.Client().CoreV1().Pods(ns).Get(ctx, "one", metav1.GetOptions{})
		if err != nil {
			return err
		}
		text, err := get(ctx, through(t, next), "http://"+pod.Status.PodIP+":8080/")
		if err != nil {
			return err
		}
		var a answer
		if err := json.Unmarshal([]byte(text), &a); err != nil || a.PID == pid {
			return fmt.Errorf("process %d answers: %w", a.PID, err)
		}
		return isReady("True")(pod)
	})
}
