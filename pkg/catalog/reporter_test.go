package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

var jobs = types.NamespacedName{Namespace: "shop", Name: "jobs"}

// fakeState says of every query what it was set to.
type fakeState struct {
	mu      sync.Mutex
	state   engine.State
	known   bool
	touched int
	pinned  []engine.Request
}

func (f *fakeState) Peek(engine.Request) (engine.State, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.known
}

func (f *fakeState) Touch(engine.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touched++
}

func (f *fakeState) Pin(requests []engine.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pinned = slices.Clone(requests)
}

func (f *fakeState) pins() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pinned)
}

// pinnedKeys are the queries that are pinned, sorted, each once.
func (f *fakeState) pinnedKeys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for _, r := range f.pinned {
		keys = append(keys, fmt.Sprint(r.Source, " ", r.Query.Key(), " ", r.Interval))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (f *fakeState) says(s engine.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.known = s, true
}

// bench is a turn of a reporter over a store that the test fills by hand.
type bench struct {
	*turn
	t      *testing.T
	state  *fakeState
	events *events.FakeRecorder
	writes []metricsaws.ExternalMetricStatus
	// spec is of the object that the watch shows.
	spec metricsaws.ExternalMetricSpec
	// refusal, if it is set, is why a write fails.
	refusal func() error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, state: &fakeState{}, events: events.NewFakeRecorder(100), spec: queueDepth(60)}
	custom := fake.NewSimpleDynamicClient(runtime.NewScheme())
	custom.PrependReactor("patch", metricsaws.Resource.Resource, b.patched)
	w, err := NewWatcher(WatcherOptions{Catalog: &Catalog{}, Pinner: b.state, Defaults: defaults, Kube: kubefake.NewClientset(), Custom: custom})
	if err != nil {
		t.Fatal(err)
	}
	r := NewReporter(w, b.state, kubefake.NewClientset(), custom, "tidegauge-system", "me")
	b.turn = &turn{Reporter: r, recorder: b.events, began: time.Now(), written: map[types.NamespacedName]writing{}}
	return b
}

// patched keeps the status of each patch and gives the object the next version.
func (b *bench) patched(action clienttesting.Action) (bool, runtime.Object, error) {
	if b.refusal != nil {
		return true, nil, b.refusal()
	}
	var operations []struct {
		Op, Path string
		Value    json.RawMessage
	}
	patch := action.(clienttesting.PatchAction)
	if err := json.Unmarshal(patch.GetPatch(), &operations); err != nil {
		return true, nil, err
	}
	if test := operations[0]; test.Op != "test" || test.Path != "/metadata/uid" || string(test.Value) != `"one"` {
		return true, nil, fmt.Errorf("the patch is not for the object that was seen: %v", test)
	}
	var status metricsaws.ExternalMetricStatus
	if err := json.Unmarshal(operations[1].Value, &status); err != nil {
		return true, nil, err
	}
	b.writes = append(b.writes, status)
	o := &unstructured.Unstructured{}
	o.SetResourceVersion(strconv.Itoa(100 + len(b.writes)))
	return true, o, nil
}

