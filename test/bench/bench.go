// Package bench measures the adapter on the real control plane and compares it with
// what is required of it and with what its predecessor does.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrMissed says that a figure is not what is required.
var ErrMissed = errors.New("a requirement is missed")

// Options say what to measure. The zero value measures everything.
type Options struct {
	// Only are the names of the measurements to run, see Names; all if it is empty.
	Only []string
	// Adapter is the path of the adapter's binary, by default .bin/adapter. One with the
	// race detector would measure that.
	Adapter string
	// JSON writes the report as JSON in place of a table.
	JSON bool
	// Out is where the report goes, and Progress where it is said what is being done.
	Out, Progress io.Writer
}

// measurement is a group of figures that are measured together.
type measurement struct {
	name    string
	figures []figure
	// run gives the value of each figure, by its name. It ends what it started, but for
	// objects in namespaces of its own.
	run func(ctx context.Context, b *bed) (map[string]float64, error)
}

// figure is one line of the report.
type figure struct {
	name, unit string
	// atMost and atLeast are what is required; nil is nothing.
	atMost, atLeast *float64
	// peer is what prometheus-adapter has on two shared cores; nil is not known.
	peer *float64
}

// measurements are all that there are, in the order in which they run: those that fill
// the cluster come last.
func measurements() []measurement {
	return []measurement{discovery(), reads(), autoscalers()}
}

// Names are the measurements' names.
func Names() []string {
	var names []string
	for _, m := range measurements() {
		names = append(names, m.name)
	}
	return names
}

// Run measures, and writes a report. The error is ErrMissed if all that went wrong is
// that requirements are missed.
func Run(ctx context.Context, o Options) error {
	chosen := measurements()
	for _, name := range o.Only {
		if !slices.Contains(Names(), name) {
			return fmt.Errorf("there is no measurement %q, only %s", name, strings.Join(Names(), ", "))
		}
	}
	if len(o.Only) > 0 {
		chosen = slices.DeleteFunc(chosen, func(m measurement) bool { return !slices.Contains(o.Only, m.name) })
	}
	b, err := startBed(ctx, o)
	if err != nil {
		return err
	}
	var r report
	for _, m := range chosen {
		r.add(b.measure(ctx, m))
	}
	stopped := b.stop()
	if o.JSON {
		err = r.writeJSON(o.Out)
	} else {
		err = r.writeTable(o.Out)
	}
	return errors.Join(err, r.err(), stopped)
}

// measure runs one measurement, unless the run was interrupted.
func (b *bed) measure(ctx context.Context, m measurement) []line {
	err := context.Cause(ctx)
	var values map[string]float64
	if err == nil {
		b.say("measuring %s", m.name)
		values, err = m.run(ctx, b)
	}
	return lines(m, values, err)
}
