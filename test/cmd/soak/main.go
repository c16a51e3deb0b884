// Command soak runs the adapter on a real control plane while faults come and go, and
// checks what must hold all the while.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/test/cmd/internal/output"
	"github.com/tidegauge/tidegauge/test/soak"
)

// interrupted is the exit status that shells give to programs that a Ctrl-C ended.
const interrupted = 130

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	// The clients of the test bed say much while kube-apiserver restarts.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)

	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "soak:", err)
	if ctx.Err() != nil {
		return interrupted
	}
	return 1
}

func newCommand() *cobra.Command {
	o := soak.Options{Out: os.Stdout, Progress: os.Stderr}
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Run the adapter while faults come and go, and check what must hold",
		Long: `Starts a Kubernetes control plane with simulated nodes, stand-ins for AWS and
Prometheus and the adapter on 127.0.0.1, lets faults come and go, and checks that no
HPA moves because of one, that no value is older than its maxAge or was never there,
that a fault never looks like nothing, that the adapter neither grows nor falls, and
that everything is fresh again soon. It stops by itself and leaves nothing running.
The exit status is 1 if any of that is not so, or was not checked.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				o.Seed = rand.Uint64N(1_000_000)
			}
			return soak.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.VarP((*output.JSON)(&o.JSON), "output", "o", "table or json")
	flags.DurationVar(&o.For, "for", soak.DefaultFor, "how long faults come and go")
	flags.Uint64Var(&o.Seed, "seed", 0, "which faults come when; random by default")
	flags.StringVar(&o.Adapter, "adapter", "", "the adapter's binary, such as one with the race detector (.bin/adapter by default)")
	flags.StringVar(&o.Log, "log", "", "a file that keeps the adapter's log; by default a temporary one if an invariant breaks")
	return cmd
}
