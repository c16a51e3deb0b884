// Package simulator has the load rise and fall like a day, in as much time as is wanted. It
// drives the loaders only; what bears the load is scaled by HPAs.
//
// Where in the wave it is, is kept in an SQS queue of one message, so that a restart goes on
// there.
package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/metrics"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
)

// Limits of a wave. The least step is what SQS and loaders can follow.
const (
	maxValue  = 1_000_000
	maxSteps  = 10_000
	leastStep = 100 * time.Millisecond
)

// options are the flags.
type options struct {
	queue      string
	period     time.Duration
	steps      int
	wave       wave
	loaders    string
	deployment string
	web        string
	publish    time.Duration
	admin      string
	kubeAPI    string
	kubeToken  string
	kubeCA     string
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("simulator", flag.ContinueOnError)
	fs.StringVar(&o.queue, "queue", "orders-sine", "the queue that holds where in the wave it is, and nothing else")
	fs.DurationVar(&o.period, "period", 24*time.Minute, "how long the wave takes from its least to its least")
	fs.IntVar(&o.steps, "steps", 60, "how often in a period the load changes")
	fs.Float64Var(&o.wave.least, "min", 5, "the least: requests a second of all --loaders together, or replicas of --deployment")
	fs.Float64Var(&o.wave.most, "max", 50, "the most")
	fs.StringVar(&o.loaders, "loaders", "", "the admin ports of loaders, with commas between them, such as http://loader:9797")
	fs.StringVar(&o.deployment, "deployment", "", "the loaders' Deployment, as NAMESPACE/NAME, to scale in place of setting rates")
	fs.StringVar(&o.web, "web", "", "the Deployment whose ready pods are published as app_workers, as NAMESPACE/NAME")
	fs.DurationVar(&o.publish, "publish", 10*time.Second, "how often app_workers and load_workers are put into CloudWatch; 0 is never")
	fs.StringVar(&o.admin, "admin-listen", ":9797", "where /metrics, /livez and /wave are")
	fs.StringVar(&o.kubeAPI, "kube-api", "", "the API server's URL, if it is not the cluster's own")
	fs.StringVar(&o.kubeToken, "kube-token-file", accountToken, "the token for the API server")
	fs.StringVar(&o.kubeCA, "kube-ca-file", accountCA, "the authority of the API server's certificate")
	if err := flags.Parse(fs, args); err != nil {
		return o, err
	}
	return o, o.check()
}

func (o options) check() error {
	switch w := o.wave; {
	case o.queue == "":
		return flags.Wrong("queue", "a name is missing")
	case o.steps < 2 || o.steps > maxSteps:
		return flags.Wrong("steps", "%d is not from 2 to %d", o.steps, maxSteps)
	case o.interval() < leastStep:
		return flags.Wrong("period", "%v has steps of %v, which is less than %v", o.period, o.interval(), leastStep)
	case !(w.least >= 0 && w.least <= maxValue):
		return flags.Wrong("min", "%v is not from 0 to %d", w.least, maxValue)
	case !(w.most >= w.least && w.most <= maxValue):
		return flags.Wrong("max", "%v is not from --min to %d", w.most, maxValue)
	case (o.loaders == "") == (o.deployment == ""):
		return flags.Wrong("loaders", "want either --loaders or --deployment")
	case o.publish != 0 && o.publish < time.Second:
		return flags.Wrong("publish", "%v is less than a second, and not 0", o.publish)
	}
	return nil
}

// interval is the time of a step.
func (o options) interval() time.Duration { return o.period / time.Duration(o.steps) }

// driver puts load on.
type driver interface {
	// drive sets the load. What does not follow is said in the log.
	drive(ctx context.Context, value float64)
	// workers is how many loaders there are.
	workers(ctx context.Context) (int, error)
}

// simulator is the mode.
type simulator struct {
	options

	driver   driver
	kube     *kube // If it is needed.
	webName  deployment
	loop     *loop
	publish  *metrics.Publisher
	registry *prometheus.Registry
	gauges   *gauges
}

// Run is the mode: it drives the loaders until ctx is done.
func Run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	s, err := newSimulator(ctx, o)
	if err != nil {
		return err
	}
	server, err := serve.Start(ctx, admin.Port(o.admin, s.handler()))
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop(context.WithoutCancel(ctx)) }() // What is under way has had its time.
	slog.Info("simulating", "period", o.period.String(), "steps", o.steps, "min", o.wave.least, "max", o.wave.most, "queue", o.queue)
	var running sync.WaitGroup
	running.Go(func() { s.observe(ctx) })
	running.Go(func() { s.publish.Run(ctx, o.publish, nil) })
	s.loop.run(ctx)
	running.Wait()
	return nil
}

