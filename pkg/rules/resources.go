package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resources of the core group that rules treat in their own way.
var (
	pods       = schema.GroupResource{Resource: "pods"}
	nodes      = schema.GroupResource{Resource: "nodes"}
	namespaces = schema.GroupResource{Resource: "namespaces"}
)

// maxRemembered is how many names a rule remembers.
const maxRemembered = 10_000

// resourceLabels says which labels name which resources.
type resourceLabels struct {
	// overrides are sorted by label: of two for one resource the first counts.
	overrides []override
	template  *labelTemplate
	// readings remembers what template reads of label names. Which of it the API server
	// has may change at any time, and is not remembered.
	readings *memo[string, []schema.GroupResource]
}

type override struct {
	label    string
	resource schema.GroupResource
}

func (l *resourceLabels) empty() bool { return len(l.overrides) == 0 && l.template == nil }

// label is the label that names objects of a resource that Normalize gave; false for one
// that it does not know, whose singular name is a guess.
func (l *resourceLabels) label(m Mapper, r schema.GroupResource) (string, bool) {
	for _, o := range l.overrides {
		if known, _, ok := m.Normalize(o.resource); ok && known == r {
			return o.label, true
		}
	}
	if l.template == nil || !knows(m, r) {
		return "", false
	}
	return l.template.label(r.Group, m.Singular(r))
}

// knows says whether Normalize gives the resource.
func knows(m Mapper, r schema.GroupResource) bool {
	known, _, ok := m.Normalize(r)
	return ok && known == r
}

// need is label, with an error that says how to get one.
func (l *resourceLabels) need(m Mapper, r schema.GroupResource) (string, error) {
	label, ok := l.label(m, r)
	switch {
	case ok:
		return label, nil
	case !m.Known():
		return "", ErrNotReady
	case !knows(m, r):
		return "", fmt.Errorf("the Kubernetes API has no resource %s", r)
	}
	return "", fmt.Errorf("no label names the %s: add one to resources.overrides, or set resources.template", r)
}

// describes gives the resources that a series with these label names describes.
func (l *resourceLabels) describes(m Mapper, labelNames []string) []Resource {
	if l.empty() {
		return nil
	}
	namespaceLabel, ok := l.label(m, namespaces)
	hasNamespace := ok && slices.Contains(labelNames, namespaceLabel)
	var found []Resource
	for _, name := range labelNames {
		if r, namespaced, ok := l.named(m, name); ok {
			found = append(found, Resource{GroupResource: r, Namespaced: namespaced && hasNamespace})
		}
	}
	return found
}

// named is the resource whose objects the label names. Only the label that questions
// use for a resource names it.
func (l *resourceLabels) named(m Mapper, label string) (r schema.GroupResource, namespaced, ok bool) {
	for _, reading := range l.read(label) {
		r, namespaced, ok := m.Normalize(reading)
		if !ok {
			continue
		}
		if own, ok := l.label(m, r); ok && own == label {
			return r, namespaced, true
		}
	}
	return schema.GroupResource{}, false, false
}

// read is what the label may stand for.
func (l *resourceLabels) read(label string) []schema.GroupResource {
	readings, ok := l.readings.get(label)
	if ok {
		return readings
	}
	label = strings.Clone(label) // It may live no longer than the call.
	i := slices.IndexFunc(l.overrides, func(o override) bool { return o.label == label })
	switch {
	case i >= 0:
		readings = []schema.GroupResource{l.overrides[i].resource}
	case l.template != nil:
		readings = l.template.read(label)
	}
	l.readings.put(label, readings)
	return readings
}

// labelTemplate is the template of resources.template, which is also read backwards.
type labelTemplate struct {
	text string
	tmpl *template.Template
	// patterns are the labels of a resource with a group and of one without.
	patterns [][]piece
	labels   *memo[schema.GroupResource, string]
}

// piece is a part of a label: a text, the group or the resource.
type piece struct {
	text            string
	group, resource bool
}

