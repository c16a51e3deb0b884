package catalog

import (
	"context"
	"iter"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
)

type nameSet map[types.NamespacedName]struct{}

func (s nameSet) add(name types.NamespacedName) { s[name] = struct{}{} }

// addTargets adds the metrics in a namespace that have targets.
func (s nameSet) addTargets(namespace string, targets ...[]target) {
	for _, t := range slices.Concat(targets...) {
		s.add(types.NamespacedName{Namespace: namespace, Name: t.metric})
	}
}

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
	defined tally
	// refused are the ExternalMetrics beyond the ceiling.
	refused map[types.NamespacedName]bool
	invalid int

	uses  map[types.NamespacedName]*use
	asked tally
	// deferred are the HPAs beyond the ceiling.
	deferred map[types.NamespacedName]bool

	// custom are the names of the HPAs that name a custom metric, in no order.
	custom map[types.NamespacedName][]string
	// planned are the requests of the plan of what HPAs ask of rules.
	planned []engine.Request
}

func newLedger() *ledger {
	return &ledger{
		defined: newTally(), asked: newTally(),
		uses: map[types.NamespacedName]*use{}, custom: map[types.NamespacedName][]string{},
	}
}

// use is what one HPA asks for.
type use struct {
	*asks

	replicas int32
	amount   amount
	// ofRules is nil if that is nothing.
	ofRules *ofRules
}

// ofRules is what an HPA asks of rules.
type ofRules struct {
	demands  []plan.Demand
	requests []engine.Request
}

// names are the external metrics that the HPA names, and targets and externalTargets its
// targets: none of no HPA.
func (u *use) names() []string {
	if u.asks == nil {
		return nil
	}
	return u.externals()
}

func (u *use) targets() []target {
	if u.asks == nil {
		return nil
	}
	return u.asks.targets()
}

func (u *use) externalTargets() []target {
	if u.asks == nil {
		return nil
	}
	return u.asks.externalTargets()
}

func (u *use) demands() []plan.Demand {
	if u.ofRules == nil {
		return nil
	}
	return u.ofRules.demands
}

// draft is a snapshot that is being made.
type draft struct {
	*snapshot

	external *edit[types.NamespacedName, *Metric]
	users    *edit[types.NamespacedName, []string]
	askedBy  *edit[string, []*Metric]
	// targets and externalTargets are those of custom and of external metrics.
	targets, externalTargets *edit[types.NamespacedName, float64]
	// defined are the ExternalMetrics that changed, targeted the custom metrics that HPAs
	// name otherwise than before, and externallyTargeted the external ones of which they have
	// other targets.
	defined, targeted, externallyTargeted nameSet
	// used are the names of the HPAs, in no order, of external metrics that HPAs name otherwise
	// than before.
	used map[types.NamespacedName][]string
	// asking are the metrics, in no order, of queries that others ask than before.
	asking map[string][]*Metric
	// redefine says that the ExternalMetrics mean something else, though they are the same.
	redefine bool
	// replan says that HPAs ask something else of rules.
	replan bool
}

func (s *snapshot) draft() *draft {
	next := *s
	return &draft{
		snapshot: &next,
		external: s.external.edit(), users: s.users.edit(), askedBy: s.askedBy.edit(),
		targets: s.targets.edit(), externalTargets: s.externalTargets.edit(),
		defined: nameSet{}, targeted: nameSet{}, externallyTargeted: nameSet{}, used: map[types.NamespacedName][]string{},
		asking: map[string][]*Metric{},
	}
}

func (d *draft) done() *snapshot {
	s := d.snapshot
	for key, metrics := range d.asking {
		if len(metrics) > 0 {
			d.askedBy.set(key, metrics)
		} else {
			d.askedBy.remove(key)
		}
	}
	s.external, s.users, s.askedBy = d.external.table, d.users.table, d.askedBy.table
	s.targets, s.externalTargets = d.targets.table, d.externalTargets.table
	return s
}

// setMetric replaces a metric, which is nil if there is none any more.
func (d *draft) setMetric(name types.NamespacedName, m *Metric) {
	before := d.external.get(name)
	if (before == nil) != (m == nil) {
		d.named++
	}
	if before != nil && before.Err == nil {
		key, asking := d.askingOf(before)
		last := len(asking) - 1
		asking[slices.Index(asking, before)] = asking[last]
		d.asking[key] = slices.Delete(asking, last, last+1)
	}
	if m == nil {
		d.external.remove(name)
		return
	}
	d.external.set(name, m)
	if m.Err == nil {
		key, asking := d.askingOf(m)
		d.asking[key] = append(asking, m)
	}
}

