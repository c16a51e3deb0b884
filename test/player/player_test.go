package player

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"
)

const (
	asked    = `http_requests_total{method="GET",path="/",status="200"}`
	scraped  = `http_requests_total{method="GET",path="/metrics",status="200"}`
	meshed   = `envoy_cluster_upstream_rq{envoy_cluster_name="local_app",envoy_response_code="200"}`
	interval = time.Second
)

// get asks the player and returns the samples of the answer by their series.
func get(t *testing.T, p *Player, path string) map[string]float64 {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "1")
	w := httptest.NewRecorder()
	p.handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s answers %d: %s", path, w.Code, w.Body)
	}
	samples := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.TrimSuffix(line, "\n")
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		samples[line[:at]] = value
	}
	return samples
}

// scrape scrapes pods of the namespace shop for a time, and returns how many requests
// each was asked by then.
func scrape(t *testing.T, p *Player, limit time.Duration, pods ...string) []float64 {
	t.Helper()
	counts := make([]float64, len(pods))
	for elapsed := time.Duration(0); ; elapsed += interval {
		for i, pod := range pods {
			counts[i] = get(t, p, "/shop/"+pod+"/metrics")[asked]
		}
		if elapsed == limit {
			return counts
		}
		pass(interval)
	}
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time is the bubble's.
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestScrapeIsARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		for n := range 3 {
			equal(t, "an idle pod", get(t, p, "/shop/web-1/metrics"), map[string]float64{asked: 0, scraped: float64(n + 1), meshed: 0})
			pass(5 * time.Second)
		}
	})
}

func TestRateOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		set := func(perSecond float64) {
			ok(t, p.SetRequests(Requests{Namespace: "shop", Pod: "a", PerSecond: perSecond}))
		}
		set(2)
		equal(t, "first scrape", scrape(t, p, 0, "a", "b"), []float64{0, 0})
		equal(t, "after 4 s of 2/s", scrape(t, p, 4*time.Second, "a", "b"), []float64{8, 0})
		pass(500 * time.Millisecond)
		set(10)
		pass(500 * time.Millisecond)
		equal(t, "a rate that changed half way", scrape(t, p, 0, "a", "b"), []float64{14, 0})
		set(0)
		equal(t, "no more requests", scrape(t, p, 4*time.Second, "a", "b"), []float64{14, 0})
		equal(t, "mesh", get(t, p, "/shop/a/stats/prometheus")[meshed], 14.0)
		equal(t, "the pod of another namespace", get(t, p, "/demo/a/metrics")[asked], 0.0)
	})
}

func TestRateIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one, two, three = "web-5d8f7c9b6d-x2v9z", "web-5d8f7c9b6d-bbbbb", "web-5d8f7c9b6d-ccccc"
		p := newPlayer()
		ok(t, p.SetRequests(Requests{Namespace: "shop", Workload: "web", PerSecond: 30}))
		equal(t, "one pod has all", scrape(t, p, 10*time.Second, one), []float64{300})
		equal(t, "three have a third each", scrape(t, p, 10*time.Second, one, two, three), []float64{400, 100, 100})
		// Two are gone three scrapes after their last.
		equal(t, "one is left", scrape(t, p, 10*time.Second, one), []float64{400 + 30 + 7*30})
		equal(t, "those that come back", scrape(t, p, 0, one, two, three), []float64{640, 130, 130})
		ok(t, p.SetRequests(Requests{Namespace: "shop", Pod: two, PerSecond: 1}))
		equal(t, "both rates", scrape(t, p, 10*time.Second, one, two, three), []float64{740, 240, 230})
	})
}

func TestSlowScrapesKeepAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		ok(t, p.SetRequests(Requests{Namespace: "shop", Workload: "web", PerSecond: 1}))
		scrape(t, p, 0, "web-0")
		for range 10 {
			pass(30 * time.Second)
			scrape(t, p, 0, "web-0")
		}
		// It was not known at first that it is scraped every 30 s and not every second.
		equal(t, "requests in 300 s", scrape(t, p, 0, "web-0"), []float64{273})
	})
}

func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		ok(t, p.SetRequests(Requests{Namespace: "shop", Workload: "web", PerSecond: 1}))
		for n := range 1000 {
			scrape(t, p, 0, fmt.Sprintf("web-%d", n))
			pass(time.Minute)
		}
		if targets, shares := len(p.pods.targets), len(p.pods.loads[scope{namespace: "shop", workload: "web"}].targets); targets > 12 || shares != targets {
			t.Errorf("%d targets are kept, of which %d have a share", targets, shares)
		}
		ok(t, p.SetRequests(Requests{Namespace: "shop", Workload: "web"}))
		if len(p.pods.loads) > 0 {
			t.Error("a load of nothing is kept")
		}
		for id, target := range p.pods.targets {
			if len(target.loads) > 0 {
				t.Errorf("%v keeps its share of it", id)
			}
		}
	})
}

func TestOfWorkload(t *testing.T) {
	for _, test := range []struct {
		pod  string
		want bool
	}{
		{"web", true},
		{"web-0", true},
		{"web-17", true},
		{"web-x2v9z", true},
		{"web-5d8f7c9b6d-x2v9z", true},
		{"web-admin", false},
		{"web-admin-0", false},
		{"web-admin-x2v9z", false},
		{"web-admin-5d8f7c9b6d-x2v9z", false},
		{"webs-0", false},
		{"my-web-0", false},
	} {
		if got := (scope{namespace: "shop", workload: "web"}).has(targetID{namespace: "shop", pod: test.pod}); got != test.want {
			t.Errorf("%s is a pod of web: %t", test.pod, got)
		}
	}
}

