package bench

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestSpreadIsEvenAndUnique(t *testing.T) {
	names := spread("a", 25, 10)
	seen, in := map[types.NamespacedName]bool{}, map[string]int{}
	for _, n := range names {
		seen[n] = true
		in[n.Namespace]++
	}
	if len(seen) != 25 || len(in) != 10 || in["a-00"] != 3 || in["a-09"] != 2 {
		t.Errorf("%d names, by namespace %v", len(seen), in)
	}
	if got := namespacesOf(names); len(got) != 10 || got[0] != "a-00" || got[9] != "a-09" {
		t.Errorf("the namespaces are %v", got)
	}
}

func TestValuesChangeAndNoHPAActsOnThem(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	for i := range 30 {
		v := valueOf(i, at)
		if v < 95 || v > 105 {
			t.Errorf("the value of %d is %d", i, v)
		}
		if valueOf(i, at.Add(time.Minute)) == v {
			t.Errorf("the value of %d stays %d", i, v)
		}
	}
}

func TestMinutesToCount(t *testing.T) {
	for text, want := range map[string]int{"": billMinutes, "1": 1, "30": 30} {
		if got, err := minutesToCount(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"0", "-1", "5m"} {
		if got, err := minutesToCount(text); err == nil || !strings.Contains(err.Error(), MinutesVariable) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func TestDollarsOfAMonth(t *testing.T) {
	if got := dollarsOfAMonth(1000); math.Round(100*got) != 43800 {
		t.Errorf("1,000 metrics a minute are %v dollars a month, want 438", got)
	}
}

func TestPaceReadsEachOnceAPeriod(t *testing.T) {
	var mu sync.Mutex
	reads := map[string]int{}
	server := newTestServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		reads[r.URL.Path]++
		if r.URL.Path == "/bad" {
			http.Error(w, "no such metric", http.StatusNotFound)
			return
		}
	})
	const period = 100 * time.Millisecond
	p := pace{urls: []string{server.URL + "/a", server.URL + "/b", server.URL + "/c"}, period: period, readers: 2}
	began := time.Now()
	n, err := p.beside(t.Context(), server.Client(), func() error { return pause(t.Context(), 3*period) })
	if most := 3 * (1 + int(time.Since(began)/period)); err != nil || n < 3 || n > most {
		t.Errorf("%d reads, %v, want 3 to %d", n, err, most)
	}
	mu.Lock()
	if len(reads) != 3 {
		t.Errorf("read: %v", reads)
	}
	mu.Unlock()

	p.urls = append(p.urls, server.URL+"/bad")
	if _, err := p.run(t.Context(), server.Client()); err == nil || !strings.Contains(err.Error(), "no such metric") {
		t.Errorf("error is %v", err)
	}
}

func TestReadEachReadsEachOnce(t *testing.T) {
	var mu sync.Mutex
	var paths []string
	server := newTestServer(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, r.URL.Path)
	})
	took, err := readEach(t.Context(), server.Client(), []string{server.URL + "/a", server.URL + "/b", server.URL + "/c"}, 2)
	slices.Sort(paths)
	if err != nil || len(took) != 3 || slices.Min(took) <= 0 || !slices.Equal(paths, []string{"/a", "/b", "/c"}) {
		t.Errorf("got %v, %v; read %v", took, err, paths)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readEach(ended, server.Client(), []string{server.URL}, 1); err == nil {
		t.Error("no error of an interrupted read")
	}
}

func newTestServer(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handle)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

const auditLog = `{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1/namespaces/a/work?labelSelector=","user":{"username":"system:serviceaccount:kube-system:horizontal-pod-autoscaler"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:05.5Z"}
{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1/namespaces/a/work","user":{"username":"system:serviceaccount:kube-system:horizontal-pod-autoscaler"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:20.5Z"}
{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1/namespaces/a/work","user":{"username":"somebody"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:25Z"}
{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1","user":{"username":"system:serviceaccount:kube-system:horizontal-pod-autoscaler"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:26Z"}
{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1/namespaces/a/other","user":{"username":"system:serviceaccount:kube-system:horizontal-pod-autoscaler"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:06Z"}
{"stage":"ResponseComplete","requestURI":"/apis/external.metrics.k8s.io/v1beta1/namespaces/a/other","user":{"username":"system:serviceaccount:kube-system:horizontal-pod-autoscaler"},"responseStatus":{"code":503},"requestReceivedTimestamp":"2026-01-01T00:00:21Z"}
`

