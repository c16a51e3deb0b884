package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// shareable says whether a question of wider scope gives each object the same value as
// the exact question. Named stands for every wider scope.
func (q *query) shareable(m Mapper, a Ask) error {
	scopes := []Scope{a.Scope}
	if a.Scope == Named {
		scopes = []Scope{Namespace, Cluster}
	}
	for _, a.Scope = range scopes {
		if err := q.shareableIn(m, a); err != nil {
			return err
		}
	}
	return nil
}

func (q *query) shareableIn(m Mapper, a Ask) error {
	if q.external {
		return errors.New("an external metric is of no objects")
	}
	if err := q.check(a); err != nil {
		return err
	}
	t, err := q.target(m, a)
	if err != nil {
		return err
	}
	if q.template.uses.computes {
		return errors.New("metricsQuery does more with .LabelMatchers than to write it into the query")
	}
	key := shape{target: t, series: a.Series, scope: a.Scope}
	if known, ok := q.shared.get(key); ok {
		return known
	}
	err = q.compare(t, a)
	q.shared.put(key, err)
	return err
}

// compare makes the exact and the wide query of the same series, and looks whether they
// give an object the same. Neither the objects' names nor the metric selector matter:
// they are written where .LabelMatchers stands, and nowhere else.
func (q *query) compare(t target, a Ask) error {
	exact := input{target: t, series: a.Series, in: sampleNamespace, names: []string{sampleObject}}
	wide := input{target: t, series: a.Series, in: sampleNamespace, scope: a.Scope}
	s := &sharing{keep: []string{t.object}}
	if a.Scope == Cluster && t.namespace != "" {
		s.extra = t.namespace
		s.keep = append(s.keep, t.namespace)
	}
	exactExpr, err := q.expression(exact)
	if err != nil {
		return err
	}
	wideExpr, err := q.expression(wide)
	if err != nil {
		return fmt.Errorf("for many objects: %w", err)
	}
	if s.exact, err = exact.changing(s.extra); err != nil {
		return err
	}
	if s.wide, err = wide.changing(s.extra); err != nil {
		return err
	}
	return s.compare(exactExpr, wideExpr)
}

func (q *query) expression(in input) (parser.Expr, error) {
	text, _, err := q.ask(in)
	if err != nil {
		return nil, err
	}
	return promQL.ParseExpr(text)
}

// changing are the matchers that differ between the exact and the wide query, sorted:
// that of the objects, and that of their namespace if the wide query is about all of them.
func (in *input) changing(extra string) ([]string, error) {
	list, err := in.matchers()
	if err != nil {
		return nil, err
	}
	if extra == "" {
		list = list[len(list)-1:]
	}
	text, err := writeMatchers(list)
	if err != nil {
		return nil, err
	}
	parsed, err := promQL.ParseMetricSelector("{" + text + "}")
	if err != nil {
		return nil, err
	}
	return sortedMatchers(parsed), nil
}

func sortedMatchers(list []*labels.Matcher) []string {
	texts := make([]string, len(list))
	for i, m := range list {
		texts[i] = m.String()
	}
	slices.Sort(texts)
	return texts
}

// sharing compares the exact query of some objects with a wide one of all. The wide one
// gives an object the same value if its samples go through the query without ever
// meeting those of another object: then taking all objects in, and picking one at the
// end, is the same as picking it first.
//
// The wide query may be rejected where the exact one is not, such as when two
// other objects have the same series twice. That gives no wrong value.
type sharing struct {
	// exact and wide are the matchers that differ.
	exact, wide []string
	// keep are the labels that tell the objects apart in the wide query.
	keep []string
	// extra is the label that is only in the wide query's .GroupBy: that of the
	// namespace, if the query is about all of them. In the exact query all samples of the
	// objects are of one namespace, so that they need no label for it.
	extra string
}

// partOfQuery is what is known of a part of the query.
type partOfQuery struct {
	// asked says that it depends on which objects are asked for. Its samples carry the
	// labels of keep then, or are of no object.
	asked bool
	// bare says that its samples lack the label extra in the exact query, and have it in
	// the wide one.
	bare bool
}

