package catalog

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
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

const (
	// rebuildPause is the least time between two snapshots, so that a thousand
	// objects applied at once make a few snapshots and not a thousand.
	rebuildPause = 50 * time.Millisecond
	// settleEvery is how often to look whether the first snapshot can be made.
	settleEvery = 100 * time.Millisecond
	// resizeEvery is how often the plan follows the number of pods of HPAs.
	resizeEvery = 5 * time.Second
	// replanEvery is how often it follows what shows in no HPA: how many objects there
	// are, and which resources.
	replanEvery = 30 * time.Second
)

// Pinner is told which requests are in demand because an HPA names them.
type Pinner interface {
	Pin(requests []engine.Request)
}

// WatcherOptions are what a Watcher needs.
type WatcherOptions struct {
	// Catalog is what the watcher fills.
	Catalog *Catalog
	// Pinner is told what is in demand.
	Pinner Pinner
	// Defaults hold for ExternalMetrics that do not say.
	Defaults Defaults
	// Kube and Custom are the clients by which HPAs and ExternalMetrics are read.
	Kube   kubernetes.Interface
	Custom dynamic.Interface
	// Planner and Mapper turn what HPAs ask of rules into requests. Without a Planner
	// only ExternalMetrics are in demand before they are read.
	Planner Planner
	Mapper  KindMapper
}

// Watcher keeps a catalog in step with the ExternalMetrics and HPAs of a cluster, and
// the engine with what the HPAs ask.
type Watcher struct {
	catalog  *Catalog
	pinner   Pinner
	defaults Defaults
	// renewed are defaults that take the place of those at the next snapshot.
	renewed  atomic.Pointer[Defaults]
	planner  Planner
	mapper   KindMapper
	objects  cache.SharedIndexInformer
	hpas     cache.SharedIndexInformer
	dirty    chan struct{}
	resized  atomic.Bool
	known    map[types.UID]definition
	shadowed map[types.NamespacedName]string
	onChange func(changed []types.NamespacedName)
}

// definition is what was made of one generation of an object, kept so that only
// the objects that changed are read anew.
type definition struct {
	generation int64
	noData     string
	metric     *Metric
}

// NewWatcher makes a watcher. Nothing is asked of the API server before Run.
func NewWatcher(opts WatcherOptions) (*Watcher, error) {
	w := &Watcher{
		catalog:  opts.Catalog,
		pinner:   opts.Pinner,
		defaults: opts.Defaults,
		planner:  opts.Planner,
		mapper:   opts.Mapper,
		objects:  dynamicinformer.NewFilteredDynamicInformer(opts.Custom, metricsaws.Resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		hpas:     autoscalinginformers.NewHorizontalPodAutoscalerInformer(opts.Kube, metav1.NamespaceAll, 0, cache.Indexers{}),
		dirty:    make(chan struct{}, 1),
		known:    make(map[types.UID]definition),
		onChange: func([]types.NamespacedName) {},
	}
	w.catalog.objects.kind, w.catalog.hpas.kind = objectKind, hpaKind
	w.catalog.objects.unserved = w.unserved
	for _, add := range []func() error{
		func() error { return w.objects.SetTransform(toRecord) },
		func() error { return w.hpas.SetTransform(trimHPA) },
		func() error { return w.objects.SetWatchErrorHandlerWithContext(w.catalog.objects.fail) },
		func() error { return w.hpas.SetWatchErrorHandlerWithContext(w.catalog.hpas.fail) },
		func() error { return rebuildOn(w, w.objects, sameDefinition) },
		func() error { return rebuildOn(w, w.hpas, w.sameDemand) },
	} {
		if err := add(); err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
	}
	return w, nil
}

// Run watches until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { w.objects.RunWithContext(ctx) })
	running.Go(func() { w.hpas.RunWithContext(ctx) })
	running.Go(func() { w.follow(ctx, w.objects, &w.catalog.objects) })
	running.Go(func() { w.follow(ctx, w.hpas, &w.catalog.hpas) })
	if !w.settle(ctx) {
		return nil
	}
	w.Refresh()
	resize := time.NewTicker(resizeEvery)
	defer resize.Stop()
	for last := time.Now(); ; last = time.Now() {
		if !w.await(ctx, resize.C, last) {
			return nil
		}
		w.rebuild(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rebuildPause):
		}
	}
}

// follow says when the objects of an informer are read.
func (w *Watcher) follow(ctx context.Context, informer cache.SharedIndexInformer, r *reading) {
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		r.succeed(ctx)
		w.Refresh()
	}
}

