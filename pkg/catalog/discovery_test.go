package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/internal/heap"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// apis is a mapper that learns its resources with the first Refresh that succeeds.
type apis struct {
	mu sync.Mutex
	// namespaced are the resources to be learned, by their kinds.
	namespaced map[string]bool
	known      map[string]bool
	generation uint64
	asked      int
	err        error
	// broken makes Normalize panic.
	broken bool
}

func newAPIs() *apis {
	return &apis{namespaced: map[string]bool{"Pod": true, "Service": true, "Namespace": false, "Node": false}}
}

func (a *apis) Refresh(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.err == nil && !maps.Equal(a.known, a.namespaced) {
		a.known = maps.Clone(a.namespaced)
		a.generation++
	}
	return a.err
}

// creates adds a resource to be learned.
func (a *apis) creates(kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.namespaced[kind] = true
}

// refreshes is how often Refresh was called since it was last asked.
func (a *apis) refreshes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.asked
	a.asked = 0
	return n
}

func (a *apis) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		panic("a fault of the program")
	}
	for kind, namespaced := range a.known {
		if one := strings.ToLower(kind); r.Group == "" && (r.Resource == one || r.Resource == one+"s") {
			return schema.GroupResource{Resource: one + "s"}, namespaced, true
		}
	}
	return schema.GroupResource{}, false, false
}

func (a *apis) Singular(r schema.GroupResource) string {
	if _, _, known := a.Normalize(r); known {
		return strings.TrimSuffix(r.Resource, "s")
	}
	return r.Resource
}

func (a *apis) Known() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known != nil
}

func (a *apis) Generation() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.generation
}

func (a *apis) ResourceOf(k schema.GroupKind) (schema.GroupResource, bool) {
	r, _, ok := a.Normalize(schema.GroupResource{Group: k.Group, Resource: strings.ToLower(k.Kind)})
	return r, ok
}

// fakeServers list what they are set to, by selector, as "name label label".
type fakeServers struct {
	t      *testing.T
	mu     sync.Mutex
	series map[string][]string
	errs   map[string]error
	// hung are servers that do not answer.
	hung     map[string]bool
	asked    []string
	starts   []time.Time
	inFlight map[string]int
	most     int
}

func (f *fakeServers) Series(ctx context.Context, server, selector string, start, end time.Time, visit func(string, []string)) error {
	f.mu.Lock()
	f.asked = append(f.asked, selector)
	f.starts = append(f.starts, time.Now())
	f.inFlight[selector]++
	f.inFlight["server "+server]++
	f.most = max(f.most, f.inFlight["server "+server])
	if f.inFlight[selector] > 1 {
		f.t.Errorf("two listings of %s at once", selector)
	}
	if end.Sub(start) != maxAge || !end.Equal(time.Now()) {
		f.t.Errorf("listed from %v to %v", start, end)
	}
	series, err, hung := f.series[selector], f.errs[selector], f.hung[server]
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.inFlight[selector]--
		f.inFlight["server "+server]--
	}()
	if hung {
		<-ctx.Done()
		return ctx.Err()
	}
	for _, s := range series {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fields := strings.Fields(s)
		name := []byte(fields[0])
		visit(string(name), fields[1:])
	}
	return err
}

// lists sets what a selector lists, and that it does.
func (f *fakeServers) lists(selector string, series ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.series[selector], f.errs[selector] = series, nil
}

func (f *fakeServers) fails(selector, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[selector] = errors.New(text)
}

// atOnce is how many listings of one server were under way at most.
func (f *fakeServers) atOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// hangs sets whether the server "slow" does not answer.
func (f *fakeServers) hangs(hung bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung["slow"] = hung
}

// lastAsked are the selectors that were listed since it was last called, sorted.
func (f *fakeServers) lastAsked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.asked)
	asked := strings.Join(f.asked, " ")
	f.asked, f.starts = nil, nil
	return asked
}

const (
	relist = 10 * time.Minute
	maxAge = 20 * time.Minute
)

