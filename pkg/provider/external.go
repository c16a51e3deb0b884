// Package provider answers the requests of the metrics APIs: it finds the metric
// in the catalog, reads its value from the engine, and says it, or why there is
// none, in the API's types.
package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Catalog says which external metrics exist.
type Catalog interface {
	// External is the metric that an object of the namespace defines, or nil.
	External(name types.NamespacedName) *catalog.Metric
	// ExternalRule is the metric that a rule makes, or nil.
	ExternalRule(metric string) *catalog.RuleMetric
	// ExternalNames are the names of both, sorted, each once.
	ExternalNames() []string
	// SuggestExternal asks whether another metric was meant; it is empty if none is near.
	SuggestExternal(name types.NamespacedName) string
	// LeastExternalTarget is the smallest target by which an HPA that names the metric may
	// divide its sum to get a number of replicas; false if there is none.
	LeastExternalTarget(metric types.NamespacedName) (float64, bool)
	// ObjectsSettled is nil once a metric that External, called after it, does not have may
	// be one that a rule makes.
	ObjectsSettled() error
	// ObjectsReady is nil once a metric that External does not have is one that no
	// object defines, RulesReady once one that ExternalRule does not have is one that no
	// rule makes.
	ObjectsReady() error
	RulesReady() error
}

// Engine gives the values of queries.
type Engine interface {
	Read(ctx context.Context, request engine.Request) (engine.Answer, error)
}

// ExternalPlanner makes the requests of external metrics of rules.
type ExternalPlanner interface {
	// External fails if the rule cannot express the selector.
	External(r *rules.Compiled, series, namespace string, selector labels.Selector) (engine.Request, error)
}

// External serves external.metrics.k8s.io.
type External struct {
	catalog Catalog
	engine  Engine
	planner ExternalPlanner
	reads   *Reads
	kept    *kept[externalKey, externalAnswer]
}

var _ provider.ExternalMetricsProvider = (*External)(nil)

// NewExternal makes a provider of the catalog's external metrics, whose reads are counted
// unless nobody is given to count them.
func NewExternal(c Catalog, e Engine, p ExternalPlanner, reads *Reads) *External {
	return &External{
		catalog: c, engine: e, planner: p, reads: reads,
		kept: newKept[externalKey, externalAnswer](func() { reads.evicted(externalAPI) }),
	}
}

// GetExternalMetric gives the items of the metric whose labels match the selector. The
// metric is that of an object in the namespace, or else that of a rule. An object's has
// at least one item; a rule's has none where its server answers without a value, as
// prometheus-adapter has it. Errors are API errors whose text names the metric: 404 where
// there is no such metric or an object's has no data, 400 where the rule cannot express
// the selector, 503 where the backend is away or nobody can say yet whether there is
// such a metric or which of the two counts, 429 where too much is read that no HPA names,
// 500 where the backend refuses the query or answers with no number,
// 504 where the first answer takes too long.
// Users of the system, such as the HPA controller, also get an error (500) for numbers
// that an HPA would misread.
func (p *External) GetExternalMetric(ctx context.Context, namespace string, selector labels.Selector, info provider.ExternalMetricInfo) (*external_metrics.ExternalMetricValueList, error) {
	began := time.Now()
	r := &externalRead{name: types.NamespacedName{Namespace: namespace, Name: info.Metric}, selector: selector, hpa: mayBeHPA(ctx)}
	values, err := p.read(ctx, r)
	p.reads.count(r.kind, began, len(values), err)
	if err != nil {
		return nil, err
	}
	return &external_metrics.ExternalMetricValueList{Items: values}, nil
}

// externalRead is one read of an external metric.
type externalRead struct {
	name     types.NamespacedName
	selector labels.Selector
	// hpa says that an HPA may ask.
	hpa bool
	// kind is of which kind the metric turns out to be, and rule the one that makes it, if
	// one does.
	kind kind
	rule *rules.Compiled
}

// String names the metric, and where its rule is.
func (r *externalRead) String() string {
	what := "external metric " + r.name.String()
	if r.rule != nil {
		what += " " + placeOf(r.rule)
	}
	return what
}

// read reads the values that GetExternalMetric gives.
func (p *External) read(ctx context.Context, r *externalRead) ([]external_metrics.ExternalMetricValue, error) {
	unsettled := p.catalog.ObjectsSettled()
	if metric := p.catalog.External(r.name); metric != nil {
		r.kind = externalMetric
		return p.ofObject(ctx, r, metric)
	}
	if metric := p.catalog.ExternalRule(r.name.Name); metric != nil {
		r.kind, r.rule = externalRule, metric.Rule
		return p.ofRule(ctx, r, metric, unsettled)
	}
	r.kind = externalUnknown
	return nil, p.unknown(r)
}

