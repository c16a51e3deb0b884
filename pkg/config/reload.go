package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
)

const (
	// pollEvery is how often the file is read for changes that nobody announced, as on
	// file systems of a network.
	pollEvery = 15 * time.Second
	// settleFor is how long the file's directory has to be quiet before the file is
	// read, and how long its text has to stay the same, so that half of a file is not
	// taken for all of it; settleAtMost is when it is read in any case.
	settleFor    = 200 * time.Millisecond
	settleAtMost = 2 * time.Second
)

// errEmptied is why an empty file is not taken for a new configuration.
var errEmptied = errors.New("the file has become empty; to remove all that it had, write `rules: []`")

// ReloaderOptions are what a Reloader needs.
type ReloaderOptions struct {
	// Path is the configuration file; with an empty one there is nothing to reload.
	Path string
	// Current is the configuration that is in force. Load was its origin.
	Current *Config
	// Load reads the file anew.
	Load func() (*Config, error)
	// Apply puts a new configuration in force, or leaves the one before in force and
	// says why.
	Apply func(ctx context.Context, c *Config) error
	// Report is told how things are: when the Reloader starts and whenever that
	// changes. c is the configuration in force, and err why it is not that of the file; nil
	// if it is. It may be nil.
	Report func(c *Config, err error)
}

// Reloader keeps the file and the configuration in force the same: a new file that is
// good comes into force, and while the file is bad or away the last good one stays. It
// is a prometheus.Collector of how that goes.
type Reloader struct {
	opts ReloaderOptions
	// tried is the digest of the text that was tried last; failure is how that ended.
	tried   string
	failure error
	// seen is what was there at the last look and has yet to stay.
	seen string

	succeeded, succeededAt prometheus.Gauge
	reloads                *prometheus.CounterVec

	// watch starts a watch of a directory. Tests replace it.
	watch func(directory string) (*fsnotify.Watcher, error)
}

// NewReloader makes a Reloader, for which opts.Current counts as its first success.
func NewReloader(opts ReloaderOptions) *Reloader {
	if opts.Report == nil {
		opts.Report = func(*Config, error) {}
	}
	r := &Reloader{
		opts:  opts,
		tried: opts.Current.Digest(),
		watch: watchDirectory,
		succeeded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidegauge_config_last_reload_successful",
			Help: "1 if the configuration in force is that of the file, 0 if the file is bad or away and the last good one stays in force.",
		}),
		succeededAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidegauge_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in force was loaded.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegauge_config_reloads_total",
			Help: "Changes of the configuration file since the start, by result: ok (in force) or failed (the last good one stays).",
		}, []string{"result"}),
	}
	r.reloads.WithLabelValues("ok")
	r.reloads.WithLabelValues("failed")
	r.succeeded.Set(1)
	r.succeededAt.SetToCurrentTime()
	return r
}

// Describe implements prometheus.Collector.
func (r *Reloader) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (r *Reloader) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.collectors() {
		c.Collect(ch)
	}
}

func (r *Reloader) collectors() []prometheus.Collector {
	return []prometheus.Collector{r.succeeded, r.succeededAt, r.reloads}
}

// Run watches the file until ctx is done. It watches the directory, as neither the
// symbolic links of a ConfigMap nor an editor's rename leave the file itself in place.
func (r *Reloader) Run(ctx context.Context) error {
	r.opts.Report(r.opts.Current, nil)
	warn(ctx, r.opts.Current)
	if r.opts.Path == "" {
		<-ctx.Done()
		return nil
	}
	directory := filepath.Dir(r.opts.Path)
	watcher, err := r.watch(directory)
	if err != nil {
		klog.FromContext(ctx).Info("The configuration file is read now and then, as its directory cannot be watched", "path", r.opts.Path, "every", pollEvery, "reason", err.Error())
		watcher = &fsnotify.Watcher{}
	} else {
		defer watcher.Close()
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	var quiet settling
	// The file may have changed since Current was read.
	quiet.disturb(time.Now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			quiet.disturb(time.Now())
		case err := <-watcher.Errors:
			klog.FromContext(ctx).V(1).Info("Events of the configuration file were lost", "reason", err.Error())
			quiet.disturb(time.Now())
		case <-quiet.over:
			quiet = settling{}
			if !r.look(ctx) {
				quiet.disturb(time.Now())
			}
		case <-poll.C:
			if err == nil {
				// The watch ended if the directory was replaced by another one.
				_ = watcher.Add(directory)
			}
			// What the file names may be there by now.
			if r.failure != nil {
				r.tried = ""
			}
			quiet.disturb(time.Now())
		}
	}
}

