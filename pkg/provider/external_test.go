package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

type fakeCatalog map[types.NamespacedName]*catalog.Metric

func (c fakeCatalog) External(name types.NamespacedName) *catalog.Metric { return c[name] }

func (c fakeCatalog) ExternalNames() []string {
	var names []string
	for name := range c {
		names = append(names, name.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (fakeCatalog) ExternalRule(string) *catalog.RuleMetric { return nil }
func (fakeCatalog) ObjectsSettled() error                   { return nil }
func (fakeCatalog) ObjectsReady() error                     { return nil }
func (fakeCatalog) RulesReady() error                       { return nil }

func (fakeCatalog) LeastExternalTarget(types.NamespacedName) (float64, bool) { return 0, false }

func (fakeCatalog) SuggestExternal(name types.NamespacedName) string {
	return " (not " + name.String() + "?)"
}

// ruledCatalog also has metrics of rules.
type ruledCatalog struct {
	fakeCatalog

	rules                           map[string]*catalog.RuleMetric
	targets                         map[types.NamespacedName]float64
	unsettled, objectsErr, rulesErr error
}

func (c ruledCatalog) ExternalRule(metric string) *catalog.RuleMetric { return c.rules[metric] }
func (c ruledCatalog) ObjectsSettled() error                          { return c.unsettled }
func (c ruledCatalog) ObjectsReady() error                            { return c.objectsErr }
func (c ruledCatalog) RulesReady() error                              { return c.rulesErr }
func (c ruledCatalog) LeastExternalTarget(metric types.NamespacedName) (float64, bool) {
	target, ok := c.targets[metric]
	return target, ok
}

// fakeQuery is named by its text.
type fakeQuery string

func (q fakeQuery) Key() string   { return "key of " + string(q) }
func (fakeQuery) Backend() string { return "main" }
func (q fakeQuery) String() string {
	return string(q) + " at main"
}

// fakeExternalPlanner makes a query of everything that it is asked for.
type fakeExternalPlanner struct{ err error }

func (p fakeExternalPlanner) External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error) {
	query := fakeQuery(fmt.Sprintf("sum(%s{namespace=%q,%s})", series, namespace, selector))
	return engine.Request{Source: r.Server, Query: query}, p.err
}

// askedEngine answers, and says what it was asked.
type askedEngine struct {
	fakeEngine

	asked *string
}

func (e askedEngine) Read(ctx context.Context, request engine.Request) (engine.Answer, error) {
	*e.asked = fmt.Sprint(request.Query)
	return e.fakeEngine.Read(ctx, request)
}

type fakeEngine struct {
	answer engine.Answer
	err    error
}

func (e fakeEngine) Read(context.Context, engine.Request) (engine.Answer, error) {
	return e.answer, e.err
}

// person is the context of a request by somebody who is no HPA controller.
func person(t *testing.T) context.Context {
	t.Helper()
	return request.WithUser(t.Context(), &user.DefaultInfo{Name: "jane"})
}

var (
	depth = types.NamespacedName{Namespace: "shop", Name: "depth"}
	at    = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
)

func TestGetExternalMetric(t *testing.T) {
	two := engine.Answer{Samples: []sources.Sample{
		{Labels: sources.NewLabels("id", "visible"), Value: 0.9, Time: at, Window: time.Minute},
		{Labels: sources.NewLabels("id", "delayed"), Value: -7.5, Time: at},
	}}
	p := NewExternal(fakeCatalog{depth: {Name: depth}}, fakeEngine{answer: two}, nil, nil)
	for selector, want := range map[string]string{
		"":             "depth map[id:visible] 900m 03:04:00 60 | depth map[id:delayed] -7500m 03:04:00 -",
		"id=delayed":   "depth map[id:delayed] -7500m 03:04:00 -",
		"id!=delayed":  "depth map[id:visible] 900m 03:04:00 60",
		"id in (a, b)": `404 external metric shop/depth: no series matches the selector "id in (a,b)"; there are [{id=visible} {id=delayed}]`,
	} {
		t.Run(selector, func(t *testing.T) {
			if got := get(person(t), t, p, depth, selector); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		})
	}
}

func TestGetExternalMetricFails(t *testing.T) {
	away := &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: errors.New("ServiceUnavailable: try later")}
	for _, tc := range []struct {
		name   string
		metric types.NamespacedName
		broken error
		read   fakeEngine
		want   string
	}{
		{
			name: "unknown", metric: types.NamespacedName{Namespace: "shop", Name: "dpeth"},
			want: `404 no external metric "dpeth" in namespace "shop": no ExternalMetric of that name is there, and no rule of the configuration makes it (not shop/dpeth?)`,
		},
		{
			name: "of another namespace", metric: types.NamespacedName{Namespace: "bank", Name: "depth"},
			want: `404 no external metric "depth" in namespace "bank": no ExternalMetric of that name is there, and no rule of the configuration makes it`,
		},
		{name: "no data", read: fakeEngine{err: fmt.Errorf("queue jobs: %w", sources.ErrNoData)}, want: "404 external metric shop/depth: queue jobs: no data"},
		{
			name: "backend away", read: fakeEngine{err: away},
			want: "503 external metric shop/depth: source cloudwatch has failed since 2026-01-02T03:04:00Z (no earlier answer): ServiceUnavailable: try later",
		},
		{
			name: "backend slow", read: fakeEngine{err: &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: context.DeadlineExceeded}},
			want: "503 external metric shop/depth: source cloudwatch has failed",
		},
		{
			name: "query refused", read: fakeEngine{err: &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: fmt.Errorf("%w: ValidationError", sources.ErrRejected)}},
			want: "500 external metric shop/depth: source cloudwatch has failed",
		},
		{
			name: "caller left", read: fakeEngine{err: fmt.Errorf("first fetch is under way: %w", context.Canceled)},
			want: "504 external metric shop/depth: first fetch is under way: context canceled",
		},
		{
			name: "NaN", read: fakeEngine{answer: engine.Answer{Samples: []sources.Sample{{Value: math.NaN(), Time: at}}}},
			want: "500 external metric shop/depth: series {}: not a number that can be served: NaN",
		},
		{name: "cannot be asked", broken: errors.New("spec.queries: there are none"), want: "500 external metric shop/depth: spec.queries: there are none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.metric == (types.NamespacedName{}) {
				tc.metric = depth
			}
			p := NewExternal(fakeCatalog{depth: {Name: depth, Err: tc.broken}}, tc.read, nil, nil)
			if got := get(t.Context(), t, p, tc.metric, ""); !strings.HasPrefix(got, tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestHPAGetsNoNumberThatItMisreads has the same number asked for by what may be an
// HPA controller, which would take it for 0, and by somebody who can read it.
func TestHPAGetsNoNumberThatItMisreads(t *testing.T) {
	p := NewExternal(fakeCatalog{depth: {Name: depth}}, fakeEngine{answer: engine.Answer{
		Samples: []sources.Sample{{Value: 9.1e18, Time: at}},
	}}, nil, nil)
	for name, want := range map[string]string{
		"jane":             "9100P",
		"kubernetes-admin": "9100P",
		"system:serviceaccount:kube-system:horizontal-pod-autoscaler":   "an HPA would misread the value 9100P",
		"system:serviceaccount:openshift-infra:hpa-controller":          "an HPA would misread the value 9100P",
		"system:kube-controller-manager":                                "an HPA would misread the value 9100P",
		"system:serviceaccount:autoscaling:an-hpa-controller-of-my-own": "an HPA would misread the value 9100P",
	} {
		ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: name})
		if got := get(ctx, t, p, depth, ""); !strings.Contains(got, want) {
			t.Errorf("%s got %s, want %s", name, got, want)
		}
	}
	if got := get(t.Context(), t, p, depth, ""); !strings.Contains(got, "an HPA would misread the value 9100P") {
		t.Errorf("nobody got %s", got)
	}
}

