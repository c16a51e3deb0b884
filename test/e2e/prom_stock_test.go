package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tidegauge/tidegauge/pkg/self"
	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// stockRules are what prometheus-adapter's chart installs if nobody says otherwise: the
// usage of containers as cAdvisor has it, and every other series of a namespace. Each is
// a rate of seconds, a rate of anything else that is counted, or a value as it is.
const stockRules = `
rules:
- seriesQuery: '{__name__=~"^container_.*",container!="POD",namespace!="",pod!=""}'
  seriesFilters: []
  resources: &containers
    overrides:
      namespace: {resource: namespace}
      pod: {resource: pod}
  name: {matches: ^container_(.*)_seconds_total$, as: ""}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>,container!="POD"}[5m])) by (<<.GroupBy>>)
- seriesQuery: '{__name__=~"^container_.*",container!="POD",namespace!="",pod!=""}'
  seriesFilters:
  - isNot: ^container_.*_seconds_total$
  resources: *containers
  name: {matches: ^container_(.*)_total$, as: ""}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>,container!="POD"}[5m])) by (<<.GroupBy>>)
- seriesQuery: '{__name__=~"^container_.*",container!="POD",namespace!="",pod!=""}'
  seriesFilters:
  - isNot: ^container_.*_total$
  resources: *containers
  name: {matches: ^container_(.*)$, as: ""}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>,container!="POD"}) by (<<.GroupBy>>)
- seriesQuery: '{namespace!="",__name__!~"^container_.*"}'
  seriesFilters:
  - isNot: .*_total$
  resources: {template: <<.Resource>>}
  name: {matches: "", as: ""}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
- seriesQuery: '{namespace!="",__name__!~"^container_.*"}'
  seriesFilters:
  - isNot: .*_seconds_total
  resources: {template: <<.Resource>>}
  name: {matches: ^(.*)_total$, as: ""}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>}[5m])) by (<<.GroupBy>>)
- seriesQuery: '{namespace!="",__name__!~"^container_.*"}'
  seriesFilters: []
  resources: {template: <<.Resource>>}
  name: {matches: ^(.*)_seconds_total$, as: ""}
  metricsQuery: sum(rate(<<.Series>>{<<.LabelMatchers>>}[5m])) by (<<.GroupBy>>)
`

// stockBed has the stock rules in force, and pods that Prometheus scrapes.
type stockBed struct {
	*space

	pods   []string
	series []player.Series
}

