package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
		{name: "p50", unit: "ms", peer: new(30.0)},
	},
}

func reportOf(values map[string]float64, err error) *report {
	var r report
	r.add(lines(example, values, err))
	return &r
}

func TestTable(t *testing.T) {
	r := reportOf(map[string]float64{"resident": 20.5, "found": 10}, errors.New("it ended"))
	r.add(lines(measurement{name: "other", figures: []figure{{name: "rate", unit: "req/s"}}}, map[string]float64{"rate": 1.25}, nil))
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	const want = `
MEASURED  FIGURE    TIDEGAUGE  REQUIRED       PROMETHEUS-ADAPTER  
memory    resident  20 MB      at most 20 MB  592 MB              MISSED
          found     10         at least 10                        met
          p50                                 30 ms               NOT MEASURED
other     rate      1.2 req/s                                     
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := reportOf(map[string]float64{"resident": 3, "found": 9}, nil).writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Figures []line `json:"figures"`
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Figures) != 3 {
		t.Fatalf("figures are %+v", got.Figures)
	}
	first, second, third := got.Figures[0], got.Figures[1], got.Figures[2]
	if first.Measurement != "memory" || first.Figure != "resident" || *first.Value != 3 || !*first.Met || *first.Peer != 592 {
		t.Errorf("the first figure is %+v", first)
	}
	if *second.Met {
		t.Errorf("the second figure is %+v", second)
	}
	if third.Value != nil || third.Met != nil || third.Error == "" {
		t.Errorf("the third figure is %+v", third)
	}
}

func TestErrorsOfAReport(t *testing.T) {
	good := map[string]float64{"resident": 20, "found": 10, "p50": 400}
	for name, tc := range map[string]struct {
		values map[string]float64
		err    error
		missed bool
		words  []string
	}{
		"all is met":         {values: good},
		"too much":           {values: map[string]float64{"resident": 20.1, "found": 10, "p50": 1}, missed: true},
		"too little":         {values: map[string]float64{"resident": 20, "found": 9, "p50": 1}, missed: true},
		"a value is missing": {values: map[string]float64{"resident": 20, "found": 10}, words: []string{"memory: p50: not measured"}},
		"nothing was measured": {
			err: errors.New("the adapter ended"), words: []string{"memory: the adapter ended"},
		},
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
		}
	}
	err := Run(t.Context(), Options{Only: []string{"discovery", "everything"}, Progress: io.Discard})
	if err == nil || !strings.Contains(err.Error(), `no measurement "everything", only discovery, reads, hpas`) {
		t.Errorf("error is %v", err)
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
	var asked, atOnce, most atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for now := atOnce.Add(1); ; {
			if m := most.Load(); now <= m || most.CompareAndSwap(m, now) {
				break
			}
		}
		defer atOnce.Add(-1)
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()

	s, err := load{url: server.URL, inFlight: 3, count: 50, limit: time.Minute}.run(t.Context(), server.Client())
	if err != nil || s.perSecond <= 0 || s.p50 <= 0 || s.p99 < s.p50 {
		t.Errorf("got %+v, %v", s, err)
	}
	if n := asked.Load(); n != 50 {
		t.Errorf("%d requests, want 50", n)
	}
	if n := most.Load(); n > 3 {
		t.Errorf("%d requests at once, want 3", n)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s, err := (load{url: server.URL + "/slow", inFlight: 1, count: 1, limit: time.Minute}).run(ctx, server.Client()); err == nil {
		t.Errorf("a load that was interrupted has %+v", s)
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
		_, err := load{url: server.URL, inFlight: 2, count: 5, limit: time.Minute}.run(t.Context(), server.Client())
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

func TestNames(t *testing.T) {
	if got, want := Names(), []string{"discovery", "reads", "hpas"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
