package rules

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"
)

// Bounds of what a template may give and do.
const (
	maxQueryBytes     = 1 << 20
	maxTemplateSteps  = 10_000
	maxPrintArguments = 64
)

var (
	errQueryTooLong    = fmt.Errorf("gives more than %d bytes", maxQueryBytes)
	errTemplateEndless = fmt.Errorf("takes more than %d turns", maxTemplateSteps)
)

// queryArgs are what a metricsQuery may use. The names are prometheus-adapter's
// (https://github.com/kubernetes-sigs/prometheus-adapter/blob/master/docs/config.md#querying).
type queryArgs struct {
	Series            string
	LabelMatchers     string
	LabelValuesByName map[string]string
	GroupBy           string
	GroupBySlice      []string
}

// queryTemplate is the template of a metricsQuery.
type queryTemplate struct {
	text string
	tmpl *template.Template
	// parts make the whole text if the template is a simple row of fields; else there
	// are none.
	parts []part
	uses  uses
}

// part is a piece of a template that stays as it is, or a field.
type part struct {
	text  string
	field field
}

type field int

const (
	noField field = iota
	fieldSeries
	fieldMatchers
	fieldGroupBy
)

// simpleFields are the fields of a template that parts can stand for.
var simpleFields = map[string]field{
	"Series": fieldSeries, "LabelMatchers": fieldMatchers, "GroupBy": fieldGroupBy,
}

func newQueryTemplate(text string) (*queryTemplate, error) {
	tmpl, err := newTemplate("metricsQuery", text)
	if err != nil {
		return nil, err
	}
	t := &queryTemplate{text: text, tmpl: tmpl, parts: simpleParts(tmpl.Root)}
	for _, each := range tmpl.Templates() {
		switch {
		case each == tmpl:
			t.uses.collect(each.Root, dotIsArguments)
		case each.Tree != nil:
			t.uses.collect(each.Root, dotIsOther)
		}
	}
	countSteps(tmpl)
	return t, nil
}

// newTemplate parses a text with the delimiters of prometheus-adapter.
func newTemplate(name, text string) (*template.Template, error) {
	if strings.ContainsRune(text, stepMark) {
		return nil, errors.New("has a NUL character")
	}
	tmpl, err := template.New(name).Delims("<<", ">>").Funcs(boundedFuncs).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("is no template: %s (https://pkg.go.dev/text/template, with << and >>)", causeOf(err))
	}
	return tmpl, nil
}

// simpleParts is nil if the template is more than texts and fields in a row.
func simpleParts(root *parse.ListNode) []part {
	parts := []part{}
	for _, node := range root.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			parts = append(parts, part{text: string(n.Text)})
		case *parse.CommentNode:
		case *parse.ActionNode:
			name, ok := plainField(n)
			field := simpleFields[name]
			if !ok || field == noField {
				return nil
			}
			parts = append(parts, part{field: field})
		default:
			return nil
		}
	}
	return parts
}

// plainField is the name of the field that an action writes as it is.
func plainField(n *parse.ActionNode) (string, bool) {
	if len(n.Pipe.Decl) != 0 || len(n.Pipe.Cmds) != 1 || len(n.Pipe.Cmds[0].Args) != 1 {
		return "", false
	}
	f, ok := n.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
	if !ok || len(f.Ident) != 1 {
		return "", false
	}
	return f.Ident[0], true
}

// render is the PromQL for the arguments.
func (t *queryTemplate) render(args *queryArgs) (string, error) {
	if t.parts == nil {
		return execute(t.tmpl, args, maxQueryBytes)
	}
	size := 0
	for _, p := range t.parts {
		size += len(p.in(args))
	}
	if size > maxQueryBytes {
		return "", errQueryTooLong
	}
	var b strings.Builder
	b.Grow(size)
	for _, p := range t.parts {
		b.WriteString(p.in(args))
	}
	return b.String(), nil
}

func (p part) in(args *queryArgs) string {
	switch p.field {
	case fieldSeries:
		return args.Series
	case fieldMatchers:
		return args.LabelMatchers
	case fieldGroupBy:
		return args.GroupBy
	default:
		return p.text
	}
}

// execute runs a template up to a length of its text.
func execute(tmpl *template.Template, data any, limit int) (string, error) {
	w := &boundedWriter{limit: limit}
	if err := tmpl.Execute(w, data); err != nil {
		return "", templateError(err)
	}
	return w.text.String(), nil
}

// templateError is an error of execute.
func templateError(err error) error {
	for _, known := range []error{errQueryTooLong, errTemplateEndless} {
		if errors.Is(err, known) {
			return known
		}
	}
	return fmt.Errorf("fails: %s", causeOf(err))
}

// causeOf leaves out what only this program knows: the names of its types.
func causeOf(err error) string {
	text, _, _ := strings.Cut(err.Error(), " in type ")
	return shorten(strings.TrimPrefix(text, "template: "))
}

// stepMark is written by countSteps where a template takes a turn.
const stepMark = '\x00'

// countSteps makes each turn of a loop and each call of a template within the template
// write a mark, so that its writer can end what would not end by itself.
func countSteps(tmpl *template.Template) {
	for _, each := range tmpl.Templates() {
		if each.Tree != nil {
			markLoops(each.Root)
			if each != tmpl {
				mark(each.Root)
			}
		}
	}
}

