package balancer

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const webGate = corev1.PodConditionType("target-health.elbv2.k8s.aws/web")

// fakeCluster wants what a test wants.
type fakeCluster struct {
	changed chan struct{}

	mu     sync.Mutex
	wanted map[Address]endpoint
	err    error
	set    []corev1.PodCondition
}

func (f *fakeCluster) endpoints() (map[Address]endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := map[Address]endpoint{}
	for a, e := range f.wanted {
		if e.pod != nil {
			p := *e.pod
			e.pod = &p
		}
		wanted[a] = e
	}
	return wanted, f.err
}

func (f *fakeCluster) setCondition(_ context.Context, p *pod, c corev1.PodCondition) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.set = append(f.set, c)
	for a, e := range f.wanted {
		if e.pod.name == p.name {
			e.pod.conditions = []corev1.PodCondition{c}
			f.wanted[a] = e
		}
	}
	return nil
}

// want replaces what is wanted. Every pod has the gate.
func (f *fakeCluster) want(numbers ...int) {
	f.mu.Lock()
	before := f.wanted
	f.wanted = map[Address]endpoint{}
	for _, n := range numbers {
		e, ok := before[addressOf(n)]
		if !ok {
			e = endpointOf(n)
			e.pod = &pod{name: e.address.Host, gates: []corev1.PodReadinessGate{{ConditionType: webGate}}}
		}
		f.wanted[e.address] = e
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// conditions are what was set since the last call.
func (f *fakeCluster) conditions() []corev1.PodCondition {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := f.set
	f.set = nil
	return set
}

// bubble runs a controller in a bubble of time.
func bubble(t *testing.T, change func(*Options), f func(*testing.T, *controller, *fakeCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts := Defaults()
		opts.Service = "web"
		change(&opts)
		cluster := &fakeCluster{changed: make(chan struct{}, 1)}
		c := newController(opts, cluster, newGroup(opts))
		c.cut = cut
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.run(ctx, cluster.changed) })
		f(t, c, cluster)
		stop()
		running.Wait()
	})
}

// state of a target, once everything stands still.
func (c *controller) state(n int) State {
	synctest.Wait()
	return c.group.condition(addressOf(n)).State
}

func expect(t *testing.T, c *controller, want State, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if got := c.state(n); got != want {
			t.Errorf("target %d is %s, want %s", n, got, want)
		}
	}
}

func TestLagOfRegistration(t *testing.T) {
	bubble(t, func(o *Options) { o.RegistrationLag = 10 * time.Second }, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1)
		<-time.After(5 * time.Second)
		k.want(1, 2, 3)
		<-time.After(5*time.Second - 1)
		expect(t, c, Unused, 1, 2, 3)
		<-time.After(1)
		expect(t, c, Initial, 1)
		expect(t, c, Unused, 2, 3)
		k.want(1, 3) // 2 is gone before its time.
		<-time.After(5 * time.Second)
		expect(t, c, Unused, 2)
		expect(t, c, Initial, 1, 3)
		if got, _ := c.counted(); got != (Calls{Register: 2}) {
			t.Errorf("calls are %+v", got)
		}
	})
}

func TestLagAndDelayOfDeregistration(t *testing.T) {
	change := func(o *Options) { o.DeregistrationLag, o.DeregistrationDelay = 4*time.Second, 20*time.Second }
	bubble(t, change, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1, 2)
		expect(t, c, Initial, 1, 2)
		targets := c.group.registrations()
		k.want(2)
		<-time.After(4*time.Second - 1)
		expect(t, c, Initial, 1)
		<-time.After(1)
		expect(t, c, Draining, 1)
		<-time.After(20*time.Second - 1)
		expect(t, c, Draining, 1)
		<-time.After(1)
		expect(t, c, Unused, 1)
		expect(t, c, Initial, 2)
		for _, target := range targets {
			if want := target.address == addressOf(1); target.calls.cut != want {
				t.Errorf("connections to %s are cut: %t", target.address, target.calls.cut)
			}
		}

		k.want()
		<-time.After(time.Second)
		k.want(2) // Back before anybody was told.
		<-time.After(time.Minute)
		expect(t, c, Initial, 2)
	})
}

func TestCallsAreOfManyTargetsAndThrottled(t *testing.T) {
	change := func(o *Options) {
		o.Throttle = Throttle{PerSecond: 0.25, Burst: 2}
		o.CallTargets = 2
	}
	bubble(t, change, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1, 2, 3, 4, 5, 6)
		expect(t, c, Initial, 1, 2, 3, 4) // Two calls, and the third is refused.
		expect(t, c, Unused, 5, 6)
		k.want(2, 3, 4, 5, 6)
		expect(t, c, Initial, 1) // Nothing is tried in the pause of 1 s.
		if got, _ := c.counted(); got != (Calls{Register: 2, Throttled: 1}) {
			t.Errorf("calls are %+v", got)
		}
		<-time.After(3*time.Second - 1) // 1 s and 2 s are over, and refused.
		expect(t, c, Initial, 1)
		<-time.After(4*time.Second + 1) // The fourth attempt: what goes is first.
		expect(t, c, Draining, 1)
		expect(t, c, Unused, 5, 6)
		<-time.After(time.Minute)
		expect(t, c, Initial, 2, 3, 4, 5, 6)
		if got, _ := c.counted(); got.Register != 3 || got.Deregister != 1 {
			t.Errorf("calls are %+v", got)
		}
	})
}

