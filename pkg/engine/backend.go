package engine

import (
	"errors"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// maxInFlight is how many Fetches of a backend may be under way. Queries that fall
	// due beyond it gather, and share the next one.
	maxInFlight = 16
	// maxUnpinnedInFlight is beyond how many a backend has no more for queries that are
	// merely read. The rest is for those that HPAs name.
	maxUnpinnedInFlight = 8
	// manyInFlight is how many Fetches of a source are too many for a backend to have
	// more than fewInFlight of pinned queries, or one of others while it has
	// fewUnpinnedInFlight. Those it always may have, so that however many backends hang,
	// they do not hold up one that does not.
	manyInFlight        = 128
	fewInFlight         = 4
	fewUnpinnedInFlight = 2
	// firstPause is how long a backend rests that throttles for the first time.
	firstPause = time.Second
)

// backend is one of those that a source asks. It belongs to the feed's mutex, and
// lives as long as it has entries.
type backend struct {
	name    string
	entries int
	// inFlight are all Fetches under way, pinnedInFlight those of pinned queries.
	inFlight, pinnedInFlight int
	// forgotten says that another one took its name, see Engine.Forget. What its Fetches
	// give does not count.
	forgotten bool
	// waiting are entries that are due and not in the queue, because the backend may
	// have no more Fetches now. The end of each Fetch puts them back.
	waiting  []*entry
	throttle throttle
	// awaySince is when the first of the Fetches since the last answer was over; zero if
	// the last one had an answer.
	awaySince time.Time
}

// mayFetch says whether b may have one Fetch more, of pinned queries or of others, of a
// source that has ofSource.
func (b *backend) mayFetch(pinned bool, ofSource int) bool {
	switch many := ofSource >= manyInFlight; {
	case many && pinned:
		return b.pinnedInFlight < fewInFlight
	case many:
		return b.inFlight < fewUnpinnedInFlight
	case pinned:
		return b.inFlight < maxInFlight
	default:
		return b.inFlight < maxUnpinnedInFlight
	}
}

// heed notes whether b is away: a Fetch was over now and had no answer at all. A refusal
// is an answer.
func (b *backend) heed(results []sources.Result, now time.Time) {
	failed := false
	for _, r := range results {
		switch {
		case r.Err == nil || errors.Is(r.Err, sources.ErrNoData) || errors.Is(r.Err, sources.ErrRejected) || isThrottling(r.Err):
			b.awaySince = time.Time{}
			return
		case !errors.Is(r.Err, sources.ErrNotAsked):
			failed = true
		}
	}
	if failed && b.awaySince.IsZero() {
		b.awaySince = now
	}
}

// throttle is the pause of a backend that asks for fewer calls.
type throttle struct {
	until time.Time
	// count is how many pauses there were since the backend last answered freely.
	count int
	err   error
}

// heed starts a pause if a result asks for it. Fetches that were under way when a
// pause started do not make it longer.
func (t *throttle) heed(results []sources.Result, limit time.Duration, now time.Time) {
	if now.Before(t.until) {
		return
	}
	answered := false
	for _, r := range results {
		if isThrottling(r.Err) {
			t.count++
			t.err = r.Err
			t.until = now.Add(newJitter().of(grow(firstPause, limit, t.count)))
			return
		}
		answered = answered || r.Err == nil || errors.Is(r.Err, sources.ErrNoData)
	}
	if answered {
		t.count = 0
	}
}

func isThrottling(err error) bool {
	_, ok := errors.AsType[*sources.ThrottledError](err)
	return ok
}
