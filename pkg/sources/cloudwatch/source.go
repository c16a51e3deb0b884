// Package cloudwatch answers queries with the newest datapoints of Amazon
// CloudWatch, by GetMetricData alone.
package cloudwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// maxPages is how many pages of an answer are read. A packed call needs one
// unless a search finds thousands of metrics.
const maxPages = 20

// Source asks CloudWatch. It implements sources.Source and prometheus.Collector.
type Source struct {
	clients  *clients
	counters *counters
	timeout  time.Duration
}

var _ sources.Source = (*Source)(nil)

// New is the source of that configuration. It makes no call to AWS, except for
// the region to the EC2 instance that it runs on, where nothing else tells it.
func New(ctx context.Context, c Config) (*Source, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	base, err := loadAWS(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	return newSource(newClients(c, base, dialAWS)), nil
}

func newSource(c *clients) *Source {
	return &Source{clients: c, counters: newCounters(c.base.Region), timeout: c.config.CallTimeout}
}

// answered is the result of one query.
type answered struct {
	query  *Query
	result sources.Result
}

// Fetch implements sources.Source. Its queries are made by NewQuery.
func (s *Source) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	results := make([]sources.Result, len(queries))
	b := newBatch(queries, results, s.clients.base.Region)
	answers := make(chan answered, len(b.unique))
	now := time.Now()
	for k, group := range b.byClient() {
		s.start(ctx, k, group, now, b.begun, answers)
	}
	for range b.unique {
		select {
		case a := <-answers:
			b.settle(a)
		case <-ctx.Done():
			b.close(ctx.Err(), answers)
			return results
		}
	}
	return results
}

// start asks one client all of its queries, in calls that run side by side.
func (s *Source) start(ctx context.Context, k clientKey, queries []*Query, now time.Time, begun begun, answers chan<- answered) {
	c, err := s.clients.get(k)
	if err != nil {
		failAll(queries, err, answers)
		return
	}
	h := new(hunt)
	for _, call := range pack(queries, now, s.clients.config.Settle) {
		go s.ask(ctx, attempt{client: c, call: call, hunt: h, begun: begun}, answers)
	}
}

// attempt is a call to a client, and how it came about.
type attempt struct {
	*client
	*call

	hunt  *hunt
	begun begun
	// refusals is how many calls were refused and asked again without what AWS
	// named, before they became this one.
	refusals int
	// named says that AWS named the call's one query as what it refused.
	named bool
}

// ask makes the call and answers its queries. One that is refused becomes several,
// so that a query which CloudWatch refuses does not keep the others from their values.
func (s *Source) ask(ctx context.Context, a attempt, answers chan<- answered) {
	results, parts := s.outcome(ctx, a)
	for _, part := range parts {
		go s.ask(ctx, part, answers)
	}
	for i, r := range results {
		answers <- answered{a.queries[i], r}
	}
}

// outcome is either the results of the call or what to ask instead. A panic is the
// results of the call that it happened in, and the end of nothing else.
func (s *Source) outcome(ctx context.Context, a attempt) (results []sources.Result, parts []attempt) {
	defer func() {
		if cause := recover(); cause != nil {
			klog.FromContext(ctx).Error(fmt.Errorf("panic: %v", cause), "Cannot make a call or read its answer",
				"client", a.key.String(), "stack", string(debug.Stack()))
			results = failures(len(a.queries), fmt.Errorf("%s: internal error, of which the adapter's log has the details", a.key))
			parts = nil
		}
	}()
	results, err := s.try(ctx, a)
	switch {
	case err == nil:
		a.hunt.learn(a)
		return results, nil
	case len(a.queries) > 1 && isOfOne(err):
		return nil, a.parts(err)
	default:
		return failures(len(a.queries), err), nil
	}
}

// failures are n results of one error.
func failures(n int, err error) []sources.Result {
	return slices.Repeat([]sources.Result{{Err: err}}, n)
}

// errMessage is a call that AWS answered with a remark on the call as a whole, for
// instance that it found more series than it returns.
var errMessage = errors.New("message")

// isOfOne says that a call failed for what some of its queries ask.
func isOfOne(err error) bool {
	return errors.Is(err, sources.ErrRejected) || errors.Is(err, errMessage)
}

func failAll(queries []*Query, err error, answers chan<- answered) {
	for i, r := range failures(len(queries), err) {
		answers <- answered{queries[i], r}
	}
}

