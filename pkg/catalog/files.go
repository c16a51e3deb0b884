package catalog

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// NewMetric is what an ExternalMetric of a file defines, as a Watcher has it of one in a
// cluster. Its Err says why it cannot be asked.
func NewMetric(object *unstructured.Unstructured, defaults Defaults) *Metric {
	typed := &metricsaws.ExternalMetric{}
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, typed)
	if err != nil {
		typed = &metricsaws.ExternalMetric{}
	}
	typed.Namespace, typed.Name = object.GetNamespace(), object.GetName()
	return newMetric(newRecord(typed, err, nil).definition, defaults)
}

// SetMetrics has the catalog know those metrics of ExternalMetrics and no others, in place
// of a Watcher. Of two of one name the later one counts.
func (c *Catalog) SetMetrics(metrics []*Metric) {
	d := (&snapshot{named: c.load().objects.named + 1}).draft()
	for _, m := range metrics {
		d.setMetric(m.Name, m)
	}
	c.setObjects(d.done())
	for _, r := range []*reading{&c.objects, &c.hpas} {
		r.now.Store(&outcome{progress: synced})
	}
}

// Undefined is a metric that an HPA names and nobody defines.
type Undefined struct {
	// Field is the HPA's field that names it.
	Field string
	// External says that it is one of external.metrics.k8s.io, Discovered that it may be one
	// that a rule makes of series which are not listed yet.
	External, Discovered bool
	// Suggestion asks whether another metric was meant; it is empty if none is near.
	Suggestion string
	// Text says what is missing and the cure, as an Event of the HPA does.
	Text string
}

// Undefined are the metrics of an HPA of a file that nobody defines, as a Watcher looks for
// those of HPAs in a cluster.
func (c *Catalog) Undefined(hpa *autoscalingv2.HorizontalPodAutoscaler, m KindMapper) []Undefined {
	l := lookout{Watcher: &Watcher{catalog: c, mapper: m}}
	scaler, makes := newScaler(hpa, nil), c.load().rules.makes
	var all []Undefined
	for i, metric := range scaler.metrics {
		n, unknown := l.unknown(scaler, metric)
		if !unknown {
			continue
		}
		u := Undefined{Field: fieldOf(metric, i), External: n.api == externalAPI}
		u.Text = c.note(n, u.Field)
		switch n.api {
		case externalAPI:
			u.Discovered = makes.external && c.RulesReady() != nil
			u.Suggestion = c.SuggestExternal(types.NamespacedName{Namespace: n.hpa.Namespace, Name: n.metric})
		case customAPI:
			u.Discovered = makes.custom && c.RulesReady() != nil
			u.Suggestion = c.SuggestCustom(n.custom())
		case resourceAPI: // There are two, and nobody misspells them.
		}
		all = append(all, u)
	}
	return all
}
