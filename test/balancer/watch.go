package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	// syncLimit bounds the wait for the first lists.
	syncLimit = time.Minute
	// patchLimit bounds a write of a pod's condition.
	patchLimit = 10 * time.Second
)

// watcher is the cluster, as watches tell it.
type watcher struct {
	opts    Options
	changed chan struct{} // has a word while something changed that nobody looked at

	services, slices, pods, nodes cache.SharedIndexInformer
	running                       sync.WaitGroup
}

func newWatcher(opts Options) *watcher {
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, opts.Service).String()
	}
	ofService := func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: opts.Service}.String()
	}
	return &watcher{
		opts:     opts,
		changed:  make(chan struct{}, 1),
		services: coreinformers.NewFilteredServiceInformer(opts.Client, opts.Namespace, 0, cache.Indexers{}, byName),
		slices:   discoveryinformers.NewFilteredEndpointSliceInformer(opts.Client, opts.Namespace, 0, cache.Indexers{}, ofService),
		pods:     coreinformers.NewPodInformer(opts.Client, opts.Namespace, 0, cache.Indexers{}),
		nodes:    coreinformers.NewNodeInformer(opts.Client, 0, cache.Indexers{}),
	}
}

// start watches until ctx is done, and returns when everything was listed. The caller waits
// for running.
func (w *watcher) start(ctx context.Context) error {
	tell := func(any) {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{w.services, w.slices, w.pods, w.nodes} {
		if err := informer.SetTransform(spare); err != nil {
			return err
		}
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell,
		})
		if err != nil {
			return err
		}
		synced = append(synced, handle.HasSynced)
		w.running.Go(func() { informer.RunWithContext(ctx) })
	}
	limited, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if !cache.WaitForCacheSync(limited.Done(), synced...) {
		return fmt.Errorf("listing Services, EndpointSlices, pods and nodes for Service %s/%s: %w; may they be listed and watched?",
			w.opts.Namespace, w.opts.Service, context.Cause(limited))
	}
	return nil
}

// spare leaves out what is large and of no interest.
func spare(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion},
			Spec:       corev1.PodSpec{NodeName: o.Spec.NodeName, ReadinessGates: o.Spec.ReadinessGates},
			Status:     corev1.PodStatus{Conditions: o.Status.Conditions},
		}, nil
	case *corev1.Node:
		o.ManagedFields, o.Annotations, o.Status.Images = nil, nil, nil
		return o, nil
	default:
		return object, nil
	}
}

func (w *watcher) endpoints() (map[Address]endpoint, error) {
	o := objects{
		slices: list[*discoveryv1.EndpointSlice](w.slices),
		pods:   map[string]*pod{},
		nodes:  map[string]*corev1.Node{},
	}
	for _, s := range list[*corev1.Service](w.services) {
		o.service = s
	}
	for _, p := range list[*corev1.Pod](w.pods) {
		o.pods[p.Name] = newPod(p)
	}
	for _, n := range list[*corev1.Node](w.nodes) {
		o.nodes[n.Name] = n
	}
	return o.endpoints(w.opts)
}

func list[T any](informer cache.SharedIndexInformer) []T {
	var all []T
	for _, o := range informer.GetStore().List() {
		if object, ok := o.(T); ok {
			all = append(all, object)
		}
	}
	return all
}

// setCondition patches what the controller patches: its condition, and the UID, so that
// another pod of the same name is never meant.
func (w *watcher) setCondition(ctx context.Context, p *pod, c corev1.PodCondition) error {
	c.LastTransitionTime = metav1.Now()
	if before := p.condition(c.Type); before != nil && before.Status == c.Status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.uid},
		"status":   map[string]any{"conditions": []corev1.PodCondition{c}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patchLimit)
	defer cancel()
	_, err = w.opts.Client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return err
}
