package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestAlign(t *testing.T) {
	midnight := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name                         string
		after, interval, phase, want time.Duration
	}{
		{"between", 7 * time.Second, 15 * time.Second, 0, 15 * time.Second},
		{"on the instant", 15 * time.Second, 15 * time.Second, 0, 30 * time.Second},
		{"before the phase", 15 * time.Second, 15 * time.Second, 300 * time.Millisecond, 15300 * time.Millisecond},
		{"after the phase", 15400 * time.Millisecond, 15 * time.Second, 300 * time.Millisecond, 30300 * time.Millisecond},
		{"a minute shares with a quarter of it", 59 * time.Second, time.Minute, 300 * time.Millisecond, 60300 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := align(midnight.Add(tc.after), tc.interval, tc.phase).Sub(midnight); got != tc.want {
				t.Errorf("align(%v, %v, %v) = %v, want %v", tc.after, tc.interval, tc.phase, got, tc.want)
			}
		})
	}
}

// An outage that is over must not outlast itself by more than the answers live.
func TestRetryComesWithinHalfOfMaxAge(t *testing.T) {
	s := schedule{backoff: Options{}.withDefaults().Backoff}
	failed := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ maxAge, want time.Duration }{
		{20 * time.Second, 10 * time.Second},
		{5 * time.Minute, 30 * time.Second},
		{2 * time.Second, 2 * time.Second},
	} {
		due := s.retry(failed, terms{interval: 2 * time.Second, maxAge: tc.maxAge}, 10, errors.New("503"), 1)
		if got := due.Sub(failed); got > tc.want+retryGrid || got < tc.want {
			t.Errorf("maxAge %v: asked again after %v, want %v", tc.maxAge, got, tc.want)
		}
	}
}

// Backends of a source are asked at different times, and each at the same time for
// intervals that fit into each other.
func TestBackendsAreSpread(t *testing.T) {
	midnight := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	perSecond := map[time.Duration]int{}
	for i := range 1000 {
		s := schedule{}.later(phaseOf(fmt.Sprintf("server-%d", i)))
		minute := s.refresh(midnight, time.Minute)
		perSecond[minute.Sub(midnight).Truncate(time.Second)]++
		if quarter := s.refresh(minute.Add(-time.Millisecond), 15*time.Second); !quarter.Equal(minute) {
			t.Errorf("backend %d is asked at %v and at %v", i, minute, quarter)
		}
	}
	for at := time.Duration(0); at < spread; at += time.Second {
		if n := perSecond[at]; n < 150 || n > 350 {
			t.Errorf("%d of 1,000 backends are asked in the second from %v", n, at)
		}
	}
}
