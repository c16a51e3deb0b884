// Package until waits for conditions, and never for durations.
package until

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// A condition is asked often at first, and ten times a second after some second.
const (
	firstPause  = 5 * time.Millisecond
	longerPause = 1.25
	lastPause   = 100 * time.Millisecond
)

// Nil asks check until it returns nil. When ctx ends first, the error has the cause, and what
// check said last while there was time to answer.
func Nil(ctx context.Context, check func(context.Context) error) error {
	last := errors.New("never asked")
	for pause := firstPause; ; pause = min(time.Duration(longerPause*float64(pause)), lastPause) {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-time.After(pause):
		}
	}
}

// Within is Nil for so long at most.
func Within(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	return Nil(ctx, check)
}

// Holds ends the test unless check returns nil within a limit, which is how long a loaded
// machine may take.
func Holds(t testing.TB, what string, limit time.Duration, check func(context.Context) error) {
	t.Helper()
	if err := Within(t.Context(), limit, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
