package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	kyaml "sigs.k8s.io/yaml"
)

// maxShown is how many metrics of a rule a table names.
const maxShown = 3

// Formats are what Print takes.
var Formats = []string{"table", "json", "yaml"}

// PrintAs writes what has fields as JSON or YAML.
func PrintAs(w io.Writer, format string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if format == "yaml" {
		if text, err = kyaml.JSONToYAML(text); err != nil {
			return err
		}
	}
	_, err = w.Write(text)
	return err
}

// Print writes the report in that format.
func (r *Report) Print(w io.Writer, format string) error {
	some := *r
	some.Findings, some.More = Shown(r.Findings)
	if format != "table" {
		return PrintAs(w, format, some)
	}
	for _, table := range [][][]string{some.findingRows(), r.servedRows(), r.ruleRows(), ValueRows(r.Values, time.Now())} {
		if len(table) <= 1 {
			continue
		}
		if err := PrintTable(w, table); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

// PrintTable writes rows in columns, the first row being the heads.
func PrintTable(w io.Writer, rows [][]string) error {
	const gap = 2
	tabs := tabwriter.NewWriter(w, 0, 0, gap, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(tabs, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tabs.Flush()
}

func (r *Report) findingRows() [][]string {
	rows := [][]string{{"SEVERITY", "WHERE", "OBJECT", "MESSAGE"}}
	for _, f := range r.Findings {
		message := f.Message
		if f.Cure != "" {
			message += " (" + f.Cure + ")"
		}
		rows = append(rows, []string{string(f.Severity), or(f.Where()), or(f.Object), message})
	}
	if r.More > 0 {
		rows = append(rows, []string{fmt.Sprintf("and %d more", r.More)})
	}
	return rows
}

func (r *Report) servedRows() [][]string {
	rows := [][]string{{"API", "SERVED", "RESOURCES"}}
	for _, s := range r.Served {
		served, resources := "yes", strconv.Itoa(s.Resources)
		if s.Error != "" {
			served, resources = "no", "unknown"
		}
		rows = append(rows, []string{s.API, served, resources})
	}
	return rows
}

func (r *Report) ruleRows() [][]string {
	rows := [][]string{{"RULE", "SERVER", "SERIES", "METRICS", "EXPOSES"}}
	for _, rule := range r.Rules {
		exposes := strings.Join(rule.Exposes[:min(len(rule.Exposes), maxShown)], ", ")
		if more := rule.Metrics - maxShown; more > 0 {
			exposes += fmt.Sprintf(" and %d more", more)
		}
		series, metrics := strconv.Itoa(rule.Series), strconv.Itoa(rule.Metrics)
		if rule.Error != "" {
			series, metrics, exposes = "unknown", "unknown", rule.Error
		}
		rows = append(rows, []string{rule.Rule, rule.Server, series, metrics, or(exposes)})
	}
	return rows
}

// ValueRows are the values as a table, with the time since they were measured.
func ValueRows(values []Value, now time.Time) [][]string {
	rows := [][]string{{"NAMESPACE", "METRIC", "SOURCE", "VALUE", "MEASURED", "AGE", "TOOK"}}
	for _, v := range values {
		value, measured, age := cmp.Or(v.Value, "none"), "", ""
		if v.Error != "" {
			value = "error"
		}
		if n := len(v.Items) + v.More; n > 1 {
			value += fmt.Sprintf(" (sum of %d)", n)
		}
		if v.Time != nil {
			measured, age = v.Time.UTC().Format(time.RFC3339), now.Sub(*v.Time).Round(time.Second).String()
		}
		metric := v.Metric
		if v.Selector != "" {
			metric += "{" + v.Selector + "}"
		}
		rows = append(rows, []string{or(v.Namespace), metric, v.Source, value, or(measured), or(age), or(v.Took)})
	}
	return rows
}

// or keeps an empty cell from being overlooked.
func or(text string) string { return cmp.Or(text, "-") }
