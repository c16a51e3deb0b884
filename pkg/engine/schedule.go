package engine

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// retryGrid is what retries are aligned to.
const retryGrid = time.Second

// schedule says when a source's queries are due.
type schedule struct {
	phase   time.Duration
	backoff Backoff
}

// later is the schedule of a backend that is asked so much later than others.
func (s schedule) later(d time.Duration) schedule {
	s.phase += d
	return s
}

// refresh is when a query that was answered is due after t: at the next multiple of
// its interval, so that queries with equal intervals share a Fetch.
func (s schedule) refresh(t time.Time, interval time.Duration) time.Time {
	return align(t, interval, s.phase)
}

// retry is when a query is due that has failed for the n-th time in a row, with err.
// It is tried again before its answer is too old, and soon after it is; but one that was
// throttled after about its interval at the soonest, as its backend asked for fewer calls.
func (s schedule) retry(t time.Time, of terms, n int, err error, j jitter) time.Time {
	first := min(s.backoff.First, of.interval)
	limit := min(s.backoff.Max, max(first, of.maxAge/2))
	switch {
	case errors.Is(err, sources.ErrRejected):
		first, limit = s.backoff.FirstRejected, s.backoff.MaxRejected
	case isThrottling(err):
		first = of.interval
	}
	wait := sources.Backoff(first, max(limit, of.interval), n)
	return align(t.Add(j.of(wait)), retryGrid, s.phase)
}

// align is the first time after t that is a multiple of the interval on the wall
// clock, plus the phase. It keeps t's monotonic reading, so that a step of the wall
// clock delays nothing.
func align(t time.Time, interval, phase time.Duration) time.Time {
	past := time.Duration(t.UnixNano()-int64(phase)) % interval
	return t.Add(interval - past)
}

// jitter is the share of a wait that is kept.
type jitter float64

func newJitter() jitter {
	return jitter(1 - rand.Float64()/4) //nolint:gosec // Nobody gains by guessing it.
}

func (j jitter) of(d time.Duration) time.Duration { return time.Duration(float64(d) * float64(j)) }

// queue is a heap of entries, the first to wake on top.
type queue []*entry

var _ heap.Interface = (*queue)(nil)

// Len is for the heap only.
func (q *queue) Len() int { return len(*q) }

// Less is for the heap only.
func (q *queue) Less(i, j int) bool { return (*q)[i].wake < (*q)[j].wake }

// Swap is for the heap only.
func (q *queue) Swap(i, j int) {
	s := *q
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = int32(i), int32(j) //nolint:gosec // There are not so many.
}

// Push is for the heap only.
func (q *queue) Push(x any) {
	e, _ := x.(*entry)
	e.place = int32(len(*q)) //nolint:gosec // There are not so many.
	*q = append(*q, e)
}

// Pop is for the heap only.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = -1
	return e
}
