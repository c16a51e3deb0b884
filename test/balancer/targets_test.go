package balancer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is the time of tests that have no clock.
var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

var failed = &Condition{Unhealthy, "Target.Timeout", "Request timed out"}

// addressOf is a target by a number.
func addressOf(n int) Address { return Address{fmt.Sprintf("10.0.0.%d", n), 8080} }

func endpointOf(n int) endpoint {
	return endpoint{address: addressOf(n), health: addressOf(n).String()}
}

func newTestGroup(change func(*Options), numbers ...int) (*group, []*target) {
	opts := Defaults()
	if change != nil {
		change(&opts)
	}
	g := newGroup(opts)
	var endpoints []endpoint
	for _, n := range numbers {
		endpoints = append(endpoints, endpointOf(n))
	}
	targets := g.register(endpoints)
	return g, targets
}

func TestThresholds(t *testing.T) {
	for _, test := range []struct {
		name, checks string // + passed, - failed
		want         State
	}{
		{"no check yet", "", Initial},
		{"a new target needs one", "+", Healthy},
		{"a new target that fails once is still new", "-", Initial},
		{"a new target that fails once and passes", "-+", Healthy},
		{"a new target that fails", "--", Unhealthy},
		{"one failure", "+-", Healthy},
		{"failures not in a row", "+-+-+-", Healthy},
		{"failures in a row", "+--", Unhealthy},
		{"one success is not enough to be back", "+--+", Unhealthy},
		{"successes not in a row", "+--+-+", Unhealthy},
		{"successes in a row", "+--++", Healthy},
	} {
		g, targets := newTestGroup(nil, 1)
		for _, c := range test.checks {
			if c == '+' {
				g.checked(targets[0], nil)
			} else {
				g.checked(targets[0], failed)
			}
		}
		if got := g.condition(addressOf(1)); got.State != test.want {
			t.Errorf("%s: %q makes %+v, want %s", test.name, test.checks, got, test.want)
		}
	}
}

