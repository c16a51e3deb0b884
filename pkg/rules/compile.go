package rules

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
)

// DefaultInterval is that of rules without one.
const DefaultInterval = 15 * time.Second

const defaultServer = "default"

// Bounds of a file, besides those of its times.
const (
	maxRules     = 1000
	maxListed    = 100
	maxTextBytes = 16 << 10
	maxWindow    = 24 * time.Hour
)

// Names of an example, with which templates are tried.
const (
	sampleSeries    = "some_series"
	sampleNamespace = "some-namespace"
	sampleObject    = "some-object"
)

// checker collects what is wrong with a file.
type checker struct {
	line             Positions
	faults, warnings []error
}

// at is a place in the file.
type at struct {
	checker *checker
	path    string
}

func (a at) field(name string) at { return at{a.checker, a.path + "." + name} }

func (a at) index(i int) at { return at{a.checker, fmt.Sprintf("%s[%d]", a.path, i)} }

func (a at) fault(format string, args ...any) {
	a.checker.faults = append(a.checker.faults, a.say(format, args...))
}

func (a at) warn(format string, args ...any) {
	a.checker.warnings = append(a.checker.warnings, a.say(format, args...))
}

func (a at) say(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if where := a.where(); where != "" {
		return fmt.Errorf("%s: %s: %w", where, a.path, err)
	}
	return fmt.Errorf("%s: %w", a.path, err)
}

// where is the line of the place, or of what it is in if the file does not have it.
func (a at) where() string {
	if a.checker.line == nil {
		return ""
	}
	for path := a.path; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		if n := a.checker.line(path); n > 0 {
			return fmt.Sprintf("line %d", n)
		}
	}
	return ""
}

func (a at) text(text string) bool {
	if len(text) > maxTextBytes {
		a.fault("has %d bytes, of which at most %d are allowed", len(text), maxTextBytes)
		return false
	}
	return true
}

// rules compiles a list by the function for one of its rules.
func (a at) rules(list []Rule, rule func(at, Rule) *Compiled) []*Compiled {
	if len(list) > maxRules {
		a.fault("has %d rules, of which at most %d are allowed", len(list), maxRules)
		return nil
	}
	compiled := make([]*Compiled, len(list))
	for i, r := range list {
		compiled[i] = rule(a.index(i), r)
	}
	return compiled
}

func (a at) customRule(r Rule) *Compiled {
	c, labels := a.rule(r)
	if r.Resources.Template == "" && len(r.Resources.Overrides) == 0 {
		a.warn("makes no metric: it names no label of an object (set resources.template, or resources.overrides)")
		return c
	}
	if c.query != nil {
		a.field("metricsQuery").try(c.query, cmp.Or(c.Literal, sampleSeries), labels.samples())
	}
	return c
}

func (a at) externalRule(r Rule) *Compiled {
	c, labels := a.rule(r)
	if c.query != nil {
		c.query.external = true
		c.query.namespaced = r.Resources.Namespaced == nil || *r.Resources.Namespaced
		a.tryExternal(c.query, cmp.Or(c.Literal, sampleSeries), labels)
	}
	return c
}

// rule compiles what is the same for all rules. The result has no query if that is broken.
func (a at) rule(r Rule) (*Compiled, *resourceLabels) {
	c := &Compiled{
		cannot: newMemo[string, bool](maxRemembered),
		ID:     a.path, Where: a.where(),
		Server: cmp.Or(r.Server, defaultServer), Interval: cmp.Or(r.Interval, DefaultInterval), MaxAge: r.MaxAge,
		ZeroForNoData: r.NoData == "zero", Share: r.ShareQueries == nil || *r.ShareQueries,
	}
	a.options(r.Options)
	c.SeriesQuery, c.Literal = a.seriesQuery(r.SeriesQuery)
	c.naming = a.naming(r)
	labels := a.resources(r.Resources)
	if r.MetricsQuery == "" {
		a.field("metricsQuery").fault("is required (such as sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>))")
		return c, labels
	}
	if c.query = a.field("metricsQuery").query(r.MetricsQuery, labels); c.query == nil {
		return c, labels
	}
	switch _, ok := c.LiteralMetric(); {
	case c.Literal == "" || ok:
	case c.LeavesOut(c.Literal):
		a.warn("makes no metric: metricsQuery cannot have %s, the only series of seriesQuery, in the place of .Series (write {\"<<.Series>>\",<<.LabelMatchers>>} for a name with other characters than letters, digits, _ and :)", c.Literal)
	default:
		a.warn("makes no metric: its seriesFilters and name leave out %s, the only series of seriesQuery", c.Literal)
	}
	return c, labels
}

