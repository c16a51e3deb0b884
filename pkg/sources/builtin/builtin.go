// Package builtin is the list of the sources that the adapter has. A new source
// is a folder beside pkg/sources/cloudwatch and a line in sourcesOf.
package builtin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// Names of the sources.
const (
	CloudWatch = "cloudwatch"
	Prometheus = "prometheus"
)

// Source is a source that also counts what it does.
type Source interface {
	sources.Source
	prom.Collector
}

// listed is how a source is made.
type listed struct {
	name string
	// section is the part of the configuration that the source is made of.
	section any
	open    func(ctx context.Context) (Source, error)
	// changed are the backends that are gone or others, after that section was in force;
	// none is nil, and all are an empty list.
	changed func(before any) []string
}

// sourcesOf is the list.
func sourcesOf(c *config.Config) []listed {
	return []listed{
		{
			CloudWatch, c.CloudWatch,
			func(ctx context.Context) (Source, error) { return cloudwatch.New(ctx, c.CloudWatch) },
			func(any) []string { return []string{} },
		},
		{
			Prometheus, c.Prometheus,
			func(context.Context) (Source, error) { return prometheus.New(c.Prometheus) },
			func(before any) []string {
				servers, _ := before.(prometheus.Config)
				return servers.Changed(c.Prometheus)
			},
		},
	}
}

// Changes are, by source, the backends (as sources.Query's Backend names them) whose
// earlier answers no longer count, because their configuration has changed or they are
// gone. An empty list is all of the source's.
type Changes map[string][]string

// Set are the sources of a configuration, which may be replaced by those of another one
// while they are in use. It is a prometheus.Collector of all they count, and safe for
// concurrent use.
type Set struct {
	reloading sync.Mutex
	open      map[string]*reopened
	// sections are what the sources were made of.
	sections map[string]any
}

// Open makes every source of the list. It makes no call to a backend: one that is away
// shows in the metrics that need it.
func Open(ctx context.Context, c *config.Config) (*Set, error) {
	s := &Set{open: map[string]*reopened{}, sections: map[string]any{}}
	for _, l := range sourcesOf(c) {
		s.open[l.name] = &reopened{}
	}
	if _, err := s.Reload(ctx, c); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload replaces the sources whose part of the configuration has changed. Fetches under
// way end with the source that they began with; what a new one counts begins at zero. If
// one source cannot be made, none is replaced, and the error says which and why.
func (s *Set) Reload(ctx context.Context, c *config.Config) (Changes, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	made, sections, changes := map[string]Source{}, maps.Clone(s.sections), Changes{}
	var failed []error
	for _, l := range sourcesOf(c) {
		if reflect.DeepEqual(s.sections[l.name], l.section) {
			continue
		}
		source, err := l.open(ctx)
		if err != nil {
			failed = append(failed, fmt.Errorf("source %s: %w", l.name, err))
			continue
		}
		made[l.name], sections[l.name] = source, l.section
		if backends := l.changed(s.sections[l.name]); backends != nil && s.sections[l.name] != nil {
			changes[l.name] = backends
		}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	for name, source := range made {
		s.open[name].replace(source)
	}
	s.sections = sections
	return changes, nil
}

// Sources are the sources by name. They stay the same when their configuration changes.
func (s *Set) Sources() map[string]sources.Source {
	all := make(map[string]sources.Source, len(s.open))
	for name, source := range s.open {
		all[name] = source
	}
	return all
}

// Series lists series of a Prometheus server, as prometheus.Source does.
func (s *Set) Series(ctx context.Context, server, selector string, start, end time.Time, visit func(name string, labelNames []string)) error {
	source := s.open[Prometheus].source()
	lister, ok := source.(*prometheus.Source)
	if !ok {
		return fmt.Errorf("source %s: %T lists no series", Prometheus, source)
	}
	return lister.Series(ctx, server, selector, start, end, visit)
}

// Describe implements prometheus.Collector.
func (s *Set) Describe(ch chan<- *prom.Desc) {
	for _, name := range slices.Sorted(maps.Keys(s.open)) {
		s.open[name].source().Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Set) Collect(ch chan<- prom.Metric) {
	for _, name := range slices.Sorted(maps.Keys(s.open)) {
		s.open[name].source().Collect(ch)
	}
}

// reopened is a source that can be replaced.
type reopened struct{ current atomic.Pointer[Source] }

func (r *reopened) source() Source { return *r.current.Load() }

// replace puts another source in place. The connections of the one before, which its
// Fetches under way may still use, are closed when nobody does.
func (r *reopened) replace(source Source) {
	before := r.current.Swap(&source)
	if before == nil {
		return
	}
	if idle, ok := (*before).(interface{ CloseIdleConnections() }); ok {
		idle.CloseIdleConnections()
	}
}

// Fetch implements sources.Source.
func (r *reopened) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	return r.source().Fetch(ctx, queries)
}
