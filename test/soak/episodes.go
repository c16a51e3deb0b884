package soak

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// episode is a fault with its times.
type episode struct {
	fault  fault
	chosen chosen
	// began is when it began, and over when all that it affects was fresh again; zero
	// until then.
	began, over time.Time
}

// episodes are the faults that there were.
type episodes struct {
	mu  sync.Mutex
	all []*episode
}

// begin adds a fault.
func (e *episodes) begin(f fault, c chosen, now time.Time) *episode {
	e.mu.Lock()
	defer e.mu.Unlock()
	added := &episode{fault: f, chosen: c, began: now}
	e.all = append(e.all, added)
	return added
}

// end says that everything is fresh again.
func (e *episodes) end(over *episode, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	over.over = now
}

// during are the faults that affect a workload and that a read saw, who knows how late.
func (e *episodes) during(w *workload, began, ended time.Time) []fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	var seen []fault
	for _, one := range e.all {
		if one.fault.affects(one.chosen, w) && !one.began.After(ended) && (one.over.IsZero() || !one.over.Before(began)) {
			seen = append(seen, one.fault)
		}
	}
	return seen
}

// explains says whether a text names the cause of one of the faults.
func explains(faults []fault, text string) bool {
	return slices.ContainsFunc(faults, func(f fault) bool {
		return slices.ContainsFunc(f.words, func(words string) bool { return strings.Contains(text, words) })
	})
}

// absence is when kube-apiserver is not there, of which the adapter must ask who may
// read.
type absence struct {
	mu   sync.Mutex
	from time.Time
	to   time.Time // zero while it is away
}

func (a *absence) begin(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from, a.to = now, time.Time{}
}

func (a *absence) end(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.to = now
}

// over says whether the absence touches a read.
func (a *absence) over(began, ended time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.from.IsZero() && !a.from.After(ended) && (a.to.IsZero() || !a.to.Before(began))
}
