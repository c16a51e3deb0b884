package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	// leastGrace is what a container gets after preStop, if the grace period is over already,
	// see https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow.
	leastGrace = 2 * time.Second
	// writeEvery is the pause after a status that the API server did not take.
	writeEvery = time.Second
	// writeLimit bounds one request to the API server.
	writeLimit = 10 * time.Second
	// stable is how long a process has to run for the next pause to be the first again: a
	// kubelet's is 10 minutes, of 10 s.
	stable = 60
)

// pod is a pod that is placed here, until it is deleted or over.
type pod struct {
	runner *Runner
	ip     string
	since  time.Time
	// changed is sent to when something is to be looked at again; it holds one.
	changed chan struct{}
	// gone is closed when there is no such pod any more.
	gone chan struct{}

	mu       sync.Mutex
	object   *corev1.Pod
	vanished bool
	process  *process // nil before the first
	// running says that process has been started, and that its end has not been seen.
	running  bool
	restarts int32
	last     *process // before process
	waiting  error    // why there is no process, nil if it just ended
	pause    time.Duration
	verdict  verdict
	finished corev1.PodPhase // Succeeded or Failed, once it is

	// Only live looks at these.
	retry   *time.Timer // to start
	again   *time.Timer // to write
	probing context.CancelFunc
	written written
}

func newPod(r *Runner, object *corev1.Pod, ip string) *pod {
	p := &pod{
		runner: r, ip: ip, since: time.Now(), object: object, retry: time.NewTimer(0),
		changed: make(chan struct{}, 1), gone: make(chan struct{}), probing: func() {},
	}
	p.again = time.AfterFunc(time.Hour, p.kick)
	p.again.Stop()
	return p
}

// now is the pod's object as it was last seen.
func (p *pod) now() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

func (p *pod) container() *corev1.Container { return &p.now().Spec.Containers[0] }

func (p *pod) logFile() string {
	o := p.now()
	return filepath.Join(p.runner.opts.Dir, "logs", o.Namespace+"_"+o.Name+".log")
}

// current is the process that runs, or nil.
func (p *pod) current() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		return nil
	}
	return p.process
}

func (p *pod) state() State {
	log := p.logFile()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		Namespace: p.object.Namespace, Name: p.object.Name, IP: p.ip, Restarts: int(p.restarts), Log: log,
		Ready: p.running && p.verdict.ready,
	}
	if p.running {
		s.PID = p.process.pid
	}
	return s
}

// real is the address of this machine for a port of the pod. A port on which nobody listens
// refuses, as that of any pod does.
func (p *pod) real(port int32) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		if to, ok := p.process.ports[port]; ok {
			return loopback(to), nil
		}
	}
	return "", syscall.ECONNREFUSED
}

func (p *pod) update(object *corev1.Pod) {
	p.mu.Lock()
	p.object = object
	p.mu.Unlock()
	p.kick()
}

// vanish is called with the runner's lock, and may be called twice.
func (p *pod) vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.vanished {
		p.vanished = true
		close(p.gone)
	}
}

// kick has live look again.
func (p *pod) kick() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// live runs the pod until it is deleted, over or gone, or ctx is done.
func (p *pod) live(ctx context.Context) {
	defer p.retry.Stop()
	defer p.again.Stop()
	defer p.kill()
	for {
		if p.now().DeletionTimestamp != nil {
			p.end(ctx)
			return
		}
		p.write(ctx)
		if p.phase() != "" {
			return
		}
		var done <-chan struct{}
		if current := p.current(); current != nil {
			done = current.done
		}
		select {
		case <-ctx.Done():
			return
		case <-p.gone:
			return
		case <-p.changed:
			if p.ailing() {
				p.restart(ctx)
			}
		case <-done:
			p.ended()
		case <-p.retry.C:
			if done == nil {
				p.start(ctx)
			}
		}
	}
}

func (p *pod) phase() corev1.PodPhase {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finished
}

// ailing says whether the process is to be started again, as it is not alive.
func (p *pod) ailing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running && p.verdict.dead
}

// start gives the pod a process, or a reason why it waits for one.
func (p *pod) start(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	l, err := p.prepare(within)
	var next *process
	if err == nil {
		if next, err = start(l); err != nil {
			givePorts(l.ports)
		}
	}
	if err != nil {
		p.mu.Lock()
		p.waiting = err
		p.mu.Unlock()
		p.retry.Reset(p.runner.opts.BackOff)
		return
	}
	var probes context.Context
	probes, p.probing = context.WithCancel(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		p.restarts++
		p.last = p.process
	}
	p.process, p.running, p.waiting = next, true, nil
	c := &p.object.Spec.Containers[0]
	p.verdict = verdict{started: c.StartupProbe == nil, ready: c.ReadinessProbe == nil && c.StartupProbe == nil}
	p.runner.running.Go(func() { p.probe(probes, next, c) })
}

