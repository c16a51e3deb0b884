package web

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/queue"
)

const (
	// maxFresh is how many orders wait to be sent in memory. Those beyond it are sent from
	// the store, a little later.
	maxFresh = 1024
	// sweepEvery is how often the store is asked for what nobody has sent, and maxSweep how
	// many batches are then sent at most, so that a long list does not keep fresh orders waiting.
	sweepEvery = 2 * time.Second
	maxSweep   = 20
	// storeLimit bounds a call of the store, including the wait for a connection.
	storeLimit = 3 * time.Second
	// lastLimit is for what is fresh when web ends.
	lastLimit = 5 * time.Second
)

// outbox sends orders to the queue once they are stored. A user never waits for the queue. It
// may send an order twice, when it ends before it could write that the order is sent, and never
// loses one: the event is in the store until it was sent, and any web that runs finds it there.
type outbox struct {
	store   Store
	queue   Queue
	metrics *metrics
	fresh   chan string
	away    bool // what was sent last could not be
}

func newOutbox(s Store, q Queue, m *metrics) *outbox {
	return &outbox{store: s, queue: q, metrics: m, fresh: make(chan string, maxFresh)}
}

// add has an order sent that was stored just now.
func (o *outbox) add(id string) {
	select {
	case o.fresh <- id:
	default:
	}
}

// run sends until ctx is done, and then what is fresh.
func (o *outbox) run(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	o.sweep(ctx)
	for {
		select {
		case <-ctx.Done():
			o.flush(context.WithoutCancel(ctx))
			return
		case id := <-o.fresh:
			// While the queue is away fresh orders wait in the store, and sweep tries.
			if !o.away {
				o.send(ctx, o.batch(id))
			}
		case <-sweep.C:
			o.sweep(ctx)
		}
	}
}

// flush sends what is left in memory, unless it takes too long.
func (o *outbox) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastLimit)
	defer cancel()
	for !o.away && ctx.Err() == nil {
		select {
		case id := <-o.fresh:
			o.send(ctx, o.batch(id))
		default:
			return
		}
	}
}

// batch adds to an order what is fresh, too.
func (o *outbox) batch(id string) []string {
	ids := []string{id}
	for len(ids) < queue.MaxBatch {
		select {
		case id := <-o.fresh:
			ids = append(ids, id)
		default:
			return ids
		}
	}
	return ids
}

// sweep sends what nobody has sent in time.
func (o *outbox) sweep(ctx context.Context) {
	for range maxSweep {
		ids, err := o.claim(ctx)
		if err != nil {
			slog.Warn("orders wait to be sent", "error", err)
			o.look(ctx)
			return
		}
		if len(ids) == 0 || !o.send(ctx, ids) {
			break
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	n, err := o.store.Unsent(ctx)
	if err != nil {
		slog.Warn("orders that wait to be sent are not counted", "error", err)
		return
	}
	o.metrics.unsent.Set(float64(n))
}

func (o *outbox) claim(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	return o.store.Claim(ctx, queue.MaxBatch)
}

// look has the store find out whether its tables are gone, which it then makes.
func (o *outbox) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	if err := o.store.Ready(ctx); err != nil {
		slog.Warn("the database is not ready", "error", err)
	}
}

// send says whether the queue took all.
func (o *outbox) send(ctx context.Context, ids []string) bool {
	sent, err := o.queue.Send(ctx, ids)
	if err != nil && !o.away {
		slog.Warn("orders are stored, and are sent later", "error", err)
	}
	if err == nil && o.away {
		slog.Info("orders are sent again")
	}
	o.away = err != nil
	if len(sent) == 0 {
		return err == nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	if err := o.store.Sent(ctx, sent); err != nil {
		slog.Warn("orders will be sent twice", "error", err)
	}
	return err == nil
}
