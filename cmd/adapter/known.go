package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// knownPath is where the adapter says what it knows of each query that HPAs name: to whoever
// has the verb get of that non-resource URL, which no role of the installation gives.
const knownPath = "/debug/metrics-known"

const (
	// maxKnown is how many queries one answer has. Those that fail come first.
	maxKnown = 500
	// maxNamed is for how many of what HPAs ask of rules the metrics' names are looked up.
	maxNamed = 5000
	// maxKnownText is how many bytes an error or a query has.
	maxKnownText = 1000
)

// known notes what HPAs have the engine ask, and says what came of it. It asks nobody and
// keeps nothing in demand.
type known struct {
	engine  *engine.Engine
	catalog *catalog.Catalog
	mapper  rules.Mapper

	requests atomic.Pointer[[]engine.Request]
	// asks gives what HPAs ask of rules for objects, by the query's key. It is made when
	// somebody first wants it.
	asks atomic.Pointer[func() map[string][]knownMetric]

	mu sync.Mutex
	// external are what HPAs ask of rules for external metrics, by the query's key.
	external map[string]knownMetric
}

// knownPinner is the engine for the watcher.
type knownPinner struct {
	*engine.Engine

	known *known
}

// Pin notes the requests and pins them.
func (p knownPinner) Pin(requests []engine.Request) {
	p.known.requests.Store(&requests)
	p.Engine.Pin(requests)
}

// knownPlanner is the planner for the watcher.
type knownPlanner struct {
	*plan.Planner

	known *known
}

// Update notes the demands and plans them.
func (p knownPlanner) Update(demands []plan.Demand) []engine.Request {
	names := sync.OnceValue(func() map[string][]knownMetric { return p.known.namesOf(demands) })
	p.known.asks.Store(&names)
	return p.Planner.Update(demands)
}

// External notes whose request it is.
func (p knownPlanner) External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error) {
	request, err := p.Planner.External(r, series, namespace, selector)
	if err == nil {
		p.known.noteExternal(request.Query.Key(), knownMetric{Kind: externalKind, Namespace: namespace, Name: metricName(r, series)})
	}
	return request, err
}

func (k *known) noteExternal(key string, m knownMetric) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.external == nil || len(k.external) >= maxNamed {
		k.external = map[string]knownMetric{} // Those of HPAs that are there are noted again.
	}
	k.external[key] = m
}

// externalKind is the kind of external metrics.
const externalKind = "external"

// knownMetric is a metric that a query is asked for.
type knownMetric struct {
	// Kind is external, or the resource of the objects that the metric describes.
	Kind string `json:"kind"`
	// Namespace is empty for objects without one.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// knownQuery is what is known of a query.
type knownQuery struct {
	Metrics []knownMetric `json:"metrics"`
	// Source and Backend are who is asked, and Query what.
	Source  string `json:"source"`
	Backend string `json:"backend,omitempty"`
	Query   string `json:"query"`
	// Value is what the samples add up to, and Samples how many they are. Serves says that
	// a read gets them, if need be the last good ones; if not, Error says why.
	Value   string `json:"value,omitempty"`
	Samples int    `json:"samples"`
	Serves  bool   `json:"serves"`
	// Measured is the time of the newest sample, Fetched when the backend was asked for it,
	// Next when it is asked again; in the past while it is being asked.
	Measured time.Time `json:"measured,omitzero"`
	Fetched  time.Time `json:"fetched,omitzero"`
	Next     time.Time `json:"next,omitzero"`
	// IntervalSeconds is how often it is asked, MaxAgeSeconds how long an answer serves.
	IntervalSeconds float64 `json:"intervalSeconds"`
	MaxAgeSeconds   float64 `json:"maxAgeSeconds"`
	// Error is why there is no value, or none that is new; FailingSince when fetches began to
	// fail.
	Error        string    `json:"error,omitempty"`
	FailingSince time.Time `json:"failingSince,omitzero"`
}

// knownAnswer is what knownPath answers.
type knownAnswer struct {
	Time    time.Time    `json:"time"`
	Queries []knownQuery `json:"queries"`
	// More is how many there are beyond those.
	More int `json:"more,omitempty"`
}

// ServeHTTP answers with what is known of the queries of all metrics, or of those that the
// parameters namespace and metric name.
func (k *known) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET is answered here", http.StatusMethodNotAllowed)
		return
	}
	text, err := json.Marshal(k.answer(r.FormValue("namespace"), r.FormValue("metric")))
	if err != nil {
		klog.FromContext(r.Context()).Error(err, "Cannot say what is known")
		http.Error(w, "internal error, of which the adapter's log has the details", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text)
}

// asked is a request and what is known of it.
type asked struct {
	request engine.Request
	metrics []knownMetric
	state   engine.State
	known   bool
}

// well says whether the backend has answered with a value, and is well.
func (a asked) well() bool { return a.known && a.state.ReadErr == nil && a.state.Err == nil }

var errNotAskedYet = fmt.Errorf("%w yet", sources.ErrNotAsked)

