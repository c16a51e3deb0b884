package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/queue"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/worker"
)

type workerFlags struct {
	backends
	worker.Options

	dead string
}

func (f *workerFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.AdminListen, "admin-listen", ":9797", "address of the port for /metrics and /livez")
	fs.StringVar(&f.dead, "dead-letter-queue", "orders-dead", "name of the SQS queue for messages that nobody can process")
	fs.IntVar(&f.Concurrency, "concurrency", 10, "orders at work at once")
	fs.DurationVar(&f.Work, "work", 200*time.Millisecond, "how long one order takes")
	fs.DurationVar(&f.Visibility, "visibility", 30*time.Second, "how long a message is hidden from others at a time; extended while it is at work")
	fs.DurationVar(&f.Drain, "drain", 25*time.Second, "how long orders at work may take after SIGTERM")
	f.backends.register(fs)
}

func (f *workerFlags) check() error {
	switch {
	case f.dead == "":
		return flags.Wrong("dead-letter-queue", "is empty")
	case f.dead == f.queue:
		return flags.Wrong("dead-letter-queue", "is the queue itself")
	case f.Concurrency < 1:
		return flags.Wrong("concurrency", "is %d, and has to be 1 or more", f.Concurrency)
	case f.Work < 0:
		return flags.Wrong("work", "is %s, and has to be 0s or more", f.Work)
	case f.Visibility < 3*time.Second || f.Visibility > queue.MaxVisibility || f.Visibility%time.Second != 0:
		return flags.Wrong("visibility", "is %s, and has to be whole seconds, 3s to %s", f.Visibility, queue.MaxVisibility)
	case f.Drain < 0:
		return flags.Wrong("drain", "is %s, and has to be 0s or more", f.Drain)
	}
	return f.backends.check()
}

func runWorker(ctx context.Context, args []string) error {
	var f workerFlags
	if err := parse("worker", args, &f); err != nil {
		return err
	}
	client, st, err := f.open(ctx)
	if err != nil {
		return err
	}
	err = worker.Run(ctx, f.Options, st, queue.New(client, f.queue), queue.New(client, f.dead))
	return errors.Join(err, st.Close())
}
