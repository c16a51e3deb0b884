package catalog

import (
	"context"
	"errors"
	"iter"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// probePause is after how long without an attempt one is made to list what failed
	// because its server could not be asked. With the pause of watchOutages, and with
	// retrySpread, it is 10 s at most.
	probePause = 8 * time.Second
	// stillAfter is how long listings may still fail after those that the log names
	// succeed, before it names the others: when a server is back they succeed together.
	stillAfter = 10 * time.Second
	// maxLogged is how many rules one line of the log names.
	maxLogged = 20
)

// server is how the listings of one server go.
type server struct {
	// slots bound them.
	slots chan struct{}
	// outages are why some fail, by the text of the error.
	outages map[string]*outage
	// tried is when the last attempt failed to ask the server, or another was due.
	tried time.Time
	// answers says that a listing has succeeded since one last came to fail because the
	// server could not be asked.
	answers bool
}

// outage is what listings of a server fail of.
type outage struct {
	cause error
	since time.Time
	// listings are those that fail of it, with whether the log has named them, and named
	// how many it has.
	listings map[*listed]bool
	named    int
	// unnamed is since when it has named none of those that fail.
	unnamed time.Time
}

// blame is what is known of whether the server or the listing is the fault of a failure.
type blame struct {
	// away says that the server could not be asked, as far as the error tells.
	away bool
	// answered is when it is known that the server has since answered another listing.
	answered time.Time
	// own says that it failed of the same again after that, so that it has a fault of
	// its own.
	own bool
}

// isAway says whether a listing failed because its server could not be asked: not because
// of what it asks, or of how often.
func isAway(err error) bool {
	if _, throttled := errors.AsType[*sources.ThrottledError](err); throttled {
		return false
	}
	return !errors.Is(err, sources.ErrRejected) && !errors.Is(err, sources.ErrTooSlow) && !errors.Is(err, context.DeadlineExceeded)
}

// server is made if there is none of that name. There are as many as the configuration
// has had names.
func (d *Discovery) server(name string) *server {
	s := d.servers[name]
	if s == nil {
		s = &server{slots: make(chan struct{}, listAtOnce), outages: map[string]*outage{}}
		d.servers[name] = s
	}
	return s
}

// failed finds the blame for a failure of the listing that began at asked, which is the
// one given if it did not fail of the same before.
func (s *server) failed(l *listed, before *outage, asked time.Time, first blame) {
	if before == nil || before.cause.Error() != l.err.Error() {
		l.blame = first
	} else if !l.answered.IsZero() && !asked.Before(l.answered) {
		l.own = true
	}
	if !l.away || l.own {
		return
	}
	s.tried = l.ended
	if before == nil && s.answers {
		// Others may have failed of that before.
		s.answers = false
		for o := range s.failing() {
			if o.away {
				o.blame = blame{away: true}
			}
		}
	}
}

// failing are the listings that fail.
func (s *server) failing() iter.Seq[*listed] {
	return func(yield func(*listed) bool) {
		for _, o := range s.outages {
			for l := range o.listings {
				if !yield(l) {
					return
				}
			}
		}
	}
}

// answered starts the listings that failed before the server was asked what it has
// answered, once: one that then fails of the same again has a fault of its own.
func (s *server) answered(asked time.Time) {
	s.answers = true
	for l := range s.failing() {
		if l.own || !l.ended.Before(asked) {
			continue
		}
		if l.answered.IsZero() {
			l.answered = time.Now()
		}
		l.hasten()
	}
}

func (l *listed) hasten() {
	select {
	case l.again <- struct{}{}:
	default: // It is told already.
	}
}

// probe lists one query that failed because the server could not be asked, of several the
// one that has waited longest. If that succeeds, the others follow. So an outage of many
// rules costs no more than one of one rule.
func (s *server) probe(now time.Time) {
	var next *listed
	for l := range s.failing() {
		if l.away && !l.own && !l.asking && (next == nil || l.ended.Before(next.ended)) {
			next = l
		}
	}
	if next != nil {
		s.tried = now
		next.hasten()
	}
}

