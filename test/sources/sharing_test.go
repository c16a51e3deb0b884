package sources_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// The objects whose series are asked for. Those of two namespaces have the same names.
var (
	sharedNamespaces = []string{"bank", "shop", "zoo"}
	sharedPods       = []string{"web-0", "web-1", "web-2", "web-3", "web-4"}
	sharedNodes      = []string{"north", "south"}
)

// kinds is a Mapper that knows what the test's labels name.
type kinds map[string]bool // whether the resource has namespaces, by its singular name

var objectKinds = kinds{"namespace": false, "node": false, "pod": true}

func (k kinds) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	singular := strings.TrimSuffix(r.Resource, "s")
	namespaced, ok = k[singular]
	return schema.GroupResource{Resource: singular + "s"}, namespaced, ok
}

func (kinds) Known() bool { return true }

func (kinds) Generation() uint64 { return 1 }

func (kinds) Singular(r schema.GroupResource) string { return strings.TrimSuffix(r.Resource, "s") }

// play exposes series of every object: counters that rise at a rate of their own, gauges
// and histograms. Some objects lack some of them, some series lack an object.
func play(start time.Time) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		p := page{w, time.Since(start).Seconds()}
		p.series("tide_gauge", 1)
		p.series("total", 40)
		for i, node := range sharedNodes {
			p.series("node_factor", float64(i+2), "node", node)
		}
		for i, pod := range sharedPods {
			p.series("tag", float64(i+5), "pod", pod)
			p.counter("requests_total", 1000, "pod", pod, "method", "GET", "node", "north")
		}
		for i, namespace := range sharedNamespaces {
			p.counter("requests_total", 2000, "namespace", namespace, "method", "GET", "node", "south")
			for j, pod := range sharedPods {
				p.pod(i, j, namespace, pod)
			}
		}
	}
}

// page is what is exposed so many seconds after the start.
type page struct {
	io.Writer

	seconds float64
}

func (p page) series(name string, value float64, pairs ...string) {
	var list []string
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, fmt.Sprintf("%s=%q", pairs[i], pairs[i+1]))
	}
	fmt.Fprintf(p, "%s{%s} %s\n", name, strings.Join(list, ","), strconv.FormatFloat(value, 'g', -1, 64))
}

func (p page) counter(name string, rate float64, pairs ...string) {
	p.series(name, rate*p.seconds, pairs...)
}

// pod exposes the series of one pod, each with values that no other has.
func (p page) pod(i, j int, namespace, pod string) {
	n := float64(1 + 5*i + j)
	node := sharedNodes[(i+j)%len(sharedNodes)]
	own := []string{"namespace", namespace, "pod", pod}
	of := func(more ...string) []string { return slices.Concat(own, more) }
	for k, method := range []string{"GET", "POST"} {
		p.counter("requests_total", n*10+float64(k)*3.7, of("method", method, "node", node)...)
		p.series("depth", n*float64(1+k)+0.25, of("method", method, "node", node)...)
		if j != 2 { // One has none.
			p.counter("errors_total", n/3+float64(k), of("method", method)...)
		}
		for m, le := range []string{"0.1", "0.5", "1", "+Inf"} {
			p.counter("duration_seconds_bucket", n*float64(1+m*(j+1))+float64(k), of("method", method, "le", le)...)
		}
	}
	p.series("limit", 100+n, own...)
	p.series("version", float64(j%2), of("method", "GET")...)
	p.series("version", float64(j%2), of("method", "POST")...)
	p.series("owner", 1, of("team", "team-"+strconv.Itoa((i*2+j)%3))...)
	if (i+j)%2 == 0 {
		p.series("paused", 1, own...)
	}
}

// widest is how wide a query of a rule may be asked.
type widest int

const (
	nowhere widest = iota
	inNamespace
	inCluster
)

