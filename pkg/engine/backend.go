package engine

import (
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxInFlight is how many Fetches of pinned queries a backend may have under way, and
	// maxUnpinnedInFlight how many of others. Queries that fall due beyond it gather, and
	// share the next one.
	maxInFlight         = 16
	maxUnpinnedInFlight = 8
	// manyInFlight is how many Fetches of a source are too many for a backend to have
	// more than fewInFlight of pinned queries, or more than fewUnpinnedInFlight of others.
	// Those it always may have, so that however many backends hang,
	// they do not hold up one that does not.
	manyInFlight        = 128
	fewInFlight         = 4
	fewUnpinnedInFlight = 2
	// firstPause is how long a backend rests that throttles for the first time.
	firstPause = time.Second
	// spread is the time over which a source's backends are spread that have queries of
	// one interval.
	spread = 4 * time.Second
)

// backend is one of those that a source asks. It belongs to the feed's mutex, and
// lives as long as it has entries.
type backend struct {
	name    string
	entries int
	// pinnedInFlight are the Fetches under way of pinned queries, unpinnedInFlight those of
	// others. Neither waits for the other, as any of them may hang.
	pinnedInFlight, unpinnedInFlight int
	// forgotten says that another one took its name, see Engine.Forget. What its Fetches
	// give does not count.
	forgotten bool
	// waiting are entries that are due and not in the queue, because the backend may
	// have no more Fetches now. The end of each Fetch puts them back.
	waiting  []*entry
	throttle throttle
	circuit  circuit
	// schedule is when its queries are due.
	schedule schedule
	// awaySince is when the first of the Fetches since the last sign of life was over.
	awaySince time.Time
}

// backendStates are what the states of a backend are called.
var backendStates = [...]string{closed: "closed", throttled: "throttled", open: "open", halfOpen: "half_open"}

// Places of backendStates.
const (
	closed = iota
	throttled
	open
	halfOpen
)

// state is the place in backendStates of what b is in now.
func (b *backend) state(now time.Time) int {
	switch {
	case b.circuit.open && b.circuit.probing:
		return halfOpen
	case b.circuit.open:
		return open
	case b.throttle.until.After(now):
		return throttled
	default:
		return closed
	}
}

// mayFetch says whether b may have one Fetch more, of pinned queries or of others, of a
// source that has ofSource.
func (b *backend) mayFetch(pinned bool, ofSource int) bool {
	switch many := ofSource >= manyInFlight; {
	case many && pinned:
		return b.pinnedInFlight < fewInFlight
	case many:
		return b.unpinnedInFlight < fewUnpinnedInFlight
	case pinned:
		return b.pinnedInFlight < maxInFlight
	default:
		return b.unpinnedInFlight < maxUnpinnedInFlight
	}
}

// heed notes whether b is away: a Fetch was over now and there was nobody. That a query
// was not asked, or too slow, says nothing of it.
func (b *backend) heed(s sign, now time.Time) {
	switch {
	case s == somebody:
		b.awaySince = time.Time{}
	case s == nobody && b.awaySince.IsZero():
		b.awaySince = now
	}
}

// phaseOf is by how much later the backend of that name is asked than those of other
// names. All of a backend's queries are asked together, so that they share calls.
func phaseOf(name string) time.Duration {
	if name == "" {
		return 0
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return time.Duration(h.Sum32()) % spread
}

// throttle is the pause of a backend that asks for fewer calls.
type throttle struct {
	until time.Time
	// count is how many pauses there were since the backend last answered freely.
	count int
	err   error
	// pauses is how many there ever were, and answered how many there had been when the
	// latest Fetch began that got an answer.
	pauses, answered int32
}

// heed starts a pause if a result asks for it. Fetches that were under way when a
// pause started do not make it longer. Queries that are throttled alone start none.
func (t *throttle) heed(l lane, batch []*entry, results []sources.Result, limit time.Duration, now time.Time) {
	free := slices.ContainsFunc(results, func(r sources.Result) bool { return r.Err == nil || errors.Is(r.Err, sources.ErrNoData) })
	if free {
		t.answered = max(t.answered, l.pauses)
	}
	var refused []*entry
	var err error
	for i, e := range batch {
		if isThrottling(results[i].Err) && !t.isOnly(e) {
			refused, err = append(refused, e), results[i].Err
		}
	}
	switch {
	case now.Before(t.until):
	case len(refused) > 0:
		t.count++
		t.pauses++
		t.err = err
		t.until = now.Add(newJitter().of(sources.Backoff(firstPause, limit, t.count)))
	case free:
		t.count = 0
	}
	for _, e := range refused {
		if e.throttled == 0 {
			e.throttled = t.pauses
		}
	}
}

// isOnly says that the backend refuses calls for e and not for all: since the pause in which
// e had to wait first, e got no answer and others did that were asked after it had begun.
func (t *throttle) isOnly(e *entry) bool { return e.throttled > 0 && t.answered >= e.throttled }

func isThrottling(err error) bool {
	_, ok := errors.AsType[*sources.ThrottledError](err)
	return ok
}
