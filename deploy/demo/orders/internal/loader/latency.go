package loader

import (
	"math"
	"time"
)

// Latencies are counted in buckets each of which ends a fiftieth above where it begins, so that
// a percentile is known to a hundredth however many requests there are.
const (
	leastLatency  = 100 * time.Microsecond
	latencyGrowth = 1.02
	latencyCount  = 800 // up to 12 minutes
)

// latencies are how long requests took. The zero value is of none.
type latencies struct {
	buckets [latencyCount]int
	count   int
	most    time.Duration
}

func (l *latencies) add(d time.Duration) {
	i := 0
	if d > leastLatency {
		i = int(math.Log(float64(d)/float64(leastLatency)) / math.Log(latencyGrowth))
	}
	l.buckets[min(i, latencyCount-1)]++
	l.count++
	l.most = max(l.most, d)
}

// percentile is what so much of 100 took no longer than; 0 if there were none.
func (l *latencies) percentile(p float64) time.Duration {
	wanted := int(math.Ceil(float64(l.count) * p / 100))
	seen := 0
	for i, n := range &l.buckets {
		seen += n
		if n > 0 && seen >= wanted {
			middle := float64(leastLatency) * math.Pow(latencyGrowth, float64(i)+0.5)
			return min(time.Duration(middle), l.most)
		}
	}
	return l.most
}