// sharedTemplates are metricsQuery texts with M for <<.LabelMatchers>>, G for <<.GroupBy>>.
var sharedTemplates = []struct {
	template string
	widest   widest
}{
	{`sum(rate(requests_total{$M}[2s])) by ($G)`, inCluster},
	{`sum(rate(requests_total{$M}[2s])) by ($G, method)`, inCluster},
	{`sum by ($G) (rate(errors_total{$M}[2s])) / sum by ($G) (rate(requests_total{$M}[2s]))`, inCluster},
	{`sum by ($G) (rate(errors_total{$M}[2s])) / on ($G) sum by ($G) (rate(requests_total{$M}[2s]))`, inCluster},
	{`errors_total{$M} / on ($G, method) requests_total{$M}`, inCluster},
	{`sum(requests_total{$M}) by ($G, method) / on ($G) group_left () sum(limit{$M}) by ($G)`, inCluster},
	{`avg(depth{$M}) by ($G)`, inCluster},
	{`max(depth{$M}) by ($G)`, inCluster},
	{`stddev(depth{$M}) by ($G)`, inCluster},
	{`quantile(0.7, depth{$M}) by ($G)`, inCluster},
	{`topk(1, requests_total{$M}) by ($G)`, inCluster},
	{`bottomk(1, requests_total{$M}) by ($G)`, inCluster},
	{`topk(scalar(count(tag)) - 4, requests_total{$M}) by ($G)`, inCluster},
	{`count_values("value", version{$M}) by ($G)`, inCluster},
	{`count(version{$M} > 0) by ($G)`, inCluster},
	{`max(sum(requests_total{$M}) by ($G, method)) by ($G)`, inCluster},
	{`sum(depth{$M}) without (method, node, instance, job)`, inCluster},
	{`histogram_quantile(0.9, sum(rate(duration_seconds_bucket{$M}[2s])) by ($G, le))`, inCluster},
	{`histogram_quantile(0.5, duration_seconds_bucket{$M})`, inCluster},
	{`label_replace(sum(depth{$M}) by ($G), "app", "$1", "pod", "(.*)-.*")`, inCluster},
	{`label_join(depth{$M}, "place", "/", "node", "method")`, inCluster},
	{`sum(errors_total{$M}) by ($G) or vector(0)`, inCluster},
	{`vector(0) or sum(errors_total{$M}) by ($G)`, inCluster},
	{`sum(errors_total{$M}) by ($G) or sum(depth{$M}) by ($G)`, inCluster},
	{`sum(depth{$M}) by ($G) or on ($G) (sum(total) * 0)`, inCluster},
	{`sum(depth{$M}) by ($G) unless on ($G) paused{$M}`, inCluster},
	{`sum(depth{$M}) by ($G) and on ($G) paused{$M}`, inCluster},
	{`sum(depth{$M}) by ($G) and on () (sum(total) > 3)`, inCluster},
	{`depth{$M} unless on (namespace, pod) paused`, inCluster},
	{`depth{$M} * on ($G) group_left (team) owner{$M}`, inCluster},
	{`depth{$M} * on (namespace, pod) group_left (team) owner`, inCluster},
	{`depth{$M} * on (node) group_left () node_factor`, inCluster},
	{`node_factor * on (node) group_right () depth{$M}`, inCluster},
	{`sum(depth{$M}) by ($G, node) * on (node) group_left () node_factor`, inCluster},
	{`sum(depth{$M}) by ($G) * on () group_left () sum(total)`, inCluster},
	{`sum(depth{$M}) by ($G) / scalar(sum(depth))`, inCluster},
	{`max_over_time(sum(rate(requests_total{$M}[1s])) by ($G)[2s:500ms])`, inCluster},
	{`quantile_over_time(0.5, requests_total{$M}[2s])`, inCluster},
	{`deriv(requests_total{$M}[2s])`, inCluster},
	{`clamp_max(irate(requests_total{$M}[2s]), 60)`, inCluster},
	{`sum(depth{$M} offset 1s) by ($G)`, inCluster},
	{`sum(depth{$M} @ end()) by ($G)`, inCluster},
	{`100 - sum(depth{$M}) by ($G)`, inCluster},
	{`-depth{$M} ^ 2`, inCluster},
	{`sum(depth{$M}) by ($G) > bool 12`, inCluster},
	{`sum(depth{$M}) by ($G) > 12`, inCluster},
	{`sort_desc(sum(depth{$M}) by ($G))`, inCluster},
	{`depth{$M}`, inCluster},

	{`sum(depth{$M}) by (pod)`, inNamespace},
	{`sum(requests_total{$M}) without (namespace, method, node, instance, job)`, inNamespace},
	{`label_replace(sum(depth{$M}) by ($G), "where", "$1", "namespace", "(.*)")`, inNamespace},
	{`label_join(sum(depth{$M}) by ($G), "where", "/", "namespace", "pod")`, inNamespace},
	{`sum(depth{$M}) by ($G) * on ($G) tag`, inNamespace},
	{`sum(depth{$M}) by ($G) unless on ($G) (tag > 7)`, inNamespace},
	{`sum(depth{$M}) by ($G) / ignoring (pod) group_left () sum(total)`, inNamespace},
	{`paused or on (namespace, pod) sum(depth{$M}) by (namespace, pod)`, inNamespace},
	{`limit unless on (namespace, pod) paused{$M}`, inNamespace},
	{`sum(depth{$M}) by ($G, method) / on (pod) group_left () sum(limit{$M}) by ($G)`, inNamespace},

	{`sum(depth{$M})`, nowhere},
	{`topk(2, requests_total{$M})`, nowhere},
	{`quantile(0.5, depth{$M})`, nowhere},
	{`sum(max(depth{$M}) by (method))`, nowhere},
	{`max(sum(depth{$M}) by (method)) without (method) + on () group_right () limit{$M}`, nowhere},
	{`depth{$M} > on () group_left () avg(depth{$M})`, nowhere},
	{`depth{$M} / scalar(sum(depth{$M}))`, nowhere},
	{`sum(depth{$M}) by ($G) / ignoring (pod) group_left () sum(depth{$M})`, nowhere},
	{`limit{$M} * on () group_left () sum(absent(paused{$M}))`, nowhere},
	{`limit{$M} unless on () absent(paused{$M})`, nowhere},
	{`limit{$M} and on (namespace) paused{$M}`, nowhere},
	{`histogram_quantile(0.9, sum(rate(duration_seconds_bucket{$M}[2s])) by (le))`, nowhere},
	{`label_replace(depth{$M}, "pod", "web-0", "method", "GET")`, nowhere},
	{`sum(label_replace(depth{$M}, "pod", "web-0", "", "")) by ($G)`, nowhere},
	{`sum(depth{namespace=~"<<.LabelValuesByName.namespace>>",pod=~"<<.LabelValuesByName.pod>>"}) by ($G)`, nowhere},
}