func mark(list *parse.ListNode) {
	step := &parse.TextNode{NodeType: parse.NodeText, Text: []byte{stepMark}}
	list.Nodes = append([]parse.Node{step}, list.Nodes...)
}

func markLoops(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.RangeNode:
			markLoops(n.List)
			markLoops(n.ElseList)
			mark(n.List)
		case *parse.IfNode:
			markLoops(n.List)
			markLoops(n.ElseList)
		case *parse.WithNode:
			markLoops(n.List)
			markLoops(n.ElseList)
		}
	}
}

// boundedWriter ends a template that writes too much or takes too many turns.
type boundedWriter struct {
	text         strings.Builder
	limit, steps int
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	if len(p) == 1 && p[0] == stepMark {
		w.steps++
		if w.steps > maxTemplateSteps {
			return 0, errTemplateEndless
		}
		return 1, nil
	}
	if w.text.Len()+len(p) > w.limit {
		return 0, errQueryTooLong
	}
	return w.text.Write(p)
}

// boundedFuncs are the functions of templates that make new texts: those of
// text/template, whose results would have no bound in a loop.
var boundedFuncs = template.FuncMap{
	"print":    bounded(fmt.Sprint),
	"println":  bounded(fmt.Sprintln),
	"html":     bounded(template.HTMLEscaper),
	"js":       bounded(template.JSEscaper),
	"urlquery": bounded(template.URLQueryEscaper),
	"printf": func(format string, args ...any) (string, error) {
		if strings.Count(format, "%") > maxPrintArguments || wideVerb.MatchString(format) {
			return "", errQueryTooLong
		}
		return bounded(func(args ...any) string { return fmt.Sprintf(format, args...) })(args...)
	},
}

// wideVerb finds verbs that make a long text of a short one.
var wideVerb = regexp.MustCompile(`%[^a-zA-Z%]*([0-9]{4}|\*)`)

func bounded(f func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		if len(args) > maxPrintArguments {
			return "", errQueryTooLong
		}
		text := f(args...)
		if len(text) > maxQueryBytes {
			return "", errQueryTooLong
		}
		return text, nil
	}
}

// uses are what a template does with its arguments.
type uses struct {
	series, values bool
	// computes says that the template does more with .LabelMatchers than to write it,
	// so that the query may change with the names of the objects.
	computes bool
	// valueNames are the labels that it takes from .LabelValuesByName by name.
	valueNames []string
}

// dot is what a dot means in a part of a template.
type dot int

const (
	dotIsArguments dot = iota
	dotIsOther
)

// collect adds what a node of the template does.
func (u *uses) collect(node parse.Node, d dot) {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, each := range n.Nodes {
			u.collect(each, d)
		}
	case *parse.ActionNode:
		if name, ok := plainField(n); ok && name == "LabelMatchers" {
			return
		}
		u.pipe(n.Pipe, d)
	case *parse.IfNode:
		u.branch(&n.BranchNode, d, d)
	case *parse.RangeNode:
		u.branch(&n.BranchNode, d, dotIsOther)
	case *parse.WithNode:
		u.branch(&n.BranchNode, d, dotIsOther)
	case *parse.TemplateNode:
		u.pipe(n.Pipe, d)
	}
}

func (u *uses) branch(n *parse.BranchNode, d, within dot) {
	u.pipe(n.Pipe, d)
	u.collect(n.List, within)
	u.collect(n.ElseList, d)
}

func (u *uses) pipe(pipe *parse.PipeNode, d dot) {
	if pipe == nil {
		return
	}
	for _, cmd := range pipe.Cmds {
		if name, ok := indexedValue(cmd); ok {
			u.valueNames = append(u.valueNames, name)
		}
		for _, arg := range cmd.Args {
			u.argument(arg, d)
		}
	}
}

func (u *uses) argument(arg parse.Node, d dot) {
	switch n := arg.(type) {
	case *parse.FieldNode:
		u.field(n.Ident)
	case *parse.VariableNode:
		switch {
		case n.Ident[0] != "$":
		case len(n.Ident) == 1:
			u.everything()
		default:
			u.field(n.Ident[1:])
		}
	case *parse.DotNode:
		if d == dotIsArguments {
			u.everything()
		}
	case *parse.ChainNode:
		u.argument(n.Node, d)
		u.field(n.Field)
	case *parse.PipeNode:
		u.pipe(n, d)
	}
}

func (u *uses) field(names []string) {
	switch names[0] {
	case "Series":
		u.series = true
	case "LabelMatchers":
		u.computes = true
	case "LabelValuesByName":
		u.values = true
		if len(names) > 1 {
			u.valueNames = append(u.valueNames, names[1])
		}
	}
}

func (u *uses) everything() { u.series, u.values, u.computes = true, true, true }

// indexedValue is the label of `index .LabelValuesByName "label"`.
func indexedValue(cmd *parse.CommandNode) (string, bool) {
	if len(cmd.Args) != 3 || cmd.Args[0].String() != "index" || strings.TrimPrefix(cmd.Args[1].String(), "$") != ".LabelValuesByName" {
		return "", false
	}
	name, ok := cmd.Args[2].(*parse.StringNode)
	if !ok {
		return "", false
	}
	return name.Text, true
}
