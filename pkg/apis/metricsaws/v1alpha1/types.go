package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// NoDataPolicy says what a metric is when its backend answers without a value.
//
// +kubebuilder:validation:Enum=error;zero
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

// MaxHPAs is how many names ExternalMetricStatus.HPAs holds at most; the API server
// refuses a status with more.
const MaxHPAs = 100

// ExternalMetric is a metric of external.metrics.k8s.io, in the namespace and by
// the name of this object, whose value comes from Amazon CloudWatch.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=externalmetrics,singular=externalmetric,shortName=em,scope=Namespaced
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether a read of the metric gives a value"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why the metric is ready or not"
// +kubebuilder:printcolumn:name="Value",type=string,JSONPath=`.status.value`,description="Current value, as the API serves it"
// +kubebuilder:printcolumn:name="Measured",type=date,JSONPath=`.status.valueTime`,description="How long ago the newest datapoint of the value was measured"
// +kubebuilder:printcolumn:name="HPAs",type=string,JSONPath=`.status.hpas`,description="HorizontalPodAutoscalers that use the metric"
// +kubebuilder:printcolumn:name="Fresh",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Fresh")].status`,description="Whether the backend answers, or the value is the last good one"
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What the backend said"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ExternalMetric struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ExternalMetricSpec   `json:"spec"`
	Status ExternalMetricStatus `json:"status,omitempty"`
}

// ExternalMetricList is a list of ExternalMetrics.
//
// +kubebuilder:object:root=true
type ExternalMetricList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ExternalMetric `json:"items"`
}

// ExternalMetricSpec says what to ask of CloudWatch, as whom, where and how often.
//
// +kubebuilder:validation:XValidation:rule="!has(self.interval) || !has(self.maxAge) || ![self.interval, self.maxAge].all(d, d.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$')) || duration(self.maxAge).getMilliseconds() >= 2 * duration(self.interval).getMilliseconds()",fieldPath=".maxAge",message="maxAge must be at least twice the interval, or a value can be too old before the next one comes: raise maxAge or lower interval"
type ExternalMetricSpec struct {
	// Name is ignored: the metric's name is the object's name.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name,omitempty"`
	// RoleARN is the IAM role to assume for these queries; by default the adapter's
	// own identity asks. The length is that of sts:AssumeRole:
	// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
	//
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/([!-~]+/)?[A-Za-z0-9_+=,.@-]{1,64}$')",message="roleArn must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/metrics-reader (aws-cn, aws-us-gov and the other partitions too)"
	RoleARN string `json:"roleArn,omitempty"`
	// Region is the AWS region to ask, such as eu-central-1; by default the adapter's.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z]{2,8}(-[a-z]+)+-[0-9]{1,2}$')",message="region must be the code of an AWS region, such as eu-central-1 or us-gov-west-1 (not an availability zone)"
	Region string `json:"region,omitempty"`
	// Queries are the metrics and expressions to ask, as in CloudWatch's GetMetricData,
	// which takes 500 in one call.
	// Each one whose returnData is not false becomes an item of the metric.
	// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=500
	// +kubebuilder:validation:XValidation:rule="self.size() == 0 || self.exists(q, !has(q.returnData) || q.returnData)",message="at least one query must be returned: set returnData to true, or remove it, on the query that is the metric's value"
	// +listType=map
	// +listMapKey=id
	Queries []MetricDataQuery `json:"queries"`
	// NoData says what the metric is when CloudWatch has no datapoint: an error (the default), or zero.
	//
	// +optional
	NoData NoDataPolicy `json:"noData,omitempty"`
	// Interval is how often the queries are asked, from 1s to 1h; by default the
	// shortest period of the queries, at least 5s and at most 1m, but no more than
	// half of maxAge.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="interval must be a duration from 1s to 1h, such as 30s"
	Interval *metav1.Duration `json:"interval,omitempty"`
	// MaxAge is how long the last good answer serves when CloudWatch cannot be
	// asked, from 2s to 24h and at least twice the interval; by default the adapter's
	// --max-age, or twice the interval if that is longer.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('2s') && duration(self) <= duration('24h')",message="maxAge must be a duration from 2s to 24h, such as 5m"
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// Resource was never used, and is accepted so that old manifests apply.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Resource *runtime.RawExtension `json:"resource,omitempty"`
	// MetricLabels was never used, and is accepted so that old manifests apply.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	MetricLabels *runtime.RawExtension `json:"metricLabels,omitempty"`
}

