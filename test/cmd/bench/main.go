// Command bench measures the adapter on a real control plane and prints a table of the
// figures, with what is required and what prometheus-adapter has beside them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/test/bench"
)

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
	o := bench.Options{Out: os.Stdout, Progress: os.Stderr}
	output := "table"
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the adapter on a real control plane",
		Long: `Starts a Kubernetes control plane with simulated nodes and something that plays a
Prometheus on 127.0.0.1, starts adapters between them, and measures them. It stops by
itself and leaves nothing running. The exit status is 1 if a requirement is missed or
could not be measured.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "table":
			case "json":
				o.JSON = true
			default:
				return fmt.Errorf("--output: %q is neither table nor json", output)
			}
			return bench.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", output, "table or json")
	flags.StringSliceVar(&o.Only, "only", nil, "what to measure, of "+strings.Join(bench.Names(), ", ")+"; everything by default")
	flags.StringVar(&o.Adapter, "adapter", "", "the adapter's binary (.bin/adapter by default)")
	return cmd
}
