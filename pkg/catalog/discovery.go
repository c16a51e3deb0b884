package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	defaultRelist = 10 * time.Minute
	// listTimeout is how long one listing may take. It is longer than what the source for
	// Prometheus allows, which can tell a server that cannot be reached from a slow one.
	listTimeout = 65 * time.Second
	// listAtOnce is how many listings of one server may be under way. Servers do not
	// wait for each other.
	listAtOnce = 4
	// firstRetry is when a query is listed again of which nothing is known; the time
	// doubles up to Relist.
	firstRetry = 2 * time.Second
	// retrySpread is over how long the failed listings of a server are spread that
	// answers again.
	retrySpread = time.Second
	// watchPause is how often is looked for what nobody tells of.
	watchPause = time.Second
	// spread is the part of Relist over which the listings of a round are spread.
	spread = 10
	// startup is how long the catalog is not ready for first listings that neither
	// succeed nor fail.
	startup = 15 * time.Second
)

// SeriesLister lists the series of Prometheus servers.
type SeriesLister interface {
	// Series visits every series that the selector matches and that had samples between
	// start and end. Name and label names are valid during the call only; the label
	// names are sorted.
	Series(ctx context.Context, server, selector string, start, end time.Time, visit func(name string, labelNames []string)) error
}

// RefreshingMapper is a mapper that can learn new resources.
type RefreshingMapper interface {
	rules.Mapper
	Refresh(ctx context.Context) error
}

// DiscoveryOptions are what a Discovery needs.
type DiscoveryOptions struct {
	Lister SeriesLister
	Mapper RefreshingMapper
	// Relist is the time between two listings of a series query; 10m by default.
	Relist time.Duration
	// MaxAge is how long a metric stays known without a series, and how far back
	// listings look; Relist by default.
	MaxAge time.Duration
}

// Discovery keeps in the catalog which metrics the rules make. It lists each series
// query of each server every Relist, and keeps what it knew of one that fails.
type Discovery struct {
	catalog   *Catalog
	opts      DiscoveryOptions
	onChange  func()
	onTrouble func()
	wake      chan struct{} // tells Run that there are other queries

	mu      sync.Mutex
	log     klog.Logger
	set     *rules.Set
	queries map[seriesQuery]*listed
	// running are closed when the listings of a query are over that Run has started; nil
	// before Run.
	running map[seriesQuery]chan struct{}
	servers map[string]*server
	// mapped says that the mapper has learned the API's resources, generation which ones,
	// and mapErr why it did not the last time.
	mapped     bool
	generation uint64
	mapErr     error
	// started says that every query was tried once and the API's resources are known, or
	// that startup has passed.
	started bool
	// reported says that OnTrouble was called since every query of the rules was tried.
	reported bool
	// lacking says since when the API server does not have a resource that a rule names.
	lacking map[lack]time.Time
	// told are the overlaps of rules that were logged.
	told map[string]bool
}

// lack is an override of a rule whose resource the API server does not have. The rule may
// have another ID in another file.
type lack struct {
	rule string
	rules.Unmapped
}

// seriesQuery is what a server is asked.
type seriesQuery struct{ server, selector string }

// listed is what is known of a series query.
type listed struct {
	seriesQuery

	// offset is its part of the spread of a round.
	offset time.Duration
	cancel context.CancelFunc
	// again tells follow that a listing that failed is worth another attempt.
	again chan struct{}
	// asking says that it is listed now, or waits for its turn.
	asking bool

	inventory *inventory
	// made are what the rules make of the inventory; a rule is absent until that is made.
	made map[*rules.Compiled]*made

	succeeded, failed int
	// failures are those in a row, the last of which ended at ended. err and since are zero
	// without.
	failures int
	ended    time.Time
	err      error
	since    time.Time
	success  time.Time
	// outage has the listings that fail of the same, while this one does.
	outage *outage
	blame
}

// NewDiscovery asks nobody before Run. It has no rules before SetRules.
func NewDiscovery(c *Catalog, opts DiscoveryOptions) *Discovery {
	opts.Relist = cmp.Or(opts.Relist, defaultRelist)
	opts.MaxAge = cmp.Or(opts.MaxAge, opts.Relist)
	return &Discovery{
		catalog: c, opts: opts, onChange: func() {}, onTrouble: func() {}, wake: make(chan struct{}, 1),
		log: klog.Background(), set: &rules.Set{}, queries: map[seriesQuery]*listed{},
		servers: map[string]*server{}, told: map[string]bool{},
	}
}