// Words that no label is expected to have, in whose place the pieces of a label are found.
const (
	groupWord     = "zgroupz"
	resourceWord  = "zresourcez"
	maxLabelBytes = 512
)

func newLabelTemplate(text string) (*labelTemplate, error) {
	tmpl, err := newTemplate("template", text)
	if err != nil {
		return nil, err
	}
	countSteps(tmpl)
	t := &labelTemplate{text: text, tmpl: tmpl, labels: newMemo[schema.GroupResource, string](maxRemembered)}
	for _, group := range []string{groupWord, ""} {
		label, err := t.execute(group, resourceWord)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(label, resourceWord) {
			return nil, errors.New("does not have <<.Resource>> as it is, so that it cannot be read backwards")
		}
		if !validLabelName(label) {
			return nil, fmt.Errorf("gives %q, which is no Prometheus label name", strings.NewReplacer(groupWord, "apps", resourceWord, "deployment").Replace(label))
		}
		t.patterns = append(t.patterns, cutLabel(label))
	}
	if slices.Equal(t.patterns[0], t.patterns[1]) {
		t.patterns = t.patterns[:1]
	}
	return t, nil
}

func (t *labelTemplate) execute(group, resource string) (string, error) {
	return execute(t.tmpl, struct{ Group, Resource string }{group, resource}, maxLabelBytes)
}

// cutLabel finds the pieces of a label of groupWord and resourceWord.
func cutLabel(label string) []piece {
	var pieces []piece
	for i, ofGroup := range strings.Split(label, groupWord) {
		if i > 0 {
			pieces = append(pieces, piece{group: true})
		}
		for j, text := range strings.Split(ofGroup, resourceWord) {
			if j > 0 {
				pieces = append(pieces, piece{resource: true})
			}
			if text != "" {
				pieces = append(pieces, piece{text: text})
			}
		}
	}
	return pieces
}

// groupReplacer makes a group a part of a label name.
var groupReplacer = strings.NewReplacer(".", "_", "-", "_")

// label is the label of a resource by its singular name; false if it is none that
// Prometheus can have.
func (t *labelTemplate) label(group, singular string) (string, bool) {
	key := schema.GroupResource{Group: group, Resource: singular}
	label, ok := t.labels.get(key)
	if !ok {
		var err error
		label, err = t.execute(groupReplacer.Replace(group), singular)
		if err != nil || !validLabelName(label) {
			label = ""
		}
		t.labels.put(key, label)
	}
	return label, label != ""
}

// read gives the groups and singular resources whose label this may be. The underscores
// of a group are read as dots, so that a group with a hyphen is not found.
func (t *labelTemplate) read(label string) []schema.GroupResource {
	if len(label) > maxLabelBytes {
		return nil
	}
	var found []schema.GroupResource
	for _, pattern := range t.patterns {
		found = readPieces(pattern, label, schema.GroupResource{}, found)
	}
	for i := range found {
		found[i].Group = strings.ReplaceAll(found[i].Group, "_", ".")
	}
	return found
}

// maxReadings is how many ways to read a label are tried.
const maxReadings = 16

// readPieces adds the ways in which the rest of a label is made of the rest of the
// pieces. The names of resources have no underscores.
func readPieces(pieces []piece, rest string, soFar schema.GroupResource, found []schema.GroupResource) []schema.GroupResource {
	if len(pieces) == 0 {
		if rest == "" && len(found) < maxReadings {
			found = append(found, soFar)
		}
		return found
	}
	p := pieces[0]
	known := p.text
	switch {
	case p.group:
		known = soFar.Group
	case p.resource:
		known = soFar.Resource
	}
	if known != "" {
		if after, ok := strings.CutPrefix(rest, known); ok {
			found = readPieces(pieces[1:], after, soFar, found)
		}
		return found
	}
	for end := 1; end <= len(rest) && len(found) < maxReadings; end++ {
		next := soFar
		if p.group {
			next.Group = rest[:end]
		} else if next.Resource = rest[:end]; rest[end-1] == '_' {
			break
		}
		found = readPieces(pieces[1:], rest[end:], next, found)
	}
	return found
}
