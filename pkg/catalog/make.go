package catalog

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// made is what one rule makes of the series that are known.
type made struct {
	custom   map[CustomName]pick
	external map[string]pick
	// found says that there is a series of the rule.
	found bool
	// contested counts the series that another one of the rule keeps from making a
	// metric, and gives an example.
	contested int
	example   string
	// word is a series that is left out because metricsQuery cannot have its name, if there is
	// one.
	word string
	// unmapped are the overrides of the rule whose resources the API server does not have,
	// and lost the metrics that those would make.
	unmapped []rules.Unmapped
	lost     map[string][]rules.Unmapped
}

// pick is the series that makes a metric.
type pick struct {
	series string
	// missing says that the last listing did not find it.
	missing bool
}

// better says whether p is to be preferred to o: of the series there are the one whose
// name is last in the alphabet, so that it is always the same.
func (p pick) better(o pick) bool {
	if p.missing != o.missing {
		return o.missing
	}
	return p.series > o.series
}

// allRules are the rules that have series: those of the custom metrics, then those of
// the external ones.
func allRules(set *rules.Set) iter.Seq[*rules.Compiled] {
	return func(yield func(*rules.Compiled) bool) {
		for _, of := range [][]*rules.Compiled{set.Custom, set.External} {
			for _, r := range of {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// customOf is what a rule of custom metrics makes of an inventory.
func customOf(r *rules.Compiled, m rules.Mapper, known *inventory) *made {
	out := &made{custom: map[CustomName]pick{}, unmapped: r.Unmapped(m), lost: map[string][]rules.Unmapped{}}
	resources := map[*labelSet][]rules.Resource{}
	for series, sightings := range known.names {
		metric, ok := r.MetricName(series)
		if !ok {
			out.leaveOut(r, series)
			continue
		}
		for _, s := range sightings {
			out.lose(metric, s.set.names)
			described, ok := resources[s.set]
			if !ok {
				described = r.Resources(m, s.set.names)
				resources[s.set] = described
			}
			for _, resource := range described {
				name := CustomName{resource.GroupResource, resource.Namespaced, metric}
				choose(out, out.custom, name, metric, pick{series, !s.missing.IsZero()})
			}
		}
	}
	return out
}

// leaveOut notes a series of which there is no metric.
func (m *made) leaveOut(r *rules.Compiled, series string) {
	if r.LeavesOut(series) {
		m.word = max(m.word, series)
	}
}

// lose notes the resources that a series with these label names describes, and the API
// server does not have.
func (m *made) lose(metric string, labelNames []string) {
	for _, u := range m.unmapped {
		if slices.Contains(labelNames, u.Label) && !slices.Contains(m.lost[metric], u) {
			m.lost[metric] = append(m.lost[metric], u)
		}
	}
}

// externalOf is what a rule of external metrics makes of an inventory.
func externalOf(r *rules.Compiled, m rules.Mapper, known *inventory) *made {
	out := &made{external: map[string]pick{}, unmapped: r.Unmapped(m)}
	for series, sightings := range known.names {
		metric, ok := r.MetricName(series)
		if !ok {
			out.leaveOut(r, series)
			continue
		}
		missing := !slices.ContainsFunc(sightings, func(s sighting) bool { return s.missing.IsZero() })
		choose(out, out.external, metric, metric, pick{series, missing})
	}
	return out
}

// choose lets the better of two series make the metric of that key.
func choose[K comparable](out *made, metrics map[K]pick, key K, metric string, p pick) {
	out.found = true
	other, taken := metrics[key]
	if taken && other.series != p.series {
		out.contested++
		out.example = max(out.example, metric)
	}
	if !taken || p.better(other) {
		metrics[key] = p
	}
}

// snapshot is what the rules make of what is known. It holds d.mu.
func (d *Discovery) snapshot() *ruleSnapshot {
	b := builder{
		snapshot: &ruleSnapshot{
			any:        d.any(),
			makes:      makes{custom: len(d.set.Custom) > 0, external: len(d.set.External) > 0},
			mapper:     d.opts.Mapper,
			generation: d.generation,
			custom:     map[CustomName]*ruleMetric{},
			external:   map[string]*RuleMetric{},
			resource:   d.set.Resource,
			literals:   map[string][]literal{},
			lost:       map[string][]Unmapped{},
		},
		overlaps: map[[2]string]*overlap{},
	}
	for place, r := range d.set.Custom {
		l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]
		if l.made[r] == nil {
			l.made[r] = customOf(r, d.opts.Mapper, l.inventory)
		}
		b.custom(r, place, l)
	}
	for _, r := range d.set.External {
		l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]
		if l.made[r] == nil {
			l.made[r] = externalOf(r, d.opts.Mapper, l.inventory)
		}
		b.external(r, l)
	}
	s := b.snapshot
	s.customNames = slices.SortedFunc(maps.Keys(s.custom), CustomName.compare)
	s.externalNames = slices.Sorted(maps.Keys(s.external))
	s.unlisted = d.unlisted()
	if s.any && !d.started {
		switch {
		case !d.listedOrFailed():
			s.unready = errNotListed
		case !d.mapped:
			s.unready = d.notMapped()
		default:
			d.started = true
		}
	}
	d.prune()
	d.noteUnmapped()
	d.tell(b.overlaps)
	return s
}

// prune drops what rules made that are gone.
func (d *Discovery) prune() {
	there := map[*rules.Compiled]bool{}
	for r := range allRules(d.set) {
		there[r] = true
	}
	for _, l := range d.queries {
		maps.DeleteFunc(l.made, func(r *rules.Compiled, _ *made) bool { return !there[r] })
	}
}

// builder puts together what the rules make, one by one in the order of the file.
type builder struct {
	snapshot *ruleSnapshot
	overlaps map[[2]string]*overlap
}

// overlap is what a rule makes and a later one takes from it.
type overlap struct {
	metrics int
	example string
}

// custom takes in what the rule at that place makes.
func (b *builder) custom(r *rules.Compiled, place int, l *listed) {
	for name, p := range l.made[r].custom {
		if other := b.snapshot.custom[name]; other != nil {
			b.overlap(other.Rule, r, name.Metric)
		}
		b.snapshot.custom[name] = &ruleMetric{RuleMetric{r, p.series}, place}
	}
	for metric, lost := range l.made[r].lost {
		for _, u := range lost {
			b.snapshot.lost[metric] = append(b.snapshot.lost[metric], Unmapped{r, u})
		}
	}
	if metric, ok := r.LiteralMetric(); ok {
		b.snapshot.literals[metric] = append(b.snapshot.literals[metric], literal{
			ruleMetric: &ruleMetric{RuleMetric{r, r.Literal}, place},
			listed:     !l.success.IsZero(),
			found:      l.made[r].found,
		})
	}
}

// external takes in what the rule makes. One with a literal name makes its metric before any
// discovery, and where there is no other even if the series is known not to be there.
func (b *builder) external(r *rules.Compiled, l *listed) {
	for metric, p := range l.made[r].external {
		if other := b.snapshot.external[metric]; other != nil {
			b.overlap(other.Rule, r, metric)
		}
		b.snapshot.external[metric] = &RuleMetric{r, p.series}
	}
	metric, ok := r.LiteralMetric()
	if !ok || l.made[r].found {
		return
	}
	if b.snapshot.external[metric] == nil || l.success.IsZero() {
		b.snapshot.external[metric] = &RuleMetric{r, r.Literal}
	}
}

func (b *builder) overlap(loser, winner *rules.Compiled, metric string) {
	pair := [2]string{loser.ID, winner.ID}
	o := b.overlaps[pair]
	if o == nil {
		o = &overlap{}
		b.overlaps[pair] = o
	}
	o.metrics++
	o.example = max(o.example, metric)
}

// tell logs the overlaps that are new.
func (d *Discovery) tell(overlaps map[[2]string]*overlap) {
	told := map[string]bool{}
	once := func(key string, log func()) {
		if !d.told[key] && !told[key] {
			log()
		}
		told[key] = true
	}
	for pair, o := range overlaps {
		once(pair[0]+" "+pair[1], func() {
			d.log.Info("A later rule makes metrics of the same names, and wins", "rule", pair[1], "loser", pair[0],
				"metrics", o.metrics, "example", o.example)
		})
	}
	for _, l := range d.queries {
		for r, m := range l.made {
			if m.word != "" {
				once(r.ID+" word", func() {
					d.log.Info("Leaving out series whose names metricsQuery cannot have in the place of .Series: words of PromQL, or names that it takes only in quotes", "rule", r.ID, "example", m.word)
				})
			}
			if m.contested == 0 {
				continue
			}
			once(r.ID, func() {
				d.log.Info("Several series of a rule make one metric; of those that are there, the last in the alphabet is read",
					"rule", r.ID, "series", m.contested, "example", m.example)
			})
		}
	}
	d.told = told
}

// listedOrFailed says whether every query was listed or failed.
func (d *Discovery) listedOrFailed() bool {
	for _, l := range d.queries {
		if l.succeeded+l.failed == 0 {
			return false
		}
	}
	return true
}

// maxNamed is how many rules an error names.
const maxNamed = 3

// unlisted is the error of Catalog.RulesReady. A rule with a literal name makes no
// metric but the one that is known.
func (d *Discovery) unlisted() error {
	var rest []string
	var first *listed
	for r := range allRules(d.set) {
		l := d.queries[seriesQuery{r.Server, r.SeriesQuery}]
		if _, literal := r.LiteralMetric(); literal || !l.success.IsZero() {
			continue
		}
		if first == nil {
			first = l
		}
		rest = append(rest, r.ID)
	}
	switch {
	case first != nil:
		ids := strings.Join(rest[:min(len(rest), maxNamed)], ", ")
		if more := len(rest) - maxNamed; more > 0 {
			ids += fmt.Sprintf(" and %d more", more)
		}
		err := fmt.Errorf("%w: %s", errNotListed, ids)
		if first.err != nil {
			err = fmt.Errorf("%w: server %s: %w", err, first.server, first.err)
		}
		return err
	case d.any() && !d.mapped:
		return d.notMapped()
	}
	return nil
}

// any says whether there are rules.
func (d *Discovery) any() bool {
	return len(d.set.Custom)+len(d.set.External) > 0 || d.set.Resource != nil
}

// notMapped is the error while the API's resources are not known, by which every rule
// turns labels into objects and their namespaces.
func (d *Discovery) notMapped() error {
	if d.mapErr != nil {
		return fmt.Errorf("%w: %w", rules.ErrNotReady, d.mapErr)
	}
	return rules.ErrNotReady
}
