package sources_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/config"

	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
	"github.com/tidegauge/tidegauge/pkg/sources/sourcetest"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// prometheusPatience is how long Prometheus may take to start and to scrape.
	prometheusPatience = time.Minute
	// prometheusPrefix is the path below which it has its API.
	prometheusPrefix = "/team/metrics"
)

// odd is a value that must be quoted everywhere.
const odd = "a\"b\\c\nd}e{f,g=~.*|ü\u2028😀'"

// startPrometheus starts a Prometheus that scrapes the handler, and returns its URL when
// it has scraped it.
func startPrometheus(t *testing.T, target http.Handler) string {
	t.Helper()
	scraped := httptest.NewServer(target)
	t.Cleanup(scraped.Close)
	config := fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
- job_name: tide
  scrape_native_histograms: true
  static_configs: [{targets: [%q]}]
remote_read:
- {url: "http://127.0.0.1:1/read", read_recent: true, required_matchers: {remote: "away"}}
`, strings.TrimPrefix(scraped.URL, "http://"))
	address, stop, err := env.LonePrometheus(t.TempDir(), config, "--web.route-prefix="+prometheusPrefix, "--no-scrape.adjust-timestamps")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("prometheus: %v", err)
		}
	})
	base := "http://" + address + prometheusPrefix
	s := openPrometheus(t, prometheus.Server{URL: base})
	await(t, "a scrape", func() error {
		return fetchOne(t, s, prometheus.NewQuery("", "tide_gauge", 0)).Err
	})
	return base
}

// stopPrometheus asks it to end, and kills it if it does not.
// await asks until there is no error.
func await(t *testing.T, what string, ready func() error) {
	t.Helper()
	until.Holds(t, "no "+what, prometheusPatience, func(context.Context) error { return ready() })
}

func openPrometheus(t *testing.T, server prometheus.Server) *prometheus.Source {
	t.Helper()
	s, err := prometheus.New(prometheus.Config{Servers: map[string]prometheus.Server{prometheus.DefaultServer: server}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tideMetrics are what the Prometheus of the tests scrapes.
func tideMetrics() http.Handler {
	registry := client.NewPedanticRegistry()
	gauge := func(name string, labels client.Labels, value float64) {
		g := client.NewGauge(client.GaugeOpts{Name: name, Help: name, ConstLabels: labels})
		g.Set(value)
		registry.MustRegister(g)
	}
	gauge("tide_gauge", nil, 0.9)
	gauge("tide_negative", nil, -7.5)
	gauge("tide_large", nil, 9.1e18)
	gauge("tide_nan", nil, math.NaN())
	gauge("tide_inf", nil, math.Inf(1))
	gauge("tide_minus_inf", nil, math.Inf(-1))
	gauge("tide_odd", client.Labels{"odd": odd, "empty": ""}, 1)
	gauge("tide_two", client.Labels{"side": "left"}, 1)
	gauge("tide_two", client.Labels{"side": "right"}, 2)
	histogram := client.NewHistogram(client.HistogramOpts{Name: "tide_sizes", Help: "h", NativeHistogramBucketFactor: 1.1})
	histogram.Observe(3)
	registry.MustRegister(histogram)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// TestPrometheus runs the source against a real Prometheus.
func TestPrometheus(t *testing.T) {
	base := startPrometheus(t, tideMetrics())
	for _, test := range []struct {
		name  string
		check func(*testing.T, string)
	}{
		{"contract", prometheusContract},
		{"values", prometheusValues},
		{"labels", prometheusLabels},
		{"refusals", prometheusRefusals},
		{"long queries", prometheusLongQueries},
		{"series", prometheusSeries},
		{"a remote read that fails", prometheusRemoteRead},
		{"warnings of PromQL", prometheusWarnings},
		{"wrong addresses", prometheusAddresses},
	} {
		t.Run(test.name, func(t *testing.T) { test.check(t, base) })
	}
}

func prometheusContract(t *testing.T, base string) {
	t.Helper()
	upstream, err := url.Parse(strings.TrimSuffix(base, prometheusPrefix))
	if err != nil {
		t.Fatal(err)
	}
	sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
		t.Helper()
		var blocked, broken atomic.Bool
		proxy := httputil.NewSingleHostReverseProxy(upstream)
		proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {}
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if blocked.Load() {
				<-r.Context().Done()
			}
			if broken.Load() {
				http.Error(w, "no "+r.Header.Get("Authorization"), http.StatusBadGateway)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(front.Close)
		set := func(b *atomic.Bool) func() func() {
			return func() func() {
				b.Store(true)
				return func() { b.Store(false) }
			}
		}
		server := prometheus.Server{URL: front.URL + prometheusPrefix, HTTP: prometheus.DefaultHTTP()}
		server.HTTP.Authorization = &config.Authorization{Credentials: "hunter2"}
		query := func(promQL string) sources.Query { return prometheus.NewQuery("", promQL, 0) }
		return sourcetest.Harness{
			Source:  openPrometheus(t, server),
			Good:    []sources.Query{query("tide_gauge"), query("tide_negative"), query("scalar(tide_large)")},
			Values:  []float64{0.9, -7.5, 9.1e18},
			Twin:    query("tide_gauge"),
			Bad:     query("sum("),
			Empty:   query("tide_none"),
			Block:   set(&blocked),
			Break:   set(&broken),
			Secrets: []string{"hunter2"},
		}
	})
}

func prometheusValues(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base, Verb: http.MethodPost})
	for promQL, is := range map[string]func(float64) bool{
		"tide_gauge":                func(v float64) bool { return v == 0.9 },
		"tide_nan":                  math.IsNaN,
		"tide_inf":                  func(v float64) bool { return math.IsInf(v, 1) },
		"tide_minus_inf":            func(v float64) bool { return math.IsInf(v, -1) },
		"tide_gauge / 0":            func(v float64) bool { return math.IsInf(v, 1) },
		"2^53 + 2":                  func(v float64) bool { return v == 9007199254740994 },
		"scalar(tide_none)":         math.IsNaN,
		"scalar(tide_gauge)":        func(v float64) bool { return v == 0.9 },
		"-vector(0.001)":            func(v float64) bool { return v == -0.001 },
		"5e-324":                    func(v float64) bool { return v == 5e-324 },
		"histogram_sum(tide_sizes)": func(v float64) bool { return v == 3 },
	} {
		got := fetchOne(t, s, prometheus.NewQuery("", promQL, time.Minute))
		if got.Err != nil || len(got.Samples) != 1 || !is(got.Samples[0].Value) {
			t.Errorf("%s is %+v", promQL, got)
			continue
		}
		if age := time.Since(got.Samples[0].Time); age < 0 || age > prometheusPatience || got.Samples[0].Window != time.Minute {
			t.Errorf("%s is of %v ago and covers %v", promQL, age, got.Samples[0].Window)
		}
	}
}

func prometheusLabels(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base})
	for _, promQL := range []string{"tide_odd", fmt.Sprintf("tide_odd{odd=%q}", odd)} {
		got := fetchOne(t, s, prometheus.NewQuery("", promQL, 0))
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		labels := got.Samples[0].Labels.Map()
		delete(labels, "instance")
		if diff := cmp.Diff(map[string]string{"__name__": "tide_odd", "odd": odd, "job": "tide"}, labels); diff != "" {
			t.Errorf("%s: labels (-want +got):\n%s", promQL, diff)
		}
	}
}

func prometheusRefusals(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base})
	for _, test := range []struct{ promQL, want string }{
		{"sum(", `400 Bad Request: bad_data: invalid parameter "query": 1:5: parse error: unclosed left parenthesis`},
		{"tide_two + on(job) tide_two", "422 Unprocessable Entity: execution: found duplicate series for the match group"},
		{"tide_gauge[1m]", "the query gives a range vector"},
		{`"text"`, "the query gives a string"},
		{"tide_sizes", "the query gives native histograms"},
	} {
		got := fetchOne(t, s, prometheus.NewQuery("", test.promQL, 0))
		prefix := fmt.Sprintf("prometheus server %q (%s): %s", prometheus.DefaultServer, base, test.want)
		if got.Err == nil || !strings.HasPrefix(got.Err.Error(), prefix) || !errors.Is(got.Err, sources.ErrRejected) {
			t.Errorf("%s: the error is %v, want one that starts with %s", test.promQL, got.Err, prefix)
		}
	}
}

func prometheusLongQueries(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base, Verb: http.MethodGet})
	for _, n := range []int{100, 10_000, 1_000_000} {
		promQL := fmt.Sprintf("tide_gauge{pod!~%q}", strings.Repeat("application-5d4f8c7b9d-abcde|", n/29)+"x")
		wantValue(t, fetchOne(t, s, prometheus.NewQuery("", promQL, 0)), 0.9)
	}
}

func prometheusSeries(t *testing.T, base string) {
	t.Helper()
	now := time.Now()
	for _, verb := range []string{http.MethodGet, http.MethodPost} {
		s := openPrometheus(t, prometheus.Server{URL: base, Verb: verb})
		list := func(selector string, start, end time.Time) []string {
			var found []string
			err := s.Series(t.Context(), prometheus.DefaultServer, selector, start, end, func(name string, labels []string) {
				found = append(found, name+" "+strings.Join(labels, ","))
			})
			if err != nil {
				t.Error(err)
			}
			slices.Sort(found)
			return found
		}
		got := list(`{__name__=~"tide_(gauge|odd|two)"}`, now.Add(-time.Minute), now)
		want := []string{"tide_gauge instance,job", "tide_odd instance,job,odd", "tide_two instance,job,side", "tide_two instance,job,side"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: series (-want +got):\n%s", verb, diff)
		}
		if got := list(fmt.Sprintf("{odd=%q}", odd), now.Add(-time.Minute), now); len(got) != 1 {
			t.Errorf("%s: the odd label has the series %q", verb, got)
		}
		if got := list(`{__name__=~"tide_.*"}`, now.Add(-2*time.Hour), now.Add(-time.Hour)); len(got) != 0 {
			t.Errorf("%s: an hour ago there were the series %q", verb, got)
		}
		err := s.Series(t.Context(), prometheus.DefaultServer, `{a="}`, now, now, nil)
		if err == nil || !strings.Contains(err.Error(), `400 Bad Request: bad_data: invalid parameter "match[]"`) || !errors.Is(err, sources.ErrRejected) {
			t.Errorf("%s: of a bad selector the error is %v", verb, err)
		}
	}
}

