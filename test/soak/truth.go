package soak

import (
	"math"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Every value that a backend has is another one: what is the number's in the demand,
// less a part that counts up in steps of 10 millionths. So a value that is read says
// when the backend had it.
const (
	// perReplica is the AverageValue that the HPAs aim at.
	perReplica = 30
	// below is how far under a multiple of perReplica the values begin, so that they
	// are within an HPA's tolerance and round up to the right number.
	below = micros(500_000)
	// step and steps are those of the counting part, which stays below 1.
	step  = micros(10)
	steps = 100_000
	// remembered is how long a value is known for after the backend ceased to have it,
	// which is longer than any maxAge.
	remembered = 5 * time.Minute
)

// micros is a number in millionths.
type micros int64

func (m micros) float() float64 { return float64(m) / 1e6 }

func (m micros) String() string { return strconv.FormatFloat(m.float(), 'f', -1, 64) }

// point is a value while a backend has it, or the last time that it gave it.
type point struct {
	// measured is the value's time.
	measured time.Time
	// from is when the backend began to have it, and until when it ceased to; zero if it
	// still has it.
	from, until time.Time
}

// truth is what the backends hold and held, by series.
type truth struct {
	mu     sync.Mutex
	series map[string]*history
}

// history is the past of a series.
type history struct {
	points map[micros]*point
	// current is what the backend has now; nil if it says so only when it is asked.
	current *point
	count   int
	order   []micros // of points, the oldest first
}

// add also forgets what is too old to be served by anybody.
func (h *history) add(value micros, p *point, now time.Time) {
	for len(h.order) > 0 {
		// A value that came twice is gone the first time.
		first := h.points[h.order[0]]
		if first != nil && (first.until.IsZero() || now.Sub(first.until) < remembered) {
			break
		}
		delete(h.points, h.order[0])
		h.order = h.order[1:]
	}
	h.points[value] = p
	h.order = append(h.order, value)
}

func newTruth() *truth { return &truth{series: map[string]*history{}} }

func (t *truth) of(series string) *history {
	h := t.series[series]
	if h == nil {
		h = &history{points: map[micros]*point{}}
		t.series[series] = h
	}
	return h
}

// next is the next of the values that stand for a number.
func (t *truth) next(series string, number float64) micros {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.of(series)
	h.count++
	return micros(math.Round(number*1e6)) - micros(h.count%steps)*step
}

// publish says that the backend has the value from now on, in place of the one before.
func (t *truth) publish(series string, value micros, measured, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.of(series)
	if h.current != nil {
		h.current.until = now
	}
	h.current = &point{measured: measured, from: now}
	h.add(value, h.current, now)
}

// answered says that the backend gives the value now, and may never do again.
func (t *truth) answered(series string, value micros, measured, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(series).add(value, &point{measured: measured, from: now, until: now}, now)
}

// find is what is known of a value of a series.
func (t *truth) find(series string, value micros) (point, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.series[series]
	if !ok {
		return point{}, false
	}
	p, ok := h.points[value]
	if !ok {
		return point{}, false
	}
	return *p, true
}

// microsOf is a quantity in millionths.
func microsOf(q resource.Quantity) micros {
	return micros((q.ScaledValue(resource.Nano) + 500) / 1000)
}