func TestConditionsHaveTheWordsOfAWS(t *testing.T) {
	g, targets := newTestGroup(nil, 1)
	want := func(want Condition) {
		t.Helper()
		if got := g.condition(addressOf(1)); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	want(Condition{Initial, "Elb.InitialHealthChecking", "Initial health checks in progress"})
	g.checked(targets[0], nil)
	want(Condition{State: Healthy})
	g.checked(targets[0], failed)
	g.checked(targets[0], failed)
	want(Condition{Unhealthy, "Target.Timeout", "Request timed out"})
	g.checked(targets[0], &Condition{Unhealthy, "Target.FailedHealthChecks", "Health checks failed"})
	want(Condition{Unhealthy, "Target.FailedHealthChecks", "Health checks failed"})
	g.deregister([]Address{addressOf(1)}, at)
	want(Condition{Draining, "Target.DeregistrationInProgress", "Target deregistration is in progress"})
	g.expire(at.Add(time.Hour))
	want(Condition{Unused, "Target.NotRegistered", "Target is not registered to the target group"})
}

// picked are the targets of some requests, none of which ends.
func picked(g *group, requests int) string {
	var hosts []string
	for range requests {
		t, err := g.pick()
		if err != nil {
			return err.Error()
		}
		hosts = append(hosts, t.address.Host[len("10.0.0."):])
	}
	return strings.Join(hosts, " ")
}

func TestRoundRobinOfThoseThatAreHealthy(t *testing.T) {
	g, targets := newTestGroup(nil, 1, 2, 3, 4)
	if got := picked(g, 1); got != errNoTargets.Error() {
		t.Errorf("before any check a request goes to %s", got)
	}
	for _, target := range targets[:3] {
		g.checked(target, nil)
	}
	if got := picked(g, 6); strings.Count(got, "1") != 2 || strings.Count(got, "2") != 2 || strings.Count(got, "3") != 2 {
		t.Errorf("6 requests went to %s, want each of 1, 2 and 3 twice", got)
	}
	g.checked(targets[1], failed)
	g.checked(targets[1], failed)
	if got := picked(g, 10); strings.ContainsAny(got, "24") {
		t.Errorf("requests went to %s, want 1 and 3 only", got)
	}
}

func TestFailOpenWhenAllAreUnhealthy(t *testing.T) {
	g, targets := newTestGroup(nil, 1, 2, 3)
	for _, target := range targets {
		g.checked(target, nil)
	}
	for _, target := range targets[:2] {
		g.checked(target, failed)
		g.checked(target, failed)
	}
	g.deregister([]Address{addressOf(3)}, at)
	if got := picked(g, 4); strings.Count(got, "1") != 2 || strings.Count(got, "2") != 2 {
		t.Errorf("requests went to %s, want 1 and 2 twice each", got)
	}
}

func TestLeastOutstandingRequests(t *testing.T) {
	g, targets := newTestGroup(func(o *Options) { o.Algorithm = LeastOutstanding }, 1, 2, 3)
	for _, target := range targets {
		g.checked(target, nil)
	}
	picked(g, 3) // One at each.
	g.done(targets[1])
	g.done(targets[1]) // And one more ended than began, so that it is the least.
	if got := picked(g, 2); got != "2 2" {
		t.Errorf("requests went to %s, want both to 2", got)
	}
	first := picked(g, 3)
	if !strings.Contains(first, "1") || !strings.Contains(first, "2") || !strings.Contains(first, "3") {
		t.Errorf("among equals requests went to %s, want one to each", first)
	}
}

func TestDraining(t *testing.T) {
	const delay = 30 * time.Second
	g, targets := newTestGroup(func(o *Options) { o.DeregistrationDelay = delay }, 1, 2)
	unchecked := 0
	for _, target := range targets {
		g.started(target, func() { unchecked++ })
		g.checked(target, nil)
	}
	picked(g, 2)
	g.deregister([]Address{addressOf(1)}, at)
	g.deregister([]Address{addressOf(1), addressOf(9)}, at.Add(time.Second)) // Again, and one that is not there.
	if got := picked(g, 3); got != "2 2 2" {
		t.Errorf("requests went to %s, want 2 only", got)
	}
	if unchecked != 1 {
		t.Errorf("the checks of %d targets ended, want 1", unchecked)
	}
	g.checked(targets[0], nil) // A check that was under way.
	if got := g.condition(addressOf(1)).State; got != Draining {
		t.Errorf("a late check makes it %s", got)
	}
	if got := g.nextExpiry(); !got.Equal(at.Add(delay)) {
		t.Errorf("next expiry is %v, want %v", got, at.Add(delay))
	}
	if gone := g.expire(at.Add(delay - 1)); len(gone) > 0 {
		t.Error("it is gone before the delay is over")
	}
	if gone := g.expire(at.Add(delay)); !slices.Equal(gone, targets[:1]) {
		t.Errorf("%d targets are gone, want the first", len(gone))
	}
	if got := g.nextExpiry(); !got.IsZero() {
		t.Errorf("next expiry is %v, want none", got)
	}
	g.deregister([]Address{addressOf(2)}, at)
	if got := picked(g, 1); got != errNoTargets.Error() {
		t.Errorf("with draining targets only, a request goes to %s", got)
	}
}

func TestDrainingTargetComesBack(t *testing.T) {
	g, targets := newTestGroup(nil, 1)
	g.checked(targets[0], nil)
	g.deregister([]Address{addressOf(1)}, at)
	if back := g.register([]endpoint{endpointOf(1)}); !slices.Equal(back, targets) {
		t.Fatalf("%d targets are back, want the one that drains", len(back))
	}
	if got := g.condition(addressOf(1)).State; got != Initial {
		t.Errorf("it is %s, want %s", got, Initial)
	}
	if gone := g.expire(at.Add(time.Hour)); len(gone) > 0 {
		t.Error("it is gone all the same")
	}
	if again := g.register([]endpoint{endpointOf(1)}); len(again) > 0 {
		t.Error("registering a registered target makes a new one")
	}
}

func TestMatcher(t *testing.T) {
	for text, codes := range map[string]map[int]bool{
		"200":     {200: true, 201: false, 301: false, 503: false},
		"200-301": {200: true, 250: true, 301: true, 302: false, 404: false},
		"200,404": {200: true, 404: true, 403: false},
	} {
		m, err := parseMatcher(text)
		if err != nil {
			t.Fatal(err)
		}
		for code, want := range codes {
			if got := m.matches(code); got != want {
				t.Errorf("%s matches %d: %t", text, code, got)
			}
		}
	}
	for _, text := range []string{"", "x", "200-", "301-200", "100", "200-500"} {
		if _, err := parseMatcher(text); err == nil || !strings.Contains(err.Error(), "between 200 and 499") {
			t.Errorf("%q: error is %v", text, err)
		}
	}
}

func TestBucket(t *testing.T) {
	b := newBucket(Throttle{PerSecond: 0.5, Burst: 2})
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, false}, {time.Second, false}, {2 * time.Second, true}, {2 * time.Second, false}, {time.Hour, true}, {time.Hour, true}, {time.Hour, false}} {
		if got := b.take(at.Add(test.after)); got != test.want {
			t.Errorf("after %v: taken = %t", test.after, got)
		}
	}
	if free := newBucket(Throttle{}); !free.take(at) {
		t.Error("a bucket without a rate refuses")
	}
}