// unknown is the error of a metric that the catalog does not have.
func (p *External) unknown(r *externalRead) error {
	if err := errors.Join(p.catalog.ObjectsReady(), p.catalog.RulesReady()); err != nil {
		return notKnown(r.String(), err)
	}
	return unknownMetric(r.name, p.catalog.SuggestExternal(r.name))
}

// ofObject are the values of an object's metric that match the selector.
func (p *External) ofObject(ctx context.Context, r *externalRead, metric *catalog.Metric) ([]external_metrics.ExternalMetricValue, error) {
	if metric.Err != nil {
		return nil, failedMetric(r.String(), metric.Err)
	}
	p.reads.spare(metric.Request.Query)
	answer, err := p.engine.Read(ctx, metric.Request)
	of := externalOf{object: metric, answer: answer, target: p.leastTarget(r)}
	if values, ok := p.same(r, of, err); ok {
		return values, nil
	}
	items, err := metric.Items(answer, err)
	if err != nil {
		return nil, failedMetric(r.String(), err)
	}
	selected := selectedOf(items, r.selector)
	if len(selected) == 0 {
		return nil, nothingSelected(r.String(), r.selector, items)
	}
	return p.values(r, of, selected)
}

// ofRule are the values of a rule's metric, whose query has the selector in it; none while
// an object may have its name, of which unsettled is the error.
func (p *External) ofRule(ctx context.Context, r *externalRead, metric *catalog.RuleMetric, unsettled error) ([]external_metrics.ExternalMetricValue, error) {
	if unsettled != nil {
		return nil, notReady(r.String(), fmt.Errorf("an ExternalMetric may have the name: %w", unsettled))
	}
	req, err := p.planner.External(metric.Rule, metric.Series, r.name.Namespace, r.selector)
	if err != nil {
		return nil, failedMetric(r.String(), inexpressible(err, r.selector))
	}
	answer, err := p.engine.Read(ctx, req)
	of := externalOf{rule: metric, answer: answer, target: p.leastTarget(r)}
	if values, ok := p.same(r, of, err); ok {
		return values, nil
	}
	items, err := itemsOf(metric, req.Query, answer, err)
	if err != nil {
		return nil, failedMetric(r.String(), err)
	}
	return p.values(r, of, items)
}

// selectedOf are the items whose labels match. Most selectors match all.
func selectedOf(items []catalog.Item, selector labels.Selector) []catalog.Item {
	leftOut := func(i catalog.Item) bool { return !selector.Matches(i.Labels) }
	if !slices.ContainsFunc(items, leftOut) {
		return items
	}
	return slices.DeleteFunc(slices.Clone(items), leftOut)
}

// itemsOf are the items of a rule's metric, of the engine's answer to the query. One sample
// that is no number fails the metric: an HPA adds up the items.
func itemsOf(metric *catalog.RuleMetric, q sources.Query, answer engine.Answer, err error) ([]catalog.Item, error) {
	switch {
	case errors.Is(err, sources.ErrNoData) && metric.Rule.ZeroForNoData:
		return []catalog.Item{catalog.Zero(sources.Labels{}, answer.Fetched)}, nil
	case errors.Is(err, sources.ErrNoData):
		return nil, nil
	case err != nil:
		return nil, err
	}
	items, err := catalog.NewItems(answer.Samples)
	if err != nil {
		return nil, asAnswerTo(nameOf(q), err)
	}
	return items, nil
}

// nameOf is what people know a query by.
func nameOf(q sources.Query) string {
	if s, ok := q.(fmt.Stringer); ok {
		return s.String()
	}
	return q.Key()
}

// mayBeHPA says that the answer may be computed with as an HPA computes, in which
// numbers beyond its range become others. Which user the HPA controller is differs
// from one distribution to the other, but it is one of the system's, as every
// ServiceAccount is; people are not.
func mayBeHPA(ctx context.Context) bool {
	u, ok := request.UserFrom(ctx)
	return !ok || strings.HasPrefix(u.GetName(), "system:")
}

// ListAllExternalMetrics lists each name once, whatever the namespaces that have it.
func (p *External) ListAllExternalMetrics() []provider.ExternalMetricInfo {
	names := p.catalog.ExternalNames()
	infos := make([]provider.ExternalMetricInfo, len(names))
	for i, name := range names {
		infos[i] = provider.ExternalMetricInfo{Metric: name}
	}
	return infos
}

// keepFrom is from how many samples on the values of an external metric are kept. Those of
// fewer, as most have one, are made in less time than they are worth the memory.
const keepFrom = 8

// externalKey is what a reader asks of an external metric.
type externalKey struct {
	types.NamespacedName

	selector string
	// hpa says that an HPA may read it, for which there is no answer that it misreads.
	hpa bool
}

