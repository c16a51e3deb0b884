// Package loader puts load on a program over HTTP and counts what comes of it.
//
// By default the loop is open: requests are due by the clock, at a rate, whatever the answers
// are like, as users come to a shop whether it is slow or not. Latency counts from when a
// request was due. With --count the loop is closed: each session sends a request when
// the one before is answered.
package loader

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/admin"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/metrics"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/serve"
)

// What Summary.Loop says.
const (
	openLoop   = "open"
	closedLoop = "closed"
)

// Limits of what may be asked for. A session is some kilobytes, a request in flight a
// connection and its buffers.
const (
	maxSessions = 10_000
	maxInFlight = 10_000
)

// options are the flags.
type options struct {
	url            string
	path           string
	mix            string
	rate           float64
	ratePerSession float64
	sessions       int
	count          int
	duration       time.Duration
	keepAlive      bool
	timeout        time.Duration
	inFlight       int
	publish        time.Duration
	admin          string
	output         string
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("loader", flag.ContinueOnError)
	fs.StringVar(&o.url, "url", "", "what to load, such as http://web")
	fs.StringVar(&o.path, "path", ordersPath, "what is asked for: "+ordersPath+" in the --mix, "+tokenPath+" by POST, or another path by GET")
	fs.StringVar(&o.mix, "mix", "place=1,list=4", "how often to place, list, get and update orders")
	fs.Float64Var(&o.rate, "rate", 25, "requests a second, of all sessions together")
	fs.Float64Var(&o.ratePerSession, "rate-per-session", 0, "requests a second of each session, in place of --rate")
	fs.IntVar(&o.sessions, "sessions", 10, "users, each with connections and cookies of its own")
	fs.IntVar(&o.count, "count", 0, "send so many requests in each session, one after the other, in place of a rate")
	fs.DurationVar(&o.duration, "duration", 0, "how long; 0 is until it is stopped, or all of --count are sent")
	fs.BoolVar(&o.keepAlive, "keep-alive", true, "use a connection for more than one request")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	fs.IntVar(&o.inFlight, "in-flight", 1000, "requests that may wait for an answer; those that are due beyond it are skipped and counted")
	fs.DurationVar(&o.publish, "publish", 10*time.Second, "how often to put the counts into CloudWatch; 0 is never")
	fs.StringVar(&o.admin, "admin-listen", ":9797", "where /metrics, /livez, /rate and /summary are")
	fs.StringVar(&o.output, "o", "table", "how the summary is written: table or json")
	if err := flags.Parse(fs, args); err != nil {
		return o, err
	}
	err := o.check()
	return o, err
}

func (o *options) check() error {
	if o.ratePerSession != 0 {
		o.rate = o.ratePerSession * float64(o.sessions)
	}
	if err := checkRate(o.rate); err != nil {
		return flags.Wrong("rate", "%w", err)
	}
	for _, n := range []struct {
		name               string
		value, least, most int
	}{
		{"sessions", o.sessions, 1, maxSessions},
		{"in-flight", o.inFlight, 1, maxInFlight},
		{"count", o.count, 0, 1_000_000_000},
	} {
		if n.value < n.least || n.value > n.most {
			return flags.Wrong(n.name, "%d is not from %d to %d", n.value, n.least, n.most)
		}
	}
	switch {
	case o.count > 0 && o.ratePerSession != 0:
		return flags.Wrong("count", "sessions that wait for answers have no --rate-per-session")
	case o.duration < 0:
		return flags.Wrong("duration", "%v is before it begins", o.duration)
	case o.timeout < time.Millisecond:
		return flags.Wrong("timeout", "%v is less than a millisecond", o.timeout)
	case o.publish != 0 && o.publish < time.Second:
		return flags.Wrong("publish", "%v is less than a second, and not 0", o.publish)
	case o.output != "table" && o.output != "json":
		return flags.Wrong("o", "%q is neither table nor json", o.output)
	}
	return nil
}

// target is where requests go.
func (o *options) target() (url.URL, error) {
	u, err := url.Parse(o.url)
	switch {
	case err != nil:
		return url.URL{}, flags.Wrong("url", "%w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.User != nil, u.RawQuery != "", u.Fragment != "", u.Path != "" && u.Path != "/":
		return url.URL{}, flags.Wrong("url", "want http:// or https:// and a host, and the path as --path")
	}
	path, err := url.Parse(o.path)
	if err != nil || path.Host != "" || !strings.HasPrefix(path.Path, "/") {
		return url.URL{}, flags.Wrong("path", "%q does not start with /", o.path)
	}
	u.Path, u.RawPath, u.RawQuery = path.Path, path.RawPath, path.RawQuery
	return *u, nil
}

// Run is the mode: it loads until ctx is done, or what was asked for is.
func Run(ctx context.Context, args []string) error {
	return run(ctx, args, os.Stdout)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	l, err := newLoader(ctx, o)
	if err != nil {
		return err
	}
	server, err := serve.Start(ctx, admin.Port(o.admin, l.admin()))
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop(context.WithoutCancel(ctx)) }() // What is under way has had its time.
	publishing, published := context.WithCancel(context.WithoutCancel(ctx))
	var publisher sync.WaitGroup
	publisher.Go(func() { l.publish.Run(publishing, o.publish, nil) })
	slog.Info("loading", "url", l.target.String(), "loop", l.loop(), "rate", o.rate, "sessions", o.sessions, "keepAlive", o.keepAlive)
	l.run(ctx)
	published() // What has not been put is put now.
	publisher.Wait()
	if o.output == "json" {
		return l.summary().WriteJSON(out)
	}
	return l.summary().WriteTable(out)
}

