package objects

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegauge/tidegauge/internal/heap"
)

// TestMemoryIsWhatWasPut compares a memory with a map after changes at random.
func TestMemoryIsWhatWasPut(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m, want := newMemory(func() {}), map[string]Object{}
	for i := range 20_000 {
		o := Object{
			Namespace: fmt.Sprint("n", random.IntN(3)), Name: fmt.Sprint("pod-", random.IntN(40)),
			Labels: labels.Set{"app": strconv.Itoa(random.IntN(3))},
		}
		key := o.Namespace + "/" + o.Name
		if i%100 < 60 {
			want[key] = o
			if err := m.Add(o); err != nil {
				t.Fatal(err)
			}
		} else {
			delete(want, key)
			if err := m.Delete(cache.DeletedFinalStateUnknown{Key: key, Obj: o}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m.size("") != len(want) || len(want) == 0 {
		t.Errorf("there are %d objects, want %d", m.size(""), len(want))
	}
	for _, selector := range []labels.Selector{labels.Everything(), labels.SelectorFromSet(labels.Set{"app": "1"}), labels.Nothing()} {
		compare(t, m, want, selector)
	}
	for _, o := range want {
		if err := m.Delete(o); err != nil {
			t.Fatal(err)
		}
	}
	if m.size("") != 0 || len(m.namespaces) != 0 {
		t.Errorf("%d objects and %d namespaces are left", m.size(""), len(m.namespaces))
	}
}

func compare(t *testing.T, m *memory, want map[string]Object, selector labels.Selector) {
	t.Helper()
	line := func(o Object) string { return fmt.Sprint(o.Namespace, "/", o.Name, " ", o.Labels) }
	var expected, got []string
	for _, o := range want {
		if selector.Matches(o.Labels) {
			expected = append(expected, line(o))
		}
		if found, ok := m.get(o.Namespace, o.Name); !ok || line(found) != line(o) {
			t.Errorf("%s is %s", line(o), line(found))
		}
	}
	for _, o := range m.list("", selector) {
		got = append(got, line(o))
	}
	slices.Sort(expected)
	slices.Sort(got)
	if !slices.Equal(got, expected) {
		t.Errorf("with %q there are %v, want %v", selector, got, expected)
	}
}

// ofDeployment and ofStatefulSet are the labels that pods have in clusters.
func ofDeployment(app int, _ string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":     fmt.Sprintf("application-%d", app),
		"app.kubernetes.io/instance": fmt.Sprintf("application-%d-production", app),
		"app.kubernetes.io/version":  "1.2.3",
		"pod-template-hash":          "7d4b9c6f5d",
		"team":                       "payments",
	}
}

func ofStatefulSet(app int, name string) map[string]string {
	set := ofDeployment(app, name)
	set["statefulset.kubernetes.io/pod-name"] = name
	return set
}

// thePods are 100,000 in 100 namespaces, 20 to an application.
func thePods(labelsOf func(app int, name string) map[string]string) []*metav1.PartialObjectMetadata {
	all := make([]*metav1.PartialObjectMetadata, 0, 100_000)
	for i := range cap(all) {
		app := i / 20
		name := fmt.Sprintf("application-%d-7d4b9c6f5d-%05d", app, i)
		all = append(all, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("namespace-%d", app%100), Name: name, Labels: labelsOf(app, name),
		}})
	}
	return all
}

// BenchmarkMemory says how many bytes of memory a pod takes, beside those in the same
// client-go indexer that an informer has.
func BenchmarkMemory(b *testing.B) {
	for name, tc := range map[string]struct {
		labelsOf func(app int, name string) map[string]string
		store    func() cache.ReflectorStore
	}{
		"Deployments":  {ofDeployment, func() cache.ReflectorStore { return newMemory(func() {}) }},
		"StatefulSets": {ofStatefulSet, func() cache.ReflectorStore { return newMemory(func() {}) }},
		"Deployments in informer": {ofDeployment, func() cache.ReflectorStore {
			return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		}},
	} {
		b.Run(name, func(b *testing.B) {
			var bytes uint64
			for b.Loop() {
				before := heap.InUse()
				s := tc.store()
				for _, p := range thePods(tc.labelsOf) {
					if err := s.Add(p); err != nil {
						b.Fatal(err)
					}
				}
				bytes = heap.InUse() - before
				runtime.KeepAlive(s)
			}
			b.ReportMetric(float64(bytes)/100_000, "B/pod")
		})
	}
}

// BenchmarkSelect reads the 20 pods of an application among the 1,000 of its namespace.
func BenchmarkSelect(b *testing.B) {
	m := newMemory(func() {})
	for _, p := range thePods(ofDeployment) {
		if err := m.Add(p); err != nil {
			b.Fatal(err)
		}
	}
	selector := labels.SelectorFromSet(labels.Set{"app.kubernetes.io/name": "application-7"})
	for b.Loop() {
		if found := m.list("namespace-7", selector); len(found) != 20 {
			b.Fatalf("found %d", len(found))
		}
	}
}