func (k *known) answer(namespace, metric string) knownAnswer {
	of := func(m knownMetric) bool {
		return (namespace == "" || m.Namespace == namespace) && (metric == "" || m.Name == metric)
	}
	var all []asked
	for _, r := range k.pinned() {
		a := asked{request: r, metrics: k.metricsOf(r)}
		if (namespace != "" || metric != "") && !slices.ContainsFunc(a.metrics, of) {
			continue
		}
		a.state, a.known = k.engine.Peek(r)
		all = append(all, a)
	}
	slices.SortStableFunc(all, func(a, b asked) int {
		switch {
		case a.well() == b.well():
			return slices.CompareFunc(a.metrics, b.metrics, knownMetric.compare)
		case b.well():
			return -1
		}
		return 1
	})
	answer := knownAnswer{Time: time.Now(), Queries: []knownQuery{}}
	for _, a := range all[:min(len(all), maxKnown)] {
		answer.Queries = append(answer.Queries, k.describe(a))
	}
	answer.More = len(all) - len(answer.Queries)
	return answer
}

func (m knownMetric) compare(o knownMetric) int {
	return cmp.Or(cmp.Compare(m.Name, o.Name), cmp.Compare(m.Namespace, o.Namespace), cmp.Compare(m.Kind, o.Kind))
}

// pinned are the requests, each query once.
func (k *known) pinned() []engine.Request {
	all := k.requests.Load()
	if all == nil {
		return nil
	}
	type query struct{ source, key string }
	seen := make(map[query]bool, len(*all))
	var once []engine.Request
	for _, r := range *all {
		if q := (query{r.Source, r.Query.Key()}); !seen[q] {
			seen[q] = true
			once = append(once, r)
		}
	}
	return once
}

// metricsOf are the metrics that the request is for, sorted.
func (k *known) metricsOf(r engine.Request) []knownMetric {
	key, metrics := r.Query.Key(), []knownMetric{}
	for _, name := range k.catalog.AskedBy(r.Source, key) {
		metrics = append(metrics, knownMetric{Kind: externalKind, Namespace: name.Namespace, Name: name.Name})
	}
	if asks := k.asks.Load(); asks != nil {
		metrics = append(metrics, (*asks)()[key]...)
	}
	k.mu.Lock()
	if m, ok := k.external[key]; ok {
		metrics = append(metrics, m)
	}
	k.mu.Unlock()
	slices.SortFunc(metrics, knownMetric.compare)
	return slices.Compact(metrics)
}

// describe says what is known of a query.
func (k *known) describe(a asked) knownQuery {
	r, s := a.request, a.state
	d := knownQuery{
		Metrics: a.metrics, Source: r.Source, Backend: strings.TrimSpace(r.Query.Backend()), Query: r.Query.Key(),
		Fetched: s.Answer.Fetched, Next: s.Due, FailingSince: s.Since,
		IntervalSeconds: r.Interval.Seconds(), MaxAgeSeconds: r.MaxAge.Seconds(),
	}
	if q, ok := r.Query.(fmt.Stringer); ok {
		d.Query = q.String()
	}
	d.Query = sources.Shorten(d.Query, maxKnownText)
	items, err := k.items(a)
	d.Samples, d.Serves = len(items), err == nil
	if err := cmp.Or(err, s.Err); err != nil {
		d.Error = sources.Shorten(err.Error(), maxKnownText)
	}
	total := resource.Quantity{Format: resource.DecimalSI}
	for _, item := range items {
		total.Add(item.Value)
		if item.Time.After(d.Measured) {
			d.Measured = item.Time
		}
	}
	if len(items) > 0 {
		d.Value = total.String()
	}
	return d
}

// items are what a read of the query gives, or why it gives none.
func (k *known) items(a asked) ([]catalog.Item, error) {
	if !a.known {
		return nil, errNotAskedYet
	}
	for _, m := range a.metrics {
		metric := k.catalog.External(types.NamespacedName{Namespace: m.Namespace, Name: m.Name})
		if m.Kind == externalKind && metric != nil {
			return metric.Items(a.state.Answer, a.state.ReadErr) // No data may be zero.
		}
	}
	if a.state.ReadErr != nil {
		return nil, a.state.ReadErr
	}
	return catalog.NewItems(a.state.Answer.Samples)
}

// namesOf are the metrics of what HPAs ask of rules for objects, by the keys of all queries
// that may be read for them.
func (k *known) namesOf(demands []plan.Demand) map[string][]knownMetric {
	of := map[string][]knownMetric{}
	for _, d := range demands[:min(len(demands), maxNamed)] {
		ask := rules.Ask{Series: d.Series, Selector: d.Selector, Resource: d.Resource, Namespace: d.Namespace}
		metric := knownMetric{Kind: d.Resource.String(), Namespace: d.Namespace, Name: subjectName(d.Subject)}
		for _, scope := range []rules.Scope{rules.Named, rules.Namespace, rules.Cluster} {
			a := ask
			a.Scope = scope
			switch scope {
			case rules.Named:
				a.Names = plan.NewNames(d.Names...).List()
				if len(a.Names) == 0 {
					continue
				}
			case rules.Namespace:
			case rules.Cluster:
				a.Namespace = ""
			}
			q, err := d.Asker.Question(k.mapper, a)
			if err != nil {
				continue // Then it is not asked either.
			}
			key := prometheus.NewQuery(d.Server, q.PromQL, q.Window).Key()
			if !slices.Contains(of[key], metric) {
				of[key] = append(of[key], metric)
			}
		}
	}
	return of
}

// subjectName is the name of the metric that a subject is.
func subjectName(s plan.Subject) string {
	if r, ok := s.Asker.(*rules.Compiled); ok {
		return metricName(r, s.Series)
	}
	return "usage" // Of CPU or memory, as the query says.
}

// metricName is what the rule calls the metric of a series.
func metricName(r *rules.Compiled, series string) string {
	if name, ok := r.MetricName(series); ok {
		return name
	}
	return series
}