func newSimulator(ctx context.Context, o options) (*simulator, error) {
	s := &simulator{options: o, registry: prometheus.NewRegistry()}
	s.gauges = newGauges(s.registry)
	if err := s.findDriver(); err != nil {
		return nil, err
	}
	config, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("configuration of AWS: %w", err)
	}
	if o.publish > 0 {
		if s.publish, err = metrics.NewPublisher(ctx, metrics.Namespace); err != nil {
			return nil, err
		}
	}
	s.loop = &loop{
		queue:    &queue{client: sqs.NewFromConfig(config), name: o.queue},
		wave:     o.wave,
		steps:    o.steps,
		interval: o.interval(),
		drive:    s.drive,
	}
	return s, nil
}

// findDriver makes what the flags name.
func (s *simulator) findDriver() error {
	var err error
	if s.web != "" {
		if s.webName, err = parseDeployment(s.web); err != nil {
			return flags.Wrong("web", "%w", err)
		}
	}
	if s.web != "" || s.deployment != "" {
		if s.kube, err = newKube(s.kubeAPI, s.kubeToken, s.kubeCA); err != nil {
			return err
		}
	}
	if s.deployment != "" {
		d, err := parseDeployment(s.deployment)
		if err != nil {
			return flags.Wrong("deployment", "%w", err)
		}
		s.driver = &scaled{kube: s.kube, deployment: d}
		return nil
	}
	urls, err := parseLoaders(s.loaders)
	if err != nil {
		return flags.Wrong("loaders", "%w", err)
	}
	s.driver = newLoaders(urls, s.registry)
	return nil
}

func (s *simulator) drive(ctx context.Context, value float64) {
	s.driver.drive(ctx, value)
	s.gauges.value.Set(value)
	s.gauges.taken.Inc()
}

// observed is how often workers are counted when nothing is published.
const observed = 10 * time.Second

// observe counts the workers of both sides until ctx is done.
func (s *simulator) observe(ctx context.Context) {
	interval := observed
	if s.options.publish > 0 {
		interval = s.options.publish
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if s.web != "" {
			s.see(ctx, "app_workers", s.gauges.app, func(ctx context.Context) (int, error) { return s.kube.ready(ctx, s.webName) })
		}
		s.see(ctx, "load_workers", s.gauges.load, s.driver.workers)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// see notes a number of workers. One that could not be had is not noted: it is not 0.
func (s *simulator) see(ctx context.Context, name string, gauge prometheus.Gauge, count func(context.Context) (int, error)) {
	n, err := count(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		gauge.Set(math.NaN())
		slog.Warn("workers are not known", "metric", name, "error", err)
	default:
		gauge.Set(float64(n))
		s.publish.Gauge(name, float64(n))
	}
}

// gauges are what Prometheus sees.
type gauges struct {
	value, app, load prometheus.Gauge
	taken            prometheus.Counter
}

func newGauges(r *prometheus.Registry) *gauges {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	g := &gauges{
		value: gauge("simulator_load", "The load that was set last here: requests a second, or replicas of the loaders."),
		app:   gauge("app_workers", "Ready pods of the Deployment that bears the load; NaN if that is not known."),
		load:  gauge("load_workers", "Loaders that answer, or ready pods of their Deployment; NaN if that is not known."),
		taken: prometheus.NewCounter(prometheus.CounterOpts{Name: "simulator_steps_total", Help: "Steps of the wave that were taken here."}),
	}
	g.value.Set(math.NaN())
	g.app.Set(math.NaN())
	g.load.Set(math.NaN())
	r.MustRegister(g.value, g.app, g.load, g.taken)
	return g
}

// Wave is the body of GET /wave.
type Wave struct {
	// Step and Phase are of the last step that was taken here, and Due is when it was due.
	Step  int64     `json:"step"`
	Phase float64   `json:"phase"`
	Due   time.Time `json:"due"`
	// Load is what was set: requests a second, or replicas of the loaders.
	Load float64 `json:"load"`
}

// handler has, beside /metrics and /livez, GET /wave.
func (s *simulator) handler() http.Handler {
	mux := admin.NewMux(s.registry)
	mux.HandleFunc("GET /wave", func(w http.ResponseWriter, _ *http.Request) {
		body, err := s.now()
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n')) // Who asked may have gone.
	})
	return mux
}

func (s *simulator) now() ([]byte, error) {
	done := s.loop.done.Load()
	if done == nil {
		return nil, errors.New("no step was taken here yet")
	}
	return json.Marshal(Wave{Step: done.Step, Phase: done.Phase, Due: done.Due, Load: s.wave.at(done.Phase)})
}
