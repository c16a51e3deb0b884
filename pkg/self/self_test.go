package self

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var (
	loaded  = Configuration("3 in rules", nil, nil)
	invalid = Configuration("3 in rules", nil, errors.New("configuration file /etc/config.yaml: line 7: rules[2].metricsQuery: is no template"))
)

// cluster is one with the adapter's pod in it, unless there is none.
type cluster struct {
	t    *testing.T
	kube *fake.Clientset
	mu   sync.Mutex
	// refuse is what the API server says to a verb of a resource.
	refuse map[string]error
	calls  []string
}

func newCluster(t *testing.T, pods ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{t: t, kube: fake.NewClientset(pods...), refuse: map[string]error{}}
	c.kube.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		call := strings.TrimSuffix(fmt.Sprintf("%s %s/%s", a.GetVerb(), a.GetResource().Resource, a.GetSubresource()), "/")
		c.calls = append(c.calls, call)
		err := c.refuse[call]
		return err != nil, nil, err
	})
	return c
}

func ownPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tidegauge-system", Name: "tidegauge-0", UID: "uid-0"},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

// start runs a reporter until the test is over.
func (c *cluster) start() *Reporter {
	c.t.Helper()
	r := NewReporter(c.kube, "tidegauge-system", "tidegauge-0")
	ctx, stop := context.WithCancel(c.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	c.t.Cleanup(running.Wait)
	c.t.Cleanup(stop)
	return r
}

func (c *cluster) refuses(call string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse[call] = err
}

// count is how often a call was made.
func (c *cluster) count(call string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(c.calls), func(made string) bool { return made != call }))
}

// conditions are the pod's, each with its status, reason, message, and how long ago it
// turned.
func (c *cluster) conditions() []string {
	c.t.Helper()
	pod, err := c.kube.CoreV1().Pods("tidegauge-system").Get(c.t.Context(), "tidegauge-0", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, p := range pod.Status.Conditions {
		text := fmt.Sprintf("%s=%s", p.Type, p.Status)
		if p.Reason != "" {
			text += fmt.Sprintf(" %s (%s) for %v", p.Reason, p.Message, time.Since(p.LastTransitionTime.Time).Truncate(time.Second))
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func (c *cluster) events() []string {
	c.t.Helper()
	list, err := c.kube.EventsV1().Events("tidegauge-system").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Kind != "Pod" || e.Regarding.Name != "tidegauge-0" || e.Regarding.UID != "uid-0" ||
			e.ReportingController != "tidegauge" || e.ReportingInstance != "tidegauge-0" || e.Action == "" {
			c.t.Errorf("event %+v", e)
		}
		out = append(out, fmt.Sprintf("%s %s: %s", e.Type, e.Reason, e.Note))
	}
	return out
}

func wants(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s\n got %q\nwant %q", what, got, want)
	}
}

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time is the bubble's.
	synctest.Wait()
}

const (
	ready       = "Ready=True"
	loadedText  = "tidegauge.dev/ConfigurationLoaded=True ConfigurationLoaded (3 in rules) for "
	invalidNote = "the last good configuration stays in force: configuration file /etc/config.yaml: line 7: rules[2].metricsQuery: is no template"
	invalidText = "tidegauge.dev/ConfigurationLoaded=False ConfigurationInvalid (" + invalidNote + ") for "
)

func TestConditionAndEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, ownPod())
		r := c.start()
		r.Set(loaded)
		pass(time.Minute)
		wants(t, "loaded", c.conditions(), ready, loadedText+"1m0s")
		r.Set(invalid)
		pass(time.Second)
		wants(t, "invalid", c.conditions(), ready, invalidText+"1s")
		r.Set(Rules(errors.New("rules[1]: server eu: connection refused")))
		pass(time.Minute)
		wants(t, "two conditions", c.conditions(), ready, invalidText+"1m1s",
			"tidegauge.dev/RulesDiscovered=False RuleFailing (rules[1]: server eu: connection refused) for 1m0s")
		r.Set(Configuration("4 in rules", nil, nil))
		r.Set(Rules(nil))
		pass(time.Second)
		wants(t, "mended", c.conditions(), ready,
			"tidegauge.dev/ConfigurationLoaded=True ConfigurationLoaded (4 in rules) for 1s",
			"tidegauge.dev/RulesDiscovered=True RulesDiscovered (the series of all rules are listed) for 1s")
		got := c.events()
		slices.Sort(got[3:]) // Two of one time.
		wants(t, "events", got,
			"Normal ConfigurationLoaded: 3 in rules",
			"Warning ConfigurationInvalid: "+invalidNote,
			"Warning RuleFailing: rules[1]: server eu: connection refused",
			"Normal ConfigurationLoaded: 4 in rules",
			"Normal RulesDiscovered: the series of all rules are listed")
	})
}