// askingOf are the metrics that ask m's query, in a slice that is the draft's own.
func (d *draft) askingOf(m *Metric) (key string, asking []*Metric) {
	key = m.Request.Query.Key()
	if asking, own := d.asking[key]; own {
		return key, asking
	}
	return key, slices.Clone(d.askedBy.get(key))
}

// define takes in the ExternalMetrics of those names.
func (w *Watcher) define(d *draft, names iter.Seq[types.NamespacedName]) {
	l := w.ledger
	for name := range names {
		object, before := w.record(name), d.external.get(name)
		var was, is amount
		if before != nil {
			was = before.of.amount()
		}
		switch {
		case object == nil:
			l.define(d, name, nil)
		case before != nil && !d.redefine && before.of.describes(object.UID, object.generation, object.annotation):
			continue
		default:
			is = object.amount()
			l.define(d, name, newMetric(object.definition, w.defaults))
		}
		l.defined.change(name.Namespace, was, is)
	}
	w.refuse(d)
}

// define replaces a metric, which is nil if there is none any more.
func (l *ledger) define(d *draft, name types.NamespacedName, m *Metric) {
	l.invalid += invalid(m) - invalid(d.external.get(name))
	d.defined.add(name)
	d.setMetric(name, m)
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
	claims := make([]claim, 0, d.external.size)
	for name, m := range d.external.all() {
		claims = append(claims, claim{name, m.of.createdAt(), m.of.amount()})
	}
	before := l.refused
	l.refused = refused(claims, w.ceilings.definitions)
	for name := range l.refused {
		if m := d.external.get(name); m.Err != errTooMany { //nolint:errorlint // It is that very one.
			l.define(d, name, refusedMetric(m.of))
		}
	}
	for name := range before {
		if m := d.external.get(name); m != nil && !l.refused[name] {
			l.define(d, name, newMetric(m.of, w.defaults))
		}
	}
}

// use takes in the HPAs of those names.
func (w *Watcher) use(ctx context.Context, d *draft, names nameSet) {
	l := w.ledger
	for name := range names {
		before := l.uses[name]
		if before == nil {
			before = &use{}
		}
		now := w.useOf(d, name)
		l.asked.change(name.Namespace, before.amount, now.amount)
		rename(d, name, before.names(), now.names())
		was, is := before.targets(), now.targets()
		rename(l, name, metricsOf(was), metricsOf(is))
		d.targeted.addTargets(name.Namespace, was, is)
		d.externallyTargeted.addTargets(name.Namespace, before.externalTargets(), now.externalTargets())
		d.replan = d.replan || len(before.demands()) > 0
		if now.asks == nil {
			delete(l.uses, name)
		} else {
			l.uses[name] = now
		}
	}
	w.deferAsks(names)
	for name := range names {
		if u := l.uses[name]; u != nil {
			d.replan = d.replan || len(u.demands()) > 0
			u.ofRules = w.resolve(ctx, d, u, l.deferred[name])
			d.replan = d.replan || len(u.demands()) > 0
		}
	}
}

// useOf is what the HPA of that name asks for, without what that is of rules. It is empty
// if there is none.
func (w *Watcher) useOf(d *draft, name types.NamespacedName) *use {
	hpa := w.hpa(name)
	if hpa == nil {
		return &use{}
	}
	u := &use{asks: hpa.asks, replicas: hpa.replicas}
	for _, m := range hpa.metrics {
		u.amount = u.amount.plus(d.amountOf(name.Namespace, m))
	}
	return u
}

// roster has the names of the HPAs that name a metric.
type roster interface {
	// usersOf gives them in a slice that is the caller's, for setUsers.
	usersOf(metric types.NamespacedName) []string
	setUsers(metric types.NamespacedName, hpas []string)
}

func (d *draft) usersOf(metric types.NamespacedName) []string {
	if hpas, own := d.used[metric]; own {
		return hpas
	}
	return slices.Clone(d.users.get(metric))
}

func (d *draft) setUsers(metric types.NamespacedName, hpas []string) { d.used[metric] = hpas }

func (l *ledger) usersOf(metric types.NamespacedName) []string { return l.custom[metric] }

func (l *ledger) setUsers(metric types.NamespacedName, hpas []string) {
	if l.custom[metric] = hpas; len(hpas) == 0 {
		delete(l.custom, metric)
	}
}

