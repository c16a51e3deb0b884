package objects

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// memory holds the names and labels of the objects of one resource. Objects of a
// namespace with equal labels, as the pods of a Deployment are, share them: such a pod
// takes 150 bytes, one of a StatefulSet 600, and either in an informer a kilobyte (see
// BenchmarkMemory). A cache.Reflector fills it.
type memory struct {
	// replaced is called when all objects were read.
	replaced func()

	mu         sync.RWMutex
	namespaces map[string]*namespace
	count      int
	// version is another one after each change.
	version uint64
}

// namespace is the objects of a namespace, or all objects of a resource that has none.
type namespace struct {
	groups map[uint64]*labelled
	// of says where an object is, by its name.
	of map[string]*labelled
	// version is another one after each change.
	version uint64
}

// labelled are objects with equal labels.
type labelled struct {
	key    uint64
	labels labels.Set
	names  []string
}

var _ cache.TransformingStore = (*memory)(nil)

func newMemory(replaced func()) *memory {
	return &memory{replaced: replaced, namespaces: map[string]*namespace{}}
}

// list gives the objects that the selector matches, in no order. An empty namespace is
// all of them.
func (m *memory) list(in string, selector labels.Selector) []Object {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []Object
	if in != "" {
		return m.namespaces[in].list(found, in, selector)
	}
	for name, n := range m.namespaces {
		found = n.list(found, name, selector)
	}
	return found
}

func (n *namespace) list(found []Object, in string, selector labels.Selector) []Object {
	if n == nil {
		return found
	}
	for _, g := range n.groups {
		if !selector.Matches(g.labels) {
			continue
		}
		found = slices.Grow(found, len(g.names))
		for _, name := range g.names {
			found = append(found, Object{Namespace: in, Name: name, Labels: g.labels})
		}
	}
	return found
}

// get is the object of that name, if there is one.
func (m *memory) get(in, name string) (Object, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.namespaces[in]
	if n == nil || n.of[name] == nil {
		return Object{}, false
	}
	return Object{Namespace: in, Name: name, Labels: n.of[name].labels}, true
}

// size is how many objects there are in a namespace, in all of them if it is empty.
func (m *memory) size(in string) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if in == "" {
		return m.count
	}
	if n := m.namespaces[in]; n != nil {
		return len(n.of)
	}
	return 0
}

// versions counts the changes of all memories, so that no two states have one version but
// that of no objects at all, which is zero.
var versions atomic.Uint64

// versionOf is that of the objects of a namespace, of all of them if it is empty.
func (m *memory) versionOf(in string) uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if in == "" {
		return m.version
	}
	if n := m.namespaces[in]; n != nil {
		return n.version
	}
	return 0
}

// Add implements cache.ReflectorStore.
func (m *memory) Add(o any) error {
	object, err := toObject(o)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(object)
	return nil
}

// Update implements cache.ReflectorStore.
func (m *memory) Update(o any) error { return m.Add(o) }

// Delete implements cache.ReflectorStore.
func (m *memory) Delete(o any) error {
	object, err := toObject(o)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(object.Namespace, object.Name)
	return nil
}

// Replace implements cache.ReflectorStore.
func (m *memory) Replace(all []any, _ string) error {
	next := newMemory(nil)
	for _, o := range all {
		object, err := toObject(o)
		if err != nil {
			return err
		}
		next.put(object)
	}
	m.mu.Lock()
	m.namespaces, m.count, m.version = next.namespaces, next.count, next.version
	m.mu.Unlock()
	m.replaced()
	return nil
}

// Resync implements cache.ReflectorStore.
func (*memory) Resync() error { return nil }

// Transformer implements cache.TransformingStore: what the first read of all objects
// gathers is as small as it can be.
func (*memory) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return toObject(o) }
}

// put makes or changes an object.
func (m *memory) put(o Object) {
	n := m.namespaces[o.Namespace]
	if n == nil {
		n = &namespace{groups: map[uint64]*labelled{}, of: map[string]*labelled{}}
		m.namespaces[o.Namespace] = n
	}
	if before := n.of[o.Name]; before != nil {
		if maps.Equal(before.labels, o.Labels) {
			return
		}
		m.remove(o.Namespace, o.Name)
		// It may have been the last of its namespace.
		m.namespaces[o.Namespace] = n
	}
	g := n.group(o.Labels)
	g.names = append(g.names, o.Name)
	n.of[o.Name] = g
	m.count++
	n.version, m.version = versions.Add(1), versions.Add(1)
}

func (m *memory) remove(in, name string) {
	n := m.namespaces[in]
	if n == nil || n.of[name] == nil {
		return
	}
	g := n.of[name]
	delete(n.of, name)
	last := len(g.names) - 1
	g.names[slices.Index(g.names, name)] = g.names[last]
	g.names[last] = ""
	g.names = g.names[:last]
	if last == 0 {
		delete(n.groups, g.key)
	}
	if len(n.of) == 0 {
		delete(m.namespaces, in)
	}
	m.count--
	n.version, m.version = versions.Add(1), versions.Add(1)
}

// group is the group of the objects with those labels. Its key is their hash, or the
// next number that is free. Two groups of equal labels, as may be after one between them
// was removed, do no harm.
func (n *namespace) group(set labels.Set) *labelled {
	for key := hash(set); ; key++ {
		g := n.groups[key]
		if g == nil {
			g = &labelled{key: key, labels: set}
			n.groups[key] = g
		}
		if maps.Equal(g.labels, set) {
			return g
		}
	}
}

var seed = maphash.MakeSeed()

func hash(set labels.Set) uint64 {
	var sum uint64
	for name, value := range set {
		sum += maphash.Comparable(seed, [2]string{name, value})
	}
	return sum
}

func toObject(o any) (Object, error) {
	switch o := o.(type) {
	case Object:
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return toObject(o.Obj)
	}
	object, err := meta.Accessor(o)
	if err != nil {
		return Object{}, fmt.Errorf("object of the API server: %w", err)
	}
	return Object{Namespace: object.GetNamespace(), Name: object.GetName(), Labels: object.GetLabels()}, nil
}
