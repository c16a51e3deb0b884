// Package sources holds the seam between the engine and the backends it asks,
// and the list of the backends there are.
package sources

import (
	"context"
	"errors"
	"time"
)

// ErrNoData is the error of a query that its backend answered without a value.
// No data is not zero: what it means for a metric is decided where the metric is
// defined, never in a source. Sources wrap it with what was asked.
var ErrNoData = errors.New("no data")

// ErrRejected is the error of a query that its backend refuses for what it asks,
// and will refuse again: a malformed expression, a period that does not exist.
// The engine asks such a query seldom. Sources wrap it with the backend's words.
var ErrRejected = errors.New("rejected")

// ErrTooSlow is the error of a query that its backend did not answer in the time that it
// had, so that one which asks for less may succeed: the backend ended it because it took
// too long, or was reached and gave no answer. A Fetch that its context ended wraps
// context.DeadlineExceeded, which counts as the same. Sources wrap it with the backend's
// words.
var ErrTooSlow = errors.New("too slow")

// ErrNotAsked is the error of a query that was not sent before its Fetch was over, or too
// late to be answered, because others took all the calls that may be in flight. It says
// nothing about the query, and wraps nothing of the backend. For the engine such a query
// is due at once.
var ErrNotAsked = errors.New("not asked")

// ErrAway is wrapped by the error of a query whose backend gave no sign of life: nobody
// could be reached, or nothing came back. It says nothing about the query, and the same
// of all others of the backend.
var ErrAway = errors.New("away")

// Query is one question to one backend. A query is immutable once it is made. One
// that is a fmt.Stringer is named by that in the log, and otherwise by its key.
type Query interface {
	// Key is equal for two queries of one source exactly when they ask the same,
	// so that however many metrics ask it, it is asked once.
	Key() string
	// Backend names whom the query asks within its source, such as a region and an
	// identity. A backend that asks for fewer calls delays the queries to it, and no
	// others. A Fetch is given queries to one backend only.
	Backend() string
}

// Sample is one measured value.
type Sample struct {
	// Labels tell apart the samples of one result.
	Labels Labels
	// Value is what the backend said, unrounded; it may be NaN or infinite.
	Value float64
	// Time is when the value was measured, not when it was asked for. For a value
	// over a window it is the window's start, if that is how the backend names it.
	Time time.Time
	// Window is the time that the value covers; zero for a value of one instant.
	Window time.Duration
}

// Result is the answer to one query: samples, or the reason why there are none.
type Result struct {
	Samples []Sample
	// Err is nil exactly when there is at least one sample. It carries the
	// backend's own words and never a credential. It wraps ErrNoData when the
	// backend answered and had no value, ErrRejected when it refuses the query
	// itself, ErrTooSlow when it took too long, ErrNotAsked when it was not asked, ErrAway
	// when there was nobody, and a *ThrottledError when it asked for fewer calls.
	Err error
}

// ThrottledError says that a backend refused a call because there were too many,
// so that the engine slows down every query to that backend and not just this one;
// unless the backend goes on to refuse this one while it answers others.
type ThrottledError struct {
	Err error
}

func (e *ThrottledError) Error() string { return e.Err.Error() }

func (e *ThrottledError) Unwrap() error { return e.Err }

type yielding struct{}

// Yielding marks the context of a Fetch of queries that no HPA names, which anybody who
// may read metrics can think of.
func Yielding(ctx context.Context) context.Context { return context.WithValue(ctx, yielding{}, true) }

// Yields says whether ctx is marked by Yielding. A source that bounds its calls in flight
// leaves some of them to Fetches that do not yield.
func Yields(ctx context.Context) bool { return ctx.Value(yielding{}) != nil }

type retrying struct{}

// Retrying marks the context of a Fetch of queries that failed when they were asked last.
func Retrying(ctx context.Context) context.Context { return context.WithValue(ctx, retrying{}, true) }

// Retries says whether ctx is marked by Retrying. A source that bounds its calls in flight
// leaves some of them to Fetches that do not retry, as what failed may be slow to fail.
func Retries(ctx context.Context) bool { return ctx.Value(retrying{}) != nil }

// Source answers queries against one kind of backend (the accounts and regions of
// CloudWatch, the Prometheus servers). It keeps clients and nothing else: it never
// caches, retries on a timer or leaves goroutines behind.
//
// Fetch returns exactly one Result per query, in order, with as few backend calls
// as the backend allows. A failing query carries its own error and spoils no
// other. Fetch returns when ctx is done: queries that were answered by then keep
// their answers, the others get an error.
type Source interface {
	Fetch(ctx context.Context, queries []Query) []Result
}
