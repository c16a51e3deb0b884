package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// NoDataPolicy says what a metric is when its backend answers without a value.
type NoDataPolicy string

const (
	// NoDataError makes the read fail, so that the HPA keeps its replicas.
	NoDataError NoDataPolicy = "error"
	// NoDataZero makes the metric 0.
	NoDataZero NoDataPolicy = "zero"
)

// AnnotationNoData sets the NoDataPolicy of an ExternalMetric whose manifest must
// stay as the old adapter knew it. The field spec.noData wins over it.
const AnnotationNoData = "tidegauge.dev/no-data"

// ExternalMetric is a metric of external.metrics.k8s.io, in the namespace and by
// the name of this object, whose value comes from Amazon CloudWatch.
type ExternalMetric struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ExternalMetricSpec   `json:"spec"`
	Status ExternalMetricStatus `json:"status,omitempty"`
}

// ExternalMetricList is a list of ExternalMetrics.
type ExternalMetricList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ExternalMetric `json:"items"`
}

// ExternalMetricSpec says what to ask of CloudWatch, as whom, where and how often.
type ExternalMetricSpec struct {
	// Name is ignored: the metric's name is the object's name.
	Name string `json:"name,omitempty"`
	// RoleARN is the IAM role to assume for these queries; by default the adapter's own identity asks.
	RoleARN string `json:"roleArn,omitempty"`
	// Region is the AWS region to ask; by default the adapter's.
	Region string `json:"region,omitempty"`
	// Queries are the metrics and expressions to ask, as in CloudWatch's GetMetricData.
	// Each one whose returnData is not false becomes an item of the metric.
	Queries []MetricDataQuery `json:"queries"`
	// NoData says what the metric is when CloudWatch has no datapoint: an error (the default), or zero.
	NoData NoDataPolicy `json:"noData,omitempty"`
	// Interval is how often the queries are asked; by default the shortest period
	// of the queries, at least 5s and at most 1m.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// MaxAge is how long the last good answer serves when CloudWatch cannot be
	// asked; by default the adapter's --max-age.
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// Resource was never used, and is accepted so that old manifests apply.
	Resource *runtime.RawExtension `json:"resource,omitempty"`
	// MetricLabels was never used, and is accepted so that old manifests apply.
	MetricLabels map[string]string `json:"metricLabels,omitempty"`
}

// MetricDataQuery is a metric or an expression over metrics, as in GetMetricData.
type MetricDataQuery struct {
	// ID names the query in the expressions of this object.
	ID string `json:"id"`
	// Expression is a metric math expression over the other queries of this object, or a Metrics Insights query.
	Expression string `json:"expression,omitempty"`
	// MetricStat is the metric to ask, and the statistic of it.
	MetricStat *MetricStat `json:"metricStat,omitempty"`
	// Label is the text that names the result; it becomes the item's label "label".
	Label string `json:"label,omitempty"`
	// Period is the length of the expression's datapoints in seconds, for an expression that is a Metrics Insights query.
	Period *int32 `json:"period,omitempty"`
	// ReturnData says whether the result is an item of the metric, or only an input of expressions.
	ReturnData *bool `json:"returnData,omitempty"`
}

// MetricStat is a metric and the statistic of it.
type MetricStat struct {
	// Metric is the metric to ask.
	Metric Metric `json:"metric"`
	// Period is the length of a datapoint in seconds.
	Period int32 `json:"period"`
	// Stat is the statistic, such as Average, Sum or p99.
	Stat string `json:"stat"`
	// Unit leaves out the datapoints of other units.
	Unit string `json:"unit,omitempty"`
}

// Metric names a metric of CloudWatch.
type Metric struct {
	// Namespace is the metric's namespace in CloudWatch, such as AWS/SQS.
	Namespace string `json:"namespace"`
	// MetricName is the metric's name in CloudWatch.
	MetricName string `json:"metricName"`
	// Dimensions are all the dimensions of the metric, and their values.
	Dimensions []Dimension `json:"dimensions,omitempty"`
}

// Dimension is a name and a value that tell apart metrics of one name.
type Dimension struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Condition types of an ExternalMetric.
const (
	// ConditionReady is True while a read of the metric gives a value.
	ConditionReady = "Ready"
)

// ExternalMetricStatus is what the adapter last knew of the metric.
type ExternalMetricStatus struct {
	// ObservedGeneration is the generation of the object that this status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Value is the metric's current value as the API serves it; the sum, if there are several items, as an HPA adds them up.
	Value string `json:"value,omitempty"`
	// ValueTime is the time of the newest datapoint in the value.
	ValueTime *metav1.Time `json:"valueTime,omitempty"`
	// HPAs are the names of the HorizontalPodAutoscalers of this namespace that use the metric.
	HPAs []string `json:"hpas,omitempty"`
	// Conditions are the states of the metric.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
