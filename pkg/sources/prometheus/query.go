package prometheus

import (
	"cmp"
	"time"
)

// Query is an instant query of one server. It implements sources.Query.
type Query struct {
	server, promQL, key string
	window              time.Duration
}

// NewQuery asks the server of that name; DefaultServer if it is empty. Window is the
// range that the PromQL looks back over, which its samples will carry.
func NewQuery(server, promQL string, window time.Duration) *Query {
	server = cmp.Or(server, DefaultServer)
	return &Query{server: server, promQL: promQL, key: server + "\x00" + window.String() + "\x00" + promQL, window: window}
}

// Key implements sources.Query. Queries that differ in their windows have different
// samples.
func (q *Query) Key() string { return q.key }

// Backend implements sources.Query: the server's name.
func (q *Query) Backend() string { return q.server }

// String is the PromQL and the server's name, for logs.
func (q *Query) String() string { return q.promQL + " at " + q.server }
