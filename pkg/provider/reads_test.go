package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// counted are the counters of the reads that are not zero: "custom pods ok 1".
func counted(r *Reads) []string {
	var lines []string
	for k, of := range &r.of {
		for i, counter := range of.results {
			if n := testutil.ToFloat64(counter); n != 0 {
				lines = append(lines, fmt.Sprint(kindLabels[k][0], " ", kindLabels[k][1], " ", resultLabels[i], " ", n))
			}
		}
	}
	return lines
}

// TestReadsAreCounted reads over HTTP, as an HPA does.
func TestReadsAreCounted(t *testing.T) {
	away := &engine.UnavailableError{Source: "main", Since: at, Err: errors.New("connection refused")}
	busy := &engine.BusyError{Source: "main", Queries: 9, MaxQueries: 9}
	noData := fmt.Errorf("jobs: %w", sources.ErrNoData)
	const custom, external = "/apis/custom.metrics.k8s.io/v1beta2", "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/"
	three := fakeEngine{answer: engine.Answer{Samples: sample(3)}}
	for _, tc := range []struct {
		path string
		// read is what the engine gives, fails the planner's error.
		read  fakeEngine
		fails error
		want  string
	}{
		{path: custom + "/namespaces/shop/pods/*/requests", want: "custom pods ok 1"},
		{path: custom + "/namespaces/shop/pods/web-1/requests", want: "custom pods ok 1"},
		{path: custom + "/namespaces/shop/pod/web-1/requests", want: "custom pods ok 1"},
		{path: custom + "/namespaces/shop/pods/*/requests?labelSelector=app%3Djob", want: "custom pods nodata 1"},
		{path: custom + "/namespaces/shop/pods/web-3/requests", want: "custom pods nodata 1"},
		{path: custom + "/namespaces/shop/pods/*/requests?labelSelector=app%3Dnobody", want: "custom pods notfound 1"},
		{path: custom + "/namespaces/shop/pods/web-1/nothing", want: "custom pods notfound 1"},
		{path: custom + "/namespaces/shop/pods/*/requests", fails: away, want: "custom pods unavailable 1"},
		{path: custom + "/namespaces/shop/pods/*/requests", fails: busy, want: "custom pods refused 1"},
		{path: custom + "/namespaces/shop/pods/*/requests?metricLabelSelector=a", fails: errors.New("no"), want: "custom pods invalid 1"},
		{path: custom + "/namespaces/shop/services/web/requests", want: "custom object ok 1"},
		{path: custom + "/namespaces/shop/unheardof/web/requests", want: "custom object notfound 1"},
		{path: custom + "/namespaces/shop/metrics/requests", want: "custom namespace ok 1"},
		{path: custom + "/nodes/n1/load", want: "custom cluster ok 1"},
		{path: external + "depth", read: three, want: "external externalmetric ok 1"},
		{path: external + "depth?labelSelector=a%3Db", read: three, want: "external externalmetric nodata 1"},
		{path: external + "depth", read: fakeEngine{err: noData}, want: "external externalmetric nodata 1"},
		{path: external + "depth", read: fakeEngine{err: away}, want: "external externalmetric unavailable 1"},
		{path: external + "depth", read: fakeEngine{err: fmt.Errorf("%w: 422", sources.ErrRejected)}, want: "external externalmetric failed 1"},
		{path: external + "depth", read: fakeEngine{err: context.DeadlineExceeded}, want: "external externalmetric timeout 1"},
		{path: external + "jobs", read: three, want: "external rule ok 1"},
		{path: external + "jobs", read: fakeEngine{err: noData}, want: "external rule nodata 1"},
		{path: external + "jobs", read: fakeEngine{answer: engine.Answer{Samples: sample(-1)}}, want: "external rule failed 1"},
		{path: external + "nothing", want: "external unknown notfound 1"},
	} {
		t.Run(tc.want+" "+tc.path, func(t *testing.T) {
			s, reads := newShop(), NewReads()
			s.planner.err = tc.fails
			api := newAPI(t, NewCustom(s.catalog, s.planner, s.objects, s.kinds, reads), NewExternal(withJobs(), tc.read, fakeExternalPlanner{}, reads))
			fetch(t, api, tc.path)
			if got := counted(reads); !slices.Equal(got, []string{tc.want}) {
				t.Errorf("counted %q, want %q", got, tc.want)
			}
		})
	}
}

func TestReadsOfUsageAreCounted(t *testing.T) {
	away := &engine.UnavailableError{Source: "main", Since: at, Err: errors.New("connection refused")}
	const prefix = "/apis/metrics.k8s.io/v1beta1"
	for _, tc := range []struct {
		path string
		set  func(*fakeResources)
		want string
	}{
		{path: "/pods", want: "resource pods ok 1"},
		{path: "/namespaces/shop/pods/db-0", want: "resource pods ok 1"},
		{path: "/namespaces/shop/pods/db-0", set: func(f *fakeResources) { f.cpu = nil }, want: "resource pods nodata 1"},
		{path: "/namespaces/shop/pods", set: func(f *fakeResources) { f.cpu = nil }, want: "resource pods nodata 1"},
		{path: "/namespaces/shop/pods/nobody", want: "resource pods notfound 1"},
		{path: "/namespaces/shop/pods", set: func(f *fakeResources) { f.cpuErr = away }, want: "resource pods unavailable 1"},
		{path: "/nodes", want: "resource nodes ok 1"},
		{path: "/nodes/node-1", want: "resource nodes ok 1"},
		{path: "/nodes/node-1", set: func(f *fakeResources) { f.rules = nil }, want: "resource nodes notfound 1"},
	} {
		t.Run(tc.want+" "+tc.path, func(t *testing.T) {
			f, reads := newFakeResources(), NewReads()
			if tc.set != nil {
				tc.set(f)
			}
			fetch(t, installed(t, NewResource(f, f, f, reads)).Handler, prefix+tc.path)
			if got := counted(reads); !slices.Equal(got, []string{tc.want}) {
				t.Errorf("counted %q, want %q", got, tc.want)
			}
		})
	}
}

