package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// fewResources is a mapper that knows pods and namespaces.
type fewResources struct{}

func (fewResources) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	return r, r.Resource == "pods", r.Resource == "pods" || r.Resource == "namespaces"
}

func (fewResources) Singular(r schema.GroupResource) string {
	return strings.TrimSuffix(r.Resource, "s")
}

func (fewResources) Known() bool { return true }

func (fewResources) Generation() uint64 { return 1 }

const knownRules = `
prometheus: {servers: {default: {url: "%s"}}}
rules:
- seriesQuery: 'http_requests_total'
  resources: {template: "<<.Resource>>"}
  name: {matches: "^(.*)_total$", as: "${1}_per_second"}
  metricsQuery: 'sum(rate(<<.Series>>{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)'
`

// ask gives what the adapter says it knows, by a request with those parameters.
func (k *known) ask(t *testing.T, parameters string) knownAnswer {
	t.Helper()
	w := httptest.NewRecorder()
	k.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, knownPath+"?"+parameters, nil))
	var answer knownAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return answer
}

// await asks until all that is known was asked of its backend.
func (k *known) await(t *testing.T) knownAnswer {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		answer := k.ask(t, "")
		cold := false
		for _, q := range answer.Queries {
			cold = cold || q.Error == errNotAskedYet.Error()
		}
		if !cold && len(answer.Queries) > 0 {
			return answer
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not asked: %+v", answer)
		}
	}
}

// demandOf is what an HPA of pods asks of the first rule.
func demandOf(t *testing.T, a *adapter, url, namespace string, names ...string) plan.Demand {
	t.Helper()
	rule := configuration(t, fmt.Sprintf(knownRules, url)).Compiled.Custom[0]
	a.known.mapper = fewResources{}
	return plan.Demand{
		Subject:  plan.OfRule(rule, "http_requests_total", schema.GroupResource{Resource: "pods"}, namespace, labels.Everything()),
		Names:    names,
		Replicas: 3,
	}
}

func TestKnownNamesValueSourceAndTimes(t *testing.T) {
	url := server(t, "12.5")
	a := newTestAdapter(t, configuration(t, fmt.Sprintf(knownRules, url)))
	demands := []plan.Demand{demandOf(t, a, url, "orders")}
	knownPlanner{a.planner, a.known}.Update(demands)
	q, err := demands[0].Asker.Question(fewResources{}, rules.Ask{
		Series: "http_requests_total", Resource: demands[0].Resource, Namespace: "orders", Scope: rules.Namespace,
	})
	if err != nil {
		t.Fatal(err)
	}
	knownPinner{a.engine, a.known}.Pin([]engine.Request{{
		Source: builtin.Prometheus, Query: prometheus.NewQuery("", q.PromQL, q.Window), Interval: 15 * time.Second, MaxAge: time.Minute,
	}})
	got := a.known.await(t).Queries[0]
	if len(got.Metrics) != 1 || got.Metrics[0] != (knownMetric{Kind: "pods", Namespace: "orders", Name: "http_requests_per_second"}) {
		t.Errorf("got metrics %+v", got.Metrics)
	}
	if got.Value != "12500m" || got.Samples != 1 || !got.Serves || got.Error != "" {
		t.Errorf("got value %q of %d samples, serves %v, error %q", got.Value, got.Samples, got.Serves, got.Error)
	}
	if got.Source != builtin.Prometheus || got.Backend != prometheus.DefaultServer || !strings.Contains(got.Query, "sum(rate(http_requests_total") {
		t.Errorf("got source %q, backend %q, query %q", got.Source, got.Backend, got.Query)
	}
	if age := time.Since(got.Fetched); age < 0 || age > time.Minute || got.Measured.IsZero() || !got.Next.After(got.Fetched) {
		t.Errorf("got fetched %v, measured %v, next %v", got.Fetched, got.Measured, got.Next)
	}
	if got.IntervalSeconds != 15 || got.MaxAgeSeconds != 60 {
		t.Errorf("got interval %v s and maxAge %v s", got.IntervalSeconds, got.MaxAgeSeconds)
	}
	for parameters, want := range map[string]int{
		"namespace=orders": 1, "metric=http_requests_per_second&namespace=orders": 1, "namespace=other": 0, "metric=up": 0,
	} {
		if n := len(a.known.ask(t, parameters).Queries); n != want {
			t.Errorf("%s: got %d queries, want %d", parameters, n, want)
		}
	}
}

func TestKnownSaysWhyThereIsNoValue(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the disk is full", http.StatusInternalServerError)
	}))
	t.Cleanup(refusing.Close)
	a := newTestAdapter(t, configuration(t, fmt.Sprintf(knownRules, refusing.URL)))
	knownPinner{a.engine, a.known}.Pin([]engine.Request{{
		Source: builtin.Prometheus, Query: prometheus.NewQuery("", "up", 0), Interval: time.Second, MaxAge: time.Minute,
	}})
	got := a.known.await(t).Queries[0]
	if got.Serves || got.Value != "" || !strings.Contains(got.Error, "the disk is full") || got.FailingSince.IsZero() {
		t.Errorf("got %+v", got)
	}
	if got.Metrics == nil {
		t.Error("metrics are null in JSON, and not an empty list")
	}
}

// TestKnownIsBounded has more queries than an answer holds, of which some fail: these come
// first. A query that is named twice is there once.
func TestKnownIsBounded(t *testing.T) {
	some := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.FormValue("query"), "bad") {
			http.Error(w, "refused", http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"scalar","result":[%d,"1"]}}`, time.Now().Unix())
	}))
	t.Cleanup(some.Close)
	a := newTestAdapter(t, configuration(t, fmt.Sprintf(knownRules, some.URL)))
	var requests []engine.Request
	for i := range maxKnown + 20 {
		text := fmt.Sprintf("good_%d", i)
		if i >= maxKnown {
			text = fmt.Sprintf("bad_%d", i)
		}
		r := engine.Request{Source: builtin.Prometheus, Query: prometheus.NewQuery("", text, 0), Interval: time.Minute, MaxAge: time.Hour}
		requests = append(requests, r, r)
	}
	knownPinner{a.engine, a.known}.Pin(requests)
	got := a.known.await(t)
	if len(got.Queries) != maxKnown || got.More != 20 {
		t.Fatalf("got %d queries and %d more", len(got.Queries), got.More)
	}
	for i, q := range got.Queries {
		if bad := strings.HasPrefix(q.Query, "bad"); bad != (i < 20) {
			t.Fatalf("query %d is %q (%s)", i, q.Query, q.Error)
		}
	}
}

func TestKnownFindsTheNamesOfEveryScope(t *testing.T) {
	a := newTestAdapter(t, configuration(t, fmt.Sprintf(knownRules, server(t, "1"))))
	d := demandOf(t, a, "http://127.0.0.1:1", "orders", "web-1")
	names := a.known.namesOf([]plan.Demand{d, d})
	if len(names) != 3 {
		t.Errorf("got %d queries, want one for each scope: %v", len(names), names)
	}
	for key, metrics := range names {
		if len(metrics) != 1 || metrics[0].Name != "http_requests_per_second" || metrics[0].Namespace != "orders" {
			t.Errorf("%q: got %+v", key, metrics)
		}
	}
}

func TestKnownIsForReadingOnly(t *testing.T) {
	w := httptest.NewRecorder()
	(&known{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, knownPath, nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodGet {
		t.Errorf("got %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}
