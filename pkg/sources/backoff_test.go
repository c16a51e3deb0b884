package sources_test

import (
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestBackoff(t *testing.T) {
	for inARow, want := range map[int]time.Duration{
		0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 4: 16 * time.Second,
		5: 30 * time.Second, 1 << 30: 30 * time.Second,
	} {
		if got := sources.Backoff(2*time.Second, 30*time.Second, inARow); got != want {
			t.Errorf("after %d failures %v, want %v", inARow, got, want)
		}
	}
}
