package runner

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// asProgram has the test binary be what pods run.
	asProgram = "TIDEGAUGE_TEST_PROGRAM"
	// deadline is how long a test waits, however loaded the machine is.
	deadline = 2 * time.Minute
	// mostPods is how many pods the node of the tests takes.
	mostPods = 8
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
	defer func() {
		if bed.runner != nil {
			bed.runner.Close()
		}
		if bed.cluster == nil {
			return
		}
		if err := errors.Join(bed.cluster.Stop(), os.RemoveAll(bed.dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// answer is what the program says of itself.
type answer struct {
	Args []string
	Env  map[string]string
	PID  int
}

// program listens on two ports. Its log says what happened to it, in order.
func program(args []string) error {
	var ready atomic.Bool
	ready.Store(true)
	var alive atomic.Bool
	alive.Store(true)
	fs := flag.NewFlagSet("program", flag.ContinueOnError)
	listen := fs.String("listen", "", "")
	admin := fs.String("admin-listen", "", "")
	crash := fs.Bool("crash", false, "end at once")
	linger := fs.Duration("linger", 0, "how long it goes on after SIGTERM")
	file := fs.String("file", "", "a file to write")
	_ = fs.String("more", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	fmt.Println("started")
	if *crash {
		return errors.New("crashed")
	}
	if *file != "" {
		if err := os.WriteFile(*file, []byte("written"), 0o600); err != nil {
			return err
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	user := http.NewServeMux()
	user.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		env := map[string]string{}
		for _, v := range os.Environ() {
			name, value, _ := strings.Cut(v, "=")
			env[name] = value
		}
		_ = json.NewEncoder(w).Encode(answer{args, env, os.Getpid()})
	})
	private := http.NewServeMux()
	private.HandleFunc("/readyz", while(&ready))
	private.HandleFunc("/livez", while(&alive))
	private.HandleFunc("/drain", func(http.ResponseWriter, *http.Request) {
		fmt.Println("drained")
		ready.Store(false)
	})
	private.HandleFunc("/turn", func(_ http.ResponseWriter, r *http.Request) { ready.Store(r.FormValue("ready") == "true") })
	private.HandleFunc("/die", func(http.ResponseWriter, *http.Request) { alive.Store(false) })
	private.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "program_up 1") })
	for address, handler := range map[string]http.Handler{*listen: user, *admin: private} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, handler) }()
	}
	<-term
	fmt.Println("terminated")
	<-time.After(*linger)
	fmt.Println("ended")
	return nil
}

// while answers 200 while it is so, and then 503.
func while(so *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !so.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
}

// bed is the control plane that the tests share, and the runner with its one node.
var bed struct {
	once    sync.Once
	cluster *env.Cluster
	runner  *Runner
	dir     string
	err     error
}

func running(t *testing.T) (*env.Cluster, *Runner) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
	bed.once.Do(func() { bed.err = startBed(context.WithoutCancel(t.Context())) })
	if bed.err != nil {
		t.Fatal(bed.err)
	}
	return bed.cluster, bed.runner
}

func startBed(ctx context.Context) error {
	var err error
	if bed.dir, err = os.MkdirTemp("", "tidegauge-runner-"); err != nil {
		return err
	}
	if bed.cluster, err = env.Start(ctx, env.Options{Nodes: 1}); err != nil {
		return err
	}
	bed.runner, err = Start(ctx, options(filepath.Join(bed.dir, "runner")))
	return err
}

func options(dir string) Options {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Options{
		Config: bed.cluster.Config(), Program: program, Dir: dir, Pods: mostPods, BackOff: 100 * time.Millisecond,
		Env:  []string{asProgram + "=1", "REGION=of the bed"},
		Args: func(pod *corev1.Pod) []string { return []string{"--more=" + pod.Name} },
	}
}

// namespace makes a namespace for a test, and in the end deletes it with its pods at once.
func namespace(t *testing.T, c *env.Cluster) string {
	t.Helper()
	made, err := c.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "runner-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := made.Name
	eventually(t, "ServiceAccount", func(ctx context.Context) error {
		_, err := c.Client().CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		err := errors.Join(
			c.Client().CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}),
			c.Client().CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{}))
		if err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	until.Holds(t, what, deadline, check)
}

// whoIs asks the API server for whom it takes the bearer of a configuration.
func whoIs(ctx context.Context, config *rest.Config) (string, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return review.Status.UserInfo.Username, nil
}
