package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/queue"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/web"
)

// backends are the flags that say where orders are kept and sent.
type backends struct {
	sqlite      string
	connections int
	queue       string
}

func (b *backends) register(fs *flag.FlagSet) {
	fs.StringVar(&b.sqlite, "sqlite", "orders.db", "file of the SQLite database, where DATABASE_URL is not set")
	fs.IntVar(&b.connections, "connections", 10, "most connections to the database")
	fs.StringVar(&b.queue, "queue", "orders", "name of the SQS queue")
}

func (b *backends) check() error {
	switch {
	case b.connections < 1:
		return flags.Wrong("connections", "is %d, and has to be 1 or more", b.connections)
	case b.queue == "":
		return flags.Wrong("queue", "is empty")
	}
	return nil
}

// open connects to SQS and opens the database. The database's URL has a password, so that no
// flag has it: everybody on the machine sees the arguments of a program.
func (b *backends) open(ctx context.Context) (*sqs.Client, *store.Store, error) {
	client, err := queue.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	st, err := store.Open(store.Options{URL: os.Getenv("DATABASE_URL"), File: b.sqlite, Connections: b.connections})
	return client, st, err
}

// parse reads the arguments of a mode into its flags, and judges them.
func parse(mode string, args []string, f interface {
	register(fs *flag.FlagSet)
	check() error
},
) error {
	fs := flag.NewFlagSet(mode, flag.ContinueOnError)
	f.register(fs)
	if err := flags.Parse(fs, args); err != nil {
		return err
	}
	return f.check()
}

type webFlags struct {
	backends
	web.Options
}

func (f *webFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.Listen, "listen", ":8080", "address of the users' port")
	fs.StringVar(&f.AdminListen, "admin-listen", ":9797", "address of the port for /metrics, /livez and /drain")
	fs.DurationVar(&f.Drain, "drain", 120*time.Second, "how long requests are served after SIGTERM at most")
	fs.DurationVar(&f.DrainIdle, "drain-idle", 15*time.Second, "end sooner when none has come for so long")
	fs.DurationVar(&f.TokenCost, "token-cost", 50*time.Millisecond, "CPU time that POST /token takes")
	fs.IntVar(&f.MaxInFlight, "max-in-flight", 200, "most requests that are served at once; more are answered 503")
	fs.IntVar(&f.MaxConnections, "max-connections", 1000, "most connections of users that are open at once; more wait")
	f.backends.register(fs)
}

func (f *webFlags) check() error {
	switch {
	case f.Drain < 0:
		return flags.Wrong("drain", "is %s, and has to be 0s or more", f.Drain)
	case f.DrainIdle < 0:
		return flags.Wrong("drain-idle", "is %s, and has to be 0s or more", f.DrainIdle)
	case f.TokenCost < 0 || f.TokenCost > 10*time.Second:
		return flags.Wrong("token-cost", "is %s, and has to be 0s to 10s", f.TokenCost)
	case f.MaxInFlight < 1:
		return flags.Wrong("max-in-flight", "is %d, and has to be 1 or more", f.MaxInFlight)
	case f.MaxConnections < 1:
		return flags.Wrong("max-connections", "is %d, and has to be 1 or more", f.MaxConnections)
	}
	return f.backends.check()
}

func runWeb(ctx context.Context, args []string) error {
	var f webFlags
	if err := parse("web", args, &f); err != nil {
		return err
	}
	client, st, err := f.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(web.Run(ctx, f.Options, st, queue.New(client, f.queue)), st.Close())
}
