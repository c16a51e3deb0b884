package until

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNilComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, asked := time.Now(), 0
		err := Within(t.Context(), time.Minute, func(context.Context) error {
			asked++
			if time.Since(start) < 30*time.Second {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 30*time.Second+lastPause {
			t.Errorf("it took %v to see what was there after 30s", took)
		}
		if asked > 30*10+20 {
			t.Errorf("it asked %d times in 30s", asked)
		}
	})
}

// TestLastWordsAreOfTime: what a check says because its time is over says nothing.
func TestLastWordsAreOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := Within(t.Context(), time.Minute, func(ctx context.Context) error {
			asked++
			if asked < 3 {
				return errors.New("one pod of three")
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if err == nil || err.Error() != "not within 1m0s: one pod of three" {
			t.Errorf("got %v", err)
		}
	})
}

func TestCauseIsSaid(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("etcd has ended"))
	err := Nil(ctx, func(ctx context.Context) error { return ctx.Err() })
	if err == nil || !strings.Contains(err.Error(), "etcd has ended") {
		t.Errorf("got %v", err)
	}
}
