// Command bench measures the adapter on a real control plane and prints a table of the
// figures, with what the bare library has in the same run, what is required, and what
// prometheus-adapter has.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/test/bench"
	"github.com/tidegauge/tidegauge/test/cmd/internal/output"
	"github.com/tidegauge/tidegauge/test/env"
)

// resultsFile is in the repository's root.
const resultsFile = "bench/results.json"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := bench.Options{Out: os.Stdout, Progress: os.Stderr, Peer: os.Getenv(bench.PeerVariable)}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the adapter on a real control plane",
		Long: `Starts a Kubernetes control plane with simulated nodes, the AWS stand-in and something
that plays a Prometheus on 127.0.0.1, starts adapters between them, and measures them.
It stops by itself and leaves nothing running. The exit status is 1 if a requirement is
missed or could not be measured.

If ` + bench.PeerVariable + ` names the binary of a prometheus-adapter, that is measured
too. Without it the table has figures that were recorded once.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("results") {
				root, err := env.Root()
				if err != nil {
					return err
				}
				o.Results = filepath.Join(root, resultsFile)
			}
			return bench.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.VarP((*output.JSON)(&o.JSON), "output", "o", "table or json")
	flags.StringVar(&o.Results, "results", resultsFile, "a file for the results as JSON, by default in the repository; '' for none")
	flags.StringVar(&o.Profiles, "profiles", "", "a folder for CPU profiles of the adapter and the floor while they are read; none by default")
	flags.StringSliceVar(&o.Only, "only", nil, "what to measure, of "+strings.Join(bench.Names(), ", ")+"; everything by default")
	flags.StringVar(&o.Adapter, "adapter", "", "the adapter's binary (.bin/adapter by default)")
	return cmd
}
