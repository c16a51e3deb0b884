package player

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Series is a series that is no pod's and no node's.
type Series struct {
	// Name and the names of Labels are UTF-8.
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Value is a gauge's value, and where a counter begins. In JSON it is a string, such
	// as "95", "NaN" or "+Inf".
	Value model.SampleValue `json:"value"`
	// Counter makes it a counter: when it is set again, it goes on from the count that
	// it has by then.
	Counter bool `json:"counter,omitempty"`
	// PerSecond is by how much a counter rises.
	PerSecond float64 `json:"perSecond,omitempty"`
}

// id is the same for series that Prometheus takes for one.
func (s Series) id() string {
	m := model.Metric{model.MetricNameLabel: model.LabelValue(s.Name)}
	for name, value := range s.Labels {
		if value != "" { // An empty label is none.
			m[model.LabelName(name)] = model.LabelValue(value)
		}
	}
	return m.String()
}

func (s Series) check() error {
	if !model.UTF8Validation.IsValidMetricName(s.Name) {
		return fmt.Errorf("%q is no name of a metric", s.Name)
	}
	for name, value := range s.Labels {
		if !model.UTF8Validation.IsValidLabelName(name) || strings.HasPrefix(name, model.ReservedLabelPrefix) {
			return fmt.Errorf("%s: %q is no name of a label", s.Name, name)
		}
		if !model.LabelValue(value).IsValid() {
			return fmt.Errorf("%s: the value of label %s is no UTF-8", s.Name, name)
		}
	}
	if s.PerSecond != 0 && !s.Counter {
		return fmt.Errorf("%s: perSecond is for counters", s.Name)
	}
	return checkAmount(s.Name+": perSecond", s.PerSecond)
}

// set has the series of a set by their id.
type set map[string]*extra

type extra struct {
	Series
	meter
}

// SetSeries puts a set of series in place of the set of the same name; without series
// there is no such set any more. All sets are at /extra/metrics, and no series may be
// in two. When one is refused, nothing changes.
func (p *Player) SetSeries(name string, series ...Series) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	next := set{}
	for _, s := range series {
		if err := s.check(); err != nil {
			return fmt.Errorf("series of set %s: %w", name, err)
		}
		id := s.id()
		if other, ok := p.holder(id, name); ok {
			return fmt.Errorf("series of set %s: %s is in set %s already", name, id, other)
		}
		if next[id] != nil {
			return fmt.Errorf("series of set %s: %s is there twice", name, id)
		}
		next[id] = p.sets[name].next(now, id, s)
	}
	if len(next) == 0 {
		delete(p.sets, name)
		return nil
	}
	p.sets[name] = next
	return nil
}

// holder is the set that has a series, if one but the named has it.
func (p *Player) holder(id, but string) (string, bool) {
	for name, other := range p.sets {
		if name != but && other[id] != nil {
			return name, true
		}
	}
	return "", false
}

// next is a series that comes after the set's own of the same id, if it has that.
func (s set) next(now time.Time, id string, series Series) *extra {
	m := meter{value: float64(series.Value), rate: series.PerSecond, at: now}
	if before := s[id]; before != nil && before.Counter && series.Counter {
		m.value = before.read(now)
	}
	return &extra{Series: series, meter: m}
}

func (p *Player) serveSeries(w http.ResponseWriter, _ *http.Request) {
	e := p.exposeSeries(time.Now())
	e.write(w)
}

func (p *Player) exposeSeries(now time.Time) exposition {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e exposition
	for _, name := range slices.Sorted(maps.Keys(p.sets)) {
		s := p.sets[name]
		for _, id := range slices.Sorted(maps.Keys(s)) {
			series := s[id]
			if series.Counter {
				e.counter(series.Name, series.read(now), series.Labels)
			} else {
				e.gauge(series.Name, series.read(now), series.Labels)
			}
		}
	}
	return e
}
