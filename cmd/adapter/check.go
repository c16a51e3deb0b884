package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/check"
)

// checker is the command check.
type checker struct {
	*look

	live, strict bool
}

func checkCommand() *cobra.Command {
	c := &checker{look: newLook()}
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Judge configurations and objects before they are served",
		Long: `Judges configuration files and Kubernetes objects by the code that serves them, and needs
no cluster.

A FILE is a file, a folder (its *.yaml, *.yml and *.json) or - for standard input, with
any number of YAML documents. A document without apiVersion and kind is a configuration,
as is the key config.yaml of a ConfigMap. ExternalMetrics are judged by the schema and
the rules of their CRD, as an API server does, and by what the adapter makes of them. The
metrics that HorizontalPodAutoscalers name are looked for in the files. Other objects are
left alone.

With --live the backends are asked too: which metrics the rules make of the series that
there are, and what external metrics are now.

Exit codes: 0 if nothing is wrong, although there may be warnings; 1 if something is, and
with --strict if there is a warning; 2 if the command line is wrong or a file cannot be
read.`,
		Example: `  # Judge a configuration and some objects.
  adapter check rules.yaml deploy/

  # In a pipeline, where warnings fail too.
  helm template tidegauge charts/tidegauge -f values.yaml | adapter check --strict -

  # What would the rules expose now?
  adapter check --live rules.yaml --prometheus-url=http://127.0.0.1:9090

  # What is wrong, for a program.
  adapter check -o json rules.yaml | jq '.findings[] | select(.severity == "error")'`,
		RunE: c.run,
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&c.live, "live", c.live, "ask the backends too, and say what rules and ExternalMetrics would expose now")
	cmd.Flags().BoolVar(&c.strict, "strict", c.strict, "make errors of warnings")
	return cmd
}

func (c *checker) run(cmd *cobra.Command, files []string) error {
	if c.configFile != "" {
		files = append(files, c.configFile)
	}
	if len(files) == 0 {
		return usage(errors.New("no FILE to check: name files or folders, or - for standard input"))
	}
	ctx, cancel, err := c.begin(cmd.Context())
	if err != nil {
		return err
	}
	defer cancel()
	texts, err := check.Read(files, cmd.InOrStdin())
	if err != nil {
		return usage(err)
	}
	report, err := check.Run(ctx, check.Options{
		Texts: texts, Overlay: c.overlay, Namespace: c.namespace, Kubeconfig: c.kubeconfig,
		NoDataIsZero: c.cloudWatchEmptyAsZero, MaxAge: c.discoveryMaxAge(), Live: c.live,
		Progress: func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "adapter check:", text) },
	})
	if err != nil {
		return usage(err)
	}
	if c.strict {
		report.Strict()
	}
	if err := report.Print(cmd.OutOrStdout(), c.format); err != nil {
		return err
	}
	if !report.OK() {
		return &exitError{code: exitWrong}
	}
	return nil
}
