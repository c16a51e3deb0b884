package catalog

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
)

type nameSet map[types.NamespacedName]struct{}

func (s nameSet) add(name types.NamespacedName) { s[name] = struct{}{} }

// changes are what may be other than in the snapshot.
type changes struct {
	// all stands for everything, and what HPAs ask of rules in particular.
	all           bool
	objects, hpas nameSet
}

func newChanges() changes { return changes{objects: nameSet{}, hpas: nameSet{}} }

// note takes in an object that an informer has seen change, of which the set is one of
// the changes'.
func (c *changes) note(set nameSet, object any) {
	if c.all {
		return
	}
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		c.all = true
		return
	}
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	set.add(types.NamespacedName{Namespace: namespace, Name: name})
}

// ledger is what snapshots are made of: what ExternalMetrics define and what HPAs ask. It
// is kept, so that a snapshot costs what has changed. It belongs to Watcher.Run.
type ledger struct {
	definitions map[types.NamespacedName]*definition
	defined     tally
	// refused are the ExternalMetrics beyond the ceiling.
	refused map[types.NamespacedName]bool
	invalid int

	uses  map[types.NamespacedName]*use
	asked tally
	// deferred are the HPAs beyond the ceiling.
	deferred map[types.NamespacedName]bool

	// external and custom are the names of the HPAs that name a metric, in no order.
	external, custom map[types.NamespacedName][]string
	// pins are the requests of the ExternalMetrics that HPAs name, and planned those of the
	// plan of what they ask of rules.
	pins    map[types.NamespacedName]engine.Request
	planned []engine.Request
}

func newLedger() *ledger {
	return &ledger{
		definitions: map[types.NamespacedName]*definition{}, defined: newTally(),
		uses: map[types.NamespacedName]*use{}, asked: newTally(),
		external: map[types.NamespacedName][]string{}, custom: map[types.NamespacedName][]string{},
		pins: map[types.NamespacedName]engine.Request{},
	}
}

// definition is what was made of one generation of an object.
type definition struct {
	uid        types.UID
	generation int64
	noData     string
	created    time.Time
	amount     amount
	metric     *Metric
}

// use is what one HPA asks for.
type use struct {
	*scaler

	names   []string
	targets []target
	amount  amount
	// demands and requests are what it asks of rules.
	demands  []plan.Demand
	requests []engine.Request
}

// draft is a snapshot that is being made.
type draft struct {
	*snapshot

	external *edit[types.NamespacedName, *Metric]
	users    *edit[types.NamespacedName, []string]
	targets  *edit[types.NamespacedName, float64]
	askedBy  *edit[query, []types.NamespacedName]
	// defined are the ExternalMetrics that changed, and used and targeted the external and
	// the custom metrics that HPAs name otherwise than before.
	defined, used, targeted nameSet
	// replan says that HPAs ask something else of rules.
	replan bool
}

func (s *snapshot) draft() *draft {
	next := *s
	return &draft{
		snapshot: &next,
		external: s.external.edit(), users: s.users.edit(), targets: s.targets.edit(), askedBy: s.askedBy.edit(),
		defined: nameSet{}, used: nameSet{}, targeted: nameSet{},
	}
}

func (d *draft) done() *snapshot {
	s := d.snapshot
	s.external, s.users, s.targets, s.askedBy = d.external.table, d.users.table, d.targets.table, d.askedBy.table
	return s
}

// setMetric replaces a metric, which is nil if there is none any more.
func (d *draft) setMetric(name types.NamespacedName, m *Metric) {
	before := d.external.get(name)
	if (before == nil) != (m == nil) {
		d.named++
	}
	if before != nil && before.Err == nil {
		q := query{before.Request.Source, before.Request.Query.Key()}
		rest := slices.DeleteFunc(slices.Clone(d.askedBy.get(q)), func(n types.NamespacedName) bool { return n == name })
		if len(rest) > 0 {
			d.askedBy.set(q, rest)
		} else {
			d.askedBy.remove(q)
		}
	}
	if m == nil {
		d.external.remove(name)
		return
	}
	d.external.set(name, m)
	if m.Err == nil {
		q := query{m.Request.Source, m.Request.Query.Key()}
		d.askedBy.set(q, append(slices.Clone(d.askedBy.get(q)), name))
	}
}

