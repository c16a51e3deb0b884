// Command fakeaws runs the AWS stand-in as a process, prints its URL as one line on
// stdout, and stops on SIGINT or SIGTERM.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fakeaws:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	var opts fakeaws.Options
	flags := flag.NewFlagSet("fakeaws", flag.ContinueOnError)
	flags.StringVar(&opts.Addr, "listen", "127.0.0.1:0", "host and port to listen on; port 0 is any free one")
	flags.DurationVar(&opts.PublishInterval, "publish-interval", fakeaws.DefaultPublishInterval,
		"how often queue depths are published to CloudWatch; below 1m as high-resolution data")
	flags.StringVar(&opts.AccessKeyID, "access-key-id", cmp.Or(getenv("AWS_ACCESS_KEY_ID"), fakeaws.DefaultAccessKeyID),
		"access key ID that is accepted; by default $AWS_ACCESS_KEY_ID")
	flags.StringVar(&opts.SecretAccessKey, "secret-access-key", "",
		"secret access key that is accepted; by default $AWS_SECRET_ACCESS_KEY")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	// It is no default of the flag, which --help would print.
	opts.SecretAccessKey = cmp.Or(opts.SecretAccessKey, getenv("AWS_SECRET_ACCESS_KEY"))
	server, err := fakeaws.Start(ctx, opts)
	if err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	defer server.Close()
	if _, err := fmt.Fprintln(stdout, server.URL()); err != nil {
		return fmt.Errorf("printing URL: %w", err)
	}
	<-ctx.Done()
	return nil
}
