package rules

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// identify sets the identities of all rules of the set.
func (s *Set) identify() {
	for _, list := range [][]*Compiled{s.Custom, s.External} {
		for _, c := range list {
			c.identity = c.query.identity(asking{c.Server, c.Interval, c.MaxAge, c.Share})
		}
	}
	if s.Resource == nil {
		return
	}
	a := asking{s.Resource.Server, s.Resource.Interval, s.Resource.MaxAge, s.Resource.Share}
	for _, u := range []*CompiledUsage{s.Resource.CPU, s.Resource.Memory} {
		u.containersIdentity, u.nodesIdentity = u.containers.identity(a), u.nodes.identity(a)
	}
}

// asking is whom the queries of a rule are asked, and how.
type asking struct {
	server           string
	interval, maxAge time.Duration
	share            bool
}

// identity is a hash of all that the query's questions and their terms depend on. It is
// empty for nil.
func (q *query) identity(a asking) string {
	if q == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %d %d %t ", a.server, a.interval, a.maxAge, a.share)
	fmt.Fprintf(&b, "%q %t %t %q %d", q.template.text, q.external, q.namespaced, q.container, q.window)
	for _, o := range q.labels.overrides {
		fmt.Fprintf(&b, " %q %q %q", o.label, o.resource.Group, o.resource.Resource)
	}
	if t := q.labels.template; t != nil {
		fmt.Fprintf(&b, " template %q", t.text)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return string(sum[:])
}
