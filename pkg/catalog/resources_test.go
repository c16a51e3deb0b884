package catalog

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// gadgets has an override for a resource that no apis has before it is created.
func gadgets() rules.Rule {
	rule := custom(queryA, "")
	rule.Resources.Overrides = map[string]rules.GroupResource{"gadget": {Resource: "gadget"}}
	return rule
}

func TestCreatedResourceIsKnownSoonWhileARuleLacksOne(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a gadget namespace")
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.pass(3 * time.Minute)
		w.want(w.apis.refreshes(), 1) // No rule lacks one: not before the next round.
		w.set(customRules(gadgets()))
		w.pass(time.Minute)
		if n := w.apis.refreshes(); n < 5 || n > 7 {
			t.Errorf("%d refreshes in a minute", n)
		}
		w.changed()
		w.apis.creates("Gadget")
		w.pass(lackingRefresh)
		w.want(w.names(), "gadgets/a=a root:namespaces/a=a")
		w.want(len(w.discovery.Troubles()), 0)
		w.want(w.changed(), 1)
		w.apis.refreshes()
		w.pass(relist)
		w.want(w.apis.refreshes(), 1)
	})
}

// The API server may be away just then.
func TestFailedRefreshesAreNoMoreWhileARuleLacksAResource(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a gadget namespace")
		w.set(customRules(gadgets()))
		w.run()
		w.apis.mu.Lock()
		w.apis.err = errors.New("connection refused")
		w.apis.mu.Unlock()
		w.apis.refreshes()
		w.pass(relist)
		if n := w.apis.refreshes(); n > int(relist/lackingRefresh)+1 {
			t.Errorf("%d refreshes in %v", n, relist)
		}
		w.want(w.names(), "root:namespaces/a=a")
	})
}

// A read that misses a resource has the mapper learn it.
func TestResourcesThatSomebodyElseLearnedCount(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a widget namespace")
		w.set(customRules(custom(queryA, ""), custom("literal", "")))
		w.run()
		w.pass(time.Minute)
		w.changed()
		w.want(w.custom("widgets", "literal"), "none")
		w.apis.creates("Widget")
		if err := w.apis.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.pass(watchPause)
		w.want(w.names(), "root:namespaces/a=a widgets/a=a")
		w.want(w.custom("widgets", "literal"), "rules[1] literal")
		w.want(w.changed(), 1)
	})
}

// It may be the first who learned them.
func TestFirstResourcesThatSomebodyElseLearnedCount(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.hangs(true)
		w.servers.lists(queryA, "a pod namespace")
		w.set(customRules(gadgets()))
		if err := w.apis.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.apis.mu.Lock()
		w.apis.err = errors.New("connection refused")
		w.apis.mu.Unlock()
		w.run()
		w.want(w.RulesReady(), nil)
		w.want(w.Custom(CustomName{Resource: schema.GroupResource{Resource: "pods"}, Namespaced: true, Metric: "a"}) != nil, true)
	})
}

// The second attempt must find what the first would have: the trouble is another.
func TestPanicLeavesWhatIsLacking(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a gadget namespace")
		w.set(customRules(gadgets()))
		w.run()
		w.pass(time.Minute)
		state := func() string {
			w.discovery.mu.Lock()
			defer w.discovery.mu.Unlock()
			return fmt.Sprint(w.discovery.lacking, w.discovery.told)
		}
		before, told := state(), w.troubled()
		w.want(len(w.discovery.Troubles()), 1)
		func() {
			defer func() { w.want(recover(), "a fault of the program") }()
			w.discovery.update(func() bool {
				w.discovery.lacking, w.discovery.told = nil, map[string]bool{"other": true}
				panic("a fault of the program")
			})
		}()
		w.want(state(), before)
		w.pass(2 * relist)
		w.want(w.troubled(), told)
	})
}
