package provider

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"unsafe"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
)

// usageKey is of which objects a reader asks the usage.
type usageKey struct {
	resource  schema.GroupResource
	namespace string
	// selector is its text.
	selector string
}

// own is the key without any part of a request.
func (k usageKey) own() usageKey {
	k.namespace, k.selector = strings.Clone(k.namespace), strings.Clone(k.selector)
	return k
}

// usages are what was made for a reader, with everything that it was made of and that
// usageKey does not say: while that is the same, so are they.
type usages struct {
	// version is that of the objects.
	version uint64
	of      chosen
	// cpu and memory are the IDs of their readings.
	cpu, memory uint64
	rules       *rules.CompiledResource
	// found must not be written to: readers share it.
	found []usage
}

// chosen are objects that were asked for, sorted by namespace and name.
type chosen struct {
	objects []objects.Object
	// names are theirs.
	names *plan.Names
}

func newChosen(of []objects.Object) chosen {
	names := make([]string, len(of))
	for i, o := range of {
		names[i] = o.Name
	}
	return chosen{of, plan.NewNames(names...)}
}

// key is what usages of the objects are kept by; false if they cannot be.
func (a asked) key(selector labels.Selector, keep func(objects.Object) bool) (usageKey, bool) {
	text, ok := textOf(selector)
	return usageKey{a.resource, a.namespace, text}, ok && keep == nil && !a.everywhere()
}

// keptOrMade are the usages of the objects that the selector matches and the filter keeps,
// if there is one. They are made anew when something of what they are made of is another.
// The engine is asked in any case, which knows when an answer is too old, and has to know
// what is read.
func (p *Resource) keptOrMade(ctx context.Context, a asked, selector labels.Selector, keep func(objects.Object) bool) ([]usage, error) {
	var before *usages
	key, keeps := a.key(selector, keep)
	if keeps {
		before = p.kept.get(key)
	}
	next, err := p.selected(ctx, a, selector, keep, before)
	if err != nil || len(next.of.objects) == 0 {
		return nil, err
	}
	r, err := p.read(ctx, a, next.of)
	if err != nil {
		return nil, err
	}
	next.cpu, next.memory, next.rules = r.cpu.ID, r.memory.ID, a.rules
	if before != nil && before.madeOf(next) {
		p.reads.answered(resourceAPI, true)
		return before.found, nil
	}
	var left error
	next.found, left = r.usages(ctx, a, next.of.objects)
	if len(next.found) == 0 {
		if errors.Is(left, errNoUsage) {
			left = nil
		}
		return nil, left // An HPA that gets nothing holds its replicas; an error lets it say why.
	}
	p.reads.answered(resourceAPI, false)
	if keeps && next.version != 0 && next.cpu != 0 && next.memory != 0 {
		p.kept.put(key, usageKey.own, &next, next.size(key))
	}
	return next.found, nil
}

// selected are the objects that the selector matches, which are those of before as long as
// none has changed.
func (p *Resource) selected(ctx context.Context, a asked, selector labels.Selector, keep func(objects.Object) bool, before *usages) (usages, error) {
	// Objects that change from now on are of a later version, and looked for again.
	version, err := p.objects.Version(ctx, a.resource, a.namespace)
	if err != nil {
		return usages{}, err
	}
	if before != nil && before.version == version {
		return usages{version: version, of: before.of}, nil
	}
	found, err := p.objects.List(ctx, a.resource, a.namespace, selector)
	if err != nil {
		return usages{}, err
	}
	if keep != nil {
		found = slices.DeleteFunc(found, func(o objects.Object) bool { return !keep(o) })
	}
	slices.SortFunc(found, func(a, b objects.Object) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return usages{version: version, of: newChosen(found)}, nil
}

// madeOf says that u is made of the same as next is to be.
func (u *usages) madeOf(next usages) bool {
	return u.version == next.version && u.cpu == next.cpu && u.memory == next.memory && u.rules == next.rules
}

// size is about how many bytes it takes to keep u.
func (u *usages) size(k usageKey) int {
	const one, object = int(unsafe.Sizeof(usage{})), int(unsafe.Sizeof(objects.Object{})) + int(unsafe.Sizeof(""))
	// A container has a map of two quantities.
	const each = int(unsafe.Sizeof(container{})) + 512
	bytes := overhead + len(k.namespace) + 2*len(k.selector) + len(u.of.objects)*object
	for _, of := range u.found {
		bytes += one + len(of.containers)*each
	}
	return bytes
}
