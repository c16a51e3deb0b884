package catalog

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// fakePods are pods that are read or not.
type fakePods struct {
	read  bool
	asked int
}

func (f *fakePods) Prepare(r schema.GroupResource) bool {
	f.asked++
	return f.read && r == podResource
}

// readyAfter is how long it takes the catalog to be ready.
func (a *access) readyAfter() time.Duration {
	a.t.Helper()
	start := time.Now()
	for a.catalog.Ready() != nil {
		if time.Since(start) > time.Minute {
			a.t.Fatal(a.catalog.Ready())
		}
		a.pass(10 * time.Millisecond)
	}
	return time.Since(start)
}

// A replica that starts is ready when its first reads find answers, and soon in any case.
func TestReadyWhenWhatHPAsNameWasAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		answered time.Duration
		state    engine.State
		least    time.Duration
		most     time.Duration
	}{
		"answered":        {answered: time.Second, state: answered(7), least: time.Second, most: 1200 * time.Millisecond},
		"failed":          {answered: time.Second, state: failing(engine.State{}, errors.New("503")), least: time.Second, most: 1200 * time.Millisecond},
		"never answered":  {answered: time.Hour, least: warmFor, most: warmFor + time.Second},
		"answered before": {state: answered(7), most: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccess(t)
				a.creates(hpaOf("shop", "worker", externalOfHPA("good", nil)))
				time.AfterFunc(tc.answered, func() { a.state.says(tc.state) })
				a.run()
				if took := a.readyAfter(); took < tc.least || took > tc.most {
					t.Errorf("ready after %v", took)
				}
				if late := a.logged("Ready although"); (late == 1) != (tc.answered > warmFor) {
					t.Errorf("%d lines of log", late)
				}
				a.state.mu.Lock()
				a.state.known = false
				a.state.mu.Unlock()
				a.pass(time.Minute)
				if err := a.catalog.Ready(); err != nil {
					t.Errorf("not ready any more: %v", err)
				}
			})
		})
	}
}

func TestReadyAtOnceWithoutHPAs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.run()
		synctest.Wait()
		if took := a.readyAfter(); took > time.Second {
			t.Errorf("ready after %v", took)
		}
	})
}

func TestNotReadySaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		a.creates(hpaOf("shop", "worker", externalOfHPA("good", nil)))
		a.run()
		a.pass(time.Second)
		if err := a.catalog.Ready(); err == nil || !strings.Contains(err.Error(), "first time") {
			t.Errorf("got %v", err)
		}
	})
}

// A Pods metric is read of the pods that a selector finds, which have to be read as well,
// and stay read on a replica that nobody asks.
func TestReadyWhenThePodsAreRead(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "requests namespace pod", "hits namespace service")
		w.set(rules.File{Rules: []rules.Rule{custom(queryA, "")}})
		a := newAccess(w.t)
		a.catalog = w.Catalog
		a.watcher.catalog, w.objects.kind, w.hpas.kind = w.Catalog, objectKind, hpaKind
		pods := &fakePods{}
		a.watcher.planner, a.watcher.mapper, a.watcher.preparer = &fakePlanner{}, w.apis, pods
		a.state.says(answered(7))
		a.creates(hpaOf("shop", "by-name", objectMetric("v1", "Service", "front", "hits")))
		w.run()
		a.run()
		a.pass(time.Minute)
		if pods.asked > 0 {
			t.Error("pods are read that nobody selects")
		}
		a.creates(hpaOf("shop", "by-selector", podsMetric("requests", nil)))
		a.pass(10 * time.Minute)
		if pods.asked < 10 {
			t.Errorf("asked for %d times", pods.asked)
		}
	})
}

// slowPlanner takes its time, as one of ten thousand HPAs does.
type slowPlanner struct{ takes time.Duration }

func (p *slowPlanner) Update([]plan.Demand) []engine.Request {
	<-time.After(p.takes)
	return nil
}

func (*slowPlanner) External(*rules.Compiled, string, string, labels.Selector) (engine.Request, error) {
	return engine.Request{Source: "prometheus", Query: namedQuery("rule")}, nil
}

// slowPinner answers what is pinned after a second, ExternalMetrics at once.
type slowPinner struct {
	mu     sync.Mutex
	pinned map[string]time.Time
}

func (p *slowPinner) Pin(requests []engine.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range requests {
		if _, ok := p.pinned[r.Query.Key()]; !ok {
			p.pinned[r.Query.Key()] = time.Now()
		}
	}
}

func (p *slowPinner) Peek(r engine.Request) (engine.State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.pinned[r.Query.Key()]
	return engine.State{}, ok && (r.Source != "prometheus" || time.Since(at) > time.Second)
}

// Rules that are listed while a snapshot is being made count before the replica is ready.
func TestNotReadyBeforeWhatRulesMakeWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_ = w.apis.Refresh(t.Context())
		a := newAccess(t)
		pinner := &slowPinner{pinned: map[string]time.Time{}}
		a.watcher.pinner, a.watcher.peeker = pinner, pinner
		a.watcher.planner, a.watcher.mapper = &slowPlanner{200 * time.Millisecond}, w.apis
		a.catalog.setRules(&ruleSnapshot{any: true, unready: errors.New("not listed yet")})
		a.creates(hpaOf("shop", "worker", externalOfHPA("good", nil), externalOfHPA("ruled", nil)))
		a.run()
		for !a.catalog.load().synced {
			<-time.After(time.Millisecond)
		}
		a.watcher.Refresh() // Say, for an HPA that came.
		<-time.After(rebuildPause + 20*time.Millisecond)
		// The next snapshot is under way.
		a.catalog.setRules(&ruleSnapshot{any: true, external: map[string]*RuleMetric{"ruled": {Rule: &rules.Compiled{}, Series: "ruled"}}, externalNames: []string{"ruled"}})
		a.watcher.Refresh()
		took := a.readyAfter()
		pinner.mu.Lock()
		at, asked := pinner.pinned["rule"]
		pinner.mu.Unlock()
		if !asked || time.Since(at) < time.Second {
			t.Errorf("ready after %v, before what the rule makes was answered (asked: %v)", took, asked)
		}
	})
}

// namedQuery is a query by its text.
type namedQuery string

func (q namedQuery) Key() string   { return string(q) }
func (namedQuery) Backend() string { return "" }
