package rules

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// promQL is Prometheus' parser with every switch on: whether a server understands an
// experimental function is for that server to say. Names with dots have to be quoted all the
// same, as every server takes them then.
var promQL = parser.NewParser(parser.Options{
	EnableExperimentalFunctions: true,
	EnableBinopFillModifiers:    true,
})

// maxShapes is how many shapes of its queries a rule remembers.
const maxShapes = 1000

// query is a metricsQuery that was checked, with the labels that it needs.
type query struct {
	// field is where the query is in the file, such as "metricsQuery".
	field    string
	template *queryTemplate
	labels   *resourceLabels
	// external says that the query describes no objects, namespaced that it is asked
	// within the namespace of its reader then.
	external, namespaced bool
	// container is the label of containers, for the pods of resourceRules.
	container string
	// window replaces what the query says, unless it is zero.
	window time.Duration

	// shapes and texts remember the windows of queries that were parsed: by what their
	// structure depends on if the template is simple, else by a hash of the text.
	shapes *memo[shape, time.Duration]
	texts  *memo[[sha256.Size]byte, time.Duration]
	// shared remembers what Shareable says.
	shared *memo[shape, error]
}

func newQuery(field, text string, l *resourceLabels) (*query, error) {
	t, err := newQueryTemplate(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	return &query{
		field: field, template: t, labels: l,
		shapes: newMemo[shape, time.Duration](maxShapes),
		texts:  newMemo[[sha256.Size]byte, time.Duration](maxShapes),
		shared: newMemo[shape, error](maxShapes),
	}, nil
}

// target is the labels that a query is about.
type target struct {
	// object names the objects; it is empty for an external metric.
	object string
	// namespace names their namespace; it is empty if the query is about no namespace.
	namespace string
}

// input is all that a query depends on.
type input struct {
	target

	series       string
	requirements []requirement
	// in is the namespace asked for; names are the objects if the scope is Named.
	in    string
	names []string
	scope Scope
	// unknownValue stands for the labels that .LabelValuesByName does not have.
	unknownValue string
}

// shape is what the structure of a query of a simple template depends on.
type shape struct {
	target

	series, selector string
	scope            Scope
}

// target finds the labels for an Ask.
func (q *query) target(m Mapper, a Ask) (target, error) {
	if q.external {
		return q.externalTarget(m, a)
	}
	object, err := q.labels.need(m, a.Resource)
	if err != nil {
		return target{}, err
	}
	t := target{object: object}
	if a.Namespace != "" || a.Scope == Cluster && hasNamespaces(m, a.Resource) {
		if t.namespace, err = q.labels.need(m, namespaces); err != nil {
			return target{}, err
		}
		if t.namespace == object && a.Resource != namespaces {
			return target{}, fmt.Errorf("the label %s names both the %s and their namespaces", object, a.Resource)
		}
	}
	return t, nil
}

func (q *query) externalTarget(m Mapper, a Ask) (target, error) {
	if !q.namespaced || a.Namespace == "" {
		return target{}, nil
	}
	label, err := q.labels.need(m, namespaces)
	if err != nil {
		return target{}, fmt.Errorf("%w, or set resources.namespaced: false if the metric belongs to no namespace", err)
	}
	return target{namespace: label}, nil
}

// hasNamespaces says whether objects of the resource, which is known, have namespaces.
func hasNamespaces(m Mapper, r schema.GroupResource) bool {
	_, namespaced, _ := m.Normalize(r)
	return namespaced
}

// question answers an Ask.
func (q *query) question(m Mapper, a Ask) (Question, error) {
	if err := q.check(a); err != nil {
		return Question{}, err
	}
	t, err := q.target(m, a)
	if err != nil {
		return Question{}, err
	}
	reqs, err := requirements(a.Selector)
	if err != nil {
		return Question{}, err
	}
	in := input{target: t, series: a.Series, requirements: reqs, in: a.Namespace, names: a.Names, scope: a.Scope}
	text, window, err := q.ask(in)
	if err != nil {
		return Question{}, err
	}
	answer := Question{PromQL: text, Window: window, ObjectLabel: t.object, ContainerLabel: q.container}
	if q.window != 0 {
		answer.Window = q.window
	}
	if a.Scope == Cluster {
		answer.NamespaceLabel = t.namespace
	}
	return answer, nil
}

// check refuses what nobody should ask.
func (q *query) check(a Ask) error {
	switch {
	case q.external && a.Scope != Named:
		return errors.New("an external metric is of no objects")
	case q.external:
		return nil
	case a.Scope == Named && len(a.Names) == 0:
		return errors.New("no objects are named")
	case a.Scope == Named && slices.Contains(a.Names, ""):
		return errors.New("an object has an empty name")
	case a.Scope != Named && q.template.uses.values:
		return fmt.Errorf("%s uses .LabelValuesByName, which has values only for objects that are named", q.field)
	}
	return nil
}

// ask is the PromQL and its window.
func (q *query) ask(in input) (string, time.Duration, error) {
	list, err := in.matchers()
	if err != nil {
		return "", 0, err
	}
	matchers, err := writeMatchers(list)
	if err != nil {
		return "", 0, err
	}
	text, err := q.render(in, list, matchers)
	if err != nil {
		return "", 0, fmt.Errorf("%s %w", q.field, err)
	}
	window, err := q.windowOf(in, list, text)
	if err != nil {
		return "", 0, fmt.Errorf("%s %w", q.field, err)
	}
	return text, window, nil
}

// windowOf checks and reads a text that is not of a shape that is known.
func (q *query) windowOf(in input, list []matcher, text string) (time.Duration, error) {
	if q.template.parts == nil {
		return remember(q.texts, sha256.Sum256([]byte(text)), func() (time.Duration, error) { return q.parse(text) })
	}
	window, err := remember(q.shapes, in.shape(list), func() (time.Duration, error) { return q.parse(text) })
	if err != nil && len(list) == 0 {
		err = fmt.Errorf("%w (without a namespace and a metric selector .LabelMatchers is empty: write it last between the braces)", err)
	}
	return window, err
}

// remember finds out what is not known. Failures are not remembered.
func remember[K comparable, V any](known *memo[K, V], key K, find func() (V, error)) (V, error) {
	if v, ok := known.get(key); ok {
		return v, nil
	}
	v, err := find()
	if err == nil {
		known.put(key, v)
	}
	return v, err
}

// matchers are those of the metric selector, of the namespace and of the objects.
func (in *input) matchers() ([]matcher, error) {
	list := make([]matcher, 0, len(in.requirements)+2)
	for _, r := range in.requirements {
		m, err := r.matcher()
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	switch {
	case in.namespace == "":
	case in.scope == Cluster:
		list = append(list, matcher{label: in.namespace, operator: "!="})
	default:
		list = append(list, named(in.namespace, []string{in.in}))
	}
	switch {
	case in.object == "":
	case in.scope == Named:
		list = append(list, named(in.object, in.names))
	default:
		list = append(list, matcher{label: in.object, operator: "!="})
	}
	return list, nil
}

func (in *input) shape(list []matcher) shape {
	s := shape{target: in.target, series: in.series, scope: in.scope}
	if n := len(in.requirements); n > 0 {
		var b strings.Builder
		for _, m := range list[:n] {
			b.WriteString(m.label)
			b.WriteString(m.operator)
		}
		s.selector = b.String()
	}
	return s
}

// groupBy are the labels that tell the samples of a query apart. The first two stay
// where prometheus-adapter has them.
func (q *query) groupBy(in input) []string {
	if in.object == "" {
		return nil
	}
	labels := []string{in.object}
	if q.container != "" {
		labels = append(labels, q.container)
	}
	if in.scope == Cluster && in.namespace != "" {
		labels = append(labels, in.namespace)
	}
	return labels
}

func (q *query) render(in input, list []matcher, matchers string) (text string, err error) {
	args := queryArgs{Series: in.series, LabelMatchers: matchers, GroupBySlice: q.groupBy(in)}
	args.GroupBy = strings.Join(args.GroupBySlice, ",")
	if q.template.uses.values {
		if args.LabelValuesByName, err = q.values(in, list); err != nil {
			return "", err
		}
	}
	if text, err = q.template.render(&args); err != nil {
		return "", err
	}
	if strings.TrimSpace(text) == "" {
		return "", errEmptyQuery
	}
	return text, nil
}

var errEmptyQuery = errors.New("gives an empty query")

// errNoPromQL says that the template's query is none for Prometheus' parser.
var errNoPromQL = errors.New("gives no valid PromQL")

// values are .LabelValuesByName.
func (q *query) values(in input, list []matcher) (map[string]string, error) {
	values := make(map[string]string, len(list))
	if in.unknownValue != "" {
		for _, name := range q.template.uses.valueNames {
			values[name] = in.unknownValue
		}
	}
	for _, m := range list {
		for _, value := range m.values {
			if !isHarmless(value) {
				return nil, fmt.Errorf("uses .LabelValuesByName, which cannot take the value %q of the label %s: "+
					"use <<.LabelMatchers>>, which quotes values", shorten(value), m.label)
			}
		}
		values[m.label] = strings.Join(m.values, "|")
	}
	return values, nil
}

// parse checks a query with Prometheus' parser, and finds its window.
func (q *query) parse(text string) (time.Duration, error) {
	expr, err := promQL.ParseExpr(text)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %s", errNoPromQL, shorten(err.Error()), shorten(text))
	}
	switch t := expr.Type(); {
	case t == parser.ValueTypeVector, t == parser.ValueTypeScalar && q.external:
		return longestRange(expr), nil
	default:
		return 0, fmt.Errorf("gives a %s, not an instant vector: %s", parser.DocumentedType(t), shorten(text))
	}
}

// longestRange is the longest range that a part of the expression covers.
func longestRange(expr parser.Expr) time.Duration {
	longest := time.Duration(0)
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			longest = max(longest, n.Range, durationOf(n.RangeExpr))
		case *parser.SubqueryExpr:
			longest = max(longest, n.Range, durationOf(n.RangeExpr))
		}
		return nil
	})
	return longest
}

// durationOf is the value of a duration expression in an instant query, in which
// step() and range() are zero.
func durationOf(expr *parser.DurationExpr) time.Duration {
	if expr == nil {
		return 0
	}
	seconds := secondsOf(expr)
	if math.IsNaN(seconds) || seconds <= 0 || seconds > math.MaxInt64/float64(time.Second) {
		return 0
	}
	return time.Duration(seconds*1000) * time.Millisecond
}

func secondsOf(expr parser.Expr) float64 {
	e, ok := expr.(*parser.DurationExpr)
	if !ok {
		if number, ok := expr.(*parser.NumberLiteral); ok {
			return number.Val
		}
		return 0
	}
	left, right := secondsOf(e.LHS), secondsOf(e.RHS)
	switch e.Op {
	case parser.ADD:
		return left + right
	case parser.SUB:
		return left - right
	case parser.MUL:
		return left * right
	case parser.DIV:
		return left / right
	case parser.MOD:
		return math.Mod(left, right)
	case parser.POW:
		return math.Pow(left, right)
	case parser.MIN_OF:
		return min(left, right)
	case parser.MAX_OF:
		return max(left, right)
	default:
		return 0
	}
}
