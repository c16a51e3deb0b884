package catalog

import (
	"fmt"
	"iter"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/spelling"
)

const (
	// maxEdits is how many letters a name that is suggested may have other than the one
	// that was asked for, which has to have lettersPerEdit letters for each.
	maxEdits       = 3
	lettersPerEdit = 4
	// maxSuggested is how long a name may be of which another one is looked for.
	maxSuggested = 256
)

// SuggestExternal asks whether an external metric of the namespace was meant by the name of
// none, for the end of an error's text; it is empty if no name is near.
func (c *Catalog) SuggestExternal(name types.NamespacedName) string {
	return suggest(name.Name, func(yield func(string) bool) {
		for _, n := range c.ExternalNames() {
			there := c.ExternalRule(n) != nil || c.External(types.NamespacedName{Namespace: name.Namespace, Name: n}) != nil
			if there && !yield(n) {
				return
			}
		}
	})
}

// SuggestCustom is as SuggestExternal, for the metrics of the name's resource.
func (c *Catalog) SuggestCustom(name CustomName) string {
	return suggest(name.Metric, func(yield func(string) bool) {
		for _, n := range c.CustomNames() {
			if n.Resource == name.Resource && n.Namespaced == name.Namespaced && !yield(n.Metric) {
				return
			}
		}
	})
}

// suggest asks whether the nearest of the known names was meant by a name that is none of
// them; it is empty if none is near.
func suggest(name string, known iter.Seq[string]) string {
	if len(name) > maxSuggested {
		return ""
	}
	nearest, least := "", min(maxEdits, len(name)/lettersPerEdit)+1
	for k := range known {
		if edits := spelling.Distance(name, k, least); edits < least {
			nearest, least = k, edits
		}
	}
	if nearest == "" {
		return ""
	}
	return fmt.Sprintf(" (is it %s that is meant?)", nearest)
}
