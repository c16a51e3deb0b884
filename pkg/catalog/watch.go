package catalog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Pinner is told which requests are in demand because an HPA names them. One that is also a
// Peeker has the catalog be ready only when they were asked once, see warm. One that is also
// a Forgetter is told of roles that no object may use any more.
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
	// Objects has the pods read that HPAs ask for; nil if that is not wanted.
	Objects Preparer
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
	ledger   *ledger
	ceilings ceilings
	shadowed map[types.NamespacedName]string
	onChange func(changed []types.NamespacedName)
	// onShown is called for each object that has changed and defines what it did before.
	onShown func(*record)
	// peeker is the pinner if it can say what is answered; else nil.
	peeker Peeker
	// forgetter is the pinner if it can forget; else nil.
	forgetter Forgetter
	preparer  Preparer
	// pinned is what is in demand because HPAs name it, as long as the catalog is cold, and
	// selecting says that they ask for pods by a selector.
	pinned atomic.Pointer[pinned]
	// warming is raised when warm waits for the next snapshot.
	warming   atomic.Uint64
	selecting atomic.Bool

	mu      sync.Mutex
	pending changes
}

// ceilings are how much is read.
type ceilings struct{ definitions, asks amount }

// NewWatcher makes a watcher. Nothing is asked of the API server before Run.
func NewWatcher(opts WatcherOptions) (*Watcher, error) {
	w := &Watcher{
		catalog:  opts.Catalog,
		pinner:   opts.Pinner,
		defaults: opts.Defaults,
		planner:  opts.Planner,
		mapper:   opts.Mapper,
		preparer: opts.Objects,
		objects:  dynamicinformer.NewFilteredDynamicInformer(opts.Custom, metricsaws.Resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		hpas:     autoscalinginformers.NewHorizontalPodAutoscalerInformer(opts.Kube, metav1.NamespaceAll, 0, cache.Indexers{}),
		dirty:    make(chan struct{}, 1),
		ledger:   newLedger(),
		ceilings: ceilings{amount{maxDefinitions, maxDefinitionBytes}, amount{maxAsks, maxAskBytes}},
		shadowed: map[types.NamespacedName]string{},
		onChange: func([]types.NamespacedName) {},
		onShown:  func(*record) {},
		pending:  newChanges(),
	}
	w.peeker, _ = opts.Pinner.(Peeker)
	w.forgetter, _ = opts.Pinner.(Forgetter)
	w.catalog.objects.kind, w.catalog.hpas.kind = objectKind, hpaKind
	w.catalog.objects.unserved = w.unserved
	for _, add := range []func() error{
		func() error { return w.objects.SetTransform(w.toRecord) },
		func() error { return w.hpas.SetTransform(w.toScaler) },
		func() error { return w.objects.SetWatchErrorHandlerWithContext(w.catalog.objects.fail) },
		func() error { return w.hpas.SetWatchErrorHandlerWithContext(w.catalog.hpas.fail) },
		func() error { return rebuildOn(w, w.objects, objectsIn, w.sameDefinition) },
		func() error { return rebuildOn(w, w.hpas, hpasIn, w.sameDemand) },
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
	if w.peeker != nil {
		w.catalog.cold.Store(&errCold)
		running.Go(func() { w.warm(ctx) })
	}
	running.Go(func() { newLookout(w).run(ctx) })
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
	for last := time.Now(); ; {
		if !w.await(ctx, resize.C, last) {
			return nil
		}
		c := w.take()
		if c.all {
			last = time.Now()
		}
		w.build(ctx, c)
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

// await waits until there may be something else to serve, or to plan, of which all was
// planned last at that time. It is false if ctx is done.
func (w *Watcher) await(ctx context.Context, resize <-chan time.Time, last time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.dirty:
			return true
		case <-resize:
			if w.planner == nil {
				continue
			}
			if time.Since(last) >= replanEvery {
				w.noteAll()
				return true
			}
			if w.resized.Swap(false) {
				return true
			}
		}
	}
}

// Refresh makes a new snapshot, and a new plan of what HPAs ask. It is to be called when
// Discovery has found other metrics, and does not wait.
func (w *Watcher) Refresh() {
	w.noteAll()
	w.wake()
}

func (w *Watcher) noteAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending.all = true
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

// tell logs the rules' metrics that an ExternalMetric takes the place of in its
// namespace, each once: of those that changed, or of all.
func (w *Watcher) tell(ctx context.Context, d *draft, all bool) { //nolint:revive // What is new in all is told too.
	rules := w.catalog.load().rules
	look := func(name types.NamespacedName, m *Metric) {
		rule := rules.external[name.Name]
		if m == nil || rule == nil {
			delete(w.shadowed, name)
			return
		}
		if w.shadowed[name] != rule.Rule.ID {
			klog.FromContext(ctx).Info("An ExternalMetric wins over a rule's metric of the same name in its namespace",
				"externalMetric", name, "rule", rule.Rule.ID)
		}
		w.shadowed[name] = rule.Rule.ID
	}
	for name := range d.defined {
		look(name, d.external.get(name))
	}
	if all && len(rules.external)+len(w.shadowed) > 0 {
		for name, m := range d.external.all() {
			look(name, m)
		}
	}
}

// SetDefaults replaces the defaults, also for objects that are known already.
func (w *Watcher) SetDefaults(d Defaults) {
	w.renewed.Store(&d)
	w.Refresh()
}

// OnChange sets what to call after every snapshot, with the metrics whose
// definition or users changed, the gone ones included. Call it before Run.
func (w *Watcher) OnChange(f func(changed []types.NamespacedName)) { w.onChange = f }

// record is the ExternalMetric of that name as the cluster last showed it, or nil.
func (w *Watcher) record(name types.NamespacedName) *record { return lookup[*record](w.objects, name) }

func (w *Watcher) hpa(name types.NamespacedName) *scaler { return lookup[*scaler](w.hpas, name) }

// lookup is the object of that name that an informer of T holds, or zero.
func lookup[T any](informer cache.SharedIndexInformer, name types.NamespacedName) T {
	var none T
	o, ok, err := informer.GetStore().GetByKey(name.String())
	if err != nil || !ok {
		return none
	}
	if t, ok := o.(T); ok {
		return t
	}
	return none
}

// named is what has a namespace and a name.
type named interface {
	GetNamespace() string
	GetName() string
}

func nameOf(object named) types.NamespacedName {
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
// updates after which the object is the same to the catalog. The set is that of the
// informer's objects.
func rebuildOn[T any](w *Watcher, informer cache.SharedIndexInformer, set func(changes) nameSet, same func(before, after T) bool) error {
	note := func(object any) {
		w.note(set, object)
		w.wake()
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note,
		UpdateFunc: func(before, after any) {
			b, ok := before.(T)
			a, ok2 := after.(T)
			if !ok || !ok2 || !same(b, a) {
				note(after)
			}
		},
		DeleteFunc: note,
	})
	return err
}

func objectsIn(c changes) nameSet { return c.objects }
func hpasIn(c changes) nameSet    { return c.hpas }

// note keeps that an object may count otherwise in the next snapshot.
func (w *Watcher) note(set func(changes) nameSet, object any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending.note(set(w.pending), object)
}

// take gives what has changed since it was last called.
func (w *Watcher) take() changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.pending
	w.pending = newChanges()
	return c
}

func (w *Watcher) wake() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// sameDefinition leaves out the updates that this adapter's own status writes cause.
func (w *Watcher) sameDefinition(before, after *record) bool {
	if !before.describes(after.UID, after.generation, after.annotation) {
		return false
	}
	w.onShown(after)
	return true
}

// sameDemand leaves out the status that the HPA controller writes at every sync. A
// change of the replicas alone waits for its turn.
func (w *Watcher) sameDemand(before, after *scaler) bool {
	if !before.equal(after.asks) {
		return false
	}
	if before.replicas != after.replicas {
		w.note(hpasIn, after)
		w.resized.Store(true)
	}
	return true
}