// define takes in the ExternalMetrics of those names.
func (w *Watcher) define(d *draft, names iter.Seq[types.NamespacedName]) {
	l := w.ledger
	for name := range names {
		object, before := w.record(name), l.definitions[name]
		if before == nil {
			before = &definition{}
		}
		switch {
		case object == nil:
			delete(l.definitions, name)
			l.defined.change(name.Namespace, before.amount, amount{})
		case before.describes(object):
			continue
		default:
			now := newDefinition(object, w.defaults)
			l.definitions[name] = now
			l.defined.change(name.Namespace, before.amount, now.amount)
		}
		d.defined.add(name)
	}
	w.refuse(d)
	for name := range d.defined {
		var m *Metric
		if of := l.definitions[name]; of != nil {
			m = of.metric
		}
		before := d.external.get(name)
		l.invalid += invalid(m) - invalid(before)
		d.setMetric(name, m)
	}
}

// invalid is 1 for a metric that cannot be asked, but for one that is refused.
func invalid(m *Metric) int {
	if m == nil || m.Err == nil || m.Err == errTooMany { //nolint:errorlint // It is that very one.
		return 0
	}
	return 1
}

// refuse makes the definitions beyond the ceiling errors, and those definitions again for
// which there is room.
func (w *Watcher) refuse(d *draft) {
	l := w.ledger
	if l.defined.within(w.ceilings.definitions) && len(l.refused) == 0 {
		return
	}
	claims := make([]claim, 0, len(l.definitions))
	for name, of := range l.definitions {
		claims = append(claims, claim{name, of.created, of.amount})
	}
	before := l.refused
	l.refused = refused(claims, w.ceilings.definitions)
	for name := range l.refused {
		of := l.definitions[name]
		if of.metric.Err != errTooMany { //nolint:errorlint // It is that very one.
			of.metric = &Metric{Name: name, UID: of.uid, Generation: of.generation, Err: errTooMany}
			d.defined.add(name)
		}
	}
	for name := range before {
		if object := w.record(name); object != nil && !l.refused[name] {
			l.definitions[name] = newDefinition(object, w.defaults)
			d.defined.add(name)
		}
	}
}

func (d *definition) describes(object *record) bool {
	return d.metric != nil && d.uid == object.UID && d.generation == object.Generation && d.noData == object.Annotations[metricsaws.AnnotationNoData]
}

func newDefinition(object *record, defaults Defaults) *definition {
	d := &definition{
		uid: object.UID, generation: object.Generation, noData: object.Annotations[metricsaws.AnnotationNoData],
		created: object.CreationTimestamp.Time, amount: amount{1, sizeOf(object.Spec.Queries)},
	}
	if object.err != nil {
		d.metric = newMetric(object)
		d.metric.Err = object.err
	} else {
		d.metric = fromExternalMetric(object.ExternalMetric, defaults)
	}
	return d
}

// sizeOf is how long the texts of queries are together.
func sizeOf(queries []metricsaws.MetricDataQuery) int {
	n := 0
	for _, q := range queries {
		n += len(q.ID) + len(q.Expression) + len(q.Label)
		if s := q.MetricStat; s != nil {
			n += len(s.Metric.Namespace) + len(s.Metric.MetricName) + len(s.Stat) + len(s.Unit)
			for _, dimension := range s.Metric.Dimensions {
				n += len(dimension.Name) + len(dimension.Value)
			}
		}
	}
	return n
}

// use takes in the HPAs of those names.
func (w *Watcher) use(ctx context.Context, d *draft, names nameSet) {
	l := w.ledger
	for name := range names {
		before := l.uses[name]
		if before == nil {
			before = &use{}
		}
		now := w.useOf(name)
		l.asked.change(name.Namespace, before.amount, now.amount)
		l.renameUser(name, before.names, now.names, l.external, d.used)
		l.renameUser(name, metricsOf(before.targets), metricsOf(now.targets), l.custom, nil)
		for _, t := range slices.Concat(before.targets, now.targets) {
			d.targeted.add(types.NamespacedName{Namespace: name.Namespace, Name: t.metric})
		}
		d.replan = d.replan || len(before.demands) > 0
		if now.scaler == nil {
			delete(l.uses, name)
		} else {
			l.uses[name] = now
		}
	}
	w.deferAsks(names)
	for name := range names {
		if u := l.uses[name]; u != nil {
			d.replan = d.replan || len(u.demands) > 0
			u.demands, u.requests = w.resolve(ctx, u.scaler, l.deferred[name])
			d.replan = d.replan || len(u.demands) > 0
		}
	}
}

