package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/env"
)

// TestNoReadIsLost shows that with two replicas every read through the API server gets its
// value while pods come and go as they are told to.
func TestNoReadIsLost(t *testing.T) {
	b := sharedBed(t)
	for _, test := range []struct {
		name string
		// do ends pods and waits until others have taken their place.
		do func(t *testing.T, pods []corev1.Pod)
	}{
		{"upgrade", func(t *testing.T, pods []corev1.Pod) {
			b.upgrade(t, "--set", "podAnnotations.revision=second")
			b.awaitNew(t, pods, 0)
		}},
		{"rollback", func(t *testing.T, pods []corev1.Pod) {
			if _, err := b.helm(t.Context(), "rollback", release, "--wait", "--timeout", deadline.String()); err != nil {
				t.Fatal(err)
			}
			b.awaitNew(t, pods, 0)
		}},
		{"drained", func(t *testing.T, pods []corev1.Pod) {
			b.drain(t, pods)
			b.awaitNew(t, pods, 0)
		}},
		{"deleted", func(t *testing.T, pods []corev1.Pod) {
			b.remove(t, pods[0], metav1.DeleteOptions{})
			b.awaitNew(t, pods, 1)
		}},
		{"deleted by force", func(t *testing.T, pods []corev1.Pod) {
			b.remove(t, pods[0], metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
			b.awaitNew(t, pods, 1)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pods := b.awaitPods(t)
			l := b.startLoad(t)
			test.do(t, pods)
			l.endWithNoneLost(t)
		})
	}
}

func (b *bed) remove(t *testing.T, pod corev1.Pod, how metav1.DeleteOptions) {
	t.Helper()
	if err := b.Client().CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, how); err != nil {
		t.Fatal(err)
	}
}

// drain evicts one pod after the other, as `kubectl drain` does: again while the
// PodDisruptionBudget does not allow it.
func (b *bed) drain(t *testing.T, pods []corev1.Pod) {
	t.Helper()
	refused := 0
	for _, pod := range pods {
		eventually(t, "eviction of "+pod.Name, func(ctx context.Context) error {
			err := b.Client().PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod.Name}})
			if apierrors.IsTooManyRequests(err) {
				refused++
			}
			return err
		})
	}
	if refused == 0 {
		t.Error("the second pod was evicted while the first had no successor")
	}
}

// TestSuddenEnd shows what readers and HPAs see of a process that ends without a word: for
// as long as the kubelet takes to notice, the API server still calls it, and answers 503 to
// some reads. No read gets another value, and no HPA moves.
func TestSuddenEnd(t *testing.T) {
	b := sharedBed(t)
	for _, test := range []struct {
		name   string
		reason string // why the container ended
		end    func(t *testing.T, c *env.Container)
	}{
		{"killed", "Error", func(t *testing.T, c *env.Container) {
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
		}},
		{"out of memory", "OOMKilled", func(t *testing.T, c *env.Container) {
			eventually(t, "end", func(context.Context) error { return c.Starve() })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.awaitReplicas(t, needed)
			pod := b.awaitPods(t)[0]
			container, err := b.FindContainer(strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://"))
			if err != nil {
				t.Fatal(err)
			}
			generation := b.generation(t)
			l := b.startLoad(t)
			test.end(t, container)
			at := time.Now()
			b.awaitRestart(t, pod, test.reason)
			b.awaitPods(t)
			b.checkOutage(t, l.end(t), at)
			if b.generation(t) != generation {
				t.Error("the HPA has moved")
			}
		})
	}
}

const (
	// notice is how long after a container's end the API server may still call it: the
	// kubelet looks once a second, and tells the API server, which tells those who watch.
	notice = 10 * time.Second
	// before is how late the test may know of the end.
	before = time.Second
)

// checkOutage fails the test if reads were lost in another way or for longer than a sudden
// end excuses.
func (b *bed) checkOutage(t *testing.T, lost []lostRead, end time.Time) {
	t.Helper()
	if len(lost) > 0 {
		t.Logf("the first read was lost %v after the end, the last %v", since(end, lost[0]), since(end, lost[len(lost)-1]))
	}
	for _, l := range lost {
		if after := since(end, l); !l.unavailable() || after < -before || after > notice {
			t.Errorf("lost %v after the end: %v", after, l.err)
		}
	}
	for _, l := range firstOf(lost) {
		t.Logf("lost %v after the end: %v", since(end, l), l.err)
	}
}

func since(end time.Time, l lostRead) time.Duration { return l.at.Sub(end).Round(time.Millisecond) }

// awaitRestart waits until the container of a pod has ended for that reason, once more than
// before.
func (b *bed) awaitRestart(t *testing.T, pod corev1.Pod, reason string) {
	t.Helper()
	eventually(t, "restart", func(ctx context.Context) error {
		now, err := b.Client().CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := now.Status.ContainerStatuses[0]
		last := status.LastTerminationState.Terminated
		if status.RestartCount != pod.Status.ContainerStatuses[0].RestartCount+1 || last == nil || last.Reason != reason {
			return fmt.Errorf("the container's status is %+v, want that it ended by %s", status, reason)
		}
		return nil
	})
}

// generation changes whenever somebody scales the workload.
func (b *bed) generation(t *testing.T) int64 {
	t.Helper()
	d, err := b.Client().AppsV1().Deployments(workloads).Get(t.Context(), "worker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Generation
}
