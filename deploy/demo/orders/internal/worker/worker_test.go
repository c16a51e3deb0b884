package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/queue"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

// fakes are the store, the queue and the dead letters of a worker, which lie on one table.
type fakes struct {
	mu       sync.Mutex
	err      error  // of the store
	full     error  // of the store, when it is to be changed
	broken   string // the order that cannot be changed
	deadErr  error
	orders   map[string]*store.Order
	messages []*message
	dead     map[string]string // reasons by body
}

type message struct {
	queue.Message

	received int
	visible  time.Time
	deleted  bool
}

func newFakes(orders int) *fakes {
	f := &fakes{orders: map[string]*store.Order{}, dead: map[string]string{}}
	for i := range orders {
		id := fmt.Sprintf("%026d", i)
		f.orders[id] = &store.Order{ID: id}
		f.send(`{"order":"` + id + `"}`)
	}
	return f
}

func (f *fakes) send(body string) {
	f.messages = append(f.messages, &message{Message: queue.Message{ID: strconv.Itoa(len(f.messages)), Body: body}})
}

func (f *fakes) Ready(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakes) Get(_ context.Context, id string) (store.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o := f.orders[id]; {
	case f.err != nil:
		return store.Order{}, f.err
	case o == nil:
		return store.Order{}, store.ErrNotFound
	default:
		return *o, nil
	}
}

func (f *fakes) MarkProcessed(_ context.Context, read store.Order) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o := f.orders[read.ID]; {
	case f.err != nil:
		return f.err
	case f.full != nil:
		return f.full
	case read.ID == f.broken:
		return errors.New("the row is damaged")
	case o == nil:
		return store.ErrNotFound
	case o.Processed != nil:
		return store.ErrProcessed
	case o.Quantity != read.Quantity:
		return store.ErrChanged
	default:
		now := time.Now()
		o.Processed = &now
		return nil
	}
}

