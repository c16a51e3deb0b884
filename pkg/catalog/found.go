package catalog

import (
	"maps"
	"slices"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// Found is what discovery knows of one rule.
type Found struct {
	Rule *rules.Compiled
	// Listed says that the series of the rule were listed, Series how many there were and
	// Names how many names they have.
	Listed        bool
	Series, Names int
	// Err is why the last listing failed, in the server's own words if it said anything.
	Err error
	// Custom and External are the metrics that the rule makes, sorted, those included that
	// a later rule of the same names wins.
	Custom   []CustomName
	External []string
	// Contested is how many series make no metric because another one of the rule makes it,
	// of which Example is one.
	Contested int
	Example   string
	// LeftOut is a series whose name metricsQuery cannot have, if there is one.
	LeftOut string
	// Unmapped are the overrides of the rule whose resources the API server does not have.
	Unmapped []rules.Unmapped
}

// Found is what is known of each rule, in the order of the file: first the rules, then the
// externalRules.
func (d *Discovery) Found() []Found {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Found
	for r := range allRules(d.set) {
		l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]
		f := Found{
			Rule: r, Listed: !l.success.IsZero(), Err: l.err,
			Series: l.inventory.series, Names: len(l.inventory.names),
		}
		if m := l.made[r]; m != nil {
			f.Custom = slices.SortedFunc(maps.Keys(m.custom), CustomName.compare)
			f.External = slices.Sorted(maps.Keys(m.external))
			f.Contested, f.Example, f.LeftOut, f.Unmapped = m.contested, m.example, m.word, m.unmapped
		}
		all = append(all, f)
	}
	return all
}

// Settled says whether the series of every rule were listed, or could not be, and so the
// resources of the Kubernetes API.
func (d *Discovery) Settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.listedOrFailed() && (d.mapped || d.mapErr != nil)
}
