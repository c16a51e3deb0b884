package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
)

// report is what was measured.
type report struct {
	lines []line
	// errs say what could not be measured.
	errs []error
	// peer says that a prometheus-adapter was measured too.
	peer bool
}

// line is a figure with its value.
type line struct {
	figure

	measurement string
	value       *measured // nil if it could not be measured
}

// add joins the figures of a measurement with their values. A figure without a value is
// an error, and so is one that is required to be a ratio and has no floor.
func (r *report) add(m measurement, values map[string]measured, err error) {
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", m.name, err))
	}
	for _, f := range m.figures {
		l := line{figure: f, measurement: m.name}
		if value, ok := values[f.name]; ok {
			l.value = &value
		}
		if l.value != nil && f.relative() && l.ratio() == nil {
			l.value = nil
			r.errs = append(r.errs, fmt.Errorf("%s: there is nothing to compare it with", l.title()))
		} else if l.value == nil && err == nil {
			r.errs = append(r.errs, fmt.Errorf("%s: not measured", l.title()))
		}
		r.lines = append(r.lines, l)
	}
}

// relative says whether the requirement is one of the ratio to the floor.
func (f figure) relative() bool { return f.ratioAtMost != nil || f.ratioAtLeast != nil }

// target is what is required, in words; empty if nothing is.
func (f figure) target() string {
	for _, t := range []struct {
		words string
		bound *float64
	}{{"≤ ", f.atMost}, {"≥ ", f.atLeast}, {"ratio ≤ ", f.ratioAtMost}, {"ratio ≥ ", f.ratioAtLeast}} {
		if t.bound != nil {
			return t.words + strconv.FormatFloat(*t.bound, 'f', -1, 64)
		}
	}
	return ""
}

// title is unique in a report.
func (l line) title() string { return l.measurement + ": " + l.name }

// ratio is that of the value to the floor; nil if there is none.
func (l line) ratio() *float64 {
	if l.value == nil || l.value.floor == nil || *l.value.floor == 0 {
		return nil
	}
	return new(l.value.value / *l.value.floor)
}

// reached says whether the value is what is required; nil if nothing is. What was not
// measured is not reached.
func (l line) reached() *bool {
	if l.target() == "" {
		return nil
	}
	if l.value == nil {
		return new(false)
	}
	ratio := l.ratio()
	return new((l.atMost == nil || l.value.value <= *l.atMost) &&
		(l.atLeast == nil || l.value.value >= *l.atLeast) &&
		(l.ratioAtMost == nil || ratio != nil && *ratio <= *l.ratioAtMost) &&
		(l.ratioAtLeast == nil || ratio != nil && *ratio >= *l.ratioAtLeast))
}

// err joins what could not be measured, and ErrMissed.
func (r *report) err() error {
	errs := slices.Clone(r.errs)
	for _, l := range r.lines {
		if reached := l.reached(); l.value != nil && reached != nil && !*reached {
			errs = append(errs, ErrMissed)
			break
		}
	}
	return errors.Join(errs...)
}

// write writes the report to where the options want it.
func (r *report) write(o Options) error {
	var errs []error
	if o.Results != "" {
		errs = append(errs, r.save(o.Results))
	}
	if o.JSON {
		return errors.Join(append(errs, r.writeJSON(o.Out))...)
	}
	return errors.Join(append(errs, r.writeTable(o.Out))...)
}

func (r *report) save(file string) error {
	var b bytes.Buffer
	if err := r.writeJSON(&b); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return os.WriteFile(file, b.Bytes(), 0o600)
}

func (r *report) writeTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEASURED\tFIGURE\tTIDEGAUGE\tFLOOR\tRATIO\tTARGET\tPROMETHEUS-ADAPTER\t")
	previous := ""
	for _, l := range r.lines {
		name := l.measurement
		if name == previous {
			name = ""
		}
		previous = l.measurement
		var value, floor *float64
		if l.value != nil {
			value, floor = &l.value.value, l.value.floor
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			name, l.name, l.text(value), l.text(floor), ratioText(l.ratio()), l.target(), l.peerText(), l.verdict())
	}
	return t.Flush()
}

// text is a value with the figure's unit, with as many digits as mean something.
func (l line) text(value *float64) string {
	if value == nil {
		return ""
	}
	digits := 0
	switch {
	case *value == float64(int64(*value)):
	case *value < 1:
		digits = 3
	case *value < 10:
		digits = 2
	case *value < 100:
		digits = 1
	}
	text := strconv.FormatFloat(*value, 'f', digits, 64)
	if l.unit != "" {
		text += " " + l.unit
	}
	return text
}

func ratioText(ratio *float64) string {
	if ratio == nil {
		return ""
	}
	return strconv.FormatFloat(*ratio, 'f', 2, 64)
}

// peerText tells what was measured now from what was recorded once.
func (l line) peerText() string {
	switch {
	case l.value != nil && l.value.peer != nil:
		return l.text(l.value.peer)
	case l.peer != nil:
		return l.text(l.peer) + " (recorded)"
	default:
		return ""
	}
}

func (l line) verdict() string {
	reached := l.reached()
	switch {
	case l.value == nil:
		return "NOT MEASURED"
	case reached == nil:
		return ""
	case *reached:
		return "reached"
	default:
		return "MISSED"
	}
}

// result is a line as programs read it; null is what there is not.
type result struct {
	Name    string   `json:"name"`
	Unit    *string  `json:"unit"`
	Value   *float64 `json:"value"`
	Floor   *float64 `json:"floor"`
	Ratio   *float64 `json:"ratio"`
	Target  *string  `json:"target"`
	Reached *bool    `json:"reached"`
}

// peerResult is a result of a run with a prometheus-adapter beside.
type peerResult struct {
	result

	Peer *float64 `json:"peer"`
}

func (r *report) writeJSON(w io.Writer) error {
	all := make([]any, 0, len(r.lines))
	for _, l := range r.lines {
		one := result{Name: l.title(), Unit: words(l.unit), Ratio: l.ratio(), Target: words(l.target()), Reached: l.reached()}
		var peer *float64
		if l.value != nil {
			one.Value, one.Floor, peer = &l.value.value, l.value.floor, l.value.peer
		}
		if r.peer {
			all = append(all, peerResult{one, peer})
		} else {
			all = append(all, one)
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(all)
}

// words are nil if there are none.
func words(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
