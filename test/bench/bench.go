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

// PeerVariable is the environment variable that names the binary of a prometheus-adapter
// to measure beside the adapter.
const PeerVariable = "PEER_PROMETHEUS_ADAPTER"

// Options say what to measure. The zero value measures everything.
type Options struct {
	// Only are the names of the measurements to run, see Names; all if it is empty.
	Only []string
	// Adapter is the path of the adapter's binary, by default .bin/adapter. One with the
	// race detector would measure that.
	Adapter string
	// Peer is the path of a prometheus-adapter to measure too; without it the report has
	// the figures that were recorded once.
	Peer string
	// JSON writes the results to Out in place of a table.
	JSON bool
	// Results is a file that gets the results as JSON; none if it is empty.
	Results string
	// Profiles is a folder that gets CPU profiles of the reads, of both sides of each
	// comparison; none if it is empty.
	Profiles string
	// Out is where the report goes, and Progress where it is said what is being done.
	Out, Progress io.Writer
}

// measurement is a group of figures that are measured together.
type measurement struct {
	name    string
	figures []figure
	// run gives the value of each figure, by its name. It ends what it started, but for
	// objects in namespaces of its own. Figures that it gives beside an error count.
	run func(ctx context.Context, b *bed) (map[string]measured, error)
}

// figure is one line of the report.
type figure struct {
	name, unit string
	// atMost and atLeast are what is required of the value, ratioAtMost and ratioAtLeast
	// of the value divided by the floor; nil is nothing.
	atMost, atLeast, ratioAtMost, ratioAtLeast *float64
	// peer is what prometheus-adapter once had on two shared cores; nil is not known.
	peer *float64
}

// measured is the value of a figure.
type measured struct {
	value float64
	// floor is what the bare library had in the same run, or whatever else the figure is
	// compared with, and peer what prometheus-adapter had in it; nil is not measured.
	floor, peer *float64
}

// plain are values that are compared with nothing.
func plain(values map[string]float64) map[string]measured {
	all := map[string]measured{}
	for name, v := range values {
		all[name] = measured{value: v}
	}
	return all
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
	r := report{peer: o.Peer != ""}
	for _, m := range chosen {
		values, err := b.measure(ctx, m)
		r.add(m, values, err)
	}
	stopped := b.stop()
	return errors.Join(r.write(o), r.err(), stopped)
}

// measure runs one measurement, unless the run was interrupted.
func (b *bed) measure(ctx context.Context, m measurement) (map[string]measured, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	b.say("measuring %s", m.name)
	return m.run(ctx, b)
}