// world is a discovery over fake servers.
type world struct {
	*Catalog

	t         *testing.T
	discovery *Discovery
	servers   *fakeServers
	apis      *apis
	mu        sync.Mutex
	changes   int
	troubles  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, Catalog: &Catalog{}, apis: newAPIs(), servers: &fakeServers{
		t: t, series: map[string][]string{}, errs: map[string]error{}, hung: map[string]bool{}, inFlight: map[string]int{},
	}}
	w.discovery = NewDiscovery(w.Catalog, DiscoveryOptions{Lister: w.servers, Mapper: w.apis, Relist: relist, MaxAge: maxAge})
	count := func(n *int) func() {
		return func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			*n++
		}
	}
	w.discovery.OnChange(count(&w.changes))
	w.discovery.OnTrouble(count(&w.troubles))
	return w
}

// run runs the discovery until the test is over.
func (w *world) run() { w.runIn(w.t.Context()) }

func (w *world) runIn(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = w.discovery.Run(ctx) })
	w.t.Cleanup(func() {
		stop()
		running.Wait()
	})
	synctest.Wait()
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// troubled is how often OnTrouble was called.
func (w *world) troubled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.troubles
}

// changed gives how often OnChange was called since it was last asked.
func (w *world) changed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.changes
	w.changes = 0
	return n
}

func (w *world) set(f rules.File) {
	w.t.Helper()
	w.discovery.SetRules(compile(w.t, f))
	synctest.Wait()
}

func compile(t *testing.T, f rules.File) *rules.Set {
	t.Helper()
	set, err := f.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// custom is a rule for what its labels name, and external one of the other kind.
func custom(seriesQuery, as string) rules.Rule {
	r := external(seriesQuery, as)
	r.Resources = rules.Resources{Template: "<<.Resource>>"}
	r.MetricsQuery = "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
	return r
}

func external(seriesQuery, as string) rules.Rule {
	r := rules.Rule{SeriesQuery: seriesQuery, MetricsQuery: "sum(<<.Series>>{<<.LabelMatchers>>})"}
	r.Name.As = as
	return r
}

func at(server string, r rules.Rule) rules.Rule {
	r.Server = server
	return r
}

func customRules(list ...rules.Rule) rules.File { return rules.File{Rules: list} }

// names are the metrics that discovery found, with the series that make them.
func (w *world) names() string {
	var names []string
	for _, n := range w.CustomNames() {
		m := w.Custom(n)
		scope := ""
		if !n.Namespaced {
			scope = "root:"
		}
		names = append(names, fmt.Sprintf("%s%s/%s=%s", scope, n.Resource, n.Metric, m.Series))
	}
	return strings.Join(names, " ")
}

func (w *world) want(got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("got  %v\nwant %v", got, want)
	}
}

// inBubble runs a test in which time passes when nothing else does.
func inBubble(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t)) })
}

const (
	queryA = `{app="a"}`
	queryB = `{app="b"}`
)

func TestDiscoveryFindsMetrics(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "requests namespace pod", "requests instance namespace pod", "errors namespace service", "up job", "build node")
		w.servers.lists(queryB, "queue job", "stack")
		w.set(rules.File{Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{external(queryB, "ext_$0"), external(queryA, "")}})
		w.want(w.changed(), 1)
		w.want(w.names(), "")
		w.want(w.Ready() != nil, true)
		w.run()
		w.want(w.names(), "root:namespaces/errors=errors root:namespaces/requests=requests "+
			"root:nodes/build=build pods/requests=requests services/errors=errors")
		w.want(w.ExternalNames(), "[build errors ext_queue ext_stack requests up]")
		w.want(w.ExternalRule("ext_queue").Series, "queue")
		w.want(w.ExternalRule("ext_queue").Rule.ID, "externalRules[0]")
		w.want(w.ExternalRule("queue") == nil, true)
		w.want(w.Custom(CustomName{Resource: schema.GroupResource{Resource: "pods"}, Metric: "requests"}) == nil, true)
		w.want(w.RulesReady(), nil)
		w.want(w.servers.lastAsked(), queryA+" "+queryB) // Two rules ask one query once.
		w.changed()
		w.pass(3 * relist)
		w.want(w.changed(), 0)
		w.want(strings.Count(w.servers.lastAsked(), queryA), 3)
	})
}

