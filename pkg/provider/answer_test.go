package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// world is everything that decides about an answer, around the real planner. What changes
// it holds its lock.
type world struct {
	mu sync.RWMutex

	rand *rand.Rand
	// pods are the labels of pods by namespace/name, and version what the store says of them.
	pods    map[string]labels.Set
	version uint64
	rules   []*catalog.RuleMetric
	inForce int
	kind    schema.GroupVersionKind
	// targets are those of custom metrics, and externalTargets those of external ones.
	targets, externalTargets map[types.NamespacedName]float64
	// generation is the mapper's.
	generation uint64
	// answers are those of the engine by query, made when first asked for.
	answers map[string]engine.Answer
	errs    map[string]error
	away    error
	clock   time.Time
	// size is how many pods there are, if they stay the same.
	size int
	// calm answers are never strange.
	calm    bool
	metrics map[types.NamespacedName]*catalog.Metric
	planner *plan.Planner
}

func newWorld(tb testing.TB, seed uint64) *world {
	tb.Helper()
	w := &world{
		rand: rand.New(rand.NewPCG(seed, 1)),
		pods: map[string]labels.Set{}, version: 1, kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"},
		targets: map[types.NamespacedName]float64{}, externalTargets: map[types.NamespacedName]float64{}, generation: 1, clock: at,
	}
	resources := rules.Resources{Overrides: map[string]rules.GroupResource{"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"}}}
	for _, noData := range []string{"error", "zero", "error", "zero"} {
		// The same file read again makes other rules that ask the same.
		rule := rules.Rule{SeriesQuery: "requests", Resources: resources, MetricsQuery: "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"}
		rule.NoData = noData
		set, err := rules.File{Rules: []rules.Rule{rule}, ExternalRules: []rules.Rule{rule}}.Compile(nil)
		if err != nil {
			tb.Fatal(err)
		}
		w.rules = append(w.rules, &catalog.RuleMetric{Rule: set.Custom[0], Series: "requests"}, &catalog.RuleMetric{Rule: set.External[0], Series: "requests"})
	}
	for i := range 12 {
		w.pods[fmt.Sprintf("shop/pod-%02d", i)] = labels.Set{"app": []string{"web", "db"}[i%2]}
	}
	w.forget()
	w.redefine()
	w.planner = plan.New(plan.Options{
		Source: "prometheus", Engine: w, Mapper: w, Counter: w, MaxAge: func() time.Duration { return time.Minute },
	})
	return w
}

// forget has all queries answered anew.
func (w *world) forget() {
	w.answers, w.errs = map[string]engine.Answer{}, map[string]error{}
	w.clock = w.clock.Add(time.Second)
}

// redefine makes the ExternalMetrics anew.
func (w *world) redefine() {
	m := &catalog.Metric{Name: depth, Request: engine.Request{Query: fakeQuery("depth " + strconv.Itoa(w.rand.IntN(2)))}}
	if w.rand.IntN(2) == 0 {
		m.Zeros = []sources.Labels{sources.NewLabels("pod", "none")}
	}
	w.metrics = map[types.NamespacedName]*catalog.Metric{depth: m}
	if w.rand.IntN(4) == 0 {
		w.metrics = nil
	}
}

// Read is the engine's.
func (w *world) Read(_ context.Context, r engine.Request) (engine.Answer, error) {
	if w.away != nil {
		return engine.Answer{}, w.away
	}
	key := r.Query.Key()
	worldAnswers.Lock()
	defer worldAnswers.Unlock()
	if _, ok := w.answers[key]; !ok {
		w.answers[key], w.errs[key] = w.make()
	}
	return w.answers[key], w.errs[key]
}

// worldAnswers guards the answers, which readers make.
var worldAnswers sync.Mutex

// make thinks of an answer, which is seldom strange.
func (w *world) make() (engine.Answer, error) {
	answer := engine.Answer{Fetched: w.clock}
	strange := w.rand.IntN(12)
	if w.calm {
		strange = 11
	}
	if strange == 0 {
		return answer, fmt.Errorf("requests: %w", sources.ErrNoData)
	}
	for _, key := range slices.Sorted(maps.Keys(w.pods)) {
		namespace, name, _ := strings.Cut(key, "/")
		s := sources.Sample{Labels: sources.NewLabels("namespace", namespace, "pod", name), Value: float64(w.rand.IntN(1000)) / 8, Time: w.clock.Add(-time.Second)}
		s.Window = time.Duration(w.rand.IntN(2)) * time.Minute
		switch n := w.rand.IntN(40); {
		case n == 0:
			continue
		case n == 1 && strange < 4:
			s.Value = math.NaN()
		case n == 2 && strange < 4:
			s.Value = 5e16
		case n == 3 && strange < 4:
			answer.Samples = append(answer.Samples, s)
		}
		answer.Samples = append(answer.Samples, s)
	}
	if len(answer.Samples) == 0 {
		return answer, fmt.Errorf("requests: %w", sources.ErrNoData)
	}
	return answer, nil
}

