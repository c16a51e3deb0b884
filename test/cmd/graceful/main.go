// Command graceful measures what a graceful stop of web pods is worth, and prints both overlays
// of the demo side by side. It needs root and containerd; see docs/graceful-stop.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/test/cmd/internal/output"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/graceful"
)

func main() { os.Exit(env.Apart(run)) }

// run returns the exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	// The load balancer says of each target what becomes of it.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)

	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "graceful:", err)
		return 1
	}
	return 0
}

func newCommand() *cobra.Command {
	o := graceful.Defaults()
	o.Out, o.Progress = os.Stdout, os.Stderr
	cmd := &cobra.Command{
		Use:   "graceful",
		Short: "Measure what a graceful stop is worth",
		Long: `Starts a Kubernetes control plane and a node with real containers in namespaces of its
own, runs the web tier of deploy/demo behind a stand-in of an Application Load Balancer,
scales it in from many pods to 2 under steady load, as the overlay before has it and as
the overlay after has it, and counts what users and the load balancer saw. It stops by
itself and leaves nothing running.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return graceful.Run(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.VarP((*output.JSON)(&o.JSON), "output", "o", "table or json")
	flags.IntVar(&o.Pods, "pods", o.Pods, "how many pods there are before each scale-in")
	flags.IntVar(&o.Rounds, "rounds", o.Rounds, "how many scale-ins there are of each overlay")
	flags.Float64Var(&o.Rate, "rate", o.Rate, "the load, in requests a second")
	flags.DurationVar(&o.Window, "window", o.Window, "how long users are watched from a scale-in on")
	flags.DurationVar(&o.Lag, "lag", o.Lag, "from an EndpointSlice to a target that is registered or drains")
	flags.DurationVar(&o.DrainIdle, "drain-idle", 0, "in place of the overlays' --drain-idle")
	flags.DurationVar(&o.DeregistrationDelay, "deregistration-delay", 0, "in place of the overlays' deregistration delay")
	flags.BoolVar(&o.Parts, "parts", false, "also measure the overlay after without each of its parts")
	flags.StringVar(&o.Page, "page", "", "a page whose figures are replaced")
	return cmd
}
