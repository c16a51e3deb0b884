package scale

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
)

// An instance of the size t3.medium has addresses for 17 pods, unless maxPodsPerNode says
// otherwise, see https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html
const (
	fewPods  = 17
	manyPods = 110
)

// tooMany is what the scheduler says of nodes that have all the pods they may have.
var tooMany = regexp.MustCompile(`0/3 nodes are available: 3 (Too many pods|Insufficient pods)`)

// Row B11. Seventy pods do not fit on three nodes of 17 pods, whatever their size, and do on
// nodes of 110.
func TestMaxPodsPerNode(t *testing.T) {
	t.Parallel()
	const nodes, replicas = 3, 70
	c := startCluster(t, nodes)
	allow(t, c, fewPods)
	deploy(t, c, tier{metav1.NamespaceDefault, "review"}, replicas, limitedOnly)

	var note string
	eventually(t, "pods beside full nodes", func(ctx context.Context) error {
		running, pending, err := count(ctx, c)
		if err != nil {
			return err
		}
		if running != nodes*fewPods || len(pending) != replicas-nodes*fewPods {
			return fmt.Errorf("%d pods run and %d do not, want %d and %d", running, len(pending), nodes*fewPods, replicas-nodes*fewPods)
		}
		for _, pod := range pending {
			if err := unschedulable(&pod); err != nil {
				return err
			}
		}
		note, err = failedScheduling(ctx, c)
		return err
	})
	t.Logf("%d nodes of %d pods: %d of %d run; the scheduler: %s", nodes, fewPods, nodes*fewPods, replicas, note)

	allow(t, c, manyPods)
	eventually(t, "all pods", func(ctx context.Context) error {
		running, _, err := count(ctx, c)
		if err == nil && running != replicas {
			err = fmt.Errorf("%d pods run, want %d", running, replicas)
		}
		return err
	})
	t.Logf("%d nodes of %d pods: %d of %d run", nodes, manyPods, replicas, replicas)
}

// limited is a resource that nodes have once allow has said how many pods they may have. Who
// requests it is not placed by what the scheduler knew of them before.
const limited corev1.ResourceName = "tidegauge.dev/limited"

var limitedOnly = corev1.ResourceRequirements{
	Requests: corev1.ResourceList{limited: resource.MustParse("1")},
	Limits:   corev1.ResourceList{limited: resource.MustParse("1")},
}

// allow says how many pods each node may have, as a kubelet with --max-pods does.
func allow(t *testing.T, c *env.Cluster, pods int) {
	t.Helper()
	list, err := c.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	room := fmt.Sprintf(`{"pods": "%d", %q: "1000"}`, pods, limited)
	patch := fmt.Appendf(nil, `{"status": {"capacity": %s, "allocatable": %s}}`, room, room)
	for _, node := range list.Items {
		_, err := c.Client().CoreV1().Nodes().Patch(t.Context(), node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
	}
}

// deploy creates a Deployment of pods that request that much each.
func deploy(t *testing.T, c *env.Cluster, of tier, replicas int32, each corev1.ResourceRequirements) {
	t.Helper()
	has := map[string]string{"app": of.name}
	_, err := c.Client().AppsV1().Deployments(of.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: of.name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: has},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: has},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1.0", Resources: each}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// count says how many pods run, and which do not.
func count(ctx context.Context, c *env.Cluster) (running int, pending []corev1.Pod, err error) {
	pods, err := c.Client().CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, nil, err
	}
	for _, pod := range pods.Items {
		if pod.Status.Phase == corev1.PodRunning {
			running++
		} else {
			pending = append(pending, pod)
		}
	}
	return running, pending, nil
}

// unschedulable is nil if the scheduler says of a pod that the nodes are full.
func unschedulable(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodScheduled {
			continue
		}
		if pod.Status.Phase == corev1.PodPending && c.Reason == corev1.PodReasonUnschedulable && tooMany.MatchString(c.Message) {
			return nil
		}
		return fmt.Errorf("%s is %s: %s: %s", pod.Name, pod.Status.Phase, c.Reason, c.Message)
	}
	return fmt.Errorf("%s has no condition %s yet", pod.Name, corev1.PodScheduled)
}

// failedScheduling is what an Event of the scheduler says of the nodes.
func failedScheduling(ctx context.Context, c *env.Cluster) (string, error) {
	events, err := c.Client().EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var notes []string
	for _, e := range events.Items {
		if e.Reason != "FailedScheduling" {
			continue
		}
		if tooMany.MatchString(e.Note) {
			return e.Note, nil
		}
		notes = append(notes, e.Note)
	}
	return "", fmt.Errorf("no Event FailedScheduling says %q, but: %s", tooMany, strings.Join(notes, "; "))
}
