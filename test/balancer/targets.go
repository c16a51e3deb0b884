package balancer

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// State is the health of a target, see
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html#target-health-states.
type State string

// The states that this balancer knows. Unused is that of every address that is not
// registered.
const (
	Initial   State = "initial"
	Healthy   State = "healthy"
	Unhealthy State = "unhealthy"
	Draining  State = "draining"
	Unused    State = "unused"
)

// Condition is the health of a target as DescribeTargetHealth tells it. A healthy target
// has neither reason nor description.
type Condition struct {
	State       State  `json:"state"`
	Reason      string `json:"reason,omitempty"`
	Description string `json:"description,omitempty"`
}

// Reasons and descriptions are those of
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html#target-health-reason-codes.
var (
	healthy       = Condition{State: Healthy}
	registering   = Condition{Initial, "Elb.RegistrationInProgress", "Target registration is in progress"}
	checking      = Condition{Initial, "Elb.InitialHealthChecking", "Initial health checks in progress"}
	draining      = Condition{Draining, "Target.DeregistrationInProgress", "Target deregistration is in progress"}
	notRegistered = Condition{Unused, "Target.NotRegistered", "Target is not registered to the target group"}
)

// Address is where a target takes requests.
type Address struct {
	Host string
	Port int
}

func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// endpoint is an address that the controller wants to be registered.
type endpoint struct {
	address Address
	// health is the host and port that checks ask.
	health string
	// pod is who has the address. It is nil for a node.
	pod *pod
}

// target is a registered address. Its group guards all of its fields but calls, which
// guards itself.
type target struct {
	address Address
	health  string
	calls   conns

	condition Condition
	passed    int // checks in a row
	failed    int // checks in a row
	until     time.Time
	inFlight  int
	requests  uint64
	unchecked func() // ends its checks
}

// errNoTargets says that a request can go nowhere.
var errNoTargets = errors.New("no target is registered that may have requests")

// group is a target group: which targets there are, how they are, and whose turn it is. It
// has no clock and does nothing by itself: who calls says what time it is and what happened.
type group struct {
	opts Options

	mu      sync.Mutex
	targets map[Address]*target
	ready   []*target // those that may have requests, in the order of their registration
	all     []*target // in the order of their registration
	turn    int
}

func newGroup(opts Options) *group {
	return &group{opts: opts, targets: map[Address]*target{}}
}

// register adds targets, which await their first check. One that drains is taken back. It
// returns those that are new or back.
func (g *group) register(endpoints []endpoint) []*target {
	g.mu.Lock()
	defer g.mu.Unlock()
	var added []*target
	for _, e := range endpoints {
		t := g.targets[e.address]
		switch {
		case t == nil:
			t = &target{address: e.address}
			g.targets[e.address] = t
			g.all = append(g.all, t)
		case t.condition.State != Draining:
			continue
		}
		t.health, t.condition, t.passed, t.failed = e.health, checking, 0, 0
		added = append(added, t)
	}
	g.sort()
	return added
}

// deregister lets targets drain. They have no new requests from now on, and what is under
// way may end until the deregistration delay is over.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#deregistration-delay
func (g *group) deregister(addresses []Address, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range addresses {
		t := g.targets[a]
		if t == nil || t.condition.State == Draining {
			continue
		}
		t.condition, t.until = draining, now.Add(g.opts.DeregistrationDelay)
		if t.unchecked != nil {
			t.unchecked()
		}
	}
	g.sort()
}

// expire removes the targets whose delay is over, and returns them. Their connections are
// to be cut.
func (g *group) expire(now time.Time) []*target {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []*target
	g.all = slices.DeleteFunc(g.all, func(t *target) bool {
		if t.condition.State != Draining || t.until.After(now) {
			return false
		}
		t.condition = notRegistered
		delete(g.targets, t.address)
		gone = append(gone, t)
		return true
	})
	return gone
}

// nextExpiry is when the first of the draining targets is to be removed, or zero.
func (g *group) nextExpiry() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	var next time.Time
	for _, t := range g.all {
		if t.condition.State == Draining {
			next = earlier(next, t.until)
		}
	}
	return next
}

// earlier is the earlier of two times, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// checked takes what came of a check: nil, or what is wrong. A new target is healthy after
// one check; after that, it is the thresholds that count.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
func (g *group) checked(t *target, failure *Condition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.condition.State == Draining || t.condition.State == Unused {
		return
	}
	if failure == nil {
		t.passed, t.failed = t.passed+1, 0
		if t.condition.State == Initial || t.passed >= g.opts.Health.HealthyThreshold {
			t.condition = healthy
		}
	} else {
		t.passed, t.failed = 0, t.failed+1
		if t.condition.State == Unhealthy || t.failed >= g.opts.Health.UnhealthyThreshold {
			t.condition = *failure
		}
	}
	g.sort()
}

// sort finds the targets that may have requests: those that are healthy, or if none is,
// those that are unhealthy (the balancer fails open). A target that waits for its first
// check has none, and neither has one that drains.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html,
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/pod_readiness_gate/
func (g *group) sort() {
	g.ready = g.ready[:0]
	for _, state := range []State{Healthy, Unhealthy} {
		for _, t := range g.all {
			if t.condition.State == state {
				g.ready = append(g.ready, t)
			}
		}
		if len(g.ready) > 0 {
			return
		}
	}
}

// pick chooses the target of a request, which counts as under way until done.
func (g *group) pick() (*target, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ready) == 0 {
		return nil, errNoTargets
	}
	g.turn++
	t := g.ready[g.turn%len(g.ready)]
	if g.opts.Algorithm == LeastOutstanding {
		for n := range g.ready { // From the one whose turn it is, which wins among equals.
			if other := g.ready[(g.turn+n)%len(g.ready)]; other.inFlight < t.inFlight {
				t = other
			}
		}
	}
	t.inFlight++
	t.requests++
	return t, nil
}

func (g *group) done(t *target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.inFlight--
}

// condition of an address, whether it is registered or not.
func (g *group) condition(a Address) Condition {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.targets[a]; t != nil {
		return t.condition
	}
	return notRegistered
}

// registered are the addresses that do not drain.
func (g *group) registered() map[Address]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	addresses := make(map[Address]bool, len(g.targets))
	for a, t := range g.targets {
		if t.condition.State != Draining {
			addresses[a] = true
		}
	}
	return addresses
}

// registrations are all targets, those that drain too.
func (g *group) registrations() []*target {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

// started keeps what ends a target's checks. If it drains already, it is ended at once.
func (g *group) started(t *target, end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.unchecked = end
	if t.condition.State == Draining || t.condition.State == Unused {
		end()
	}
}

// Target is what is known of a registered target.
type Target struct {
	Address string `json:"address"`
	Condition
	// InFlight is how many requests are under way, Requests how many it has been given.
	InFlight int    `json:"inFlight"`
	Requests uint64 `json:"requests"`
}

func (g *group) report() []Target {
	g.mu.Lock()
	defer g.mu.Unlock()
	targets := make([]Target, 0, len(g.all))
	for _, t := range g.all {
		targets = append(targets, Target{t.address.String(), t.condition, t.inFlight, t.requests})
	}
	return targets
}
