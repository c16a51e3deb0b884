package page

import (
	"encoding/json"
	"math"
	"strings"
	"time"
)

// Snapshot is all that the page shows at one time. What is not known stays zero, and is
// shown as absent: a Number that was not set, a time that is zero, an empty text.
type Snapshot struct {
	Time    time.Time `json:"time"`
	Phase   Phase     `json:"phase"`
	Queue   Queue     `json:"queue"`
	Traffic Traffic   `json:"traffic"`
	Web     Tier      `json:"web"`
	Worker  Tier      `json:"worker"`
	HPAs    []HPA     `json:"hpas"`
	Metrics []Metric  `json:"metrics"`
	// MetricsErr is why nobody can say what the adapter knows; empty if Metrics are all.
	MetricsErr string `json:"metricsErr,omitempty"`
	Parts      []Part `json:"parts"`
}

// Number is a number that may be absent. The zero Number is.
type Number struct {
	value float64
	known bool
}

// Num is the number of that value. One that is no number (NaN, an infinity) is absent.
func Num[N ~int | ~int32 | ~int64 | ~float64](value N) Number {
	v := float64(value)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Number{}
	}
	return Number{value: v, known: true}
}

// Get is the value; false if it is absent.
func (n Number) Get() (float64, bool) { return n.value, n.known }

// MarshalJSON gives a number or null.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.known {
		return []byte("null"), nil
	}
	return json.Marshal(n.value)
}

// UnmarshalJSON takes a number or null.
func (n *Number) UnmarshalJSON(text []byte) error {
	var v *float64
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	*n = Number{}
	if v != nil {
		*n = Num(*v)
	}
	return nil
}

// Phase is a part of the story.
type Phase struct {
	// Word is short and stays the same while the phase lasts; Title is the sentence.
	Word  string `json:"word"`
	Title string `json:"title"`
	// Since is when it began.
	Since time.Time `json:"since,omitzero"`
}

// Queue is the depth of the queue in messages, as SQS says.
type Queue struct {
	Visible  Number `json:"visible"`
	InFlight Number `json:"inFlight"`
	// Target is the depth that the workers that are ready are the right number for: the
	// HPA's target times them.
	Target Number `json:"target"`
}

// Traffic is what the load does to the web tier. Rates are per second.
type Traffic struct {
	// Asked is what the loader was told to send, Served what was answered below 500.
	Asked  Number `json:"asked"`
	Served Number `json:"served"`
	// Target is the rate that the pods that are ready are the right number for.
	Target Number `json:"target"`
	// P50 and P99 are the time to the answer, in seconds.
	P50 Number `json:"p50"`
	P99 Number `json:"p99"`
	// E502, E503 and E504 are answers of these codes per second, Total those since the
	// start, by code.
	E502  Number            `json:"e502"`
	E503  Number            `json:"e503"`
	E504  Number            `json:"e504"`
	Total map[string]Number `json:"total,omitempty"`
}

// Tier is the replicas of a Deployment and the bounds of its HPA.
type Tier struct {
	Desired Number `json:"desired"`
	Current Number `json:"current"`
	Ready   Number `json:"ready"`
	Min     Number `json:"min"`
	Max     Number `json:"max"`
}

// HPA is what a HorizontalPodAutoscaler decided, and why.
type HPA struct {
	// Name is of the form namespace/name.
	Name string `json:"name"`
	// Decision is a sentence for people.
	Decision   string      `json:"decision"`
	Metrics    []Target    `json:"metrics"`
	Conditions []Condition `json:"conditions"`
	// Events are the last ones, the newest first.
	Events []Event `json:"events"`
}

// Target is a metric of an HPA against its target, in the metric's own unit.
type Target struct {
	Metric  string `json:"metric"`
	Current Number `json:"current"`
	Target  Number `json:"target"`
	// Per is what both are averages of, such as "pod"; empty if they are not.
	Per string `json:"per,omitempty"`
}

// Condition is a condition of an HPA: AbleToScale, ScalingActive, ScalingLimited.
type Condition struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since,omitzero"`
}

