package catalog

import (
	"bytes"
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

const hpaRange = "it computes in thousandths in 64 bits, so up to 9.2e15"

// Item is one value of a metric, as the API serves it.
type Item struct {
	// Labels tell apart the items of one metric.
	Labels sources.Labels
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
	return NewItems(answer.Samples)
}

// NewItems are the samples as the API serves them, in their order. The error wraps
// ErrNotANumber, and names the first series whose sample is none.
func NewItems(samples []sources.Sample) ([]Item, error) {
	items := make([]Item, len(samples))
	for i, s := range samples {
		item, err := NewItem(s)
		if err != nil {
			return nil, fmt.Errorf("series %v: %w", s.Labels, err)
		}
		items[i] = item
	}
	return items, nil
}

// NewItem is the sample as the API serves it. The error wraps ErrNotANumber.
func NewItem(s sources.Sample) (Item, error) {
	value, err := quantity(s.Value)
	return Item{Labels: s.Labels, Value: value, Time: s.Time, Window: s.Window}, err
}

// Zero is the item that stands for no data where somebody asked for that. Its time is
// when the backend said that there is none, as there is no datapoint that has one.
func Zero(labels sources.Labels, at time.Time) Item {
	return Item{Labels: labels, Value: *resource.NewQuantity(0, resource.DecimalSI), Time: at}
}

// zeros are the items that stand for no data.
func (m *Metric) zeros(at time.Time) []Item {
	items := make([]Item, len(m.Zeros))
	for i, labels := range m.Zeros {
		items[i] = Zero(labels, at)
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
	return fraction(v), nil
}

// fraction is the quantity of a v that is finite and not whole. Its digits, at most 17,
// fit an int64, which costs no memory, where a text to parse costs a dozen objects.
func fraction(v float64) resource.Quantity {
	var buf [32]byte
	var digits int64
	scale := 0
	mantissa, exponent, _ := bytes.Cut(strconv.AppendFloat(buf[:0], math.Abs(v), 'e', -1, 64), []byte("e"))
	for i, c := range mantissa {
		if c == '.' {
			scale = i + 1 - len(mantissa)
			continue
		}
		digits = 10*digits + int64(c-'0')
	}
	power, _ := strconv.Atoi(string(exponent))
	if v < 0 {
		digits = -digits
	}
	q := resource.NewScaledQuantity(digits, resource.Scale(scale+power)) //nolint:gosec // A float64 has no power beyond 308.
	q.RoundUp(resource.Nano)
	return *q
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
			return fmt.Errorf("%w %s: %s", ErrMisreadByHPA, total.String(), hpaRange)
		}
		// As the HPA does it: each rounded away from zero to a thousandth by itself.
		if milli += item.Value.MilliValue(); milli < 0 || total.Sign() < 0 {
			return fmt.Errorf("%w %s: it takes what is negative for an overflow; clip it, as with IF(m > 0, m, 0) in CloudWatch or clamp_min(m, 0) in PromQL", ErrMisreadByHPA, total.String())
		}
	}
	return nil
}

// ObjectsReadableByHPA wraps ErrMisreadByHPA unless an HPA can add up the values of any
// of the items, which are those of one object each, to the number that they are. It adds
// those of the pods that it counts, in thousandths, in 64 bits that wrap around
// (GetMetricUsageRatio in k8s.io/kubernetes/pkg/controller/podautoscaler/metrics). What is
// negative it understands, unlike with external metrics.
func ObjectsReadableByHPA(items []Item) error {
	var positive, negative int64
	for _, item := range items {
		if item.Value.CmpInt64(hpaLimit) > 0 || item.Value.CmpInt64(-hpaLimit) < 0 {
			return fmt.Errorf("%w %s: %s", ErrMisreadByHPA, item.Value.String(), hpaRange)
		}
		milli := item.Value.MilliValue()
		if milli < 0 && !readsAs(item.Value, milli) {
			return fmt.Errorf("%w %s: it loses digits of what is negative and has so many; round it", ErrMisreadByHPA, item.Value.String())
		}
		if milli > math.MaxInt64-positive || milli < math.MinInt64-negative {
			total, _ := sum(items)
			return fmt.Errorf("%w of %d objects that add up to %s: %s", ErrMisreadByHPA, len(items), total.String(), hpaRange)
		}
		positive += max(milli, 0)
		negative += min(milli, 0)
	}
	return nil
}

// ReplicasReadableByHPA wraps ErrMisreadByHPA if an HPA with that target, which divides
// what the items add up to by it, would get more replicas than an int32 holds. It does not
// look, and where it runs on amd64 gets the most negative number, which scales to the
// minimum (int32(math.Ceil(…)) in k8s.io/kubernetes/pkg/controller/podautoscaler,
// replica_calculator.go).
func ReplicasReadableByHPA(items []Item, target float64) error {
	var total float64
	for _, item := range items {
		// It may count some of the pods only, and those below zero may not be among them.
		total += max(item.Value.AsApproximateFloat64(), 0)
	}
	return replicasReadable(total, target)
}

// ReplicasOfSumReadableByHPA is ReplicasReadableByHPA for the items of an external metric
// that ReadableByHPA has found no fault with: an HPA adds up all of them, each in thousandths.
func ReplicasOfSumReadableByHPA(items []Item, target float64) error {
	var milli int64
	for _, item := range items {
		milli += item.Value.MilliValue()
	}
	return replicasReadable(float64(milli)/1000, target)
}

func replicasReadable(total, target float64) error {
	if total/target < math.MaxInt32 {
		return nil
	}
	return fmt.Errorf("%w %v: by the target %v of an HPA of that metric it means more than %d replicas, which wrap around to fewer than none; correct the metric or the target",
		ErrMisreadByHPA, total, target, math.MaxInt32)
}

// readsAs says whether a client that parses the text of q takes it for that many
// thousandths, give or take how it rounds. Of a negative one whose text has more than 18
// digits it may keep the lowest 64 bits: scaledValue in k8s.io/apimachinery/pkg/api/resource
// looks for an overflow upwards only, so that -3062592595078724600u is read as -433078842938m.
func readsAs(q resource.Quantity, milli int64) bool {
	const rounding = 2
	read, err := resource.ParseQuantity(q.String())
	if err != nil {
		return false
	}
	difference := read.MilliValue() - milli
	return -rounding <= difference && difference <= rounding
}
