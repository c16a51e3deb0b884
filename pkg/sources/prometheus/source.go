// Package prometheus answers queries with what Prometheus servers say to PromQL, and
// lists which series they have.
package prometheus

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Source asks Prometheus servers. It implements sources.Source and
// prometheus.Collector.
type Source struct {
	servers  map[string]*server
	counters *counters
}

var _ sources.Source = (*Source)(nil)

// New is the source of that configuration. It reads the files that the configuration
// names, and asks nobody. The error starts with the field's path.
func New(c Config) (*Source, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Source{servers: make(map[string]*server, len(c.Servers)), counters: newCounters()}
	for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
		made, err := newServer(name, c.Servers[name])
		if err != nil {
			return nil, fmt.Errorf("servers.%s.%w", name, err)
		}
		s.servers[name] = made
	}
	return s, nil
}

// CloseIdleConnections ends the connections of a source that is not to be used any
// more, as soon as no call uses them.
func (s *Source) CloseIdleConnections() {
	for _, each := range s.servers {
		each.retire()
	}
}

// server is the one of that name.
func (s *Source) server(name string) (*server, error) {
	if found := s.servers[name]; found != nil {
		return found, nil
	}
	known := "there are none"
	if len(s.servers) > 0 {
		known = "there are " + strings.Join(slices.Sorted(maps.Keys(s.servers)), ", ")
	}
	return nil, fmt.Errorf("prometheus server %q is not in the configuration: %s", name, known)
}

// answered is the result of one query.
type answered struct {
	query  *Query
	result sources.Result
}

// Fetch implements sources.Source. Its queries are made by NewQuery.
func (s *Source) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	results := make([]sources.Result, len(queries))
	b := newBatch(queries, results)
	answers := make(chan answered, len(b.unique))
	at := time.Now()
	for name, group := range b.byServer() {
		s.start(ctx, b, name, group, at, answers)
	}
	for range b.unique {
		select {
		case a := <-answers:
			b.settle(a)
		case <-ctx.Done():
			s.close(ctx, b, answers)
			return results
		}
	}
	return results
}

// start asks one server all of its queries, as many at a time as it may be asked.
func (s *Source) start(ctx context.Context, b *batch, name string, group []*Query, at time.Time, answers chan<- answered) {
	asked, err := s.server(name)
	if err != nil {
		for _, q := range group {
			answers <- answered{q, sources.Result{Err: err}}
		}
		return
	}
	queue := make(chan *Query, len(group))
	for _, q := range group {
		queue <- q
	}
	close(queue)
	for range min(len(group), asked.config.MaxCalls) {
		go func() {
			for q := range queue {
				answers <- answered{q, s.ask(ctx, asked, q, at, b.turns[q.key])}
			}
		}()
	}
}

// ask is the answer to one query.
func (s *Source) ask(ctx context.Context, asked *server, q *Query, at time.Time, its *turn) sources.Result {
	c := asked.newCall(endpointQuery, url.Values{
		"query": {q.promQL}, "time": {seconds(at)}, "timeout": {duration(asked.config.CallTimeout)},
		// A sum over a part of the data is a wrong number. Thanos gives an error instead if
		// it is told the first (https://thanos.io/tip/components/query.md/#partial-response),
		// and VictoriaMetrics the second (https://docs.victoriametrics.com/victoriametrics/cluster-victoriametrics/#cluster-availability).
		// Prometheus passes over both, and says in its warnings what is missing.
		"partial_response": {"false"}, "deny_partial_response": {"1"},
	})
	c.maxBytes, c.turn = maxAnswer, its
	var (
		e       envelope
		samples []sources.Sample
	)
	f := s.do(ctx, asked.slots(ctx), c, func() (err error) {
		if samples, err = decodeQuery(c.answer, &e); err != nil {
			return err
		}
		return cmp.Or(c.check(e), c.whole(e))
	})
	if f != nil {
		return sources.Result{Err: asked.wrap(f)}
	}
	c.logWarnings(ctx, e)
	if len(samples) == 0 {
		return sources.Result{Err: fmt.Errorf("%s: %w for %s", asked, sources.ErrNoData, c.asked())}
	}
	for i := range samples {
		samples[i].Window = q.window
	}
	return sources.Result{Samples: samples}
}

// batch is what one Fetch asks: each question once, however often it came.
type batch struct {
	unique  []*Query
	results []sources.Result
	// places are the indexes in results where the answer of a key goes, while it
	// is awaited.
	places map[string][]int
	// turns are those of the keys. The map does not change.
	turns map[string]*turn
}

// newBatch sorts the queries, and fails at once those of other sources.
func newBatch(queries []sources.Query, results []sources.Result) *batch {
	b := &batch{results: results, places: make(map[string][]int, len(queries)), turns: make(map[string]*turn, len(queries))}
	for i, query := range queries {
		q, ok := query.(*Query)
		if !ok || q == nil {
			results[i].Err = fmt.Errorf("prometheus: cannot ask a query of type %T", query)
			continue
		}
		if b.places[q.key] == nil {
			b.unique = append(b.unique, q)
			b.turns[q.key] = new(turn)
		}
		b.places[q.key] = append(b.places[q.key], i)
	}
	return b
}

// byServer are the queries of each server, in order.
func (b *batch) byServer() map[string][]*Query {
	groups := make(map[string][]*Query)
	for _, q := range b.unique {
		groups[q.server] = append(groups[q.server], q)
	}
	return groups
}

func (b *batch) settle(a answered) {
	for _, i := range b.places[a.query.key] {
		b.results[i] = a.result
	}
	delete(b.places, a.query.key)
}

// close takes the answers that are there, and fails the queries without one.
func (s *Source) close(ctx context.Context, b *batch, answers <-chan answered) {
	for range len(answers) {
		b.settle(<-answers)
	}
	for _, q := range b.unique {
		if b.places[q.key] == nil {
			continue
		}
		asked, err := s.server(q.server)
		if err == nil {
			err = asked.wrap(cmp.Or(b.turns[q.key].cut(), new(call).diagnose(ctx, ctx.Err())))
		}
		b.settle(answered{q, sources.Result{Err: err}})
	}
}
