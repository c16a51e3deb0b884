package balancer

import "time"

// Refused calls are made again after a pause, which doubles. It is what the SDK's standard
// retries and the controller's queue make together, roughly, and without their jitter.
const (
	firstBackoff = time.Second
	maxBackoff   = 20 * time.Second
)

// bucket is a token bucket, as those that bound AWS's calls. Each account and Region has one
// for RegisterTargets and DeregisterTargets, which all its target groups share; and the
// controller keeps to one of 4 calls a second and a burst of 20 by itself, see "throttle
// config" in https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/configurations/.
type bucket struct {
	Throttle

	tokens float64
	filled time.Time
}

func newBucket(t Throttle) *bucket { return &bucket{Throttle: t, tokens: float64(t.Burst)} }

// take says whether a call may be made now.
func (b *bucket) take(now time.Time) bool {
	if b.PerSecond == 0 {
		return true
	}
	if !b.filled.IsZero() {
		b.tokens = min(b.tokens+now.Sub(b.filled).Seconds()*b.PerSecond, float64(b.Burst))
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