// One selector that fails touches its own rule only, and not even what that knew.
func TestFailedListingIsItsOwnRulesAffair(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lists(queryB, "b namespace pod")
		w.set(customRules(custom(queryA, ""), custom(queryB, "")))
		w.run()
		w.changed()
		w.want(w.troubled(), 1) // There was none once all were listed.
		w.servers.lists(queryA, "half namespace pod")
		w.servers.fails(queryA, "422 unprocessable: no such thing")
		w.servers.lists(queryB, "b namespace pod", "b2 namespace pod")
		for range 10 { // Far beyond maxAge.
			w.pass(relist)
		}
		all := "root:namespaces/a=a root:namespaces/b=b root:namespaces/b2=b2 pods/a=a pods/b=b pods/b2=b2"
		w.want(w.names(), all)
		w.want(w.changed(), 1)
		w.want(w.troubled(), 2)
		troubles := w.discovery.Troubles()
		w.want(len(troubles), 1)
		w.want(troubles[0].Rule, "rules[0]")
		w.want(troubles[0].Known, true)
		w.want(troubles[0].Server, "default")
		w.want(troubles[0].Err, "422 unprocessable: no such thing")
		if age := time.Since(troubles[0].Since); age < 8*relist || age > 10*relist {
			t.Errorf("it has been failing for %v", age)
		}
		w.servers.lists(queryA, "a namespace pod")
		w.pass(relist)
		w.want(w.names(), all)
		w.want(w.troubled(), 3)
		w.want(len(w.discovery.Troubles()), 0)
	})
}

// A server that restarts without its data, and one that has lost a metric for good.
func TestMetricsStayUntilMaxAgeHasPassedWithout(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod", "a namespace service", "b namespace pod")
		w.set(customRules(custom(queryA, "")))
		w.run()
		all := w.names()
		w.servers.lists(queryA)
		w.pass(relist)
		w.want(w.names(), all)
		w.servers.lists(queryA, "b namespace pod")
		w.pass(relist)
		w.want(w.names(), all)
		w.servers.lists(queryA)
		w.pass(relist)
		w.want(w.names(), "root:namespaces/b=b pods/b=b")
		w.pass(relist)
		w.want(w.names(), "root:namespaces/b=b pods/b=b")
		w.pass(relist)
		w.want(w.names(), "")
	})
}

// The API server comes to have the resource later, as that of a CRD.
func TestResourceThatTheClusterLacksIsATrouble(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a gadget namespace", "b namespace pod")
		rule := custom(queryA, "")
		rule.Resources.Overrides = map[string]rules.GroupResource{"gadget": {Resource: "gadget"}}
		w.set(customRules(rule))
		w.want(len(w.discovery.Troubles()), 0) // Nobody knows yet.
		w.run()
		w.want(w.names(), "root:namespaces/a=a root:namespaces/b=b pods/b=b")
		troubles := w.discovery.Troubles()
		w.want(len(troubles), 1)
		w.want(troubles[0].Rule, "rules[0]")
		w.want(troubles[0].Err, rules.Unmapped{Label: "gadget", Resource: schema.GroupResource{Resource: "gadget"}})
		w.want(len(w.Unmapped("a")), 1)
		w.want(w.Unmapped("a")[0].Rule.ID, "rules[0]")
		w.want(len(w.Unmapped("b")), 0)
		told, since := w.troubled(), troubles[0].Since
		w.pass(2 * relist)
		w.want(w.troubled(), told) // It is no other trouble.
		w.want(w.discovery.Troubles()[0].Since, since)
		w.apis.creates("Gadget")
		w.pass(lackingRefresh)
		w.want(w.names(), "gadgets/a=a root:namespaces/a=a root:namespaces/b=b pods/b=b")
		w.want(len(w.discovery.Troubles()), 0)
		w.want(len(w.Unmapped("a")), 0)
		w.want(w.troubled(), told+1)
	})
}

func TestSeriesNamedAsAWordOfPromQLIsLeftOut(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "inf namespace pod", "nan namespace pod", "a namespace pod")
		w.set(rules.File{Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{external(queryA, "")}})
		w.run()
		w.want(w.names(), "root:namespaces/a=a pods/a=a")
		w.want(w.ExternalNames(), "[a]")
	})
}

// Any label may be there that a template does not find a resource for.
func TestLabelsOfATemplateAreNoTrouble(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a gadget namespace")
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.want(len(w.discovery.Troubles()), 0)
		w.want(len(w.Unmapped("a")), 0)
	})
}