// options checks what does not depend on the servers and the defaults of the file.
func (a at) options(o Options) {
	interval := cmp.Or(o.Interval, DefaultInterval)
	if err := CheckInterval(interval); err != nil {
		a.field("interval").fault("%w", err)
	}
	if err := CheckMaxAge(cmp.Or(o.MaxAge, minMaxAge)); err != nil {
		a.field("maxAge").fault("%w", err)
	} else if o.MaxAge != 0 && o.MaxAge < interval {
		a.field("maxAge").fault("%v is shorter than the interval of %v, so that values would be gone before the next ones come", o.MaxAge, interval)
	}
	if o.NoData != "" && o.NoData != "error" && o.NoData != "zero" {
		a.field("noData").fault("%q is neither error nor zero", shorten(o.NoData))
	}
}

// seriesQuery checks the selector, and finds the one name that its series can have.
func (a at) seriesQuery(text string) (selector, literal string) {
	a = a.field("seriesQuery")
	if !a.text(text) {
		return "", ""
	}
	selector = strings.TrimSpace(text)
	if selector == "" {
		a.fault(`is required (such as {__name__=~"^http_.*",namespace!=""})`)
		return "", ""
	}
	matchers, err := promQL.ParseMetricSelector(selector)
	if err != nil {
		a.fault("is no series selector: %s (write a name, label matchers in braces, or both)", shorten(err.Error()))
		return selector, ""
	}
	// Prometheus refuses it
	// (https://prometheus.io/docs/prometheus/latest/querying/basics/#time-series-selectors).
	if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches("") }) {
		a.fault(`selects all series: every matcher also matches an empty label (add one that does not, such as namespace!="")`)
	}
	for _, m := range matchers {
		if m.Name != model.MetricNameLabel {
			continue
		}
		if m.Type == labels.MatchEqual && m.Value != "" {
			literal = m.Value
		} else if names := m.SetMatches(); m.Type == labels.MatchRegexp && len(names) == 1 {
			literal = names[0]
		}
	}
	return selector, literal
}

func (a at) naming(r Rule) naming {
	var n naming
	filters := a.field("seriesFilters")
	if len(r.SeriesFilters) > maxListed {
		filters.fault("has %d filters, of which at most %d are allowed", len(r.SeriesFilters), maxListed)
		return n
	}
	for i, f := range r.SeriesFilters {
		filters.index(i).filter(f, &n)
	}
	at := a.field("name").field("matches")
	if !at.text(r.Name.Matches) || !a.field("name").field("as").text(r.Name.As) {
		return n
	}
	matches, err := newMatches(r.Name)
	if err != nil {
		at.fault("%w", regexpError(err))
		return n
	}
	n.matches = matches
	if n.as, err = newAs(r.Name.As, matches); err != nil {
		a.field("name").field("as").fault("%w", err)
	}
	return n
}

func (a at) filter(f RegexFilter, n *naming) {
	if (f.Is == "") == (f.IsNot == "") {
		a.fault("needs one of is and isNot, not both (write two filters for both: all have to hold)")
		return
	}
	if field := a.field("is"); f.IsNot != "" {
		a = a.field("isNot")
	} else {
		a = field
	}
	pattern := f.Is + f.IsNot
	if !a.text(pattern) {
		return
	}
	regex, err := regexp.Compile(pattern)
	if err != nil {
		a.fault("%w", regexpError(err))
		return
	}
	n.filters = append(n.filters, filter{regex: regex, keeps: f.Is != ""})
}

func regexpError(err error) error {
	return fmt.Errorf("is no regular expression: %s (https://github.com/google/re2/wiki/Syntax)",
		strings.TrimPrefix(shorten(err.Error()), "error parsing regexp: "))
}

// resources is never nil; what is wrong is left out.
func (a at) resources(r Resources) *resourceLabels {
	a = a.field("resources")
	l := &resourceLabels{readings: newMemo[string, []schema.GroupResource](maxRemembered)}
	if at := a.field("template"); r.Template != "" && at.text(r.Template) {
		t, err := newLabelTemplate(r.Template)
		if err != nil {
			at.fault("%w%s", err, cure(err, "it may use .Group and .Resource, such as kube_<<.Group>>_<<.Resource>>"))
		}
		l.template = t
	}
	a = a.field("overrides")
	if len(r.Overrides) > maxListed {
		a.fault("has %d labels, of which at most %d are allowed", len(r.Overrides), maxListed)
		return l
	}
	for _, label := range slices.Sorted(maps.Keys(r.Overrides)) {
		to := r.Overrides[label]
		switch at := a.field(label); {
		case !validLabelName(label):
			a.fault("%q is no Prometheus label name (letters, digits and _, not starting with a digit)", shorten(label))
		case to.Resource == "":
			at.fault("names no resource (write {resource: pod}, for example)")
		default:
			l.overrides = append(l.overrides, override{label, schema.GroupResource{Group: to.Group, Resource: to.Resource}})
		}
	}
	return l
}

