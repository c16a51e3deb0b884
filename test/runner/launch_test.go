package runner

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func TestListen(t *testing.T) {
	l := launch{ports: map[int32]int{8080: 12345, 9797: 12346}}
	for text, want := range map[string]string{
		"--listen=:8080":             "--listen=127.0.0.1:12345",
		"-admin-listen=0.0.0.0:9797": "-admin-listen=127.0.0.1:12346",
		"[::]:8080":                  "127.0.0.1:12345",
		":9797":                      "127.0.0.1:12346",
		"--listen=:7000":             "--listen=127.0.0.1:0",
		"--url=http://web:8080":      "--url=http://web:8080",
		"--listen=10.0.0.1:8080":     "--listen=10.0.0.1:8080",
		"--rate=25":                  "--rate=25",
		"--listen=:999999":           "--listen=:999999",
		"":                           "",
	} {
		if got := l.listen(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestMountsRewrite(t *testing.T) {
	m := mounts{"/data": "/tmp/here", "/etc/app": "/tmp/there"}
	for text, want := range map[string]string{
		"/data":                 "/tmp/here",
		"--sqlite=/data/a.db":   "--sqlite=/tmp/here/a.db",
		"--sqlite=/database":    "--sqlite=/database",
		"--config=/etc/app/c":   "--config=/tmp/there/c",
		"x=/data":               "x=/data",
		"postgres:///data/here": "postgres:///data/here",
	} {
		if got := m.rewrite(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"NAME": "web", "EMPTY": ""}
	for text, want := range map[string]string{
		"$(NAME)/$(NAME)": "web/web",
		"$$(NAME)":        "$(NAME)",
		"$$$(NAME)":       "$web",
		"$(OTHER)":        "$(OTHER)",
		"a$(EMPTY)b":      "ab",
		"$(NAME":          "$(NAME",
		"$NAME $":         "$NAME $",
	} {
		if got := expand(text, env); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	long := strings.Repeat("x", maxExpansion)
	if got := expand("$(LONG)$(LONG)", map[string]string{"LONG": long}); got != "$(LONG)$(LONG)" {
		t.Errorf("a text of %d bytes was made", len(got))
	}
}

func TestFields(t *testing.T) {
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "orders", UID: "u", Labels: map[string]string{"app.kubernetes.io/name": "web"}, Annotations: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{NodeName: "runner-2", ServiceAccountName: "web"},
	}
	for path, want := range map[string]string{
		"metadata.name": "web-1", "metadata.namespace": "orders", "metadata.uid": "u", "metadata.labels['app.kubernetes.io/name']": "web",
		"metadata.annotations['a']": "b", "metadata.labels['none']": "", "spec.nodeName": "runner-2", "spec.serviceAccountName": "web",
		"status.podIP": "10.66.0.7", "status.hostIP": "10.62.0.3",
	} {
		if got, err := field(object, "10.66.0.7", path); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := field(object, "", "status.phase"); !errors.Is(err, errNotPlayed) {
		t.Errorf("a field that no pod can refer to: %v", err)
	}
}

func TestResources(t *testing.T) {
	c := &corev1.Container{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")},
		Limits:   corev1.ResourceList{"memory": resource.MustParse("64Mi")},
	}}
	for _, test := range []struct{ name, divisor, want string }{
		{"requests.cpu", "", "1"}, {"requests.cpu", "1m", "100"}, {"limits.memory", "", "67108864"}, {"limits.memory", "1Mi", "64"},
	} {
		ref := &corev1.ResourceFieldSelector{Resource: test.name}
		if test.divisor != "" {
			ref.Divisor = resource.MustParse(test.divisor)
		}
		if got, err := resources(c, ref); err != nil || got != test.want {
			t.Errorf("%s by %q is %q, %v, want %q", test.name, test.divisor, got, err, test.want)
		}
	}
}

func TestPlayable(t *testing.T) {
	container := func(change func(*corev1.PodSpec)) *corev1.PodSpec {
		spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}
		change(spec)
		return spec
	}
	for name, spec := range map[string]*corev1.PodSpec{
		"two containers": container(func(s *corev1.PodSpec) { s.Containers = append(s.Containers, corev1.Container{Name: "b"}) }),
		"init":           container(func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Name: "b"}} }),
		"command":        container(func(s *corev1.PodSpec) { s.Containers[0].Command = []string{"sh"} }),
		"exec probe": container(func(s *corev1.PodSpec) {
			s.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
		}),
		"exec hook": container(func(s *corev1.PodSpec) {
			s.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}}}
		}),
	} {
		if err := playable(spec); !errors.Is(err, errNotPlayed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sleep := container(func(s *corev1.PodSpec) {
		s.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}}
	})
	if err := playable(sleep); err != nil {
		t.Errorf("a hook that sleeps: %v", err)
	}
}

func TestPlace(t *testing.T) {
	o := &unstructured.Unstructured{}
	text := `{"kind": "Deployment", "spec": {"template": {"spec": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "c"}]}}}}`
	if err := json.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	if err := Place(o); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"nodeSelector": map[string]any{"a": "b", NodeLabel: "true"},
		"tolerations":  []any{map[string]any{"key": "c"}, map[string]any{"key": NodeLabel, "operator": "Exists"}},
	}
	got, _, _ := unstructured.NestedMap(o.Object, "spec", "template", "spec")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	service := &unstructured.Unstructured{Object: map[string]any{"kind": "Service"}}
	if err := Place(service); err != nil || len(service.Object) != 1 {
		t.Errorf("a Service becomes %v, %v", service.Object, err)
	}
}

func TestBlackHole(t *testing.T) {
	r := &Runner{opts: Options{BlackHole: true}, byIP: map[string]*pod{}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Dial(ctx, "tcp", "10.66.0.9:80"); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		t.Errorf("nobody's address: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := r.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("an address that is no pod's: %v", err)
	}
	conn.Close()
}

// TestAddressOf shows that no pod takes another's address, and that one keeps its own.
func TestAddressOf(t *testing.T) {
	r := &Runner{byIP: map[string]*pod{}, pods: map[types.UID]*pod{}}
	with := func(ip string) *corev1.Pod { return &corev1.Pod{Status: corev1.PodStatus{PodIP: ip}} }
	for _, test := range []struct{ has, want string }{
		{"", "10.66.0.1"}, {"10.66.0.2", "10.66.0.2"}, {"", "10.66.0.3"}, {"10.66.0.3", "10.66.0.4"}, {"10.64.0.1", "10.66.0.5"},
	} {
		got := r.addressOf(with(test.has))
		if got != test.want {
			t.Errorf("a pod with %q gets %s, want %s", test.has, got, test.want)
		}
		r.byIP[got] = &pod{}
	}
	r.given = 1<<16 - 2
	if got := r.addressOf(with("")); got != "10.66.0.6" {
		t.Errorf("after the last address comes %s, want the first free one", got)
	}
}