func TestBackoffHasABound(t *testing.T) {
	change := func(o *Options) { o.Throttle = Throttle{PerSecond: 1e-9, Burst: 1} }
	bubble(t, change, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1)
		expect(t, c, Initial, 1)
		k.want(1, 2)
		<-time.After(10 * time.Minute)
		// 1, 3, 7, 15, 31 s, and then every 20.
		if got, _ := c.counted(); got.Throttled < 30 || got.Throttled > 35 {
			t.Errorf("%d calls were throttled in 10 minutes", got.Throttled)
		}
	})
}

func TestTargetsHaveAQuota(t *testing.T) {
	bubble(t, func(*Options) {}, func(t *testing.T, c *controller, k *fakeCluster) {
		k.mu.Lock()
		k.wanted = map[Address]endpoint{}
		for n := range maxTargets + 50 {
			a := Address{"10.0.0.1", n + 1}
			k.wanted[a] = endpoint{address: a, pod: &pod{}}
		}
		k.mu.Unlock()
		k.changed <- struct{}{}
		synctest.Wait()
		if got := len(c.group.registered()); got != maxTargets {
			t.Errorf("%d targets are registered, want %d", got, maxTargets)
		}
		if got, _ := c.counted(); got.Register != maxTargets/callTargets {
			t.Errorf("%d calls, want %d", got.Register, maxTargets/callTargets)
		}
	})
}

func TestClusterThatCannotBeReadChangesNothing(t *testing.T) {
	bubble(t, func(*Options) {}, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1)
		expect(t, c, Initial, 1)
		k.fail(errors.New("away"))
		k.want()
		<-time.After(time.Minute)
		expect(t, c, Initial, 1)
		if _, problem := c.counted(); !strings.Contains(problem, "away") {
			t.Errorf("problem is %q", problem)
		}
		k.fail(nil)
		<-time.After(again)
		expect(t, c, Draining, 1)
		if _, problem := c.counted(); problem != "" {
			t.Errorf("problem is %q", problem)
		}
	})
}

func TestReadinessGate(t *testing.T) {
	change := func(o *Options) { o.RegistrationLag, o.Requeue = 5*time.Second, 15*time.Second }
	bubble(t, change, func(t *testing.T, c *controller, k *fakeCluster) {
		one := func(status corev1.ConditionStatus, reason, message string) {
			t.Helper()
			synctest.Wait()
			set := k.conditions()
			if len(set) != 1 || set[0].Type != webGate || set[0].Status != status || set[0].Reason != reason || set[0].Message != message {
				t.Errorf("conditions %+v, want one: %s %q %q", set, status, reason, message)
			}
		}
		none := func() {
			t.Helper()
			synctest.Wait()
			if set := k.conditions(); len(set) > 0 {
				t.Errorf("conditions %+v, want none", set)
			}
		}
		k.want(1)
		one(corev1.ConditionFalse, "Elb.RegistrationInProgress", "Target registration is in progress")
		<-time.After(5 * time.Second)
		one(corev1.ConditionFalse, "Elb.InitialHealthChecking", "Initial health checks in progress")
		target := c.group.registrations()[0]
		c.group.checked(target, nil)
		<-time.After(15*time.Second - 1)
		none() // Nobody tells the controller: it asks.
		<-time.After(1)
		one(corev1.ConditionTrue, "", "")
		c.group.checked(target, failed)
		c.group.checked(target, failed)
		<-time.After(time.Minute)
		none() // A gate that is open stays open.

		k.want() // The pod is not ready for a while, and has to be registered again.
		expect(t, c, Draining, 1)
		k.want(1)
		one(corev1.ConditionFalse, "Elb.RegistrationInProgress", "Target registration is in progress")
		<-time.After(time.Minute)
		one(corev1.ConditionFalse, "Elb.InitialHealthChecking", "Initial health checks in progress")
	})
}

func TestReadinessGateOfOthersIsLeftAlone(t *testing.T) {
	bubble(t, func(o *Options) { o.Gate = "another" }, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1)
		<-time.After(time.Minute)
		expect(t, c, Initial, 1)
		if set := k.conditions(); len(set) > 0 {
			t.Errorf("conditions %+v, want none", set)
		}
	})
}

func TestReadinessGateIsTriedAgain(t *testing.T) {
	bubble(t, func(*Options) {}, func(t *testing.T, c *controller, k *fakeCluster) {
		k.want(1)
		synctest.Wait()
		k.conditions()
		c.group.checked(c.group.registrations()[0], nil)
		k.fail(errors.New("away"))
		<-time.After(20 * time.Second)
		synctest.Wait()
		k.fail(nil)
		<-time.After(2 * again)
		synctest.Wait()
		if set := k.conditions(); len(set) == 0 || set[len(set)-1].Status != corev1.ConditionTrue {
			t.Errorf("conditions %+v, want True at last", set)
		}
	})
}
