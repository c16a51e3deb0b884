// Command show serves the page of the demo with a made-up story, to look at while one
// changes it: go run ./demo/page/cmd/show
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/tidegauge/tidegauge/test/demo/page"
	"github.com/tidegauge/tidegauge/test/demo/page/madeup"
)

const (
	address = "127.0.0.1:8090"
	// played is how much of the story there has been already.
	played = 350 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, time.Now().Add(-played)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // There is nothing left to stop.
	}
}

func run(ctx context.Context, start time.Time) error {
	p := page.New(madeup.Source{Start: start})
	for elapsed := time.Duration(0); elapsed < played; elapsed += page.Interval {
		if !madeup.Known(elapsed) {
			continue
		}
		if err := p.Add(madeup.At(start, elapsed)); err != nil {
			return err
		}
	}
	go p.Run(ctx)
	return p.Serve(ctx, address, func(url string) { fmt.Println(url) })
}
