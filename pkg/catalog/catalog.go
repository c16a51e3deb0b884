// Package catalog knows which metrics exist: it watches the objects that define
// them and the HPAs that use them, keeps a snapshot for lookups, tells the engine
// what is in demand, and writes status back to the objects.
package catalog

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Metric is one metric of external.metrics.k8s.io.
type Metric struct {
	// Name is the metric's name and the namespace whose HPAs may use it.
	Name types.NamespacedName
	// Request is what to ask the engine.
	Request engine.Request
	// Zeros are the labels of the zeros that stand for no data, where somebody asked
	// for that; without any, no data is an error.
	Zeros []sources.Labels
	// Err is not nil when the definition cannot be asked, and says why.
	Err error

	// of is what defines the metric.
	of *definition
}

// snapshot is the set of ExternalMetrics and of their users at one time. It is never
// changed.
type snapshot struct {
	external table[types.NamespacedName, *Metric]
	// named is another number whenever there are other names than before.
	named uint64
	// users are the names of the HPAs that name a metric, defined or not.
	users table[types.NamespacedName, []string]
	// targets are the smallest targets of the HPAs that name a custom metric, and
	// externalTargets of those that name an external one, see the methods of asks.
	targets, externalTargets table[types.NamespacedName, float64]
	// askedBy are the metrics that ask a query, by its key.
	askedBy table[string, []*Metric]

	definitions definitionCounts
	// deferred counts the metrics that HPAs name beyond the ceiling.
	deferred int
}

// definitionCounts count ExternalMetrics.
type definitionCounts struct{ served, invalid, refused int }

// view is all that there is at one time. It is never changed.
type view struct {
	// objects are what ExternalMetrics define, if synced says that they were read.
	objects *snapshot
	synced  bool
	// rules are what the configuration's rules make.
	rules *ruleSnapshot
	// names are the external metrics of both, sorted. They are put together when somebody
	// first wants them.
	names func() []string
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
	// undefined is what HPAs name and nobody defines; nil before anybody has looked.
	undefined atomic.Pointer[undefined]
	// cold is why the catalog is not ready although it knows what there is; nil if nothing
	// keeps it.
	cold atomic.Pointer[error]
}

// External is the metric that an ExternalMetric of that name defines, or nil. It takes
// no lock.
func (c *Catalog) External(name types.NamespacedName) *Metric {
	return c.load().objects.external.get(name)
}

// ExternalNames are the names of all external metrics, those of ExternalMetrics over all
// namespaces and those that rules make, sorted, each once. The slice must not be
// written to.
func (c *Catalog) ExternalNames() []string {
	return c.load().names()
}

// len is how many external metrics there are.
func (c *Catalog) len() int { return c.load().objects.external.size }

// Users are the names of the HPAs in the metric's namespace that name the metric,
// sorted. The slice must not be written to.
func (c *Catalog) Users(metric types.NamespacedName) []string {
	return c.load().objects.users.get(metric)
}

// AskedBy are the metrics that ask the query of that key.
func (c *Catalog) AskedBy(source, key string) []types.NamespacedName {
	var names []types.NamespacedName
	for _, m := range c.load().objects.askedBy.get(key) {
		if m.Request.Source == source {
			names = append(names, m.Name)
		}
	}
	return names
}

// Ready is nil once the catalog can say which metrics exist. Without rules that takes
// the ExternalMetrics and the HPAs. With rules it can answer where those cannot be read
// because there is no CRD, or no right; see ObjectsReady.
//
// A replica that starts is not ready before what HPAs name was asked for the first time,
// for a moment at most; see warm.
func (c *Catalog) Ready() error {
	if err := c.complete(); err != nil {
		return err
	}
	if err := c.cold.Load(); err != nil {
		return *err
	}
	return nil
}

// complete is nil once the catalog can say which metrics exist.
func (c *Catalog) complete() error {
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
	return c.load().objects.targets.find(metric)
}

// LeastExternalTarget is LeastTarget for an external metric, be it of a rule or of an
// ExternalMetric.
func (c *Catalog) LeastExternalTarget(metric types.NamespacedName) (float64, bool) {
	return c.load().objects.externalTargets.find(metric)
}

var empty = &view{objects: &snapshot{}, rules: &ruleSnapshot{}, names: func() []string { return nil }}

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
	before := c.load()
	next := *before
	part(&next)
	if next.objects.named != before.objects.named || !slices.Equal(next.rules.externalNames, before.rules.externalNames) {
		of := next
		of.names = nil // It would hold the view before, and that the one before it.
		next.names = sync.OnceValue(of.listNames)
	}
	c.current.Store(&next)
}

func (v view) listNames() []string {
	names := slices.Clone(v.rules.externalNames)
	for name := range v.objects.external.all() {
		names = append(names, name.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
