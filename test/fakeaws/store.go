package fakeaws

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

const (
	// retention is how long data is kept. AWS keeps it for 15 months, but nobody
	// looks at a stand-in's yesterday.
	retention = 6 * time.Hour
	// fineRetention is how long data can be read with a period below a minute, see
	// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
	fineRetention = 3 * time.Hour
)

// scope is what data is kept apart by.
type scope struct {
	account, region string
}

// metricID names a metric within its scope.
type metricID struct {
	namespace, name string
	// dimensions are the names and values, sorted, with a zero byte after each.
	dimensions string
}

func newMetricID(namespace, name string, dimensions []types.Dimension) metricID {
	pairs := make([]string, 0, len(dimensions))
	for _, d := range dimensions {
		pairs = append(pairs, aws.ToString(d.Name)+"\x00"+aws.ToString(d.Value)+"\x00")
	}
	slices.Sort(pairs)
	return metricID{namespace: namespace, name: name, dimensions: strings.Join(pairs, "")}
}

// store holds the datapoints of every metric.
type store struct {
	mu     sync.Mutex
	scopes map[scope]map[metricID]*series
}

// series is the data of one metric.
type series struct {
	dimensions []types.Dimension
	buckets    []bucket // sorted by at
}

// bucket is the data of one metric and unit that was measured at one time, as
// precisely as it was stored.
type bucket struct {
	at         int64 // Unix seconds, rounded down to the resolution
	resolution int64 // seconds: fine or regular
	unit       types.StandardUnit
	data       distribution
}

// datum is what is put into the store.
type datum struct {
	id         metricID
	dimensions []types.Dimension
	bucket     bucket
}

func newStore() *store { return &store{scopes: map[scope]map[metricID]*series{}} }

// The storage resolutions that there are, in seconds, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/publishingMetrics.html#high-resolution-metrics
const (
	fine    = 1
	regular = 60
)

// newBucket rounds at as CloudWatch does when it stores.
func newBucket(at time.Time, resolution int64, unit types.StandardUnit) bucket {
	return bucket{at: floor(at.Unix(), resolution), resolution: resolution, unit: cmp.Or(unit, types.StandardUnitNone)}
}

// put stores data.
func (s *store) put(where scope, data ...datum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	metrics := s.scopes[where]
	if metrics == nil {
		metrics = map[metricID]*series{}
		s.scopes[where] = metrics
	}
	for _, d := range data {
		found := metrics[d.id]
		if found == nil {
			found = &series{dimensions: slices.Clone(d.dimensions)}
			metrics[d.id] = found
		}
		found.put(d.bucket)
	}
}

func (s *series) put(b bucket) {
	i, _ := slices.BinarySearchFunc(s.buckets, b.at, func(x bucket, at int64) int { return cmp.Compare(x.at, at) })
	for ; i < len(s.buckets) && s.buckets[i].at == b.at; i++ {
		if s.buckets[i].resolution == b.resolution && s.buckets[i].unit == b.unit {
			s.buckets[i].data.merge(b.data)
			return
		}
	}
	var fresh distribution // Never shared with the caller's.
	fresh.merge(b.data)
	b.data = fresh
	s.buckets = slices.Insert(s.buckets, i, b)
}

// window is a time range that is cut into periods.
type window struct {
	start, end int64 // Unix seconds; the end is exclusive
	period     int64 // seconds
	now        int64
}

// newWindow rounds a range as the reference of GetMetricData documents for
// StartTime, depending on the period in seconds and on how long ago it starts:
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
func newWindow(start, end, now time.Time, period int64) window {
	const day = 24 * time.Hour
	w := window{start: start.Unix(), end: end.Unix(), period: period, now: now.Unix()}
	if end.Nanosecond() > 0 && period >= 60 {
		w.end++ // The data of the last second is in the range.
	}
	switch age := now.Sub(start); {
	case period < 60:
		w.start, w.end = floor(w.start, period), floor(w.end, period)
	case age > 63*day:
		w.start = floor(w.start, 3600)
	case age > 15*day:
		w.start = floor(w.start, 300)
	default:
		w.start = floor(w.start, 60)
	}
	return w
}

