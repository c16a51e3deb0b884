// Package catalog knows which metrics exist: it watches the objects that define
// them and the HPAs that use them, keeps a snapshot for lookups, tells the engine
// what is in demand, and writes status back to the objects.
package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/engine"
)

// Metric is one metric of external.metrics.k8s.io.
type Metric struct {
	// Name is the metric's name and the namespace whose HPAs may use it.
	Name types.NamespacedName
	// Request is what to ask the engine.
	Request engine.Request
	// Zeros are the labels of the zeros that stand for no data, where somebody asked
	// for that; without any, no data is an error.
	Zeros []map[string]string
	// UID and Generation are those of the object that defines the metric.
	UID        types.UID
	Generation int64
	// Err is not nil when the definition cannot be asked, and says why.
	Err error
}

// snapshot is the set of ExternalMetrics and of their users at one time. It is never
// changed.
type snapshot struct {
	external map[types.NamespacedName]*Metric
	// users are the names of the HPAs that name a metric, defined or not.
	users map[types.NamespacedName][]string
	// targets are the smallest targets of the HPAs that name a custom metric, see leastTargets.
	targets map[types.NamespacedName]float64
	// askedBy are the metrics that ask a query, by its source and key.
	askedBy map[query][]types.NamespacedName
	names   []string
}

type query struct{ source, key string }

// view is all that there is at one time. It is never changed.
type view struct {
	// objects are what ExternalMetrics define, if synced says that they were read.
	objects *snapshot
	synced  bool
	// rules are what the configuration's rules make.
	rules *ruleSnapshot
	// names are the external metrics of both, sorted.
	names []string
}

// errNotSynced is why a catalog is not ready before its first snapshot.
var errNotSynced = errors.New("the ExternalMetrics and HPAs of the cluster are not read yet")

// Catalog serves the current snapshots. The zero Catalog knows nothing and is not
// ready; a Watcher and a Discovery fill it.
type Catalog struct {
	current atomic.Pointer[view]
	writing sync.Mutex
	// objects and hpas say how reading the cluster goes.
	objects, hpas reading
}

// External is the metric that an ExternalMetric of that name defines, or nil. It takes
// no lock.
func (c *Catalog) External(name types.NamespacedName) *Metric {
	return c.load().objects.external[name]
}

// ExternalNames are the names of all external metrics, those of ExternalMetrics over all
// namespaces and those that rules make, sorted, each once. The slice must not be
// written to.
func (c *Catalog) ExternalNames() []string {
	return c.load().names
}

// len is how many external metrics there are.
func (c *Catalog) len() int { return len(c.load().objects.external) }

// Users are the names of the HPAs in the metric's namespace that name the metric,
// sorted. The slice must not be written to.
func (c *Catalog) Users(metric types.NamespacedName) []string {
	return c.load().objects.users[metric]
}

// AskedBy are the metrics that ask the query of that key. The slice must not be
// written to.
func (c *Catalog) AskedBy(source, key string) []types.NamespacedName {
	return c.load().objects.askedBy[query{source, key}]
}

// Ready is nil once the catalog can say which metrics exist. Without rules that takes
// the ExternalMetrics and the HPAs. With rules it can answer where those cannot be read
// because there is no CRD, or no right; see ObjectsReady.
func (c *Catalog) Ready() error {
	v := c.load()
	if v.synced {
		return v.rules.unready
	}
	for _, r := range []*reading{&c.objects, &c.hpas} {
		if err := r.trouble(); err != nil {
			return fmt.Errorf("%w: %w", errNotSynced, err)
		}
	}
	return errNotSynced
}

// ObjectsReady is nil once the catalog knows all ExternalMetrics, which there are
// none of in a cluster without their CRD. Before that, and where the right to read them is
// missing, a name that External does not have may be one of them; the error says why,
// and the cure.
func (c *Catalog) ObjectsReady() error { return c.objects.known() }

// ObjectsSettled is nil once a name that External does not have may be answered by what a
// rule makes: once the ExternalMetrics are known, or the API server has said that there are
// none or that the adapter may not read them. Before that one of them may have the name,
// and mean another number. It is to be called before External.
func (c *Catalog) ObjectsSettled() error {
	switch o := c.objects.load(); {
	case o.progress == synced && !c.load().synced:
		return errNotSynced // They are not in a snapshot yet.
	case o.progress != unread:
		return nil
	case o.err != nil:
		return fmt.Errorf("%w: %w", errNotSynced, o.err)
	}
	return errNotSynced
}

// LeastTarget is the smallest target by which an HPA may divide the values of a custom
// metric in a namespace to get a number of replicas; false if there is none.
func (c *Catalog) LeastTarget(metric types.NamespacedName) (float64, bool) {
	target, ok := c.load().objects.targets[metric]
	return target, ok
}

var empty = &view{objects: newSnapshot(nil, nil), rules: &ruleSnapshot{}}

func (c *Catalog) load() *view {
	if v := c.current.Load(); v != nil {
		return v
	}
	return empty
}

// setObjects replaces what ExternalMetrics define.
func (c *Catalog) setObjects(s *snapshot) {
	c.change(func(v *view) { v.objects, v.synced = s, true })
}

// setRules replaces what rules make.
func (c *Catalog) setRules(s *ruleSnapshot) {
	c.change(func(v *view) { v.rules = s })
}

func (c *Catalog) change(part func(*view)) {
	c.writing.Lock()
	defer c.writing.Unlock()
	next := *c.load()
	part(&next)
	names := slices.Concat(next.objects.names, next.rules.externalNames)
	slices.Sort(names)
	next.names = slices.Compact(names)
	c.current.Store(&next)
}

func newSnapshot(metrics []*Metric, users map[types.NamespacedName][]string) *snapshot {
	s := &snapshot{
		external: make(map[types.NamespacedName]*Metric, len(metrics)),
		askedBy:  make(map[query][]types.NamespacedName, len(metrics)),
		users:    users,
	}
	names := make(map[string]struct{}, len(metrics))
	for _, m := range metrics {
		s.external[m.Name] = m
		names[m.Name.Name] = struct{}{}
		if m.Err == nil {
			q := query{m.Request.Source, m.Request.Query.Key()}
			s.askedBy[q] = append(s.askedBy[q], m.Name)
		}
	}
	s.names = slices.Sorted(maps.Keys(names))
	return s
}

// inDemand are the requests of the metrics that HPAs name.
func (s *snapshot) inDemand() []engine.Request {
	requests := make([]engine.Request, 0, len(s.users))
	for name := range s.users {
		if m := s.external[name]; m != nil && m.Err == nil {
			requests = append(requests, m.Request)
		}
	}
	return requests
}

// changedSince are the metrics that are not as they were, the gone ones included.
func (s *snapshot) changedSince(before *snapshot) []types.NamespacedName {
	var changed []types.NamespacedName
	for name, m := range s.external {
		if before.external[name] != m || !slices.Equal(before.users[name], s.users[name]) {
			changed = append(changed, name)
		}
	}
	for name := range before.external {
		if s.external[name] == nil {
			changed = append(changed, name)
		}
	}
	return changed
}