func TestSetRules(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lists(queryB, "b namespace pod")
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.pass(time.Minute)
		w.servers.lastAsked()
		w.changed()

		// What is known of a query stays, whatever its rules.
		w.servers.fails(queryA, "away")
		w.set(customRules(custom(queryB, ""), custom(queryA, "renamed")))
		w.want(w.names(), "root:namespaces/b=b root:namespaces/renamed=a pods/b=b pods/renamed=a")
		w.want(w.servers.lastAsked(), queryB)
		w.want(w.changed() > 0, true)

		w.discovery.SetRules(nil)
		w.want(w.names(), "")
		w.pass(3 * relist)
		w.want(w.servers.lastAsked(), "")

		// A query that goes while its server hangs, and comes back.
		w.servers.hangs(true)
		for range 3 {
			w.set(customRules(at("slow", custom(queryA, ""))))
			w.pass(time.Second)
			w.set(customRules())
		}
		w.set(customRules(at("slow", custom(queryA, ""))))
		w.servers.hangs(false)
		w.servers.lists(queryA, "a namespace pod")
		w.pass(2 * listTimeout)
		w.want(w.names(), "root:namespaces/a=a pods/a=a")
	})
}

// A name of a server that stands for another server: what the old one had is none of its.
func TestChangedServersAreListedAnew(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lists(queryB, "b namespace pod")
		file := customRules(custom(queryA, ""), at("other", custom(queryB, "")))
		w.set(file)
		w.run()
		w.pass(time.Minute)
		w.servers.lastAsked()
		w.servers.fails(queryA, "away")
		w.discovery.SetRules(compile(t, file), "default", "gone")
		synctest.Wait()
		w.want(w.servers.lastAsked(), queryA)
		w.want(w.names(), "root:namespaces/b=b pods/b=b")
		w.want(w.RulesReady(), "the series of the rules are not listed yet: rules[0]: server default: away")
		w.servers.lists(queryA, "new namespace pod")
		w.pass(2 * firstRetry)
		w.want(w.names(), "root:namespaces/b=b root:namespaces/new=new pods/b=b pods/new=new")
		w.want(w.RulesReady(), nil)
	})
}

// A listing that began with the old server says nothing of the new one.
func TestListingUnderWayOfAChangedServerDoesNotCount(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		file := customRules(custom(queryA, ""))
		w.set(file)
		w.run()
		old := w.discovery.queries[seriesQuery{"default", queryA}]
		found := newListing(old.inventory)
		found.visit("late", []string{"namespace", "pod"})
		w.servers.fails(queryA, "away")
		w.discovery.SetRules(compile(t, file), "default")
		w.discovery.update(func() bool { return w.discovery.settle(old, found, nil, time.Now()) })
		synctest.Wait()
		w.want(w.names(), "")
		w.want(w.RulesReady() != nil, true)
	})
}

// The Reloader recovers: what was in force must be so still.
func TestPanicLeavesTheRulesInForce(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		w.set(customRules(custom(queryA, "")))
		w.run()
		before := w.names()
		breaks := func(broken bool) {
			w.apis.mu.Lock()
			defer w.apis.mu.Unlock()
			w.apis.broken = broken
		}
		breaks(true)
		func() {
			defer func() { w.want(recover(), "a fault of the program") }()
			w.discovery.SetRules(compile(t, customRules(custom(queryA, "renamed"))))
		}()
		breaks(false)
		w.want(w.names(), before)
		w.want(len(w.discovery.Troubles()), 0)
		w.servers.lists(queryA, "a namespace pod", "b namespace pod")
		w.pass(relist)
		w.want(w.names(), "root:namespaces/a=a root:namespaces/b=b pods/a=a pods/b=b")
		w.set(customRules(custom(queryA, "renamed")))
		w.want(w.names(), "root:namespaces/renamed=b pods/renamed=b")
	})
}

// A container that was restarted finds on its pod what the one before had to say.
func TestTroublesAreReportedOnceAllWasTried(t *testing.T) {
	for name, tc := range map[string]struct {
		file rules.File
		want int
	}{
		"no rules":                   {rules.File{}, 1},
		"only resourceRules":         {rules.File{ResourceRules: usageRules()}, 1},
		"all is well":                {customRules(custom(queryA, ""), custom(queryB, "")), 1},
		"one server does not answer": {customRules(custom(queryA, ""), at("slow", custom(queryB, ""))), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.servers.hangs(true)
				w.set(tc.file)
				w.want(w.troubled(), 0)
				w.run()
				w.want(w.troubled(), tc.want)
				w.pass(time.Hour)
				w.want(w.troubled(), 1)
			})
		})
	}
}

