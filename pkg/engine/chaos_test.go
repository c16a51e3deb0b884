package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Histories are random, and the same ones each time.
const (
	histories    = 20
	historySteps = 400
	historyNames = 80
)

// TestChaos lets backends fail in all ways, readers and pins come and go, and the engine be
// stopped and started. Nothing is lost or counted wrong meanwhile, no answer is older than its
// reader wants, and afterwards all that is pinned is fresh, and nothing is left once nobody
// wants anything.
func TestChaos(t *testing.T) {
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint("history ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, seed)
				for range historySteps {
					h.step()
					<-time.After(time.Duration(h.random.IntN(4000)) * time.Millisecond)
					h.check()
					if t.Failed() {
						break
					}
				}
				h.end()
			})
		})
	}
}

// slashed is a query whose backend is what comes before the slash.
type slashed string

func (q slashed) Key() string { return string(q) }

func (q slashed) Backend() string {
	backend, _, _ := strings.Cut(string(q), "/")
	return backend
}

// mood is how a backend answers.
type mood int

const (
	well mood = iota
	gone
	hung
	throttling
	picky // It rejects some.
	busy  // It throttles some.
	late
	erratic
	torn // Half of each answer does not arrive.
	moods
)

// moody is a source of backends that are in moods.
type moody struct {
	mu     sync.Mutex
	moods  map[string]mood
	random *rand.Rand
	calls  int
}

func (s *moody) set(moods map[string]mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moods = moods
}

func (s *moody) change(backend string, m mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moods[backend] = m
}

func (s *moody) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *moody) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	s.mu.Lock()
	now, roll := s.moods[queries[0].Backend()], s.random.Float64()
	s.calls++
	s.mu.Unlock()
	takes := time.Duration(roll * float64(300*time.Millisecond))
	if now == hung {
		takes = time.Hour
	}
	if now == late {
		takes *= 40
	}
	results := make([]sources.Result, len(queries))
	select {
	case <-time.After(takes):
		for i := range results {
			results[i] = now.result(i, roll)
		}
	case <-ctx.Done():
		for i := range results {
			results[i].Err = ctx.Err()
			if roll < 0.3 && i%2 == 0 {
				results[i].Err = sources.ErrNotAsked
			}
		}
	}
	return results
}

// result is that of the query with that index.
func (m mood) result(i int, roll float64) sources.Result {
	var err error
	switch m {
	case gone:
		err = fmt.Errorf("refused: %w", sources.ErrAway)
	case throttling:
		err = &sources.ThrottledError{Err: errors.New("slow down")}
	case picky:
		if (i+int(roll*100))%3 == 0 {
			err = fmt.Errorf("bad: %w", sources.ErrRejected)
		}
	case busy:
		if (i+int(roll*100))%3 == 0 {
			err = &sources.ThrottledError{Err: errors.New("not that one")}
		}
	case erratic:
		err = []error{sources.ErrAway, sources.ErrTooSlow, sources.ErrNoData, errors.New("broken")}[int(roll*4)]
	case torn:
		if i%2 == 1 {
			err = sources.ErrAway
		}
	case well, hung, late, moods:
	}
	if err != nil {
		return sources.Result{Err: err}
	}
	return sources.Result{Samples: []sources.Sample{{Value: 1}, {Value: 2}}}
}

// history is what happens to one engine.
type history struct {
	*testing.T

	random  *rand.Rand
	source  *moody
	engine  *Engine
	feed    *feed
	pins    []Request
	readers sync.WaitGroup
	stop    func()
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	s := &moody{moods: map[string]mood{}, random: rand.New(rand.NewPCG(seed, 8))}
	opts := Options{Sources: map[string]sources.Source{"s": s}}
	if seed%2 == 0 {
		opts.MaxUnpinned, opts.MaxUnpinnedSamples = 20, 25
	}
	e := New(opts)
	h := &history{T: t, random: rand.New(rand.NewPCG(seed, 7)), source: s, engine: e, feed: e.feeds["s"]}
	h.start()
	return h
}

func (h *history) start() {
	ctx, cancel := context.WithCancel(h.Context())
	done := make(chan error)
	go func() { done <- h.engine.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.Error(err)
		}
	}
}

func (h *history) backend() string { return fmt.Sprint("b", h.random.IntN(4)) }

func (h *history) request(i int) Request {
	return Request{
		Source: "s", Query: slashed(fmt.Sprintf("b%d/%d", i%4, i)),
		Interval: time.Duration(1+i%3*14) * time.Second, MaxAge: time.Minute,
	}
}