// change changes one thing.
func (w *world) change() {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := fmt.Sprintf("%s/pod-%02d", []string{"shop", "bank"}[w.rand.IntN(2)], w.rand.IntN(15))
	switch w.rand.IntN(12) {
	case 0:
		w.pods[pod] = labels.Set{"app": "web"}
		w.version++
	case 1:
		w.pods[pod] = labels.Set{"app": "db", "tier": strconv.Itoa(w.rand.IntN(3))}
		w.version++
	case 2:
		delete(w.pods, pod)
		w.version++
	case 3, 4, 5:
		w.forget()
	case 6:
		w.inForce = (w.inForce + 2) % len(w.rules)
	case 7:
		w.kind.Version = []string{"v1", "v2"}[w.rand.IntN(2)]
	case 8:
		w.targets = map[types.NamespacedName]float64{}
		if target := w.rand.IntN(4); target > 0 {
			w.targets[types.NamespacedName{Namespace: "shop", Name: "requests"}] = []float64{0, 1e-9, 1e-9, 100}[target]
		}
		w.externalTargets = map[types.NamespacedName]float64{}
		if target := w.rand.IntN(4); target > 0 {
			w.externalTargets[depth] = []float64{0, 1e-9, 100, 200}[target]
		}
	case 9:
		w.generation++
	case 10:
		w.away = nil
		if w.rand.IntN(5) == 0 {
			w.away = &engine.UnavailableError{Source: "prometheus", Since: w.clock, Err: errors.New("away")}
		}
	case 11:
		w.redefine()
	}
}

func (w *world) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	name := strings.TrimSuffix(r.Resource, "s") + "s"
	return schema.GroupResource{Resource: name}, name == "pods", name == "pods" || name == "namespaces"
}
func (*world) Singular(r schema.GroupResource) string { return strings.TrimSuffix(r.Resource, "s") }
func (*world) Known() bool                            { return true }
func (w *world) Generation() uint64                   { return w.generation }
func (*world) Learn(context.Context) error            { return nil }
func (w *world) KindOf(schema.GroupResource) (schema.GroupVersionKind, bool) {
	return w.kind, true
}

func (w *world) Count(_ schema.GroupResource, namespace string) (int, bool) {
	if w.size > 0 {
		return w.size, true
	}
	return len(w.in(namespace, labels.Everything())), true
}