// Whatever kind of rule there is, no query can be made of it before the resources are known.
func TestNoRulesAreReadyWithoutTheResources(t *testing.T) {
	for name, file := range map[string]rules.File{
		"rules":         customRules(custom(queryA, "")),
		"externalRules": {ExternalRules: []rules.Rule{external(queryA, "")}},
		"resourceRules": {ResourceRules: usageRules()},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.apis.err = errors.New("connection refused")
				w.setObjects(&snapshot{})
				w.set(file)
				w.run()
				const want = "the resources of the Kubernetes API are not known yet: connection refused"
				w.want(w.RulesReady(), want)
				w.want(w.Ready(), want)
				w.apis.mu.Lock()
				w.apis.err = nil
				w.apis.mu.Unlock()
				w.pass(2 * firstRetry)
				w.want(w.RulesReady(), nil)
				w.want(w.Ready(), nil)
			})
		})
	}
}

func (w *world) custom(resource, metric string) string {
	m := w.Custom(CustomName{Resource: schema.GroupResource{Resource: resource}, Namespaced: w.apis.namespaced[strings.ToUpper(resource[:1])+resource[1:len(resource)-1]], Metric: metric})
	if m == nil {
		return "none"
	}
	return m.Rule.ID + " " + m.Series
}

// A rule that names its series needs no discovery.
func TestLiteralRuleServesBeforeDiscovery(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.fails("literal", "away")
		w.set(rules.File{Rules: []rules.Rule{custom("literal", "metric")}, ExternalRules: []rules.Rule{external(`literal{job="x"}`, "queue")}})
		w.want(w.ExternalNames(), "[queue]")
		w.want(w.ExternalRule("queue").Series, "literal")
		w.run()
		w.pass(time.Hour)
		w.want(w.custom("pods", "metric"), "rules[0] literal")
		w.want(w.custom("nodes", "metric"), "rules[0] literal")
		w.want(w.custom("unknowns", "metric"), "none")
		w.want(w.custom("pods", "literal"), "none")
		w.want(w.Custom(CustomName{Resource: schema.GroupResource{Resource: "pods"}, Metric: "metric"}) == nil, true)
		w.want(w.names(), "")
		w.want(w.RulesReady(), nil) // No other name can come of it.

		// Discovery knows better which objects there are.
		w.servers.lists("literal", "literal namespace pod")
		w.pass(relist)
		w.want(w.custom("pods", "metric"), "rules[0] literal")
		w.want(w.custom("nodes", "metric"), "none")
	})
}

// Of two rules for a metric the later counts, whether or not it was discovered; but
// not once its series is known not to be there.
func TestPrecedence(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "metric namespace pod")
		w.servers.lists(queryB, "metric namespace pod", "other namespace pod")
		w.servers.fails("literal", "away")
		file := func(list ...rules.Rule) rules.File { return rules.File{Rules: list, ExternalRules: list} }
		first, second, literal := custom(queryA, ""), custom(queryB, ""), custom("literal", "metric")
		w.run()
		check := func(want string) {
			t.Helper()
			w.pass(time.Second)
			w.want(w.custom("pods", "metric"), want)
			w.want(w.ExternalRule("metric").Rule.ID, "externalR"+strings.Fields(want)[0][1:])
		}
		w.set(file(first, second))
		check("rules[1] metric")
		w.set(file(literal, first))
		check("rules[1] metric")
		w.set(file(first, literal))
		check("rules[1] literal")
		w.servers.lists("literal")
		w.pass(relist)
		check("rules[0] metric")
		w.set(file(literal))
		check("rules[0] literal")
		w.servers.lists("literal", "literal namespace pod")
		w.set(file(first, literal))
		w.pass(relist)
		check("rules[1] literal")
	})
}

