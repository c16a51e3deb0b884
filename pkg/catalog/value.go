package catalog

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// ErrNotANumber is the error of a metric whose backend answered with something
// that is no number a Quantity can hold: NaN, an infinity, 2^63 and beyond.
var ErrNotANumber = errors.New("not a number that can be served")

// ErrMisreadByHPA is the error of a number that can be served exactly, but that an
// HPA would take for another one, such as 0 or the largest that there is.
var ErrMisreadByHPA = errors.New("an HPA would misread the value")

// hpaLimit is the magnitude from which on an HPA misreads a value: it computes in
// thousandths in an int64, and Quantity.MilliValue of more does not fit (see
// k8s.io/apimachinery/pkg/api/resource, Quantity.ScaledValue).
const hpaLimit = math.MaxInt64 / 1000

// Item is one value of a metric, as the API serves it.
type Item struct {
	// Labels tell apart the items of one metric. They must not be written to.
	Labels map[string]string
	// Value is exact to a billionth, the finest that a Quantity knows.
	Value resource.Quantity
	// Time is when the value was measured.
	Time time.Time
	// Window is the time that the value covers; zero for one instant.
	Window time.Duration
}

// Items is what the definition makes of the engine's answer, which is the pair
// that Engine.Read returned. Without an error there is at least one item. One
// sample that is no number fails the whole metric: an HPA adds up the items, and
// a sum that lacks one of them is a wrong number.
func (m *Metric) Items(answer engine.Answer, err error) ([]Item, error) {
	if len(m.Zeros) > 0 && errors.Is(err, sources.ErrNoData) {
		return m.zeros(answer.Fetched), nil
	}
	if err != nil {
		return nil, err
	}
	items := make([]Item, len(answer.Samples))
	for i, s := range answer.Samples {
		value, err := quantity(s.Value)
		if err != nil {
			return nil, fmt.Errorf("series %v: %w", s.Labels, err)
		}
		items[i] = Item{Labels: s.Labels, Value: value, Time: s.Time, Window: s.Window}
	}
	return items, nil
}

// zeros are the items that stand for no data. Their time is when the backend said
// that there is none, as there is no datapoint that has one.
func (m *Metric) zeros(at time.Time) []Item {
	items := make([]Item, len(m.Zeros))
	for i, labels := range m.Zeros {
		items[i] = Item{Labels: labels, Value: *resource.NewQuantity(0, resource.DecimalSI), Time: at}
	}
	return items
}

// quantity is v as a decimal with the fewest digits that still mean v. What is
// finer than a billionth rounds away from zero, as every Quantity does.
func quantity(v float64) (resource.Quantity, error) {
	if math.IsNaN(v) || math.Abs(v) >= 1<<63 {
		return resource.Quantity{}, fmt.Errorf("%w: %v", ErrNotANumber, v)
	}
	if v == math.Trunc(v) {
		return *resource.NewQuantity(int64(v), resource.DecimalSI), nil
	}
	q, err := resource.ParseQuantity(strconv.FormatFloat(v, 'f', -1, 64))
	if err != nil {
		return resource.Quantity{}, fmt.Errorf("%w: %w", ErrNotANumber, err)
	}
	// A parsed quantity may answer with the text that it came from instead of the
	// canonical one (123456.789 instead of 123456789m); what is built anew does not.
	return *resource.NewDecimalQuantity(*q.AsDec(), resource.DecimalSI), nil
}

// sum adds up items as an HPA does, and gives the time of the newest.
func sum(items []Item) (resource.Quantity, time.Time) {
	total := resource.Quantity{Format: resource.DecimalSI}
	var newest time.Time
	for _, item := range items {
		total.Add(item.Value)
		if item.Time.After(newest) {
			newest = item.Time
		}
	}
	return total, newest
}

// ReadableByHPA wraps ErrMisreadByHPA unless an HPA can add up the items, in their
// order, to the number that they are. It takes a sum that is negative on the way for
// an overflow, and scales to its maximum (GetExternalPerPodMetricReplicas in
// k8s.io/kubernetes/pkg/controller/podautoscaler).
func ReadableByHPA(items []Item) error {
	var milli int64
	total := resource.Quantity{Format: resource.DecimalSI}
	for _, item := range items {
		total.Add(item.Value)
		if item.Value.CmpInt64(hpaLimit) > 0 || total.CmpInt64(hpaLimit) > 0 {
			return fmt.Errorf("%w %s: it computes in thousandths in 64 bits, so up to 9.2e15", ErrMisreadByHPA, total.String())
		}
		// As the HPA does it: each rounded away from zero to a thousandth by itself.
		if milli += item.Value.MilliValue(); milli < 0 || total.Sign() < 0 {
			return fmt.Errorf("%w %s: it takes what is negative for an overflow; clip it, as with the expression IF(m > 0, m, 0)", ErrMisreadByHPA, total.String())
		}
	}
	return nil
}
