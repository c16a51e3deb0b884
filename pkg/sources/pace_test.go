package sources_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // The time is the bubble's.
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sources.NewPace(25)
		pass(time.Hour)
		var began atomic.Int64
		var waiting sync.WaitGroup
		for range 100 {
			waiting.Go(func() {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				began.Add(1)
			})
		}
		for second, want := range []int64{25, 50, 75, 100, 100} {
			synctest.Wait()
			if got := began.Load(); got < want-1 || got > want {
				t.Errorf("after %d s %d calls have begun, want %d", second, got, want)
			}
			pass(time.Second)
		}
		waiting.Wait()
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sources.NewPace(1)
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		var waiting sync.WaitGroup
		var turns atomic.Int64
		for range 10 {
			waiting.Go(func() {
				switch err := p.Wait(ctx); {
				case err == nil:
					turns.Add(1)
				case !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 1500*time.Millisecond:
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
		}
		waiting.Wait()
		if turns.Load() != 1 {
			t.Errorf("%d calls began in 1.5 s, want 1", turns.Load())
		}
		// Those that left took nobody's turn.
		if err := p.Wait(t.Context()); err != nil || time.Since(began) > 2*time.Second+time.Millisecond {
			t.Errorf("the next began after %v: %v", time.Since(began), err)
		}
	})
}

func TestNoPace(t *testing.T) {
	p := sources.NewPace(0)
	for range 1000 {
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("of a context that is done: %v", err)
	}
}
