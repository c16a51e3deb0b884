package rules

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Compiled is a Rule that was checked.
type Compiled struct {
	// ID tells rules apart in logs and self-metrics: "rules[0]", "externalRules[2]".
	ID string
	// Where is the rule's place in the file, such as "line 12".
	Where string
	// Server, Interval, MaxAge, ZeroForNoData and Share are the options, with the defaults
	// that need nothing but the file; MaxAge is zero if the rule has none.
	Server           string
	Interval, MaxAge time.Duration
	ZeroForNoData    bool
	Share            bool
	// SeriesQuery is what to ask /api/v1/series for.
	SeriesQuery string
	// Literal is the one name that the series of SeriesQuery can have; empty if there
	// may be several.
	Literal string

	// cannot remembers which names of series cannot stand where metricsQuery has them.
	cannot *memo[string, bool]

	naming   naming
	query    *query
	identity string
}

// CompiledResource are ResourceRules that were checked.
type CompiledResource struct {
	Server           string
	Interval, MaxAge time.Duration
	Share            bool
	CPU, Memory      *CompiledUsage
}

// CompiledUsage is a ResourceRule that was checked.
type CompiledUsage struct {
	// id is the rule's place in the file, such as "resourceRules.cpu".
	id string
	// containers or nodes is nil if the rule has no such query; then its identity is
	// empty.
	containers, nodes                 *query
	containersIdentity, nodesIdentity string
}

// Positions gives the line of a field of the file by its path, such as
// "rules[3].metricsQuery"; 0 if it is not known.
type Positions func(path string) int

// Compile checks the file, as far as that needs no server: regular expressions,
// templates, and the PromQL that they give, parsed by Prometheus' own parser. The error
// joins one per fault; each says line, rule, field, what is wrong and, where there is
// one, the cure. A nil line knows no lines.
func (f File) Compile(line Positions) (*Set, error) {
	c := &checker{line: line}
	set := &Set{
		Custom:   at{c, "rules"}.rules(f.Rules, at.customRule),
		External: at{c, "externalRules"}.rules(f.ExternalRules, at.externalRule),
		Resource: at{c, "resourceRules"}.resourceRules(f.ResourceRules),
	}
	if len(c.faults) > 0 {
		return nil, errors.Join(c.faults...)
	}
	set.identify()
	for _, warning := range c.warnings {
		set.Warnings = append(set.Warnings, warning.Error())
	}
	return set, nil
}

// Identity is equal for two rules that ask the same in the same way, wherever in
// whichever file they are: it does not depend on which series they are for, and on how
// those are called. It is no text to show.
func (c *Compiled) Identity() string { return c.identity }

// MetricName is what the metric of a series is called; false if the rule's filters
// leave the series out, or if it could not be asked: a name that is empty or no
// part of a URL, and a series whose name cannot stand where metricsQuery has it. The name
// may share the memory of series.
func (c *Compiled) MetricName(series string) (string, bool) {
	if c.cannotHave(series) {
		return "", false
	}
	return c.naming.metric(series)
}

// LeavesOut says whether MetricName leaves a series out that the rule's filters keep,
// because its name cannot stand where metricsQuery has it: a word or a number of PromQL,
// such as inf, or a name that PromQL takes only in quotes where there are none.
func (c *Compiled) LeavesOut(series string) bool {
	if !c.cannotHave(series) {
		return false
	}
	_, ok := c.naming.metric(series)
	return ok
}

const (
	// maxWord is how long words of PromQL may be, with some to spare: count_values has 12
	// bytes.
	maxWord = 24
	// maxQuoted is how long a name may be that PromQL takes only in quotes.
	maxQuoted = 256
	// someSeries is a name that is no word.
	someSeries = "some_series"
)

// cannotHave says whether the series' name cannot stand where metricsQuery has it.
func (c *Compiled) cannotHave(series string) bool {
	plain := validSeriesName(series)
	switch {
	case !c.query.template.uses.series || plain && (len(series) > maxWord || c.cannot == nil):
		return false
	case !plain && (len(series) > maxQuoted || !isQuotable(series)):
		return true
	}
	cannot, ok := c.cannot.get(series)
	if !ok {
		usual, parses := c.names(someSeries)
		names, stands := c.names(series)
		if cannot = parses && (!stands || !slices.Equal(names, usual)); !plain {
			cannot = cannot || !parses
		}
		c.cannot.put(strings.Clone(series), cannot)
	}
	return cannot
}

