package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// LeaseName is the Lease whose holder writes status and Events.
	LeaseName = "tidegauge"
	// reporterName is who the Events are from.
	reporterName = "tidegauge"

	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second

	reporters = 4
	// valueEvery and timeEvery are the least times between two writes of one object
	// that change nothing but its value, or the time of it.
	valueEvery = 10 * time.Second
	timeEvery  = time.Minute
	// valueShare, times the number of objects, is another such time: all of them
	// together write no more than ten such changes a second.
	valueShare = 100 * time.Millisecond
	// reviewEvery is how often every object is looked at, for changes that come with
	// time alone, such as the end of demand.
	reviewEvery = time.Minute
	// refusedPause is how long to wait after the API server refused again and again to let
	// the adapter take the Lease or write a status: trying more often will not bring the
	// right. The first waits are shorter, as an API server that starts refuses too.
	refusedPause      = 5 * time.Minute
	firstRefusedPause = 5 * time.Second
)

// StateReader says what is known of queries.
type StateReader interface {
	// Peek says what is known of the request's query and leaves its demand as it is.
	Peek(request engine.Request) (engine.State, bool)
	// Touch brings the request's query into demand without waiting for the answer.
	Touch(request engine.Request)
}

// Reporter writes what is known of each metric to its object's status, and Events
// when that turns for the worse. Of several replicas the holder of a Lease does it.
type Reporter struct {
	catalog *Catalog
	watcher *Watcher
	engine  StateReader
	objects dynamic.NamespaceableResourceInterface
	kube    kubernetes.Interface
	lock    resourcelock.Interface
	turn    atomic.Pointer[turn]
	leading sync.Mutex // held for the length of a turn
}

// NewReporter makes a reporter that takes its turn by a Lease in namespace, where
// identity tells the replicas apart. It is to be told of changes by
// Watcher.OnChange and the engine's OnChange, and to be made before Watcher.Run.
func NewReporter(w *Watcher, e StateReader, kube kubernetes.Interface, custom dynamic.Interface, namespace, identity string) *Reporter {
	r := &Reporter{
		catalog: w.catalog,
		watcher: w,
		engine:  e,
		objects: custom.Resource(metricsaws.Resource),
		kube:    kube,
		lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
			Client:     kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
	}
	w.onShown = r.shown
	return r
}

// shown notes that the watch shows an object that defines what it did before.
func (r *Reporter) shown(object *record) {
	if t := r.turn.Load(); t != nil {
		t.see(object)
	}
}

// MetricsChanged notes metrics whose definition or users changed.
func (r *Reporter) MetricsChanged(changed []types.NamespacedName) {
	// Between turns there is nothing to note: a turn starts with all objects.
	if t := r.turn.Load(); t != nil {
		for _, name := range changed {
			t.queue.Add(unique.Make(name))
		}
	}
}

// QueryChanged notes the metrics that ask a query whose answer changed.
func (r *Reporter) QueryChanged(source, key string) {
	r.MetricsChanged(r.catalog.AskedBy(source, key))
}

// Run takes its turns until ctx is done. Losing the Lease, as when the API server
// is away for long, ends a turn and not the program. Without the right to the Lease
// there are no turns.
func (r *Reporter) Run(ctx context.Context) error {
	refusals := 0
	for ctx.Err() == nil {
		refused, err := r.takeTurns(ctx)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		if refused == nil {
			refusals = 0
			continue
		}
		refusals++
		if refusals == 1 {
			klog.FromContext(ctx).Info("Status and Events are not written", "lease", r.lock.Describe(), "reason", refused, "cure", leaseCure)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pauseAfter(refusals)):
		}
	}
	return nil
}

// pauseAfter is how long to wait after so many refusals in a row.
func pauseAfter(refusals int) time.Duration {
	return sources.Backoff(firstRefusedPause, refusedPause, refusals)
}

const (
	leaseCure = `add to a Role of the adapter in its namespace: ` +
		`{apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get", "create", "update"]}`
	statusCure = `add to the adapter's ClusterRole: ` +
		`{apiGroups: ["metrics.aws"], resources: ["externalmetrics/status"], verbs: ["patch"]}`
)

