package cloudwatch

import (
	"errors"
	"regexp"
	"strconv"
	"sync/atomic"

	"github.com/aws/smithy-go"
)

// hunt is the search for the queries that calls are refused for. It takes two calls
// for each query in a call at most, whatever AWS says: a query that is named is asked
// once alone and is gone from the rest, and halves of halves end with single queries.
type hunt struct {
	// misled says that AWS took a query alone that it had named, so that its words
	// do not mean what they seem to.
	misled atomic.Bool
}

const (
	// manyRefusals is how many calls are refused one after the other until the rest
	// is searched in several places at once.
	manyRefusals = 3
	// searchParts is how many places that are.
	searchParts = 8
)

// learn is called for each call that was not refused.
func (h *hunt) learn(a attempt) {
	if a.named {
		h.misled.Store(true)
	}
}

// parts are the calls to make in place of one that was refused with that error: one
// for each query that AWS names, so that AWS refuses it in words of its own, and the
// rest without them; or else two halves.
func (a attempt) parts(err error) []attempt {
	named, rest := a.namedIn(refusal(err))
	if len(named) == 0 || a.hunt.misled.Load() {
		return a.become(a.split(2))
	}
	a.refusals++
	n := 1
	if a.refusals == manyRefusals {
		n = searchParts
	}
	parts := a.become(a.part(rest).split(n))
	for _, q := range named {
		parts = append(parts, attempt{client: a.client, call: a.part([]*Query{q}), hunt: a.hunt, begun: a.begun, named: true})
	}
	return parts
}

// become are attempts of those calls in place of a.
func (a attempt) become(calls []*call) []attempt {
	parts := make([]attempt, len(calls))
	for i, c := range calls {
		parts[i] = attempt{client: a.client, call: c, hunt: a.hunt, begun: a.begun, refusals: a.refusals}
	}
	return parts
}

// memberIndex is how AWS names a query by its place in the call, from 1:
// MetricDataQueries.member.3, or metricDataQueries.3.member of a constraint.
var memberIndex = regexp.MustCompile(`(?i)\bMetricDataQueries\.(?:member\.)?(\d+)`)

// namedIn are the queries that AWS's words name, by an id or by a place, and the others.
func (c *call) namedIn(words string) (named, rest []*Query) {
	var owners []int // by place
	byID := make(map[string]int)
	for i, ids := range c.ids() {
		for _, id := range ids {
			owners = append(owners, i)
			byID[id] = i
		}
	}
	is := make([]bool, len(c.queries))
	for _, id := range callID.FindAllString(words, -1) {
		if i, ok := byID[id]; ok {
			is[i] = true
		}
	}
	for _, m := range memberIndex.FindAllStringSubmatch(words, -1) {
		if place, err := strconv.Atoi(m[1]); err == nil && place >= 1 && place <= len(owners) {
			is[owners[place-1]] = true
		}
	}
	for i, q := range c.queries {
		if is[i] {
			named = append(named, q)
		} else {
			rest = append(rest, q)
		}
	}
	return named, rest
}

// refusal is all that AWS said of a refused call.
func refusal(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorMessage()
	}
	return err.Error()
}