// step is one thing that happens.
func (h *history) step() {
	switch h.random.IntN(9) {
	case 0:
		h.pins = nil
		for range h.random.IntN(30) {
			h.pins = append(h.pins, h.request(h.random.IntN(historyNames)))
		}
		h.engine.Pin(h.pins)
	case 1, 2, 3:
		h.read()
	case 4:
		h.engine.Touch(h.request(h.random.IntN(historyNames)))
	case 5:
		if h.random.IntN(6) == 0 {
			h.engine.Forget("s", []string{h.backend()})
		}
	case 6:
		h.source.change(h.backend(), mood(h.random.IntN(int(moods))))
	case 7:
		if h.random.IntN(10) == 0 {
			h.stop()
			h.start()
		}
	}
}

func (h *history) read() {
	r := h.request(h.random.IntN(historyNames))
	r.MaxAge = time.Duration(1+h.random.IntN(60)) * time.Second
	patience := time.Duration(h.random.IntN(5000)) * time.Millisecond
	h.readers.Go(func() {
		ctx, cancel := context.WithTimeout(h.Context(), patience)
		defer cancel()
		a, err := h.engine.Read(ctx, r)
		if age := time.Since(a.Fetched); err == nil && age > r.MaxAge {
			h.Errorf("%s is %v old, and may be %v", r.Query.Key(), age, r.MaxAge)
		}
	})
}

// end is that of all faults, and of all demand after that.
func (h *history) end() {
	h.source.set(map[string]mood{})
	h.readers.Wait()
	// As long as a rejected query may wait.
	<-time.After(5*time.Minute + 40*time.Second)
	for _, r := range h.pins {
		a, err := h.engine.Read(h.Context(), r)
		if age := time.Since(a.Fetched); err != nil || age > r.Interval+2*time.Second {
			h.Errorf("%s is %v old after the faults: %v", r.Query.Key(), age, err)
		}
	}
	h.engine.Pin(nil)
	<-time.After(15 * time.Minute)
	synctest.Wait()
	h.check()
	h.checkEmpty()
	before := h.source.asked()
	<-time.After(10 * time.Minute)
	if n := h.source.asked() - before; n > 0 {
		h.Errorf("%d calls for nobody", n)
	}
	h.stop()
}

func (h *history) checkEmpty() {
	f := h.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	left := 0
	for range f.entries.all() {
		left++
	}
	if left+len(f.queue)+len(f.backends)+len(f.circuits)+f.inFlight != 0 || f.room != (room{none: f.room.none}) {
		h.Errorf("left are %d entries, %d in the queue, %d backends, %d circuits, %d in flight, and room %+v",
			left, len(f.queue), len(f.backends), len(f.circuits), f.inFlight, f.room)
	}
}

// check looks whether all that the feed counts and refers to is right.
func (h *history) check() {
	f := h.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	known := map[*entry]bool{}
	for i, e := range f.queue {
		if int(e.place) != i || i > 0 && f.queue[(i-1)/2].wake > e.wake {
			h.Errorf("the queue is out of order at %d", i)
		}
		known[e] = true
	}
	inFlight := 0
	for _, b := range f.backends {
		for _, e := range b.waiting {
			known[e] = true
		}
		inFlight += h.checkBackend(b)
	}
	if inFlight > f.inFlight {
		h.Errorf("%d calls of backends are in flight, of %d", inFlight, f.inFlight)
	}
	for b := range f.circuits {
		if f.backends[b.name] != b {
			h.Errorf("a circuit is of %s, which is not there", b.name)
		}
	}
	h.checkEntries(known)
}

// checkBackend gives how many calls of the backend are in flight.
func (h *history) checkBackend(b *backend) int {
	n := b.pinnedInFlight + b.unpinnedInFlight
	if b.pinnedInFlight < 0 || b.unpinnedInFlight < 0 {
		h.Errorf("%s has %d and %d calls in flight", b.name, b.pinnedInFlight, b.unpinnedInFlight)
	}
	if b.circuit.open && !h.feed.circuits[b] {
		h.Errorf("%s is away, and not probed", b.name)
	}
	if len(b.waiting) > 0 && n == 0 && h.feed.inFlight == 0 {
		h.Errorf("queries of %s wait for nothing", b.name)
	}
	return n
}

// checkEntries looks at all entries. Those that are known are queued, or wait for a call.
func (h *history) checkEntries(known map[*entry]bool) {
	f := h.feed
	taken, entries := room{none: f.room.none}, map[*backend]int{}
	for e := range f.entries.all() {
		key := e.query.Key()
		entries[e.backend]++
		if e.pinned == nil {
			taken.entries++
			taken.samples += len(e.state.Load().answer.Samples)
			taken.bytes += len(key)
		}
		if !known[e] && e.backend.pinnedInFlight+e.backend.unpinnedInFlight == 0 {
			h.Errorf("%s is lost", key)
		}
		if e.backend.forgotten || f.entries.get(key) != e {
			h.Errorf("%s is not what it seems", key)
		}
	}
	for b, n := range entries {
		if b.entries != n {
			h.Errorf("%s has %d entries, and says %d", b.name, n, b.entries)
		}
	}
	if taken != f.room {
		h.Errorf("the room taken is %+v, and not %+v", taken, f.room)
	}
}
