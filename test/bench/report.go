package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// report is what was measured.
type report struct {
	lines []line
}

// line is a figure with its value.
type line struct {
	Measurement string `json:"measurement"`
	Figure      string `json:"figure"`
	Unit        string `json:"unit,omitempty"`
	// Value is nil if it could not be measured; Error then says why.
	Value   *float64 `json:"value"`
	AtMost  *float64 `json:"atMost,omitempty"`
	AtLeast *float64 `json:"atLeast,omitempty"`
	Peer    *float64 `json:"prometheusAdapter,omitempty"`
	// Met says whether the requirement is met, if there is one.
	Met   *bool  `json:"met,omitempty"`
	Error string `json:"error,omitempty"`

	err error
}

// lines join the figures of a measurement with their values. Each figure without a
// value has an error.
func lines(m measurement, values map[string]float64, err error) []line {
	var all []line
	for _, f := range m.figures {
		l := line{Measurement: m.name, Figure: f.name, Unit: f.unit, AtMost: f.atMost, AtLeast: f.atLeast, Peer: f.peer}
		value, ok := values[f.name]
		if ok {
			l.Value = &value
		}
		if ok && (f.atMost != nil || f.atLeast != nil) {
			l.Met = new((f.atMost == nil || value <= *f.atMost) && (f.atLeast == nil || value >= *f.atLeast))
		}
		if !ok {
			l.err = fmt.Errorf("%s: %s: not measured", m.name, f.name)
		}
		if !ok && err != nil {
			l.err = fmt.Errorf("%s: %w", m.name, err)
		}
		if l.err != nil {
			l.Error = l.err.Error()
		}
		all = append(all, l)
	}
	return all
}

func (r *report) add(lines []line) { r.lines = append(r.lines, lines...) }

// err joins what could not be measured, each fault once, and ErrMissed.
func (r *report) err() error {
	var errs []error
	seen := map[string]bool{}
	missed := false
	for _, l := range r.lines {
		if l.err != nil && !seen[l.Error] {
			seen[l.Error] = true
			errs = append(errs, l.err)
		}
		missed = missed || l.Met != nil && !*l.Met
	}
	if missed {
		errs = append(errs, ErrMissed)
	}
	return errors.Join(errs...)
}

func (r *report) writeTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEASURED\tFIGURE\tTIDEGAUGE\tREQUIRED\tPROMETHEUS-ADAPTER\t")
	previous := ""
	for _, l := range r.lines {
		name := l.Measurement
		if name == previous {
			name = ""
		}
		previous = l.Measurement
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", name, l.Figure, l.text(l.Value), l.required(), l.text(l.Peer), l.verdict())
	}
	return t.Flush()
}

func (l line) required() string {
	switch {
	case l.AtMost != nil:
		return "at most " + l.text(l.AtMost)
	case l.AtLeast != nil:
		return "at least " + l.text(l.AtLeast)
	default:
		return ""
	}
}

// text is a value with the figure's unit, with as many digits as mean something.
func (l line) text(value *float64) string {
	if value == nil {
		return ""
	}
	digits := 0
	if *value < 10 && *value != float64(int(*value)) {
		digits = 1
	}
	text := strconv.FormatFloat(*value, 'f', digits, 64)
	if l.Unit != "" {
		text += " " + l.Unit
	}
	return text
}

func (l line) verdict() string {
	switch {
	case l.Value == nil:
		return "NOT MEASURED"
	case l.Met == nil:
		return ""
	case *l.Met:
		return "met"
	default:
		return "MISSED"
	}
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"figures": r.lines})
}
