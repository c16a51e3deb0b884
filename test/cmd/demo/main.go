// Command demo shows real HPAs that scale the workers of a queue from 0 to 10 and a web tier
// from 1 pod to 3, and back, live, and leaves nothing running.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegauge/tidegauge/test/demo"
)

// interrupted is the exit status that shells give to programs that a Ctrl-C ended.
const interrupted = 130

func main() { os.Exit(run()) }

// run returns the exit status.
func run() int {
	// A closed pipe is a signal too: it must not kill the program before it has
	// stopped what it started.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)

	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	if ctx.Err() != nil {
		return interrupted
	}
	return 1
}

func newCommand() *cobra.Command {
	o := demo.Options{Out: os.Stdout, Color: os.Getenv("NO_COLOR") == ""} // See https://no-color.org.
	var lines bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show real HPAs take a shop's web tier and its workers up and down",
		Long: `Starts a Kubernetes control plane, Prometheus, an AWS stand-in with a load balancer
and the adapter on 127.0.0.1, applies the manifests of deploy/demo/overlays/after, puts
load on the shop, places a burst of orders, and shows what the HPAs do, here and on a
page whose address it writes. The shop's pods are processes of this machine. It stops by
itself and leaves nothing running. The exit status says whether the HPAs did what they
should, and every order was processed.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !lines && onTerminal() {
				o.TerminalSize = func() (width, height int, err error) { return term.GetSize(int(os.Stdout.Fd())) }
			}
			return demo.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Messages, "messages", demo.DefaultMessages, "orders in the burst, each a message")
	flags.Float64Var(&o.Rate, "rate", demo.DefaultRate, "messages that a ready worker handles in a second")
	flags.BoolVar(&lines, "plain", false, "write line by line, as into a pipe, also on a terminal")
	flags.DurationVar(&o.Timeout, "timeout", demo.DefaultTimeout, "give up after that long, without --stop and --for")
	flags.BoolVar(&o.Page, "page", true, "serve the live page on 127.0.0.1")
	flags.StringSliceVar(&o.Stop, "stop", nil, "parts to stop one after the other in mid-demo: "+strings.Join(demo.Parts(), ", "))
	flags.DurationVar(&o.Outage, "outage", demo.DefaultOutage, "how long each part of --stop is away")
	flags.DurationVar(&o.For, "for", 0, "go on for that long after the story, with a load like a day's")
	flags.DurationVar(&o.Period, "period", demo.DefaultPeriod, "how long such a day is")
	return cmd
}

// onTerminal says whether the output can be updated in place.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
}