func (w *world) in(namespace string, selector labels.Selector) []string {
	var names []string
	for key, set := range w.pods {
		if in, name, _ := strings.Cut(key, "/"); in == namespace && selector.Matches(set) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) Version(context.Context, schema.GroupResource, string) (uint64, error) {
	return w.version, nil
}

func (w *world) Select(_ context.Context, _ schema.GroupResource, namespace string, selector labels.Selector) ([]string, error) {
	return w.in(namespace, selector), nil
}

func (*world) Get(context.Context, schema.GroupResource, string, string) (objects.Object, bool, error) {
	return objects.Object{}, false, nil
}

func (w *world) Custom(name catalog.CustomName) *catalog.RuleMetric {
	if name.Metric != "requests" {
		return nil
	}
	return w.rules[w.inForce]
}
func (*world) CustomNames() []catalog.CustomName       { return nil }
func (*world) SuggestCustom(catalog.CustomName) string { return "" }
func (*world) Unmapped(string) []catalog.Unmapped      { return nil }
func (*world) RulesReady() error                       { return nil }
func (w *world) LeastTarget(metric types.NamespacedName) (float64, bool) {
	target, ok := w.targets[metric]
	return target, ok
}

func (w *world) LeastExternalTarget(metric types.NamespacedName) (float64, bool) {
	target, ok := w.externalTargets[metric]
	return target, ok
}

func (w *world) External(name types.NamespacedName) *catalog.Metric { return w.metrics[name] }
func (w *world) ExternalRule(string) *catalog.RuleMetric            { return w.rules[w.inForce+1] }
func (*world) ExternalNames() []string                              { return nil }
func (*world) SuggestExternal(types.NamespacedName) string          { return "" }
func (*world) ObjectsSettled() error                                { return nil }
func (*world) ObjectsReady() error                                  { return nil }

// read is what one reader gets, as JSON, and the error's text.
type read struct {
	external                         bool
	namespace, selector, metricLabel string
	user                             string
}

func (w *world) anyRead(n *rand.Rand) read {
	pick := func(of ...string) string { return of[n.IntN(len(of))] }
	return read{
		external: n.IntN(3) == 0, namespace: pick("shop", "shop", "bank"), user: pick("system:serviceaccount:kube-system:hpa", "jane"),
		selector: pick("", "", "app=web", "app in (web)", "app!=web", "app=db,tier=1"),
		// The last one cannot be said in PromQL.
		metricLabel: pick("", "", "", "", "", "", "code=200", "code in (200)", "code>5"),
	}
}

func (r read) of(custom *Custom, external *External) (got string, list runtime.Object) {
	ctx := request.WithUser(context.Background(), &user.DefaultInfo{Name: r.user})
	selector, err := labels.Parse(r.selector)
	if err != nil {
		return err.Error(), nil
	}
	metricSelector, err := labels.Parse(r.metricLabel)
	if err != nil {
		return err.Error(), nil
	}
	if r.external {
		got, err := external.GetExternalMetric(ctx, r.namespace, selector, provider.ExternalMetricInfo{Metric: depth.Name})
		return said(got, err), got
	}
	info := provider.CustomMetricInfo{GroupResource: pods, Namespaced: true, Metric: "requests"}
	found, err := custom.GetMetricBySelector(ctx, r.namespace, selector, info, metricSelector)
	return said(found, err), found
}

func said(list runtime.Object, err error) string {
	if err != nil {
		return err.Error()
	}
	text, err := json.Marshal(list)
	return fmt.Sprint(string(text), err)
}

// What is kept of earlier reads is never seen: each answer is that of a provider that has
// never been asked, whatever changed since, also while others read.
func TestKeptAnswersAreThoseOfNow(t *testing.T) {
	const steps, readers = 6000, 4
	w := newWorld(t, 7)
	counts := NewReads()
	custom, external := NewCustom(w, w.planner, w, w, counts), NewExternal(w, w, w.planner, counts)
	type given struct {
		text string
		list runtime.Object
	}
	var group sync.WaitGroup
	for i := range readers {
		group.Go(func() {
			n := rand.New(rand.NewPCG(uint64(i), 2))
			var all []given
			for range steps / readers {
				if n.IntN(24) == 0 {
					w.change()
				}
				w.mu.RLock()
				r := w.anyRead(n)
				unasked := func() string {
					text, _ := r.of(NewCustom(w, w.planner, w, w, nil), NewExternal(w, w, w.planner, nil))
					return text
				}
				before := unasked()
				got, list := r.of(custom, external)
				after := before
				if got != before {
					// Another reader may have had the planner read the shared query meanwhile, which has
					// an answer of its own.
					after = unasked()
				}
				w.mu.RUnlock()
				if got != after {
					t.Errorf("%+v:\ngot    %s\nbefore %s\nafter  %s", r, got, before, after)
					return
				}
				if strings.HasPrefix(got, "{") {
					all = append(all, given{got, list})
				}
			}
			for _, g := range all {
				if now := said(g.list, nil); now != g.text {
					t.Errorf("what was given is changed afterwards:\nwas %s\nis  %s", g.text, now)
				}
			}
		})
	}
	group.Wait()
	for _, api := range []string{"custom", "external"} {
		if reused, made := answersOf(t, counts, api, "reused"), answersOf(t, counts, api, "made"); reused < steps/40 || made < steps/40 {
			t.Errorf("%s: %v answers reused and %v made: the test tells little", api, reused, made)
		}
	}
}

// answersOf is what the counter of answers says.
func answersOf(t *testing.T, r *Reads, labels ...string) float64 {
	t.Helper()
	return testutil.ToFloat64(r.answers.WithLabelValues(labels...))
}

// An answer is reused while everything is the same, and made anew for each thing that is
// not. Were one of them forgotten, the other test might take long to find it.
func TestWhatAnAnswerIsMadeOf(t *testing.T) {
	w := newWorld(t, 1)
	reads := NewReads()
	custom, external := NewCustom(w, w.planner, w, w, reads), NewExternal(w, w, w.planner, reads)
	w.metrics = nil
	for _, r := range []read{{namespace: "shop", user: "system:x"}, {namespace: "shop", user: "system:x", external: true}} {
		w.inForce = 0
		api := map[bool]string{true: "external", false: "custom"}[r.external]
		again := func(what string, reused bool) {
			t.Helper()
			before := answersOf(t, reads, api, "reused")
			if text, _ := r.of(custom, external); !strings.HasPrefix(text, "{") {
				t.Fatal(text)
			}
			if got := answersOf(t, reads, api, "reused") > before; got != reused {
				t.Errorf("%s, %s: reused %t, want %t", api, what, got, reused)
			}
		}
		quiet := func() {
			w.answers, w.errs = map[string]engine.Answer{}, map[string]error{}
			for i := range 3 {
				_, _ = r.of(custom, external)
				for key, a := range w.answers {
					a.Fetched = w.clock.Add(time.Duration(i))
					a.Samples = nil
					for pod := range keepFrom {
						name := fmt.Sprintf("pod-%02d", pod)
						a.Samples = append(a.Samples, sources.Sample{Labels: sources.NewLabels("namespace", "shop", "pod", name), Value: 3, Time: at})
					}
					w.answers[key], w.errs[key] = a, nil
				}
			}
		}
		quiet()
		again("the first time", false)
		again("the second time", true)
		w.inForce = 4 // It asks the same as the one before, but is read from the file anew.
		again("other rule", false)
		again("other rule again", true)
		r.user = "jane"
		again("other reader", false)
		again("other reader again", true)
		r.user = "system:x"
		again("the first reader", true)
		quiet()
		again("other answer", false)
		again("other answer again", true)
		if r.external {
			w.externalTargets[depth] = 5
			again("other target", false)
			again("other target again", true)
			continue
		}
		w.version++
		again("other objects", false)
		w.kind.Version = "v3"
		again("other kind", false)
		w.targets[types.NamespacedName{Namespace: "shop", Name: "requests"}] = 5
		again("other target", false)
		again("other target again", true)
		r.metricLabel = "code=200"
		_, _ = r.of(custom, external)
		quiet()
		again("other metric selector", false)
		again("other metric selector again", true)
	}
}

func TestSelectorsWithoutTextOfTheirOwnAreNotKept(t *testing.T) {
	for text, want := range map[string]bool{"": true, "a=b": true, "a": true, "a=" + strings.Repeat("b", 63): true} {
		selector, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := textOf(selector); ok != want || got != text {
			t.Errorf("%q: got %q, %t", text, got, ok)
		}
	}
	if _, ok := textOf(labels.Nothing()); ok {
		t.Error("that of nothing reads as that of everything")
	}
	var many []string
	for i := range 2000 {
		many = append(many, "a"+strconv.Itoa(i))
	}
	long, err := labels.Parse(strings.Join(many, ","))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := textOf(long); ok {
		t.Error("a long one is kept")
	}
}

// Readers can think of ever new selectors.
func TestKeptIsBounded(t *testing.T) {
	evicted := 0
	k := newKept[string, int](func() { evicted++ })
	own := strings.Clone
	for i := range maxKept + 10 {
		k.put(strconv.Itoa(i), own, new(i), 1)
	}
	if n := len(k.byKey); n > maxKept || n < maxKept/2 || k.bytes != n || evicted != maxKept+10-n {
		t.Errorf("%d are kept of at most %d, in %d bytes; %d were evicted", n, maxKept, k.bytes, evicted)
	}
	for i := range 100 {
		k.put("large "+strconv.Itoa(i), own, new(i), maxOne)
		if k.bytes > maxKeptBytes {
			t.Fatalf("%d bytes are kept, of at most %d", k.bytes, maxKeptBytes)
		}
	}
	k.put("large 99", own, new(1), maxOne+1)
	if k.get("large 99") != nil {
		t.Error("one is kept that would take the place of many others")
	}
	k.put("other", own, new(1), 10)
	k.put("other", own, new(2), 20)
	sum := 0
	for _, v := range k.byKey {
		sum += v.size
	}
	if got := k.get("other"); got == nil || *got != 2 || sum != k.bytes {
		t.Errorf("got %v; %d bytes are counted, and there are %d", got, k.bytes, sum)
	}
}

func TestKeptIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept[string, int](func() { t.Error("evicted") })
		own := func(key string) string { return key }
		k.put("a", own, new(1), 10)
		k.put("b", own, new(2), 10)
		for range 10 {
			<-time.After(time.Minute)
			k.put("c", own, new(3), 10)
			k.get("b")
		}
		if len(k.byKey) != 2 || k.bytes != 20 || k.get("b") == nil {
			t.Errorf("%d are kept in %d bytes, want what is read", len(k.byKey), k.bytes)
		}
	})
}

