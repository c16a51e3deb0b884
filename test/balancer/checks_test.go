package balancer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestChecksAreMadeAtTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Defaults()
		g := newGroup(opts)
		c, err := newChecker(opts, g)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var asked []time.Duration
		code, took := http.StatusOK, time.Second
		start := time.Now()
		c.probe = func(ctx context.Context, url string) (int, error) {
			mu.Lock()
			asked = append(asked, time.Since(start))
			code, took := code, took
			mu.Unlock()
			if url != "http://10.0.0.1:8080/healthz" {
				t.Errorf("asked %s", url)
			}
			select {
			case <-time.After(took):
				return code, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		answer := func(newCode int, newTook time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			code, took = newCode, newTook
		}
		want := func(after time.Duration, want Condition) {
			t.Helper()
			<-time.After(time.Until(start.Add(after)))
			synctest.Wait()
			if got := g.condition(addressOf(1)); got != want {
				t.Errorf("after %v it is %+v, want %+v", after, got, want)
			}
		}
		c.start(t.Context(), g.register([]endpoint{endpointOf(1)}))
		want(time.Second-1, checking)
		want(time.Second, healthy)
		answer(http.StatusServiceUnavailable, 0)
		want(6*time.Second-1, healthy)
		want(6*time.Second, Condition{Unhealthy, "Target.ResponseCodeMismatch", "Health checks failed with these codes: [503]"})
		answer(http.StatusOK, time.Minute)
		want(11*time.Second, Condition{Unhealthy, "Target.Timeout", "Request timed out"})
		answer(http.StatusMovedPermanently, 0)
		want(15*time.Second, healthy)
		g.deregister([]Address{addressOf(1)}, time.Now())
		<-time.After(time.Minute)
		synctest.Wait()
		if got, want := fmt.Sprint(asked), "[0s 3s 6s 9s 12s 15s]"; got != want {
			t.Errorf("asked at %s, want %s", got, want)
		}
		c.running.Wait()
	})
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.Close || r.Method != http.MethodGet || !strings.HasPrefix(r.UserAgent(), "ELB-HealthChecker/") {
			t.Errorf("asked by %s %s, close %t", r.Method, r.UserAgent(), r.Close)
		}
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/nowhere", http.StatusMovedPermanently)
		case "/slow":
			<-r.Context().Done()
		case "/cut":
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	refused := httptest.NewServer(nil)
	refused.Close()
	opts := Defaults()
	opts.Health.Timeout = 200 * time.Millisecond
	c, err := newChecker(opts, newGroup(opts))
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		server.URL + "/":      "",
		server.URL + "/moved": "",
		server.URL + "/slow":  "Target.Timeout",
		server.URL + "/cut":   "Target.FailedHealthChecks",
		refused.URL:           "Target.FailedHealthChecks",
	} {
		got := c.check(t.Context(), url)
		if got == nil {
			got = &Condition{}
		}
		if got.Reason != want {
			t.Errorf("%s: %+v, want %q", url, got, want)
		}
	}
	if timedOut(errors.New("x")) || timedOut(nil) {
		t.Error("any error is a timeout")
	}
}

// TestDefaultHealth is what row B17 and docs/testbed.md say of health.
func TestDefaultHealth(t *testing.T) {
	want := Health{
		Path: "/healthz", Interval: 3 * time.Second, Timeout: 2 * time.Second,
		HealthyThreshold: 2, UnhealthyThreshold: 2, Matcher: "200-301",
	}
	if got := Defaults().Health; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
