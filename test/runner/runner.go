// Package runner is a small kubelet: pods that the scheduler places on its nodes become
// processes of this machine, of one program, with the arguments and the environment that
// the pod gives its container.
//
// It does what a kubelet does as far as users of a pod see it. It probes, and writes the
// pod's status by it, readiness gates included; it restarts what ends or is not alive, with
// a pause that grows; it ends a pod with preStop, SIGTERM and, when the grace period is
// over, SIGKILL, and only then is the pod deleted. It has no images, no mounts and no
// networks: a pod's address is made up, what connects to it goes through Dial, and the
// program is told ports of 127.0.0.1 in place of its own.
package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// DefaultPods is how many pods the nodes take together, by default.
	DefaultPods = 64
	// DefaultBackOff is the first pause before a container is started again, by default. A
	// kubelet's is 10 s.
	DefaultBackOff = time.Second
	// maxBackOff is the longest.
	maxBackOff = 30 * time.Second
	// syncLimit bounds the wait for the first list of pods.
	syncLimit = time.Minute
)

// Options say what to run, and where. Config and Program are needed.
type Options struct {
	// Config is an administrator's: the runner does as kubelets do, and asks for tokens.
	Config *rest.Config
	// Program is the path of what every container runs, whatever its image.
	Program string
	// Dir holds what the processes write: logs, and what they take for volumes. It is made
	// if it is not there, and stays.
	Dir string
	// Nodes is how many nodes there are, 1 by default, named runner-0 and so on. They have the
	// label NodeLabel, and a taint of that key: see Place.
	Nodes int
	// Pods bounds how many pods the nodes take together, and so how many processes there
	// are; DefaultPods if 0. The scheduler keeps more of them Pending.
	Pods int
	// BackOff is DefaultBackOff if 0.
	BackOff time.Duration
	// Args are arguments that follow those of the pod, and may name what they may: a path of
	// a mount, $(VARIABLE). It may be nil.
	Args func(pod *corev1.Pod) []string
	// Env are variables, as KEY=value, in the place of the pod's. Of the caller's environment
	// a process gets PATH only.
	Env []string
	// BlackHole has the address of a pod that is gone answer nothing, until the caller's
	// patience is over, as on AWS. Otherwise it is unreachable at once.
	BlackHole bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Config == nil || o.Program == "" || o.Dir == "" {
		return o, errors.New("runner: Config, Program and Dir are needed")
	}
	if _, err := os.Stat(o.Program); err != nil {
		return o, fmt.Errorf("runner: %w", err)
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, fmt.Errorf("runner: %w", err)
	}
	o.Nodes = cmp.Or(o.Nodes, 1)
	o.Pods = max(o.Nodes, cmp.Or(o.Pods, DefaultPods))
	o.BackOff = cmp.Or(o.BackOff, DefaultBackOff)
	if o.Args == nil {
		o.Args = func(*corev1.Pod) []string { return nil }
	}
	return o, os.MkdirAll(o.Dir, 0o700)
}

// Runner runs pods. Its methods may be called at any time and from any goroutine.
type Runner struct {
	opts    Options
	client  kubernetes.Interface
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	pods  map[types.UID]*pod
	byIP  map[string]*pod
	given int // addresses
}

// Start registers the nodes and runs what is placed there until ctx is done or Close is
// called. Pods of an earlier runner are started anew.
func Start(ctx context.Context, opts Options) (*Runner, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	r := &Runner{opts: opts, client: client, pods: map[types.UID]*pod{}, byIP: map[string]*pod{}}
	ctx, r.cancel = context.WithCancel(ctx)
	if err := errors.Join(r.register(ctx), r.watch(ctx)); err != nil {
		r.Close()
		return nil, fmt.Errorf("runner: %w", err)
	}
	return r, nil
}

// Close kills every process and waits for their end. The nodes and pods stay, as those of a
// machine that lost its power.
func (r *Runner) Close() {
	r.cancel()
	r.running.Wait()
}

// watch starts a life for each pod of the nodes, and tells it what becomes of the pod.
func (r *Runner) watch(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(r.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	told, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { r.see(ctx, o) },
		UpdateFunc: func(_, o any) { r.see(ctx, o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			r.miss(o)
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	r.running.Go(func() {
		<-ctx.Done()
		factory.Shutdown()
	})
	within, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if !cache.WaitForCacheSync(within.Done(), told.HasSynced) {
		return errors.New("the API server does not list the pods")
	}
	return nil
}

// see takes notice of a pod as it is now.
func (r *Runner) see(ctx context.Context, o any) {
	object, ok := o.(*corev1.Pod)
	if !ok || !r.ours(object.Spec.NodeName) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[object.UID]; p != nil {
		p.update(object)
		return
	}
	if over(object) || ctx.Err() != nil {
		return
	}
	p := newPod(r, object, r.addressOf(object))
	r.pods[object.UID], r.byIP[p.ip] = p, p
	r.running.Go(func() {
		p.live(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.pods, object.UID)
		delete(r.byIP, p.ip)
	})
}

// miss takes notice that there is no such pod any more.
func (r *Runner) miss(o any) {
	object, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[object.UID]; p != nil {
		p.vanish()
	}
}

// over says whether a pod has done what it was for.
func over(object *corev1.Pod) bool {
	return object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed
}

// State is how it is with a pod.
type State struct {
	Namespace, Name string
	// IP is the pod's own, which Dial knows.
	IP string
	// PID is of its process, 0 while there is none.
	PID int
	// Restarts is how often the process was started again.
	Restarts int
	// Ready is what its readiness probe says, whatever its gates say.
	Ready bool
	// Log is the file with what its processes wrote.
	Log string
}

// Pods are all that the runner runs, by their namespaces and names.
func (r *Runner) Pods() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]State, 0, len(r.pods))
	for _, p := range r.pods {
		all = append(all, p.state())
	}
	slices.SortFunc(all, func(a, b State) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return all
}

// Kill sends SIGKILL to a pod's process, as the kernel does that is out of memory. The pod
// stays, and starts it again.
func (r *Runner) Kill(namespace, name string) error {
	p, err := r.find(namespace, name)
	if err != nil {
		return err
	}
	if current := p.current(); current != nil {
		return current.signal(syscall.SIGKILL)
	}
	return fmt.Errorf("pod %s/%s has no process now", namespace, name)
}

// find is the pod of a name: the newest, as one that ends may have the same.
func (r *Runner) find(namespace, name string) (*pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *pod
	for _, p := range r.pods {
		if o := p.now(); o.Namespace == namespace && o.Name == name && (found == nil || found.since.Before(p.since)) {
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no pod %s/%s runs here", namespace, name)
	}
	return found, nil
}