// takeTurns takes turns until ctx is done, or until the API server refuses the Lease and
// why.
func (r *Reporter) takeTurns(ctx context.Context) (refused, err error) {
	// The elector would log every refusal.
	if _, _, err := r.lock.Get(ctx); apierrors.IsForbidden(err) {
		return err, nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            &leaseLock{r.lock, stop},
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Name:            LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: r.lead,
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return nil, err
	}
	for ctx.Err() == nil {
		elector.Run(ctx)
	}
	if cause := context.Cause(ctx); apierrors.IsForbidden(cause) || apierrors.IsNotFound(cause) {
		return cause, nil
	}
	return nil, nil
}

// leaseLock ends the trying for the Lease once that is refused, which the elector would
// repeat every two seconds.
type leaseLock struct {
	resourcelock.Interface

	stop context.CancelCauseFunc
}

// Get implements resourcelock.Interface.
func (l *leaseLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if apierrors.IsForbidden(err) {
		l.stop(err)
	}
	return record, raw, err
}

// Create implements resourcelock.Interface. The namespace may not be there.
func (l *leaseLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		l.stop(err)
	}
	return err
}

// Update implements resourcelock.Interface.
func (l *leaseLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, record)
	if apierrors.IsForbidden(err) {
		l.stop(err)
	}
	return err
}

// queued is the name of an object. A queue takes as much memory as it ever had names in it,
// of which there are thousands at once.
type queued = unique.Handle[types.NamespacedName]

// turn is the time in which this replica holds the Lease.
type turn struct {
	*Reporter
	queue    workqueue.TypedRateLimitingInterface[queued]
	recorder events.EventRecorder
	began    time.Time
	mu       sync.Mutex
	written  map[types.NamespacedName]writing
	// refused is the last write if it was refused for want of the right; else nil.
	refused atomic.Pointer[refusal]
}

// refusal is a refused write, after how many in a row, itself included.
type refusal struct {
	at       time.Time
	refusals int
}

// writing is the last write of an object's status.
type writing struct {
	// at is when, after the turn began.
	at time.Duration
	// unseen is what was written, until the watch shows it.
	unseen *unseen
}

type unseen struct {
	// version is the object's resource version that it led to.
	version string
	uid     types.UID
	status  keptStatus
}

// lead reports until ctx, the turn, is over.
func (r *Reporter) lead(ctx context.Context) {
	r.leading.Lock()
	defer r.leading.Unlock()
	logger := klog.FromContext(ctx)

	scheme := runtime.NewScheme()
	utilruntime.Must(metricsaws.AddToScheme(scheme))
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: r.kube.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		logger.Error(err, "Events are not written")
	}
	t := &turn{
		Reporter: r,
		queue:    newQueue(),
		began:    time.Now(),
		written:  map[types.NamespacedName]writing{},
		recorder: broadcaster.NewRecorder(scheme, reporterName),
	}
	r.turn.Store(t)
	defer r.turn.Store(nil)
	context.AfterFunc(ctx, t.queue.ShutDown)
	logger.Info("Writing status and Events from now on", "lease", r.lock.Describe())

	var workers sync.WaitGroup
	workers.Go(func() { (&warnings{turn: t, next: map[naming]time.Time{}}).run(ctx) })
	for range reporters {
		workers.Go(func() {
			for t.next(ctx) {
			}
		})
	}
	wait.UntilWithContext(ctx, t.reviewAll, reviewEvery)
	workers.Wait()
}

func newQueue() workqueue.TypedRateLimitingInterface[queued] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[queued]())
}

func (t *turn) reviewAll(context.Context) { t.MetricsChanged(t.watcher.objectNames()) }

// next reports one object, and is false when the turn is over.
func (t *turn) next(ctx context.Context) bool {
	item, shutdown := t.queue.Get()
	if shutdown {
		return false
	}
	defer t.queue.Done(item)
	name := item.Value()
	err := t.report(ctx, name)
	switch {
	case err == nil:
		t.queue.Forget(item)
	case ctx.Err() != nil:
	default:
		klog.FromContext(ctx).Error(err, "Status not written", "externalMetric", name)
		t.queue.AddRateLimited(item)
	}
	return true
}