func TestAuditLogOfTheHPAController(t *testing.T) {
	reads, err := parseAudit([]byte(auditLog + `{"stage":"Resp`))
	if err != nil {
		t.Fatal(err)
	}
	work, other := reads.at[types.NamespacedName{Namespace: "a", Name: "work"}], reads.at[types.NamespacedName{Namespace: "a", Name: "other"}]
	if len(reads.at) != 2 || len(work) != 2 || work[1].Sub(work[0]) != 15*time.Second || len(other) != 1 || len(reads.failed) != 1 {
		t.Errorf("got %v", reads)
	}
	if _, err := parseAudit([]byte("no JSON\n")); err == nil {
		t.Error("no error of what is no audit log")
	}
}

func TestAnHPAIsSyncedIfItMissedNoPeriod(t *testing.T) {
	from := time.Unix(1000, 0)
	to := from.Add(periods * hpaSync)
	each := func(first, pause time.Duration) []time.Time {
		var times []time.Time
		for at := from.Add(first); at.Before(to); at = at.Add(pause) {
			times = append(times, at)
		}
		return times
	}
	name := func(n string) types.NamespacedName { return types.NamespacedName{Namespace: "a", Name: n} }
	r := auditedReads{
		at: map[types.NamespacedName][]time.Time{
			name("steady"): each(time.Second, hpaSync+50*time.Millisecond),
			name("late"):   each(14*time.Second, hpaSync+time.Second),
			name("missed"): append(each(0, hpaSync)[:2], each(4*hpaSync, hpaSync)...),
		},
		failed: []time.Time{from.Add(-time.Second), from.Add(time.Second)},
	}
	values := map[string]float64{}
	if err := r.figures([]types.NamespacedName{name("steady"), name("late"), name("missed")}, from, to, values); err != nil {
		t.Fatal(err)
	}
	for figure, want := range map[string]float64{figSynced: 2, figLongest: 45, figFailedReads: 1, figSyncReads: 21.0 / periods} {
		if values[figure] != want {
			t.Errorf("%s: got %v, want %v", figure, values[figure], want)
		}
	}
	if err := r.figures([]types.NamespacedName{name("unread")}, from, to, values); err == nil {
		t.Error("metrics that nobody read are taken for synced ones")
	}
}

func TestLongestGapCountsTheEnds(t *testing.T) {
	from := time.Unix(1000, 0)
	at := func(seconds ...int) []time.Time {
		var times []time.Time
		for _, s := range seconds {
			times = append(times, from.Add(time.Duration(s)*time.Second))
		}
		return times
	}
	for _, tc := range []struct {
		reads []time.Time
		gap   time.Duration
		n     int
	}{
		{nil, time.Minute, 0},
		{at(-5, 70), time.Minute, 0},
		{at(10, 20, 59), 39 * time.Second, 3},
		{at(50, 25), 25 * time.Second, 2},
		{at(20, 30), 30 * time.Second, 2},
	} {
		if gap, n := longestGap(tc.reads, from, from.Add(time.Minute)); gap != tc.gap || n != tc.n {
			t.Errorf("%v: got %v and %d, want %v and %d", tc.reads, gap, n, tc.gap, tc.n)
		}
	}
}

func TestHPAWithANumberOfItsExternalMetric(t *testing.T) {
	active := autoscalingv2.HorizontalPodAutoscalerCondition{Type: autoscalingv2.ScalingActive, Status: corev1.ConditionTrue, Message: "fine"}
	away := active
	away.Status, away.Message = corev1.ConditionFalse, "the backend is away"
	value := autoscalingv2.MetricStatus{External: &autoscalingv2.ExternalMetricStatus{
		Current: autoscalingv2.MetricValueStatus{AverageValue: resource.NewQuantity(7, resource.DecimalSI)},
	}}
	for name, tc := range map[string]struct {
		status autoscalingv2.HorizontalPodAutoscalerStatus
		want   bool
	}{
		"new":      {},
		"with one": {autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{active}, CurrentMetrics: []autoscalingv2.MetricStatus{value}}, true},
		"without":  {status: autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{active}}},
		"inactive": {status: autoscalingv2.HorizontalPodAutoscalerStatus{Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{away}, CurrentMetrics: []autoscalingv2.MetricStatus{value}}},
	} {
		if says, ok := hasExternal(tc.status); ok != tc.want || says == "" {
			t.Errorf("%s: got %v, which says %q", name, ok, says)
		}
	}
}

func TestTheWorstStartCounts(t *testing.T) {
	values := map[string]measured{}
	two := func(slowest int) []time.Duration {
		return []time.Duration{time.Millisecond, time.Duration(slowest) * time.Millisecond}
	}
	start{ready: time.Second, first: two(60), again: two(2), waited: 1}.into(values)
	start{ready: 2 * time.Second, first: two(50), again: two(70)}.into(values)
	for name, want := range map[string]float64{figReady: 2, figSlow: 1, figSlowest: 60, figWaited: 1} {
		if got := values[name].value; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if floor := values[figSlowest].floor; floor == nil || *floor != 70 {
		t.Errorf("the slowest of the same reads made again: got %v, want 70", floor)
	}
}
