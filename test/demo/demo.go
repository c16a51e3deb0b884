// Package demo shows the main job of tidegauge with the shop of deploy/demo/orders: a real
// HPA takes the workers of a queue from 0 to 10 and back to 0, by the depth of the queue as
// CloudWatch knows it, and another one the web tier from 1 pod to 3 and back, by the requests
// that Prometheus counts. The control plane, Prometheus, the adapter, the shop and the AWS
// clients are real; AWS, its load balancer and the nodes are stand-ins.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/test/balancer"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/runner"
)

// What the manifests say; a test compares.
const (
	manifestDir   = "deploy/demo/overlays/after"
	namespace     = "orders"
	queueName     = "orders"
	deadQueueName = "orders-dead"
	sineQueueName = "orders-sine"
	metricName    = "orders-queue-depth"
	secretName    = "orders-database"
	secretKey     = "url"
	maxWorkers    = 10
	perWorker     = 30 // messages
)

// Defaults of Options.
const (
	DefaultMessages = 1000
	DefaultRate     = 5
	DefaultTimeout  = 10 * time.Minute
	DefaultOutage   = time.Minute
	DefaultPeriod   = 4 * time.Minute
)

const (
	// maxRate is more than one wants to see, and less than the stand-in can take.
	maxRate = 100
	// otherwise is about how long the story takes without the work.
	otherwise = 3 * time.Minute
	// stepLimit is how long the HPA may take for what takes it seconds.
	stepLimit = 2 * time.Minute
	// maxQuote is how many characters of the HPA's last event an error has: of a failure
	// it says what the condition says.
	maxQuote = 160
	// The folder of a run holds the demo's own log and the folder of the test bed, which
	// has a folder of logs.
	logFileName = "demo.log"
	bedDir      = "cluster"
	bedLogs     = "logs"
	podDir      = "pods"
	// metricMaxAge is how long the depth of the queue serves while nobody can be asked.
	metricMaxAge = 10 * time.Second
)

// Options say how the demo is to be. The zero value works.
type Options struct {
	// Messages is how many orders are placed in the burst, each a message, DefaultMessages if
	// 0. It takes more than 270 for the HPA to want all workers.
	Messages int
	// Rate is how many messages a ready worker handles in a second, at most 100;
	// DefaultRate if 0.
	Rate float64
	// Timeout bounds the story without the outages and For, and not the end of the processes;
	// DefaultTimeout if 0.
	Timeout time.Duration
	// Page serves the live page on 127.0.0.1 while the demo runs.
	Page bool
	// Stop names the parts that are stopped one after the other, see Parts, each for Outage;
	// DefaultOutage if that is 0.
	Stop   []string
	Outage time.Duration
	// For is how long the demo goes on after the story, with a load that rises and falls in
	// Period, DefaultPeriod if that is 0.
	For, Period time.Duration
	// Out is where the demo shows what happens; by default nowhere.
	Out io.Writer
	// TerminalSize asks for the size of the terminal that Out is, in characters. If it
	// is nil, Out gets plain lines.
	TerminalSize func() (width, height int, err error)
	// Color is whether a terminal gets colors.
	Color bool

	// stepLimit is stepLimit if 0.
	stepLimit time.Duration
	// noLoad leaves out the load on web before the burst.
	noLoad bool
	// entered is told each phase as it begins; it may be nil.
	entered func(context.Context, *demo, phase)
}

func (o Options) withDefaults() Options {
	o.Messages = cmp.Or(o.Messages, DefaultMessages)
	o.Rate = cmp.Or(o.Rate, DefaultRate)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.Outage = cmp.Or(o.Outage, DefaultOutage)
	o.Period = cmp.Or(o.Period, DefaultPeriod)
	o.stepLimit = cmp.Or(o.stepLimit, stepLimit)
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.entered == nil {
		o.entered = func(context.Context, *demo, phase) {}
	}
	return o
}

// validate refuses what can only end in a timeout.
func (o Options) validate() error {
	if least := perWorker * (maxWorkers - 1); o.Messages <= least {
		return fmt.Errorf("%d messages are too few: the HPA wants %d workers for more than %d", o.Messages, maxWorkers, least)
	}
	if ok := o.Rate > 0 && o.Rate <= maxRate; !ok {
		return fmt.Errorf("a rate of %v messages a second is not above 0 and at most %d", o.Rate, maxRate)
	}
	if seconds := float64(o.Messages) / (o.Rate * maxWorkers); seconds+otherwise.Seconds() > o.Timeout.Seconds() {
		return fmt.Errorf("%d messages take %d workers %.0f s at %v a second each: with %v for all else, that is longer than the time limit of %v",
			o.Messages, maxWorkers, seconds, o.Rate, otherwise, o.Timeout)
	}
	if o.For < 0 || o.Period < leastPeriod {
		return fmt.Errorf("going on for %v with a period of %v cannot be: the first is 0 or more, the second %v or more", o.For, o.Period, leastPeriod)
	}
	return o.validateStop()
}

// leastPeriod gives each of the simulator's steps a second.
const leastPeriod = waveSteps * time.Second

// limit is how long the demo may take.
func (o Options) limit() time.Duration {
	each := o.Outage + o.webStabilization() + 2*o.stepLimit
	return o.Timeout + time.Duration(len(o.Stop))*each + o.For
}

// demo is one run.
type demo struct {
	opts   Options
	dir    string
	board  *board
	course course
	// fail ends the story with a reason; only the first one counts.
	fail context.CancelCauseFunc

	load    load
	outages outages
	worked  worked
	// webUp is the time that web took to be as large as the load.
	webUp time.Duration

	amazon     *amazon
	database   *database
	cluster    *env.Cluster
	runner     *runner.Runner
	scraped    *scraped
	prometheus *env.Prometheus
	adapter    *env.Adapter
	balancer   *balancer.Balancer
	collector  *collector
}

