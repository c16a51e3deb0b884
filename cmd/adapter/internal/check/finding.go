// Package check judges configuration files and objects before anybody serves them, with
// the code that serves them, and says what they would expose.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Severity is how bad a finding is.
type Severity string

// Severities, the worst first. An error keeps a document, or a part of it, from being
// served. A warning is allowed and probably not what was meant. A note says what was not
// judged, or what was assumed.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is one thing that was found.
type Finding struct {
	Severity Severity `json:"severity"`
	// File is the file's name, as it was given, and Line the line in it; 0 if it is about
	// no line.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Object is what it is about: the field of a configuration, such as
	// "rules[0].metricsQuery", or kind and name of an object.
	Object string `json:"object,omitempty"`
	// Message is what is wrong and why, Cure what to do about it if Message does not say.
	Message string `json:"message"`
	Cure    string `json:"cure,omitempty"`
}

// Where is file and line.
func (f Finding) Where() string {
	if f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// Rule is what a rule would expose.
type Rule struct {
	Rule   string `json:"rule"`
	Server string `json:"server"`
	// Series is how many series the seriesQuery found, of how many Names.
	Series int `json:"series"`
	Names  int `json:"names"`
	// Metrics is how many metrics they make, Exposes the first of them: as a list of the
	// metrics API has them, such as "pods/http_requests_per_second".
	Metrics int      `json:"metrics"`
	Exposes []string `json:"exposes,omitempty"`
	// Error is why that is not known, in the server's words.
	Error string `json:"error,omitempty"`
}

// Value is what an external metric is now, as an HPA reads it.
type Value struct {
	Namespace string `json:"namespace,omitempty"`
	Metric    string `json:"metric"`
	// Source is what makes it: the ExternalMetric, or the rule.
	Source string `json:"source"`
	// Selector is the reader's, if it has one.
	Selector string `json:"selector,omitempty"`
	// Value is the sum of the items, as an HPA adds them up; empty without.
	Value string `json:"value,omitempty"`
	// Time is that of the newest item.
	Time *time.Time `json:"time,omitempty"`
	// Items are the first of them, More how many more there are.
	Items []Item `json:"items,omitempty"`
	More  int    `json:"more,omitempty"`
	// Took is how long the read took.
	Took string `json:"took,omitempty"`
	// Error is why there is no value, in the backend's words.
	Error string `json:"error,omitempty"`
}

// Item is one value of a metric.
type Item struct {
	Labels map[string]string `json:"labels,omitempty"`
	Value  string            `json:"value"`
	Time   time.Time         `json:"time"`
	// Window is the time that the value covers; empty for one instant.
	Window string `json:"window,omitempty"`
}

// Counts are how many things were checked.
type Counts struct {
	Files           int `json:"files"`
	Configurations  int `json:"configurations"`
	ExternalMetrics int `json:"externalMetrics"`
	HPAs            int `json:"hpas"`
	APIs            int `json:"apis"`
	Errors          int `json:"errors"`
	Warnings        int `json:"warnings"`
}

// Report is the outcome of a check.
type Report struct {
	Findings []Finding `json:"findings"`
	// More is how many findings there are beside these, if not all are printed.
	More    int      `json:"moreFindings,omitempty"`
	Served  []Served `json:"served,omitempty"`
	Rules   []Rule   `json:"rules,omitempty"`
	Values  []Value  `json:"values,omitempty"`
	Checked Counts   `json:"checked"`
}

// OK says that nothing is wrong.
func (r *Report) OK() bool { return r.Checked.Errors == 0 }

// Strict makes errors of all warnings.
func (r *Report) Strict() {
	for i, f := range r.Findings {
		if f.Severity == Warning {
			r.Findings[i].Severity = Error
		}
	}
	r.finish()
}

// finish brings the findings into the order of the files and their lines, and counts them.
func (r *Report) finish() {
	order := map[string]int{}
	for _, f := range r.Findings {
		if _, known := order[f.File]; !known {
			order[f.File] = len(order)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line))
	})
	r.Checked.Errors, r.Checked.Warnings = 0, 0
	for _, f := range r.Findings {
		switch f.Severity {
		case Error:
			r.Checked.Errors++
		case Warning:
			r.Checked.Warnings++
		case Note:
		}
	}
}

// maxFindings is how many findings are shown.
const maxFindings = 1000

// Shown are as many of the findings as somebody may read, in their order, without the least
// bad ones if they are more; and how many more.
func Shown(all []Finding) (shown []Finding, more int) {
	if len(all) <= maxFindings {
		return all, 0
	}
	severities := []Severity{Error, Warning, Note}
	worst := make([]int, len(all))
	for i := range all {
		worst[i] = i
	}
	slices.SortStableFunc(worst, func(a, b int) int {
		return cmp.Compare(slices.Index(severities, all[a].Severity), slices.Index(severities, all[b].Severity))
	})
	worst = worst[:maxFindings]
	slices.Sort(worst)
	for _, i := range worst {
		shown = append(shown, all[i])
	}
	return shown, len(all) - len(shown)
}

// Summary is the outcome in one line.
func (r *Report) Summary() string {
	c := r.Checked
	var parts []string
	for _, p := range []struct {
		n          int
		one, other string
	}{
		{c.Configurations, "configuration", "configurations"},
		{c.ExternalMetrics, "ExternalMetric", "ExternalMetrics"},
		{c.HPAs, "HPA", "HPAs"},
		{c.APIs, "API version", "API versions"},
	} {
		if p.n > 0 {
			parts = append(parts, count(p.n, p.one, p.other))
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing"}
	}
	where := " in " + count(c.Files, "file", "files")
	if c.Files == 0 {
		where = ""
	}
	return fmt.Sprintf("checked %s%s: %s, %s", strings.Join(parts, ", "), where,
		count(c.Errors, "error", "errors"), count(c.Warnings, "warning", "warnings"))
}

func count(n int, one, other string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, other)
}
