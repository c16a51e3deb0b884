// Command demo shows a real HPA that scales the workers of a queue from 0 to 10 and
// back, live, and leaves nothing running.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
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
		Short: "Show a real HPA take workers from 0 to 10 and back by the depth of a queue",
		Long: `Starts a Kubernetes control plane, an AWS stand-in and the adapter on 127.0.0.1,
applies the manifests of deploy/demo/queue, sends messages to the queue, and shows
what the HPA does. The workers' pods are simulated; the demo takes the messages from
the queue at a rate for each ready pod. It stops by itself and leaves nothing
running. The exit status says whether the HPA did what it should.`,
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
	flags.IntVar(&o.Messages, "messages", demo.DefaultMessages, "messages to send")
	flags.Float64Var(&o.Rate, "rate", demo.DefaultRate, "messages that a ready worker handles in a second")
	flags.BoolVar(&lines, "plain", false, "write line by line, as into a pipe, also on a terminal")
	flags.DurationVar(&o.Timeout, "timeout", demo.DefaultTimeout, "give up after that long")
	return cmd
}

// onTerminal says whether the output can be updated in place.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
}