// MetricDataQuery is a metric or an expression over metrics, as in GetMetricData.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDataQuery.html
//
// An empty expression counts as none: the old adapter took it for that.
//
// +kubebuilder:validation:XValidation:rule="(has(self.expression) && self.expression.size() > 0) != has(self.metricStat)",message="a query is either an expression or a metricStat: give exactly one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.period) || (has(self.expression) && self.expression.size() > 0)",fieldPath=".period",reason=FieldValueForbidden,message="period belongs beside an expression only: set metricStat.period instead"
type MetricDataQuery struct {
	// ID names the query in the expressions of this object. It starts with a
	// lowercase letter.
	//
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[a-z][a-zA-Z0-9_]*$`
	ID string `json:"id"`
	// Expression is a metric math expression over the other queries of this object, or a Metrics Insights query.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Expression string `json:"expression,omitempty"`
	// MetricStat is the metric to ask, and the statistic of it.
	//
	// +optional
	MetricStat *MetricStat `json:"metricStat,omitempty"`
	// Label is the text that names the result; it becomes the item's label "label".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Label string `json:"label,omitempty"`
	// Period is the length of the expression's datapoints in seconds, for an
	// expression that is a Metrics Insights query: 1, 5, 10, 20, 30 or a multiple of 60.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:validation:XValidation:rule="self in [1, 5, 10, 20, 30] || self % 60 == 0",message="period must be 1, 5, 10, 20, 30 or a multiple of 60 seconds"
	Period *int32 `json:"period,omitempty"`
	// ReturnData says whether the result is an item of the metric (the default), or
	// only an input of expressions.
	//
	// +optional
	ReturnData *bool `json:"returnData,omitempty"`
	// MetricLabels was never used, and is accepted so that old manifests apply.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	MetricLabels *runtime.RawExtension `json:"metricLabels,omitempty"`
}

// MetricStat is a metric and the statistic of it.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricStat.html
type MetricStat struct {
	// Metric is the metric to ask.
	Metric Metric `json:"metric"`
	// Period is the length of a datapoint in seconds: 1, 5, 10, 20, 30 or a multiple
	// of 60, one day (86400) at most. Below 60 only high-resolution metrics have data.
	// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html#CloudWatchPeriods
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:validation:XValidation:rule="self in [1, 5, 10, 20, 30] || self % 60 == 0",message="period must be 1, 5, 10, 20, 30 or a multiple of 60 seconds"
	Period int32 `json:"period"`
	// Stat is the statistic: SampleCount, Average, Sum, Minimum, Maximum, IQM, one of
	// p, tm, tc, ts, wm with a percentage (p99, tm99.9), or one of TM, TC, TS, WM, PR
	// with boundaries (TM(10%:90%), PR(:300)).
	// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^(SampleCount|Average|Sum|Minimum|Maximum|IQM)$') || self.matches('^(p|tm|tc|ts|wm)([0-9]{1,2}([.][0-9]{1,10})?|100)$') || self.matches('^(TM|TC|TS|WM)[(]([0-9]+([.][0-9]+)?%)?:([0-9]+([.][0-9]+)?%)?[)]$') || self.matches('^(TM|TC|TS|WM|PR)[(](-?[0-9]+([.][0-9]+)?)?:(-?[0-9]+([.][0-9]+)?)?[)]$')",message="stat must be a statistic of CloudWatch, in its spelling: Average, Sum, Minimum, Maximum, SampleCount, IQM, p99, tm99, tc99, ts99, wm99, TM(10%:90%), TC(:0.5), TS(80%:), WM(5%:95%) or PR(100:2000)"
	// +kubebuilder:validation:XValidation:rule="!self.contains('(:)')",message="stat needs at least one boundary, such as TM(:90%)"
	Stat string `json:"stat"`
	// Unit leaves out the datapoints of other units; by default all units count.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Seconds;Microseconds;Milliseconds;Bytes;Kilobytes;Megabytes;Gigabytes;Terabytes;Bits;Kilobits;Megabits;Gigabits;Terabits;Percent;Count;"Bytes/Second";"Kilobytes/Second";"Megabytes/Second";"Gigabytes/Second";"Terabytes/Second";"Bits/Second";"Kilobits/Second";"Megabits/Second";"Gigabits/Second";"Terabits/Second";"Count/Second";None
	Unit string `json:"unit,omitempty"`
}

// Metric names a metric of CloudWatch.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Metric.html
type Metric struct {
	// Namespace is the metric's namespace in CloudWatch, such as AWS/SQS.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="!self.startsWith(':')",message="namespace must not start with a colon"
	Namespace string `json:"namespace"`
	// MetricName is the metric's name in CloudWatch. A name that looks like a number
	// needs quotes in YAML: "502".
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	MetricName string `json:"metricName"`
	// Dimensions are all the dimensions of the metric, and their values.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=30
	// +listType=map
	// +listMapKey=name
	Dimensions []Dimension `json:"dimensions,omitempty"`
}

// Dimension is a name and a value that tell apart metrics of one name.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
type Dimension struct {
	// Name is the dimension's name, such as QueueName: printable ASCII, not blank, not
	// starting with a colon.
	//
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^ *[!-9;-~][ -~]*$`
	Name string `json:"name"`
	// Value is the dimension's value, such as the name of a queue: printable ASCII,
	// not blank.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^ *[!-~][ -~]*$`
	Value string `json:"value"`
}

// Condition types of an ExternalMetric.
const (
	// ConditionReady is True while a read of the metric gives a value.
	ConditionReady = "Ready"
	// ConditionFresh is True while the backend answers. When it is False, the last
	// good value serves until it is too old, and Ready turns False.
	ConditionFresh = "Fresh"
)

// ExternalMetricStatus is what the adapter last knew of the metric.
type ExternalMetricStatus struct {
	// ObservedGeneration is the generation of the object that this status is about.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Value is the metric's current value as the API serves it; the sum, if there are several items, as an HPA adds them up.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Value string `json:"value,omitempty"`
	// ValueTime is the time of the newest datapoint in the value.
	//
	// +optional
	ValueTime *metav1.Time `json:"valueTime,omitempty"`
	// HPAs are the names of the HorizontalPodAutoscalers of this namespace that use
	// the metric; the first 100, if there are more.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=atomic
	HPAs []string `json:"hpas,omitempty"`
	// Conditions are the states of the metric.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