// Event is one of an HPA's.
type Event struct {
	Time    time.Time `json:"time,omitzero"`
	Warning bool      `json:"warning,omitempty"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Count   int       `json:"count,omitempty"`
}

// Metric is what the adapter knows of one metric.
type Metric struct {
	Name string `json:"name"`
	// Namespace is empty for a metric of all.
	Namespace string `json:"namespace,omitempty"`
	// Value is as the API serves it, a quantity; empty if there is none.
	Value string `json:"value,omitempty"`
	// Measured is the time of the value's newest datapoint, Asked when the backend was
	// asked for it and Next when it is asked again.
	Measured time.Time `json:"measured,omitzero"`
	Asked    time.Time `json:"asked,omitzero"`
	Next     time.Time `json:"next,omitzero"`
	// Source is the backend, and Query what it is asked.
	Source string `json:"source,omitempty"`
	Query  string `json:"query,omitempty"`
	// Error is why there is no value, or none that is new; FailingSince when that began.
	Error        string    `json:"error,omitempty"`
	FailingSince time.Time `json:"failingSince,omitzero"`
}

// Part is one of what the demo consists of.
type Part struct {
	Name string `json:"name"`
	// State is Up or Down; anything else is not known yet.
	State State `json:"state"`
	// Since is when it came to be so.
	Since time.Time `json:"since,omitzero"`
	// Says are its own words if it is down: the error of who tried to reach it.
	Says string `json:"says,omitempty"`
}

// State says whether a part can be reached.
type State string

// States of a part. The zero State is that it is not known yet.
const (
	Up   State = "up"
	Down State = "down"
)

// point is what the history keeps of a snapshot: what is plotted.
type point struct {
	Time    int64    `json:"t"` // milliseconds since 1970
	Phase   string   `json:"phase"`
	Down    []string `json:"down,omitempty"`
	Queue   Queue    `json:"queue"`
	Traffic Traffic  `json:"traffic"`
	Web     Tier     `json:"web"`
	Worker  Tier     `json:"worker"`
}

func pointOf(s *Snapshot) point {
	p := point{
		Time: s.Time.UnixMilli(), Phase: s.Phase.Word,
		Queue: s.Queue, Traffic: s.Traffic, Web: s.Web, Worker: s.Worker,
	}
	p.Traffic.Total = nil
	for _, part := range s.Parts {
		if part.State == Down {
			p.Down = append(p.Down, part.Name)
		}
	}
	return p
}

// Bounds of a snapshot, so that what others wrote (Events, errors) cannot make the page
// grow without end.
const (
	maxText    = 600 // bytes
	maxHPAs    = 20
	maxMetrics = 200
	maxParts   = 30
	maxRows    = 12 // of each list in an HPA
	maxCodes   = 20
)

// bounded is the snapshot cut at the bounds, with slices of its own.
func (s Snapshot) bounded() Snapshot {
	s.Phase.Word, s.Phase.Title = cut(s.Phase.Word), cut(s.Phase.Title)
	s.MetricsErr = cut(s.MetricsErr)
	s.HPAs = firstOf(s.HPAs, maxHPAs)
	for i := range s.HPAs {
		s.HPAs[i] = s.HPAs[i].bounded()
	}
	s.Metrics = firstOf(s.Metrics, maxMetrics)
	for i := range s.Metrics {
		m := &s.Metrics[i]
		m.Name, m.Namespace, m.Value = cut(m.Name), cut(m.Namespace), cut(m.Value)
		m.Source, m.Query, m.Error = cut(m.Source), cut(m.Query), cut(m.Error)
	}
	s.Parts = firstOf(s.Parts, maxParts)
	for i := range s.Parts {
		p := &s.Parts[i]
		p.Name, p.Says = cut(p.Name), cut(p.Says)
	}
	if len(s.Traffic.Total) > maxCodes {
		s.Traffic.Total = nil
	}
	return s
}

func (h HPA) bounded() HPA {
	h.Name, h.Decision = cut(h.Name), cut(h.Decision)
	h.Metrics = firstOf(h.Metrics, maxRows)
	for i := range h.Metrics {
		m := &h.Metrics[i]
		m.Metric, m.Per = cut(m.Metric), cut(m.Per)
	}
	h.Conditions = firstOf(h.Conditions, maxRows)
	for i := range h.Conditions {
		c := &h.Conditions[i]
		c.Type, c.Status, c.Reason, c.Message = cut(c.Type), cut(c.Status), cut(c.Reason), cut(c.Message)
	}
	h.Events = firstOf(h.Events, maxRows)
	for i := range h.Events {
		e := &h.Events[i]
		e.Reason, e.Message = cut(e.Reason), cut(e.Message)
	}
	return h
}

// firstOf is a copy of the first of the list. It is never nil, which JSON would have as
// null.
func firstOf[T any](list []T, most int) []T {
	return append(make([]T, 0, min(len(list), most)), list[:min(len(list), most)]...)
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText-len("…")], "") + "…"
}
