package engine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

var (
	errNotRefreshed = errors.New("it gave no newer answer in time")
	errNoResult     = errors.New("the source gave neither samples nor an error")
)

// entry is one query. Readers use the query, the hash and the atomic fields without a lock;
// the others belong to the feed's mutex. There are thousands, so its times are instants. What
// readers use is together, apart from what often changes.
type entry struct {
	query sources.Query
	state atomic.Pointer[state]
	// lastRead is when the entry was last read, as an instant.
	lastRead atomic.Int64
	// asked are the shortest terms that readers came with since the last review;
	// nil if there were no readers.
	asked atomic.Pointer[terms]
	// hash is that of the key. It never changes.
	hash uint32

	// failures in a row. Throttling counts only if the backend answers others meanwhile, as
	// else it is no fault of the query.
	failures int32
	// backend is whom the query asks. It is another one after Engine.Forget.
	backend *backend
	// pinned are the terms of the pins; nil if there is none.
	pinned *terms
	// terms are those that count. They are reviewed once per Options.DemandFor.
	terms    terms
	reviewed instant
	// due is when to ask, wake when to look: at due, or before it when the answer
	// grows too old.
	due, wake instant
	// probed is the last of the feed's probes that the entry was part of; 0 if there was
	// none.
	probed uint64
	// place in the feed's queue; -1 while the entry is being asked, or waits because
	// its backend may have no more Fetches.
	place int32
	// throttled is not 0 if the entry was throttled, and not answered since: it is the
	// number of the backend's pause that followed. It outlives the demand.
	throttled int32
	// spread is not 0 if the entry was not asked when it was due last, or throttled alone:
	// it says with which others of those it is asked next.
	spread int8
	// rejected says that the last failure was the query's own fault. It outlives the
	// demand.
	rejected bool
	// waits says that the entry is due and not asked, because its backend is away or asked
	// for fewer calls, or may have no more Fetches.
	waits bool
	// idle entries are not in demand. They are not asked, and forgotten when due.
	idle bool
	// told says that OnChange has heard of the answer's being too old.
	told bool
}

// instant is a time as nanoseconds since the feed's epoch. It counts by the monotonic clock,
// so that a step of the wall clock ends no demand.
type instant int64

// terms are the part of a request that may differ between readers of one query.
type terms struct {
	interval, maxAge time.Duration
}

func termsOf(req Request) terms {
	return terms{interval: max(req.Interval, minInterval), maxAge: req.MaxAge}
}

func (t terms) and(o terms) terms {
	return terms{interval: min(t.interval, o.interval), maxAge: min(t.maxAge, o.maxAge)}
}

// within says whether t asks for nothing shorter than o.
func (t terms) within(o terms) bool {
	return t.interval >= o.interval && t.maxAge >= o.maxAge
}

// shorten takes t into the terms that readers asked for.
func (e *entry) shorten(t terms) {
	if a := e.asked.Load(); a != nil {
		t = t.and(*a)
	}
	if e.pinned != nil && *e.pinned == t {
		e.asked.Store(e.pinned) // They are never changed.
		return
	}
	e.asked.Store(new(t))
}

// review lets go of terms that nobody asked for since the last review.
func (e *entry) review(now instant) {
	e.reviewed = now
	asked := e.asked.Swap(nil)
	switch {
	case asked != nil && e.pinned != nil:
		e.terms = asked.and(*e.pinned)
	case asked != nil:
		e.terms = *asked
	case e.pinned != nil:
		e.terms = *e.pinned
	}
}

// standing is with which others of its backend an entry is asked.
type standing int

const (
	healthy standing = iota
	failing
	// rejected queries are apart from those that failed otherwise, because a backend
	// may refuse a call for one of them and all that share it.
	rejected
)

func (e *entry) standing() standing {
	switch {
	case e.rejected:
		return rejected
	case e.failures > 0:
		return failing
	default:
		return healthy
	}
}

// fail counts a failure.
func (e *entry) fail(err error) {
	e.failures++
	e.spread = 0
	e.rejected = errors.Is(err, sources.ErrRejected)
}

// succeed forgets the failures.
func (e *entry) succeed() { e.failures, e.rejected, e.spread, e.throttled = 0, false, 0, 0 }

// after is the state that follows e's when its Fetch, begun at one time, has given r by
// now, and the error that counts. Of a query that was not asked there is nothing new to
// say while its answer serves, or the failure before tells more. One whose
// backend is away has failed for as long as that.
func (e *entry) after(r sources.Result, asked, now time.Time) (*state, error) {
	was := e.state.Load()
	if errors.Is(r.Err, sources.ErrNotAsked) && was.pending == nil && (was.err() != nil || was.serves(now, e.terms.maxAge)) {
		return was, r.Err
	}
	is := was.after(r, asked, now)
	err, away := is.err(), e.backend.awaySince
	if errors.Is(err, sources.ErrAway) && away.After(is.answer.Fetched) && away.Before(is.trouble.since) {
		is.trouble.since = away
	}
	return is, err
}

