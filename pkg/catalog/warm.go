package catalog

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
)

const (
	// warmFor is how long a catalog that is complete is not ready at most for first answers,
	// whatever becomes of them.
	warmFor = 3 * time.Second
	// warmEvery is how often to look whether they are there.
	warmEvery = 50 * time.Millisecond
)

// Peeker says what is known of queries.
type Peeker interface {
	// Peek says what is known of the request's query and leaves its demand as it is.
	Peek(request engine.Request) (engine.State, bool)
}

// Preparer reads objects before somebody asks for them: an *objects.Store.
type Preparer interface {
	// Prepare keeps the objects of the resource read, and says whether they are or cannot
	// be. It does not wait.
	Prepare(r schema.GroupResource) bool
}

var errCold = errors.New("what HPAs name is being asked for the first time")

// warm has the catalog not ready until what HPAs name was asked once, so that a rolling
// update sends no requests to a replica whose first reads have to wait. A backend that
// fails has answered too, and one that hangs is waited for no longer than warmFor.
func (w *Watcher) warm(ctx context.Context) {
	defer w.pinned.Store(nil)
	defer w.catalog.cold.Store(nil)
	look := time.NewTicker(warmEvery)
	defer look.Stop()
	wait := func() bool {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
			return true
		}
	}
	for w.catalog.complete() != nil {
		if !wait() {
			return
		}
	}
	// What rules make counts with the next snapshot, and not in one that has begun.
	next := w.warming.Add(1)
	w.Refresh()
	var of *pinned
	var rest []engine.Request
	for complete := time.Now(); time.Since(complete) < warmFor; {
		if !wait() {
			return
		}
		if now := w.pinned.Load(); now != of && now != nil && now.began >= next {
			of, rest = now, slices.Clone(now.requests)
		}
		rest = slices.DeleteFunc(rest, func(r engine.Request) bool {
			_, known := w.peeker.Peek(r)
			return known
		})
		if of != nil && len(rest) == 0 && w.prepared() {
			return
		}
	}
	klog.FromContext(ctx).Info("Ready although not all that HPAs name was answered", "queries", len(rest), "waited", warmFor)
}

// pinned are the requests of a snapshot that began at a time of Watcher.warming.
type pinned struct {
	began    uint64
	requests []engine.Request
}

// notePinned keeps the requests as long as warm looks at them.
func (w *Watcher) notePinned(began uint64, requests []engine.Request) {
	if w.catalog.cold.Load() == nil {
		return
	}
	w.pinned.Store(&pinned{began, requests})
	if w.catalog.cold.Load() == nil { // It has ended meanwhile.
		w.pinned.Store(nil)
	}
}

// prepare has the pods read that HPAs ask for by a selector, and go on being read. A first
// read would wait for them.
func (w *Watcher) prepare(demands []plan.Demand) {
	bySelector := slices.ContainsFunc(demands, func(d plan.Demand) bool { return len(d.Names) == 0 })
	w.selecting.Store(bySelector)
	w.prepared()
}

// prepared says whether the pods are read, if HPAs ask for any.
func (w *Watcher) prepared() bool {
	return w.preparer == nil || !w.selecting.Load() || w.preparer.Prepare(podResource)
}