// report brings the object's status up to date.
func (t *turn) report(ctx context.Context, name types.NamespacedName) error {
	object, metric := t.watcher.record(name), t.catalog.External(name)
	if object == nil || metric == nil {
		t.forget(name)
		return nil
	}
	if metric.of.UID != object.UID || metric.of.generation != object.generation {
		// The snapshot with the new definition will report it.
		return nil
	}
	k := t.know(metric)
	before := t.current(name, object)
	if metric.Err == nil && !k.known && (len(k.users) > 0 || before.ObservedGeneration != object.generation) {
		// A new or changed object is asked once even if nobody needs it yet, so that
		// its status says whether it works. The answer comes back as a change.
		t.engine.Touch(metric.Request)
		return nil
	}
	status := statusOf(object.generation, before, k)
	if equality.Semantic.DeepEqual(before, status) {
		return nil
	}
	if wait := t.holdBack(name, before, status); wait > 0 {
		if wait < reviewEvery { // Later it is looked at anyway.
			t.queue.AddAfter(unique.Make(name), wait)
		}
		return nil
	}
	if last := t.refused.Load(); last != nil && time.Since(last.at) < pauseAfter(last.refusals) {
		return nil
	}
	if err := t.write(ctx, object, status); err != nil {
		return t.refuse(ctx, err)
	}
	for _, e := range eventsOf(before, status) {
		t.recorder.Eventf(object.reference(), nil, e.kind, e.reason, "ReadMetric", "%s", e.note)
	}
	return nil
}

// refuse takes in that a write failed. One that was refused for want of the right is no
// error of the object; it is told once, and tried again now and then.
func (t *turn) refuse(ctx context.Context, err error) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	now := &refusal{at: time.Now(), refusals: 1}
	if last := t.refused.Load(); last != nil {
		now.refusals = last.refusals + 1
	} else {
		klog.FromContext(ctx).Info("Status is not written", "reason", err, "cure", statusCure)
	}
	t.refused.Store(now)
	return nil
}

func (t *turn) know(metric *Metric) knowledge {
	k := knowledge{metric: metric, users: t.catalog.Users(metric.Name)}
	k.target, k.targeted = t.catalog.LeastExternalTarget(metric.Name)
	if metric.Err == nil {
		k.state, k.known = t.engine.Peek(metric.Request)
	}
	return k
}

// current is the object's status, as it was last written if the watch does not show
// that yet.
func (t *turn) current(name types.NamespacedName, object *record) metricsaws.ExternalMetricStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch w := t.written[name]; {
	case w.unseen == nil:
		return object.status.inFull()
	case w.unseen.uid != object.UID || w.unseen.version == object.version || time.Since(t.began)-w.at > reviewEvery:
		t.written[name] = writing{at: w.at}
		return object.status.inFull()
	default:
		return w.unseen.status.inFull()
	}
}

// see takes in that the watch shows the object, perhaps as it was last written.
func (t *turn) see(object *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nameOf(object)
	if w := t.written[name]; w.unseen != nil && w.unseen.version == object.version {
		t.written[name] = writing{at: w.at}
	}
}

// sinceWrite is how long ago the object's status was last written in this turn, if it was.
func (t *turn) sinceWrite(name types.NamespacedName) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.written[name]
	return time.Since(t.began) - w.at, ok
}

func (t *turn) note(name types.NamespacedName, u *unseen) {
	t.mu.Lock()
	t.written[name] = writing{time.Since(t.began), u}
	t.mu.Unlock()
	if object := t.watcher.record(name); object != nil {
		t.see(object)
	}
}

func (t *turn) forget(name types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.written, name)
}

// holdBack is how long to wait before a write that changes only the value.
func (t *turn) holdBack(name types.NamespacedName, before, after metricsaws.ExternalMetricStatus) time.Duration {
	since, ok := t.sinceWrite(name)
	every := valueEvery
	if before.Value == after.Value {
		every = timeEvery
	}
	before.Value, before.ValueTime = after.Value, after.ValueTime
	if !ok || !equality.Semantic.DeepEqual(before, after) {
		return 0
	}
	every = max(every, time.Duration(t.catalog.len())*valueShare)
	return every - since
}

// write replaces the status of that very object. It is a patch that any resource
// version takes, because only the holder of the Lease writes status.
func (t *turn) write(ctx context.Context, object *record, status metricsaws.ExternalMetricStatus) error {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": object.UID},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return err
	}
	patched, err := t.objects.Namespace(object.Namespace).Patch(ctx, object.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: reporterName}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		t.refused.Store(nil)
		t.note(nameOf(object), &unseen{patched.GetResourceVersion(), object.UID, keepStatus(status)})
	}
	return err
}