// A query that reads more objects than were asked for gives each of them what the exact
// query gives, wherever pkg/rules says so; and there are queries of which it says that
// they do not.
func TestSharedQueriesGiveTheSameNumbers(t *testing.T) {
	b := startShared(t)
	told := 0
	for _, tc := range sharedTemplates {
		rule := podRule(t, tc.template)
		for scope, from := range map[rules.Scope]widest{rules.Namespace: inNamespace, rules.Cluster: inCluster} {
			err := rule.Shareable(objectKinds, rules.Ask{Series: "x", Resource: podsResource, Namespace: inScope(scope, "shop"), Scope: scope})
			shared := tc.widest >= from
			if (err == nil) != shared {
				t.Errorf("%s, scope %d: shareable is %v, want %v", tc.template, scope, err, shared)
				continue
			}
			got := b.compare(t, rule, scope)
			switch {
			case !shared && got.difference != "":
				told++
			case shared && got != (comparison{found: true}):
				t.Errorf("%s, scope %d: %+v", tc.template, scope, got)
			}
		}
	}
	// Else the data would not tell a right answer from a wrong one.
	t.Logf("%d wider queries that are not asked would have given other numbers", told)
	if told < 20 {
		t.Errorf("only %d of the queries that are not shared give other numbers", told)
	}
}

// Objects without namespaces share one query, too.
func TestSharedQueriesOfNodes(t *testing.T) {
	b := startShared(t)
	for _, template := range []string{
		`sum(rate(requests_total{$M}[2s])) by ($G)`,
		`sum(depth{$M}) by ($G) * on (node) group_left () node_factor`,
		`topk(2, depth{$M}) by ($G)`,
		`sum(depth{$M}) by ($G) or vector(0)`,
	} {
		rule := podRule(t, template)
		ask := rules.Ask{Series: "x", Resource: schema.GroupResource{Resource: "nodes"}, Scope: rules.Namespace}
		if err := rule.Shareable(objectKinds, ask); err != nil {
			t.Errorf("%s: %v", template, err)
		}
		wide := b.ask(t, rule, ask)
		for _, node := range sharedNodes {
			ask.Scope, ask.Names = rules.Named, []string{node}
			exact := b.ask(t, rule, ask)
			if got, want := wide.of("", node), exact.of("", node); got != want || want == "" {
				t.Errorf("%s: node %s has\n%s\nwant\n%s", template, node, got, want)
			}
		}
	}
}

var podsResource = schema.GroupResource{Resource: "pods"}

