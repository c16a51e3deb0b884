package catalog

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	autoscalinginformers "k8s.io/client-go/informers/autoscaling/v2"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
)

// rebuildPause is the least time between two snapshots, so that a thousand
// objects applied at once make a few snapshots and not a thousand.
const rebuildPause = 50 * time.Millisecond

// Pinner is told which requests are in demand because an HPA names them.
type Pinner interface {
	Pin(requests []engine.Request)
}

// Watcher keeps a catalog in step with the ExternalMetrics and HPAs of a cluster.
type Watcher struct {
	catalog  *Catalog
	pinner   Pinner
	defaults Defaults
	objects  cache.SharedIndexInformer
	hpas     cache.SharedIndexInformer
	dirty    chan struct{}
	known    map[types.UID]definition
	onChange func(changed []types.NamespacedName)
}

// definition is what was made of one generation of an object, kept so that only
// the objects that changed are read anew.
type definition struct {
	generation int64
	noData     string
	metric     *Metric
}

// NewWatcher makes a watcher of catalog's contents. Nothing is asked of the API
// server before Run.
func NewWatcher(catalog *Catalog, pinner Pinner, defaults Defaults, kube kubernetes.Interface, custom dynamic.Interface) (*Watcher, error) {
	w := &Watcher{
		catalog:  catalog,
		pinner:   pinner,
		defaults: defaults,
		objects:  dynamicinformer.NewFilteredDynamicInformer(custom, metricsaws.Resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		hpas:     autoscalinginformers.NewHorizontalPodAutoscalerInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{}),
		dirty:    make(chan struct{}, 1),
		known:    make(map[types.UID]definition),
		onChange: func([]types.NamespacedName) {},
	}
	for _, add := range []func() error{
		func() error { return w.objects.SetTransform(toRecord) },
		func() error { return w.hpas.SetTransform(trimHPA) },
		func() error { return w.objects.SetWatchErrorHandlerWithContext(w.noteTrouble("ExternalMetrics")) },
		func() error { return w.hpas.SetWatchErrorHandlerWithContext(w.noteTrouble("HPAs")) },
		func() error { return rebuildOn(w, w.objects, sameDefinition) },
		func() error { return rebuildOn(w, w.hpas, sameDemand) },
	} {
		if err := add(); err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
	}
	return w, nil
}

// Run watches until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	go w.objects.RunWithContext(ctx)
	go w.hpas.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), w.objects.HasSynced, w.hpas.HasSynced) {
		return nil
	}
	w.markDirty()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.dirty:
		}
		w.rebuild(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rebuildPause):
		}
	}
}

// rebuild makes a snapshot of what the informers hold, and pins what HPAs name.
func (w *Watcher) rebuild(ctx context.Context) {
	objects := stored[*record](w.objects)
	metrics := make([]*Metric, 0, len(objects))
	known := make(map[types.UID]definition, len(objects))
	for _, object := range objects {
		d, ok := w.known[object.UID]
		if !ok || !d.describes(object) {
			d = define(object, w.defaults)
		}
		known[object.UID] = d
		metrics = append(metrics, d.metric)
	}
	w.known = known

	before, now := w.catalog.load(), newSnapshot(metrics, w.users())
	w.pinner.Pin(now.inDemand())
	w.catalog.current.Store(now)
	w.onChange(now.changedSince(before))
	klog.FromContext(ctx).V(2).Info("Metrics known", "externalMetrics", len(metrics), "usedByHPAs", len(now.users))
}

// OnChange sets what to call after every snapshot, with the metrics whose
// definition or users changed, the gone ones included. Call it before Run.
func (w *Watcher) OnChange(f func(changed []types.NamespacedName)) { w.onChange = f }

// object is the ExternalMetric of that name as the cluster last showed it, or nil.
// It is shared and must not be written to.
func (w *Watcher) object(name types.NamespacedName) *metricsaws.ExternalMetric {
	o, ok, err := w.objects.GetStore().GetByKey(name.String())
	if err != nil || !ok {
		return nil
	}
	r, ok := o.(*record)
	if !ok {
		return nil
	}
	return r.ExternalMetric
}

func (d definition) describes(object *record) bool {
	return d.generation == object.Generation && d.noData == object.Annotations[metricsaws.AnnotationNoData]
}