// Run plays the story and stops everything that it started, also when it fails or
// ctx ends. It returns nil if the HPA did what it should: took the workers to 0, all
// the way up without a step down, and all the way down without a step up. Otherwise
// the error says in one line what was seen and where the logs are; the logs are kept
// only then. If ctx ended, the error wraps its cause, and nothing is kept.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", ownPrefix)
	if err != nil {
		return err
	}
	lock, err := occupy(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer lock.Close()
	log, err := openLog(filepath.Join(dir, logFileName))
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	if err := tidy(os.TempDir()); err != nil {
		log.logger.Error(err, "Something stays that nobody needs")
	}

	d := &demo{opts: o, dir: dir, board: newBoard()}
	err = d.play(klog.NewContext(ctx, log.logger))
	stopErr := d.stop() //nolint:contextcheck // What was started ends, whatever the context says.
	switch {
	case ctx.Err() != nil:
		return oneLine(errors.Join(context.Cause(ctx), stopErr, os.RemoveAll(dir)))
	case err != nil || stopErr != nil:
		return fmt.Errorf("%w; logs: %s", oneLine(errors.Join(err, stopErr)), d.keepLogs())
	}
	return os.RemoveAll(dir)
}

// play shows the story while it happens.
func (d *demo) play(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.limit(), fmt.Errorf("not over after %v", d.opts.limit()))
	defer cancel()
	ctx, d.fail = context.WithCancelCause(ctx)
	defer d.fail(nil)

	var showing sync.WaitGroup
	over := make(chan struct{})
	showing.Go(func() { d.show(ctx, over) })

	err := d.start(ctx)
	if err == nil {
		err = d.perform(ctx)
	}
	close(over)
	showing.Wait()
	if ctx.Err() != nil { // Then whatever err says is a consequence.
		err = context.Cause(ctx)
	}
	if err != nil {
		s := d.board.look()
		err = s.explain(err)
	}
	return err
}

// perform plays the story, and beside it everybody who has a part in it.
func (d *demo) perform(ctx context.Context) error {
	ctx, over := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer over()
	for _, part := range []func(context.Context){d.guard, d.measureQueue, d.measureMetric, d.keepHistory, d.live} {
		others.Go(func() { part(ctx) })
	}
	return d.story(ctx)
}

// show shows the board until the story is over, and then in a way that stays.
func (d *demo) show(ctx context.Context, over <-chan struct{}) {
	view := newDisplay(d.opts)
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := view.show(d.board.look()); err != nil {
				d.fail(fmt.Errorf("showing: %w", err))
			}
		case <-ctx.Done(): // What comes now takes time, and the terminal is needed for it.
			d.showLast(view)
			return
		case <-over:
			d.showLast(view)
			return
		}
	}
}

func (d *demo) showLast(view display) {
	if err := view.close(d.board.look()); err != nil {
		d.fail(fmt.Errorf("showing: %w", err))
	}
}

// stop ends everything that was started, whatever the context says by now.
func (d *demo) stop() error {
	if d.balancer != nil {
		d.balancer.Close()
	}
	if d.runner != nil {
		d.runner.Close()
	}
	var err error
	if d.cluster != nil {
		err = d.cluster.Stop()
	}
	d.scraped.stop()
	err = errors.Join(err, d.database.stop())
	if d.amazon != nil {
		d.amazon.server.Close()
	}
	return err
}

// keepLogs removes everything but the logs, as keys are among it, and returns where
// they are.
func (d *demo) keepLogs() string {
	bed := filepath.Join(d.dir, bedDir)
	// The failure to tell of is another, and without a test bed there is nothing to do.
	_ = os.Rename(filepath.Join(bed, bedLogs), filepath.Join(d.dir, bedLogs))
	_ = os.Rename(filepath.Join(bed, podDir, bedLogs), filepath.Join(d.dir, bedLogs, podDir))
	_ = os.RemoveAll(bed)
	for _, name := range []string{lockName, databaseName} { // What is left is for a reader, and stays.
		_ = os.Remove(filepath.Join(d.dir, name))
	}
	return d.dir
}

// explain adds to the reason of a failure what was seen last.
func (s *snapshot) explain(err error) error {
	if s.phase == starting {
		return fmt.Errorf("failed at %q: %w", s.phase.title(), err)
	}
	return fmt.Errorf("failed at %q: %w; seen last: queue %s, CloudWatch %s, workers desired %d and ready %d, web desired %d and ready %d; HPA: %s; its last event: %s",
		s.phase.title(), err, s.queue, s.metric, s.workers.desired, s.workers.ready, s.web.desired, s.web.ready,
		cmp.Or(s.hpa.condition, "no condition"), row{{cmp.Or(s.hpa.event, "none"), plain}}.text(maxQuote))
}

// oneLine is err with a text of one line: of each error that it joins the first, as
// those of the test bed go on with the end of a log.
func oneLine(err error) error { return lineError{err} }

type lineError struct{ error }

func (e lineError) Error() string {
	joined, ok := e.error.(interface{ Unwrap() []error })
	if !ok {
		text, _, _ := strings.Cut(e.error.Error(), "\n")
		return text
	}
	var texts []string
	for _, err := range joined.Unwrap() {
		texts = append(texts, lineError{err}.Error())
	}
	return strings.Join(texts, "; ")
}

func (e lineError) Unwrap() error { return e.error }
