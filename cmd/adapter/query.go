package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
	"github.com/tidegauge/tidegauge/cmd/adapter/internal/local"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
)

// querier is the command query.
type querier struct {
	*look

	files    []string
	selector string
	explain  bool

	out, errOut io.Writer
	// asked is what backends were asked.
	asked recorder
}

func queryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Read one metric as an HPA reads it, without a cluster",
		Long: `Reads a metric by the code that serves it: by the definitions of files, without a server
and without a cluster. With --explain it also says what the backend was asked.

Exit codes: 0 if there is a value, 1 if there is none, 2 if the command line is wrong or
a file cannot be read.`,
		Example: externalExample + "\n\n" + customExample,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("query external or query custom: which API has the metric?"))
		},
	}
	usageErrors(cmd)
	cmd.AddCommand(queryExternalCommand(), queryCustomCommand())
	return cmd
}

func newQuerier() *querier { return &querier{look: newLook()} }

// addFlags adds the flags of both APIs.
func (q *querier) addFlags(c *cobra.Command) {
	q.look.addFlags(c)
	fs := c.Flags()
	fs.StringSliceVarP(&q.files, "filename", "f", nil, "file or folder with ExternalMetrics or a configuration, or - for standard input; can be repeated")
	fs.BoolVarP(&q.explain, "explain", "v", false, "say what makes the metric, and what the backend was asked")
	utilruntime.Must(cobra.MarkFlagFilename(fs, "filename", "yaml", "yml", "json"))
}

// answer is what query prints.
type answer struct {
	Values []value `json:"values,omitempty"`
	// Sum is what an HPA adds up, of an external metric with several values.
	Sum string `json:"sum,omitempty"`
	// Took is how long the read took, the listing of series included that it needs.
	Took string `json:"took"`
	// MadeBy is the ExternalMetric or the rule; empty if there is none.
	MadeBy string `json:"madeBy,omitempty"`
	Error  string `json:"error,omitempty"`
	Asked  []ask  `json:"asked,omitempty"`
}

// value is one value of a metric.
type value struct {
	// Object is what a custom metric is of.
	Object string `json:"object,omitempty"`
	Metric string `json:"metric"`

	check.Item `json:",inline"`
}

// reading reads a metric by the parts. Its error is the API's.
type reading func(ctx context.Context, a *local.Adapter, to *answer) error

// run reads the metric by what files and flags define, and prints it.
func (q *querier) run(cmd *cobra.Command, with func(*check.Loaded) (reading, error)) error {
	q.out, q.errOut = cmd.OutOrStdout(), cmd.ErrOrStderr()
	ctx, err := q.begin(cmd.Context())
	if err != nil {
		return err
	}
	if len(q.files) == 0 && q.configFile == "" {
		return usage(errors.New("nothing defines the metric: give --config with rules, or --filename with an ExternalMetric"))
	}
	texts, err := check.Read(ctx, q.files, q.configFile, cmd.InOrStdin())
	if err != nil {
		return usage(err)
	}
	ctx, cancel := q.within(ctx)
	defer cancel()
	loaded, err := q.load(ctx, texts)
	if err != nil {
		return err
	}
	read, err := with(loaded)
	if err != nil {
		return usage(err)
	}
	parts := loaded.Parts
	if parts.Backends, err = builtin.Open(ctx, parts.Config); err != nil {
		return err
	}
	q.asked.config = parts.Config
	parts.Asked = q.asked.note
	a, err := local.New(ctx, parts)
	if err != nil {
		return usage(err)
	}
	to := &answer{}
	began := time.Now()
	err = a.While(ctx, func(ctx context.Context) error { return read(ctx, a, to) })
	to.Took = time.Since(began).Round(time.Millisecond).String()
	return q.print(to, err)
}

// load judges the texts. What is wrong with them is said, and ends the command if it is the
// configuration.
func (q *querier) load(ctx context.Context, texts []check.Text) (*check.Loaded, error) {
	loaded, err := check.Load(ctx, check.Options{
		Texts: texts, Overlay: q.overlay, Namespace: q.namespace, Kubeconfig: q.kubeconfig,
		NoDataIsZero: q.cloudWatchEmptyAsZero, MaxAge: q.discoveryMaxAge(),
	})
	if err != nil {
		return nil, usage(err)
	}
	wrong := slices.DeleteFunc(loaded.Findings, func(f check.Finding) bool { return f.Severity != check.Error })
	shown, more := check.Shown(wrong)
	for _, f := range shown {
		fmt.Fprintf(q.errOut, "adapter: %s: %s: %s: %s\n", f.Severity, f.Where(), f.Object, f.Message)
	}
	if more > 0 {
		fmt.Fprintf(q.errOut, "adapter: and %d more\n", more)
	}
	if loaded.Broken {
		return nil, &exitError{code: exitWrong}
	}
	return loaded, nil
}

// print says what was read, or why there is nothing.
func (q *querier) print(to *answer, failed error) error {
	if failed == nil && len(to.Values) == 0 {
		failed = errors.New("there is no value: the query gives nothing, and an HPA keeps its replicas")
	}
	if failed != nil {
		to.Error = oneLine(failed)
		failed = &exitError{exitWrong, failed}
	}
	if q.explain {
		to.Asked = q.asked.take()
	} else {
		to.MadeBy = ""
	}
	var err error
	if q.format == "table" {
		err = to.table(q.out)
	} else {
		err = check.PrintAs(q.out, q.format, to)
	}
	if failed != nil {
		return failed
	}
	return err
}

// table writes the answer for people.
func (a *answer) table(w io.Writer) error {
	if len(a.Values) > 0 {
		if err := check.PrintTable(w, a.rows(time.Now())); err != nil {
			return err
		}
	}
	var lines []string
	if a.Sum != "" {
		lines = append(lines, "An HPA adds these up to "+a.Sum+".")
	}
	if a.MadeBy != "" {
		lines = append(lines, "Made by "+a.MadeBy+", read in "+a.Took+".")
	}
	for _, asked := range a.Asked {
		lines = append(lines, asked.lines()...)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) rows(now time.Time) [][]string {
	rows := [][]string{{"METRIC", "OF", "VALUE", "MEASURED", "AGE", "WINDOW"}}
	for _, v := range a.Values {
		of, window := v.Object, v.Window
		if of == "" {
			of = labelsOf(v.Labels)
		}
		if window == "" {
			window = "-"
		}
		rows = append(rows, []string{
			v.Metric, of, v.Value, v.Time.UTC().Format(time.RFC3339), now.Sub(v.Time).Round(time.Second).String(), window,
		})
	}
	return rows
}

func labelsOf(labels map[string]string) string {
	if len(labels) == 0 {
		return "-"
	}
	return strings.TrimPrefix(fmt.Sprint(labels), "map")
}