// usage are the seconds of CPU and the bytes of a container.
func usage(t *testing.T, p *Player, pod, name string) [2]float64 {
	t.Helper()
	id := fmt.Sprintf(`{container=%q,id="/kubepods/shop/%s/%s",namespace="shop",node="node-0",pod=%q}`, name, pod, name, pod)
	samples := get(t, p, fmt.Sprintf("/cadvisor/metrics?namespace=shop&pod=%s&container=%s&node=node-0", pod, name))
	return [2]float64{samples["container_cpu_usage_seconds_total"+id], samples["container_memory_working_set_bytes"+id]}
}

func TestUsageOfContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		ok(t, p.SetUsage(
			Usage{Namespace: "shop", Workload: "web", Cores: 4, Bytes: 400},
			Usage{Namespace: "shop", Pod: "web-1", Container: "app", Cores: 1, Bytes: 50},
		))
		both := func() [][2]float64 { return [][2]float64{usage(t, p, "web-0", "app"), usage(t, p, "web-1", "app")} }
		both()
		equal(t, "at first", both(), [][2]float64{{0, 200}, {0, 250}})
		pass(time.Second)
		equal(t, "a second later", both(), [][2]float64{{2, 200}, {3, 250}})
		equal(t, "a sidecar", usage(t, p, "web-0", "proxy"), [2]float64{0, 400.0 / 3})
	})
}

func TestUsageOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		usage(t, p, "web-0", "app") // names its node
		ok(t, p.SetUsage(Usage{Node: "node-1", Cores: 0.5, Bytes: 1 << 30}))
		pass(4 * time.Second)
		ok(t, p.SetUsage(Usage{Node: "node-1", Cores: 1, Bytes: 1 << 31}))
		pass(time.Second)
		equal(t, "nodes", get(t, p, "/cadvisor/metrics"), map[string]float64{
			`container_cpu_usage_seconds_total{id="/",node="node-0"}`:   0,
			`container_cpu_usage_seconds_total{id="/",node="node-1"}`:   3,
			`container_memory_working_set_bytes{id="/",node="node-0"}`:  0,
			`container_memory_working_set_bytes{id="/",node="node-1"}`:  1 << 31,
			`node_cpu_seconds_total{cpu="0",mode="idle",node="node-0"}`: 5,
			`node_cpu_seconds_total{cpu="0",mode="idle",node="node-1"}`: 5,
			`node_cpu_seconds_total{cpu="0",mode="user",node="node-0"}`: 0,
			`node_cpu_seconds_total{cpu="0",mode="user",node="node-1"}`: 3,
			`node_memory_MemTotal_bytes{node="node-0"}`:                 nodeBytes,
			`node_memory_MemTotal_bytes{node="node-1"}`:                 nodeBytes,
			`node_memory_MemAvailable_bytes{node="node-0"}`:             nodeBytes,
			`node_memory_MemAvailable_bytes{node="node-1"}`:             nodeBytes - 1<<31,
		})
	})
}

func TestSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer()
		ok(t, p.SetSeries("a",
			Series{Name: "depth", Labels: map[string]string{"service": "web", "empty": ""}, Value: -7.5},
			Series{Name: "depth", Labels: map[string]string{"service": "a\"b\\c\n}"}, Value: 3},
			Series{Name: "odd", Value: model.SampleValue(math.NaN())},
			Series{Name: "jobs_total", Value: 100, Counter: true, PerSecond: 2},
		))
		ok(t, p.SetSeries("b", Series{Name: "odd", Labels: map[string]string{"of": "b"}, Value: model.SampleValue(math.Inf(1))}, Series{Name: "http.requests", Value: 1}))
		pass(time.Second)
		equal(t, "two sets", get(t, p, "/extra/metrics"), map[string]float64{
			`depth{empty="",service="web"}`: -7.5,
			`depth{service="a\"b\\c\n}"}`:   3,
			`odd`:                           math.NaN(),
			`odd{of="b"}`:                   math.Inf(1),
			`jobs_total`:                    102,
			`{"http.requests"}`:             1,
		})
		ok(t, p.SetSeries("b"))
		ok(t, p.SetSeries("a", Series{Name: "jobs_total", Counter: true, PerSecond: 10}))
		pass(time.Second)
		equal(t, "a counter goes on", get(t, p, "/extra/metrics"), map[string]float64{`jobs_total`: 112})
	})
}

func TestAtTheSameTime(t *testing.T) {
	p := newPlayer()
	var all sync.WaitGroup
	for n := range 8 {
		pod := fmt.Sprintf("web-%d", n)
		all.Go(func() {
			for range 20 {
				get(t, p, "/shop/"+pod+"/metrics")
				usage(t, p, pod, "app")
				get(t, p, "/cadvisor/metrics")
				get(t, p, "/extra/metrics")
			}
		})
		all.Go(func() {
			for range 20 {
				if err := errors.Join(
					p.SetRequests(Requests{Namespace: "shop", Workload: "web", PerSecond: float64(n)}),
					p.SetUsage(Usage{Node: pod, Cores: 1}, Usage{Namespace: "shop", Pod: pod, Cores: float64(n)}),
					p.SetSeries(pod, Series{Name: "jobs_total", Labels: map[string]string{"pod": pod}, Counter: true}),
				); err != nil {
					t.Error(err)
				}
				p.shared()
			}
		})
	}
	all.Wait()
}
