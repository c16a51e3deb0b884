package catalog

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/engine"
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