func (s *sharing) compare(exact, wide parser.Expr) error {
	part, err := s.walk(exact, wide)
	switch {
	case err != nil:
		return err
	case !part.asked:
		return errors.New("no selector of metricsQuery has <<.LabelMatchers>>")
	case exact.String() != wide.String():
		// The walk made the parts that may differ equal.
		return errors.New("metricsQuery uses <<.GroupBy>> also for series that are not selected by <<.LabelMatchers>>")
	}
	return nil
}

var errOtherStructure = errors.New("metricsQuery gives another query for one object than for many")

// walk compares a part of both queries. It makes equal in the wide one what may differ.
func (s *sharing) walk(exact, wide parser.Expr) (partOfQuery, error) {
	switch w := wide.(type) {
	case *parser.VectorSelector:
		if e, ok := exact.(*parser.VectorSelector); ok {
			return s.selector(e, w)
		}
	case *parser.MatrixSelector:
		if e, ok := exact.(*parser.MatrixSelector); ok {
			return s.walk(e.VectorSelector, w.VectorSelector)
		}
	case *parser.SubqueryExpr:
		if e, ok := exact.(*parser.SubqueryExpr); ok {
			return s.walk(e.Expr, w.Expr)
		}
	case *parser.ParenExpr:
		if e, ok := exact.(*parser.ParenExpr); ok {
			return s.walk(e.Expr, w.Expr)
		}
	case *parser.UnaryExpr:
		if e, ok := exact.(*parser.UnaryExpr); ok {
			return s.walk(e.Expr, w.Expr)
		}
	case *parser.AggregateExpr:
		if e, ok := exact.(*parser.AggregateExpr); ok {
			return s.aggregation(e, w)
		}
	case *parser.BinaryExpr:
		if e, ok := exact.(*parser.BinaryExpr); ok {
			return s.binary(e, w)
		}
	case *parser.Call:
		if e, ok := exact.(*parser.Call); ok {
			return s.call(e, w)
		}
	case *parser.NumberLiteral, *parser.StringLiteral:
		return partOfQuery{}, nil
	}
	return partOfQuery{}, errOtherStructure
}

func (s *sharing) selector(exact, wide *parser.VectorSelector) (partOfQuery, error) {
	inExact, inWide := sortedMatchers(exact.LabelMatchers), sortedMatchers(wide.LabelMatchers)
	if slices.Equal(inExact, inWide) {
		return partOfQuery{}, nil
	}
	if !slices.Equal(without(inExact, inWide), s.exact) || !slices.Equal(without(inWide, inExact), s.wide) {
		return partOfQuery{}, fmt.Errorf("the selector %s has only a part of <<.LabelMatchers>>, or has it twice", wide)
	}
	wide.LabelMatchers = exact.LabelMatchers
	return partOfQuery{asked: true}, nil
}

// without is what is left of a sorted list when the elements of another were taken away,
// each once.
func without(list, others []string) []string {
	var left []string
	for _, text := range list {
		if len(others) > 0 {
			if i, found := slices.BinarySearch(others, text); found {
				others = slices.Delete(slices.Clone(others), i, i+1)
				continue
			}
		}
		left = append(left, text)
	}
	return left
}

func (s *sharing) aggregation(exact, wide *parser.AggregateExpr) (partOfQuery, error) {
	part, err := s.walk(exact.Expr, wide.Expr)
	if err != nil {
		return part, err
	}
	if (exact.Param == nil) != (wide.Param == nil) || exact.Without != wide.Without {
		return part, errOtherStructure
	}
	if wide.Param != nil {
		if _, err := s.walk(exact.Param, wide.Param); err != nil {
			return part, err
		}
	}
	if !part.asked {
		return part, nil
	}
	if err := s.grouping(exact, wide); err != nil {
		return part, err
	}
	wide.Grouping = exact.Grouping
	switch wide.Op {
	case parser.LIMITK:
		return part, errors.New("limitk takes any series, which need not be the same ones in another query")
	case parser.LIMIT_RATIO:
		if part.bare {
			return part, errors.New("limit_ratio chooses by all labels, of which a query of all namespaces has more")
		}
		fallthrough
	case parser.TOPK, parser.BOTTOMK:
		return part, nil // The samples keep their labels.
	case parser.COUNT_VALUES:
		if label, ok := literal(wide.Param); !ok || slices.Contains(s.keep, label) {
			return part, fmt.Errorf("count_values replaces the label %s", label)
		}
	}
	if !wide.Without && s.extra != "" && !slices.Contains(exact.Grouping, s.extra) {
		part.bare = true
	}
	return part, nil
}