// TestReadersMakeNoSeries reads what does not exist, by ever new names.
func TestReadersMakeNoSeries(t *testing.T) {
	s, reads := newShop(), NewReads()
	before := testutil.CollectAndCount(reads)
	api := newAPI(t, NewCustom(s.catalog, s.planner, s.objects, s.kinds, reads), NewExternal(withJobs(), fakeEngine{}, fakeExternalPlanner{}, reads))
	for i := range 100 {
		for _, path := range []string{
			"custom.metrics.k8s.io/v1beta2/namespaces/n%[1]d/r%[1]d/o%[1]d/m%[1]d", "custom.metrics.k8s.io/v1beta2/r%[1]d/o%[1]d/m%[1]d",
			"external.metrics.k8s.io/v1beta1/namespaces/n%[1]d/m%[1]d",
		} {
			if code, _ := fetch(t, api, "/apis/"+fmt.Sprintf(path, i)); code != http.StatusNotFound {
				t.Fatalf("%s answers %d, want 404", path, code)
			}
		}
	}
	if after := testutil.CollectAndCount(reads); after != before || before == 0 {
		t.Errorf("there are %d series, want the %d of the start", after, before)
	}
}

// TestDurationHasEveryRead compares the histogram with the counters.
func TestDurationHasEveryRead(t *testing.T) {
	reads := NewReads()
	p := NewExternal(withJobs(), fakeEngine{answer: engine.Answer{Samples: sample(3)}}, fakeExternalPlanner{}, reads)
	for range 5 {
		get(t.Context(), t, p, depth, "")
	}
	get(t.Context(), t, p, depth, "a=b")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(reads)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			// The labels are sorted by name.
			if f.GetName() != "tidegauge_api_read_duration_seconds" || m.GetLabel()[1].GetValue() != "externalmetric" {
				continue
			}
			if got := m.GetHistogram().GetSampleCount(); got != 6 {
				t.Errorf("%d reads were observed, want 6", got)
			}
			return
		}
	}
	t.Error("there is no histogram")
}

// pricedQuery costs a dollar.
type pricedQuery struct{ fakeQuery }

func (pricedQuery) Dollars() float64 { return 1 }

// TestReadsOfWhatIsChargedForAreAddedUp also reads what costs nothing.
func TestReadsOfWhatIsChargedForAreAddedUp(t *testing.T) {
	reads := NewReads()
	c := withJobs()
	c.fakeCatalog[depth] = &catalog.Metric{Name: depth, Request: engine.Request{Source: "cloudwatch", Query: pricedQuery{"depth"}}}
	other := types.NamespacedName{Namespace: "shop", Name: "free"}
	c.fakeCatalog[other] = &catalog.Metric{Name: other, Request: engine.Request{Source: "sqs", Query: fakeQuery("free")}}
	p := NewExternal(c, fakeEngine{answer: engine.Answer{Samples: sample(3)}}, fakeExternalPlanner{}, reads)
	for range 3 {
		get(t.Context(), t, p, depth, "")
		get(t.Context(), t, p, other, "")
		get(t.Context(), t, p, types.NamespacedName{Namespace: "shop", Name: "jobs"}, "")
	}
	// A backend charges for what it is asked, whether or not anybody takes the answer.
	get(t.Context(), t, p, depth, "a=b")
	if got := testutil.ToFloat64(reads.uncached); got != 4 {
		t.Errorf("the reads would have cost %v dollars, want 4", got)
	}
}

func TestReadsAreWellFormed(t *testing.T) {
	if problems, err := testutil.CollectAndLint(NewReads()); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// TestCountingAllocatesNothing is about the path of every read.
func TestCountingAllocatesNothing(t *testing.T) {
	r, failed := NewReads(), status(http.StatusServiceUnavailable, "", "away")
	var q sources.Query = pricedQuery{"depth"}
	if allocs := testing.AllocsPerRun(100, func() {
		r.spare(q)
		r.count(externalMetric, time.Now(), 1, nil)
	}); allocs > 0 {
		t.Errorf("to count a value takes %v allocations, want 0", allocs)
	}
	if got := resultOf(1, failed); got != readUnavailable {
		t.Errorf("an error of 503 counts as %s", resultLabels[got])
	}
}

// BenchmarkCount is what counting adds to a read of an ExternalMetric of CloudWatch.
func BenchmarkCount(b *testing.B) {
	r := NewReads()
	var q sources.Query = pricedQuery{"depth"}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			began := time.Now()
			r.spare(q)
			r.count(externalMetric, began, 1, nil)
		}
	})
}

// BenchmarkExternalRead is a whole read, with and without anybody who counts.
func BenchmarkExternalRead(b *testing.B) {
	for name, reads := range map[string]*Reads{"counted": NewReads(), "uncounted": nil} {
		b.Run(name, func(b *testing.B) {
			c := withJobs()
			c.fakeCatalog[depth] = &catalog.Metric{Name: depth, Request: engine.Request{Source: "cloudwatch", Query: pricedQuery{"depth"}}}
			p := NewExternal(c, fakeEngine{answer: engine.Answer{Samples: sample(3)}}, fakeExternalPlanner{}, reads)
			info := provider.ExternalMetricInfo{Metric: depth.Name}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.GetExternalMetric(b.Context(), depth.Namespace, labels.Everything(), info); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
