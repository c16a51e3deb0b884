package promproxy

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Endpoints of the HTTP API as Call.Endpoint and Fault.Endpoint name them.
const (
	Query  = "query"
	Series = "series"
)

// Call is one request.
type Call struct {
	// Time is when it came.
	Time   time.Time
	Method string
	// Path is the whole path, and Endpoint what follows /api/v1/ in it, such as query,
	// query_range, series or label/job/values. Of a path without that it is the path.
	Path, Endpoint string
	// Query is the PromQL, and Match are the selectors.
	Query string
	Match []string
	// Timeout is how long the client lets the server evaluate, as the client wrote it.
	Timeout string
	// Form are the parameters of the URL and of the body.
	Form   url.Values
	Header http.Header
	// RequestBytes are those of the URL's query and of the body.
	RequestBytes int

	// Status is that of the answer, and AnswerBytes the length of its body so far.
	Status      int
	AnswerBytes int64
	// Took is the time until the last byte was sent. Complete says that the answer was
	// sent whole; it is false until then.
	Took     time.Duration
	Complete bool
}

// OK says whether the call got a whole answer that is no error.
func (c Call) OK() bool { return c.Complete && c.Status < http.StatusBadRequest }

// Counts are the calls since the server started or since Reset, by endpoint.
type Counts struct {
	// Calls are those that came. A call is counted before it is answered.
	Calls map[string]int
	// OK are those that got a whole answer that is no error.
	OK map[string]int
}

// recorder remembers calls.
type recorder struct {
	limit int

	mu     sync.Mutex
	recent []*Call // the oldest first; written to under mu
	counts Counts
}

func newRecorder(limit int) *recorder {
	r := &recorder{limit: limit}
	r.reset()
	return r
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = nil
	r.counts = Counts{Calls: map[string]int{}, OK: map[string]int{}}
}

// came remembers a call and returns what to do at its end.
func (r *recorder) came(c Call) (ended func(status int, bytes int64, complete bool)) {
	kept := &c
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) == r.limit {
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	r.recent = append(r.recent, kept)
	r.counts.Calls[c.Endpoint]++
	counts := r.counts
	return func(status int, bytes int64, complete bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		kept.Status, kept.AnswerBytes, kept.Complete = status, bytes, complete
		kept.Took = time.Since(kept.Time)
		if kept.OK() {
			counts.OK[kept.Endpoint]++ // After a reset these are not those that are shown.
		}
	}
}

// Calls are the last calls to an endpoint, the oldest first; to all of them if it is
// empty. Those in flight are among them.
func (s *Server) Calls(endpoint string) []Call {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	var calls []Call
	for _, c := range s.calls.recent {
		if endpoint == "" || c.Endpoint == endpoint {
			calls = append(calls, *c)
		}
	}
	return calls
}

// Counts returns what was asked so far.
func (s *Server) Counts() Counts {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	return Counts{Calls: maps.Clone(s.calls.counts.Calls), OK: maps.Clone(s.calls.counts.OK)}
}

// Reset forgets the calls and starts counting at zero.
func (s *Server) Reset() { s.calls.reset() }