func define(object *record, defaults Defaults) definition {
	d := definition{generation: object.Generation, noData: object.Annotations[metricsaws.AnnotationNoData]}
	if object.err != nil {
		d.metric = newMetric(object)
		d.metric.Err = object.err
	} else {
		d.metric = fromExternalMetric(object.ExternalMetric, defaults)
	}
	return d
}

func nameOf(object metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// users are the names of the HPAs that name each external metric, sorted.
func (w *Watcher) users() map[types.NamespacedName][]string {
	users := make(map[types.NamespacedName][]string)
	for _, hpa := range stored[*autoscalingv2.HorizontalPodAutoscaler](w.hpas) {
		for _, metric := range externalNames(hpa) {
			key := types.NamespacedName{Namespace: hpa.Namespace, Name: metric}
			users[key] = append(users[key], hpa.Name)
		}
	}
	for key, names := range users {
		slices.Sort(names)
		users[key] = slices.Compact(names)
	}
	return users
}

func externalNames(hpa *autoscalingv2.HorizontalPodAutoscaler) []string {
	var names []string
	for _, m := range hpa.Spec.Metrics {
		if m.External != nil {
			names = append(names, m.External.Metric.Name)
		}
	}
	return names
}

// objectNames are the names of all ExternalMetrics.
func (w *Watcher) objectNames() []types.NamespacedName {
	objects := stored[*record](w.objects)
	names := make([]types.NamespacedName, len(objects))
	for i, o := range objects {
		names[i] = nameOf(o)
	}
	return names
}

// noteTrouble keeps why objects cannot be read (the CRD is not there, a right is
// missing) for the readiness check. The informer goes on trying.
func (w *Watcher) noteTrouble(kind string) cache.WatchErrorHandlerWithContext {
	return func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
		trouble := fmt.Errorf("%s: %w", kind, err)
		w.catalog.trouble.Store(&trouble)
	}
}

// stored are the objects that an informer of T has seen.
func stored[T any](informer cache.SharedIndexInformer) []T {
	objects := informer.GetStore().List()
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// rebuildOn makes every change of an informer of T lead to a new snapshot, but for
// updates after which the object is the same to the catalog.
func rebuildOn[T any](w *Watcher, informer cache.SharedIndexInformer, same func(before, after T) bool) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.markDirty() },
		UpdateFunc: func(before, after any) {
			b, ok := before.(T)
			a, ok2 := after.(T)
			if !ok || !ok2 || !same(b, a) {
				w.markDirty()
			}
		},
		DeleteFunc: func(any) { w.markDirty() },
	})
	return err
}

func (w *Watcher) markDirty() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// sameDefinition leaves out the updates that this adapter's own status writes cause.
func sameDefinition(before, after *record) bool {
	return before.UID == after.UID && before.Generation == after.Generation &&
		before.Annotations[metricsaws.AnnotationNoData] == after.Annotations[metricsaws.AnnotationNoData]
}

// sameDemand leaves out the status that the HPA controller writes at every sync.
func sameDemand(before, after *autoscalingv2.HorizontalPodAutoscaler) bool {
	return reflect.DeepEqual(before.Spec.Metrics, after.Spec.Metrics)
}

// record is an ExternalMetric as the adapter keeps it. One that does not have the
// types of the schema, as an object from before the schema may, is kept as its
// metadata with the error: it must not keep the others from being read.
type record struct {
	*metricsaws.ExternalMetric
	err error
}

// toRecord also drops what the adapter does not read, to hold more objects in less memory.
func toRecord(o any) (any, error) {
	raw, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	r := &record{ExternalMetric: &metricsaws.ExternalMetric{}}
	r.err = runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, r.ExternalMetric)
	annotations := map[string]string{}
	if noData, set := raw.GetAnnotations()[metricsaws.AnnotationNoData]; set {
		annotations[metricsaws.AnnotationNoData] = noData
	}
	r.ObjectMeta = metav1.ObjectMeta{
		Namespace:       raw.GetNamespace(),
		Name:            raw.GetName(),
		UID:             raw.GetUID(),
		Generation:      raw.GetGeneration(),
		ResourceVersion: raw.GetResourceVersion(),
		Annotations:     annotations,
	}
	return r, nil
}

func trimHPA(o any) (any, error) {
	if hpa, ok := o.(*autoscalingv2.HorizontalPodAutoscaler); ok {
		hpa.ManagedFields, hpa.Labels, hpa.Annotations = nil, nil, nil
		hpa.Spec.Behavior = nil
		hpa.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
	}
	return o, nil
}
