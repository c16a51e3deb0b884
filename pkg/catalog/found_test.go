package catalog

import "testing"

func TestFoundSaysWhatEachRuleMakes(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "one namespace pod", "two namespace pod", "two namespace service")
		w.servers.fails(queryB, "away")
		w.set(customRules(custom(queryA, ""), custom(queryB, "")))
		w.want(w.discovery.Settled(), false)
		w.run()
		w.want(w.discovery.Settled(), true)
		found := w.discovery.Found()
		if len(found) != 2 {
			t.Fatalf("got %d rules, want 2", len(found))
		}
		a, b := found[0], found[1]
		w.want(a.Rule.ID, "rules[0]")
		w.want(a.Listed, true)
		w.want(a.Series, 3)
		w.want(a.Names, 2)
		w.want(a.Err, nil)
		w.want(a.Custom, "[{namespaces false one} {namespaces false two} {pods true one} {pods true two} {services true two}]")
		w.want(b.Listed, false)
		w.want(b.Err, "away")
	})
}
