// Package waysin shows what docs/ways-in.md says of the ways into a cluster: which of them lose
// requests when pods and nodes come and go, with a load balancer that registers late, is
// throttled, or cuts what is under way, and how many. The control plane is real, pods are
// processes, and the load balancer is the stand-in of test/balancer. It also checks the
// manifests of deploy/ingress.
package waysin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/runner"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// asProgram has the test binary be what pods run.
	asProgram = "TIDEGAUGE_TEST_PROGRAM"
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
	// slowness is how long the path /slow takes.
	slowness = 2 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if err := program(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	// The scenes wait nearly all of the time: all of them at once take as long as one.
	flag.Parse()
	if err := flag.Set("test.parallel", "20"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if bed.runner != nil {
			bed.runner.Close()
		}
		var err error
		if bed.cluster != nil {
			err = bed.cluster.Stop()
		}
		if bed.dir != "" {
			err = errors.Join(err, os.RemoveAll(bed.dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// program is a web server that ends as it is told to: --drain after SIGTERM, and when --until
// answers, with whatever is under way. Until then everything is answered, and health is bad.
func program(args []string) error {
	fs := flag.NewFlagSet("program", flag.ContinueOnError)
	listen := fs.String("listen", "", "")
	drain := fs.Duration("drain", 0, "")
	until := fs.String("until", "", "")
	ready := fs.String("ready", "", "")
	slow := fs.String("slow", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	var draining atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if !told(r.Context(), *ready) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		if *slow != "" {
			told(r.Context(), *slow)
			return
		}
		select {
		case <-r.Context().Done():
		case <-time.After(slowness):
		}
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if draining.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, mux) }()
	<-term
	draining.Store(true)
	<-time.After(*drain)
	told(context.Background(), *until)
	return nil
}

// told waits for the answer of a URL, and says whether it is a yes. Without a URL it is one.
func told(ctx context.Context, url string) bool {
	if url == "" {
		return true
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// bed is what all scenes share. Each has a namespace and a load balancer of its own.
var (
	bed struct {
		cluster *env.Cluster
		runner  *runner.Runner
		dir     string
	}
	started = sync.OnceValue(func() error { return start(context.Background()) })
)

func start(ctx context.Context) (err error) {
	if bed.dir, err = os.MkdirTemp("", "tidegauge-waysin-"); err != nil {
		return err
	}
	if bed.cluster, err = env.Start(ctx, env.Options{Nodes: 2}); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bed.runner, err = runner.Start(ctx, runner.Options{
		Config: bed.cluster.Config(), Program: self, Dir: filepath.Join(bed.dir, "pods"),
		Nodes: 3, Pods: 150, Env: []string{asProgram + "=1"},
	})
	return err
}

func running(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	if err := started(); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	until.Holds(t, what, deadline, func(context.Context) error { return check() })
}
