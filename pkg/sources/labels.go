package sources

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// Labels are the labels of a sample, in the order of their names. There are tens of thousands
// of them, which as maps would take three times the memory. They are never changed, and the
// zero value has none. They are the labels.Labels of a Kubernetes selector.
type Labels struct {
	// pairs are names and values by turns.
	pairs []string
}

// NewLabels are the labels of those names and values, given by turns. Each name may be there
// once.
func NewLabels(pairs ...string) Labels {
	if len(pairs) == 0 {
		return Labels{}
	}
	sorted := make([]string, 0, len(pairs))
	for pair := range slices.Chunk(pairs, 2) {
		at, _ := find(sorted, pair[0])
		sorted = slices.Insert(sorted, at, pair...)
	}
	return Labels{sorted}
}

// find is the place of a name in pairs, and whether it is there.
func find(pairs []string, name string) (int, bool) {
	// There are a few, and backends give most in their order.
	i := len(pairs)
	for i > 0 && pairs[i-2] >= name {
		i -= 2
	}
	return i, i < len(pairs) && pairs[i] == name
}

// Len is how many labels there are.
func (l Labels) Len() int { return len(l.pairs) / 2 }

// Has says whether there is a label of that name.
func (l Labels) Has(name string) bool {
	_, has := find(l.pairs, name)
	return has
}

// Get is the value of the label of that name, or empty.
func (l Labels) Get(name string) string {
	value, _ := l.Lookup(name)
	return value
}

// Lookup is as Get, and says whether there is such a label.
func (l Labels) Lookup(name string) (value string, has bool) {
	i, has := find(l.pairs, name)
	if !has {
		return "", false
	}
	return l.pairs[i+1], true
}

// All are the names and their values.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i := 0; i < len(l.pairs); i += 2 {
			if !yield(l.pairs[i], l.pairs[i+1]) {
				return
			}
		}
	}
}

// Map is a map of the labels, which is the caller's; nil if there are none.
func (l Labels) Map() map[string]string {
	if l.Len() == 0 {
		return nil
	}
	return maps.Collect(l.All())
}

// Equal says whether both are the same labels.
func (l Labels) Equal(o Labels) bool { return slices.Equal(l.pairs, o.pairs) }

// String is {name=value,…}, for errors.
func (l Labels) String() string {
	var b strings.Builder
	b.WriteByte('{')
	separator := ""
	for name, value := range l.All() {
		b.WriteString(separator + name + "=" + value)
		separator = ","
	}
	b.WriteByte('}')
	return b.String()
}