// useOf is what the HPA of that name asks for, without what that is of rules. It is empty
// if there is none.
func (w *Watcher) useOf(name types.NamespacedName) *use {
	hpa := w.hpa(name)
	if hpa == nil {
		return &use{}
	}
	u := &use{scaler: hpa, names: hpa.externals(), targets: hpa.targets()}
	for _, m := range hpa.metrics {
		u.amount = u.amount.plus(w.amountOf(name.Namespace, m))
	}
	return u
}

// renameUser replaces the metrics that an HPA names in an index, and notes them.
func (l *ledger) renameUser(hpa types.NamespacedName, before, now []string, index map[types.NamespacedName][]string, changed nameSet) {
	for _, metric := range before {
		if _, still := slices.BinarySearch(now, metric); still {
			continue
		}
		key := types.NamespacedName{Namespace: hpa.Namespace, Name: metric}
		users := index[key]
		last := len(users) - 1
		users[slices.Index(users, hpa.Name)] = users[last]
		if index[key] = users[:last]; last == 0 {
			delete(index, key)
		}
		changed.maybe(key)
	}
	for _, metric := range now {
		if _, was := slices.BinarySearch(before, metric); was {
			continue
		}
		key := types.NamespacedName{Namespace: hpa.Namespace, Name: metric}
		index[key] = append(index[key], hpa.Name)
		changed.maybe(key)
	}
}

// maybe adds a name unless there is no set.
func (s nameSet) maybe(name types.NamespacedName) {
	if s != nil {
		s.add(name)
	}
}

func metricsOf(targets []target) []string {
	metrics := make([]string, len(targets))
	for i, t := range targets {
		metrics[i] = t.metric
	}
	return metrics
}

// deferAsks finds the HPAs beyond the ceiling, and adds those to names of which that is
// news.
func (w *Watcher) deferAsks(names nameSet) {
	l := w.ledger
	if l.asked.within(w.ceilings.asks) && len(l.deferred) == 0 {
		return
	}
	var claims []claim
	for name, u := range l.uses {
		if u.amount.count > 0 {
			claims = append(claims, claim{name, u.CreationTimestamp.Time, u.amount})
		}
	}
	before := l.deferred
	l.deferred = refused(claims, w.ceilings.asks)
	for _, of := range [][2]map[types.NamespacedName]bool{{before, l.deferred}, {l.deferred, before}} {
		for name := range of[0] {
			if !of[1][name] {
				names.add(name)
			}
		}
	}
}

// asksDeferred are how many metrics that HPAs name are not asked before they are read.
func (l *ledger) asksDeferred() int {
	n := 0
	for name := range l.deferred {
		n += l.uses[name].amount.count
	}
	return n
}

// tables brings the tables of users and targets up to date, and the pins.
func (l *ledger) tables(d *draft) {
	for metric := range d.used {
		if names := l.external[metric]; len(names) > 0 {
			d.users.set(metric, slices.Sorted(slices.Values(names)))
		} else {
			d.users.remove(metric)
		}
		l.pin(d, metric)
	}
	for metric := range d.defined {
		l.pin(d, metric)
	}
	for metric := range d.targeted {
		if least, ok := l.leastTarget(metric); ok {
			d.targets.set(metric, least)
		} else {
			d.targets.remove(metric)
		}
	}
}

// pin keeps whether an external metric is in demand.
func (l *ledger) pin(d *draft, metric types.NamespacedName) {
	if m := d.external.get(metric); m != nil && m.Err == nil && len(l.external[metric]) > 0 {
		l.pins[metric] = m.Request
	} else {
		delete(l.pins, metric)
	}
}

// leastTarget is the smallest target of the HPAs that name a custom metric.
func (l *ledger) leastTarget(metric types.NamespacedName) (least float64, ok bool) {
	for _, hpa := range l.custom[metric] {
		for _, t := range l.uses[types.NamespacedName{Namespace: metric.Namespace, Name: hpa}].targets {
			if t.metric == metric.Name && (!ok || t.value < least) {
				least, ok = t.value, true
			}
		}
	}
	return least, ok
}

// demands are what all HPAs ask of rules.
func (l *ledger) demands() []plan.Demand {
	n := 0
	for _, u := range l.uses {
		n += len(u.demands)
	}
	demands := make([]plan.Demand, 0, n)
	for _, u := range l.uses {
		demands = append(demands, u.demands...)
	}
	return demands
}