// watchOutages lists again what failed because its server could not be asked, and logs
// which rules still fail after others that failed of the same.
func (d *Discovery) watchOutages() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for name, s := range d.servers {
		if now.Sub(s.tried) >= probePause {
			s.probe(now)
		}
		for _, o := range s.outages {
			if !o.unnamed.IsZero() && now.Sub(o.unnamed) >= stillAfter {
				o.name()
				d.naming(o, "server", name).Info("Listing series still fails for these rules, and no more for those that were logged",
					"failedFor", now.Sub(o.since), "cause", o.cause.Error())
			}
		}
	}
}

// regroup takes a listing from the outage that it was in to the one that it is in now.
func (s *server) regroup(l *listed) {
	if o := l.outage; o != nil {
		if l.err != nil && l.err.Error() == o.cause.Error() {
			return
		}
		s.leave(l)
	}
	if l.err == nil {
		return
	}
	text := l.err.Error()
	o := s.outages[text]
	if o == nil {
		o = &outage{cause: l.err, since: l.ended, listings: map[*listed]bool{}}
		s.outages[text] = o
	}
	l.outage, o.listings[l] = o, false
	if len(o.listings) == 1 {
		o.name()
	}
}

// leave takes a listing from its outage, which is over without any.
func (s *server) leave(l *listed) {
	o := l.outage
	if o.listings[l] {
		o.named--
	}
	if o.named == 0 && o.unnamed.IsZero() {
		o.unnamed = time.Now()
	}
	delete(o.listings, l)
	if o.over() {
		delete(s.outages, o.cause.Error())
	}
	l.outage = nil
}

func (o *outage) over() bool { return len(o.listings) == 0 }

// name notes that the log names all that fail.
func (o *outage) name() {
	for l := range o.listings {
		o.listings[l] = true
	}
	o.named, o.unnamed = len(o.listings), time.Time{}
}

// forget takes listings whose rules are gone, or whose server is another, from outages.
func (d *Discovery) forget(gone []*listed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range gone {
		before := l.outage
		if before == nil {
			continue
		}
		name := l.server
		d.server(name).leave(l)
		if before.over() {
			d.log.Info("Listing series that failed is given up, as the rules or their server were changed", "server", name, "cause", before.cause.Error())
		}
	}
}

// tellListing logs what has become of outages by a listing that was in the one before:
// when one begins and when it is over.
func (d *Discovery) tellListing(l *listed, before *outage) {
	switch now := l.outage; {
	case now == before:
	case now != nil && len(now.listings) == 1:
		log := d.naming(now, "server", l.server)
		if before != nil && before.over() {
			log = log.WithValues("before", before.cause.Error())
		}
		log.Error(l.err, "Listing series fails; more rules of the server that fail of this are not logged, but in the condition RulesDiscovered",
			"seriesQuery", l.selector, "known", l.known())
	case now == nil && before.over():
		d.log.Info("Listing series succeeds again, for all rules of the server that failed of this",
			"server", l.server, "failedFor", time.Since(before.since), "cause", before.cause.Error())
	case before != nil && before.over():
		d.log.Info("Listing series fails no more of this, but as for other rules of the server",
			"server", l.server, "before", before.cause.Error(), "cause", now.cause.Error())
	case now != nil:
		d.naming(now, "server", l.server).V(2).Info("Listing series fails as for other rules of the server",
			"seriesQuery", l.selector, "cause", now.cause.Error(), "known", l.known())
	}
}

// naming is the log with the rules whose listings are in the outage.
func (d *Discovery) naming(o *outage, keysAndValues ...any) klog.Logger {
	var ids []string
	for r := range allRules(d.set) {
		if _, fails := o.listings[d.queries[seriesQuery{r.Server, r.SeriesQuery}]]; fails {
			ids = append(ids, r.ID)
		}
	}
	log := d.log.WithValues(keysAndValues...).WithValues("rules", ids[:min(len(ids), maxLogged)])
	if more := len(ids) - maxLogged; more > 0 {
		log = log.WithValues("more", more)
	}
	return log
}
