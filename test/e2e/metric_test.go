package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	// metricNamespace is the CloudWatch namespace of the tests' own metrics.
	metricNamespace = "Shop"
	apiPath         = "/apis/external.metrics.k8s.io/v1beta1"
)

// put stores a value at the stand-in that was measured now; or a second after the one
// before, if that was stored for this second: CloudWatch would make one datapoint of both.
func (s *space) put(metric string, value float64) {
	at := time.Now().Truncate(time.Second)
	if next := s.measured[metric].Add(time.Second); next.After(at) {
		at = next
	}
	s.measured[metric] = at
	s.aws.PutMetric(fakeaws.Metric{
		Region: s.region, Namespace: metricNamespace, Name: metric, Value: fakeaws.Float(value), Time: at, HighResolution: true,
	})
}

// metric is an ExternalMetric of the newest value of a metric of the tests' own. It is
// asked every second.
func (s *space) metric(name, metric string) *metricsaws.ExternalMetric {
	return s.object(name, query("m1", metric))
}

// object is an ExternalMetric of the queries, asked every second.
func (s *space) object(name string, queries ...metricsaws.MetricDataQuery) *metricsaws.ExternalMetric {
	return &metricsaws.ExternalMetric{
		TypeMeta:   metav1.TypeMeta{APIVersion: metricsaws.GroupVersion.String(), Kind: "ExternalMetric"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec: metricsaws.ExternalMetricSpec{
			Region:   s.region,
			Interval: &metav1.Duration{Duration: time.Second},
			Queries:  queries,
		},
	}
}

// query asks for the newest value of a metric of the tests' own.
func query(id, metric string) metricsaws.MetricDataQuery {
	return metricsaws.MetricDataQuery{ID: id, MetricStat: &metricsaws.MetricStat{
		Metric: metricsaws.Metric{Namespace: metricNamespace, MetricName: metric},
		Period: 1, Stat: "Average",
	}}
}

// depth asks for the depth of a queue as CloudWatch knows it.
func depth(queue string) metricsaws.MetricDataQuery {
	q := query("depth", "ApproximateNumberOfMessagesVisible")
	q.MetricStat.Metric.Namespace = "AWS/SQS"
	q.MetricStat.Metric.Dimensions = []metricsaws.Dimension{{Name: "QueueName", Value: queue}}
	q.MetricStat.Stat = "Maximum"
	return q
}

func expression(id, text string) metricsaws.MetricDataQuery {
	return metricsaws.MetricDataQuery{ID: id, Expression: text}
}

// hidden is a query that only serves expressions.
func hidden(q metricsaws.MetricDataQuery) metricsaws.MetricDataQuery {
	q.ReturnData = new(false)
	return q
}

func (s *space) objects() dynamic.ResourceInterface {
	return s.Dynamic().Resource(metricsaws.Resource).Namespace(s.namespace)
}

// create creates ExternalMetrics.
func (s *space) create(objects ...*metricsaws.ExternalMetric) {
	s.t.Helper()
	for _, o := range objects {
		if _, err := s.objects().Create(s.t.Context(), s.unstructured(o), metav1.CreateOptions{}); err != nil {
			s.t.Fatalf("%s: %v", o.Name, err)
		}
	}
}

// update replaces what an ExternalMetric asks.
func (s *space) update(o *metricsaws.ExternalMetric) {
	s.t.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := s.objects().Get(s.t.Context(), o.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		current.Object["spec"] = s.unstructured(o).Object["spec"]
		_, err = s.objects().Update(s.t.Context(), current, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		s.t.Fatalf("%s: %v", o.Name, err)
	}
}

func (s *space) unstructured(o *metricsaws.ExternalMetric) *unstructured.Unstructured {
	s.t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: content}
}

// values reads a metric through the API server.
func (s *space) values(ctx context.Context, name string) ([]v1beta1.ExternalMetricValue, error) {
	return readValues(ctx, s.Client().Discovery().RESTClient(), s.namespace, name)
}

// readValues reads a metric with a client of the API server or of the adapter.
func readValues(ctx context.Context, client rest.Interface, namespace, name string) ([]v1beta1.ExternalMetricValue, error) {
	result := client.Get().AbsPath(metricPath(namespace, name)).Do(ctx)
	if err := result.Error(); err != nil { // Unlike that of Raw it has the server's words.
		return nil, err
	}
	text, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var list v1beta1.ExternalMetricValueList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return list.Items, nil
}

func metricPath(namespace, name string) string {
	return apiPath + "/namespaces/" + namespace + "/" + name
}

// value reads a metric that has one item.
func (s *space) value(ctx context.Context, name string) (resource.Quantity, error) {
	items, err := s.values(ctx, name)
	if err != nil {
		return resource.Quantity{}, err
	}
	if len(items) != 1 {
		return resource.Quantity{}, fmt.Errorf("%s has %d items: %v", name, len(items), items)
	}
	return items[0].Value, nil
}

// hasValue is nil if a metric has one item of exactly the value.
func (s *space) hasValue(ctx context.Context, name, want string) error {
	got, err := s.value(ctx, name)
	if err == nil && !got.Equal(resource.MustParse(want)) {
		err = fmt.Errorf("the value is %s, want %s", got.String(), want)
	}
	return err
}

// awaitValue waits until a metric has one item of exactly the value.
func (s *space) awaitValue(name, want string) {
	s.t.Helper()
	s.eventually(name, func(ctx context.Context) error { return s.hasValue(ctx, name, want) })
}

// awaitError waits until a read of the metric fails with the code and the words.
func (s *space) awaitError(name string, code int, words ...string) {
	s.t.Helper()
	s.eventually(name, func(ctx context.Context) error {
		got, err := s.value(ctx, name)
		if err == nil {
			return fmt.Errorf("the value is %s, want an error", got.String())
		}
		return isError(err, code, words...)
	})
}

// isError is nil if err is the API's error of the code with the words.
func isError(err error, code int, words ...string) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return fmt.Errorf("no answer of the API: %w", err)
	}
	if got := int(status.Status().Code); got != code {
		return fmt.Errorf("the code is %d %s, want %d: %w", got, http.StatusText(got), code, err)
	}
	return mentions(err.Error(), words...)
}