// The library converts and encodes what is kept for all readers, in every version and
// encoding, and must not write to it: run it with the race detector.
func TestTheLibraryOnlyReadsWhatIsKept(t *testing.T) {
	w := newWorld(t, 3)
	w.metrics, w.calm = nil, true
	api := newAPI(t, NewCustom(w, w.planner, w, w, nil), NewExternal(w, w, w.planner, nil))
	want := map[string]string{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for _, path := range []string{
				"/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/pods/*/requests?metricLabelSelector=code%3D200",
				"/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/*/requests?metricLabelSelector=code%3D200",
				"/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/depth",
			} {
				for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "application/cbor"} {
					for range 4 {
						r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
						r.Header.Set("Accept", accept)
						answer := httptest.NewRecorder()
						api.ServeHTTP(answer, r)
						body := answer.Body.String()
						mu.Lock()
						if before, ok := want[path+accept]; ok && before != body {
							t.Errorf("%s as %s is\n%q, and was\n%q", path, accept, body, before)
						}
						want[path+accept] = body
						if answer.Code != http.StatusOK && accept != "application/cbor" {
							t.Errorf("%s as %s: %d %s", path, accept, answer.Code, body)
						}
						mu.Unlock()
					}
				}
			}
		})
	}
	group.Wait()
}