// podRule is a rule of pods, nodes and namespaces with the metricsQuery.
func podRule(t *testing.T, template string) *rules.Compiled {
	t.Helper()
	text := strings.NewReplacer("$M", "<<.LabelMatchers>>", "$G", "<<.GroupBy>>").Replace(template)
	set, err := rules.File{Rules: []rules.Rule{{
		SeriesQuery: `{__name__="x"}`,
		Resources: rules.Resources{Overrides: map[string]rules.GroupResource{
			"namespace": {Resource: "namespace"}, "pod": {Resource: "pod"}, "node": {Resource: "node"},
		}},
		MetricsQuery: text,
	}}}.Compile(nil)
	if err != nil {
		t.Fatalf("%s: %v", template, err)
	}
	return set.Custom[0]
}

// sharedBed is a Prometheus at one time: what is asked later gets no other answer.
type sharedBed struct {
	url string
	at  time.Time
}

func startShared(t *testing.T) *sharedBed {
	b := &sharedBed{url: startPrometheus(t, play(time.Now()))}
	await(t, "two seconds of scrapes", func() error {
		b.at = time.Now().Add(-time.Second)
		v, err := b.query(t.Context(), `count_over_time(tide_gauge[3s])`)
		if err == nil && (len(v) != 1 || v[0].Value < 14) {
			err = fmt.Errorf("scrapes: %v", v)
		}
		return err
	})
	return b
}

func (b *sharedBed) query(ctx context.Context, promQL string) (model.Vector, error) {
	form := url.Values{"query": {promQL}, "time": {strconv.FormatFloat(float64(b.at.UnixMilli())/1000, 'f', 3, 64)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/api/v1/query?"+form.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
		Data  struct {
			Result model.Vector `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", promQL, answer.Error)
	}
	return answer.Data.Result, nil
}

// comparison is how wide queries compare with exact ones.
type comparison struct {
	// found says that some object has a value.
	found bool
	// difference is the first one of the numbers, and failure a wide query's.
	difference, failure string
}

// compare asks in the scope and exactly, for each object by itself and for all of a
// namespace, with and without a metric selector.
func (b *sharedBed) compare(t *testing.T, rule *rules.Compiled, scope rules.Scope) (c comparison) {
	t.Helper()
	for _, selector := range []string{"", "method=GET", "method!=GET"} {
		parsed, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		ask := rules.Ask{Series: "x", Resource: podsResource, Selector: parsed}
		for _, namespace := range sharedNamespaces {
			ask.Scope, ask.Namespace, ask.Names = scope, inScope(scope, namespace), nil
			wide := b.ask(t, rule, ask)
			if wide.err != nil {
				c.failure = wide.err.Error()
				continue
			}
			ask.Scope, ask.Namespace = rules.Named, namespace
			for _, names := range namings(selector) {
				ask.Names = names
				exact := b.ask(t, rule, ask)
				for _, pod := range names {
					got, want := wide.of(namespace, pod), exact.of(namespace, pod)
					c.found = c.found || want != ""
					if got != want {
						c.difference = fmt.Sprintf("selector %q: %s/%s of %v has %q, want %q", selector, namespace, pod, names, got, want)
						return c
					}
				}
			}
		}
	}
	return c
}

// namings are the lists of objects that are asked for together.
func namings(selector string) [][]string {
	all := [][]string{sharedPods}
	if selector == "" {
		for _, pod := range sharedPods {
			all = append(all, []string{pod})
		}
	}
	return all
}

func inScope(scope rules.Scope, namespace string) string {
	if scope == rules.Cluster {
		return ""
	}
	return namespace
}

// answer is what a question gives of each object.
type answer struct {
	rules.Question

	namespace string // of all objects, if the question does not tell
	samples   model.Vector
	err       error
}

func (b *sharedBed) ask(t *testing.T, rule *rules.Compiled, a rules.Ask) answer {
	t.Helper()
	question, err := rule.Question(objectKinds, a)
	if err != nil {
		return answer{err: err}
	}
	v, err := b.query(t.Context(), question.PromQL)
	return answer{question, a.Namespace, v, err}
}

// of are an object's samples, as text. The label that tells its namespace is no part of
// them: an exact question has it in some places only.
func (a answer) of(namespace, name string) string {
	if a.err != nil {
		return "an error: " + a.err.Error()
	}
	var texts []string
	for _, s := range a.samples {
		if string(s.Metric[model.LabelName(a.ObjectLabel)]) != name {
			continue
		}
		if a.NamespaceLabel != "" && string(s.Metric[model.LabelName(a.NamespaceLabel)]) != namespace {
			continue
		}
		metric := s.Metric.Clone()
		delete(metric, "namespace")
		texts = append(texts, fmt.Sprintf("%s %s", metric, strconv.FormatFloat(float64(s.Value), 'g', -1, 64)))
	}
	slices.Sort(texts)
	return strings.Join(texts, "\n")
}
