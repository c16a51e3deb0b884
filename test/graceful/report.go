package graceful

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
)

// What is between these lines of the page is replaced.
const (
	pageBegin = "<!-- figures: make graceful writes them -->\n"
	pageEnd   = "<!-- end of figures -->\n"
)

// Report is what was measured, and how.
type Report struct {
	Pods   int     `json:"pods"`
	Left   int     `json:"left"`
	Rounds int     `json:"rounds"`
	Rate   float64 `json:"rate"`
	// WindowSeconds begin with each scale-in and last until the last pod has ended at least; the
	// load begins some seconds before.
	WindowSeconds float64  `json:"windowSeconds"`
	LagSeconds    float64  `json:"lagSeconds"`
	CPUs          int      `json:"cpus"`
	Results       []Result `json:"results"`
}

// Result is what came of one variant.
type Result struct {
	Variant string  `json:"variant"`
	Rounds  []Round `json:"rounds"`
	// Total is the sum of all rounds.
	Total Round `json:"total"`
}

func newReport(o Options) Report {
	return Report{
		Pods: o.Pods, Left: left, Rounds: o.Rounds, Rate: o.Rate, CPUs: runtime.NumCPU(),
		WindowSeconds: o.Window.Seconds(), LagSeconds: o.Lag.Seconds(),
	}
}

// row is a line of the table: what is counted, and how it is written.
type row struct {
	name string
	cell func(Round) string
}

var rows = []row{
	{"requests", func(r Round) string { return strconv.Itoa(r.Requests) }},
	{"failed", func(r Round) string { return strconv.Itoa(r.Failed) }},
	{"failed, of all", func(r Round) string { return percent(r.failedShare()) }},
	{"50x, of the worst second", func(r Round) string { return percent(r.WorstSecond) }},
	{"502 of the load balancer", own(502)},
	{"503 of the load balancer", own(503)},
	{"504 of the load balancer", own(504)},
	{"5xx of pods", func(r Round) string { return strconv.FormatUint(r.targetErrors(), 10) }},
	{"answers cut short", func(r Round) string { return strconv.FormatUint(r.Cut, 10) }},
	{"users without an answer", func(r Round) string { return strconv.Itoa(r.Codes["0"]) }},
	{"sent again by the client", func(r Round) string { return strconv.Itoa(r.Repeated) }},
	{"latency p99", func(r Round) string { return fmt.Sprintf("%.0f ms", r.P99*1000) }},
}

func own(code int) func(Round) string {
	return func(r Round) string { return strconv.FormatUint(r.Balancer[code], 10) }
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", share*100) }

func (r Round) failedShare() float64 {
	if r.Requests == 0 {
		return 0
	}
	return float64(r.Failed) / float64(r.Requests)
}

// targetErrors are the answers of pods that say that they failed.
func (r Round) targetErrors() uint64 {
	var all uint64
	for code, n := range r.Target {
		if code >= 500 {
			all += n
		}
	}
	return all
}

// how says in a sentence what was done.
func (r Report) how() string {
	return fmt.Sprintf("%d times from %d pods to %d at %v requests per second, watched for %v s each, and until the last pod had ended; targets follow EndpointSlices %v s late; %d CPUs",
		r.Rounds, r.Pods, r.Left, r.Rate, r.WindowSeconds, r.LagSeconds, r.CPUs)
}

// WriteJSON writes the report for programs.
func (r Report) WriteJSON(w io.Writer) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// WriteTable writes the variants side by side for people.
func (r Report) WriteTable(w io.Writer) error {
	if _, err := fmt.Fprintln(w, r.how()); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range r.lines() {
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	return t.Flush()
}

// lines are the cells of the table, those of its head first.
func (r Report) lines() [][]string {
	head := []string{""}
	for _, result := range r.Results {
		head = append(head, result.Variant)
	}
	all := [][]string{head}
	for _, row := range rows {
		line := []string{row.name}
		for _, result := range r.Results {
			line = append(line, row.cell(result.Total))
		}
		all = append(all, line)
	}
	return all
}

// markdown is the table for the page.
func (r Report) markdown() string {
	var text strings.Builder
	text.WriteString(upperFirst(r.how()) + ".\n\n")
	for i, line := range r.lines() {
		text.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			text.WriteString(strings.Repeat("|---", len(line)) + "|\n")
		}
	}
	return text.String()
}

func upperFirst(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// refresh replaces the figures of a page.
func (r Report) refresh(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	page, err := replaceFigures(string(text), r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(page), 0o644) //nolint:gosec // Everybody may read a page of the repository.
}

func replaceFigures(page, figures string) (string, error) {
	before, rest, begins := strings.Cut(page, pageBegin)
	_, after, ends := strings.Cut(rest, pageEnd)
	if !begins || !ends {
		return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(pageBegin), strings.TrimSpace(pageEnd))
	}
	return before + pageBegin + "\n" + figures + "\n" + pageEnd + after, nil
}