// name is what people know the query by, if it says so itself; else its key.
func (e *entry) name() string {
	if s, ok := e.query.(fmt.Stringer); ok {
		return s.String()
	}
	return e.query.Key()
}

// tooOld is when to tell that the answer is too old to serve; zero if there is
// nothing to tell. The feed looks at its queue up to gather early, which is added
// here so that nobody hears of it before it is so.
func (e *entry) tooOld() time.Time {
	fetched := e.state.Load().answer.Fetched
	if e.idle || e.told || fetched.IsZero() {
		return time.Time{}
	}
	return fetched.Add(e.terms.maxAge + gather + 1)
}

// forgotten is the state of entries that Engine.Forget dropped. Who still waits for one
// is woken, finds that it is pending nevertheless, and asks for its query again.
var forgotten = func() *state {
	s := cold()
	close(s.pending)
	return s
}()

// cold is the state of a query that was never asked.
func cold() *state { return &state{pending: make(chan struct{})} }

// state is what the backend last said to a query. It is never changed.
type state struct {
	// answer is the last one, failures since then left aside.
	answer Answer
	// took is how long the Fetch took that gave it.
	took time.Duration
	// trouble is nil if the latest fetch gave samples.
	trouble *trouble
	// pending is not nil if the query was not fetched since it came into demand. It is
	// closed when it was.
	pending chan struct{}
}

// trouble is why there are no samples, or none that are new.
type trouble struct {
	// noData are the backend's words if the answer has no samples.
	noData error
	// err is why the latest fetch failed, since when fetches do; zero if it did not.
	err   error
	since time.Time
}

// wrong is the trouble, which is zero if there is none.
func (s *state) wrong() trouble {
	if s.trouble == nil {
		return trouble{}
	}
	return *s.trouble
}

// err is why the latest fetch failed; nil if it did not.
func (s *state) err() error { return s.wrong().err }

// after is the state that follows s when the backend, asked at one time, has given r
// by now.
func (s *state) after(r sources.Result, asked, now time.Time) *state {
	switch {
	case r.Err == nil && len(r.Samples) > 0:
		return &state{answer: Answer{Samples: r.Samples, Fetched: asked}, took: now.Sub(asked)}
	case errors.Is(r.Err, sources.ErrNoData):
		return &state{answer: Answer{Fetched: asked}, took: now.Sub(asked), trouble: &trouble{noData: r.Err}}
	}
	was := s.wrong()
	is := &trouble{noData: was.noData, err: r.Err, since: was.since}
	if r.Err == nil {
		is.err = errNoResult
	}
	if was.err == nil {
		is.since = now
	}
	return &state{answer: s.answer, took: s.took, trouble: is}
}

// known says whether the backend was ever heard of.
func (s *state) known() bool { return !s.answer.Fetched.IsZero() || s.err() != nil }

// serves says whether the answer is young enough.
func (s *state) serves(now time.Time, maxAge time.Duration) bool {
	return !s.answer.Fetched.IsZero() && now.Sub(s.answer.Fetched) <= maxAge
}

// read is what a reader gets from s.
func (s *state) read(source string, maxAge time.Duration, now time.Time) (Answer, error) {
	if !s.serves(now, maxAge) {
		return Answer{}, s.unavailable(source, maxAge)
	}
	return s.answer, s.wrong().noData
}

func (s *state) unavailable(source string, maxAge time.Duration) error {
	wrong := s.wrong()
	e := &UnavailableError{Source: source, Since: wrong.since, LastAnswer: s.answer.Fetched, Err: wrong.err}
	if e.Err != nil {
		return e
	}
	e.Since, e.Err = e.LastAnswer, errNotRefreshed
	if s.took > maxAge {
		e.Err = fmt.Errorf("its answer took %v, and serves no longer than %v", s.took.Round(time.Millisecond), maxAge)
	}
	return e
}

// differs says whether what s says is other than what o says.
func (s *state) differs(o *state) bool {
	return s.answer.Fetched.IsZero() != o.answer.Fetched.IsZero() ||
		text(s.err()) != text(o.err()) || text(s.wrong().noData) != text(o.wrong().noData) ||
		!slices.EqualFunc(s.answer.Samples, o.answer.Samples, sameSample)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func sameSample(a, b sources.Sample) bool {
	// By bits, because a NaN that stays a NaN is no change.
	return math.Float64bits(a.Value) == math.Float64bits(b.Value) &&
		a.Time.Equal(b.Time) && a.Window == b.Window && a.Labels.Equal(b.Labels)
}