// status is what the adapter wrote to an ExternalMetric.
func (s *space) status(ctx context.Context, name string) (metricsaws.ExternalMetricStatus, error) {
	o, err := s.objects().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return metricsaws.ExternalMetricStatus{}, err
	}
	var em metricsaws.ExternalMetric
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &em)
	return em.Status, err
}

// awaitCondition waits until a condition of an ExternalMetric is as wanted: its type,
// status and reason, and what its message says.
func (s *space) awaitCondition(name string, want metav1.Condition, words ...string) {
	s.t.Helper()
	s.eventually(name, func(ctx context.Context) error {
		status, err := s.status(ctx, name)
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(status.Conditions, want.Type)
		if c == nil {
			return fmt.Errorf("there is no condition %s yet", want.Type)
		}
		if c.Status != want.Status || c.Reason != want.Reason {
			return fmt.Errorf("%s is %s (%s: %s), want %s (%s)", c.Type, c.Status, c.Reason, c.Message, want.Status, want.Reason)
		}
		return mentions(c.Message, words...)
	})
}

func ready(reason string) metav1.Condition {
	return metav1.Condition{Type: metricsaws.ConditionReady, Status: metav1.ConditionTrue, Reason: reason}
}

func notReady(reason string) metav1.Condition {
	return metav1.Condition{Type: metricsaws.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}
}

func notFresh() metav1.Condition {
	return metav1.Condition{Type: metricsaws.ConditionFresh, Status: metav1.ConditionFalse, Reason: "FetchFailed"}
}

// awaitEvent waits for an Event of the reason that is about an ExternalMetric and says
// the words.
func (s *space) awaitEvent(name, reason string, words ...string) eventsv1.Event {
	s.t.Helper()
	about := fields.Set{"regarding.kind": "ExternalMetric", "regarding.name": name, "reason": reason}
	var found eventsv1.Event
	s.eventually("Event "+reason, func(ctx context.Context) error {
		list, err := s.Client().EventsV1().Events(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: about.String()})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(e eventsv1.Event) bool { return mentions(e.Note, words...) == nil })
		if i < 0 {
			return fmt.Errorf("%d Events, none of which says %q", len(list.Items), words)
		}
		found = list.Items[i]
		return nil
	})
	return found
}

// warns fails the test unless the Event is a warning.
func (s *space) warns(e eventsv1.Event) {
	s.t.Helper()
	if e.Type != corev1.EventTypeWarning {
		s.t.Errorf("the Event %s is of the type %s", e.Reason, e.Type)
	}
}
