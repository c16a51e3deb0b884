// Package soak runs the adapter on the real control plane for minutes while faults come
// and go, and checks what must hold all the while: no HPA moves because of a fault, no
// value is older than its maxAge or was never the backend's, a fault never looks like
// nothing, the adapter does not grow, fall or race, and all is fresh again afterwards.
//
// What the backends hold is known to the checks: every value is another one, so that
// each one that is served says when the backend had it.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

var (
	// ErrBroken says that an invariant does not hold.
	ErrBroken = errors.New("an invariant is broken")
	// ErrShort says that the run ended before every invariant was looked at.
	ErrShort = errors.New("not every invariant was checked")
)

// DefaultFor is how long a soak takes unless it is told.
const DefaultFor = 10 * time.Minute

// stopLimit is how long the adapter may take to stop at the end.
const stopLimit = 30 * time.Second

// Options say how to soak. The zero value works, but for the writers.
type Options struct {
	// For is how long faults come and go, DefaultFor if zero. A phase that has begun is
	// brought to its end.
	For time.Duration
	// Seed says which faults come when. The same seed gives the same schedule.
	Seed uint64
	// Adapter is the path of the adapter's binary, by default .bin/adapter.
	Adapter string
	// Log is a file that keeps the adapter's log. By default there is one, in the folder
	// for temporary files, if an invariant is broken.
	Log string
	// JSON writes the report as JSON in place of a table.
	JSON bool
	// Out is where the report goes, and Progress gets a line for each phase, and what
	// breaks as soon as it does.
	Out, Progress io.Writer
}

// Run soaks and writes a report. The error wraps ErrBroken if an invariant does not
// hold, and ErrShort if one was not checked; then all others hold. When ctx ends, the
// report has what was checked until then, and the error wraps ctx's.
func Run(ctx context.Context, o Options) error {
	if o.For == 0 {
		o.For = DefaultFor
	}
	if o.For < 0 {
		return fmt.Errorf("a soak of %v takes no time", o.For)
	}
	if o.Adapter != "" {
		var err error
		if o.Adapter, err = filepath.Abs(o.Adapter); err != nil {
			return err
		}
	}
	t := newTally(o.Progress, time.Now())
	t.say("seed %d, for %v", o.Seed, o.For)
	ran := soak(ctx, o, t)
	r := t.report(o)
	if err := r.write(o); err != nil {
		return errors.Join(ran, err)
	}
	return errors.Join(ran, r.err())
}

// soak starts a bed, goes through the phases and stops the bed.
func soak(ctx context.Context, o Options, t *tally) error {
	t.say("starting the control plane")
	b, err := startBed(ctx, o, t)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	ran := b.run(ctx, newPlan(o.Seed, b.workloadNames()), o.For)
	t.say("stopping the control plane")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	return errors.Join(ran, b.stop(stop), t.keep(o.Log, b.log.kept))
}
