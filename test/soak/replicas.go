package soak

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// sweep is how often what is known of all replicas is looked at beside every change.
const sweep = time.Second

// span is what a number of replicas may be.
type span struct{ least, most int32 }

// replicas are the numbers of the Deployments and the HPAs, and what they may be.
type replicas struct {
	mu      sync.Mutex
	allowed map[string]span
	// deployments and hpas are the last that were seen. What an HPA wants is not known
	// until it has computed.
	deployments, hpas map[string]int32
}

func newReplicas() *replicas {
	return &replicas{allowed: map[string]span{}, deployments: map[string]int32{}, hpas: map[string]int32{}}
}

// hold says that the number of a workload has to be n from now on.
func (r *replicas) hold(name string, n int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed[name] = span{n, n}
}

// change says that the number of a workload may be any up to or down to n.
func (r *replicas) change(name string, n int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.allowed[name]
	r.allowed[name] = span{min(s.least, n), max(s.most, n)}
}

// release says that nothing is known of the number of a workload.
func (r *replicas) release(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.allowed, name)
	delete(r.deployments, name)
	delete(r.hpas, name)
}

// ofDeployment takes the number of a Deployment. The error says that it may not be that.
func (r *replicas) ofDeployment(name string, n int32) error {
	return r.saw(r.deployments, "Deployment", name, n)
}

// ofHPA takes the number that an HPA wants.
func (r *replicas) ofHPA(name string, n int32) error {
	return r.saw(r.hpas, "HPA", name, n)
}

func (r *replicas) saw(in map[string]int32, what, name string, n int32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.allowed[name]
	if !ok {
		return nil
	}
	before, known := in[name]
	in[name] = n
	if n >= s.least && n <= s.most || known && before == n {
		return nil // What does not change was told of.
	}
	was := "unknown"
	if known {
		was = strconv.Itoa(int(before))
	}
	if s.least == s.most {
		return fmt.Errorf("%s %s has %d replicas, and had %s; the demand is for %d", what, name, n, was, s.least)
	}
	return fmt.Errorf("%s %s has %d replicas, and had %s; the demand goes from %d to %d or back", what, name, n, was, s.least, s.most)
}

// reached is nil if both the Deployment and the HPA of a workload have the number.
func (r *replicas) reached(name string, n int32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, h := r.deployments[name], r.hpas[name]; d != n || h != n {
		return fmt.Errorf("the HPA wants %d, the Deployment has %d, the demand is for %d", h, d, n)
	}
	return nil
}

// pods are those that run, by workload, with the time of their start.
type pods struct {
	mu   sync.Mutex
	runs map[string]map[string]time.Time
}

// see takes a pod as it is now; gone says that it is not there any more.
func (p *pods) see(pod *corev1.Pod, now time.Time) {
	p.set(pod, pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil, now)
}

func (p *pods) gone(pod *corev1.Pod) { p.set(pod, false, time.Time{}) }

func (p *pods) set(pod *corev1.Pod, runs bool, now time.Time) { //nolint:revive // Each of its callers knows.
	p.mu.Lock()
	defer p.mu.Unlock()
	app := pod.Labels["app"]
	if p.runs[app] == nil {
		p.runs[app] = map[string]time.Time{}
	}
	_, known := p.runs[app][pod.Name]
	switch {
	case !runs:
		delete(p.runs[app], pod.Name)
	case !known:
		p.runs[app][pod.Name] = now
	}
}

// of are the names of a workload's pods.
func (p *pods) of(name string) []string { return p.throughout(name, time.Time{}) }

// throughout are the names of a workload's pods that run since a time; since ever if that
// is zero.
func (p *pods) throughout(name string, since time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for pod, began := range p.runs[name] {
		if since.IsZero() || began.Before(since) {
			names = append(names, pod)
		}
	}
	slices.Sort(names)
	return names
}

// watch takes note of all pods, Deployments and HPAs until ctx is done.
func (b *bed) watch(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(b.Client(), 0, informers.WithNamespace(namespace))
	all := []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(),
		factory.Apps().V1().Deployments().Informer(),
		factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
	}
	for _, informer := range all {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    b.see,
			UpdateFunc: func(_, now any) { b.see(now) },
			DeleteFunc: b.forget,
		})
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	b.running.Go(func() {
		tick := time.NewTicker(sweep)
		defer tick.Stop()
		for ctx.Err() == nil {
			for _, informer := range all[1:] {
				for _, o := range informer.GetStore().List() {
					b.see(o)
				}
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		factory.Shutdown()
	})
	return context.Cause(ctx)
}

// see takes an object as it is now.
func (b *bed) see(object any) {
	switch o := object.(type) {
	case *corev1.Pod:
		b.pods.see(o, time.Now())
	case *appsv1.Deployment:
		b.tally.check(steady, b.replicas.ofDeployment(o.Name, *o.Spec.Replicas))
	case *autoscalingv2.HorizontalPodAutoscaler:
		if computed(o) {
			b.tally.check(steady, b.replicas.ofHPA(o.Name, o.Status.DesiredReplicas))
		}
	}
}

// computed says whether an HPA has ever computed what it wants. Before that it says 0, and
// if its metric cannot be read, it shows one without a type
// (k8s.io/kubernetes/pkg/controller/podautoscaler).
func computed(o *autoscalingv2.HorizontalPodAutoscaler) bool {
	return o.Status.DesiredReplicas > 0 || o.Status.LastScaleTime != nil ||
		slices.ContainsFunc(o.Status.CurrentMetrics, func(m autoscalingv2.MetricStatus) bool { return m.Type != "" })
}

// forget takes an object that is gone.
func (b *bed) forget(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if pod, ok := object.(*corev1.Pod); ok {
		b.pods.gone(pod)
	}
}