func TestSeveralSeriesOfARuleForOneMetric(t *testing.T) {
	inBubble(t, func(w *world) {
		rule := custom(queryA, "")
		rule.Name = rules.Name{Matches: "^(.*)_(?:total|sum|created)$"}
		w.servers.lists(queryA, "x_sum namespace pod", "x_total namespace pod", "x_created namespace pod", "x_created namespace service")
		w.set(customRules(rule))
		w.run()
		w.want(w.names(), "root:namespaces/x=x_total pods/x=x_total services/x=x_created")
		// One that is there goes before one that may not come back.
		w.servers.lists(queryA, "x_created namespace pod")
		w.pass(relist)
		w.want(w.names(), "root:namespaces/x=x_created pods/x=x_created services/x=x_created")
	})
}

func TestHungServerHoldsUpNoOther(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.hangs(true)
		var list []rules.Rule
		for i := range 10 {
			q := fmt.Sprintf(`{n="%d"}`, i)
			w.servers.lists(q, "slow_"+strconv.Itoa(i)+" pod")
			list = append(list, at("slow", custom(q, "")))
		}
		w.servers.lists(queryA, "a namespace pod")
		w.set(customRules(append(list, custom(queryA, ""))...))
		w.run()
		w.want(w.names(), "root:namespaces/a=a pods/a=a")
		w.want(w.servers.atOnce(), listAtOnce)
		w.want(errors.Is(w.Ready(), errNotSynced), true)
		w.setObjects(&snapshot{})
		w.want(w.Ready(), errNotListed)
		w.pass(startup)
		w.want(w.Ready(), nil) // A server that hangs is no reason to leave the Service.
		w.want(strings.Contains(w.RulesReady().Error(), "rules[0], rules[1], rules[2] and 7 more"), true)
		w.pass(3 * listTimeout)
		w.want(w.discovery.Troubles()[9].Err, "no answer within 1m5s: context deadline exceeded")
		w.servers.hangs(false)
		w.pass(relist)
		w.want(len(w.CustomNames()), 12)
		w.want(w.RulesReady(), nil)
		w.want(w.servers.atOnce(), listAtOnce)
	})
}

func TestNewResourcesBecomeKnown(t *testing.T) {
	inBubble(t, func(w *world) {
		w.apis.err = errors.New("connection refused")
		w.servers.lists(queryA, "a namespace widget", "a namespace pod")
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.want(w.names(), "")
		w.want(w.RulesReady(), "the resources of the Kubernetes API are not known yet: connection refused")
		w.apis.mu.Lock()
		w.apis.err = nil
		w.apis.mu.Unlock()
		w.pass(2 * firstRetry)
		w.want(w.names(), "root:namespaces/a=a pods/a=a")
		w.changed()
		w.apis.creates("Widget")
		w.pass(relist)
		w.want(w.names(), "root:namespaces/a=a pods/a=a widgets/a=a")
		w.want(w.changed(), 1)
		w.apis.mu.Lock()
		w.apis.err = errors.New("away")
		w.apis.mu.Unlock()
		w.pass(3 * relist)
		w.want(w.changed(), 0)
	})
}

func TestSelfMetrics(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod", "a namespace pod", "b namespace pod")
		w.servers.fails(queryB, "away")
		w.set(rules.File{Rules: []rules.Rule{custom(queryA, "")}, ExternalRules: []rules.Rule{at("other", external(queryB, ""))}})
		w.run()
		want := `
# HELP tidegauge_discovery_last_success_timestamp_seconds When the series of a rule were last listed; 0 if they never were.
# TYPE tidegauge_discovery_last_success_timestamp_seconds gauge
tidegauge_discovery_last_success_timestamp_seconds{rule="externalRules[0]",server="other"} 0
tidegauge_discovery_last_success_timestamp_seconds{rule="rules[0]",server="default"} 9.466848e+08
# HELP tidegauge_discovery_listings_total Listings of the series of a rule, by result: ok or failed. Rules that ask the same share listings.
# TYPE tidegauge_discovery_listings_total counter
tidegauge_discovery_listings_total{result="failed",rule="externalRules[0]",server="other"} 1
tidegauge_discovery_listings_total{result="failed",rule="rules[0]",server="default"} 0
tidegauge_discovery_listings_total{result="ok",rule="externalRules[0]",server="other"} 0
tidegauge_discovery_listings_total{result="ok",rule="rules[0]",server="default"} 1
# HELP tidegauge_discovery_metrics Metrics that a rule makes, those included that a later rule of the same names wins.
# TYPE tidegauge_discovery_metrics gauge
tidegauge_discovery_metrics{rule="externalRules[0]",server="other"} 0
tidegauge_discovery_metrics{rule="rules[0]",server="default"} 4
# HELP tidegauge_discovery_series Series that the last good listing for a rule had.
# TYPE tidegauge_discovery_series gauge
tidegauge_discovery_series{rule="externalRules[0]",server="other"} 0
tidegauge_discovery_series{rule="rules[0]",server="default"} 3
`
		if err := testutil.CollectAndCompare(w.discovery, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(w.discovery); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
	})
}