// prometheusRemoteRead asks for what Prometheus would read from a server that is away, of
// which it has its own data.
func prometheusRemoteRead(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base})
	for _, promQL := range []string{`tide_none{remote="away"}`, `tide_gauge or tide_none{remote="away"}`} {
		got := fetchOne(t, s, prometheus.NewQuery("", promQL, 0))
		prefix := fmt.Sprintf("prometheus server %q (%s): the answer is not complete: remote_read: ", prometheus.DefaultServer, base)
		if got.Err == nil || !strings.HasPrefix(got.Err.Error(), prefix) || errors.Is(got.Err, sources.ErrRejected) || errors.Is(got.Err, sources.ErrNoData) {
			t.Errorf("%s is %+v, want an error that starts with %s", promQL, got, prefix)
		}
	}
	if err := s.Series(t.Context(), prometheus.DefaultServer, `tide_none{remote="away"}`, time.Now().Add(-time.Minute), time.Now(), nil); err != nil {
		t.Errorf("of the series that are there the error is %v", err)
	}
}

// prometheusWarnings asks what Prometheus warns of, and answers wholly.
func prometheusWarnings(t *testing.T, base string) {
	t.Helper()
	s := openPrometheus(t, prometheus.Server{URL: base})
	for _, promQL := range []string{"quantile(2, tide_two) >bool 0 or tide_gauge", "count(rate(tide_gauge[10s])) or tide_gauge"} {
		if got := fetchOne(t, s, prometheus.NewQuery("", promQL, 0)); got.Err != nil {
			t.Errorf("%s: the error is %v", promQL, got.Err)
		}
	}
}

func prometheusAddresses(t *testing.T, base string) {
	t.Helper()
	for path, want := range map[string]string{
		"":       "404 Not Found: no Prometheus API at /api/v1/query: check the path in url",
		"/other": "404 Not Found: no Prometheus API at /other/api/v1/query: check the path in url",
	} {
		s := openPrometheus(t, prometheus.Server{URL: strings.TrimSuffix(base, prometheusPrefix) + path})
		if err := fetchOne(t, s, prometheus.NewQuery("", "1", 0)).Err; err == nil || !strings.HasSuffix(err.Error(), "): "+want) {
			t.Errorf("%q: the error is %v, want %s", path, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), prometheusPatience)
	defer cancel()
	s := openPrometheus(t, prometheus.Server{URL: strings.Replace(base, "http", "https", 1)})
	if err := s.Series(ctx, prometheus.DefaultServer, "up", time.Now(), time.Now(), nil); err == nil || !strings.HasSuffix(err.Error(), "): http: server gave HTTP response to HTTPS client") {
		t.Errorf("over TLS the error is %v", err)
	}
}
