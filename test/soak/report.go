package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// report is what was checked, and what broke.
type report struct {
	Seed    uint64 `json:"seed"`
	Seconds int    `json:"seconds"`
	// Phases are how many there were of each kind, and Faults how often each came.
	Phases map[phaseKind]int `json:"phases"`
	Faults map[string]int    `json:"faults"`
	// Errors are reads that were an honest error, and Excused those that nobody could
	// answer, because nobody could say who may read.
	Errors     int      `json:"errors"`
	Excused    int      `json:"excused"`
	Invariants []result `json:"invariants"`
}

// result is what became of an invariant.
type result struct {
	Name  string `json:"name"`
	Means string `json:"means"`
	// Checked is how often, in units of Unit, and Broken how often it did not hold.
	Checked int    `json:"checked"`
	Unit    string `json:"unit"`
	Broken  int    `json:"broken"`
	Note    string `json:"note,omitempty"`
	// Breaks are the first of those that broke.
	Breaks []string `json:"breaks,omitempty"`
}

// report is what there is to tell so far.
func (t *tally) report(o Options) report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := report{
		Seed: o.Seed, Seconds: int(time.Since(t.start) / time.Second),
		Phases: maps.Clone(t.phases), Faults: maps.Clone(t.faults), Errors: t.errors, Excused: t.excused,
	}
	for i := range invariants {
		of := result{
			Name: i.String(), Means: rulebook[i].text, Unit: rulebook[i].unit,
			Checked: t.checked[i], Broken: t.breaks[i], Note: t.notes[i],
		}
		for _, b := range t.told {
			if b.invariant == i {
				of.Breaks = append(of.Breaks, b.String())
			}
		}
		r.Invariants = append(r.Invariants, of)
	}
	return r
}

// err is ErrBroken or ErrShort with the names of the invariants, or nil.
func (r report) err() error {
	var broken, short []string
	for _, i := range r.Invariants {
		switch {
		case i.Broken > 0:
			broken = append(broken, i.Name)
		case i.Checked == 0:
			short = append(short, i.Name)
		}
	}
	switch {
	case len(broken) > 0:
		return fmt.Errorf("%w: %s", ErrBroken, join(broken))
	case len(short) > 0:
		return fmt.Errorf("%w: %s", ErrShort, join(short))
	}
	return nil
}

func (r report) write(o Options) error {
	if o.JSON {
		e := json.NewEncoder(o.Out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.writeTable(o.Out)
}

func (r report) writeTable(w io.Writer) error {
	total := 0
	for _, n := range r.Phases {
		total += n
	}
	fmt.Fprintf(w, "seed %d, %v, %d phases: %d quiet, %d with faults, %d with a new demand\n",
		r.Seed, time.Duration(r.Seconds)*time.Second, total, r.Phases[quiet], r.Phases[faulty], r.Phases[demand])
	fmt.Fprintf(w, "%d reads were honest errors; %d fell into the absence of kube-apiserver and do not count\n\n", r.Errors, r.Excused)

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INVARIANT\tHOLDS\tCHECKED\tBROKEN\tMEANS\t")
	for _, i := range r.Invariants {
		means := i.Means
		if i.Note != "" {
			means += ": " + i.Note
		}
		fmt.Fprintf(t, "%s\t%s\t%d %s\t%d\t%s\t\n", i.Name, i.holds(), i.Checked, i.Unit, i.Broken, means)
	}
	fmt.Fprintln(t, "\t\t\t\t\t")
	fmt.Fprintln(t, "FAULT\tTIMES\t\t\t\t")
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(t, "%s\t%d\t\t\t\t\n", name, r.Faults[name])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, i := range r.Invariants {
		for _, b := range i.Breaks {
			fmt.Fprintf(w, "\nBROKEN %s\n", b)
		}
		if more := i.Broken - len(i.Breaks); more > 0 {
			fmt.Fprintf(w, "\nand %s %d times more\n", i.Name, more)
		}
	}
	return nil
}

func (r result) holds() string {
	switch {
	case r.Broken > 0:
		return "no"
	case r.Checked == 0:
		return "unknown"
	default:
		return "yes"
	}
}
