package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

var _ rules.Mapper = (*Mapper)(nil)

// fakeAPI answers discovery as an API server without aggregated discovery does.
type fakeAPI struct {
	*fakediscovery.FakeDiscovery

	groups []metav1.APIGroup
	lists  map[schema.GroupVersion]*metav1.APIResourceList
	failed map[schema.GroupVersion]error
	err    error
	// delay is how long it takes to list the groups, and calls how often that was asked.
	delay time.Duration
	calls atomic.Int32
	asked []string
}

func (f *fakeAPI) ServerGroupsWithContext(ctx context.Context) (*metav1.APIGroupList, error) {
	f.calls.Add(1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(f.delay):
	}
	return &metav1.APIGroupList{Groups: slices.Clone(f.groups)}, f.err
}

func (f *fakeAPI) ServerResourcesForGroupVersionWithContext(_ context.Context, version string) (*metav1.APIResourceList, error) {
	f.asked = append(f.asked, version)
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		return nil, err
	}
	return f.lists[gv], f.failed[gv]
}

// aggregatedAPI answers as an API server of today does: groups, resources, and what is
// stale, which is no version of its group then.
type aggregatedAPI struct{ *fakeAPI }

func (f aggregatedAPI) GroupsAndMaybeResources() (*metav1.APIGroupList, map[schema.GroupVersion]*metav1.APIResourceList, map[schema.GroupVersion]error, error) {
	return f.GroupsAndMaybeResourcesWithContext(context.Background())
}

func (f aggregatedAPI) GroupsAndMaybeResourcesWithContext(ctx context.Context) (*metav1.APIGroupList, map[schema.GroupVersion]*metav1.APIResourceList, map[schema.GroupVersion]error, error) {
	groups, err := f.ServerGroupsWithContext(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	lists := map[schema.GroupVersion]*metav1.APIResourceList{}
	for i, g := range groups.Groups {
		g.Versions = slices.DeleteFunc(slices.Clone(g.Versions), func(v metav1.GroupVersionForDiscovery) bool {
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			if f.failed[gv] == nil {
				lists[gv] = f.lists[gv]
			}
			return f.failed[gv] != nil
		})
		g.PreferredVersion = metav1.GroupVersionForDiscovery{}
		if len(g.Versions) > 0 {
			g.PreferredVersion = g.Versions[0]
		}
		groups.Groups[i] = g
	}
	return groups, lists, f.failed, nil
}

// api makes an API of lines such as "apps/v1 deployments deployment Deployment namespaced". The
// first version of a group is its preferred one.
func api(lines ...string) *fakeAPI {
	f := &fakeAPI{
		FakeDiscovery: &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}},
		lists:         map[schema.GroupVersion]*metav1.APIResourceList{},
		failed:        map[schema.GroupVersion]error{},
	}
	for _, line := range lines {
		f.add(line)
	}
	return f
}

