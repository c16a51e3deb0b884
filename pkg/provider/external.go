// Package provider answers the requests of the metrics APIs: it finds the metric
// in the catalog, reads its value from the engine, and says it, or why there is
// none, in the API's types.
package provider

import (
	"context"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
)

// Catalog says which metrics exist.
type Catalog interface {
	External(name types.NamespacedName) *catalog.Metric
	ExternalNames() []string
	// Ready is nil once the catalog can say which metrics exist.
	Ready() error
}

// Engine gives the values of queries.
type Engine interface {
	Read(ctx context.Context, request engine.Request) (engine.Answer, error)
}

// External serves external.metrics.k8s.io.
type External struct {
	catalog Catalog
	engine  Engine
}

var _ provider.ExternalMetricsProvider = (*External)(nil)

// NewExternal makes a provider of the catalog's external metrics.
func NewExternal(c Catalog, e Engine) *External {
	return &External{catalog: c, engine: e}
}

// GetExternalMetric gives the items of the metric whose labels match the
// selector. Errors are API errors whose text names the metric: 404 where there is
// no such metric or no data, 503 where the backend is away or the catalog is not
// ready, 500 where the backend refuses the query or answers with no number, 504 where
// the first answer takes too long.
// Users of the system, such as the HPA controller, also get an error (500) for numbers
// that an HPA would misread.
func (p *External) GetExternalMetric(ctx context.Context, namespace string, selector labels.Selector, info provider.ExternalMetricInfo) (*external_metrics.ExternalMetricValueList, error) {
	name := types.NamespacedName{Namespace: namespace, Name: info.Metric}
	metric := p.catalog.External(name)
	if metric == nil {
		if err := p.catalog.Ready(); err != nil {
			return nil, notReady(name, err)
		}
		return nil, unknownMetric(name)
	}
	if metric.Err != nil {
		return nil, failedMetric(name, metric.Err)
	}
	items, err := metric.Items(p.engine.Read(ctx, metric.Request))
	if err != nil {
		return nil, failedMetric(name, err)
	}
	selected := slices.DeleteFunc(slices.Clone(items), func(i catalog.Item) bool { return !selector.Matches(labels.Set(i.Labels)) })
	if len(selected) == 0 {
		return nil, nothingSelected(name, selector, items)
	}
	if mayBeHPA(ctx) {
		if err := catalog.ReadableByHPA(selected); err != nil {
			return nil, failedMetric(name, err)
		}
	}
	return &external_metrics.ExternalMetricValueList{Items: valuesOf(info.Metric, selected)}, nil
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
		value := external_metrics.ExternalMetricValue{
			MetricName: metric,
			// The API's types may be changed on their way out, the engine's may not.
			MetricLabels: maps.Clone(item.Labels),
			Timestamp:    metav1.NewTime(item.Time),
			Value:        item.Value,
		}
		if item.Window > 0 {
			seconds := int64(item.Window.Seconds())
			value.WindowSeconds = &seconds
		}
		values = append(values, value)
	}
	return values
}