// shows makes the watch show the object with that generation, version and status.
func (b *bench) shows(generation int64, version string, status metricsaws.ExternalMetricStatus) {
	b.t.Helper()
	object := &metricsaws.ExternalMetric{
		ObjectMeta: metav1.ObjectMeta{Namespace: jobs.Namespace, Name: jobs.Name, UID: "one", Generation: generation, ResourceVersion: version},
		Spec:       b.spec,
		Status:     status,
	}
	if err := b.watcher.objects.GetStore().Add(newRecord(object, nil, nil)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) uses(hpa string) {
	b.t.Helper()
	shows(b.t, b.watcher.hpas, hpaOf(jobs.Namespace, hpa, externalOfHPA(jobs.Name, nil)))
}

func (b *bench) report() {
	b.t.Helper()
	b.queue = newQueue()
	defer b.queue.ShutDown()
	if err := b.turn.report(b.t.Context(), jobs); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) rebuild() { b.watcher.rebuild(b.t.Context()) }

func (b *bench) wantWrites(want ...string) {
	b.t.Helper()
	var got []string
	for _, s := range b.writes {
		c := conditionOf(s, metricsaws.ConditionReady)
		got = append(got, strings.TrimSpace(fmt.Sprint(c.Status, " ", c.Reason, " ", s.Value)))
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("writes %q, want %q", got, want)
	}
}

func TestReportAsksNewObjectsOnce(t *testing.T) {
	b := newBench(t)
	b.shows(1, "1", metricsaws.ExternalMetricStatus{})
	b.rebuild()
	b.report()
	b.wantWrites()
	if b.state.touched != 1 {
		t.Fatalf("touched %d times", b.state.touched)
	}
	b.state.says(answered(7))
	b.report()
	b.wantWrites("True Available 7")
}

// A restart finds objects that HPAs use, and must not say in between that nobody does.
func TestReportWaitsForTheFirstAnswer(t *testing.T) {
	b := newBench(t)
	before := statusOf(1, metricsaws.ExternalMetricStatus{}, knowledge{metric: &Metric{}, known: true, state: answered(7)})
	b.shows(1, "1", before)
	b.uses("worker")
	b.rebuild()
	b.report()
	b.wantWrites()
	if n := b.state.pins(); n != 1 {
		t.Errorf("%d requests are pinned", n)
	}
}

func TestReportLeavesAnIdleObjectUnasked(t *testing.T) {
	b := newBench(t)
	b.shows(1, "1", metricsaws.ExternalMetricStatus{ObservedGeneration: 1})
	b.rebuild()
	b.report()
	b.wantWrites("Unknown NotInDemand")
	if b.state.touched != 0 {
		t.Errorf("touched %d times", b.state.touched)
	}
}

// What is known of the old definition must not be written as what is known of the new.
func TestReportWaitsForTheDefinition(t *testing.T) {
	b := newBench(t)
	b.shows(1, "1", metricsaws.ExternalMetricStatus{})
	b.rebuild()
	b.state.says(answered(300))
	b.shows(2, "2", metricsaws.ExternalMetricStatus{})
	b.report()
	b.wantWrites()
	b.rebuild()
	b.report()
	b.wantWrites("True Available 300")
}

// A watch that lags behind shows the status from before the last write.
func TestReportKnowsWhatItWrote(t *testing.T) {
	b := newBench(t)
	b.shows(1, "1", metricsaws.ExternalMetricStatus{})
	b.rebuild()
	b.state.says(answered(7))
	b.report()
	b.state.says(failing(answered(7), errors.New("503")))
	b.report()
	b.state.says(answered(7))
	b.report()
	b.wantWrites("True Available 7", "True Available 7", "True Available 7")
	if fresh := conditionOf(b.writes[2], metricsaws.ConditionFresh); fresh.Status != metav1.ConditionTrue {
		t.Errorf("the last write says that the metric is not fresh: %v", fresh)
	}
	close(b.events.Events)
	var got []string
	for e := range b.events.Events {
		got = append(got, strings.Join(strings.Fields(e)[:2], " "))
	}
	if want := []string{"Warning FetchFailed", "Normal Available"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}

	b.shows(1, "103", b.writes[2])
	b.report()
	b.wantWrites("True Available 7", "True Available 7", "True Available 7")
}

// Values in motion are written now and then, and changes of state at once.
func TestReportHoldsBackValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.shows(1, "1", metricsaws.ExternalMetricStatus{})
		b.rebuild()
		for i := range 60 {
			b.state.says(answered(float64(i)))
			b.report()
			<-time.After(time.Second)
		}
		if n := len(b.writes); n != 6 {
			t.Errorf("%d writes in a minute, want one every %v", n, valueEvery)
		}
		b.state.says(failing(answered(60), errors.New("503")))
		b.report()
		if n := len(b.writes); n != 7 {
			t.Errorf("a failure was not written at once")
		}
	})
}