func newStockBed(t *testing.T) *stockBed {
	t.Helper()
	b := ownBed(t)
	if err := b.startPrometheus(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(stockRules), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.startAdapter(t.Context(), "--config="+file, "--prometheus-url="+b.proxy.URL(), "--metrics-relist-interval=2s"); err != nil {
		t.Fatal(err)
	}
	s := &stockBed{space: b.newSpace(t)}
	s.pods = s.runScraped("web", 2)
	counter := func(name string, perSecond float64, labels map[string]string) player.Series {
		return player.Series{Name: name, Labels: labels, Counter: true, PerSecond: perSecond}
	}
	s.series = []player.Series{
		{Name: "sessions", Value: 12.5, Labels: s.here("service", "checkout")},
		counter("orders_total", 3, s.here("service", "checkout")),
		counter("work_seconds_total", 0.5, s.here("service", "checkout")),
		counter("container_network_receive_bytes_total", 1000, s.here("pod", s.pods[0], "container", "worker")),
		{Name: "container_fs_usage_bytes", Value: 100, Labels: s.here("pod", s.pods[0], "container", "worker")},
		{Name: "container_fs_usage_bytes", Value: 11, Labels: s.here("pod", s.pods[0], "container", "sidecar")},
		// The container that holds a pod's network together is left out.
		{Name: "container_fs_usage_bytes", Value: 7000, Labels: s.here("pod", s.pods[0], "container", "POD")},
	}
	s.setSeries(s.series...)
	err := s.player.SetUsage(player.Usage{Namespace: s.namespace, Workload: "web", Cores: 1, Bytes: 2 << 20})
	if err == nil {
		err = s.player.SetRequests(player.Requests{Namespace: s.namespace, Workload: "web", PerSecond: 20})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runScraped deploys pods that ask Prometheus to be scraped, and gives their names once
// they run.
func (s *space) runScraped(name string, replicas int32) []string {
	s.t.Helper()
	s.deploy(name, replicas, func(pod *corev1.PodTemplateSpec) {
		pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9797"}
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 9797}}
	})
	return s.podNames(name, int(replicas))
}

// TestStockRules has prometheus-adapter's stock rules list and serve what they do there.
func TestStockRules(t *testing.T) {
	t.Parallel()
	s := newStockBed(t)
	// In this order: the later ones change the bed.
	s.testDiscovery()
	s.testValues()
	s.testRates()
	s.testBadRule()
	s.testReady()
	s.testReadyWithoutPrometheus()
}

func (s *stockBed) testDiscovery() {
	// Every scraped series has the label job, which the template reads as a Job's name.
	containers := map[string]bool{"pods": true, "namespaces": false}
	services := map[string]bool{"services": true, "namespaces": false, "jobs.batch": true}
	for _, version := range []string{pathV1beta1, pathV1beta2} {
		for metric, want := range map[string]map[string]bool{
			"cpu_usage":                containers,
			"network_receive_bytes":    containers,
			"fs_usage_bytes":           containers,
			"memory_working_set_bytes": containers,
			"http_requests":            {"pods": true, "namespaces": false, "jobs.batch": true},
			"sessions":                 services,
			"orders":                   services,
			"work":                     services,
			// What a filter or a name leaves out.
			"cpu_usage_seconds": {}, "cpu_usage_seconds_total": {}, "network_receive_bytes_total": {},
			"orders_total": {}, "work_seconds": {}, "work_seconds_total": {}, "http_requests_total": {},
			"container_fs_usage_bytes": {}, "container_cpu_usage_seconds_total": {},
		} {
			s.awaitDiscovered(version, metric, want)
		}
	}
}

func (s *stockBed) testValues() {
	s.awaitDescribed(texts{"checkout": "12500m"}, s.of("services", "checkout", "sessions"))
	s.awaitDescribed(texts{s.pods[0]: "111"}, s.of("pods", s.pods[0], "fs_usage_bytes"))
	s.awaitDescribed(texts{s.namespace: "111"}, "/namespaces/"+s.namespace+"/metrics/fs_usage_bytes")
	s.awaitDescribed(texts{s.pods[0]: "11"}, s.of("pods", s.pods[0], "fs_usage_bytes"), "metricLabelSelector", "container=sidecar")
	s.awaitDescribed(texts{s.pods[0]: "1048576", s.pods[1]: "1048576"}, s.of("pods", "*", "memory_working_set_bytes"), "labelSelector", "app=web")
}

// A rate over five minutes of series that are younger changes all the time: that of the
// adapter is as near to that of Prometheus as they are in time.
func (s *stockBed) testRates() {
	for _, tc := range []struct{ path, truth string }{
		{s.of("pods", s.pods[0], "http_requests"), fmt.Sprintf("http_requests_total{namespace=%q,pod=%q}", s.namespace, s.pods[0])},
		{s.of("pods", s.pods[1], "cpu_usage"), fmt.Sprintf("container_cpu_usage_seconds_total{namespace=%q,pod=%q}", s.namespace, s.pods[1])},
		{s.of("pods", s.pods[0], "network_receive_bytes"), fmt.Sprintf("container_network_receive_bytes_total{namespace=%q,pod=%q}", s.namespace, s.pods[0])},
		{s.of("services", "checkout", "orders"), fmt.Sprintf("orders_total{namespace=%q,service='checkout'}", s.namespace)},
		{s.of("services", "checkout", "work"), fmt.Sprintf("work_seconds_total{namespace=%q,service='checkout'}", s.namespace)},
	} {
		s.eventually(tc.path, func(ctx context.Context) error {
			items, err := s.described(ctx, tc.path)
			if err != nil {
				return err
			}
			// Times have whole seconds in this API.
			got, at := items[0].Value.AsApproximateFloat64(), items[0].Timestamp.Unix()
			before, err := s.rateAt(ctx, tc.truth, at)
			if err != nil {
				return err
			}
			after, err := s.rateAt(ctx, tc.truth, at+1)
			if err != nil {
				return err
			}
			slack := 1e-6 * math.Max(before, after)
			if before <= 0 || got < math.Min(before, after)-slack || got > math.Max(before, after)+slack {
				return fmt.Errorf("got %v at %v, want between %v and %v", got, at, before, after)
			}
			if window := items[0].WindowSeconds; window == nil || *window != 300 {
				return fmt.Errorf("the window is %v, want 300 s", window)
			}
			return nil
		})
	}
}

// rateAt is the rate of all series of a selector at a time, in seconds of Unix time.
func (s *space) rateAt(ctx context.Context, selector string, at int64) (float64, error) {
	vector, err := s.prometheus.Query(ctx, fmt.Sprintf("sum(rate(%s[5m] @ %d))", selector, at))
	if err == nil && len(vector) != 1 {
		err = fmt.Errorf("%s has %d values", selector, len(vector))
	}
	if err != nil {
		return 0, err
	}
	return float64(vector[0].Value), nil
}

// A selector that the server refuses touches the rules that have it, and no other.
func (s *stockBed) testBadRule() {
	lift := s.proxy.Fault(promproxy.Fault{
		Endpoint: promproxy.Series, Query: regexp.MustCompile(`__name__!~`), Answer: promproxy.BadData().Pointer(),
	})
	defer lift()
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionFalse, "rules[3]", "rules[4]", "rules[5]", "parse error")
	if c, err := s.podCondition(s.t.Context(), self.RulesDiscovered); err != nil || strings.Contains(c.Message, "rules[2]") {
		s.t.Errorf("the condition blames other rules: %s, %v", c.Message, err)
	}
	// They stay for the tests that follow.
	err := s.player.SetSeries(s.namespace, append(slices.Clone(s.series),
		player.Series{Name: "container_fresh_bytes", Value: 5, Labels: s.here("pod", s.pods[0], "container", "worker")},
		player.Series{Name: "fresh", Value: 6, Labels: s.here("pod", s.pods[0])},
	)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.awaitDescribed(texts{s.pods[0]: "5"}, s.of("pods", s.pods[0], "fresh_bytes"))
	s.awaitDescribed(texts{"checkout": "12500m"}, s.of("services", "checkout", "sessions"))
	if _, err := s.described(s.t.Context(), s.of("pods", s.pods[0], "fresh")); err == nil {
		s.t.Error("a metric is there whose rule cannot be listed")
	}
	if err := s.client(s.adapter.Config(s.Config())).Get().AbsPath("/readyz").Do(s.t.Context()).Error(); err != nil {
		s.t.Errorf("the adapter is not ready for one rule: %v", err)
	}
	lift()
	s.awaitDescribed(texts{s.pods[0]: "6"}, s.of("pods", s.pods[0], "fresh"))
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionTrue)
}

