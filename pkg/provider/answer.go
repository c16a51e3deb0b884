package provider

import (
	"cmp"
	"context"
	"strings"
	"unsafe"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"

	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

const (
	// maxSelectorText is how many bytes the text of a selector may have for its answer to be
	// kept.
	maxSelectorText = 8 << 10
	// overhead is about what keeping an answer takes beside its values, in bytes.
	overhead = 512
)

// answerKey is what a reader asks of the objects that a selector matches.
type answerKey struct {
	resource  schema.GroupResource
	namespace string
	metric    string
	// objects and metricSelector are the texts of the selectors.
	objects, metricSelector string
	// hpa says that an HPA may read it, for which there is no answer that it misreads.
	hpa bool
}

// own is the key without any part of a request.
func (k answerKey) own() answerKey {
	k.namespace, k.metric = strings.Clone(k.namespace), strings.Clone(k.metric)
	k.objects, k.metricSelector = strings.Clone(k.objects), strings.Clone(k.metricSelector)
	return k
}

// answer is what was made for a reader, with everything that it was made of and that
// answerKey does not say: while that is the same, so is the answer.
type answer struct {
	// objects is the version of the objects of which names are those that match.
	objects uint64
	names   *plan.Names

	of madeOf
	// values must not be written to: readers share them, and the library, which converts and
	// encodes them, only reads. That of a Quantity keeps its text, and is asked for it before.
	values []custom_metrics.MetricValue
}

// madeOf is of what values were made beside the names of objects.
type madeOf struct {
	// reading is its ID.
	reading uint64
	rule    *rules.Compiled
	kind    schema.GroupVersionKind
	target  target
}

// target is the smallest one by which an HPA may divide, if there is one.
type target struct {
	value float64
	known bool
}

// asked is the key of the answer to a reader; false if it cannot be kept.
func (m *objectMetric) asked(objects labels.Selector) (answerKey, bool) {
	selecting, ok := textOf(objects)
	if !ok {
		return answerKey{}, false
	}
	metricSelector, ok := textOf(m.selector)
	return answerKey{m.resource, m.namespace, m.info.Metric, selecting, metricSelector, m.hpa}, ok
}

// textOf is a text that is equal for two selectors only if they select the same, in the
// same words; false for what has none or one that is long.
func textOf(s labels.Selector) (string, bool) {
	if s.Empty() {
		return "", true
	}
	if _, selectable := s.Requirements(); !selectable {
		return "", false // That of nothing reads as that of everything.
	}
	text := s.String()
	return text, text != "" && len(text) <= maxSelectorText
}

// several are the values of the objects that the selector matches. They are made anew when
// something of what they are made of is another. The engine is asked in any case, which
// knows when an answer is too old, and has to know what is read.
func (p *Custom) several(ctx context.Context, m *objectMetric, selector labels.Selector) ([]custom_metrics.MetricValue, error) {
	var before *answer
	key, keeps := m.asked(selector)
	if keeps {
		before = p.kept.get(key)
	}
	next, err := p.selected(ctx, m, selector, before)
	if err != nil {
		return nil, err
	}
	reading, err := p.read(ctx, m, next.names)
	if err != nil {
		return nil, err
	}
	next.of = madeOf{reading: reading.ID, rule: m.Rule, kind: m.kind}
	if before != nil && before.objects == next.objects {
		if next.of.target = p.leastTarget(m, before.values[0].DescribedObject.Name); before.of == next.of {
			p.reads.answered(customAPI, true)
			return before.values, nil
		}
	}
	names, items, err := m.items(ctx, reading, next.names.List())
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		next.of.target = p.leastTarget(m, names[0])
	}
	if next.values, err = m.values(names, items, next.of.target); err != nil {
		return nil, err
	}
	if len(next.values) > 0 {
		p.reads.answered(customAPI, false)
	}
	if keeps && len(next.values) > 0 && next.objects != 0 && next.of.reading != 0 {
		p.kept.put(key, answerKey.own, &next, next.size(key))
	}
	return next.values, nil
}

// selected are the objects that the selector matches, which are those of before as long as
// no object has changed.
func (p *Custom) selected(ctx context.Context, m *objectMetric, selector labels.Selector, before *answer) (answer, error) {
	// Objects that change from now on are of a later version, and looked for again.
	version, err := p.objects.Version(ctx, m.resource, m.namespace)
	if err != nil {
		return answer{}, err
	}
	if before != nil && before.objects == version {
		return answer{objects: version, names: before.names}, nil
	}
	names, err := p.objects.Select(ctx, m.resource, m.namespace, selector)
	if err != nil {
		return answer{}, err
	}
	if len(names) == 0 {
		return answer{}, m.notFound("", m.noneMatches(selector))
	}
	// Objects of several namespaces may share a name, where a rule does not tell them apart.
	return answer{objects: version, names: plan.NewNames(names...)}, nil
}

// leastTarget is that of the HPAs that may read the metric of the objects, of which one has
// that name; none for readers that are no HPAs.
func (p *Custom) leastTarget(m *objectMetric, name string) target {
	if !m.hpa {
		return target{}
	}
	// An HPA asks in its own namespace, or for that.
	value, ok := p.catalog.LeastTarget(types.NamespacedName{Namespace: cmp.Or(m.namespace, name), Name: m.info.Metric})
	return target{value, ok}
}

// size is about how many bytes it takes to keep a.
func (a *answer) size(k answerKey) int {
	const value, name, text = int(unsafe.Sizeof(custom_metrics.MetricValue{})), int(unsafe.Sizeof("")), 16
	return overhead + len(k.namespace) + len(k.metric) + 2*(len(k.objects)+len(k.metricSelector)) +
		len(a.values)*(value+text) + len(a.names.List())*name
}
