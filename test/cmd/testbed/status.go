package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/test/env"
)

func statusCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say of each component whether it is ready; fails unless all are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status(cmd.Context(), cmd.OutOrStdout(), *dir)
		},
	}
}

func status(ctx context.Context, out io.Writer, dir string) error {
	s, err := load(dir)
	if err != nil {
		return err
	}
	if len(s.Components) == 0 {
		return errors.New("nothing is up")
	}
	ready := s.Complete
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range s.Components {
		err := c.ready(ctx)
		ready = ready && err == nil
		fmt.Fprintf(table, "%s\t%d\t%s\n", c.Name, c.PID, readiness(err))
	}
	if s.Kubeconfig != "" {
		err := env.Aggregated(ctx, s.Kubeconfig)
		ready = ready && err == nil
		fmt.Fprintf(table, "aggregated APIs\t\t%s\n", readiness(err))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !ready {
		return errors.New("not everything is ready")
	}
	return nil
}

func (c component) ready(ctx context.Context) error {
	if !c.Alive() {
		return errors.New("it has ended")
	}
	return c.Health.Probe(ctx)
}

func readiness(err error) string {
	if err != nil {
		return "not ready: " + err.Error()
	}
	return "ready"
}
