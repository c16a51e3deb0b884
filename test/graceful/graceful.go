// Package graceful measures what a graceful stop is worth: on a node with real containers the
// web tier of the demo is scaled in from many pods to few under steady load, behind a stand-in
// of an Application Load Balancer, once as each overlay of deploy/demo has it. What users and
// the load balancer saw is counted and put side by side.
package graceful

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// left is how many pods a scale-in leaves.
const left = 2

// Options say how to measure. Start from Defaults.
type Options struct {
	// Pods are there before each scale-in, and 2 after it.
	Pods int
	// Rounds is how many scale-ins there are of each variant.
	Rounds int
	// Rate is the load, in requests a second.
	Rate float64
	// Window is how long users are watched from the moment of a scale-in, or longer if the last
	// pod has not ended by then. More than pods need makes it the same for all variants, so
	// that rates can be compared.
	Window time.Duration
	// Lag is how long it takes from an EndpointSlice to a target that is registered or drains.
	Lag time.Duration
	// DrainIdle and DeregistrationDelay are in place of what the overlays say, if they are not
	// zero. An overlay that does not drain is not taught to.
	DrainIdle, DeregistrationDelay time.Duration
	// Parts also measures the overlay after without each of its parts.
	Parts bool
	// JSON writes the report as JSON in place of a table.
	JSON bool
	// Page is a Markdown file whose figures are replaced, or empty.
	Page string
	// Out is where the report goes, and Progress gets a line for each step.
	Out, Progress io.Writer
}

// Defaults are what the figures of docs/graceful-stop.md were measured with. The overlays are as
// they are.
func Defaults() Options {
	return Options{Pods: 12, Rounds: 3, Rate: 50, Window: 40 * time.Second, Lag: 3 * time.Second, Out: io.Discard, Progress: io.Discard}
}

func (o *Options) check() error {
	switch {
	case o.Pods <= left:
		return fmt.Errorf("pods: from %d to %d is no scale-in", o.Pods, left)
	case o.Rounds < 1:
		return fmt.Errorf("rounds: %d is less than 1", o.Rounds)
	case o.Rate <= 0:
		return fmt.Errorf("rate: %v is not positive", o.Rate)
	case o.Window < time.Second:
		return fmt.Errorf("window: %v is less than a second", o.Window)
	case o.Lag < 0 || o.DrainIdle < 0 || o.DeregistrationDelay < 0:
		return errors.New("a time is negative")
	}
	return nil
}

// Variant is one way to stop: an overlay, and what is taken from it.
type Variant struct {
	Name string
	// overlay is the folder in deploy/demo/overlays.
	overlay string
	// without takes a part away. It may be nil.
	without func(*tier) error
}

// overlays are what is measured always, in the order of the report.
var overlays = []Variant{{Name: "before", overlay: "before"}, {Name: "after", overlay: "after"}}

// parts are the overlay after without one of its parts each.
var parts = []Variant{
	{"without drain", "after", func(t *tier) error { return t.setArg("drain", "0s") }},
	{"without preStop", "after", func(t *tier) error { t.container().Lifecycle = nil; return nil }},
	// As little beside the drain as the default of 30 s is beside one of two minutes.
	{"short grace", "after", func(t *tier) error { t.pod().TerminationGracePeriodSeconds = new(int64(2)); return nil }},
	{"health of users", "after", (*tier).healthOfUsers},
	{"no deregistration delay", "after", func(t *tier) error { t.balancing.DeregistrationDelay = 0; return nil }},
	{"without gate", "after", func(t *tier) error { t.gated = false; return nil }},
}

func (o *Options) variants() []Variant {
	if !o.Parts {
		return overlays
	}
	return slices.Concat(overlays, parts)
}

// Run measures and writes the report. It needs a machine for a real node, see env.CanRunNode,
// and has to be called by env.Apart.
func Run(ctx context.Context, o Options) error {
	report, err := Measure(ctx, o)
	if err != nil {
		return err
	}
	if o.Page != "" {
		if err := report.refresh(o.Page); err != nil {
			return err
		}
	}
	if o.JSON {
		return report.WriteJSON(o.Out)
	}
	return report.WriteTable(o.Out)
}

// Measure starts a cluster, measures all variants, and stops it.
func Measure(ctx context.Context, o Options) (report Report, err error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	b, err := startBed(ctx, o)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	report = newReport(o)
	for _, v := range o.variants() {
		result, err := b.measure(ctx, v)
		if err != nil {
			return report, fmt.Errorf("%s: %w", v.Name, err)
		}
		report.Results = append(report.Results, result)
	}
	return report, nil
}