// Receive is a long poll of 20 s that looks every 100 ms.
func (f *fakes) Receive(ctx context.Context, most int, visibility time.Duration) ([]queue.Message, error) {
	for range 200 {
		if taken := f.take(most, visibility); len(taken) > 0 {
			return taken, nil
		}
		if !wait(ctx, 100*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
	return nil, nil
}

func (f *fakes) take(most int, visibility time.Duration) (taken []queue.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		if len(taken) < most && !m.deleted && !m.visible.After(time.Now()) {
			m.received++
			m.Received = m.received
			m.visible = time.Now().Add(visibility)
			taken = append(taken, m.Message)
		}
	}
	return taken
}

func (f *fakes) find(m queue.Message) *message {
	return f.messages[slices.IndexFunc(f.messages, func(one *message) bool { return one.ID == m.ID })]
}

func (f *fakes) Hide(ctx context.Context, m queue.Message, visibility time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() == nil {
		f.find(m).visible = time.Now().Add(visibility)
	}
	return ctx.Err()
}

func (f *fakes) Delete(ctx context.Context, m queue.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() == nil {
		f.find(m).deleted = true
	}
	return ctx.Err()
}

func (f *fakes) Bury(_ context.Context, m queue.Message, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deadErr == nil {
		f.dead[m.Body] = reason
	}
	return f.deadErr
}

func (f *fakes) change(how func(f *fakes)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how(f)
}

// state is how many orders are processed, messages left, and how often one was received at most.
func (f *fakes) state() (processed, left, received int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.orders {
		if o.Processed != nil {
			processed++
		}
	}
	for _, m := range f.messages {
		if !m.deleted {
			left++
		}
		received = max(received, m.received)
	}
	return processed, left, received
}

// value is that of a metric of a worker.
func (w *worker) value(t *testing.T, name string) float64 {
	t.Helper()
	families, err := w.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if m := family.GetMetric()[0]; family.GetName() == name {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

var usual = Options{Concurrency: 10, Work: 200 * time.Millisecond, Visibility: 30 * time.Second, Drain: 25 * time.Second}

// bubble runs a worker until the test has let some time pass.
func bubble(t *testing.T, o Options, f *fakes, test func(w *worker)) error {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(o, f, f, f)
		ctx, cancel := context.WithCancel(t.Context())
		var working sync.WaitGroup
		working.Go(func() { err = w.work(ctx) })
		test(w)
		cancel()
		working.Wait()
	})
	return err
}

func pass(d time.Duration) { <-time.After(d) }

func TestWork(t *testing.T) {
	f := newFakes(100)
	first := f.messages[0].Body
	f.send(first)
	f.send("poison")
	err := bubble(t, usual, f, func(w *worker) {
		pass(time.Second)
		if processed, _, _ := f.state(); processed > 50 {
			t.Errorf("%d orders were processed in a second, by ten that take 200ms for one", processed)
		}
		pass(5 * time.Second)
		for name, want := range map[string]float64{"orders_processed_total": 100, "orders_duplicates_total": 1, "orders_poison_total": 1, "orders_in_work": 0} {
			if got := w.value(t, name); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
	})
	if processed, left, received := f.state(); err != nil || processed != 100 || left != 0 || received != 1 {
		t.Errorf("%d were processed, %d messages are left, received up to %d times, %v", processed, left, received, err)
	}
	if reason := f.dead["poison"]; !strings.Contains(reason, "the body is not") {
		t.Errorf("the reason of the dead letter is %q", reason)
	}
}

// TestChangeWhileAtWork: a change that was in time is what is processed.
func TestChangeWhileAtWork(t *testing.T) {
	f := newFakes(1)
	id := fmt.Sprintf("%026d", 0)
	err := bubble(t, usual, f, func(w *worker) {
		pass(100 * time.Millisecond)
		f.change(func(f *fakes) { f.orders[id].Quantity = 5 })
		pass(150 * time.Millisecond)
		if processed, left, _ := f.state(); processed != 0 || left != 1 {
			t.Errorf("%d were processed as they were before the change, %d messages are left", processed, left)
		}
		pass(time.Second)
		for name, want := range map[string]float64{"orders_processed_total": 1, "orders_duplicates_total": 0, "orders_poison_total": 0} {
			if got := w.value(t, name); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if w.doubt.Load() || w.storeAway.Load() {
			t.Error("the store is in doubt, which has answered")
		}
	})
	if processed, left, received := f.state(); err != nil || processed != 1 || left != 0 || received != 2 {
		t.Errorf("%d were processed, %d messages are left, received up to %d times, %v", processed, left, received, err)
	}
}

func TestLongWorkStaysHidden(t *testing.T) {
	o := usual
	o.Work = 10 * time.Minute
	f := newFakes(3)
	err := bubble(t, o, f, func(*worker) { pass(11 * time.Minute) })
	if processed, left, received := f.state(); err != nil || processed != 3 || left != 0 || received != 1 {
		t.Errorf("%d were processed, %d messages are left, received up to %d times, %v", processed, left, received, err)
	}
}

func TestStoreAway(t *testing.T) {
	f := newFakes(20)
	f.err = errors.New("away")
	err := bubble(t, usual, f, func(*worker) {
		pass(time.Hour)
		if processed, left, received := f.state(); processed != 0 || left != 20 || received != 0 {
			t.Errorf("while the store is away %d were processed, %d are left, received up to %d times", processed, left, received)
		}
		f.change(func(f *fakes) { f.err = nil })
		pass(10 * time.Second)
	})
	if processed, left, received := f.state(); err != nil || processed != 20 || left != 0 || received != 1 {
		t.Errorf("then %d were processed, %d are left, received up to %d times, %v", processed, left, received, err)
	}
}

// TestStoreFull: a store that answers and cannot store, for a minute.
func TestStoreFull(t *testing.T) {
	f := newFakes(100)
	f.full = errors.New("disk full")
	err := bubble(t, usual, f, func(w *worker) {
		pass(time.Minute)
		if processed, left, received := f.state(); processed != 0 || left != 100 || received > 5 {
			t.Errorf("while the store is full %d were processed, %d are left, received up to %d times", processed, left, received)
		}
		f.change(func(f *fakes) { f.full = nil })
		pass(2 * time.Minute)
		if w.doubt.Load() {
			t.Error("it is in doubt for ever")
		}
	})
	if processed, left, _ := f.state(); err != nil || processed != 100 || left != 0 {
		t.Errorf("then %d were processed, %d are left, %v", processed, left, err)
	}
}

// maxReceives is maxReceiveCount of the queue in deploy/cluster.
const maxReceives = 100

// TestStoreFullForADay: a redrive policy takes no good order for poison. When there is room again
// no order waits for longer than the store was full.
func TestStoreFullForADay(t *testing.T) {
	for _, full := range []time.Duration{30 * time.Second, 10 * time.Minute, 23 * time.Hour} {
		t.Run(full.String(), func(t *testing.T) {
			f := newFakes(20)
			f.full = errors.New("disk full")
			err := bubble(t, usual, f, func(*worker) {
				pass(full)
				f.change(func(f *fakes) { f.full = nil })
				pass(min(full, lastBack) + 30*time.Second)
			})
			if processed, left, received := f.state(); err != nil || processed != 20 || left != 0 || received > maxReceives {
				t.Errorf("%d were processed, %d messages are left, received up to %d times, %v", processed, left, received, err)
			}
		})
	}
}

// TestOrderThatCannotBeStored keeps no other one waiting, and comes to the redrive policy.
func TestOrderThatCannotBeStored(t *testing.T) {
	o := usual
	o.Concurrency = 1
	f := newFakes(20)
	f.broken = fmt.Sprintf("%026d", 0)
	err := bubble(t, o, f, func(*worker) {
		pass(30 * time.Second)
		if processed, left, received := f.state(); processed != 19 || left != 1 || received > 4 {
			t.Errorf("%d were processed, %d messages are left, received up to %d times, want all but one", processed, left, received)
		}
		pass(24 * time.Hour)
	})
	if _, left, received := f.state(); err != nil || left != 1 || received <= maxReceives {
		t.Errorf("%d messages are left, received up to %d times, %v, want more than %d", left, received, err, maxReceives)
	}
}

// TestStopWhileTheStoreIsFull takes no longer than the work, and leaves all to others.
func TestStopWhileTheStoreIsFull(t *testing.T) {
	o := usual
	o.Drain = time.Second
	f := newFakes(20)
	f.full = errors.New("disk full")
	var stopped time.Time
	err := bubble(t, o, f, func(*worker) {
		pass(100 * time.Millisecond) // Ten are at work.
		stopped = time.Now()
	})
	if processed, left, received := f.state(); err != nil || processed != 0 || left != 20 || received != 1 {
		t.Errorf("%d were processed, %d messages are left, received up to %d times, %v", processed, left, received, err)
	}
	for _, m := range f.messages {
		if latest := stopped.Add(o.Drain + firstBack); m.visible.After(latest) {
			t.Errorf("message %s is visible at %v, want %v at the latest", m.ID, m.visible, latest)
		}
	}
}

func TestComeBack(t *testing.T) {
	for received, want := range map[int]time.Duration{
		0: firstBack, 1: firstBack, 2: 10 * time.Second, 5: 80 * time.Second, 8: 640 * time.Second, 9: lastBack, 1_000_000: lastBack,
	} {
		if got := comeBack(queue.Message{Received: received}); got != want {
			t.Errorf("received %d times it comes back after %v, want %v", received, got, want)
		}
	}
}

func TestDeadLettersAway(t *testing.T) {
	f := newFakes(0)
	f.send("poison")
	f.deadErr = errors.New("away")
	err := bubble(t, usual, f, func(w *worker) {
		pass(time.Minute)
		if _, left, received := f.state(); left != 1 || received < 3 || w.value(t, "orders_poison_total") != 0 {
			t.Errorf("%d messages are left, received %d times: poison is kept until it is buried", left, received)
		}
		f.change(func(f *fakes) { f.deadErr = nil })
		pass(2 * time.Minute)
		if got := w.value(t, "orders_poison_total"); got != 1 {
			t.Errorf("poison is %v, want 1", got)
		}
	})
	if _, left, _ := f.state(); err != nil || left != 0 || len(f.dead) != 1 {
		t.Errorf("%d messages are left, the dead are %v, %v", left, f.dead, err)
	}
}

func TestStopFinishesWhatIsHeld(t *testing.T) {
	o := usual
	o.Work = 20 * time.Second
	f := newFakes(25)
	err := bubble(t, o, f, func(*worker) { pass(time.Second) })
	if processed, left, received := f.state(); err != nil || processed != 10 || left != 15 || received != 1 {
		t.Errorf("%d were processed, %d are left, received up to %d times, %v, want 10 and 15", processed, left, received, err)
	}
}

func TestStopGivesBackWhatTakesTooLong(t *testing.T) {
	o := usual
	o.Work = time.Hour
	f := newFakes(12)
	var stopped time.Time
	err := bubble(t, o, f, func(*worker) {
		pass(time.Second)
		stopped = time.Now()
	})
	if err == nil || !strings.Contains(err.Error(), "--drain") {
		t.Errorf("error is %v, want that the time was over", err)
	}
	if processed, left, _ := f.state(); processed != 0 || left != 12 {
		t.Errorf("%d were processed and %d are left", processed, left)
	}
	for _, m := range f.messages[:10] {
		if want := stopped.Add(o.Drain); !m.visible.Equal(want) {
			t.Errorf("message %s is visible at %v, want %v", m.ID, m.visible, want)
		}
	}
}
