package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)

// maxPods is how many constants there are of one selector at most.
const maxPods = 10_000

// constants answers every question by values that were made before, in the shape that the
// adapter gives to those of pods and queues.
type constants struct {
	start metav1.Time
	// lists are those of pods, by what was asked for.
	lists sync.Map
}

var _ provider.MetricsProvider = (*constants)(nil)

func newConstants() *constants { return &constants{start: metav1.NewTime(time.Now())} }

// listKey says which pods, and which of their metrics.
type listKey struct {
	namespace, app, metric string
}

// GetExternalMetric gives one item.
func (c *constants) GetExternalMetric(_ context.Context, _ string, _ labels.Selector, info provider.ExternalMetricInfo) (*external_metrics.ExternalMetricValueList, error) {
	return &external_metrics.ExternalMetricValueList{Items: []external_metrics.ExternalMetricValue{{
		MetricName:   info.Metric,
		MetricLabels: map[string]string{"__name__": info.Metric, "queue": "orders"},
		Timestamp:    c.start,
		Value:        *resource.NewQuantity(17, resource.DecimalSI),
	}}}, nil
}

// GetMetricBySelector gives the items of N pods if the selector is app=…-N.
func (c *constants) GetMetricBySelector(_ context.Context, namespace string, selector labels.Selector, info provider.CustomMetricInfo, _ labels.Selector) (*custom_metrics.MetricValueList, error) {
	app, _ := selector.RequiresExactMatch("app")
	key := listKey{namespace, app, info.Metric}
	items, ok := c.lists.Load(key)
	if !ok {
		_, digits, _ := strings.Cut(app, "-")
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > maxPods {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the selector %q is not app=…-N with N of 1 to %d", selector, maxPods))
		}
		items, _ = c.lists.LoadOrStore(key, c.pods(key, n))
	}
	made, _ := items.([]custom_metrics.MetricValue)
	return &custom_metrics.MetricValueList{Items: made}, nil
}

// pods are the items of so many pods of a Deployment.
func (c *constants) pods(k listKey, n int) []custom_metrics.MetricValue {
	items := make([]custom_metrics.MetricValue, n)
	for i := range items {
		items[i] = c.pod(k, fmt.Sprintf("%s-5d4f7c9b8d-%05d", k.app, i), int64(95+i%11))
	}
	return items
}

func (c *constants) pod(k listKey, name string, value int64) custom_metrics.MetricValue {
	return custom_metrics.MetricValue{
		DescribedObject: custom_metrics.ObjectReference{Kind: "Pod", Namespace: k.namespace, Name: name, APIVersion: "v1"},
		Metric:          custom_metrics.MetricIdentifier{Name: k.metric},
		Timestamp:       c.start,
		WindowSeconds:   new(int64(120)),
		Value:           *resource.NewQuantity(value, resource.DecimalSI),
	}
}

// GetMetricByName gives one item.
func (c *constants) GetMetricByName(_ context.Context, name types.NamespacedName, info provider.CustomMetricInfo, _ labels.Selector) (*custom_metrics.MetricValue, error) {
	return new(c.pod(listKey{namespace: name.Namespace, metric: info.Metric}, name.Name, 100)), nil
}

// ListAllMetrics lists none: what is asked for is there.
func (*constants) ListAllMetrics() []provider.CustomMetricInfo { return nil }

// ListAllExternalMetrics lists none: what is asked for is there.
func (*constants) ListAllExternalMetrics() []provider.ExternalMetricInfo { return nil }