// isQuotable says whether a name between quotes of any kind is itself.
func isQuotable(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsPrint(r) || strings.ContainsRune("\"'`\\{}", r)
	})
}

// checkSeries refuses a series that MetricName leaves out for its name, unless that is plain:
// then the query cannot be parsed, which says more.
func (c *Compiled) checkSeries(series string) error {
	if validSeriesName(series) || !c.cannotHave(series) {
		return nil
	}
	return fmt.Errorf("the series name %q cannot be written as <<.Series>>: PromQL takes letters, digits, _ and : without quotes, and others between quotes only", series)
}

// names are whether each selector of metricsQuery is of that series, for an example; false
// if that is no PromQL, or if the name is part of something else, such as a regular
// expression in which its characters have a meaning.
func (c *Compiled) names(series string) (of []bool, ok bool) {
	args := &queryArgs{
		Series: series, LabelMatchers: `some_label="a"`, LabelValuesByName: map[string]string{"some_label": "a"},
		GroupBy: "some_label", GroupBySlice: []string{"some_label"},
	}
	text, err := c.query.template.render(args)
	if err != nil {
		return nil, false
	}
	expr, err := promQL.ParseExpr(text)
	if err != nil {
		return nil, false
	}
	for _, matchers := range parser.ExtractSelectors(expr) {
		is := false
		for _, m := range matchers {
			exact := m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value == series
			if !exact && !validSeriesName(series) && strings.Contains(m.Value, series) {
				return nil, false
			}
			is = is || exact
		}
		of = append(of, is)
	}
	return of, true
}

// LiteralMetric is the metric of a rule whose series have one name; false for other
// rules. It lets a metric serve before any discovery.
func (c *Compiled) LiteralMetric() (metric string, ok bool) {
	if c.Literal == "" {
		return "", false
	}
	return c.MetricName(c.Literal)
}

// Resources are the resources that a series with these label names has metrics for,
// each with whether the metric is asked within a namespace, in the order of the labels.
// Without overrides or template there are none. Labels that name no resource that the
// Mapper knows are left out.
func (c *Compiled) Resources(m Mapper, labelNames []string) []Resource {
	return c.query.labels.describes(m, labelNames)
}

// Resource is a resource that a series describes.
type Resource struct {
	schema.GroupResource

	// Namespaced says that the metric is read within a namespace: objects of the resource
	// have one, and the series has a label for it.
	Namespaced bool
}

// Describes says whether the rule can name a label for the resource, as Normalize gives
// it, so that it may be asked before its series were discovered.
func (c *Compiled) Describes(m Mapper, r schema.GroupResource) bool {
	_, ok := c.query.labels.label(m, r)
	return ok
}

// Unmapped are the overrides whose resources the API server does not have, by their
// labels; none before the Mapper is Known. What a template reads of a label may well be no
// resource, and is not among them.
func (c *Compiled) Unmapped(m Mapper) []Unmapped {
	if !m.Known() {
		return nil
	}
	var list []Unmapped
	for _, o := range c.query.labels.overrides {
		if _, _, ok := m.Normalize(o.resource); !ok {
			list = append(list, Unmapped{Label: o.label, Resource: o.resource})
		}
	}
	return list
}

// Unmapped is an override whose resource the API server does not have.
type Unmapped struct {
	// Label is the label of resources.overrides, Resource what it names there.
	Label    string
	Resource schema.GroupResource
}

func (u Unmapped) String() string {
	return fmt.Sprintf("resources.overrides has the label %q name %q, which the API server does not have (correct it, or create the CRD)", u.Label, u.Resource)
}

// Question is the PromQL for an Ask. Its error says what cannot be expressed.
func (c *Compiled) Question(m Mapper, a Ask) (Question, error) {
	q, err := Question{}, c.checkSeries(a.Series)
	if err == nil {
		q, err = c.query.question(m, a)
	}
	if err != nil {
		return Question{}, fmt.Errorf("%s: %w", c.ID, err)
	}
	return q, nil
}

// Shareable says whether a question of that series and resource in the wider scope
// gives each object the same value as the exact question; the error says why not. The
// names and the metric selector do not matter. Named means all wider scopes.
//
// A query in the wider scope may be rejected by the server where the exact one is not, as
// when two series of another object match where one has to.
func (c *Compiled) Shareable(m Mapper, a Ask) error {
	if err := cmp.Or(c.checkSeries(a.Series), c.query.shareable(m, a)); err != nil {
		return fmt.Errorf("%s: %w", c.ID, err)
	}
	return nil
}