// requests are what is in demand because HPAs name it.
func (l *ledger) requests() []engine.Request {
	requests := make([]engine.Request, 0, len(l.pins)+len(l.planned)+len(l.uses))
	requests = slices.AppendSeq(requests, maps.Values(l.pins))
	for _, u := range l.uses {
		requests = append(requests, u.requests...)
	}
	return append(requests, l.planned...)
}

// rebuild makes a snapshot of all that the informers hold.
func (w *Watcher) rebuild(ctx context.Context) { w.build(ctx, changes{all: true}) }

// build makes a snapshot in which the changes count, and pins what HPAs name.
func (w *Watcher) build(ctx context.Context, c changes) {
	l, v := w.ledger, w.catalog.load()
	if d := w.renewed.Swap(nil); d != nil {
		w.defaults, c.all = *d, true
		for _, of := range l.definitions {
			of.metric = nil
		}
	}
	d := v.objects.draft()
	if c.all {
		c.objects, c.hpas = namesIn[*record](w.objects, l.definitions), namesIn[*scaler](w.hpas, l.uses)
	}
	w.define(d, maps.Keys(c.objects))
	for name := range d.defined {
		if (d.external.get(name) == nil) != (v.objects.external.get(name) == nil) {
			// What it stands for counts before what a rule makes.
			for _, hpa := range l.external[name] {
				c.hpas.add(types.NamespacedName{Namespace: name.Namespace, Name: hpa})
			}
		}
	}
	w.use(ctx, d, c.hpas)
	l.tables(d)
	if c.all || d.replan {
		l.planned = w.plan(l.demands())
	}
	d.definitions = definitionCounts{served: len(l.definitions) - len(l.refused) - l.invalid, invalid: l.invalid, refused: len(l.refused)}
	d.deferred = l.asksDeferred()
	now := d.done()
	if c.all || len(c.hpas) > 0 || l.anyUsed(d.defined) {
		requests := l.requests()
		if w.catalog.cold.Load() != nil {
			w.pinned.Store(&requests)
		}
		w.pinner.Pin(requests)
	}
	w.catalog.setObjects(now)
	w.onChange(changed(d, v.objects))
	w.tell(ctx, d, c.all)
	tellCeilings(ctx, v.objects, now)
	klog.FromContext(ctx).V(2).Info("Metrics known", "externalMetrics", now.external.size, "usedByHPAs", now.users.size)
}

// tellCeilings logs when there comes to be too much of something, and when that is over.
func tellCeilings(ctx context.Context, before, now *snapshot) {
	log := klog.FromContext(ctx)
	switch was, is := before.definitions.refused, now.definitions.refused; {
	case was == 0 && is > 0:
		log.Info("Some ExternalMetrics are refused", "refused", is, "reason", errTooMany)
	case was > 0 && is == 0:
		log.Info("No ExternalMetrics are refused any more")
	}
	switch was, is := before.deferred, now.deferred; {
	case was == 0 && is > 0:
		log.Info("HPAs name too many metrics by objects or with selectors: the youngest are asked only once they are read",
			"metrics", is, "most", maxAsks, "cure", "limit namespaces by a ResourceQuota of count/horizontalpodautoscalers.autoscaling")
	case was > 0 && is == 0:
		log.Info("All metrics that HPAs name are asked before they are read again")
	}
}

// anyUsed says whether HPAs name one of the external metrics.
func (l *ledger) anyUsed(metrics nameSet) bool {
	for name := range metrics {
		if len(l.external[name]) > 0 {
			return true
		}
	}
	return false
}

// changed are the metrics that are not as they were in the snapshot before, the gone ones
// included.
func changed(d *draft, before *snapshot) []types.NamespacedName {
	names := slices.Collect(maps.Keys(d.defined))
	for name := range d.used {
		_, listed := d.defined[name]
		if !listed && (d.external.get(name) != nil || before.external.get(name) != nil) {
			names = append(names, name)
		}
	}
	return names
}

// namesIn are the names of what an informer of T holds, and of what is known of them.
func namesIn[T metav1.Object, K any](informer cache.SharedIndexInformer, known map[types.NamespacedName]K) nameSet {
	names := nameSet{}
	for _, o := range stored[T](informer) {
		names.add(nameOf(o))
	}
	for name := range known {
		names.add(name)
	}
	return names
}
