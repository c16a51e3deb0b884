package web

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// A pod that is to end still gets requests: load balancers, proxies and clients find out one
// after the other, in their own time, and some only when they ask for its health. So it goes on
// serving while its health is bad, until nothing comes any more.

// traffic knows what of users is in flight, and whether there should be more.
type traffic struct {
	mu      sync.Mutex
	flying  int
	last    time.Time // a request came or ended, or draining began
	drained bool
}

// drain turns health and readiness bad. To do it again changes nothing.
func (t *traffic) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.drained {
		t.drained, t.last = true, time.Now()
	}
}

func (t *traffic) draining() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drained
}

func (t *traffic) inFlight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flying
}

func (t *traffic) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flying += n
	t.last = time.Now()
}

// count counts requests as traffic. Those for health are none: a load balancer may go on
// asking.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.add(1)
		defer t.add(-1)
		next.ServeHTTP(w, r)
	})
}

// announce has each answer say, while draining, that its connection ends. The client then opens
// the next one to somebody else, and this end never closes a connection on which a request may
// be under way. http.Server.SetKeepAlivesEnabled(false) would close the idle ones, and fail
// those requests.
func (t *traffic) announce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&announcer{ResponseWriter: w, traffic: t}, r)
	})
}

// announcer looks when the answer begins: draining may have begun since the request came.
type announcer struct {
	http.ResponseWriter

	traffic *traffic
	begun   bool
}

// WriteHeader begins the answer.
func (a *announcer) WriteHeader(code int) {
	if !a.begun && a.traffic.draining() {
		a.Header().Set("Connection", "close")
	}
	a.begun = true
	a.ResponseWriter.WriteHeader(code)
}

func (a *announcer) Write(b []byte) (int, error) {
	if !a.begun {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *announcer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// awaitQuiet waits until nothing has been in flight or come for a while, and returns true; or
// until the limit is over, or ctx is done. The limit counts from now: somebody may have begun
// to drain long before the end.
func (t *traffic) awaitQuiet(ctx context.Context, idle, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		left := t.quietIn(idle)
		if left <= 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(left):
		}
	}
}

// quietIn is how long it will take at least until the traffic has been quiet for so long.
func (t *traffic) quietIn(idle time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := idle - time.Since(t.last)
	if t.flying > 0 {
		// It counts from the end of the request, which is not known.
		return max(left, idle, 10*time.Millisecond)
	}
	return left
}