// crowd has so many pods in one namespace.
func crowd(tb testing.TB, pods int) *world {
	tb.Helper()
	w := newWorld(tb, 1)
	w.metrics, w.calm, w.pods, w.size = nil, true, map[string]labels.Set{}, pods
	for i := range pods {
		w.pods[fmt.Sprintf("shop/web-5d4f7c9b8d-%05d", i)] = labels.Set{"app": "web"}
	}
	return w
}

// reader reads what HPAs read.
func reader(tb testing.TB, w *world, external bool) func() { //nolint:revive // It is what is read.
	tb.Helper()
	custom, externals := NewCustom(w, w.planner, w, w, NewReads()), NewExternal(w, w, w.planner, NewReads())
	ctx := request.WithUser(tb.Context(), &user.DefaultInfo{Name: "system:serviceaccount:kube-system:hpa"})
	selector, err := labels.Parse("app=web")
	if err != nil {
		tb.Fatal(err)
	}
	info := provider.CustomMetricInfo{GroupResource: pods, Namespaced: true, Metric: "requests"}
	return func() {
		var err error
		if external {
			_, err = externals.GetExternalMetric(ctx, "shop", labels.Everything(), provider.ExternalMetricInfo{Metric: depth.Name})
		} else {
			_, err = custom.GetMetricBySelector(ctx, "shop", selector, info, labels.Everything())
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func TestAReadAllocatesTheSameForAnyNumberOfPods(t *testing.T) {
	for _, external := range []bool{false, true} {
		few := testing.AllocsPerRun(100, reader(t, crowd(t, 10), external))
		many := testing.AllocsPerRun(100, reader(t, crowd(t, 1000), external))
		if few != many || many > 12 {
			t.Errorf("external %t: %v allocations with ten pods, %v with a thousand; want the same, 12 at most", external, few, many)
		}
	}
}

// BenchmarkRead reads what has not changed since the last read, as an HPA mostly does.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		for _, external := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d %s", n, map[bool]string{false: "pods", true: "external series"}[external]), func(b *testing.B) {
				read := reader(b, crowd(b, n), external)
				b.ReportAllocs()
				for b.Loop() {
					read()
				}
			})
		}
	}
}

// BenchmarkReadOfANewAnswer reads each answer once: the most that a read costs.
func BenchmarkReadOfANewAnswer(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("%d pods", n), func(b *testing.B) {
			w := crowd(b, n)
			read := reader(b, w, false)
			b.ReportAllocs()
			for b.Loop() {
				for key, answer := range w.answers {
					answer.Fetched = answer.Fetched.Add(time.Second)
					w.answers[key] = answer
				}
				read()
			}
		})
	}
}
