package engine

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// servedBuckets are the limits of tidegauge_served_age_seconds.
var servedBuckets = [...]time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute,
	2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
}

// stripes is among how many places the counts of reads are spread, so that readers of
// different queries seldom write to one. It is a power of 2.
const stripes = 16

// served counts the reads that were given values, by the values' age.
type served [stripes]stripe

// stripe is a part of the counts. Stripes are as far from each other as processors share
// memory.
type stripe struct {
	// buckets are not cumulative; the last has what is older than all limits.
	buckets [len(servedBuckets) + 1]atomic.Uint64
	// sum is that of the ages, in nanoseconds.
	sum atomic.Int64
	// fresh are the reads from memory while the source does not fail, which are not yet in
	// the counter.
	fresh atomic.Uint64
	_     [32]byte
}

func (s *served) of(e *entry) *stripe { return &s[e.hash%stripes] }

// observe counts a value of that age.
func (s *stripe) observe(age time.Duration) {
	i := 0
	for i < len(servedBuckets) && age > servedBuckets[i] {
		i++
	}
	s.buckets[i].Add(1)
	s.sum.Add(int64(age))
}

// takeFresh are the fresh reads since it was called last.
func (s *served) takeFresh() uint64 {
	n := uint64(0)
	for i := range s {
		n += s[i].fresh.Swap(0)
	}
	return n
}

// histogram is the sum of the stripes.
func (s *served) histogram(source string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(servedBuckets))
	count, sum := uint64(0), time.Duration(0)
	for i := range len(servedBuckets) + 1 {
		for j := range s {
			count += s[j].buckets[i].Load()
		}
		if i < len(servedBuckets) {
			buckets[servedBuckets[i].Seconds()] = count
		}
	}
	for j := range s {
		sum += time.Duration(s[j].sum.Load())
	}
	return prometheus.MustNewConstHistogram(servedAgeDesc, count, sum.Seconds(), buckets, source)
}
