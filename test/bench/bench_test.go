package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/promproxy"
)

var example = measurement{
	name: "memory",
	figures: []figure{
		{name: "resident", unit: "MB", atMost: new(20.0), peer: new(592.0)},
		{name: "found", atLeast: new(10.0)},
		{name: "rate", unit: "req/s", ratioAtLeast: new(0.95), peer: new(406.0)},
		{name: "p99", unit: "ms", ratioAtMost: new(1.1)},
		{name: "p50", unit: "ms", peer: new(30.0)},
	},
}

func good() map[string]measured {
	return map[string]measured{
		"resident": {value: 20}, "found": {value: 10}, "p50": {value: 400},
		"rate": {value: 950, floor: new(1000.0)}, "p99": {value: 5.5, floor: new(5.0)},
	}
}

// but is good with another value of one figure; without one that figure is missing.
func but(name string, values ...measured) map[string]measured {
	all := good()
	delete(all, name)
	for _, v := range values {
		all[name] = v
	}
	return all
}

func reportOf(values map[string]measured, err error) *report {
	var r report
	r.add(example, values, err)
	return &r
}

func TestTable(t *testing.T) {
	r := reportOf(map[string]measured{
		"resident": {value: 20.5}, "found": {value: 10},
		"rate": {value: 1234.5, floor: new(1000.0), peer: new(400.0)}, "p99": {value: 6, floor: new(5.0)},
	}, errors.New("it ended"))
	r.add(measurement{name: "other", figures: []figure{{name: "cost", unit: "ms"}}}, plain(map[string]float64{"cost": 0.12345}), nil)
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	const want = `
MEASURED  FIGURE    TIDEGAUGE   FLOOR       RATIO  TARGET        PROMETHEUS-ADAPTER  
memory    resident  20.5 MB                        ≤ 20          592 MB (recorded)   MISSED
          found     10                             ≥ 10                              reached
          rate      1234 req/s  1000 req/s  1.23   ratio ≥ 0.95  400 req/s           reached
          p99       6 ms        5 ms        1.20   ratio ≤ 1.1                       MISSED
          p50                                                    30 ms (recorded)    NOT MEASURED
other     cost      0.123 ms                                                         
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestResults(t *testing.T) {
	values := but("p50")
	values["rate"] = measured{value: 900, floor: new(1000.0), peer: new(400.0)}
	r := reportOf(values, nil)
	var b bytes.Buffer
	if err := r.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []any{
		map[string]any{"name": "memory: resident", "unit": "MB", "value": 20.0, "floor": nil, "ratio": nil, "target": "≤ 20", "reached": true},
		map[string]any{"name": "memory: found", "unit": nil, "value": 10.0, "floor": nil, "ratio": nil, "target": "≥ 10", "reached": true},
		map[string]any{"name": "memory: rate", "unit": "req/s", "value": 900.0, "floor": 1000.0, "ratio": 0.9, "target": "ratio ≥ 0.95", "reached": false},
		map[string]any{"name": "memory: p99", "unit": "ms", "value": 5.5, "floor": 5.0, "ratio": 1.1, "target": "ratio ≤ 1.1", "reached": true},
		map[string]any{"name": "memory: p50", "unit": "ms", "value": nil, "floor": nil, "ratio": nil, "target": nil, "reached": nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without a prometheus-adapter (-want +got):\n%s", diff)
	}

	r.peer = true
	b.Reset()
	if err := r.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for i, peer := range []any{nil, nil, 400.0, nil, nil} {
		one, _ := want[i].(map[string]any)
		one["peer"] = peer
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with a prometheus-adapter (-want +got):\n%s", diff)
	}
}

func TestWhatIsNotMeasuredIsNotReached(t *testing.T) {
	for _, l := range reportOf(nil, errors.New("it ended")).lines {
		if reached := l.reached(); (reached == nil) != (l.target() == "") || reached != nil && *reached {
			t.Errorf("%s: target %q, reached %v", l.title(), l.target(), reached)
		}
	}
}

func TestResultsAreSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench", "results.json")
	var out bytes.Buffer
	if err := reportOf(good(), nil).write(Options{Results: file, JSON: true, Out: &out}); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(file)
	if err != nil || len(saved) == 0 || !bytes.Equal(saved, out.Bytes()) {
		t.Errorf("saved %s, %v\nwant what was printed: %s", saved, err, out.Bytes())
	}
	out.Reset()
	if err := reportOf(good(), nil).write(Options{Out: &out}); err != nil || !strings.HasPrefix(out.String(), "MEASURED") {
		t.Errorf("printed %s, %v", out.String(), err)
	}
}

func TestErrorsOfAReport(t *testing.T) {
	for name, tc := range map[string]struct {
		values map[string]measured
		err    error
		missed bool
		words  []string
	}{
		"all is reached":                        {values: good()},
		"too much":                              {values: but("resident", measured{value: 20.1}), missed: true},
		"too little":                            {values: but("found", measured{value: 9}), missed: true},
		"too slow":                              {values: but("rate", measured{value: 949, floor: new(1000.0)}), missed: true},
		"too late":                              {values: but("p99", measured{value: 5.6, floor: new(5.0)}), missed: true},
		"a value is missing":                    {values: but("p50"), words: []string{"memory: p50: not measured"}},
		"a floor is missing":                    {values: but("rate", measured{value: 950}), words: []string{"memory: rate: there is nothing to compare it with"}},
		"a floor is zero":                       {values: but("p99", measured{value: 1, floor: new(0.0)}), words: []string{"memory: p99: there is nothing to compare it with"}},
		"all was measured and something failed": {values: good(), err: errors.New("the adapter did not stop"), words: []string{"memory: the adapter did not stop"}},
		"nothing was measured":                  {err: errors.New("the adapter ended"), words: []string{"memory: the adapter ended"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := reportOf(tc.values, tc.err).err()
			if errors.Is(err, ErrMissed) != tc.missed {
				t.Errorf("error is %v, want missed: %v", err, tc.missed)
			}
			if err == nil && (tc.missed || len(tc.words) > 0) {
				t.Fatal("no error")
			}
			if err != nil && !tc.missed && len(tc.words) == 0 {
				t.Errorf("error is %v", err)
			}
			for _, words := range tc.words {
				if n := strings.Count(err.Error(), words); n != 1 {
					t.Errorf("error is %q, want %q once", err, words)
				}
			}
		})
	}
}

func TestMeasurementsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range measurements() {
		if seen[m.name] || m.run == nil || len(m.figures) == 0 {
			t.Errorf("measurement %+v", m)
		}
		seen[m.name] = true
		figures := map[string]bool{}
		for _, f := range m.figures {
			if figures[f.name] {
				t.Errorf("%s has two figures %q", m.name, f.name)
			}
			figures[f.name] = true
			bounds := 0
			for _, bound := range []*float64{f.atMost, f.atLeast, f.ratioAtMost, f.ratioAtLeast} {
				if bound != nil {
					bounds++
				}
			}
			if bounds > 1 {
				t.Errorf("%s: %s has several targets, and shows one", m.name, f.name)
			}
		}
	}
	err := Run(t.Context(), Options{Only: []string{"discovery", "everything"}, Progress: io.Discard})
	if want := `no measurement "everything", only ` + strings.Join(Names(), ", "); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func TestMemory(t *testing.T) {
	m, err := parseStatus("Name:\tadapter kB\nVmHWM:\t  2000 kB\nVmRSS:\t    1000 kB\nThreads:\t7\n")
	if err != nil || m.resident != 1_024_000 || m.peak != 2_048_000 {
		t.Errorf("got %+v, %v", m, err)
	}
	for _, text := range []string{"", "VmRSS:\t1000 kB\n", "VmRSS:\tmany kB\n"} {
		if m, err := parseStatus(text); err == nil {
			t.Errorf("%q: got %+v", text, m)
		}
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("there is no /proc on this system")
	}
	m, err = settledMemory(t.Context(), os.Getpid(), 40*time.Millisecond)
	if err != nil || m.resident < megabyte || m.peak < megabyte {
		t.Errorf("this process: %+v, %v", m, err)
	}
}

func TestQuantile(t *testing.T) {
	var values []float64
	for i := range 100 {
		values = append(values, float64(100-i))
	}
	for part, want := range map[float64]float64{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(values, part); got != want {
			t.Errorf("%v: got %v, want %v", part, got, want)
		}
	}
	if got := median([]float64{7}); got != 7 {
		t.Errorf("the median of one value is %v", got)
	}
	if values[0] != 100 {
		t.Error("the values were sorted in place")
	}
}

func TestSumOf(t *testing.T) {
	const text = `# HELP apiserver_request_total Requests.
# TYPE apiserver_request_total counter
apiserver_request_total{group="",resource="pods",subresource="",verb="LIST",code="200"} 3
apiserver_request_total{group="",resource="pods",subresource="",verb="LIST",code="410"} 1
apiserver_request_total{group="",resource="pods",subresource="",verb="WATCH",code="0"} 7
apiserver_request_total{group="metrics.k8s.io",resource="pods",subresource="",verb="LIST",code="200"} 9
# TYPE tidegauge_reads_total counter
tidegauge_reads_total{source="prometheus"} 5
`
	for name, tc := range map[string]struct {
		metric string
		labels map[string]string
		want   float64
	}{
		"some":     {"apiserver_request_total", map[string]string{"group": "", "resource": "pods", "verb": "LIST"}, 4},
		"absent":   {"tidegauge_reads_total", map[string]string{"group": ""}, 5},
		"none":     {"apiserver_request_total", map[string]string{"verb": "GET"}, 0},
		"no such":  {"unknown", nil, 0},
		"all":      {"apiserver_request_total", nil, 20},
		"by group": {"apiserver_request_total", map[string]string{"group": "metrics.k8s.io"}, 9},
	} {
		if got, err := sumOf([]byte(text), tc.metric, tc.labels); err != nil || got != tc.want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, tc.want)
		}
	}
	if _, err := sumOf([]byte("<html>"), "x", nil); err == nil {
		t.Error("a page is taken for metrics")
	}
}

func TestLoad(t *testing.T) {
	var atOnce, most atomic.Int64
	asked := map[string]*atomic.Int64{"/a": {}, "/b": {}, "/slow": {}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path].Add(1)
		for now := atOnce.Add(1); ; {
			if m := most.Load(); now <= m || most.CompareAndSwap(m, now) {
				break
			}
		}
		defer atOnce.Add(-1)
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		fmt.Fprint(w, `{"items":[{"timestamp":"now"},{"timestamp":"then"}]}`)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()

	client := server.Client()
	got, err := load{urls: []string{server.URL + "/a", server.URL + "/b"}, inFlight: 3, count: 50, limit: time.Minute, items: 2}.run(t.Context(), client)
	if err != nil || len(got.each) != 50 || got.rate() <= 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if a, b := asked["/a"].Load(), asked["/b"].Load(); a != 25 || b != 25 {
		t.Errorf("%d and %d requests, want 25 of each", a, b)
	}
	if n := most.Load(); n > 3 {
		t.Errorf("%d requests at once, want 3", n)
	}

	if _, err := (load{urls: []string{server.URL + "/a"}, inFlight: 1, count: 1, limit: time.Minute, items: 3}).run(t.Context(), client); err == nil || !strings.Contains(err.Error(), "/a: 2 items, want 3") {
		t.Errorf("of an answer without one of the items the error is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := (load{urls: []string{server.URL + "/slow"}, inFlight: 1, count: 1, limit: time.Minute}).run(ctx, client); err == nil {
		t.Errorf("a load that was interrupted has %+v", got)
	}
}

func TestLoadEndsWithItsTime(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	got, err := load{urls: []string{server.URL}, inFlight: 2, limit: 20 * time.Millisecond}.run(t.Context(), server.Client())
	if err != nil || len(got.each) == 0 || got.elapsed < 20*time.Millisecond {
		t.Errorf("got %d requests in %v, %v", len(got.each), got.elapsed, err)
	}
}

func TestLoadWantsWholeAnswersOverHTTP2(t *testing.T) {
	bad := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such metric", http.StatusNotFound)
	}))
	bad.EnableHTTP2 = true
	bad.StartTLS()
	defer bad.Close()
	old := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer old.Close()
	for words, server := range map[string]*httptest.Server{"404 Not Found: no such metric": bad, "answered with HTTP/1.1": old} {
		_, err := load{urls: []string{server.URL}, inFlight: 2, count: 5, limit: time.Minute}.run(t.Context(), server.Client())
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("error is %v, want %q", err, words)
		}
	}
}

func TestListingTimeIsThatOfAllSelectors(t *testing.T) {
	call := func(selector string, took time.Duration, status int) promproxy.Call {
		return promproxy.Call{Match: []string{selector}, Took: took, Status: status, Complete: true}
	}
	got := listingTime([]promproxy.Call{
		call("a", 9*time.Second, 200), call("a", 2*time.Second, 200), call("a", time.Second, 200),
		call("b", 5*time.Second, 200), call("b", time.Hour, 503),
	})
	if want := 7 * time.Second; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestClusterHasTheSeriesOfEachSelector(t *testing.T) {
	for _, want := range [][2]int{{1, 0}, {len(containerNames), len(appNames())}, {150, 151}} {
		play := cluster(want[0], want[1])
		for i, selector := range []string{`{__name__=~"^container_.*",container!="POD"}`, `{namespace!="",__name__!~"^container_.*"}`} {
			answer, ok := play(promproxy.Call{Endpoint: promproxy.Series, Match: []string{selector}})
			if !ok {
				t.Fatalf("%s: not played", selector)
			}
			w := httptest.NewRecorder()
			answer.ServeHTTP(w, nil)
			var list struct {
				Data []map[string]string `json:"data"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
				t.Fatal(err)
			}
			if len(list.Data) != want[i] {
				t.Errorf("%s: %d series, want %d", selector, len(list.Data), want[i])
			}
			for _, series := range list.Data {
				if series["namespace"] == "" || len(series) != seriesLabels+1 ||
					strings.HasPrefix(series["__name__"], "container_") != strings.Contains(selector, `=~"^container_`) {
					t.Fatalf("%s: series %v", selector, series)
				}
			}
		}
	}
}

