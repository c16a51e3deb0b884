package balancer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// gatePrefix starts the type of the conditions that the controller sets, see
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/pod_readiness_gate/.
const gatePrefix = "target-health.elbv2.k8s.aws/"

// again is when the controller tries again what the API server refused.
const again = time.Second

// cluster is what the controller needs of Kubernetes.
type cluster interface {
	// endpoints are those that ought to be registered now. They are the caller's.
	endpoints() (map[Address]endpoint, error)
	// setCondition gives a pod a condition. A pod that is gone is no error.
	setCondition(ctx context.Context, p *pod, c corev1.PodCondition) error
}

// Calls are the calls that the controller made.
type Calls struct {
	Register, Deregister uint64
	// Throttled were refused, and made again later.
	Throttled uint64
}

// controller brings the target group to what the cluster wants, as the AWS Load Balancer
// Controller does: what goes is deregistered, then what is new is registered, each in calls
// of many targets; a call that is refused ends the attempt, and all of the rest waits with
// it. Then it sets the readiness gates.
type controller struct {
	opts    Options
	cluster cluster
	group   *group
	bucket  *bucket
	// started is told the targets that are to be checked, cut those that are no more.
	started, cut func([]*target)

	since   map[Address]time.Time // since when an address ought to be registered and is not, or the other way round
	retry   time.Time             // no call before that, after one that was refused
	backoff time.Duration

	mu      sync.Mutex
	calls   Calls
	problem string // what keeps it from its work, as of the last time it tried
}

func newController(opts Options, c cluster, g *group) *controller {
	return &controller{
		opts: opts, cluster: c, group: g, bucket: newBucket(opts.Throttle),
		started: func([]*target) {}, cut: func([]*target) {}, since: map[Address]time.Time{},
	}
}

// run reconciles at every change, and when it is time for something, until ctx is done.
func (c *controller) run(ctx context.Context, changed <-chan struct{}) {
	for {
		var due <-chan time.Time
		if next := c.reconcile(ctx, time.Now()); !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-due:
		}
	}
}

// reconcile does what is to be done now, and says when it has to be called again at the
// latest; zero is never.
func (c *controller) reconcile(ctx context.Context, now time.Time) time.Time {
	c.cut(c.group.expire(now))
	wanted, err := c.cluster.endpoints()
	if err != nil {
		c.report(ctx, fmt.Errorf("telling the targets (those of before stay): %w", err))
		return earlier(now.Add(again), c.group.nextExpiry())
	}
	next := c.reach(now, wanted)
	opened, err := c.openGates(ctx, now, wanted)
	c.report(ctx, err)
	return earlier(earlier(next, opened), c.group.nextExpiry())
}

