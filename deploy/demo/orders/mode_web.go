package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"time"

	// An image that has nothing but the program has no certificates.
	_ "golang.org/x/crypto/x509roots/fallback"

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

// openStore opens the database. Its URL has a password, so that no flag has it: everybody on
// the machine sees the arguments of a program.
func (b *backends) openStore() (*store.Store, error) {
	return store.Open(store.Options{URL: os.Getenv("DATABASE_URL"), File: b.sqlite, Connections: b.connections})
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
	}
	return f.backends.check()
}

func runWeb(ctx context.Context, args []string) error {
	var f webFlags
	fs := flag.NewFlagSet("web", flag.ContinueOnError)
	f.register(fs)
	if err := flags.Parse(fs, args); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	client, err := queue.Connect(ctx)
	if err != nil {
		return err
	}
	st, err := f.openStore()
	if err != nil {
		return err
	}
	return errors.Join(web.Run(ctx, f.Options, st, queue.New(client, f.queue)), st.Close())
}