// ended takes notice of the end of the process, and says what comes after it.
func (p *pod) ended() {
	p.probing()
	p.mu.Lock()
	defer p.mu.Unlock()
	givePorts(p.process.ports)
	p.running, p.verdict = false, verdict{}
	code, _ := p.process.exitCode()
	switch policy := p.object.Spec.RestartPolicy; {
	case policy == corev1.RestartPolicyNever && code != 0:
		p.finished = corev1.PodFailed
		return
	case policy != corev1.RestartPolicyAlways && policy != "" && code == 0:
		p.finished = corev1.PodSucceeded
		return
	}
	first := p.runner.opts.BackOff
	ran := p.process.ended.Sub(p.process.started)
	switch {
	case p.restarts == 0 || ran >= stable*first:
		// As a kubelet does, at once the first time.
		p.pause = 0
	case p.pause == 0:
		p.pause = first
	default:
		p.pause = min(2*p.pause, max(first, maxBackOff))
	}
	p.retry.Reset(p.pause)
}

// kill ends what still runs.
func (p *pod) kill() {
	p.probing()
	if current := p.current(); current != nil {
		if err := current.signal(syscall.SIGKILL); err == nil {
			<-current.done
		}
		p.mu.Lock()
		p.running = false
		givePorts(p.process.ports)
		p.mu.Unlock()
	}
}

// restart ends a process that is not alive, with all that it is due.
func (p *pod) restart(ctx context.Context) {
	current := p.current()
	grace := time.Duration(*cmp.Or(p.now().Spec.TerminationGracePeriodSeconds, new(int64(corev1.DefaultTerminationGracePeriodSeconds)))) * time.Second
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	p.terminate(ctx, current, p.gone)
	<-current.done
	p.ended()
}

// end ends the process as the pod's deletion says, and then has the pod deleted.
func (p *pod) end(ctx context.Context) {
	if current := p.current(); current != nil && !p.finish(ctx, current) {
		return
	}
	// Nothing can be said to a pod whose time is over but that it is.
	for ctx.Err() == nil {
		err := p.remove(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "A pod that ended was not deleted", "pod", klog.KObj(p.now()))
		}
		select {
		case <-p.gone:
			return
		case <-ctx.Done():
		case <-time.After(writeEvery):
		}
	}
}

// finish waits for the end of the process, in the time that the deletion gives it, which a
// later one may make shorter. Readiness is looked at all the while. It returns false when
// nobody wants to know any more.
func (p *pod) finish(ctx context.Context, current *process) bool {
	deadline, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	late := time.AfterFunc(p.grace(), cancel)
	defer late.Stop()
	stopped := make(chan struct{})
	p.runner.running.Go(func() {
		defer close(stopped)
		p.terminate(deadline, current, p.gone)
	})
	for {
		p.write(ctx)
		select {
		case <-p.changed:
			late.Reset(p.grace() - time.Since(began))
		case <-current.done:
			<-stopped
			p.ended()
			p.write(ctx)
			return true
		case <-p.gone:
			cancel()
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// grace is how long the deletion gives the pod.
func (p *pod) grace() time.Duration {
	o := p.now()
	seconds := cmp.Or(o.DeletionGracePeriodSeconds, o.Spec.TerminationGracePeriodSeconds, new(int64(corev1.DefaultTerminationGracePeriodSeconds)))
	return time.Duration(*seconds) * time.Second
}

// terminate runs the hook, asks the process to end, and kills it when ctx is done.
func (p *pod) terminate(ctx context.Context, current *process, gone <-chan struct{}) {
	if err := p.preStop(ctx, current); err != nil {
		klog.FromContext(ctx).Info("preStop failed", "pod", klog.KObj(p.now()), "err", err)
	}
	if err := current.signal(syscall.SIGTERM); err != nil {
		klog.FromContext(ctx).Error(err, "A process was not told to end", "pod", klog.KObj(p.now()))
	}
	least := time.NewTimer(leastGrace)
	defer least.Stop()
	select {
	case <-current.done:
		return
	case <-gone:
	case <-ctx.Done():
		select {
		case <-current.done:
			return
		case <-gone:
		case <-least.C:
		}
	}
	if err := current.signal(syscall.SIGKILL); err != nil {
		klog.FromContext(ctx).Error(err, "A process was not killed", "pod", klog.KObj(p.now()))
	}
}

// preStop runs the pod's hook. It is over when the hook is, the process ended or ctx is done.
func (p *pod) preStop(ctx context.Context, current *process) error {
	c := p.container()
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-current.done:
			cancel()
		case <-over:
		}
	}()
	hook := c.Lifecycle.PreStop
	if hook.Sleep != nil {
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	}
	return p.get(ctx, current, c, hook.HTTPGet)
}

// remove deletes the pod's object, as its process has ended.
func (p *pod) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	o := p.now()
	err := p.runner.client.CoreV1().Pods(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &o.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("pod %s/%s: %w", o.Namespace, o.Name, err)
	}
	return errors.Join(os.RemoveAll(filepath.Join(p.runner.opts.Dir, "pods", string(o.UID))))
}

// gatesOpen says whether the conditions are there for which the pod waits before it is ready.
func gatesOpen(o *corev1.Pod) bool {
	return !slices.ContainsFunc(o.Spec.ReadinessGates, func(gate corev1.PodReadinessGate) bool {
		return !slices.ContainsFunc(o.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == corev1.ConditionTrue
		})
	})
}