// own is the key without any part of a request.
func (k externalKey) own() externalKey {
	k.Namespace, k.Name, k.selector = strings.Clone(k.Namespace), strings.Clone(k.Name), strings.Clone(k.selector)
	return k
}

// externalAnswer is what was made for a reader, and of what: while that is the same, so is
// the answer.
type externalAnswer struct {
	of externalOf
	// values must not be written to, as those of an answer.
	values []external_metrics.ExternalMetricValue
}

// externalOf is of what values were made, beside what externalKey says.
type externalOf struct {
	// object or rule is what makes the metric. Neither is ever changed.
	object *catalog.Metric
	rule   *catalog.RuleMetric
	// answer is the engine's to the metric's query.
	answer engine.Answer
	target target
}

// is says whether o gives the same values. There are samples: without, it is not the
// answer alone that says of which query it is.
func (of externalOf) is(o externalOf) bool {
	return of.object == o.object && of.rule == o.rule && of.target == o.target && of.answer.Is(o.answer)
}

// asked is the key of the answer to a reader; false if it cannot be kept.
func (r *externalRead) asked() (externalKey, bool) {
	text, ok := textOf(r.selector)
	return externalKey{r.name, text, r.hpa}, ok
}

// same are the values of the read before if they were made of the same. The error is the
// engine's.
func (p *External) same(r *externalRead, of externalOf, err error) ([]external_metrics.ExternalMetricValue, bool) {
	if err != nil || len(of.answer.Samples) < keepFrom {
		return nil, false
	}
	key, keeps := r.asked()
	if !keeps {
		return nil, false
	}
	before := p.kept.get(key)
	if before == nil || !before.of.is(of) {
		return nil, false
	}
	p.reads.answered(externalAPI, true)
	return before.values, true
}

// leastTarget is that of the HPAs that may read the metric; none for readers that are no
// HPAs. An HPA asks in its own namespace.
func (p *External) leastTarget(r *externalRead) target {
	if !r.hpa {
		return target{}
	}
	value, ok := p.catalog.LeastExternalTarget(r.name)
	return target{value, ok}
}

// readable wraps catalog.ErrMisreadByHPA if who asks may be an HPA and would misread what the
// items add up to.
func (r *externalRead) readable(items []catalog.Item, least target) error {
	if !r.hpa {
		return nil
	}
	if err := catalog.ReadableByHPA(items); err != nil || !least.known {
		return err
	}
	return catalog.ReplicasOfSumReadableByHPA(items, least.value)
}

// values are the items in the API's terms, unless they are misread by whoever asks.
func (p *External) values(r *externalRead, of externalOf, items []catalog.Item) ([]external_metrics.ExternalMetricValue, error) {
	if err := r.readable(items, of.target); err != nil {
		return nil, failedMetric(r.String(), err)
	}
	values := valuesOf(strings.Clone(r.name.Name), items)
	if len(values) > 0 {
		p.reads.answered(externalAPI, false)
	}
	if len(of.answer.Samples) >= keepFrom {
		if key, keeps := r.asked(); keeps {
			p.kept.put(key, externalKey.own, &externalAnswer{of, values}, sizeOf(key, values))
		}
	}
	return values, nil
}

// sizeOf is about how many bytes it takes to keep the values, and the samples that they are
// made of.
func sizeOf(k externalKey, values []external_metrics.ExternalMetricValue) int {
	const value = int(unsafe.Sizeof(external_metrics.ExternalMetricValue{}) + unsafe.Sizeof(sources.Sample{}))
	const label = 2 * int(unsafe.Sizeof("")) // Without the strings.
	// A map has room for eight at least, and besides them a header and a word.
	const room, header = 8, 48 + 8
	size := overhead + len(k.Namespace) + 2*len(k.Name) + len(k.selector)
	for _, v := range values {
		size += value
		if n := len(v.MetricLabels); n > 0 {
			size += header + label*max(n, room) + label*n // The value's map and the sample's labels.
		}
		for name, text := range v.MetricLabels {
			size += len(name) + len(text)
		}
	}
	return size
}

func valuesOf(metric string, items []catalog.Item) []external_metrics.ExternalMetricValue {
	values := make([]external_metrics.ExternalMetricValue, 0, len(items))
	for _, item := range items {
		values = append(values, external_metrics.ExternalMetricValue{
			MetricName:    metric,
			MetricLabels:  item.Labels.Map(),
			Timestamp:     metav1.NewTime(item.Time),
			WindowSeconds: secondsOf(item.Window),
			Value:         withText(item.Value),
		})
	}
	return values
}

// secondsOf is a window in the whole seconds that the API has, rounded up; nil for one
// instant.
func secondsOf(window time.Duration) *int64 {
	if window <= 0 {
		return nil
	}
	seconds := int64(math.Ceil(window.Seconds()))
	return &seconds
}
