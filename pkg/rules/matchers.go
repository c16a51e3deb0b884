package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// requirement is a part of a metric selector.
type requirement struct {
	key      string
	operator selection.Operator
	values   []string
}

// matcher is a label matcher of PromQL.
type matcher struct {
	label, operator, value string
	// values are what value was made of.
	values []string
}

// requirements are the parts of a selector; nil selects everything.
func requirements(selector labels.Selector) ([]requirement, error) {
	if selector == nil {
		return nil, nil
	}
	all, selectable := selector.Requirements()
	if !selectable {
		return nil, errors.New("the metric selector matches nothing")
	}
	if len(all) == 0 {
		return nil, nil
	}
	list := make([]requirement, 0, len(all))
	for _, r := range all {
		values := r.ValuesUnsorted()
		slices.Sort(values)
		list = append(list, requirement{key: r.Key(), operator: r.Operator(), values: values})
	}
	return list, nil
}

// matcher is the requirement in PromQL. What PromQL cannot say is refused, since a
// selection that is nearly right gives a number that is wrong.
func (r requirement) matcher() (matcher, error) {
	if !validLabelName(r.key) {
		return matcher{}, fmt.Errorf("the metric selector has the label %q, which is no Prometheus label name: "+
			"use the name that the series have, such as %s", r.key, sanitize(r.key))
	}
	m := matcher{label: r.key, values: r.values}
	fits := len(r.values) == 1
	switch r.operator {
	case selection.Equals, selection.DoubleEquals:
		m.operator, m.value = "=", strings.Join(r.values, "")
	case selection.NotEquals:
		m.operator, m.value = "!=", strings.Join(r.values, "")
	case selection.In:
		m.operator, m.value, fits = "=~", alternatives(r.values), len(r.values) > 0
	case selection.NotIn:
		m.operator, m.value, fits = "!~", alternatives(r.values), len(r.values) > 0
	case selection.Exists:
		m.operator, fits = "!=", len(r.values) == 0
	case selection.DoesNotExist:
		m.operator, fits = "=", len(r.values) == 0
	default:
		return matcher{}, fmt.Errorf("the metric selector compares %q by %q, which PromQL cannot do: "+
			"labels can be equal or not, in a list or not, there or not", r.key, r.operator)
	}
	if !fits {
		return matcher{}, fmt.Errorf("the metric selector compares %q by %q with %d values", r.key, r.operator, len(r.values))
	}
	return m, nil
}

// named matches the objects of those names.
func named(label string, names []string) matcher {
	if len(names) == 1 {
		return matcher{label: label, operator: "=", value: names[0], values: names}
	}
	return matcher{label: label, operator: "=~", value: alternatives(names), values: names}
}

// alternatives is the regular expression of exactly those values.
func alternatives(values []string) string {
	if len(values) == 1 {
		return regexp.QuoteMeta(values[0])
	}
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteByte('|')
		}
		b.WriteString(regexp.QuoteMeta(v))
	}
	return b.String()
}

// writeMatchers writes what stands between the braces of a selector.
func writeMatchers(list []matcher) (string, error) {
	size := 0
	for _, m := range list {
		if !utf8.ValidString(m.value) {
			return "", fmt.Errorf("the value %q of the label %s is not UTF-8", shorten(m.value), m.label)
		}
		size += len(m.label) + len(m.operator) + len(m.value) + len(`"",`)
	}
	if size > maxQueryBytes {
		return "", errQueryTooLong
	}
	var b strings.Builder
	b.Grow(size)
	for i, m := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(m.label)
		b.WriteString(m.operator)
		writeQuoted(&b, m.value)
	}
	return b.String(), nil
}

// writeQuoted writes a string of PromQL, which are Go's
// (https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals). It has
// none of the other two quotes either, so that it ends no string that a template puts
// around it.
func writeQuoted(b *strings.Builder, value string) {
	if isPlain(value) {
		b.WriteByte('"')
		b.WriteString(value)
		b.WriteByte('"')
		return
	}
	otherQuotes.WriteString(b, strconv.Quote(value)) //nolint:errcheck,gosec // A strings.Builder takes every write.
}

var otherQuotes = strings.NewReplacer("'", `\x27`, "`", `\x60`)

// isPlain says that a string needs no escapes.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '\'' || c == '`' {
			return false
		}
	}
	return true
}

// isHarmless says that a value can neither end a string of PromQL nor mean anything
// there, but for the dot in a regular expression. A template may put the values of
// .LabelValuesByName where it wants, so that no way of quoting is right for all.
func isHarmless(value string) bool {
	for i := range len(value) {
		if c := rune(value[i]); !isWord(c) && !strings.ContainsRune("-.:/", c) {
			return false
		}
	}
	return true
}

func isWord(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// validLabelName says whether a label can be written without quotes, as templates do
// (https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels).
func validLabelName(name string) bool {
	for i := range len(name) {
		if !isWord(rune(name[i])) {
			return false
		}
	}
	return name != "" && (name[0] < '0' || name[0] > '9')
}

// validSeriesName is validLabelName for names of series, which may have colons.
func validSeriesName(name string) bool {
	return validLabelName(strings.ReplaceAll(name, ":", "_"))
}

// sanitize is the label name that Prometheus' service discovery makes of a label of
// Kubernetes.
func sanitize(label string) string {
	return strings.Map(func(r rune) rune {
		if isWord(r) {
			return r
		}
		return '_'
	}, label)
}

// shorten is the start of a text on one line, for errors.
func shorten(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