func (a at) query(text string, l *resourceLabels) *query {
	if !a.text(text) {
		return nil
	}
	q, err := newQuery(a.path[strings.LastIndexByte(a.path, '.')+1:], text, l)
	if err != nil {
		a.fault("%w", err)
		return nil
	}
	return q
}

// samples are the labels of objects with which templates are tried. What they name is
// known for sure only to the API server.
func (l *resourceLabels) samples() []target {
	namespace := l.sampleNamespace()
	var list []target
	add := func(object string) {
		t := target{object: object}
		if object != namespace {
			t.namespace = namespace
		}
		list = append(list, t)
	}
	for _, o := range l.overrides {
		add(o.label)
	}
	if l.template != nil {
		for _, r := range []schema.GroupResource{{Resource: "pod"}, {Group: "apps", Resource: "deployment"}} {
			if label, ok := l.template.label(r.Group, r.Resource); ok {
				add(label)
			}
		}
	}
	return list
}

func (l *resourceLabels) sampleNamespace() string { return l.sample(namespaces, "namespace") }

// sample is the label of a resource, as far as the file says it by itself.
func (l *resourceLabels) sample(r schema.GroupResource, singular string) string {
	for _, o := range l.overrides {
		if isSaid(o.resource, r, singular) {
			return o.label
		}
	}
	if l.template == nil {
		return ""
	}
	label, _ := l.template.label(r.Group, singular)
	return label
}

// isSaid says whether a name in the file can only mean the resource.
func isSaid(name, resource schema.GroupResource, singular string) bool {
	said := strings.ToLower(name.Resource)
	return name.Group == resource.Group && (said == resource.Resource || said == singular)
}

// try looks whether the template gives PromQL for the objects of at least one of the
// targets: it may have been written for one kind only.
func (a at) try(q *query, series string, targets []target) {
	var first error
	for _, t := range targets {
		err := q.try(input{target: t, series: series, in: sampleNamespace})
		if err == nil || q.isElsewhere(err) {
			return
		}
		first = cmp.Or(first, err)
	}
	if first != nil {
		a.broken(first)
	}
}

// tryExternal looks whether the template gives PromQL with a metric selector. Without
// one it need not, unless there is always the matcher of the namespace.
func (a at) tryExternal(q *query, series string, labels *resourceLabels) {
	in := input{series: series, in: sampleNamespace}
	if q.namespaced {
		in.namespace = labels.sampleNamespace()
		if in.namespace == "" {
			in.namespace = "namespace"
			a.warn("cannot be read, since no label names the namespace of the reader " +
				"(add it to resources.overrides, or set resources.namespaced: false if the metric belongs to no namespace)")
		}
	}
	a = a.field("metricsQuery")
	errAlone := q.tryValues(in)
	in.requirements = sampleSelector
	err := q.tryValues(in)
	switch {
	case q.isElsewhere(errAlone) || q.isElsewhere(err):
	case err != nil:
		a.broken(err)
	case errAlone != nil && q.namespaced:
		a.broken(errAlone)
	case errAlone != nil:
		a.warn("%w", inner(errAlone))
	}
}

// broken reports what a template gave.
func (a at) broken(err error) {
	err = inner(err)
	if errors.Is(err, errNoPromQL) {
		a.fault("%w (its labels are examples)", err)
		return
	}
	a.fault("%w%s", err, cure(err, "it may use .Series, .LabelMatchers, .LabelValuesByName, .GroupBy and .GroupBySlice"))
}

// inner is an error of query.ask without the name of the field.
func inner(err error) error { return cmp.Or(errors.Unwrap(err), err) }

// cure is what to do about fields that do not exist.
func cure(err error, fields string) string {
	if strings.Contains(err.Error(), "can't evaluate field") {
		return " (" + fields + ")"
	}
	return ""
}

// isElsewhere says that a template has no query for the example, and may have one for
// the real thing.
func (q *query) isElsewhere(err error) bool {
	return q.template.parts == nil && errors.Is(err, errEmptyQuery)
}

var sampleSelector = []requirement{{key: "some_label", operator: selection.In, values: []string{"a", "b"}}}

func (q *query) try(in input) error {
	one, many := []string{sampleObject}, []string{sampleObject, "other-object"}
	for _, each := range []struct {
		names    []string
		selector []requirement
	}{{one, nil}, {many, nil}, {one, sampleSelector}} {
		in.names, in.requirements = each.names, each.selector
		if err := q.tryValues(in); err != nil {
			return err
		}
	}
	return nil
}

// tryValues tries a word and a number as the values of labels that a metric selector
// may have.
func (q *query) tryValues(in input) error {
	in.unknownValue = "some-value"
	_, _, err := q.ask(in)
	if err == nil || !q.template.uses.values {
		return err
	}
	in.unknownValue = "1"
	if _, _, err := q.ask(in); err == nil {
		return nil
	}
	return err
}
