package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/tidegauge/tidegauge/pkg/rules"
)

// Asker turns an Ask into PromQL: a *rules.Compiled, or one side of a
// *rules.CompiledUsage.
type Asker interface {
	Question(m rules.Mapper, a rules.Ask) (rules.Question, error)
	// Shareable is nil if a wider scope gives each object the same value.
	Shareable(m rules.Mapper, a rules.Ask) error
	// Identity is equal for two that ask the same in the same way, so that what is known
	// of the queries of a rule outlives a reload of the file.
	Identity() string
}

// Subject is a metric of objects as one group of readers asks for it.
type Subject struct {
	// Asker makes the PromQL. It must be comparable.
	Asker Asker
	// Server, Interval, MaxAge and Share are the rule's; a MaxAge of zero is the planner's.
	Server           string
	Interval, MaxAge time.Duration
	Share            bool
	// Series, Resource and Selector are as in rules.Ask.
	Series   string
	Resource schema.GroupResource
	Selector labels.Selector
	// Namespace is that of the objects; empty for objects without one.
	Namespace string
}

// OfRule is the subject of a series of a rule. Namespace is that of the objects; empty
// for objects without one.
func OfRule(r *rules.Compiled, series string, resource schema.GroupResource, namespace string, selector labels.Selector) Subject {
	return Subject{
		Asker: r, Server: r.Server, Interval: r.Interval, MaxAge: r.MaxAge, Share: r.Share,
		Series: series, Resource: resource, Selector: selector, Namespace: namespace,
	}
}

// PodUsage is the subject of the usage, r.CPU or r.Memory, of a namespace's pods.
func PodUsage(r *rules.CompiledResource, u *rules.CompiledUsage, namespace string) Subject {
	return ofUsage(r, u.ForPods(), "pods", namespace)
}

// NodeUsage is the subject of the usage, r.CPU or r.Memory, of nodes.
func NodeUsage(r *rules.CompiledResource, u *rules.CompiledUsage) Subject {
	return ofUsage(r, u.ForNodes(), "nodes", "")
}

func ofUsage(r *rules.CompiledResource, asker Asker, resource, namespace string) Subject {
	return Subject{
		Asker: asker, Server: r.Server, Interval: r.Interval, MaxAge: r.MaxAge, Share: r.Share,
		Resource: schema.GroupResource{Resource: resource}, Namespace: namespace,
	}
}

// subjectKey tells apart what is asked, whichever namespace it is asked of.
type subjectKey struct {
	// asker is its Identity.
	asker    string
	series   string
	resource schema.GroupResource
	selector string
}

// subject is a Subject whose selector has its one form, and its key.
type subject struct {
	Subject

	key subjectKey
}

// errSelectsNothing is the error of labels.Nothing, which has no text of its own and
// would read as everything.
var errSelectsNothing = errors.New("the metric selector selects nothing")

// resolve is the subject with its key. The error is ErrNotReady before anything can be
// asked.
func (p *Planner) resolve(s Subject) (subject, error) {
	if !p.opts.Mapper.Known() {
		return subject{}, ErrNotReady
	}
	return resolve(s)
}

func resolve(s Subject) (subject, error) {
	selector, text, err := canonical(s.Selector)
	s.Selector = selector
	if err == nil && len(text) > maxSelector {
		err = fmt.Errorf("the metric selector has %d bytes, and may have %d at most", len(text), maxSelector)
	}
	return subject{s, subjectKey{s.Asker.Identity(), s.Series, s.Resource, text}}, err
}

// canonical gives selectors that require the same in another order, or in other signs,
// one form, so that they are one query. That of everything is nil.
func canonical(s labels.Selector) (labels.Selector, string, error) {
	if s == nil || s.Empty() {
		return nil, "", nil
	}
	requirements, selectable := s.Requirements()
	if !selectable {
		return nil, "", errSelectsNothing
	}
	byText := make(map[string]labels.Requirement, len(requirements))
	texts := make([]string, 0, len(requirements))
	for _, r := range requirements {
		operator := r.Operator()
		if operator == selection.DoubleEquals {
			operator = selection.Equals
		}
		values := slices.Compact(slices.Sorted(slices.Values(r.ValuesUnsorted())))
		if c, err := labels.NewRequirement(r.Key(), operator, values); err == nil {
			r = *c
		}
		text := r.String()
		if _, twice := byText[text]; !twice {
			texts = append(texts, text)
		}
		byText[text] = r
	}
	slices.Sort(texts)
	sorted := make([]labels.Requirement, len(texts))
	for i, text := range texts {
		sorted[i] = byText[text]
	}
	return labels.NewSelector().Add(sorted...), strings.Join(texts, ","), nil
}
