package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop what up started, and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd.Context(), cmd.OutOrStdout(), *dir)
		},
	}
}

// down stops the processes that the state names, if they are still the same ones.
func down(ctx context.Context, out io.Writer, dir string) error {
	release, err := lock(dir)
	if err != nil {
		return err
	}
	defer release()
	s, err := load(dir)
	if err != nil {
		return err
	}
	n := s.alive()
	if err := s.stop(ctx); err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintln(out, "nothing is up")
		return nil
	}
	fmt.Fprintf(out, "down: %s stopped\n", processes(n))
	return nil
}