func (f *fakeAPI) add(line string) {
	fields := strings.Fields(line)
	gv, err := schema.ParseGroupVersion(fields[0])
	if err != nil {
		panic(err)
	}
	if f.lists[gv] == nil {
		f.lists[gv] = &metav1.APIResourceList{GroupVersion: gv.String()}
		version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		i := slices.IndexFunc(f.groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if i < 0 {
			i = len(f.groups)
			f.groups = append(f.groups, metav1.APIGroup{Name: gv.Group, PreferredVersion: version})
		}
		f.groups[i].Versions = append(f.groups[i].Versions, version)
	}
	f.lists[gv].APIResources = append(f.lists[gv].APIResources, metav1.APIResource{
		Name: fields[1], SingularName: strings.Trim(fields[2], "-"), Kind: fields[3], Namespaced: fields[4] == "namespaced",
	})
}

// cluster has what is hard to tell apart: names that several groups have, versions that
// differ, and the metrics APIs, which list pods and nodes too.
var cluster = []string{
	"apps/v1 deployments deployment Deployment namespaced",
	"apps/v1 deployments/scale - Scale namespaced",
	"metrics.k8s.io/v1beta1 pods - PodMetrics namespaced",
	"metrics.k8s.io/v1beta1 nodes - NodeMetrics root",
	"custom.metrics.k8s.io/v1beta2 pods/http_requests - MetricValueList namespaced",
	"custom.metrics.k8s.io/v1beta2 widgets - MetricValueList namespaced",
	"external.metrics.k8s.io/v1beta1 jobs - ExternalMetricValueList namespaced",
	"v1 namespaces namespace Namespace root",
	"v1 nodes - Node root",
	"v1 pods pod Pod namespaced",
	"v1 pods/log - Pod namespaced",
	"v1 services service Service namespaced",
	"v1 events event Event namespaced",
	"events.k8s.io/v1 events event Event namespaced",
	"networking.k8s.io/v1 ingresses ingress Ingress namespaced",
	"networking.k8s.io/v1beta1 ingresses ingress Ingress namespaced",
	"networking.k8s.io/v1beta1 ipaddresses ipaddress IPAddress root",
	"networking.internal.knative.dev/v1alpha1 ingresses ingress Ingress namespaced",
	"serving.knative.dev/v1 services service Service namespaced",
	"example.com/v2 octopi octopus Octopus namespaced",
}

func refreshed(t *testing.T, d discovery.DiscoveryInterface) *Mapper {
	t.Helper()
	m := NewMapper(d)
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// describe says all that a mapper knows of a name.
func describe(m *Mapper, name string) string {
	r, namespaced, ok := m.Normalize(schema.ParseGroupResource(name))
	if !ok {
		return "unknown"
	}
	kind, _ := m.KindOf(r)
	scope := "root"
	if namespaced {
		scope = "namespaced"
	}
	if back, ok := m.ResourceOf(kind.GroupKind()); !ok || back != r {
		return fmt.Sprintf("%s is of kind %s, which is of %s", r, kind, back)
	}
	return fmt.Sprint(r, " ", m.Singular(r), " ", kind.GroupVersion(), " ", kind.Kind, " ", scope)
}

func TestNormalize(t *testing.T) {
	for kind, d := range map[string]discovery.DiscoveryInterface{
		"one by one": api(cluster...),
		"aggregated": aggregatedAPI{api(cluster...)},
	} {
		t.Run(kind, func(t *testing.T) {
			m := refreshed(t, d)
			for name, want := range map[string]string{
				"pods":                           "pods pod v1 Pod namespaced",
				"pod":                            "pods pod v1 Pod namespaced",
				"Pod":                            "pods pod v1 Pod namespaced",
				"node":                           "nodes node v1 Node root",
				"namespace":                      "namespaces namespace v1 Namespace root",
				"deployment":                     "deployments.apps deployment apps/v1 Deployment namespaced",
				"deployments.apps":               "deployments.apps deployment apps/v1 Deployment namespaced",
				"octopus":                        "octopi.example.com octopus example.com/v2 Octopus namespaced",
				"octopi.example.com":             "octopi.example.com octopus example.com/v2 Octopus namespaced",
				"service":                        "services service v1 Service namespaced",
				"service.serving.knative.dev":    "services.serving.knative.dev service serving.knative.dev/v1 Service namespaced",
				"events":                         "events event v1 Event namespaced",
				"ingress":                        "ingresses.networking.k8s.io ingress networking.k8s.io/v1 Ingress namespaced",
				"ingress.networking":             "ingresses.networking.k8s.io ingress networking.k8s.io/v1 Ingress namespaced",
				"ingress.networking.internal":    "ingresses.networking.internal.knative.dev ingress networking.internal.knative.dev/v1alpha1 Ingress namespaced",
				"ipaddress":                      "ipaddresses.networking.k8s.io ipaddress networking.k8s.io/v1beta1 IPAddress root",
				"pods.metrics.k8s.io":            "unknown",
				"pods.apps":                      "unknown",
				"jobs":                           "unknown",
				"widgets":                        "unknown",
				"deployments/scale":              "unknown",
				"pods/log":                       "unknown",
				"scale":                          "unknown",
				"octopuses":                      "unknown",
				"":                               "unknown",
				"jobs.external.metrics.k8s.io":   "unknown",
				"widgets.custom.metrics.k8s.io":  "unknown",
				"nodes.networking":               "unknown",
				"deployments.apps.something.com": "unknown",
			} {
				if got := describe(m, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

func TestNothingIsKnownBeforeRefresh(t *testing.T) {
	m := NewMapper(api(cluster...))
	if got := describe(m, "pods"); got != "unknown" {
		t.Errorf("pods are %s", got)
	}
	if got := m.Singular(schema.GroupResource{Resource: "pods"}); got != "pods" {
		t.Errorf("the singular is %s", got)
	}
}

// A generation tells whether what was found out before still holds.
func TestGeneration(t *testing.T) {
	f := api(cluster...)
	m := NewMapper(f)
	v1, away := schema.GroupVersion{Version: "v1"}, errors.New("the server is currently unable to handle the request")
	for _, step := range []struct {
		name       string
		change     func()
		fails      bool
		generation uint64
	}{
		{"the API server is away", func() { f.err = away }, true, 0},
		{"the core group is away", func() { f.err, f.failed[v1] = nil, away }, true, 0},
		{"all is read", func() { delete(f.failed, v1) }, false, 1},
		{"nothing has changed", func() {}, false, 1},
		{"the core group stays as it was", func() { f.failed[v1] = away }, false, 1},
		{"there is a new resource", func() { f.add("example.com/v1 squids squid Squid namespaced") }, false, 2},
		{"the API server is away again", func() { f.err = away }, true, 2},
		{"all is as before", func() { f.err = nil; delete(f.failed, v1) }, false, 2},
	} {
		step.change()
		if err := m.Refresh(t.Context()); (err != nil) != step.fails {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := m.Generation(); got != step.generation || m.Known() != (got > 0) {
			t.Errorf("%s: generation %d, known: %t", step.name, got, m.Known())
		}
	}
}

func TestUnknownResourcesHaveNoKind(t *testing.T) {
	m := refreshed(t, api(cluster...))
	// What Normalize takes for a name is no resource yet.
	if kind, ok := m.KindOf(schema.GroupResource{Resource: "pod"}); ok {
		t.Errorf("got %v", kind)
	}
	// The API group of a kind is given, and the empty one is the core group.
	if r, ok := m.ResourceOf(schema.GroupKind{Kind: "Deployment"}); ok {
		t.Errorf("got %v", r)
	}
}

func TestMetricsAPIsAreNotAsked(t *testing.T) {
	f := api(cluster...)
	refreshed(t, f)
	for _, version := range f.asked {
		if strings.Contains(version, "metrics.k8s.io") {
			t.Errorf("asked for %s: that may be this adapter, with thousands of metrics", version)
		}
	}
}

// TestGroupThatIsAwayStays has the aggregated server of a group go and come back.
func TestGroupThatIsAwayStays(t *testing.T) {
	v1, v2 := schema.GroupVersion{Group: "example.com", Version: "v1"}, schema.GroupVersion{Group: "example.com", Version: "v2"}
	away := errors.New("the server is currently unable to handle the request")
	const before = "octopi.example.com octopus example.com/v2 Octopus namespaced"
	for kind, wrap := range map[string]func(*fakeAPI) discovery.DiscoveryInterface{
		"one by one": func(f *fakeAPI) discovery.DiscoveryInterface { return f },
		"aggregated": func(f *fakeAPI) discovery.DiscoveryInterface { return aggregatedAPI{f} },
	} {
		t.Run(kind, func(t *testing.T) {
			f := api(slices.Concat(cluster, []string{
				"example.com/v1 octopi octopus Octopus namespaced",
				"example.com/v1 squids squid Squid namespaced",
			})...)
			m := refreshed(t, wrap(f))
			for _, failed := range [][]schema.GroupVersion{{v1, v2}, {v2}, {v1}} {
				f.failed = map[schema.GroupVersion]error{}
				for _, v := range failed {
					f.failed[v] = away
				}
				if err := m.Refresh(t.Context()); err != nil {
					t.Errorf("without %v: %v", failed, err)
				}
				if got := describe(m, "octopus"); got != before {
					t.Errorf("without %v: octopus is %s, want %s", failed, got, before)
				}
				if got := describe(m, "squid"); got == "unknown" {
					t.Errorf("without %v: squid is unknown", failed)
				}
				if got := describe(m, "pods"); got == "unknown" {
					t.Errorf("without %v: pods are unknown", failed)
				}
			}

			f.failed = map[schema.GroupVersion]error{}
			f.groups = slices.DeleteFunc(f.groups, func(g metav1.APIGroup) bool { return g.Name == "example.com" })
			if err := m.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := describe(m, "octopus"); got != "unknown" {
				t.Errorf("after the group was removed, octopus is %s", got)
			}
		})
	}
}

func TestAPIServerAwayForgetsNothing(t *testing.T) {
	f := api(cluster...)
	m := refreshed(t, f)
	f.err = errors.New("connection refused")
	err := m.Refresh(t.Context())
	if want := "discovery of the API's resources: connection refused"; fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := describe(m, "pods"); got == "unknown" {
		t.Error("pods are forgotten")
	}
}

// TestLearn has many readers ask for a resource that nobody knows, and then its CRD come.
func TestLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := api(cluster...)
		f.delay = time.Second
		m := refreshed(t, f)
		time.Sleep(learnPause) //nolint:forbidigo // The time of the bubble.

		f.add("new.example.com/v1 squids squid Squid namespaced")
		done := make(chan error)
		for range 100 {
			go func() { done <- m.Learn(t.Context()) }()
		}
		for range 100 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := describe(m, "squid"); got == "unknown" {
			t.Error("squid is unknown after Learn")
		}
		if got := f.calls.Load(); got != 2 {
			t.Errorf("the API server was asked %d times, want 1 for the start and 1 for a hundred readers", got)
		}

		began := time.Now()
		for range 100 {
			if err := m.Learn(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(began); waited != 0 || f.calls.Load() != 2 {
			t.Errorf("readers waited %v for %d more calls so soon after", waited, f.calls.Load()-2)
		}
	})
}

func TestLearnTriesNoMoreOftenWhenItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := api()
		f.err = errors.New("connection refused")
		m := NewMapper(f)
		if err := m.Learn(t.Context()); err == nil {
			t.Error("no error")
		}
		if err := m.Learn(t.Context()); err != nil {
			t.Errorf("the second one within the pause tried: %v", err)
		}
		if got := f.calls.Load(); got != 1 {
			t.Errorf("the API server was asked %d times", got)
		}
	})
}

// TestRefreshOutlivesItsCaller has the first of two callers leave.
func TestRefreshOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := api(cluster...)
		f.delay = 2 * time.Second
		m := NewMapper(f)
		first := make(chan error)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { first <- m.Refresh(ctx) }()
		synctest.Wait()
		second := m.Refresh(t.Context())
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller that left got %v", err)
		}
		if second != nil || f.calls.Load() != 1 {
			t.Errorf("the other got %v after %d calls", second, f.calls.Load())
		}
		if got := describe(m, "pods"); got == "unknown" {
			t.Error("pods are unknown")
		}
	})
}

func TestDiscoveryThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := api(cluster...)
		f.delay = time.Hour
		if err := NewMapper(f).Refresh(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
