// Package worker processes orders from the queue.
//
// SQS delivers every message at least once, so an order may come twice, to two workers at the
// same time even. It is processed once all the same: whoever writes first that it is, in the
// store, has processed it. A message is deleted when that is written and not before, so a
// worker may end at any moment and no order is lost. An order that a user changes while it is
// at work comes again: the user was told that the change was in time. An order that cannot be
// stored goes back to the queue, and comes again ever later: it keeps no other from being processed.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/queue"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

const (
	// A message that could not be processed for now is delivered again after firstBack, and each
	// further time after twice as long, up to lastBack: a redrive policy that takes a message for
	// poison when it was received 100 times does so after 23 hours.
	firstBack = 5 * time.Second
	lastBack  = 15 * time.Minute
	// pause is how long to wait before a store or a queue that is away is asked again.
	pause = time.Second
	// storeLimit bounds a call of the store.
	storeLimit = 5 * time.Second
)

// Options are the flags of worker.
type Options struct {
	AdminListen string
	// Concurrency is how many orders are at work at once, and Work how long one takes.
	Concurrency int
	Work        time.Duration
	// Visibility is for how long a message is hidden from other workers if this one does not
	// say that it is still at work, which it does three times as often.
	Visibility time.Duration
	// Drain is how long after SIGTERM the orders at work may take.
	Drain time.Duration
}

// Store is where the orders are.
type Store interface {
	Ready(ctx context.Context) error
	Get(ctx context.Context, id string) (store.Order, error)
	MarkProcessed(ctx context.Context, o store.Order) error
}

// Queue is where the messages come from.
type Queue interface {
	Receive(ctx context.Context, most int, visibility time.Duration) ([]queue.Message, error)
	Hide(ctx context.Context, m queue.Message, visibility time.Duration) error
	Delete(ctx context.Context, m queue.Message) error
}

// DeadLetters is where messages go that nobody can process.
type DeadLetters interface {
	Bury(ctx context.Context, m queue.Message, reason string) error
}

type worker struct {
	opts    Options
	store   Store
	queue   Queue
	dead    DeadLetters
	metrics *metrics
	// storeAway is set until the store has answered, and after it has failed. doubt is set from
	// then until something was stored: a store that is full answers.
	storeAway, doubt atomic.Bool
}

type metrics struct {
	registry                      *prometheus.Registry
	processed, duplicates, poison prometheus.Counter
	inWork                        prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		registry:   admin.NewRegistry(),
		processed:  counter("orders_processed_total", "Orders that this worker processed."),
		duplicates: counter("orders_duplicates_total", "Messages whose orders were processed already."),
		poison:     counter("orders_poison_total", "Messages that nobody can process, sent to the dead-letter queue."),
		inWork:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "orders_in_work", Help: "Orders that this worker is at."}),
	}
	m.registry.MustRegister(m.processed, m.duplicates, m.poison, m.inWork)
	return m
}

func newWorker(o Options, s Store, q Queue, dead DeadLetters) *worker {
	w := &worker{opts: o, store: s, queue: q, dead: dead, metrics: newMetrics()}
	w.storeAway.Store(true)
	return w
}

// Run works until ctx is done and what it then holds is finished.
func Run(ctx context.Context, o Options, s Store, q Queue, dead DeadLetters) error {
	w := newWorker(o, s, q, dead)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	group.Go(func() error { return serve.Run(life, admin.Port(o.AdminListen, admin.NewMux(w.metrics.registry))) })
	group.Go(func() error {
		defer end()
		// Without its admin port nobody knows what a worker does: it ends as by SIGTERM.
		working, stop := context.WithCancel(ctx)
		defer stop()
		context.AfterFunc(life, stop)
		return w.work(working)
	})
	return group.Wait()
}

// work receives messages until ctx is done. Those at work then have the time to drain.
func (w *worker) work(ctx context.Context) error {
	held, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	context.AfterFunc(ctx, func() { time.AfterFunc(w.opts.Drain, giveUp) })
	slots := make(chan struct{}, w.opts.Concurrency)
	var atWork sync.WaitGroup
	for ctx.Err() == nil {
		w.awaitStore(ctx)
		// Only what can begin at once is received: others may have the rest.
		n := w.take(ctx, slots)
		messages := w.receive(ctx, n)
		for range n - len(messages) {
			<-slots
		}
		for _, m := range messages {
			atWork.Go(func() {
				defer func() { <-slots }()
				if ctx.Err() != nil {
					w.giveBack(held, m, 0)
					return
				}
				w.handle(held, m)
			})
		}
	}
	slog.Info("finishing", "orders", len(slots), "for", w.opts.Drain.String())
	atWork.Wait()
	if held.Err() != nil {
		return fmt.Errorf("orders were given back, as they took longer than --drain %s", w.opts.Drain)
	}
	return nil
}

// awaitStore waits for a store that was away. SQS counts how often a message is received, and
// may take one for poison that comes too often: nothing is received that cannot be processed.
func (w *worker) awaitStore(ctx context.Context) {
	for w.storeAway.Load() && ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, storeLimit)
		err := w.store.Ready(asking)
		cancel()
		if err == nil {
			w.storeAway.Store(false)
			return
		}
		slog.Warn("waiting for the store", "error", err)
		wait(ctx, pause)
	}
}

