package graceful

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/until"
)

func TestMain(m *testing.M) { os.Exit(env.Apart(func() int { return run(m) })) }

func run(m *testing.M) (code int) {
	flag.Parse()
	if err := env.CanRunNode(); err != nil && !testing.Short() {
		fmt.Fprintf(os.Stderr, "\nNOT TESTED HERE, the graceful stop of the demo's pods: %v\n\n", err)
	}
	defer func() {
		if shared.bed == nil {
			return
		}
		if err := shared.bed.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

var shared struct {
	once sync.Once
	bed  *bed
	err  error
}

// quick are times so short that a test can wait for them, in the same order as the real ones:
// the lag is shorter than what a pod waits for. The window is over before pods have ended, and
// so lasts as long as they take on this machine.
func quick() Options {
	o := Defaults()
	o.Pods, o.Rounds, o.Rate = 6, 1, 40
	o.Lag, o.DrainIdle, o.DeregistrationDelay, o.Window = 2*time.Second, 3*time.Second, 5*time.Second, 5*time.Second
	return o
}

// sharedBed is the cluster of all tests.
func sharedBed(t *testing.T) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	if err := env.CanRunNode(); err != nil {
		if os.Getenv(env.RequireNodeVariable) != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	shared.once.Do(func() {
		// The bed is for the tests to come, too.
		shared.bed, shared.err = startBed(context.WithoutCancel(t.Context()), quick())
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			shared.bed.tell(t)
		}
	})
	return shared.bed
}

// tell writes what one has to know of a test that failed.
func (b *bed) tell(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, args := range [][]string{
		{"get", "pods", "-n", namespace, "-o", "wide"},
		{"describe", "pods", "-n", namespace},
		{"logs", "-n", namespace, "-l", "app=" + web, "--tail=30", "--prefix"},
		{"get", "events", "-n", namespace},
	} {
		out, err := b.Kubectl(ctx, "", args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestScaleIn shows row B20: what many have loses requests when pods are scaled in, and the
// overlay after loses none. How many is measured by `make graceful`.
func TestScaleIn(t *testing.T) {
	b := sharedBed(t)
	for _, test := range []struct {
		variant Variant
		loses   bool
	}{{overlays[0], true}, {overlays[1], false}} {
		t.Run(test.variant.Name, func(t *testing.T) {
			result, err := b.measure(t.Context(), test.variant)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", result.Total)
			if !test.loses {
				loseNone(t, result.Total)
			} else if result.Total.Failed == 0 {
				t.Error("no request failed, want some: what is measured does not see a pod that is gone")
			}
		})
	}
}

// TestStop shows that a web pod of the overlay after is stopped under load, and another takes
// its place, without a request that fails.
func TestStop(t *testing.T) {
	b := sharedBed(t)
	s, err := b.open(t.Context(), overlays[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	pods, err := s.pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopped := pods[0]
	round, err := s.watch(t.Context(), func(ctx context.Context) error {
		if err := b.Client().CoreV1().Pods(namespace).Delete(ctx, stopped.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		// From then on there is a pod too many until the one that was stopped has ended.
		return until.Within(ctx, deadline, func(ctx context.Context) error { return s.hasAnother(ctx, pods) })
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", round)
	loseNone(t, round)
	pods, err = s.pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == stopped.UID }) {
		t.Errorf("pod %s has not ended: nothing was stopped under load", stopped.Name)
	}
}

// hasAnother returns nil if there is a pod besides those that were there.
func (s *shop) hasAnother(ctx context.Context, before []corev1.Pod) error {
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if !slices.ContainsFunc(before, func(p corev1.Pod) bool { return p.UID == pod.UID }) {
			return nil
		}
	}
	return errors.New("no pod takes the place of the one that is stopped")
}

// loseNone fails the test if a user, or the load balancer, saw that a pod was stopped.
func loseNone(t *testing.T, r Round) {
	t.Helper()
	if r.Failed != 0 {
		t.Errorf("%d of %d requests failed, want none: %v", r.Failed, r.Requests, r.Codes)
	}
	if r.Repeated != 0 {
		t.Errorf("%d requests were sent again, want none", r.Repeated)
	}
	for code, n := range r.Balancer {
		if code >= 500 {
			t.Errorf("the load balancer answered %d requests by %d, want none", n, code)
		}
	}
	if r.Cut != 0 {
		t.Errorf("%d answers were cut short, want none", r.Cut)
	}
}