// loader puts load on one target.
type loader struct {
	options

	target   url.URL
	pace     pace
	sessions []*session
	results  *results
	publish  *metrics.Publisher
	registry *prometheus.Registry

	inFlight atomic.Int64
	turn     int // whose turn it is of the sessions
	running  sync.WaitGroup
	began    time.Time
	// ended is when the last request was started, in nanoseconds after began; 0 until then.
	ended atomic.Int64
}

func newLoader(ctx context.Context, o options) (*loader, error) {
	l := &loader{options: o, registry: prometheus.NewRegistry()}
	target, err := o.target()
	if err != nil {
		return nil, err
	}
	l.target = target
	mix, err := parseMix(o.mix)
	if err != nil {
		return nil, flags.Wrong("mix", "%w", err)
	}
	for range o.sessions {
		l.sessions = append(l.sessions, newSession(target, mix, o.keepAlive))
	}
	if o.publish > 0 {
		if l.publish, err = metrics.NewPublisher(ctx, metrics.Namespace); err != nil {
			return nil, err
		}
	}
	l.results = newResults(l.registry, l.publish)
	l.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "loader_rate", Help: "Requests a second that are asked for; 0 of a closed loop.",
	}, l.pace.get))
	l.began = time.Now()
	if o.count == 0 {
		l.pace.set(o.rate, l.began)
	}
	return l, nil
}

func (l *loader) loop() string {
	if l.count > 0 {
		return closedLoop
	}
	return openLoop
}

// run starts requests until ctx is done or what was asked for is, and waits for the answers.
func (l *loader) run(ctx context.Context) {
	if l.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, l.began.Add(l.duration))
		defer cancel()
	}
	if l.count > 0 {
		l.closed(ctx)
	} else {
		l.open(ctx)
	}
	l.ended.Store(max(1, int64(time.Since(l.began))))
	l.running.Wait()
}

// open starts what is due when it is.
func (l *loader) open(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		a := l.pace.take(before(ctx, time.Now()))
		l.results.skip(tooLate, a.late)
		for _, due := range a.due {
			l.start(ctx, due)
		}
		timer.Reset(a.wait)
		select {
		case <-timer.C:
		case <-a.changed:
		case <-ctx.Done():
			l.results.skip(tooLate, l.pace.rest(before(ctx, time.Now())))
			return
		}
	}
}

// before is now, or the last moment before the deadline of ctx: what is due at the end is not
// of that time any more.
func before(ctx context.Context, now time.Time) time.Time {
	if deadline, ok := ctx.Deadline(); ok && !now.Before(deadline) {
		return deadline.Add(-1)
	}
	return now
}

// start starts the request that was due then.
func (l *loader) start(ctx context.Context, due time.Time) {
	if l.inFlight.Load() >= int64(l.options.inFlight) {
		l.results.skip(tooMany, 1)
		return
	}
	s := l.sessions[l.turn]
	l.turn = (l.turn + 1) % len(l.sessions)
	l.inFlight.Add(1)
	l.results.start(time.Now())
	l.running.Go(func() {
		l.one(ctx, s, due)
		l.inFlight.Add(-1)
	})
}

// one sends a request. It is not given up when ctx is done: that is for the next one.
func (l *loader) one(ctx context.Context, s *session, due time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	defer cancel()
	o := s.do(ctx)
	l.results.end(o, time.Since(due))
}

// closed has each session send its requests, one after the other.
func (l *loader) closed(ctx context.Context) {
	for _, s := range l.sessions {
		l.running.Go(func() {
			for range l.count {
				if ctx.Err() != nil {
					return
				}
				now := time.Now()
				l.results.start(now)
				l.one(ctx, s, now)
			}
		})
	}
	l.running.Wait()
}

func (l *loader) summary() Summary {
	took := time.Duration(l.ended.Load())
	if took == 0 {
		took = time.Since(l.began)
	}
	s := l.results.summary(took)
	s.URL, s.Loop = l.target.String(), l.loop()
	if l.count > 0 {
		s.RateAsked = 0
	}
	return s
}