// take waits for a slot, and returns how many it took: no more than one receive can fill, and
// one now and then while it is in doubt whether orders can be stored.
func (w *worker) take(ctx context.Context, slots chan struct{}) int {
	select {
	case <-ctx.Done():
		return 0
	case slots <- struct{}{}:
	}
	if w.doubt.Load() {
		wait(ctx, pause)
		return 1
	}
	for n := 1; n < queue.MaxBatch; n++ {
		select {
		case slots <- struct{}{}:
		default:
			return n
		}
	}
	return queue.MaxBatch
}

func (w *worker) receive(ctx context.Context, most int) []queue.Message {
	if most == 0 || ctx.Err() != nil {
		return nil
	}
	messages, err := w.queue.Receive(ctx, most, w.opts.Visibility)
	if err != nil && ctx.Err() == nil {
		slog.Warn("no messages can be received", "error", err)
		wait(ctx, pause)
	}
	return messages
}

// wait returns false if ctx was done first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Ends of the work at a message that are not errors of the store.
var (
	errPoison = errors.New("poison")
	errGaveUp = errors.New("gave up")
)

// handle processes a message. It ends when the message is deleted or given back.
func (w *worker) handle(ctx context.Context, m queue.Message) {
	w.metrics.inWork.Inc()
	defer w.metrics.inWork.Dec()
	keep := w.keep(ctx, m)
	err := w.process(ctx, m)
	keep()
	// What is done has to be written down, however late it is.
	ctx = context.WithoutCancel(ctx)
	switch {
	case err == nil:
		w.doubt.Store(false)
		w.metrics.processed.Inc()
		w.forget(ctx, m)
	case errors.Is(err, store.ErrProcessed):
		w.metrics.duplicates.Inc()
		w.forget(ctx, m)
	case errors.Is(err, errPoison), errors.Is(err, store.ErrNotFound):
		w.bury(ctx, m, err)
	case errors.Is(err, store.ErrChanged):
		slog.Info("an order was changed while it was at work, and is processed again", "message", m.ID)
		w.giveBack(ctx, m, 0)
	case errors.Is(err, errGaveUp):
		w.giveBack(ctx, m, 0)
	default:
		w.storeAway.Store(true)
		w.doubt.Store(true)
		after := comeBack(m)
		slog.Warn("an order comes back later", "message", m.ID, "after", after.String(), "error", err)
		w.giveBack(ctx, m, after)
	}
}

// process returns nil if the order was processed, and by this worker.
func (w *worker) process(ctx context.Context, m queue.Message) error {
	id, err := queue.Order(m.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errPoison, err)
	}
	if !store.ValidID(id) {
		return fmt.Errorf("%w: %.40q is not the ID of an order", errPoison, id)
	}
	order, err := w.get(ctx, id)
	if err != nil {
		return err
	}
	if order.Processed != nil {
		return store.ErrProcessed
	}
	if !wait(ctx, w.opts.Work) { // This is where your work is.
		return errGaveUp
	}
	return w.mark(ctx, order)
}

func (w *worker) get(ctx context.Context, id string) (store.Order, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	return w.store.Get(ctx, id)
}

// mark writes that the order is processed, unless it was changed since it was read.
func (w *worker) mark(ctx context.Context, o store.Order) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	return w.store.MarkProcessed(ctx, o)
}

// keep keeps a message hidden until the function that it returns is called. Where it fails,
// another worker may get the message, too, which does no harm.
func (w *worker) keep(ctx context.Context, m queue.Message) func() {
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() {
		for wait(ctx, w.opts.Visibility/3) {
			if err := w.queue.Hide(ctx, m, w.opts.Visibility); err != nil && ctx.Err() == nil {
				slog.Warn("a message may be delivered twice", "message", m.ID, "error", err)
			}
		}
	})
	return func() {
		cancel()
		keeping.Wait()
	}
}

// forget deletes a message. If it fails the message comes again, as a duplicate.
func (w *worker) forget(ctx context.Context, m queue.Message) {
	if err := w.queue.Delete(ctx, m); err != nil {
		slog.Warn("a message will be delivered again", "message", m.ID, "error", err)
	}
}

// bury sends a message to the dead letters. It is deleted only once it is there.
func (w *worker) bury(ctx context.Context, m queue.Message, reason error) {
	slog.Warn("poison", "message", m.ID, "reason", reason)
	if err := w.dead.Bury(ctx, m, reason.Error()); err != nil {
		slog.Warn("a message comes back", "message", m.ID, "error", err)
		w.giveBack(ctx, m, comeBack(m))
		return
	}
	w.metrics.poison.Inc()
	w.forget(ctx, m)
}

// comeBack is when a message is delivered again that could not be processed for now. How often that
// was so is the queue's to know, as it may have been so with other workers.
func comeBack(m queue.Message) time.Duration {
	after := firstBack
	for n := 1; n < m.Received && after < lastBack; n++ {
		after *= 2
	}
	return min(after, lastBack)
}

// giveBack has a message delivered again. If it fails, that is when its visibility ends.
func (w *worker) giveBack(ctx context.Context, m queue.Message, after time.Duration) {
	if err := w.queue.Hide(ctx, m, after); err != nil {
		slog.Warn("a message comes back late", "message", m.ID, "error", err)
	}
}
