package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tidegauge/tidegauge/pkg/spelling"
)

const (
	// maxAliased is how many nodes of the file may be reached through aliases, each
	// counted as often as it is reached, so that a small file stays small.
	maxAliased = 100_000
	// maxShown is how many characters of a value an error shows.
	maxShown = 40
)

// inspection compares a YAML tree with the Go type that it is to be decoded into. The
// decoder would say neither which field a fault is in, nor where the fields are that are
// well.
type inspection struct {
	faults FaultsError
	// lines are where the fields are, by path.
	lines map[string]int
	// entered are the nodes with anchors that the inspection is within.
	entered map[*yaml.Node]bool
	aliased int
}

// inspect compares the document with t.
func inspect(document *yaml.Node, t reflect.Type) *inspection {
	i := &inspection{lines: map[string]int{}, entered: map[*yaml.Node]bool{}}
	if len(document.Content) > 0 {
		i.value(document.Content[0], t, "")
	}
	if i.aliased > maxAliased {
		i.faults = append(i.faults, Fault{Text: fmt.Sprintf("its aliases stand for more than %d nodes", maxAliased)})
	}
	return i
}

// line is where a field is, or the nearest one that it is part of; 0 if the file has
// neither.
func (i *inspection) line(path string) int {
	for path != "" {
		if line, ok := i.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

func (i *inspection) fault(n *yaml.Node, path, format string, args ...any) {
	i.faults = append(i.faults, Fault{Line: n.Line, Path: path, Text: fmt.Sprintf(format, args...)})
}

// resolve follows an alias into the anchor's node, and is false if that cannot be. Call
// leave when done with the node.
func (i *inspection) resolve(n *yaml.Node, path string) (target *yaml.Node, leave func(), ok bool) {
	if n.Kind != yaml.AliasNode {
		if len(i.entered) > 0 {
			i.aliased++
		}
		return n, func() {}, i.aliased <= maxAliased
	}
	target = n.Alias
	if i.entered[target] {
		i.fault(n, path, "the anchor %q contains itself", n.Value)
		return nil, nil, false
	}
	i.aliased++
	if i.aliased > maxAliased {
		return nil, nil, false
	}
	i.entered[target] = true
	return target, func() { delete(i.entered, target) }, true
}

// value compares a node with the type of the field that it is the value of.
func (i *inspection) value(n *yaml.Node, t reflect.Type, path string) {
	if path != "" {
		i.lines[path] = n.Line
	}
	n, leave, ok := i.resolve(n, path)
	if !ok {
		return
	}
	defer leave()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	// Null is the same as no field at all.
	if isNull(n) || t.Kind() == reflect.Interface {
		return
	}
	before := len(i.faults)
	switch kind := shape(t); {
	case kind == 0:
	case kind != n.Kind:
		i.fault(n, path, "%s is wanted here, and not %s", kindNames[kind], kindNames[n.Kind])
	case t.Kind() == reflect.Struct:
		i.structure(n, t, path)
	case t.Kind() == reflect.Map:
		i.mapping(n, path, func(key, value *yaml.Node) { i.value(value, t.Elem(), join(path, key.Value)) })
	case t.Kind() == reflect.Slice:
		i.sequence(n, t, path)
	}
	// What decodes itself may have rules of its own; the rest are scalars.
	if len(i.faults) == before && (isUnmarshaler(t) || shape(t) == yaml.ScalarNode) {
		i.decode(n, t, path)
	}
}

var kindNames = map[yaml.Kind]string{
	yaml.MappingNode:  "a mapping of fields",
	yaml.SequenceNode: "a list",
	yaml.ScalarNode:   "a single value",
}

// shape is the kind of node that a type is written as; 0 if only the type knows.
func shape(t reflect.Type) yaml.Kind {
	switch t.Kind() {
	case reflect.Struct:
		if isUnmarshaler(t) && len(fieldsOf(t).types) == 0 {
			return 0
		}
		return yaml.MappingNode
	case reflect.Map:
		return yaml.MappingNode
	case reflect.Slice:
		return yaml.SequenceNode
	default:
		return yaml.ScalarNode
	}
}

func (i *inspection) sequence(n *yaml.Node, t reflect.Type, path string) {
	for number, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, number)
		// The decoder would leave it out, and number the others otherwise.
		if isNull(item) && shape(t.Elem()) != yaml.ScalarNode {
			i.fault(item, at, "there is nothing after the dash")
			continue
		}
		i.value(item, t.Elem(), at)
	}
}

