package prometheus

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// listingLimit is how long one list of series may take.
	listingLimit = time.Minute
	// maxLabels and maxName are beyond what any series has that is a metric: its name
	// becomes a part of a URL.
	maxLabels = 1000
	maxName   = 1024
)

// Series visits every series that the selector matches and that had samples between
// start and end, as the server sends them: its name and its other label names, both
// valid only during the call; the label names are sorted. The answer is not held in memory.
// It takes a minute at most.
//
// An error may come after some of the series were visited. They are not all there are,
// so that what was gathered of them must be dropped. An answer that the server itself says
// is not complete is no error, but for the log: a store that is away for good would
// otherwise keep all metrics from being found, and those whose series are missing are
// known for a while longer in any case. Series without a name, and those
// with a name of more than 1,024 bytes or more than 1,000 labels, are left out.
func (s *Source) Series(ctx context.Context, server, selector string, start, end time.Time, visit func(name string, labelNames []string)) error {
	asked, err := s.server(server)
	if err != nil {
		return err
	}
	c := asked.newCall(endpointSeries, url.Values{
		"match[]": {selector}, "start": {seconds(start)}, "end": {seconds(end)},
	})
	c.limit = listingLimit
	var e envelope
	f := s.do(ctx, []chan struct{}{asked.listings}, c, func() error {
		if err := decodeSeries(c.answer, &e, visit); err != nil {
			return err
		}
		return c.check(e)
	})
	if f != nil {
		return asked.wrap(f)
	}
	if e.isIncomplete() && asked.incomplete.CompareAndSwap(false, true) {
		klog.FromContext(ctx).Info("A list of series is not complete, so that metrics may be missing; this is said once", "server", asked.name,
			"asked", c.asked(), "warning", c.clean(cmp.Or(e.incomplete, isPartial), maxWords))
	}
	c.logWarnings(ctx, e)
	return nil
}

// logWarnings has in the log what the server says besides its answer.
func (c *call) logWarnings(ctx context.Context, e envelope) {
	for _, warning := range e.warnings {
		klog.FromContext(ctx).V(2).Info("Prometheus warns of an answer", "server", c.server.name, "endpoint", c.endpoint,
			"asked", c.asked(), "warning", c.clean(warning, maxWords))
	}
}

// asked is the PromQL of the call.
func (c *call) asked() string {
	return sources.Shorten(oneLine(c.form.Get("query")+c.form.Get("match[]")), maxWords)
}

// listing is a list of series while it is read.
type listing struct {
	*decoder

	visit func(name string, labelNames []string)
	// name, labels and tooLarge are of the series that is being read.
	name     string
	labels   []string
	tooLarge bool
}

// decodeSeries visits the series of an answer.
func decodeSeries(from *meter, e *envelope, visit func(name string, labelNames []string)) error {
	l := &listing{decoder: newDecoder(from), visit: visit}
	member := l.member
	return l.envelope(e, func() error {
		return l.array(func() error {
			l.name, l.labels, l.tooLarge = "", l.labels[:0], false
			if err := l.object(member); err != nil {
				return err
			}
			l.end()
			return nil
		})
	})
}

// member reads a label.
func (l *listing) member(label []byte) error {
	if string(label) == "__name__" {
		name, err := l.text()
		if l.tooLarge = l.tooLarge || len(name) > maxName; !l.tooLarge {
			l.name = l.names.get(name)
		}
		return err
	}
	if l.tooLarge = l.tooLarge || len(label) > maxName || len(l.labels) == maxLabels; !l.tooLarge {
		l.labels = append(l.labels, l.names.get(label))
	}
	_, err := l.raw(jsontext.KindString)
	return err
}

// end visits the series.
func (l *listing) end() {
	if l.name == "" || l.tooLarge {
		return
	}
	if !slices.IsSorted(l.labels) {
		slices.Sort(l.labels)
	}
	l.visit(l.name, l.labels)
}
