// Package demo shows the main job of tidegauge: a real HPA takes the workers of a
// queue from 0 to 10 and back to 0, by the depth of the queue as CloudWatch knows
// it. The control plane, the adapter and the AWS clients are real; AWS and the
// workers' nodes are stand-ins.
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

	"github.com/tidegauge/tidegauge/test/env"
)

// What the manifests say; a test compares.
const (
	manifestDir = "deploy/demo/queue"
	namespace   = "demo"
	queueName   = "jobs"
	maxWorkers  = 10
	perWorker   = 30 // messages
)

// Defaults of Options.
const (
	DefaultMessages = 1000
	DefaultRate     = 5
	DefaultTimeout  = 3 * time.Minute
)

const (
	// maxRate is more than one wants to see, and less than the stand-in can take.
	maxRate = 100
	// otherwise is about how long the story takes without the work.
	otherwise = 40 * time.Second
	// stepLimit is how long the HPA may take for what takes it seconds.
	stepLimit = time.Minute
	// maxQuote is how many characters of the HPA's last event an error has: of a failure
	// it says what the condition says.
	maxQuote = 160
	// The folder of a run holds the demo's own log and the folder of the test bed, which
	// has a folder of logs.
	logFileName = "demo.log"
	bedDir      = "cluster"
	bedLogs     = "logs"
)

// Options say how the demo is to be. The zero value works.
type Options struct {
	// Messages is how many messages are sent, DefaultMessages if 0. It takes more than
	// 270 for the HPA to want all workers.
	Messages int
	// Rate is how many messages a ready worker handles in a second, at most 100;
	// DefaultRate if 0.
	Rate float64
	// Timeout bounds everything but the end of the processes; DefaultTimeout if 0.
	Timeout time.Duration
	// Out is where the demo shows what happens; by default nowhere.
	Out io.Writer
	// TerminalSize asks for the size of the terminal that Out is, in characters. If it
	// is nil, Out gets plain lines.
	TerminalSize func() (width, height int, err error)
	// Color is whether a terminal gets colors.
	Color bool

	// stepLimit is stepLimit if 0.
	stepLimit time.Duration
	// entered is told each phase as it begins; it may be nil.
	entered func(context.Context, *demo, phase)
}

func (o Options) withDefaults() Options {
	o.Messages = cmp.Or(o.Messages, DefaultMessages)
	o.Rate = cmp.Or(o.Rate, DefaultRate)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
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
	return nil
}

// demo is one run.
type demo struct {
	opts   Options
	dir    string
	board  *board
	course course
	// fail ends the story with a reason; only the first one counts.
	fail context.CancelCauseFunc

	amazon  *amazon
	cluster *env.Cluster
	adapter *env.Adapter
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
	dir, err := os.MkdirTemp("", "tidegauge-demo-")
	if err != nil {
		return err
	}
	log, err := openLog(filepath.Join(dir, logFileName))
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()

	d := &demo{opts: o, dir: dir, board: newBoard()}
	err = d.play(klog.NewContext(ctx, log.logger))
	stopErr := d.stop()
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
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.Timeout, fmt.Errorf("not over after %v", d.opts.Timeout))
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
	for _, part := range []func(context.Context){d.watch, d.guard, d.measureQueue, d.measureMetric, d.keepHistory, d.work} {
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
	var err error
	if d.cluster != nil {
		err = d.cluster.Stop()
	}
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
	_ = os.RemoveAll(bed)
	return d.dir
}

// explain adds to the reason of a failure what was seen last.
func (s *snapshot) explain(err error) error {
	if s.phase == starting {
		return fmt.Errorf("failed at %q: %w", s.phase.title(), err)
	}
	return fmt.Errorf("failed at %q: %w; seen last: queue %s, CloudWatch %s, workers desired %d and ready %d; HPA: %s; its last event: %s",
		s.phase.title(), err, s.queue, s.metric, s.workers.desired, s.workers.ready,
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