// grouping looks whether an aggregation brings samples of several objects together.
func (s *sharing) grouping(exact, wide *parser.AggregateExpr) error {
	if wide.Without {
		if i := slices.IndexFunc(s.keep, func(l string) bool { return slices.Contains(wide.Grouping, l) }); i >= 0 {
			return fmt.Errorf("%s drops the label %s, and so takes objects together", wide.Op, s.keep[i])
		}
		if !sameSet(exact.Grouping, wide.Grouping) {
			return errOtherStructure
		}
		return nil
	}
	for _, label := range s.keep {
		if !slices.Contains(wide.Grouping, label) {
			return fmt.Errorf("%s does not group by the label %s (as <<.GroupBy>> does), and so takes objects together", wide.Op, label)
		}
	}
	if !s.sameButExtra(exact.Grouping, wide.Grouping) {
		return errOtherStructure
	}
	return nil
}

// sameButExtra says that lists hold the same, or the wide one has the label extra more.
func (s *sharing) sameButExtra(exact, wide []string) bool {
	return sameSet(exact, wide) || s.extra != "" && !slices.Contains(exact, s.extra) && sameSet(append(slices.Clone(exact), s.extra), wide)
}

func sameSet(a, b []string) bool {
	in := func(list []string) func(string) bool { return func(s string) bool { return !slices.Contains(list, s) } }
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

func literal(expr parser.Expr) (string, bool) {
	for {
		switch e := expr.(type) {
		case *parser.ParenExpr:
			expr = e.Expr
		case *parser.StringLiteral:
			return e.Val, true
		default:
			return "", false
		}
	}
}

func (s *sharing) binary(exact, wide *parser.BinaryExpr) (partOfQuery, error) {
	left, err := s.walk(exact.LHS, wide.LHS)
	if err != nil {
		return left, err
	}
	right, err := s.walk(exact.RHS, wide.RHS)
	if err != nil {
		return right, err
	}
	if exact.Op != wide.Op || (exact.VectorMatching == nil) != (wide.VectorMatching == nil) {
		return left, errOtherStructure
	}
	if !left.asked && !right.asked {
		return left, nil
	}
	if wide.VectorMatching == nil { // A scalar is on the other side.
		return partOfQuery{asked: true, bare: left.bare || right.bare}, nil
	}
	o := &operation{sharing: s, exact: exact.VectorMatching, wide: wide.VectorMatching, op: wide.Op}
	if err := o.check(); err != nil {
		return left, err
	}
	var out partOfQuery
	switch {
	case left.asked && right.asked:
		out, err = o.bothAsked(left, right)
	case left.asked:
		out, err = o.leftAsked(left, wide.RHS)
	default:
		out, err = o.rightAsked(right, wide.LHS)
	}
	wide.VectorMatching = exact.VectorMatching
	return out, err
}

// operation is a binary operation of two vectors, of which at least one depends on the
// objects.
type operation struct {
	*sharing

	exact, wide *parser.VectorMatching
	op          parser.ItemType
}

// check looks at what holds for all operations.
func (o *operation) check() error {
	e, w := o.exact, o.wide
	if e.Card != w.Card || e.On != w.On || !slices.Equal(e.Include, w.Include) || !o.sameButExtra(e.MatchingLabels, w.MatchingLabels) {
		return errOtherStructure
	}
	if w.FillValues.LHS != nil || w.FillValues.RHS != nil {
		return fmt.Errorf("the operator %s fills in samples where objects have none", o.op)
	}
	for _, label := range w.Include {
		if slices.Contains(o.keep, label) {
			return fmt.Errorf("the operator %s replaces the label %s", o.op, label)
		}
	}
	return nil
}

// matchesObjects says that samples of different objects never match.
func (o *operation) matchesObjects() bool {
	return !slices.ContainsFunc(o.keep, func(label string) bool {
		return slices.Contains(o.wide.MatchingLabels, label) != o.wide.On
	})
}

func (o *operation) errMatching() error {
	return fmt.Errorf("the operator %s does not match by the labels %s, and so takes objects together", o.op, strings.Join(o.keep, " and "))
}

// matchesWithout says that the operation matches by a list that lacks the label extra
// in the exact query.
func (o *operation) matchesWithout() bool {
	return o.exact.On && !slices.Contains(o.exact.MatchingLabels, o.extra)
}

func (o *operation) bothAsked(left, right partOfQuery) (partOfQuery, error) {
	if !o.matchesObjects() {
		return left, o.errMatching()
	}
	if !o.exact.On && !sameSet(o.exact.MatchingLabels, o.wide.MatchingLabels) {
		return left, errOtherStructure
	}
	if left.bare != right.bare && (o.op == parser.LOR || !o.matchesWithout()) {
		return left, o.errNamespaces()
	}
	if o.wide.Card == parser.CardOneToMany {
		return right, nil
	}
	if o.wide.Card == parser.CardOneToOne && o.extra != "" && o.matchesWithout() {
		left.bare = true
	}
	return left, nil
}

// errNamespaces is for sides that match otherwise once the label of the namespace
// is there.
func (o *operation) errNamespaces() error {
	return fmt.Errorf("the operator %s would match differently in a query of all namespaces", o.op)
}

// sameMatching looks whether samples of the asked side match the same samples of the
// other one in both queries.
func (o *operation) sameMatching(asked partOfQuery) error {
	if !sameSet(o.exact.MatchingLabels, o.wide.MatchingLabels) || asked.bare && !o.matchesWithout() {
		return o.errNamespaces()
	}
	return nil
}

func (o *operation) leftAsked(left partOfQuery, other parser.Expr) (partOfQuery, error) {
	if o.op == parser.LOR && hasNoLabels(other) {
		return left, nil // What the other side adds is of no object.
	}
	if err := o.sameMatching(left); err != nil {
		return left, err
	}
	switch {
	case o.op == parser.LAND, o.op == parser.LUNLESS, o.wide.Card == parser.CardManyToOne:
		return left, nil // Each sample by itself.
	case o.op == parser.LOR && o.extra != "":
		return left, o.errOthers()
	case !o.matchesObjects():
		return left, o.errMatching()
	}
	return left, nil
}

// errOthers is for samples of objects that nobody asked for, which only the exact query
// takes for those of the asked namespace.
func (o *operation) errOthers() error {
	return fmt.Errorf("the operator %s adds series that are not selected by <<.LabelMatchers>>, of any namespace", o.op)
}

func (o *operation) rightAsked(right partOfQuery, other parser.Expr) (partOfQuery, error) {
	if o.op == parser.LOR && hasNoLabels(other) && !o.wide.On && !slices.Contains(o.wide.MatchingLabels, o.keep[0]) {
		return right, nil // Samples with the object's label match none without.
	}
	if err := o.sameMatching(right); err != nil {
		return right, err
	}
	switch {
	case o.op == parser.LOR && hasNoLabels(other), o.op == parser.LOR && o.extra == "", o.wide.Card == parser.CardOneToMany:
		return right, nil // Each sample by itself.
	case (o.op == parser.LOR || o.op == parser.LUNLESS) && o.extra != "":
		return right, o.errOthers()
	case !o.matchesObjects():
		return right, o.errMatching()
	}
	return right, nil
}

// hasNoLabels says that samples of the expression have no labels at all, so that they
// are of no object.
func hasNoLabels(expr parser.Expr) bool {
	switch e := expr.(type) {
	case *parser.ParenExpr:
		return hasNoLabels(e.Expr)
	case *parser.UnaryExpr:
		return hasNoLabels(e.Expr)
	case *parser.Call:
		return e.Func.Name == "vector"
	case *parser.NumberLiteral:
		return true
	case *parser.BinaryExpr:
		return hasNoLabels(e.LHS) && hasNoLabels(e.RHS)
	case *parser.AggregateExpr:
		switch e.Op {
		case parser.SUM, parser.AVG, parser.MIN, parser.MAX, parser.COUNT, parser.GROUP, parser.STDDEV, parser.STDVAR, parser.QUANTILE:
			return !e.Without && len(e.Grouping) == 0
		}
	}
	return false
}

func (s *sharing) call(exact, wide *parser.Call) (partOfQuery, error) {
	var part partOfQuery
	if exact.Func.Name != wide.Func.Name || len(exact.Args) != len(wide.Args) {
		return part, errOtherStructure
	}
	for i := range wide.Args {
		arg, err := s.walk(exact.Args[i], wide.Args[i])
		if err != nil {
			return part, err
		}
		if arg.asked {
			part = arg
		}
	}
	if !part.asked {
		return part, nil
	}
	name := wide.Func.Name
	if why, ok := functionsOfAll[name]; ok {
		return part, fmt.Errorf("%s() %s", name, why)
	}
	if sameEach[name] {
		return part, nil
	}
	written, ok := labelsOf[name]
	if !ok {
		return part, fmt.Errorf("%s() is not known to treat each series by itself", name)
	}
	return part, s.labelsWritten(name, written(wide.Args), part)
}

// labelsWritten looks at the labels that a function changes, and at those that it makes
// them of.
func (s *sharing) labelsWritten(name string, l functionLabels, part partOfQuery) error {
	for _, label := range l.changes {
		if label == "" || slices.Contains(s.keep, label) {
			return fmt.Errorf("%s() changes the label %s", name, label)
		}
	}
	if part.bare && (slices.Contains(l.reads, s.extra) || slices.Contains(l.reads, "")) {
		return fmt.Errorf("%s() reads the label %s, which only a query of all namespaces has there", name, s.extra)
	}
	return nil
}

// functionLabels are the labels that a call changes and reads; one that is not known
// is empty.
type functionLabels struct{ changes, reads []string }

// labelsOf are the functions that treat samples with the same labels together, but for
// the labels that they change.
var labelsOf = map[string]func(parser.Expressions) functionLabels{
	"histogram_quantile": bucketLabels,
	"histogram_fraction": bucketLabels,
	"histogram_quantiles": func(args parser.Expressions) functionLabels {
		return functionLabels{changes: append(literals(args[1:2]), labels.BucketLabel)}
	},
	"label_replace": func(args parser.Expressions) functionLabels {
		return functionLabels{changes: literals(args[1:2]), reads: literals(args[3:4])}
	},
	"label_join": func(args parser.Expressions) functionLabels {
		return functionLabels{changes: literals(args[1:2]), reads: literals(args[3:])}
	},
}

func bucketLabels(parser.Expressions) functionLabels {
	return functionLabels{changes: []string{labels.BucketLabel}}
}

func literals(args parser.Expressions) []string {
	texts := make([]string, len(args))
	for i, arg := range args {
		texts[i], _ = literal(arg)
	}
	return texts
}

// functionsOfAll are the functions that take all series together, and how.
var functionsOfAll = map[string]string{
	"absent":           "asks whether there is any series at all",
	"absent_over_time": "asks whether there is any series at all",
	"info":             "takes labels of other series",
	"scalar":           "asks whether there is one series only",
}

// sameEach are the functions that make one sample of each series, and keep its labels.
var sameEach = set(
	"abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "clamp", "clamp_max", "clamp_min",
	"cos", "cosh", "deg", "exp", "floor", "ln", "log10", "log2", "rad", "round", "sgn", "sin", "sinh",
	"sqrt", "tan", "tanh",
	"day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year",
	"start_timestamp", "timestamp",
	"histogram_avg", "histogram_count", "histogram_stddev", "histogram_stdvar", "histogram_sum",
	"avg_over_time", "changes", "count_over_time", "delta", "deriv", "double_exponential_smoothing",
	"first_over_time", "idelta", "increase", "integral", "irate", "last_over_time", "mad_over_time", "max_over_time",
	"min_over_time", "predict_linear", "present_over_time", "quantile_over_time", "rate", "resets",
	"stddev_over_time", "stdvar_over_time", "sum_over_time",
	"ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time",
	"sort", "sort_by_label", "sort_by_label_desc", "sort_desc",
)

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}
