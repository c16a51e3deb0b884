package demo

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// phase is a part of the story.
type phase int

const (
	starting phase = iota
	idle
	loading
	outage
	sending
	rising
	draining
	falling
	calm
	waves
	done
)

// phases are in the order of the constants: a word for each, and what happens in it.
var phases = [...]struct{ word, title string }{
	starting: {"start", "Kubernetes, an AWS stand-in and the adapter start"},
	idle:     {"idle", "the queue is empty, and the HPA takes the workers to 0"},
	loading:  {"load", fmt.Sprintf("%d requests a second come, and the HPA takes web to %d pods", loadRate, loadPods)},
	outage:   {"away", "one part after the other stops for a while"},
	sending:  {"send", "a burst of orders comes"},
	rising:   {"up", fmt.Sprintf("the HPA takes the workers from 0 to %d", maxWorkers)},
	draining: {"drain", "the workers empty the queue"},
	falling:  {"down", "the queue is empty, and the HPA takes the workers back to 0"},
	calm:     {"calm", "the load is gone, and the HPA takes web back to 1 pod"},
	waves:    {"waves", "the load rises and falls like a day"},
	done:     {"done", fmt.Sprintf("the HPA took the workers from 0 to %d and back to 0", maxWorkers)},
}

func (p phase) String() string { return phases[p].word }

func (p phase) title() string { return phases[p].title }

// snapshot is all that is shown at one time.
type snapshot struct {
	// elapsed is the time since the start of the program.
	elapsed time.Duration
	phase   phase
	// steps are what was started so far, and the phases that began.
	steps   []step
	queue   depth
	metric  depth
	hpa     hpa
	workers workers
	// web are the replicas of the web tier, which another HPA has.
	web workers
	// entered is when the phase began.
	entered time.Time
	// away is the part that is stopped now, empty if none is.
	away string
	// page is the URL of the live page, empty if there is none.
	page string
	// history has a point for each second since the workers were first seen.
	history []point
	// summary is nil before the end.
	summary *summary
}

// step is something that happened.
type step struct {
	at   time.Duration
	text string
}

// depth is how many messages the queue holds, as somebody knows it.
type depth struct {
	// known is false before the first answer, and after a call that failed.
	known    bool
	messages int
	// measured is when, since the start of the program.
	measured time.Duration
}

// hpa is what `kubectl describe hpa` would say.
type hpa struct {
	// average is the messages per worker that the HPA saw last; empty if there were
	// none, or no worker to divide them by.
	average string
	// condition is the one that matters most now, as type, reason and message.
	condition string
	// event is the last one, and eventAt when it came; zero if there was none.
	event   string
	eventAt time.Duration
}

// workers are the replicas of a Deployment.
type workers struct {
	known bool
	// desired is what the HPA last wrote, running is how many pods there are.
	desired, running, ready int
}

// point is one second of the history.
type point struct {
	messages, ready int
}

// board holds the snapshot that everybody writes a part of.
type board struct {
	start time.Time
	// changed has an entry when the snapshot was written since it was last taken.
	changed chan struct{}

	mu  sync.Mutex
	now snapshot
}

func newBoard() *board {
	return &board{start: time.Now(), changed: make(chan struct{}, 1)}
}

func (b *board) elapsed() time.Duration { return time.Since(b.start) }

func (b *board) update(write func(*snapshot)) {
	b.mu.Lock()
	write(&b.now)
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *board) look() snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.now
	s.elapsed = b.elapsed()
	s.steps = slices.Clone(s.steps)
	s.history = slices.Clone(s.history)
	return s
}

// step tells that something happened.
func (b *board) step(text string) {
	b.update(func(s *snapshot) { s.steps = append(s.steps, step{b.elapsed(), text}) })
}

// enter begins a phase.
func (b *board) enter(p phase) {
	b.update(func(s *snapshot) { s.phase, s.entered = p, time.Now() })
	b.step(p.title())
}

// remember adds a point to the history. A depth that is not known is the one before.
func (s *snapshot) remember() {
	if s.workers.known {
		s.history = append(s.history, point{messages: s.queue.messages, ready: s.workers.ready})
	}
}
