// Command testbed starts the test bed and leaves it running: a Kubernetes control
// plane with simulated nodes, the AWS stand-in, Prometheus, what plays the pods, and the
// adapter.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidegauge/tidegauge/test/env"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var dir string
	root := &cobra.Command{
		Use:           "testbed",
		Short:         "Start and stop the test bed",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			dir, err = folder(dir)
			return err
		},
	}
	root.PersistentFlags().StringVar(&dir, "dir", "", "folder of the test bed's files (.local in the repository's root by default)")
	root.AddCommand(upCommand(&dir), downCommand(&dir), statusCommand(&dir))
	return root
}

// folder is the absolute path of the test bed's folder.
func folder(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	root, err := env.Root()
	return filepath.Join(root, ".local"), err
}