// try makes the call, once, with all pages of its answer.
func (s *Source) try(ctx context.Context, a attempt) ([]sources.Result, error) {
	slots := a.needs(ctx)
	if err := acquire(ctx, slots); err != nil {
		return nil, notAsked(a.key)
	}
	defer release(slots)
	ids := a.ids()
	in := a.input(ids)
	got := &answer{series: make(map[string][]*series)}
	for range maxPages {
		if err := a.pace.Wait(ctx); err != nil {
			return nil, notAsked(a.key)
		}
		a.begun.note(a.queries)
		out, err := s.page(ctx, a, in)
		if err != nil {
			return nil, newCallError(a.key, err)
		}
		got.add(out)
		if in.NextToken = out.NextToken; in.NextToken != nil && *in.NextToken != "" {
			continue
		}
		if len(got.messages) > 0 {
			return nil, &callError{
				text:   fmt.Sprintf("%s: CloudWatch warns of the answer%s", a.key, quoteMessages(got.messages)),
				causes: []error{errMessage},
			}
		}
		return a.prefixed(a.results(got, ids)), nil
	}
	return nil, fmt.Errorf("%s: the answer has more than %d pages", a.key, maxPages)
}

// page makes one GetMetricData request, and counts it.
func (s *Source) page(ctx context.Context, a attempt, in *cloudwatch.GetMetricDataInput) (*cloudwatch.GetMetricDataOutput, error) {
	own, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	seen := new(trace)
	out, err := a.GetMetricData(seen.follow(own), in)
	s.counters.call(a, err)
	if err == nil {
		return out, nil
	}
	err = seen.diagnose(err, ctx.Err() == nil)
	klog.FromContext(ctx).V(2).Info("GetMetricData failed", "region", a.key.region, "role", a.key.role,
		"queries", len(in.MetricDataQueries), "requestID", requestID(err), "cause", words(err))
	switch {
	case !slices.Contains(expired, errorCode(err)):
	case credentialsFailed(err):
		renew(s.clients.base.Credentials)
	default:
		renew(a.credentials)
	}
	return nil, err
}

// prefixed has whom was asked in front of every error.
func (a attempt) prefixed(results []sources.Result) []sources.Result {
	for i, r := range results {
		if r.Err != nil {
			results[i].Err = fmt.Errorf("%s: %w", a.key, r.Err)
		}
	}
	return results
}

// batch is what one Fetch asks: each question once, however often it came.
type batch struct {
	unique  []*Query
	results []sources.Result
	// places are the indexes in results where the answer of a key goes, while it
	// is awaited.
	places map[string][]int
	// begun has the keys.
	begun begun
	// region is that of the queries that name none.
	region string
}

// begun says of each key whether it was asked. The map does not change.
type begun map[string]*atomic.Bool

func (b begun) note(queries []*Query) {
	for _, q := range queries {
		b[q.key].Store(true)
	}
}

// newBatch sorts the queries, and fails at once those of other sources.
func newBatch(queries []sources.Query, results []sources.Result, region string) *batch {
	b := &batch{results: results, places: make(map[string][]int, len(queries)), begun: make(begun, len(queries)), region: region}
	for i, query := range queries {
		q, ok := query.(*Query)
		if !ok || q == nil {
			results[i].Err = fmt.Errorf("cloudwatch: cannot ask a query of type %T", query)
			continue
		}
		if b.places[q.key] == nil {
			b.unique = append(b.unique, q)
			b.begun[q.key] = new(atomic.Bool)
		}
		b.places[q.key] = append(b.places[q.key], i)
	}
	return b
}

// byClient are the queries of each region and role, in order.
func (b *batch) byClient() map[clientKey][]*Query {
	groups := make(map[clientKey][]*Query)
	for _, q := range b.unique {
		k := q.client(b.region)
		groups[k] = append(groups[k], q)
	}
	return groups
}

// client is whom to ask the query, where that is the default region.
func (q *Query) client(region string) clientKey {
	return clientKey{cmp.Or(q.region, region), q.role}
}

func (b *batch) settle(a answered) {
	for _, i := range b.places[a.query.key] {
		b.results[i] = a.result
	}
	delete(b.places, a.query.key)
}

// close takes the answers that are there, and fails the queries without one.
func (b *batch) close(err error, answers <-chan answered) {
	for range len(answers) {
		b.settle(<-answers)
	}
	for _, q := range b.unique {
		if b.places[q.key] == nil {
			continue
		}
		failure := notAsked(q.client(b.region))
		if b.begun[q.key].Load() {
			failure = newCallError(q.client(b.region), err)
		}
		b.settle(answered{q, sources.Result{Err: failure}})
	}
}
