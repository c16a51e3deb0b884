package sources

import (
	"context"
	"time"
)

// Pace bounds how many calls begin in a second. After a rest as many as that may begin at
// once, so that in no second there are more than twice as many. A nil Pace is no bound.
type Pace struct {
	perSecond float64
	// turn has an entry while somebody waits, or counts. So nobody takes a call of a later
	// time from those who come first.
	turn chan struct{}
	// left are the calls that may begin now, as of a time.
	left float64
	asOf time.Time
}

// NewPace is a bound of so many calls, at least one; nil if that is 0.
func NewPace(perSecond int) *Pace {
	if perSecond == 0 {
		return nil
	}
	return &Pace{perSecond: float64(perSecond), left: float64(perSecond), asOf: time.Now(), turn: make(chan struct{}, 1)}
}

// Wait returns when one more call may begin. The error is ctx's, when it is done before.
func (p *Pace) Wait(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	now := time.Now()
	p.left = min(p.perSecond, p.left+now.Sub(p.asOf).Seconds()*p.perSecond)
	p.asOf = now
	if wait := (1 - p.left) / p.perSecond; wait > 0 {
		select {
		case <-time.After(time.Duration(wait * float64(time.Second))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.left--
	return nil
}
