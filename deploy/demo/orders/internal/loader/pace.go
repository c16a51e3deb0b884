package loader

import (
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	// maxRate is the highest rate in requests a second. What is above it does not come from
	// one program. leastRate is the lowest one that is not 0.
	maxRate   = 10_000
	leastRate = 0.001
	// burst is the time whose arrivals may be made up for at once. Half of it has to pass
	// before the next ones, so that what is late is made up for at twice the rate at most.
	burst = 100 * time.Millisecond
	// maxLate is how late an arrival may be that is still made up for.
	maxLate = 5 * time.Second
)

// checkRate says what is wrong with a rate.
func checkRate(rate float64) error {
	if rate == 0 || rate >= leastRate && rate <= maxRate { // NaN is neither.
		return nil
	}
	return fmt.Errorf("rate %v is neither 0 nor from %v to %v requests a second", rate, leastRate, maxRate)
}

// pace says when requests are due. It goes by the clock and not by the answers: a server that
// gets slow gets no fewer requests. The zero value is of no rate.
type pace struct {
	mu   sync.Mutex
	rate float64
	// next is when the next arrival is due, if there is a rate. Without one, share is how
	// much of the time to it was left.
	next  time.Time
	share float64
	// changed is closed when the rate is another.
	changed chan struct{}
}

// interval is the time between two arrivals.
func (p *pace) interval() time.Duration { return time.Duration(float64(time.Second) / p.rate) }

// set changes the rate. The way to the next arrival that has been gone by now counts, and
// arrivals that are owed stay owed.
func (p *pace) set(rate float64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate > 0 {
		p.share = float64(p.next.Sub(now)) / float64(p.interval())
	}
	p.rate = rate
	if rate > 0 {
		// After a long sleep more may be owed at a low rate than a Duration can say.
		away := p.share / rate * float64(time.Second)
		p.next = now.Add(time.Duration(max(away, math.MinInt64/2)))
	}
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *pace) get() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// arrivals are what is due by a time.
type arrivals struct {
	// due are the times at which they should have started.
	due []time.Time
	// late is how many were to start too long ago, and will not.
	late int
	// wait is how long to wait for the next ones, unless changed is closed before.
	wait    time.Duration
	changed <-chan struct{}
}

// take returns what is due now, and has it done with.
func (p *pace) take(now time.Time) arrivals {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	a := arrivals{changed: p.changed, wait: math.MaxInt64}
	if p.rate <= 0 {
		return a
	}
	interval := p.interval()
	if late := now.Add(-maxLate).Sub(p.next); late > 0 {
		a.late = int(late/interval) + 1
		p.next = p.next.Add(time.Duration(a.late) * interval)
	}
	most := int(math.Ceil(p.rate * burst.Seconds()))
	for len(a.due) < most && !p.next.After(now) {
		a.due = append(a.due, p.next)
		p.next = p.next.Add(interval)
	}
	a.wait = p.next.Sub(now)
	if a.wait <= 0 {
		a.wait = max(burst, interval) / 2
	}
	return a
}

// rest is how many arrivals are still owed.
func (p *pace) rest(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate <= 0 || p.next.After(now) {
		return 0
	}
	return int(now.Sub(p.next)/p.interval()) + 1
}