// report logs a problem when it is a new one.
func (c *controller) report(ctx context.Context, err error) {
	var problem string
	if err != nil {
		problem = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && problem != c.problem {
		klog.FromContext(ctx).Error(err, "Trying again", "service", c.opts.Namespace+"/"+c.opts.Service)
	}
	c.problem = problem
}

// reach makes the calls that are due, and says when the next is.
func (c *controller) reach(now time.Time, wanted map[Address]endpoint) time.Time {
	registered := c.group.registered()
	since := map[Address]time.Time{}
	for a := range wanted {
		if !registered[a] {
			since[a] = cmp.Or(c.since[a], now)
		}
	}
	for a := range registered {
		if _, ok := wanted[a]; !ok {
			since[a] = cmp.Or(c.since[a], now)
		}
	}
	c.since = since

	out, in, next := c.due(now, registered)
	if len(out)+len(in) == 0 {
		return next
	}
	if c.retry.After(now) {
		return earlier(next, c.retry)
	}
	if !c.deregister(now, out) || !c.register(now, in, wanted) {
		return earlier(next, c.retry)
	}
	c.backoff = 0
	return next
}

// due are the addresses whose lag is over, those of longest first, and when the lag of the
// next one is.
func (c *controller) due(now time.Time, registered map[Address]bool) (out, in []Address, next time.Time) {
	for _, a := range slices.SortedFunc(maps.Keys(c.since), c.order) {
		lag := c.opts.RegistrationLag
		if registered[a] {
			lag = c.opts.DeregistrationLag
		}
		switch at := c.since[a].Add(lag); {
		case at.After(now):
			next = earlier(next, at)
		case registered[a]:
			out = append(out, a)
		default:
			in = append(in, a)
		}
	}
	// More than the quota are refused, until others are gone.
	in = in[:min(len(in), max(0, maxTargets-len(registered)+len(out)))]
	return out, in, next
}

func (c *controller) order(a, b Address) int {
	return cmp.Or(c.since[a].Compare(c.since[b]), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
}

func (c *controller) deregister(now time.Time, addresses []Address) bool {
	for chunk := range slices.Chunk(addresses, c.opts.CallTargets) {
		if !c.call(now, func(calls *Calls) { calls.Deregister++ }) {
			return false
		}
		c.group.deregister(chunk, now)
		c.reached(chunk)
	}
	return true
}

func (c *controller) register(now time.Time, addresses []Address, wanted map[Address]endpoint) bool {
	for chunk := range slices.Chunk(addresses, c.opts.CallTargets) {
		if !c.call(now, func(calls *Calls) { calls.Register++ }) {
			return false
		}
		endpoints := make([]endpoint, 0, len(chunk))
		for _, a := range chunk {
			endpoints = append(endpoints, wanted[a])
		}
		c.started(c.group.register(endpoints))
		c.reached(chunk)
	}
	return true
}

func (c *controller) reached(addresses []Address) {
	for _, a := range addresses {
		delete(c.since, a)
	}
}

// call says whether a call is taken.
func (c *controller) call(now time.Time, count func(*Calls)) bool {
	taken := c.bucket.take(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if taken {
		count(&c.calls)
		return true
	}
	c.calls.Throttled++
	c.backoff = min(max(2*c.backoff, firstBackoff), maxBackoff)
	c.retry = now.Add(c.backoff)
	return false
}

func (c *controller) counted() (calls Calls, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.problem
}

// openGates tells the health of targets to the pods that have the readiness gate, and says
// when to look again, and the last that went wrong. The condition of a pod whose target was healthy once stays True:
// nothing asks for the health of healthy targets again.
//
// pkg/targetgroupbinding/resource_manager.go and targets_manager.go of the controller.
func (c *controller) openGates(ctx context.Context, now time.Time, wanted map[Address]endpoint) (next time.Time, problem error) {
	gate := corev1.PodConditionType(gatePrefix + cmp.Or(c.opts.Gate, c.opts.Service))
	if c.opts.TargetType != IP {
		return time.Time{}, nil // With nodes as targets there are no gates.
	}
	for _, e := range wanted {
		if !e.pod.has(gate) {
			continue
		}
		health := c.group.condition(e.address)
		if health.State == Unused || health.State == Draining {
			health = registering
		}
		opened, err := c.openGate(ctx, e.pod, gate, health)
		if err != nil {
			problem = fmt.Errorf("setting readiness gate %s of pods: %w", gate, err)
			next = earlier(next, now.Add(again))
		} else if !opened {
			next = earlier(next, now.Add(c.opts.Requeue))
		}
	}
	return next, problem
}

func (c *controller) openGate(ctx context.Context, p *pod, gate corev1.PodConditionType, health Condition) (opened bool, err error) {
	set := corev1.PodCondition{Type: gate, Status: corev1.ConditionFalse, Reason: health.Reason, Message: health.Description}
	if health.State == Healthy {
		set.Status = corev1.ConditionTrue
	}
	before := p.condition(gate)
	if before != nil && before.Status == corev1.ConditionTrue && health.State != Initial {
		return true, nil
	}
	if before != nil && before.Status == set.Status && before.Reason == set.Reason && before.Message == set.Message {
		return set.Status == corev1.ConditionTrue, nil
	}
	return set.Status == corev1.ConditionTrue, c.cluster.setCondition(ctx, p, set)
}