func watchDirectory(directory string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := w.Add(directory); err != nil {
		_ = w.Close() // It has nothing to lose.
		return nil, err
	}
	return w, nil
}

// settling is the time from a first event until there was none for a while.
type settling struct {
	over  <-chan time.Time
	since time.Time
}

func (s *settling) disturb(now time.Time) {
	if s.over == nil {
		s.since = now
	}
	s.over = time.After(min(settleFor, s.since.Add(settleAtMost).Sub(now)))
}

// look tries the file if its text is another than the one that was tried last. It is
// false while the text has to stay the same for a little longer.
func (r *Reloader) look(ctx context.Context) bool {
	text, err := read(r.opts.Path)
	digest := digestOf(text)
	if err != nil {
		digest = err.Error()
	}
	if digest == r.tried {
		r.seen = ""
		return true
	}
	if digest != r.seen {
		r.seen = digest
		return false
	}
	r.tried, r.seen = digest, ""
	switch {
	case err != nil:
		r.fail(ctx, fmt.Errorf("configuration file: %w", err))
	case digest == r.opts.Current.Digest():
		if r.failure != nil {
			r.succeed(ctx, r.opts.Current)
		}
	case len(bytes.TrimSpace(text)) == 0:
		r.fail(ctx, fmt.Errorf("configuration file %s: %w", r.opts.Path, errEmptied))
	default:
		r.try(ctx)
	}
	return true
}

func (r *Reloader) try(ctx context.Context) {
	c, err := r.load(ctx)
	if err != nil {
		r.fail(ctx, err)
		return
	}
	r.tried = c.Digest()
	r.succeed(ctx, c)
}

// load gives the new configuration once it is in force. A fault of the program that a
// file brings to light does not end the program.
func (r *Reloader) load(ctx context.Context) (c *Config, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration file %s: loading it panicked: %v", r.opts.Path, p)
			klog.FromContext(ctx).Error(err, "Recovered", "stack", string(debug.Stack()))
		}
	}()
	c, err = r.opts.Load()
	if err != nil {
		return nil, err
	}
	if err := r.opts.Apply(ctx, c); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", r.opts.Path, err)
	}
	return c, nil
}

func (r *Reloader) succeed(ctx context.Context, c *Config) {
	if c != r.opts.Current {
		r.succeededAt.SetToCurrentTime()
	}
	r.opts.Current, r.failure = c, nil
	r.succeeded.Set(1)
	r.reloads.WithLabelValues("ok").Inc()
	klog.FromContext(ctx).Info("Configuration loaded", "path", r.opts.Path, "configuration", c.Summary())
	warn(ctx, c)
	r.opts.Report(c, nil)
}

// warn logs what is allowed and cannot work.
func warn(ctx context.Context, c *Config) {
	for _, warning := range c.Compiled.Warnings {
		klog.FromContext(ctx).Info("The configuration has a rule that cannot work", "rule", warning)
	}
}

// fail tells of a failure once, however often the file is tried.
func (r *Reloader) fail(ctx context.Context, err error) {
	if r.failure != nil && r.failure.Error() == err.Error() {
		return
	}
	r.failure = err
	r.succeeded.Set(0)
	r.reloads.WithLabelValues("failed").Inc()
	klog.FromContext(ctx).Error(err, "Configuration not loaded: the one before stays in force", "path", r.opts.Path)
	r.opts.Report(r.opts.Current, err)
}