func TestZeroForNoDataIsWrittenOnce(t *testing.T) {
	b := newBench(t)
	b.shows(1, "1", metricsaws.ExternalMetricStatus{})
	b.rebuild()
	b.catalog.External(jobs).Zeros = []sources.Labels{sources.NewLabels("id", "depth")}
	for i := range 3 {
		s := answered()
		s.Answer.Fetched = since.Add(time.Duration(i)*time.Minute + time.Nanosecond)
		b.state.says(noData(s))
		b.report()
	}
	b.wantWrites("True Available 0")
}

func TestReporterTakesTurns(t *testing.T) {
	kube := kubefake.NewClientset()
	custom := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schemaResource]string{metricsaws.Resource: "ExternalMetricList"})
	w, err := NewWatcher(WatcherOptions{Catalog: &Catalog{}, Pinner: &fakeState{}, Defaults: defaults, Kube: kube, Custom: custom})
	if err != nil {
		t.Fatal(err)
	}
	first, second := NewReporter(w, &fakeState{}, kube, custom, "ns", "first"), NewReporter(w, &fakeState{}, kube, custom, "ns", "second")
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = first.Run(ctx) })
	await(t, func() bool { return first.turn.Load() != nil })
	next, end := context.WithCancel(t.Context())
	running.Go(func() { _ = second.Run(next) })
	stop()
	await(t, func() bool { return second.turn.Load() != nil })
	end()
	running.Wait()
}

// Without the right to the Lease, or its namespace, or to write status, nothing else
// suffers, and neither the log nor the API server is filled with attempts.
func TestReporterWithoutRightToTheLease(t *testing.T) {
	resource := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	for verb, refusal := range map[string]error{
		"get":    apierrors.NewForbidden(resource, LeaseName, errors.New("no RBAC policy matched")),
		"create": apierrors.NewForbidden(resource, LeaseName, errors.New("no RBAC policy matched")),
		"CREATE": apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "ns"),
		"update": apierrors.NewForbidden(resource, LeaseName, errors.New("no RBAC policy matched")),
	} {
		t.Run(verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccess(t)
				refused := true
				asked := 0
				a.kube.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
					a.mu.Lock()
					defer a.mu.Unlock()
					asked++
					return refused && action.GetVerb() == strings.ToLower(verb), nil, refusal
				})
				if verb == "update" {
					_, err := a.kube.CoordinationV1().Leases("ns").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName}}, metav1.CreateOptions{})
					if err != nil {
						t.Fatal(err)
					}
				}
				r := NewReporter(a.watcher, &fakeState{}, a.kube, a.custom, "ns", "me")
				a.start(r.Run)
				a.pass(time.Hour)
				a.mu.Lock()
				if asked > 60 {
					t.Errorf("asked %d times in an hour", asked)
				}
				refused = false
				a.mu.Unlock()
				if n := a.logged("Status and Events are not written"); n != 1 {
					t.Errorf("told %d times", n)
				}
				if a.logged(leaseCure) > 1 || a.logged("\n") > 60 {
					t.Errorf("%d lines of log in an hour", a.logged("\n"))
				}
				a.pass(2 * refusedPause)
				if r.turn.Load() == nil {
					t.Error("the right makes no difference")
				}
			})
		})
	}
}

func TestReporterWithoutRightToWriteStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.shows(1, "1", metricsaws.ExternalMetricStatus{})
		b.rebuild()
		asked := 0
		b.refusal = func() error {
			asked++
			return apierrors.NewForbidden(metricsaws.Resource.GroupResource(), jobs.Name, errors.New("no RBAC policy matched"))
		}
		for i := range 60 {
			b.state.says(answered(float64(i)))
			b.report()
			<-time.After(time.Minute)
		}
		if most := int(time.Hour/refusedPause) + 5; asked < 3 || asked > most {
			t.Errorf("%d attempts in an hour, want at most %d", asked, most)
		}
		b.wantWrites()
		b.refusal = nil
		<-time.After(refusedPause)
		b.report()
		b.wantWrites("True Available 59")
	})
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true,
		func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		t.Fatal("not in time")
	}
}