// rename replaces the metrics that an HPA names, which are sorted.
func rename(in roster, hpa types.NamespacedName, before, now []string) {
	for _, metric := range before {
		if _, still := slices.BinarySearch(now, metric); still {
			continue
		}
		key := types.NamespacedName{Namespace: hpa.Namespace, Name: metric}
		users := in.usersOf(key)
		last := len(users) - 1
		users[slices.Index(users, hpa.Name)] = users[last]
		in.setUsers(key, users[:last])
	}
	for _, metric := range now {
		if _, was := slices.BinarySearch(before, metric); was {
			continue
		}
		key := types.NamespacedName{Namespace: hpa.Namespace, Name: metric}
		in.setUsers(key, append(in.usersOf(key), hpa.Name))
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
			claims = append(claims, claim{name, u.createdAt(), u.amount})
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

// tables brings the tables of users and targets up to date.
func (l *ledger) tables(d *draft) {
	for metric, names := range d.used {
		if len(names) > 0 {
			slices.Sort(names)
			d.users.set(metric, names)
		} else {
			d.users.remove(metric)
		}
	}
	for metric := range d.targeted {
		l.setLeast(d.targets, metric, l.custom[metric], (*use).targets)
	}
	for metric := range d.externallyTargeted {
		l.setLeast(d.externalTargets, metric, d.users.get(metric), (*use).externalTargets)
	}
}

// setLeast brings the smallest target of a metric up to date, which those HPAs name.
func (l *ledger) setLeast(in *edit[types.NamespacedName, float64], metric types.NamespacedName, hpas []string, targetsOf func(*use) []target) {
	least, ok := 0.0, false
	for _, hpa := range hpas {
		for _, t := range targetsOf(l.uses[types.NamespacedName{Namespace: metric.Namespace, Name: hpa}]) {
			if t.metric == metric.Name && (!ok || t.value < least) {
				least, ok = t.value, true
			}
		}
	}
	if ok {
		in.set(metric, least)
	} else {
		in.remove(metric)
	}
}

// demands are what all HPAs ask of rules.
func (l *ledger) demands() []plan.Demand {
	n := 0
	for _, u := range l.uses {
		n += len(u.demands())
	}
	demands := make([]plan.Demand, 0, n)
	for _, u := range l.uses {
		demands = append(demands, u.demands()...)
	}
	return demands
}

// requests are what is in demand because HPAs name it.
func (l *ledger) requests(d *draft) []engine.Request {
	requests := make([]engine.Request, 0, d.users.size+len(l.planned))
	for metric := range d.users.all() {
		if m := d.external.get(metric); m != nil && m.Err == nil {
			requests = append(requests, m.Request)
		}
	}
	for _, u := range l.uses {
		if u.ofRules != nil {
			requests = append(requests, u.ofRules.requests...)
		}
	}
	return append(requests, l.planned...)
}

// rebuild makes a snapshot of all that the informers hold.
func (w *Watcher) rebuild(ctx context.Context) { w.build(ctx, changes{all: true}) }

// build makes a snapshot in which the changes count, and pins what HPAs name.
func (w *Watcher) build(ctx context.Context, c changes) {
	l, v, began := w.ledger, w.catalog.load(), w.warming.Load()
	d := v.objects.draft()
	if renewed := w.renewed.Swap(nil); renewed != nil {
		w.defaults, d.redefine, c.all = *renewed, true, true
	}
	if c.all {
		c.objects, c.hpas = namesIn[*record](w.objects, d.external.all()), namesIn[*scaler](w.hpas, maps.All(l.uses))
	}
	w.define(d, maps.Keys(c.objects))
	for name := range d.defined {
		if (d.external.get(name) == nil) != (v.objects.external.get(name) == nil) {
			// What it stands for counts before what a rule makes.
			for _, hpa := range d.users.get(name) {
				c.hpas.add(types.NamespacedName{Namespace: name.Namespace, Name: hpa})
			}
		}
	}
	w.use(ctx, d, c.hpas)
	l.tables(d)
	if c.all || d.replan {
		l.planned = w.plan(l.demands())
	}
	d.definitions = definitionCounts{served: d.external.size - len(l.refused) - l.invalid, invalid: l.invalid, refused: len(l.refused)}
	d.deferred = l.asksDeferred()
	now := d.done()
	if c.all || len(c.hpas) > 0 || d.anyUsed() {
		requests := l.requests(d)
		w.pinner.Pin(requests)
		w.notePinned(began, requests)
	}
	w.catalog.setObjects(now)
	w.onChange(changed(d, v.objects))
	w.tell(ctx, d, c.all)
	tellCeilings(ctx, v.objects, now)
	w.takeRoles(ctx, d, v.objects)
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

// anyUsed says whether HPAs name one of the ExternalMetrics that changed.
func (d *draft) anyUsed() bool {
	for name := range d.defined {
		if len(d.users.get(name)) > 0 {
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
func namesIn[T named, K any](informer cache.SharedIndexInformer, known iter.Seq2[types.NamespacedName, K]) nameSet {
	names := nameSet{}
	for _, o := range stored[T](informer) {
		names.add(nameOf(o))
	}
	for name := range known {
		names.add(name)
	}
	return names
}
