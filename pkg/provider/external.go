// Package provider answers the requests of the metrics APIs: it finds the metric
// in the catalog, reads its value from the engine, and says it, or why there is
// none, in the API's types.
package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

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
}

var _ provider.ExternalMetricsProvider = (*External)(nil)

// NewExternal makes a provider of the catalog's external metrics.
func NewExternal(c Catalog, e Engine, p ExternalPlanner) *External {
	return &External{catalog: c, engine: e, planner: p}
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
	name := types.NamespacedName{Namespace: namespace, Name: info.Metric}
	what := "external metric " + name.String()
	unsettled := p.catalog.ObjectsSettled()
	var items []catalog.Item
	var err error
	if metric := p.catalog.External(name); metric != nil {
		items, err = p.ofObject(ctx, what, metric, selector)
	} else if metric := p.catalog.ExternalRule(info.Metric); metric != nil {
		what += " " + placeOf(metric.Rule)
		items, err = p.ofRule(ctx, what, metric, namespace, selector, unsettled)
	} else {
		err = p.unknown(what, name)
	}
	if err != nil {
		return nil, err
	}
	if mayBeHPA(ctx) {
		if err := catalog.ReadableByHPA(items); err != nil {
			return nil, failedMetric(what, err)
		}
	}
	return &external_metrics.ExternalMetricValueList{Items: valuesOf(info.Metric, items)}, nil
}

// unknown is the error of a metric that the catalog does not have.
func (p *External) unknown(what string, name types.NamespacedName) error {
	if err := errors.Join(p.catalog.ObjectsReady(), p.catalog.RulesReady()); err != nil {
		return notKnown(what, err)
	}
	return unknownMetric(name, suggest(name.Name, func(yield func(string) bool) {
		for _, n := range p.catalog.ExternalNames() {
			there := p.catalog.ExternalRule(n) != nil || p.catalog.External(types.NamespacedName{Namespace: name.Namespace, Name: n}) != nil
			if there && !yield(n) {
				return
			}
		}
	}))
}

// ofObject are the items of an object's metric that match the selector.
func (p *External) ofObject(ctx context.Context, what string, metric *catalog.Metric, selector labels.Selector) ([]catalog.Item, error) {
	if metric.Err != nil {
		return nil, failedMetric(what, metric.Err)
	}
	items, err := metric.Items(p.engine.Read(ctx, metric.Request))
	if err != nil {
		return nil, failedMetric(what, err)
	}
	selected := slices.DeleteFunc(slices.Clone(items), func(i catalog.Item) bool { return !selector.Matches(labels.Set(i.Labels)) })
	if len(selected) == 0 {
		return nil, nothingSelected(what, selector, items)
	}
	return selected, nil
}

// ofRule are the items of a rule's metric, whose query has the selector in it; none while
// an object may have its name, of which unsettled is the error. One sample that is no
// number fails the metric: an HPA adds up the items.
func (p *External) ofRule(ctx context.Context, what string, metric *catalog.RuleMetric, namespace string, selector labels.Selector, unsettled error) ([]catalog.Item, error) {
	if unsettled != nil {
		return nil, notReady(what, fmt.Errorf("an ExternalMetric may have the name: %w", unsettled))
	}
	req, err := p.planner.External(metric.Rule, metric.Series, namespace, selector)
	if err != nil {
		return nil, failedMetric(what, inexpressible(err, selector))
	}
	answer, err := p.engine.Read(ctx, req)
	if errors.Is(err, sources.ErrNoData) {
		if metric.Rule.ZeroForNoData {
			return []catalog.Item{catalog.Zero(nil, answer.Fetched)}, nil
		}
		return nil, nil
	}
	if err != nil {
		return nil, failedMetric(what, err)
	}
	items, err := catalog.NewItems(answer.Samples)
	if err != nil {
		return nil, failedMetric(what, asAnswerTo(nameOf(req.Query), err))
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

func valuesOf(metric string, items []catalog.Item) []external_metrics.ExternalMetricValue {
	values := make([]external_metrics.ExternalMetricValue, 0, len(items))
	for _, item := range items {
		values = append(values, external_metrics.ExternalMetricValue{
			MetricName: metric,
			// The API's types may be changed on their way out, the engine's may not.
			MetricLabels:  maps.Clone(item.Labels),
			Timestamp:     metav1.NewTime(item.Time),
			WindowSeconds: secondsOf(item.Window),
			Value:         item.Value,
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