func TestEachPodHasANumberOfItsOwnWithinTheTolerance(t *testing.T) {
	pods := []types.NamespacedName{{Namespace: "a", Name: "app-01-5d4f7-x2x9z"}, {Namespace: "b", Name: "app-01-5d4f7-kkk1k"}}
	got := numbers(pods)
	a, b := got[types.NamespacedName{Namespace: "a", Name: "app-01"}], got[types.NamespacedName{Namespace: "b", Name: "app-01"}]
	if len(got) != 2 || a == b || a == 0 || b == 0 {
		t.Errorf("got %v", got)
	}
	for i := range 100 {
		if n := requestsOf(i); n < requestsTarget*9/10 || n > requestsTarget*11/10 {
			t.Errorf("pod %d has %d", i, n)
		}
	}
	data := requests(pods)
	if len(data) != 2 || data[0].Value == data[1].Value || data[1].Labels["pod"] != pods[1].Name {
		t.Errorf("the series are %v", data)
	}
}

func TestNumberOf(t *testing.T) {
	active := autoscalingv2.HorizontalPodAutoscalerCondition{Type: autoscalingv2.ScalingActive, Status: "True", Message: "fine"}
	broken := autoscalingv2.HorizontalPodAutoscalerCondition{Type: autoscalingv2.ScalingActive, Status: "False", Message: "no metric"}
	metric := autoscalingv2.MetricStatus{Pods: &autoscalingv2.PodsMetricStatus{
		Current: autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse("95500m"))},
	}}
	for name, tc := range map[string]struct {
		status autoscalingv2.HorizontalPodAutoscalerStatus
		value  float64
		says   string
	}{
		"new":    {autoscalingv2.HorizontalPodAutoscalerStatus{}, -1, "it was not looked at yet"},
		"active": {autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{active}, CurrentMetrics: []autoscalingv2.MetricStatus{metric}}, 95.5, "fine"},
		"broken": {autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{broken}, CurrentMetrics: []autoscalingv2.MetricStatus{metric}}, -1, "no metric"},
	} {
		if value, says := numberOf(tc.status); value != tc.value || says != tc.says {
			t.Errorf("%s: got %v, %q, want %v, %q", name, value, says, tc.value, tc.says)
		}
	}
}

func TestAwaitEndsWithWhatItSaw(t *testing.T) {
	var said bytes.Buffer
	b := &bed{out: &said}
	looks := 0
	err := b.await(t.Context(), "pods", time.Minute, func(context.Context) (string, bool, error) {
		looks++
		return "", looks == 2, nil
	})
	if err != nil || looks != 2 {
		t.Errorf("%d looks, %v", looks, err)
	}
	err = b.await(t.Context(), "pods", time.Millisecond, func(context.Context) (string, bool, error) {
		return "", true, errors.New("refused")
	})
	if err == nil || err.Error() != "pods: not within 1ms: refused" {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = b.await(ctx, "pods", time.Minute, func(context.Context) (string, bool, error) { return "3 of 4", false, nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "3 of 4") {
		t.Errorf("error is %v", err)
	}
}
