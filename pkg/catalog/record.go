package catalog

import (
	"fmt"
	"time"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// identity is what the adapter keeps of the metadata of an object of which there are
// thousands.
type identity struct {
	Namespace, Name string
	UID             types.UID
	// created is when, in seconds of the Unix epoch.
	created int64
}

func identityOf(o metav1.Object) identity {
	return identity{intern(o.GetNamespace()), intern(o.GetName()), o.GetUID(), o.GetCreationTimestamp().Unix()}
}

// GetNamespace is for klog.KObj.
func (i *identity) GetNamespace() string { return i.Namespace }

// GetName is for klog.KObj.
func (i *identity) GetName() string { return i.Name }

func (i *identity) createdAt() time.Time { return time.Unix(i.created, 0) }

// meta is what an informer wants to know.
func (i *identity) meta(version string) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{
		Namespace: i.Namespace, Name: i.Name, UID: i.UID, ResourceVersion: version,
		CreationTimestamp: metav1.Unix(i.created, 0),
	}
}

// intern gives a text that many objects have in common the same memory in all of them.
func intern[T ~string](text T) T { return T(unique.Make(string(text)).Value()) }

// record is an ExternalMetric as the adapter keeps it.
type record struct {
	*definition

	version string
	status  keptStatus
}

var _ metav1.ObjectMetaAccessor = (*record)(nil)

// GetObjectMeta is for the informer.
func (r *record) GetObjectMeta() metav1.Object { return r.meta(r.version) }

// reference is the object for an Event of it, of no version: Events of one cause that repeat
// are counted in one only if they are of the same object.
func (r *record) reference() *metricsaws.ExternalMetric {
	return &metricsaws.ExternalMetric{ObjectMeta: *r.meta("")}
}

// definition is what one generation of an ExternalMetric says: without its words, which are
// in the query. It is never changed.
type definition struct {
	identity

	generation int64
	// annotation and noData are the policies of the annotation and of the spec.
	annotation, noData metricsaws.NoDataPolicy
	// interval and maxAge are nil if they are not set.
	interval, maxAge *metav1.Duration
	// period is the interval if neither is.
	period time.Duration
	query  *cloudwatch.Query
	// err is why the object cannot be asked, whatever the defaults.
	err error
	// size is how long its texts are together.
	size int
}

// describes says whether d is what the object says.
func (d *definition) describes(uid types.UID, generation int64, annotation metricsaws.NoDataPolicy) bool {
	return d.UID == uid && d.generation == generation && d.annotation == annotation
}

// amount is what d counts against the ceiling.
func (d *definition) amount() amount { return amount{1, d.size} }

// newRecord keeps an object, of which err says whether it has the types of the schema. Of
// one that does not, as an object from before the schema may not, the metadata is kept: it
// must not keep the others from being read. What before says is shared if it is the same.
func newRecord(o *metricsaws.ExternalMetric, err error, before *record) *record {
	r := &record{version: o.ResourceVersion, status: keepStatus(o.Status)}
	annotation := metricsaws.NoDataPolicy(o.Annotations[metricsaws.AnnotationNoData])
	if before != nil && before.describes(o.UID, o.Generation, annotation) {
		r.definition = before.definition
	} else {
		r.definition = newDefinition(o, annotation, err)
	}
	return r
}

func newDefinition(o *metricsaws.ExternalMetric, annotation metricsaws.NoDataPolicy, err error) *definition {
	d := &definition{
		identity: identityOf(o), generation: o.Generation,
		annotation: intern(annotation), noData: intern(o.Spec.NoData),
		interval: o.Spec.Interval, maxAge: o.Spec.MaxAge, period: shortestPeriod(o.Spec.Queries),
		err: err, size: sizeOf(o.Spec.Queries),
	}
	if err != nil {
		return d
	}
	d.query, err = cloudwatch.NewQuery(cloudwatch.Spec{
		Region:  o.Spec.Region,
		RoleARN: o.Spec.RoleARN,
		Queries: queriesOf(o.Spec.Queries),
	})
	if err != nil {
		d.err = fmt.Errorf("spec.%w", err)
	}
	return d
}

// keptStatus is the status of an object. There are thousands that say the same but for their
// values and times.
type keptStatus struct {
	observed int64
	value    string
	// time is that of the value, in seconds of the Unix epoch; 0 if there is none.
	time       int64
	hpas       []string
	conditions []condition
}

// condition is a metav1.Condition.
type condition struct {
	// says is all of it but the time and the generation.
	says unique.Handle[metav1.Condition]
	// since is the time, in seconds of the Unix epoch.
	since, generation int64
}

func keepStatus(s metricsaws.ExternalMetricStatus) keptStatus {
	to := keptStatus{observed: s.ObservedGeneration, value: s.Value, hpas: make([]string, len(s.HPAs)), conditions: make([]condition, len(s.Conditions))}
	if s.ValueTime != nil {
		to.time = s.ValueTime.Unix()
	}
	for i, name := range s.HPAs {
		to.hpas[i] = intern(name)
	}
	for i, c := range s.Conditions {
		kept := condition{since: c.LastTransitionTime.Unix(), generation: c.ObservedGeneration}
		c.LastTransitionTime, c.ObservedGeneration = metav1.Time{}, 0
		kept.says = unique.Make(c)
		to.conditions[i] = kept
	}
	return to
}

// inFull is s as the API has it.
func (s keptStatus) inFull() metricsaws.ExternalMetricStatus {
	to := metricsaws.ExternalMetricStatus{ObservedGeneration: s.observed, Value: s.value, HPAs: s.hpas}
	if s.time != 0 {
		to.ValueTime = new(metav1.Unix(s.time, 0))
	}
	for _, kept := range s.conditions {
		c := kept.says.Value()
		c.LastTransitionTime, c.ObservedGeneration = metav1.Unix(kept.since, 0), kept.generation
		to.Conditions = append(to.Conditions, c)
	}
	return to
}

// toRecord makes of an object what the adapter keeps of it.
func (w *Watcher) toRecord(o any) (any, error) {
	raw, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	object := &metricsaws.ExternalMetric{}
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, object)
	if err != nil {
		object = &metricsaws.ExternalMetric{}
	}
	object.ObjectMeta = metav1.ObjectMeta{
		Namespace:       raw.GetNamespace(),
		Name:            raw.GetName(),
		UID:             raw.GetUID(),
		Generation:      raw.GetGeneration(),
		ResourceVersion: raw.GetResourceVersion(),
		Annotations:     raw.GetAnnotations(),

		CreationTimestamp: raw.GetCreationTimestamp(),
	}
	return newRecord(object, err, w.record(nameOf(object))), nil
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