func (i *inspection) structure(n *yaml.Node, t reflect.Type, path string) {
	known := fieldsOf(t)
	i.mapping(n, path, func(key, value *yaml.Node) {
		field, ok := known.types[key.Value]
		switch {
		case ok:
			i.value(value, field, join(path, key.Value))
		case known.rest != nil:
			i.value(value, known.rest, join(path, key.Value))
		default:
			i.fault(key, path, "field %s is not known%s", shown(key.Value), suggestion(key.Value, known.names))
		}
	})
}

// mapping visits the fields of a mapping and of those merged into it, each name once:
// first what is written in the mapping itself, which wins.
func (i *inspection) mapping(n *yaml.Node, path string, visit func(key, value *yaml.Node)) {
	seen := map[string]int{}
	i.pairs(n, path, seen, visit)
}

func (i *inspection) pairs(n *yaml.Node, path string, seen map[string]int, visit func(key, value *yaml.Node)) {
	var merged []*yaml.Node
	own := map[string]bool{}
	for at := 0; at+1 < len(n.Content); at += 2 {
		key, value := n.Content[at], n.Content[at+1]
		if key.ShortTag() == "!!merge" {
			merged = append(merged, value)
			continue
		}
		key, leave, ok := i.resolve(key, path)
		if !ok {
			continue
		}
		leave()
		first, taken := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			i.fault(key, path, "the name of a field cannot be %s", kindNames[key.Kind])
		case own[key.Value]:
			i.fault(n.Content[at], join(path, key.Value), "is there already, on line %d", first)
		case !taken:
			seen[key.Value], own[key.Value] = n.Content[at].Line, true
			visit(key, value)
		}
	}
	for _, m := range merged {
		i.merge(m, path, seen, visit)
	}
}

// merge visits what `<<` names: a mapping, or a list of mappings of which the first wins.
func (i *inspection) merge(n *yaml.Node, path string, seen map[string]int, visit func(key, value *yaml.Node)) {
	n, leave, ok := i.resolve(n, path)
	if !ok {
		return
	}
	defer leave()
	switch n.Kind {
	case yaml.MappingNode:
		i.pairs(n, path, seen, visit)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			i.merge(item, path, seen, visit)
		}
	default:
		i.fault(n, path, "<< can merge mappings only")
	}
}

// decode tries a value on its own.
func (i *inspection) decode(n *yaml.Node, t reflect.Type, path string) {
	err := n.Decode(reflect.New(t).Interface())
	if err == nil {
		return
	}
	value := shown(n.Value)
	switch t.Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64:
		if t == reflect.TypeFor[time.Duration]() {
			i.fault(n, path, "%s is not a duration such as 30s", value)
			return
		}
		i.fault(n, path, "%s is not a whole number", value)
	case reflect.Bool:
		i.fault(n, path, "%s is neither true nor false", value)
	default:
		i.fault(n, path, "%s", reason(err))
	}
}

// reason is the error of a type that decodes itself, without the address that a failure
// to parse one shows: it may have a password.
func reason(err error) string {
	if bad, ok := errors.AsType[*url.Error](err); ok {
		return "not the address of a server: " + bad.Err.Error()
	}
	if bad, ok := errors.AsType[*yaml.TypeError](err); ok && len(bad.Errors) > 0 {
		return bad.Errors[0]
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func isUnmarshaler(t reflect.Type) bool {
	_, ok := reflect.PointerTo(t).MethodByName("UnmarshalYAML")
	return ok
}

// fields are what a struct takes from a mapping.
type fields struct {
	types map[string]reflect.Type
	names []string
	// rest is the type of the fields that have no name in the struct; nil if there must
	// be none.
	rest reflect.Type
}

func fieldsOf(t reflect.Type) fields {
	f := fields{types: map[string]reflect.Type{}}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case !field.IsExported() || name == "-":
		case name != "":
			f.types[name] = field.Type
			f.names = append(f.names, name)
		case options != "inline":
		case field.Type.Kind() == reflect.Map:
			f.rest = field.Type.Elem()
		default:
			inner := fieldsOf(field.Type)
			maps.Copy(f.types, inner.types)
			f.names = append(f.names, inner.names...)
		}
	}
	return f
}

// plain are values that need no quotes.
var plain = regexp.MustCompile(`^[\w./-]+$`)

// shown is a value as an error shows it.
func shown(value string) string {
	if utf8.RuneCountInString(value) > maxShown {
		value = string([]rune(value)[:maxShown]) + "…"
	}
	if !plain.MatchString(value) {
		return fmt.Sprintf("%q", value)
	}
	return value
}

// suggestion names the field that was probably meant.
func suggestion(name string, known []string) string {
	const near = 2
	best, least := "", near+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		d := spelling.Distance(strings.ToLower(name), strings.ToLower(k), least)
		if d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}