// OnChange sets what to call when the catalog's rule metrics changed. Call it before Run.
func (d *Discovery) OnChange(f func()) { d.onChange = f }

// OnTrouble sets what to call when Troubles has others than before, and once when every
// query of rules that were set was tried, also if there is none. Call it before Run.
func (d *Discovery) OnTrouble(f func()) { d.onTrouble = f }

// SetRules replaces the rules. What is known of a series query stays known for rules that
// ask the same, unless its server is one of those that changed: what such a name stood for
// before says nothing of what it stands for now. The others are listed at once. A panic
// leaves everything as it was.
func (d *Discovery) SetRules(set *rules.Set, changed ...string) {
	if set == nil {
		set = &rules.Set{}
	}
	var gone []*listed
	d.update(func() bool {
		before := d.queries
		d.set, d.queries = set, map[seriesQuery]*listed{}
		for r := range allRules(set) {
			q := seriesQuery{r.Server, r.SeriesQuery}
			switch {
			case d.queries[q] != nil:
			case before[q] == nil || slices.Contains(changed, r.Server):
				d.queries[q] = d.newListed(q)
			default:
				d.queries[q] = before[q]
			}
		}
		for q, l := range before {
			if d.queries[q] != l && l.cancel != nil {
				gone = append(gone, l)
			}
		}
		d.reported = false
		return false
	})
	for _, l := range gone {
		l.cancel()
	}
	d.forget(gone)
	select {
	case d.wake <- struct{}{}:
	default: // It will look anyway.
	}
}

func (d *Discovery) newListed(q seriesQuery) *listed {
	return &listed{
		seriesQuery: q,
		offset:      rand.N(max(d.opts.Relist/spread, 1)), //nolint:gosec // Nobody gains by guessing it.
		again:       make(chan struct{}, 1),
		inventory:   &inventory{},
		made:        map[*rules.Compiled]*made{},
	}
}

// update changes what is known, makes of it what the catalog serves, and tells those
// who wait for changes. The change says whether there are other troubles than before.
func (d *Discovery) update(change func() bool) {
	changed, trouble := d.swap(change)
	if changed {
		d.onChange()
	}
	if trouble {
		d.onTrouble()
	}
}

// swap does what update says, but for telling anybody. If it panics, the rules and the
// catalog are those of before.
func (d *Discovery) swap(change func() bool) (changed, trouble bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set, queries, reported, lacking, told, done := d.set, d.queries, d.reported, d.lacking, d.told, false
	defer func() {
		if !done {
			d.set, d.queries, d.reported, d.lacking, d.told = set, queries, reported, lacking, told
		}
	}()
	trouble = change()
	before, now := d.catalog.load().rules, d.snapshot()
	trouble = trouble || !maps.Equal(d.lacking, lacking)
	if slices.Equal(now.customNames, before.customNames) {
		now.customNames = before.customNames // Its readers may know it by its place.
	}
	if d.running != nil && !d.reported && d.listedOrFailed() {
		d.reported, trouble = true, true
	}
	changed = !now.same(before)
	d.catalog.setRules(now)
	done = true
	return changed, trouble
}

// Run lists series until ctx is done.
func (d *Discovery) Run(ctx context.Context) error {
	d.mu.Lock()
	d.log, d.running = klog.FromContext(ctx), map[seriesQuery]chan struct{}{}
	d.mu.Unlock()
	d.update(func() bool { return false }) // There may be nothing to list, and that to report.
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { d.refreshMapper(ctx) })
	running.Go(func() { d.awaitStartup(ctx) })
	running.Go(func() { every(ctx, watchPause, d.watchOutages) })
	for {
		d.mu.Lock()
		for q, l := range d.queries {
			if l.cancel == nil {
				d.start(ctx, &running, q, l)
			}
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
	}
}

// start lists l until ctx is done or l is canceled, after the last listing of the same
// query for rules that are gone.
func (d *Discovery) start(ctx context.Context, running *sync.WaitGroup, q seriesQuery, l *listed) {
	ctx, l.cancel = context.WithCancel(ctx)
	before, done := d.running[q], make(chan struct{})
	d.running[q] = done
	running.Go(func() {
		defer close(done)
		if before != nil {
			<-before
		}
		d.follow(ctx, l)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.running[q] == done {
			delete(d.running, q)
		}
	})
}

