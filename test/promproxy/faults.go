package promproxy

import (
	"regexp"
	"slices"
	"time"
)

// Fault is something that goes wrong on request. Endpoint and Query say where, and
// match everything if they are empty; Count says how often, and the rest what. Effects
// may be combined, and several faults may match one call.
type Fault struct {
	// Endpoint is as in Call.
	Endpoint string
	// Query matches the PromQL, or one of the selectors.
	Query *regexp.Regexp
	// Count is how many calls the fault is for; 0 is all of them until it is lifted.
	Count int

	// Delay is how long a call waits before it is answered. It ends when the client
	// leaves.
	Delay time.Duration
	// Answer takes the place of the real one.
	Answer *Answer
	// CutAfter ends the connection after so many bytes of the answer's body, or at its
	// end if it is shorter, so that it never arrives whole.
	CutAfter int
}

func (f Fault) matches(c Call) bool {
	if f.Endpoint != "" && f.Endpoint != c.Endpoint {
		return false
	}
	return f.Query == nil || f.Query.MatchString(c.Query) && c.Query != "" || slices.ContainsFunc(c.Match, f.Query.MatchString)
}

// with adds the effects of another fault: delays add up, and else the first wins.
func (f Fault) with(other Fault) Fault {
	f.Delay += other.Delay
	if f.Answer == nil {
		f.Answer = other.Answer
	}
	if f.CutAfter == 0 {
		f.CutAfter = other.CutAfter
	}
	return f
}

// Fault puts a fault in force until its Count is used up or lift is called.
func (s *Server) Fault(f Fault) (lift func()) {
	id := s.faults.Add(f)
	return func() { s.faults.Remove(id) }
}

// ClearFaults takes every fault out of force.
func (s *Server) ClearFaults() { s.faults.Clear() }