var jobsRule = &rules.Compiled{ID: "externalRules[2]", Where: "line 40", Server: "main"}

// withJobs has a metric of a rule, and one of an object.
func withJobs() ruledCatalog {
	return ruledCatalog{
		fakeCatalog: fakeCatalog{depth: {Name: depth}},
		rules: map[string]*catalog.RuleMetric{
			"jobs":  {Rule: jobsRule, Series: "jobs_waiting"},
			"depth": {Rule: jobsRule, Series: "depth_of_all"},
		},
	}
}

func TestGetExternalMetricOfRule(t *testing.T) {
	jobs := types.NamespacedName{Namespace: "shop", Name: "jobs"}
	noData := fmt.Errorf("jobs: %w", sources.ErrNoData)
	for _, tc := range []struct {
		name, selector string
		read           fakeEngine
		zero           bool
		unexpressed    error
		want           string
	}{
		{
			name: "one item an element, with all its labels, whatever the selector", selector: "queue in (a,b)",
			read: fakeEngine{answer: engine.Answer{Samples: []sources.Sample{
				{Labels: sources.NewLabels("queue", "a", "job", "x"), Value: 0.9, Time: at, Window: 90 * time.Second},
				{Labels: sources.NewLabels("kind", "other"), Value: 12, Time: at},
			}}},
			want: "jobs map[job:x queue:a] 900m 03:04:00 90 | jobs map[kind:other] 12 03:04:00 -",
		},
		{name: "a scalar", read: fakeEngine{answer: engine.Answer{Samples: sample(3)}}, want: "jobs map[] 3 03:04:00 -"},
		{name: "an empty vector", read: fakeEngine{err: noData}, want: ""},
		{name: "an empty vector that means zero", read: fakeEngine{answer: engine.Answer{Fetched: at}, err: noData}, zero: true, want: "jobs map[] 0 03:04:00 -"},
		{
			name: "one NaN fails the whole, for a part of the sum is a wrong sum",
			read: fakeEngine{answer: engine.Answer{Samples: slices.Concat(sample(1), []sources.Sample{{Labels: sources.NewLabels("queue", "b"), Value: math.NaN()}})}},
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): series {queue=b}: " +
				`not a number that can be served: NaN, in the answer to sum(jobs_waiting{namespace="shop",}) at main`,
		},
		{
			name: "infinity", read: fakeEngine{answer: engine.Answer{Samples: sample(math.Inf(1))}},
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): series {}: not a number that can be served: +Inf, in the answer to sum(",
		},
		{
			name: "overflow", read: fakeEngine{answer: engine.Answer{Samples: sample(-1e19)}},
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): series {}: not a number that can be served: -1e+19, in the answer to sum(",
		},
		{
			name: "below zero", read: fakeEngine{answer: engine.Answer{Samples: sample(-1.5)}},
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): an HPA would misread the value -1500m: " +
				"it takes what is negative for an overflow; clip it, as with IF(m > 0, m, 0) in CloudWatch or clamp_min(m, 0) in PromQL",
		},
		{
			name: "backend away", read: fakeEngine{err: &engine.UnavailableError{Source: "prometheus", Since: at, Err: errors.New("503")}}, zero: true,
			want: "503 external metric shop/jobs (externalRules[2], line 40, server main): source prometheus has failed since 2026-01-02T03:04:00Z (no earlier answer): 503",
		},
		{
			name: "query refused", read: fakeEngine{err: &engine.UnavailableError{Source: "prometheus", Since: at, Err: fmt.Errorf("%w: 422", sources.ErrRejected)}},
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): source prometheus has failed since ",
		},
		{
			name: "first answer takes too long", read: fakeEngine{err: fmt.Errorf("first fetch is under way: %w", context.DeadlineExceeded)},
			want: "504 external metric shop/jobs (externalRules[2], line 40, server main): first fetch is under way: ",
		},
		{
			name: "too much is read", selector: "queue=a", read: fakeEngine{err: &engine.BusyError{Source: "prometheus", Queries: 9, MaxQueries: 9}},
			want: "429 external metric shop/jobs (externalRules[2], line 40, server main): source prometheus is asked too many different queries",
		},
		{
			name: "nobody knows the resources yet", selector: "queue=a", unexpressed: plan.ErrNotReady,
			want: "503 external metric shop/jobs (externalRules[2], line 40, server main): the adapter is not ready: the resources of the Kubernetes API are not known yet",
		},
		{
			name: "selector cannot be expressed", selector: "queue>5", unexpressed: errors.New("PromQL cannot compare by gt"),
			want: "400 external metric shop/jobs (externalRules[2], line 40, server main): the metric selector cannot be used: PromQL cannot compare by gt",
		},
		{
			name: "rule makes no query", unexpressed: errors.New("no label names the namespace"),
			want: "500 external metric shop/jobs (externalRules[2], line 40, server main): no label names the namespace",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := withJobs()
			rule := *jobsRule
			rule.ZeroForNoData = tc.zero
			c.rules["jobs"].Rule = &rule
			p := NewExternal(c, tc.read, fakeExternalPlanner{tc.unexpressed}, nil)
			got := get(t.Context(), t, p, jobs, tc.selector)
			if !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestHPAGetsNoReplicasThatItMiscounts has an HPA that divides the sum of an external metric
// by its target while it has no replicas, and gets more than it can count. The metric is once
// an object's and once a rule's.
func TestHPAGetsNoReplicasThatItMiscounts(t *testing.T) {
	jobs := types.NamespacedName{Namespace: "shop", Name: "jobs"}
	for _, tc := range []struct {
		name    string
		values  []float64
		refused bool
	}{
		{name: "fits", values: []float64{1e8}},
		{name: "does not fit", values: []float64{3e8}, refused: true},
		{name: "the sum fits", values: []float64{1e8, 1e8}},
		{name: "the sum does not", values: []float64{2e8, 1e8}, refused: true},
		{name: "the sum fits with what is negative", values: []float64{3e8, -2e8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var answer engine.Answer
			for _, v := range tc.values {
				answer.Samples = append(answer.Samples, sources.Sample{Value: v, Time: at})
			}
			for _, metric := range []types.NamespacedName{depth, jobs} {
				c := withJobs()
				other := types.NamespacedName{Namespace: "bank", Name: metric.Name}
				c.targets = map[types.NamespacedName]float64{other: 1e-3}
				p := NewExternal(c, fakeEngine{answer: answer}, fakeExternalPlanner{}, nil)
				if got := get(t.Context(), t, p, metric, ""); strings.HasPrefix(got, "500 ") {
					t.Errorf("without a target got %s", got)
				}
				c.targets[metric] = 0.1
				if got := get(person(t), t, p, metric, ""); strings.HasPrefix(got, "500 ") {
					t.Errorf("a person got %s", got)
				}
				got := get(t.Context(), t, p, metric, "")
				refused := strings.HasPrefix(got, "500 external metric "+metric.String()) &&
					strings.Contains(got, "by the target 0.1 of an HPA of that metric it means more than 2147483647 replicas")
				if refused != tc.refused || !refused && strings.HasPrefix(got, "500 ") {
					t.Errorf("of %s an HPA got %s", metric, got)
				}
			}
		})
	}
}

func TestRuleIsAskedWithTheSelector(t *testing.T) {
	var asked string
	p := NewExternal(withJobs(), askedEngine{fakeEngine{answer: engine.Answer{Samples: sample(3)}}, &asked}, fakeExternalPlanner{}, nil)
	get(t.Context(), t, p, types.NamespacedName{Namespace: "shop", Name: "jobs"}, "queue=a")
	if want := `sum(jobs_waiting{namespace="shop",queue=a}) at main`; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
}

// TestObjectWinsOverRule has a metric of a rule, and in one namespace an object of its name.
func TestObjectWinsOverRule(t *testing.T) {
	p := NewExternal(withJobs(), fakeEngine{err: fmt.Errorf("nothing: %w", sources.ErrNoData)}, fakeExternalPlanner{}, nil)
	if got, want := get(t.Context(), t, p, depth, ""), "404 external metric shop/depth: nothing: no data"; got != want {
		t.Errorf("in the object's namespace got %s, want %s", got, want)
	}
	if got := get(t.Context(), t, p, types.NamespacedName{Namespace: "bank", Name: "depth"}, ""); got != "" {
		t.Errorf("in another namespace got %s, want no items", got)
	}
}

// TestRuleNeedsNoObjects has a cluster whose ExternalMetrics cannot be read.
func TestRuleNeedsNoObjects(t *testing.T) {
	c := withJobs()
	c.fakeCatalog, c.objectsErr = nil, errors.New("ExternalMetrics: forbidden")
	p := NewExternal(c, fakeEngine{answer: engine.Answer{Samples: sample(3)}}, fakeExternalPlanner{}, nil)
	if got, want := get(t.Context(), t, p, types.NamespacedName{Namespace: "shop", Name: "jobs"}, ""), "jobs map[] 3 03:04:00 -"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRuleWaitsForTheObjects has a cluster of which nobody knows the ExternalMetrics yet: one
// may have the name, and another value.
func TestRuleWaitsForTheObjects(t *testing.T) {
	c := withJobs()
	c.unsettled = errors.New("starting")
	p := NewExternal(c, fakeEngine{answer: engine.Answer{Samples: sample(3)}}, fakeExternalPlanner{}, nil)
	want := "503 external metric shop/jobs (externalRules[2], line 40, server main): the adapter is not ready: an ExternalMetric may have the name: starting"
	if got := get(t.Context(), t, p, types.NamespacedName{Namespace: "shop", Name: "jobs"}, ""); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := get(t.Context(), t, p, depth, ""), "depth map[] 3 03:04:00 -"; got != want {
		t.Errorf("an object that is known: got %s, want %s", got, want)
	}
}

func TestNotReadyIsNotUnknown(t *testing.T) {
	const prefix = "503 external metric shop/depth: it is not known yet whether this metric exists: "
	for want, c := range map[string]ruledCatalog{
		"ExternalMetrics: forbidden":           {objectsErr: errors.New("ExternalMetrics: forbidden")},
		"externalRules[1]: connection refused": {rulesErr: errors.New("externalRules[1]: connection refused")},
	} {
		if got := get(t.Context(), t, NewExternal(c, fakeEngine{}, nil, nil), depth, ""); got != prefix+want {
			t.Errorf("got %s, want %s", got, prefix+want)
		}
	}
}

func TestListAllExternalMetrics(t *testing.T) {
	other := types.NamespacedName{Namespace: "bank", Name: "depth"}
	p := NewExternal(fakeCatalog{depth: {Name: depth}, other: {Name: other}}, fakeEngine{}, nil, nil)
	if got := fmt.Sprint(p.ListAllExternalMetrics()); got != "[{depth}]" {
		t.Errorf("got %s, want each name once", got)
	}
}

// get is the answer as one line: the items, or the error's code and message.
func get(ctx context.Context, t *testing.T, p *External, metric types.NamespacedName, selector string) string {
	t.Helper()
	s, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.GetExternalMetric(ctx, metric.Namespace, s, provider.ExternalMetricInfo{Metric: metric.Name})
	if err != nil {
		return failure(t, err)
	}
	if list.Items == nil {
		t.Error("the items are null, and no empty list")
	}
	items := make([]string, len(list.Items))
	for i, v := range list.Items {
		window := "-"
		if v.WindowSeconds != nil {
			window = strconv.FormatInt(*v.WindowSeconds, 10)
		}
		items[i] = fmt.Sprint(v.MetricName, " ", v.MetricLabels, " ", v.Value.String(), " ", v.Timestamp.UTC().Format(time.TimeOnly), " ", window)
	}
	return strings.Join(items, " | ")
}
