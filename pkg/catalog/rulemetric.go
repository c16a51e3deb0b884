package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// RuleMetric is a metric that a rule of the configuration makes of a series.
type RuleMetric struct {
	Rule *rules.Compiled
	// Series is the name of the series.
	Series string
}

// CustomName names a metric of custom.metrics.k8s.io.
type CustomName struct {
	// Resource is what the metric describes, as rules.Mapper.Normalize gives it.
	Resource schema.GroupResource
	// Namespaced says that it is read within a namespace.
	Namespaced bool
	Metric     string
}

// Custom is the metric of that name, or nil. It takes no lock.
func (c *Catalog) Custom(name CustomName) *RuleMetric { return c.load().rules.customMetric(name) }

// CustomNames are the names of all metrics that discovery found, sorted. The slice must
// not be written to, and is the same one until there are other names.
func (c *Catalog) CustomNames() []CustomName { return c.load().rules.customNames }

// Unmapped is what a rule would make of series if the API server had the resource that
// one of its overrides names.
type Unmapped struct {
	Rule *rules.Compiled
	rules.Unmapped
}

func (u Unmapped) String() string {
	rule := u.Rule.ID
	if u.Rule.Where != "" {
		rule += " (" + u.Rule.Where + ")"
	}
	return fmt.Sprintf("%s would make it of %q, which the API server does not have", rule, u.Resource.String())
}

// Unmapped are the rules that would make a custom metric of that name for resources that
// the API server does not have, in the order of the file. The slice must not be written to.
func (c *Catalog) Unmapped(metric string) []Unmapped { return c.load().rules.lost[metric] }

// ExternalRule is the external metric of that name that a rule makes, or nil. An
// ExternalMetric of the namespace comes before it: see External.
func (c *Catalog) ExternalRule(metric string) *RuleMetric { return c.load().rules.external[metric] }

// ResourceRules are the rules of metrics.k8s.io, or nil.
func (c *Catalog) ResourceRules() *rules.CompiledResource { return c.load().rules.resource }

// RulesReady is nil once the series of every rule were listed and the resources of the
// Kubernetes API are known, so that a name that the catalog does not have is one that no
// rule makes. Its error names the rules of which that is not known yet, and says why.
func (c *Catalog) RulesReady() error { return c.load().rules.unlisted }

// ruleSnapshot is what the rules make at one time. It is never changed.
type ruleSnapshot struct {
	// any says that there are rules.
	any   bool
	makes makes
	// generation is that of the resources: what a rule makes of a literal name depends on
	// them, and shows in no list.
	mapper     rules.Mapper
	generation uint64

	custom        map[CustomName]*ruleMetric
	customNames   []CustomName
	external      map[string]*RuleMetric
	externalNames []string
	resource      *rules.CompiledResource
	// literals are the custom metrics of rules with a literal series name, by their
	// names, in the order of the file.
	literals map[string][]literal
	// lost is what Catalog.Unmapped gives.
	lost map[string][]Unmapped

	// unlisted is the error of RulesReady. unready is why not even a first answer of
	// discovery is there.
	unlisted, unready error
}

// makes says which kinds of metrics rules make.
type makes struct{ custom, external bool }

// ruleMetric is a RuleMetric that discovery found, and its rule's place in the file.
type ruleMetric struct {
	RuleMetric

	place int
}

// literal is what a rule with a literal series name makes without any discovery.
type literal struct {
	*ruleMetric

	// listed says that discovery knows whether the series is there, and found that it
	// knows the series' labels.
	listed, found bool
}

// customMetric is what discovery found, or what a rule makes of a literal series name
// that discovery has not found. Of two rules the later counts, but not one whose series
// is known not to be there.
func (s *ruleSnapshot) customMetric(name CustomName) *RuleMetric {
	found := s.custom[name]
	for _, l := range slices.Backward(s.literals[name.Metric]) {
		switch {
		case l.found, found != nil && (l.listed || l.place < found.place):
		case s.describes(l.Rule, name):
			return &l.RuleMetric
		}
	}
	if found == nil {
		return nil
	}
	return &found.RuleMetric
}

func (s *ruleSnapshot) describes(r *rules.Compiled, name CustomName) bool {
	_, namespaced, ok := s.mapper.Normalize(name.Resource)
	return ok && namespaced == name.Namespaced && r.Describes(s.mapper, name.Resource)
}

// same says whether lookups give what they gave before.
func (s *ruleSnapshot) same(before *ruleSnapshot) bool {
	sameMetric := func(a, b *RuleMetric) bool { return *a == *b }
	sameFound := func(a, b *ruleMetric) bool { return *a == *b }
	sameLiterals := func(a, b []literal) bool {
		return slices.EqualFunc(a, b, func(a, b literal) bool {
			return *a.ruleMetric == *b.ruleMetric && a.listed == b.listed && a.found == b.found
		})
	}
	return s.resource == before.resource && s.any == before.any && s.generation == before.generation &&
		maps.EqualFunc(s.custom, before.custom, sameFound) &&
		maps.EqualFunc(s.external, before.external, sameMetric) &&
		maps.EqualFunc(s.literals, before.literals, sameLiterals)
}

func (n CustomName) compare(o CustomName) int {
	namespaced := 0
	switch {
	case n.Namespaced && !o.Namespaced:
		namespaced = 1
	case !n.Namespaced && o.Namespaced:
		namespaced = -1
	}
	return cmp.Or(
		cmp.Compare(n.Resource.Group, o.Resource.Group),
		cmp.Compare(n.Resource.Resource, o.Resource.Resource),
		cmp.Compare(n.Metric, o.Metric),
		namespaced,
	)
}
