// Command balancer plays an AWS Application Load Balancer and its controller for a Service,
// prints the URLs of the balancer and of its metrics, one a line, and stops on SIGINT or
// SIGTERM.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegauge/tidegauge/test/balancer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "balancer:", err)
		os.Exit(1)
	}
}

// run balances until ctx is done.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	opts, kubeconfig, err := parse(args)
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("reading kubeconfig %q (--kubeconfig, or KUBECONFIG): %w", kubeconfig, err)
	}
	config.QPS = -1 // Gates of hundreds of pods open at once.
	if opts.Client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	b, err := balancer.Start(ctx, opts)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:contextcheck // The balancer has its own, and ends it.
	if _, err := fmt.Fprintf(stdout, "%s\n%s\n", b.URL(), b.MetricsURL()); err != nil {
		return fmt.Errorf("printing URLs: %w", err)
	}
	<-ctx.Done()
	return nil
}

func parse(args []string) (opts balancer.Options, kubeconfig string, err error) {
	opts = balancer.Defaults()
	flags := flag.NewFlagSet("balancer", flag.ContinueOnError)
	flags.StringVar(&kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "who to be towards the API server; without it, the pod's own account")
	flags.StringVar(&opts.Addr, "listen", opts.Addr, "host and port to listen on; port 0 is any free one")
	flags.StringVar(&opts.MetricsAddr, "metrics", opts.MetricsAddr, "host and port of /metrics and /targets")
	flags.StringVar(&opts.Namespace, "namespace", "default", "the Service's namespace")
	flags.StringVar(&opts.Service, "service", "", "the Service")
	flags.StringVar(&opts.Port, "port", "", "name or number of the Service's port, if it has several")
	kind := flags.String("target-type", string(opts.TargetType), "ip or instance")
	algorithm := flags.String("algorithm", string(opts.Algorithm), "round_robin or least_outstanding_requests")
	flags.StringVar(&opts.Gate, "gate", "", "what follows target-health.elbv2.k8s.aws/ in the readiness gate; by default the Service's name")
	flags.DurationVar(&opts.RegistrationLag, "registration-lag", 0, "from an EndpointSlice to a target that is registered")
	flags.DurationVar(&opts.DeregistrationLag, "deregistration-lag", 0, "from an EndpointSlice to a target that drains")
	flags.DurationVar(&opts.DeregistrationDelay, "deregistration-delay", opts.DeregistrationDelay, "how long a target may drain")
	flags.Float64Var(&opts.Throttle.PerSecond, "calls-per-second", 0, "how many calls that register or deregister are taken; 0 is any number")
	flags.IntVar(&opts.Throttle.Burst, "calls-burst", 1, "how many such calls are taken at once")
	flags.IntVar(&opts.CallTargets, "call-targets", opts.CallTargets, "how many targets a call has at most")
	flags.DurationVar(&opts.Requeue, "requeue", opts.Requeue, "how often the health of targets is asked while a pod waits for its gate")
	flags.StringVar(&opts.Health.Path, "health-path", opts.Health.Path, "what health checks ask")
	flags.IntVar(&opts.Health.Port, "health-port", 0, "which port they ask: 0 is that of the requests, -1 the Service's healthCheckNodePort")
	flags.DurationVar(&opts.Health.Interval, "health-interval", opts.Health.Interval, "how often they ask")
	flags.DurationVar(&opts.Health.Timeout, "health-timeout", opts.Health.Timeout, "how long they wait")
	flags.IntVar(&opts.Health.HealthyThreshold, "healthy-threshold", opts.Health.HealthyThreshold, "successes in a row that bring a target back")
	flags.IntVar(&opts.Health.UnhealthyThreshold, "unhealthy-threshold", opts.Health.UnhealthyThreshold, "failures in a row that take a target out")
	flags.StringVar(&opts.Health.Matcher, "health-codes", opts.Health.Matcher, "codes of success")
	flags.DurationVar(&opts.ConnectTimeout, "connect-timeout", opts.ConnectTimeout, "how long a connection to a target may take")
	flags.DurationVar(&opts.IdleTimeout, "idle-timeout", opts.IdleTimeout, "how long a connection may be silent")
	targets := flags.String("targets-file", "", "file with lines `ADDRESS HOST:PORT`: where what is registered at ADDRESS listens instead; read at each connection")
	if err := flags.Parse(args); err != nil {
		return opts, "", err
	}
	if flags.NArg() > 0 {
		return opts, "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	opts.TargetType, opts.Algorithm = balancer.TargetType(*kind), balancer.Algorithm(*algorithm)
	if *targets != "" {
		opts.Dial = dialListed(*targets)
	}
	return opts, kubeconfig, nil
}

// dialListed connects to where a file says that an address listens. An address that it
// does not have is a target that nobody plays, and refuses.
func dialListed(file string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			words := strings.Fields(lines.Text())
			if len(words) == 2 && (words[0] == addr || words[0] == host) {
				return (&net.Dialer{}).DialContext(ctx, network, words[1])
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return nil, fmt.Errorf("%s has no %s: %w", file, addr, syscall.ECONNREFUSED)
	}
}