// TestSameConditionIsToldOnce counts the calls for what has not changed.
func TestSameConditionIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, ownPod())
		r := c.start()
		for range 100 {
			r.Set(loaded)
			pass(time.Minute)
		}
		if n := len(c.calls); n != 3 {
			t.Errorf("%d calls, want 3: %q", n, c.calls)
		}
		// A process that starts anew in the same pod has nothing new to tell.
		c.start().Set(loaded)
		pass(time.Minute)
		if n := c.count("patch pods/status") + c.count("create events"); n != 2 {
			t.Errorf("%d writes, want 2: %q", n, c.calls)
		}
		// That the text alone changes is no transition.
		r.Set(Configuration("9 in rules", nil, nil))
		pass(time.Second)
		wants(t, "conditions", c.conditions(), ready, "tidegauge.dev/ConfigurationLoaded=True ConfigurationLoaded (9 in rules) for 1h41m1s")
	})
}

// TestFlappingIsBounded changes a condition much more often than it is told of.
func TestFlappingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, ownPod())
		r := c.start()
		for i := range 601 {
			r.Set(Configuration(fmt.Sprintf("%d in rules", i), nil, nil))
			pass(time.Second)
		}
		pass(writeEvery)
		if n := c.count("patch pods/status"); n > 62 {
			t.Errorf("%d writes in ten minutes", n)
		}
		if got := c.conditions()[1]; !strings.Contains(got, "(600 in rules)") {
			t.Errorf("the last one is not there: %s", got)
		}
	})
}

func TestWithoutRights(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "x"}, "", errors.New("no"))
	for name, test := range map[string]struct {
		call                  string
		conditions, events, n int
	}{
		"no right to read the pod":     {"get pods", 1, 0, 2},
		"no right to write its status": {"patch pods/status", 1, 2, 6},
		"no right to write Events":     {"create events", 2, 0, 6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, ownPod())
				c.refuses(test.call, forbidden)
				r := c.start()
				r.Set(loaded)
				pass(time.Hour)
				r.Set(invalid)
				pass(time.Hour)
				if n := len(c.calls); n != test.n {
					t.Errorf("%d calls, want %d and no more attempts: %q", n, test.n, c.calls)
				}
				c.refuses(test.call, nil)
				if got := c.conditions(); len(got) != test.conditions {
					t.Errorf("conditions %q, want %d", got, test.conditions)
				}
				if got := c.events(); len(got) != test.events {
					t.Errorf("events %q, want %d", got, test.events)
				}
			})
		})
	}
}

func TestWithoutPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		r := c.start()
		r.Set(loaded)
		pass(time.Hour)
		wants(t, "calls", c.calls, "get pods")
	})
}

// TestAPIServerAway tells late, and once, what could not be told at the time.
func TestAPIServerAway(t *testing.T) {
	for _, call := range []string{"get pods", "patch pods/status", "create events"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, ownPod())
				c.refuses(call, apierrors.NewServiceUnavailable("away"))
				r := c.start()
				r.Set(loaded)
				pass(30 * time.Minute)
				if n := c.count(call); n < 15 || n > 25 {
					t.Errorf("%d attempts in half an hour", n)
				}
				c.refuses(call, nil)
				pass(maxRetry)
				if got := c.conditions(); len(got) != 2 {
					t.Errorf("conditions %q", got)
				}
				wants(t, "events", c.events(), "Normal ConfigurationLoaded: 3 in rules")
				before := len(c.calls)
				pass(time.Hour)
				if n := len(c.calls) - before; n != 0 {
					t.Errorf("%d more calls", n)
				}
			})
		})
	}
}

func TestMessageIsCut(t *testing.T) {
	got := shorten(strings.Repeat("é", 1000))
	if len(got) > maxMessage || !utf8.ValidString(got) || !strings.HasSuffix(got, "é…") {
		t.Errorf("got %d bytes: %q", len(got), got)
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}

func TestWhatCannotWorkIsInTheCondition(t *testing.T) {
	long := strings.Repeat("x", 500)
	for _, tc := range []struct {
		warnings []string
		want     string
	}{
		{nil, "2 in rules"},
		{[]string{"line 3: rules[0] makes no metric"}, "2 in rules; what cannot work: line 3: rules[0] makes no metric"},
		{[]string{"a", "b", "c", "d", "e"}, "2 in rules; what cannot work: a; b; c; and 2 more, which the log has"},
		{[]string{long}, "2 in rules; what cannot work: " + long[:197] + "…"},
	} {
		if c := Configuration("2 in rules", tc.warnings, nil); c.Message != tc.want || !c.True {
			t.Errorf("got  %v %s\nwant %s", c.True, c.Message, tc.want)
		}
	}
}
