// Command player plays the pods of simulated nodes towards Prometheus, prints its URL as
// one line on stdout, and stops on SIGINT or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidegauge/tidegauge/test/player"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "player:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	var opts player.Options
	flags := flag.NewFlagSet("player", flag.ContinueOnError)
	flags.StringVar(&opts.Addr, "listen", "127.0.0.1:0", "host and port to listen on; port 0 is any free one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	p, err := player.Start(ctx, opts)
	if err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	defer p.Close()
	if _, err := fmt.Fprintln(stdout, p.URL()); err != nil {
		return fmt.Errorf("printing URL: %w", err)
	}
	<-ctx.Done()
	return nil
}