// at returns the start of the period that a bucket belongs to, and whether it is in
// the window at all. Data of regular resolution has no time but the full minute,
// whatever the period.
func (w window) at(b bucket) (int64, bool) {
	if b.at < w.start || b.at >= w.end {
		return 0, false
	}
	if w.period < 60 {
		return floor(b.at, w.period), b.resolution == regular || b.at >= w.now-int64(fineRetention.Seconds())
	}
	return w.start + floor(b.at-w.start, w.period), true
}

// times are the starts of the window's periods.
func (w window) times() []int64 {
	var all []int64
	for t := w.start; t < w.end; t += w.period {
		all = append(all, t)
	}
	return all
}

func floor(t, step int64) int64 { return t - ((t%step)+step)%step }

// read aggregates the data of a metric by period; an unknown metric has none.
func (s *store) read(where scope, id metricID, unit types.StandardUnit, w window) map[int64]*distribution {
	s.mu.Lock()
	defer s.mu.Unlock()
	periods := map[int64]*distribution{}
	if found := s.scopes[where][id]; found != nil {
		found.aggregate(periods, unit, w)
	}
	return periods
}

// aggregate adds the series' data to periods.
func (s *series) aggregate(periods map[int64]*distribution, unit types.StandardUnit, w window) {
	from, _ := slices.BinarySearchFunc(s.buckets, w.start, func(b bucket, at int64) int { return cmp.Compare(b.at, at) })
	for _, b := range s.buckets[from:] {
		if b.at >= w.end {
			return
		}
		at, ok := w.at(b)
		if !ok || unit != "" && unit != b.unit {
			continue
		}
		if periods[at] == nil {
			periods[at] = &distribution{}
		}
		periods[at].merge(b.data)
	}
}

// storedMetric is a metric that the store has data of.
type storedMetric struct {
	id         metricID
	dimensions []types.Dimension
	newest     int64 // Unix seconds
}

// list returns the metrics of a scope in a stable order.
func (s *store) list(where scope) []storedMetric {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []storedMetric
	for id, found := range s.scopes[where] {
		all = append(all, storedMetric{id, found.dimensions, found.buckets[len(found.buckets)-1].at})
	}
	slices.SortFunc(all, func(a, b storedMetric) int {
		return cmp.Or(
			cmp.Compare(a.id.namespace, b.id.namespace),
			cmp.Compare(a.id.name, b.id.name),
			cmp.Compare(a.id.dimensions, b.id.dimensions),
		)
	})
	return all
}

// expire forgets what is older than the retention.
func (s *store) expire(now time.Time) {
	oldest := now.Add(-retention).Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, metrics := range s.scopes {
		maps.DeleteFunc(metrics, func(_ metricID, found *series) bool {
			i, _ := slices.BinarySearchFunc(found.buckets, oldest, func(b bucket, at int64) int { return cmp.Compare(b.at, at) })
			found.buckets = slices.Delete(found.buckets, 0, i)
			return len(found.buckets) == 0
		})
	}
}

// distribution is what is known of the values that were measured in a time.
type distribution struct {
	sum, count, minimum, maximum float64
	// values are the values with how often they were measured; percentiles need them.
	values map[float64]float64
	// opaque says that some values are known as a statistic set only.
	opaque bool
}

func (d *distribution) add(value, count float64) {
	d.merge(distribution{
		sum: value * count, count: count, minimum: value, maximum: value,
		values: map[float64]float64{value: count},
	})
}

// addSet adds a statistic set. One whose values are all equal counts as values, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
func (d *distribution) addSet(sum, count, minimum, maximum float64) {
	set := distribution{sum: sum, count: count, minimum: minimum, maximum: maximum, opaque: true}
	if minimum == maximum && sum == minimum*count {
		set.values, set.opaque = map[float64]float64{minimum: count}, false
	}
	d.merge(set)
}

func (d *distribution) merge(other distribution) {
	if d.count == 0 {
		d.minimum, d.maximum = other.minimum, other.maximum
	}
	d.sum += other.sum
	d.count += other.count
	d.minimum = math.Min(d.minimum, other.minimum)
	d.maximum = math.Max(d.maximum, other.maximum)
	d.opaque = d.opaque || other.opaque
	if d.values == nil {
		d.values = make(map[float64]float64, len(other.values))
	}
	for value, count := range other.values {
		d.values[value] += count
	}
}
