package player

import (
	"maps"
	"net/http"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

type labels = map[string]string

// exposition is the text that a scrape gets. The first series of a name decides of
// which type all of the name are.
type exposition struct {
	families []*dto.MetricFamily
	byName   map[string]*dto.MetricFamily
}

func (e *exposition) counter(name string, value float64, l labels) {
	e.add(dto.MetricType_COUNTER, name, value, l)
}

func (e *exposition) gauge(name string, value float64, l labels) {
	e.add(dto.MetricType_GAUGE, name, value, l)
}

func (e *exposition) add(kind dto.MetricType, name string, value float64, l labels) {
	family := e.byName[name]
	if family == nil {
		family = &dto.MetricFamily{Name: &name, Type: &kind}
		if e.byName == nil {
			e.byName = map[string]*dto.MetricFamily{}
		}
		e.byName[name] = family
		e.families = append(e.families, family)
	}
	m := &dto.Metric{}
	for _, label := range slices.Sorted(maps.Keys(l)) {
		m.Label = append(m.Label, &dto.LabelPair{Name: &label, Value: new(l[label])})
	}
	if family.GetType() == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	family.Metric = append(family.Metric, m)
}

func (e *exposition) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	for _, family := range e.families {
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return // A scraper that left does not want the rest.
		}
	}
}
