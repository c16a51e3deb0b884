package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// TestMemoryNearLimit shows that replicas whose memory comes near its limit are restarted
// before the kernel kills them, one after the other, that no read is lost by that, and that
// their last words say why.
func TestMemoryNearLimit(t *testing.T) {
	b := sharedBed(t)
	pods := b.renew(t)
	generation := b.generation(t)
	l := b.startLoad(t)
	var squeezed []*squeeze
	for _, pod := range pods {
		squeezed = append(squeezed, b.squeeze(t, pod))
	}
	eventually(t, "restart", func(ctx context.Context) error {
		var errs []error
		for _, s := range squeezed {
			errs = append(errs, s.tighten(ctx, t))
		}
		return errors.Join(errs...)
	})
	b.awaitPods(t)
	l.endWithNoneLost(t)
	for _, s := range squeezed {
		s.check(t)
	}
	if b.generation(t) != generation {
		t.Error("the HPA has moved")
	}
}

// renew has new pods, as one that was restarted is restarted again only after minutes, and
// returns them once they have run for long enough. The first lets no other go first.
func (b *bed) renew(t *testing.T) []corev1.Pod {
	t.Helper()
	for _, old := range b.awaitPods(t) {
		b.remove(t, old, metav1.DeleteOptions{})
	}
	b.awaitServing(t)
	b.awaitReplicas(t, needed)
	pods := b.awaitPods(t)
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, pod := range pods {
		eventually(t, "uptime", func(context.Context) error {
			if up := time.Since(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time); up < uptime {
				return fmt.Errorf("the container has run for %v", up)
			}
			return nil
		})
	}
	return pods
}

// uptime is how long the adapter must have run before it stops for its memory's sake.
const uptime = time.Minute

// squeeze is a container that is left little memory.
type squeeze struct {
	*bed

	pod       corev1.Pod
	container *env.Container
	limit     int // at first
}

// held is what a container holds besides its process's own some 20 MiB, so that the 5% of the
// limit within which it has to act are MiB, as they are of the chart's limit, and not less
// than all reads at once may take.
const held = 128 << 20

func (b *bed) squeeze(t *testing.T, pod corev1.Pod) *squeeze {
	t.Helper()
	c := b.container(t, pod)
	_, limit, err := c.Memory()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := c.Hold(t.Context(), held)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = memory.Close() })
	return &squeeze{bed: b, pod: pod, container: c, limit: limit}
}

// tighten leaves the container no more than some 4% besides what it has, again whenever it has
// made room until it turns not ready, and returns nil once it has ended.
func (s *squeeze) tighten(ctx context.Context, t *testing.T) error {
	t.Helper()
	now, err := s.Client().CoreV1().Pods(namespace).Get(ctx, s.pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if restarts := now.Status.ContainerStatuses[0].RestartCount; restarts > 0 {
		return nil
	}
	if !isReady(*now) {
		return fmt.Errorf("%s is not ready, and goes on", s.pod.Name)
	}
	used, limit, err := s.container.Memory()
	if err != nil {
		return err
	}
	if float64(used) < 0.952*float64(limit) {
		limit = int(float64(used) / 0.958)
		t.Logf("%s: %d KiB are in use, the limit is %d KiB", s.pod.Name, used>>10, limit>>10)
		if err := s.container.LimitMemory(limit); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s is ready with %d of %d bytes", s.pod.Name, used, limit)
}

// check fails the test if the container did not end by itself and say why, or if the one
// after it has another limit than it had at first.
func (s *squeeze) check(t *testing.T) {
	t.Helper()
	now, err := s.Client().CoreV1().Pods(namespace).Get(t.Context(), s.pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status := now.Status.ContainerStatuses[0]
	if last := status.LastTerminationState.Terminated; status.RestartCount != 1 || last.Reason != "Error" || last.ExitCode != 1 {
		t.Errorf("%s was restarted %d times, and ended with %+v", s.pod.Name, status.RestartCount, last)
	}
	log, err := s.Kubectl(t.Context(), "", "logs", "-n", namespace, s.pod.Name, "--previous", "--tail=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(log)
	for _, want := range []string{"adapter: memory: ", " of the container's limit of ", " queries", "resources.limits.memory"} {
		if !strings.Contains(log, want) {
			t.Errorf("the last line of the log lacks %q: %s", want, log)
		}
	}
	if _, got, err := s.bed.container(t, *now).Memory(); err != nil || got != s.limit {
		t.Errorf("the next container may have %d bytes, want %d (%v)", got, s.limit, err)
	}
}

// container is that of a pod.
func (b *bed) container(t *testing.T, pod corev1.Pod) *env.Container {
	t.Helper()
	c, err := b.FindContainer(strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://"))
	if err != nil {
		t.Fatal(err)
	}
	return c
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
			container := b.container(t, pod)
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