// A listing beyond a limit is a failed one: what was known before stays.
func TestListingLimits(t *testing.T) {
	sets := func(n int) []string {
		var series []string
		for i := range n {
			series = append(series, "a label"+strconv.Itoa(i))
		}
		return series
	}
	var many, wide []string
	for i := range maxSeriesNames + 1 {
		many = append(many, "series_"+strconv.Itoa(i)+" pod")
	}
	for i := range maxSightings/maxLabelSets + 1 {
		for j := range maxLabelSets - 1 {
			wide = append(wide, "series_"+strconv.Itoa(i)+" label"+strconv.Itoa(j))
		}
	}
	for name, tc := range map[string]struct {
		series []string
		want   string
	}{
		"names":       {many, "the series query finds more than 100000 names of series: write one that finds fewer"},
		"names fit":   {many[:maxSeriesNames], ""},
		"label sets":  {sets(maxLabelSets + 1), "the series a have more than 1000 different sets of label names: write a series query that finds fewer"},
		"sets fit":    {sets(maxLabelSets), ""},
		"both, total": {append(wide, many...), "the series query finds more than 200000 names of series with different label names: write one that finds fewer"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.servers.lists(queryA, "before namespace pod")
				w.set(customRules(custom(queryA, "")))
				w.run()
				before := w.names()
				w.servers.lists(queryA, tc.series...)
				w.pass(relist)
				got := ""
				for _, trouble := range w.discovery.Troubles() {
					got = trouble.Err.Error()
				}
				w.want(got, tc.want)
				if tc.want != "" {
					w.want(w.names(), before)
				}
			})
		})
	}
}

// Label names may have any character.
func TestLabelSetsAreNotMixedUp(t *testing.T) {
	l := newListing(&inventory{})
	for _, names := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"a\x00b", "c"}, {"a", "b\x00c"}, {}, {""}, {"ab", "c"}} {
		if got := l.set(names).names; !slices.Equal(got, names) {
			t.Errorf("%q became %q", names, got)
		}
	}
	if len(l.sets) != 7 {
		t.Errorf("%d sets", len(l.sets))
	}
}

// BenchmarkDiscoveryMemory is a server of 300,000 series: the memory that stays must be
// that of its metrics.
func BenchmarkDiscoveryMemory(b *testing.B) {
	set, err := customRules(custom(queryA, "")).Compile(nil)
	if err != nil {
		b.Fatal(err)
	}
	mapper := newAPIs()
	if err := mapper.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c := &Catalog{}
		d := NewDiscovery(c, DiscoveryOptions{Lister: manySeries(300_000), Mapper: mapper, Relist: relist, MaxAge: maxAge})
		d.SetRules(set)
		before := heap.InUse()
		d.list(b.Context(), d.queries[seriesQuery{"default", queryA}])
		after := heap.InUse()
		b.ReportMetric(float64(int64(after)-int64(before))/1024, "KiB-kept")
		if len(c.CustomNames()) != 2*300 {
			b.Fatalf("%d metrics", len(c.CustomNames()))
		}
		runtime.KeepAlive(d)
	}
}

// manySeries has that many series of 300 names, each with three label sets of 13 names,
// in an order that is the worst.
type manySeries int

func (n manySeries) Series(_ context.Context, _, _ string, _, _ time.Time, visit func(string, []string)) error {
	labels := make([]string, 13)
	for i := range int(n) {
		for j := range labels {
			labels[j] = "label_" + strconv.Itoa(j)
		}
		labels[11], labels[12] = "namespace", "pod"
		labels[0] = "variant_" + strconv.Itoa(i/300%3)
		visit("series_"+strconv.Itoa(i%300), labels)
	}
	return nil
}