// settle waits until the first snapshot can be made: until objects and HPAs are read, or,
// for a catalog that has rules, are certain not to be. It is false if ctx is done.
func (w *Watcher) settle(ctx context.Context) bool {
	look := time.NewTicker(settleEvery)
	defer look.Stop()
	for {
		objects, hpas := &w.catalog.objects, &w.catalog.hpas
		if objects.synced() && hpas.synced() {
			return true
		}
		if w.catalog.load().rules.any && objects.settled() && hpas.settled() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
}

// await waits until there may be something else to serve, or to plan. It is false if
// ctx is done.
func (w *Watcher) await(ctx context.Context, resize <-chan time.Time, last time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.dirty:
			return true
		case <-resize:
			if w.planner != nil && (w.resized.Swap(false) || time.Since(last) >= replanEvery) {
				return true
			}
		}
	}
}

// Refresh makes a new snapshot, and a new plan of what HPAs ask. It is to be called when
// Discovery has found other metrics, and does not wait.
func (w *Watcher) Refresh() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// unserved says that the API server has resources, and ExternalMetrics are none of them.
func (w *Watcher) unserved() bool {
	if w.mapper == nil {
		return false
	}
	_, _, learned := w.mapper.Normalize(podResource)
	_, _, served := w.mapper.Normalize(metricsaws.Resource.GroupResource())
	return learned && !served
}

// rebuild makes a snapshot of what the informers hold, and pins what HPAs name.
func (w *Watcher) rebuild(ctx context.Context) {
	if d := w.renewed.Swap(nil); d != nil {
		w.defaults, w.known = *d, nil
	}
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

	hpas := stored[*autoscalingv2.HorizontalPodAutoscaler](w.hpas)
	view := w.catalog.load()
	before, now := view.objects, newSnapshot(metrics, usersOf(hpas))
	now.targets = leastTargets(hpas)
	w.pinner.Pin(append(now.inDemand(), w.plan(ctx, now, view.rules, hpas)...))
	w.catalog.setObjects(now)
	w.onChange(now.changedSince(before))
	w.tell(ctx, now, view.rules)
	klog.FromContext(ctx).V(2).Info("Metrics known", "externalMetrics", len(metrics), "usedByHPAs", len(now.users))
}

// tell logs the rules' metrics that an ExternalMetric takes the place of in its
// namespace, each once.
func (w *Watcher) tell(ctx context.Context, s *snapshot, r *ruleSnapshot) {
	shadowed := map[types.NamespacedName]string{}
	for name := range s.external {
		m := r.external[name.Name]
		if m == nil {
			continue
		}
		shadowed[name] = m.Rule.ID
		if w.shadowed[name] != m.Rule.ID {
			klog.FromContext(ctx).Info("An ExternalMetric wins over a rule's metric of the same name in its namespace",
				"externalMetric", name, "rule", m.Rule.ID)
		}
	}
	w.shadowed = shadowed
}

// SetDefaults replaces the defaults, also for objects that are known already.
func (w *Watcher) SetDefaults(d Defaults) {
	w.renewed.Store(&d)
	w.Refresh()
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

// objectNames are the names of all ExternalMetrics.
func (w *Watcher) objectNames() []types.NamespacedName {
	objects := stored[*record](w.objects)
	names := make([]types.NamespacedName, len(objects))
	for i, o := range objects {
		names[i] = nameOf(o)
	}
	return names
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
		AddFunc: func(any) { w.Refresh() },
		UpdateFunc: func(before, after any) {
			b, ok := before.(T)
			a, ok2 := after.(T)
			if !ok || !ok2 || !same(b, a) {
				w.Refresh()
			}
		},
		DeleteFunc: func(any) { w.Refresh() },
	})
	return err
}

// sameDefinition leaves out the updates that this adapter's own status writes cause.
func sameDefinition(before, after *record) bool {
	return before.UID == after.UID && before.Generation == after.Generation &&
		before.Annotations[metricsaws.AnnotationNoData] == after.Annotations[metricsaws.AnnotationNoData]
}

// sameDemand leaves out the status that the HPA controller writes at every sync. A
// change of the replicas alone waits for its turn.
func (w *Watcher) sameDemand(before, after *autoscalingv2.HorizontalPodAutoscaler) bool {
	if before.Status.CurrentReplicas != after.Status.CurrentReplicas {
		w.resized.Store(true)
	}
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
		hpa.Status = autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: hpa.Status.CurrentReplicas}
	}
	return o, nil
}
