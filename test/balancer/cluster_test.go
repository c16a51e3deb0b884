package balancer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

const gatedDeployment = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {tidegauge.dev/played: by-the-test}
      readinessGates: [{conditionType: target-health.elbv2.k8s.aws/web}]
      containers: [{name: web, image: web, ports: [{name: http, containerPort: 8080}]}]
`

// TestGatedPodsOfARealControlPlane shows row B19: the pods of a Deployment with a readiness
// gate are not ready, and the Deployment is not available, until their targets are healthy.
// The API server, the Deployment, and the EndpointSlices are real.
func TestGatedPodsOfARealControlPlane(t *testing.T) {
	c := testcluster.Start(t, env.Options{Dir: t.TempDir()})
	k := startKubelet(t, c.Client())
	if err := c.Apply(t.Context(), []byte(gatedDeployment)); err != nil {
		t.Fatal(err)
	}
	k.await(t, nil, "3 pods run", func() bool { return len(k.pods(t)) == 3 && k.count(t, corev1.ContainersReady) == 3 })
	if n := k.count(t, corev1.PodReady); n != 0 {
		t.Errorf("%d gated pods are ready before there is a balancer, want none", n)
	}

	var ill sync.Map
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, is := ill.Load(r.URL.Path); is {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer app.Close()
	ill.Store("/healthz", true)
	opts := Defaults()
	opts.Client, opts.Namespace, opts.Service, opts.Port = c.Client(), "shop", "web", "http"
	opts.Health.Interval, opts.Health.Timeout = time.Second, 500*time.Millisecond
	opts.Requeue, opts.RegistrationLag, opts.DeregistrationDelay = 500*time.Millisecond, 500*time.Millisecond, 5*time.Second
	opts.Dial = to(app)
	b, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	k.await(t, b, "3 targets are unhealthy", func() bool { return b.Snapshot().Hosts(Unhealthy) == 3 })
	k.await(t, b, "the gates say why", func() bool {
		for _, p := range k.pods(t) {
			gate := newPod(&p).condition(webGate)
			if gate == nil || gate.Status != corev1.ConditionFalse || gate.Reason != "Target.ResponseCodeMismatch" ||
				gate.Message != "Health checks failed with these codes: [503]" {
				return false
			}
		}
		return true
	})
	if n := k.count(t, corev1.PodReady); n != 0 {
		t.Errorf("%d pods are ready while their targets are unhealthy, want none", n)
	}
	if got := available(t, c.Client()); got != 0 {
		t.Errorf("the Deployment has %d available, want 0", got)
	}

	ill.Clear()
	k.await(t, b, "3 pods are ready", func() bool { return k.count(t, webGate) == 3 && k.count(t, corev1.PodReady) == 3 })
	k.await(t, b, "3 pods are available", func() bool { return available(t, c.Client()) == 3 })
	if code, _ := fetch(t, b.URL()); code != http.StatusOK {
		t.Errorf("a request is answered by %d, want 200", code)
	}

	if err := c.Client().CoreV1().Pods("shop").Delete(t.Context(), k.pods(t)[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	k.await(t, b, "the target of the pod that terminates drains", func() bool { return b.Snapshot().Hosts(Draining) == 1 })
	k.await(t, b, "its successor takes its place", func() bool {
		s := b.Snapshot()
		return len(s.Targets) == 3 && s.Hosts(Healthy) == 3 && k.count(t, corev1.PodReady) == 3
	})
	if s := b.Snapshot(); s.Problem != "" {
		t.Errorf("problem: %s", s.Problem)
	}
}

func available(t *testing.T, client kubernetes.Interface) int32 {
	t.Helper()
	d, err := client.AppsV1().Deployments("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Status.AvailableReplicas
}

// kubelet plays a node of its own, to which the gates matter: a pod runs at once, and is
// ready when all of its gates are open, see
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate.
type kubelet struct {
	client kubernetes.Interface
	given  map[types.UID]string // addresses
}

const playedNode = "played"

func startKubelet(t *testing.T, client kubernetes.Interface) *kubelet {
	t.Helper()
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("100")}
	node := nodeOf(playedNode, "10.98.0.1", corev1.ConditionTrue, func(n *corev1.Node) {
		n.Labels["tidegauge.dev/played"] = "by-the-test"
		n.Status.Capacity, n.Status.Allocatable = capacity, capacity
	})
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k := &kubelet{client: client, given: map[types.UID]string{}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if err := k.sync(ctx); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
				t.Logf("played kubelet: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return k
}

func (k *kubelet) sync(ctx context.Context) error {
	beat := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Played","lastHeartbeatTime":%q}]}}`,
		time.Now().UTC().Format(time.RFC3339))
	if _, err := k.client.CoreV1().Nodes().Patch(ctx, playedNode, types.StrategicMergePatchType, beat, metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	list, err := k.client.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + playedNode})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if err := k.syncPod(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (k *kubelet) syncPod(ctx context.Context, p *corev1.Pod) error {
	if p.DeletionTimestamp != nil {
		// It takes a second to end.
		if time.Since(p.DeletionTimestamp.Time)+time.Duration(*p.DeletionGracePeriodSeconds)*time.Second < time.Second {
			return nil
		}
		return k.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}
	for _, gate := range p.Spec.ReadinessGates {
		if c := newPod(p).condition(gate.ConditionType); c == nil || c.Status != corev1.ConditionTrue {
			ready.Status, ready.Reason = corev1.ConditionFalse, "ReadinessGatesNotReady"
		}
	}
	if before := newPod(p).condition(corev1.PodReady); p.Status.Phase == corev1.PodRunning && before != nil && before.Status == ready.Status {
		return nil
	}
	if k.given[p.UID] == "" {
		k.given[p.UID] = fmt.Sprintf("10.97.0.%d", len(k.given)+1)
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"phase": corev1.PodRunning, "podIP": k.given[p.UID], "podIPs": []corev1.PodIP{{IP: k.given[p.UID]}},
		"conditions": []corev1.PodCondition{ready, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
	}})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// await waits for something that a whole control plane has to do.
func (k *kubelet) await(t *testing.T, b *Balancer, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !holds(); <-time.After(100 * time.Millisecond) {
		if time.Now().Before(end) {
			continue
		}
		for _, p := range k.pods(t) {
			t.Logf("pod %s on %s at %q: %+v", p.Name, p.Spec.NodeName, p.Status.PodIP, p.Status.Conditions)
		}
		if b != nil {
			t.Logf("balancer: %+v", b.Snapshot())
		}
		t.Fatalf("%s: not within 3 minutes", what)
	}
}

// pods are those that do not terminate.
func (k *kubelet) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := k.client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pods []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && strings.HasPrefix(p.Name, "web-") {
			pods = append(pods, p)
		}
	}
	return pods
}

// count is how many pods have a condition that is True.
func (k *kubelet) count(t *testing.T, kind corev1.PodConditionType) int {
	t.Helper()
	n := 0
	for _, p := range k.pods(t) {
		if c := newPod(&p).condition(kind); c != nil && c.Status == corev1.ConditionTrue {
			n++
		}
	}
	return n
}