// follow lists one query, now and every Relist.
func (d *Discovery) follow(ctx context.Context, l *listed) {
	for ctx.Err() == nil {
		d.list(ctx, l)
		select {
		case <-ctx.Done():
		case <-time.After(d.pause(l, time.Now())):
		case <-l.again:
			select {
			case <-ctx.Done():
			case <-time.After(rand.N(retrySpread)): //nolint:gosec // Nobody gains by guessing it.
			}
		}
	}
}

// every calls f after each pause until ctx is done.
func every(ctx context.Context, pause time.Duration, f func()) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// pause is the time until the next listing of l: to its place in the next round, or
// less while nothing is known. For one whose server could not be asked, watchOutages may
// cut it short.
func (d *Discovery) pause(l *listed, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !l.success.IsZero() || l.failures == 0 {
		return untilRound(now.Add(-l.offset), d.opts.Relist)
	}
	wait := sources.Backoff(firstRetry, d.opts.Relist, l.failures)
	return wait - rand.N(max(wait/4, 1)) //nolint:gosec // Nobody gains by guessing it.
}

// untilRound is the time from t to the next multiple of every.
func untilRound(t time.Time, every time.Duration) time.Duration {
	return every - time.Duration(t.UnixNano())%every
}

// list lists one query and takes in what it finds.
func (d *Discovery) list(ctx context.Context, l *listed) {
	slot := d.slot(l)
	select {
	case <-ctx.Done():
		return
	case slot <- struct{}{}:
	}
	now, found := time.Now(), newListing(l.inventory)
	err := d.ask(ctx, l.seriesQuery, found, now)
	<-slot
	if ctx.Err() == nil {
		d.update(func() bool { return d.settle(l, found, err, now) })
	}
}

// slot bounds the listings of the server of l, which waits for it from now on.
func (d *Discovery) slot(l *listed) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.asking = true
	return d.server(l.server).slots
}

// ask lists one query.
func (d *Discovery) ask(ctx context.Context, q seriesQuery, found *listing, now time.Time) error {
	limited, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	timed, cancel := context.WithTimeout(limited, listTimeout)
	defer cancel()
	err := d.opts.Lister.Series(timed, q.server, q.selector, now.Add(-d.opts.MaxAge), now, func(name string, labelNames []string) {
		found.visit(name, labelNames)
		if found.err != nil {
			stop(errTooMuch)
		}
	})
	switch {
	case found.err != nil:
		return found.err
	case err != nil && limited.Err() == nil && timed.Err() != nil:
		return fmt.Errorf("no answer within %v: %w", listTimeout, err)
	}
	return err
}

// settle takes in the end of a listing that began now, and says whether there is
// another trouble.
func (d *Discovery) settle(l *listed, found *listing, err error, now time.Time) bool {
	if d.queries[l.seriesQuery] != l {
		return false // It was replaced while it was listed.
	}
	l.asking = false
	select {
	case <-l.again: // It was listed since.
	default:
	}
	before, s := l.outage, d.server(l.server)
	if err != nil {
		l.fail(err, now)
		s.failed(l, before, now, blame{away: found.err == nil && isAway(err)})
	} else {
		l.succeed(found.finish(now, d.opts.MaxAge), now)
	}
	s.regroup(l)
	if err == nil {
		s.answered(now)
	}
	d.tellListing(l, before)
	return l.outage != before
}

// fail takes in that the listing that began now failed.
func (l *listed) fail(err error, now time.Time) {
	if l.err == nil {
		l.since = now
	}
	l.failed++
	l.failures++
	l.err, l.ended = err, time.Now()
}

// succeed takes in what the listing that began now found.
func (l *listed) succeed(known *inventory, now time.Time) {
	l.succeeded++
	l.failures, l.err, l.since, l.success = 0, nil, time.Time{}, now
	l.blame = blame{}
	if !known.same(l.inventory) {
		clear(l.made)
	}
	l.inventory = known
}

// known says in words what is known of a query that fails.
func (l *listed) known() string {
	if l.success.IsZero() {
		return "nothing is known of them yet"
	}
	return "the metrics that are known stay"
}

// awaitStartup lets the catalog be ready however the first listings go.
func (d *Discovery) awaitStartup(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(startup):
		d.update(func() bool {
			d.started = true
			return false
		})
	}
}

var errNotListed = errors.New("the series of the rules are not listed yet")