// An adapter that says that it is ready knows its metrics, however long that takes.
func (s *stockBed) testReady() {
	const slow = 4 * time.Second
	lift := s.proxy.Fault(promproxy.Fault{Endpoint: promproxy.Series, Delay: slow})
	defer lift()
	began := time.Now()
	if err := s.adapter.Process.Restart(s.t.Context()); err != nil { // It waits for /readyz.
		s.t.Fatal(err)
	}
	if took := time.Since(began); took < slow {
		s.t.Errorf("ready after %v, and no listing can be over before %v", took, slow)
	}
	for _, path := range []string{s.of("services", "checkout", "sessions"), s.of("pods", s.pods[0], "fs_usage_bytes")} {
		client := s.client(s.adapter.Config(s.Config()))
		if err := client.Get().AbsPath(pathV1beta2 + path).Do(s.t.Context()).Error(); err != nil {
			s.t.Errorf("ready, and %s: %v", path, err)
		}
	}
}

// Without Prometheus nobody can say which metrics there are: the adapter does not claim
// that there are none.
func (s *stockBed) testReadyWithoutPrometheus() {
	lift := s.proxy.Fault(promproxy.Fault{Answer: promproxy.Unavailable().Pointer()})
	defer lift()
	if err := s.adapter.Process.Restart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	client := s.client(s.adapter.Config(s.Config()))
	read := func(ctx context.Context) error {
		err := client.Get().AbsPath(pathV1beta2 + s.of("services", "checkout", "sessions")).Do(ctx).Error()
		if err == nil {
			s.t.Fatal("there is a value, and no Prometheus")
		}
		return isError(err, http.StatusServiceUnavailable, "sessions", "TSDB not ready")
	}
	// It knows nobody before it has read whose certificates count.
	s.eventually("an error that says why", read)
	for range 10 {
		if err := read(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
	lift()
	s.eventually("recovery", func(ctx context.Context) error {
		return client.Get().AbsPath(pathV1beta2 + s.of("services", "checkout", "sessions")).Do(ctx).Error()
	})
}
