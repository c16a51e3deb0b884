// Command orders is a shop that takes orders, and what a demonstration of autoscaling needs
// around it. One program with modes:
//
//	orders web        takes orders and lists them
//	orders worker     processes orders from the queue
//	orders loader     puts load on web
//	orders simulator  has the load rise and fall like a day
//	orders echo       answers with what it was asked
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	// The image has no file but the program: AWS is trusted by these.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/echo"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/loader"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/simulator"
)

// modes run until they are done, or until ctx is, which SIGTERM ends.
var modes = map[string]func(ctx context.Context, args []string) error{
	"echo":      echo.Run,
	"loader":    loader.Run,
	"simulator": simulator.Run,
	"web":       runWeb,
	"worker":    runWorker,
}

func main() {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	known := strings.Join(slices.Sorted(maps.Keys(modes)), ", ")
	if len(args) == 0 || modes[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "orders: say a mode:", known)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := modes[args[0]](ctx, args[1:])
	var wrong *flags.Error
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintln(os.Stderr, "orders "+args[0]+":", err)
		return 2
	}
	slog.Error("ended", "mode", args[0], "error", err)
	return 1
}
