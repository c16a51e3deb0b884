package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/local"
	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

const (
	// atOnce is how many metrics are read at once. Those of one backend share its calls.
	atOnce = 64
	// maxExposed, maxReads and maxItems are how many metrics of a rule are named, how many
	// external ones of it are read, and how many items of a metric are listed.
	maxExposed = 50
	maxReads   = 20
	maxItems   = 20
	// maxNamed is how many rules a finding names.
	maxNamed = 3
	// tellEvery is how often is told what is waited for.
	tellEvery = 2 * time.Second
)

// reading is one read of an external metric.
type reading struct {
	name     types.NamespacedName
	selector labels.Selector
	// source is what makes the metric, in words, and finding where it is.
	source  string
	finding Finding
	// field is the HPA's that asks for it, and err why it cannot be asked.
	field string
	err   error
}

// reads are the external metrics that an HPA asks for, as the HPA controller does.
func (*check) reads(h *hpa) []reading {
	var reads []reading
	for i, m := range h.typed.Spec.Metrics {
		if m.External == nil {
			continue
		}
		r := reading{
			name:     types.NamespacedName{Namespace: h.typed.Namespace, Name: m.External.Metric.Name},
			selector: labels.Everything(),
			field:    fmt.Sprintf("spec.metrics[%d].external.metric", i),
		}
		if s := m.External.Metric.Selector; s != nil {
			r.field += ".selector"
			r.selector, r.err = metav1.LabelSelectorAsSelector(s)
		}
		r.finding = h.finding(Error, r.field, "")
		reads = append(reads, r)
	}
	return reads
}

// live asks the backends, and judges by what they say too.
func (c *check) live(ctx context.Context, of *configuration) error {
	parts := c.parts(of)
	if parts.Backends = c.open(ctx, of); parts.Backends == nil {
		return nil
	}
	a, err := local.New(ctx, parts)
	if err != nil {
		return err
	}
	l := &live{check: c, Adapter: a, of: of}
	if err := a.While(ctx, l.ask); err != nil {
		return err
	}
	c.report.Rules, c.report.Values = l.rules, l.values
	c.look(a, of)
	return nil
}

// open makes the sources of a configuration; nil if that cannot be.
func (c *check) open(ctx context.Context, of *configuration) *builtin.Set {
	set, err := builtin.Open(ctx, of.Config)
	if err != nil {
		c.add(Finding{Severity: Error, File: of.file, Object: "configuration", Message: err.Error()})
		return nil
	}
	return set
}

// live asks the backends.
type live struct {
	*check
	*local.Adapter

	of     *configuration
	rules  []Rule
	values []Value
	// wanted and done count the reads.
	wanted, done atomic.Int64
}

// ask asks what ExternalMetrics define at once, and what rules make once that is known.
func (l *live) ask(ctx context.Context) error {
	telling, stop := context.WithCancel(ctx)
	defer stop()
	go l.tellHow(telling)
	var ofObjects, ofRules []Value
	var found []Finding
	var group sync.WaitGroup
	group.Go(func() { ofObjects, found = l.read(ctx, l.ofObjects()) })
	l.Await(ctx)
	l.judgeRules(l.Discovery.Found())
	l.askUsage(ctx)
	ofRules, findings := l.read(ctx, l.ofRules())
	group.Wait()
	for _, f := range slices.Concat(found, findings) {
		l.add(f)
	}
	l.values = slices.Concat(ofObjects, ofRules)
	return nil
}

// tellHow tells how far it is, until ctx is done.
func (l *live) tellHow(ctx context.Context) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		listed, rules := 0, l.Discovery.Found()
		for _, f := range rules {
			if f.Listed || f.Err != nil {
				listed++
			}
		}
		l.tell(fmt.Sprintf("%v: %d of %d rules' series are listed, %d of %d metrics are read",
			time.Since(began).Round(time.Second), listed, len(rules), l.done.Load(), l.wanted.Load()))
	}
}

// ofObjects are the reads of what ExternalMetrics define.
func (l *live) ofObjects() []reading {
	var reads []reading
	for i, m := range l.metrics {
		metric := l.Metrics[i]
		// Of two of one name the catalog has the later one.
		if m.refused || metric.Err != nil || l.Catalog.External(metric.Name) != metric {
			continue
		}
		reads = append(reads, reading{
			name: metric.Name, selector: labels.Everything(), source: "ExternalMetric",
			finding: m.finding(Error, "", ""),
		})
	}
	return reads
}

// ofRules are the reads of external metrics that rules make: those that HPAs name, by their
// selectors and from their namespaces, and some of the others.
func (l *live) ofRules() []reading {
	var reads []reading
	named := map[string]bool{}
	for _, h := range l.hpas {
		for _, r := range l.reads(h) {
			rule := l.Catalog.ExternalRule(r.name.Name)
			if rule == nil || r.err != nil || l.Catalog.External(r.name) != nil {
				continue
			}
			named[r.name.Name] = true
			r.source = rule.Rule.ID
			reads = append(reads, r)
		}
	}
	for _, f := range l.Discovery.Found() {
		names := l.madeBy(f)
		for _, name := range names[:min(len(names), maxReads)] {
			if named[name] {
				continue
			}
			reads = append(reads, reading{
				name: types.NamespacedName{Namespace: l.Namespace, Name: name}, selector: labels.Everything(), source: f.Rule.ID,
				finding: Finding{Severity: Error, File: l.of.file, Line: l.of.lineOf(f.Rule), Object: f.Rule.ID},
			})
		}
	}
	return reads
}

// madeBy are the external metrics that are served by the rule: without those that a later
// one wins, and with the one of a literal name that has no series.
func (l *live) madeBy(f catalog.Found) []string {
	names := f.External
	if metric, ok := f.Rule.LiteralMetric(); ok && strings.HasPrefix(f.Rule.ID, "externalRules") && !slices.Contains(names, metric) {
		names = append(slices.Clone(names), metric)
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		made := l.Catalog.ExternalRule(name)
		return made == nil || made.Rule != f.Rule
	})
}

// read reads metrics, and gives their values in the order of the reads.
func (l *live) read(ctx context.Context, reads []reading) ([]Value, []Finding) {
	l.wanted.Add(int64(len(reads)))
	values, findings := make([]Value, len(reads)), make([]*Finding, len(reads))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, r := range reads {
		group.Go(func() error {
			values[i], findings[i] = l.readOne(ctx, r)
			l.done.Add(1)
			return nil
		})
	}
	_ = group.Wait() // None fails.
	var there []Finding
	for _, f := range findings {
		if f != nil {
			there = append(there, *f)
		}
	}
	return values, there
}

// readOne reads a metric as the HPA controller does.
func (l *live) readOne(ctx context.Context, r reading) (Value, *Finding) {
	v := Value{Namespace: r.name.Namespace, Metric: r.name.Name, Source: r.source}
	if !r.selector.Empty() {
		v.Selector = r.selector.String()
	}
	began := time.Now()
	list, err := l.External.GetExternalMetric(ctx, r.name.Namespace, r.selector, provider.ExternalMetricInfo{Metric: r.name.Name})
	v.Took = time.Since(began).Round(time.Millisecond).String()
	f := r.finding
	switch {
	case err != nil:
		v.Error = oneLine(err.Error())
		f.Message = v.Error
		// It exists, so that it is data that is not found.
		if apierrors.IsNotFound(err) {
			f.Severity = Warning
		}
		return v, &f
	case len(list.Items) == 0:
		f.Severity = Warning
		f.Message = fmt.Sprintf("external metric %s has no value for an HPA of namespace %s: its query gives nothing", r.name.Name, r.name.Namespace)
		f.Cure = "`adapter query external --explain` shows the query"
		return v, &f
	}
	v.fill(list.Items)
	return v, nil
}

// fill takes in the items, at least one.
func (v *Value) fill(items []external_metrics.ExternalMetricValue) {
	total := resource.Quantity{Format: resource.DecimalSI}
	for _, item := range items {
		total.Add(item.Value)
		if at := item.Timestamp.Time; v.Time == nil || at.After(*v.Time) {
			v.Time = &at
		}
	}
	v.Value = total.String()
	v.More = max(len(items)-maxItems, 0)
	for _, item := range items[:len(items)-v.More] {
		v.Items = append(v.Items, NewItem(item.MetricLabels, item.Value, item.Timestamp, item.WindowSeconds))
	}
}

// NewItem is an item in the API's terms.
func NewItem(labels map[string]string, value resource.Quantity, at metav1.Time, window *int64) Item {
	item := Item{Labels: labels, Value: value.String(), Time: at.Time}
	if window != nil {
		item.Window = (time.Duration(*window) * time.Second).String()
	}
	return item
}

// lineOf is the line of the rule in its file; 0 if that is not known.
func (c *configuration) lineOf(r *rules.Compiled) int {
	var line int
	if _, err := fmt.Sscanf(r.Where, "line %d", &line); err != nil {
		return 0
	}
	return c.line(line)
}

// judgeRules takes in what was found of the rules.
func (l *live) judgeRules(found []catalog.Found) {
	type failure struct{ server, text string }
	failed := map[failure][]*rules.Compiled{}
	var failures []failure
	for _, f := range found {
		row := Rule{Rule: f.Rule.ID, Server: f.Rule.Server, Series: f.Series, Names: f.Names}
		row.Metrics, row.Exposes = exposed(f)
		err := f.Err
		if err == nil && !f.Listed {
			err = errNoAnswer
		}
		if err != nil {
			row.Error = oneLine(err.Error())
			key := failure{f.Rule.Server, row.Error}
			if failed[key] == nil {
				failures = append(failures, key)
			}
			failed[key] = append(failed[key], f.Rule)
		} else {
			l.judgeRule(f, row.Metrics)
		}
		l.rules = append(l.rules, row)
	}
	for _, key := range failures {
		of := failed[key]
		l.add(Finding{
			Severity: Error, File: l.of.file, Line: l.of.lineOf(of[0]), Object: namesOf(of),
			Message: fmt.Sprintf("the series cannot be listed: server %s: %s", key.server, key.text),
		})
	}
}

var errNoAnswer = errors.New("no answer within --timeout")

// namesOf are the names of rules.
func namesOf(list []*rules.Compiled) string {
	var names []string
	for _, r := range list[:min(len(list), maxNamed)] {
		names = append(names, r.ID)
	}
	text := strings.Join(names, ", ")
	if more := len(list) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// exposed are how many metrics a rule makes, and the first of them by name.
func exposed(f catalog.Found) (n int, names []string) {
	for _, name := range f.Custom[:min(len(f.Custom), maxExposed)] {
		names = append(names, name.Resource.String()+"/"+name.Metric)
	}
	names = append(names, f.External[:min(len(f.External), maxExposed)]...)
	return len(f.Custom) + len(f.External), names
}

// judgeRule judges what the listing of a rule found.
func (l *live) judgeRule(f catalog.Found, metrics int) {
	say := func(s Severity, message, cure string) {
		l.add(Finding{Severity: s, File: l.of.file, Line: l.of.lineOf(f.Rule), Object: f.Rule.ID, Message: message, Cure: cure})
	}
	switch {
	case f.Series == 0:
		say(Warning, fmt.Sprintf("server %s has had no series of seriesQuery %s for %v", f.Rule.Server, f.Rule.SeriesQuery, l.MaxAge),
			"ask the server for it, without its last label matchers")
	case metrics == 0:
		say(Warning, fmt.Sprintf("%d series, and none makes a metric: seriesFilters or name leave them out, or no label of them names an object by resources", f.Series),
			"compare the series' labels with resources, and their names with seriesFilters and name.matches")
	}
	if f.LeftOut != "" {
		say(Warning, fmt.Sprintf("series such as %s make no metric: metricsQuery cannot have the name in the place of .Series", f.LeftOut), "")
	}
	if f.Contested > 0 {
		say(Note, fmt.Sprintf("%d series make a metric that another one makes too, such as %s: the last in the alphabet is read", f.Contested, f.Example), "")
	}
	if lost := l.lost(f); lost > 0 {
		say(Note, fmt.Sprintf("%d of its metrics are made by a later rule, which wins", lost), "")
	}
}

// lost is how many metrics of a rule a later one wins.
func (l *live) lost(f catalog.Found) int {
	n := 0
	for _, name := range f.Custom {
		if made := l.Catalog.Custom(name); made != nil && made.Rule != f.Rule {
			n++
		}
	}
	for _, name := range f.External {
		if made := l.Catalog.ExternalRule(name); made != nil && made.Rule != f.Rule {
			n++
		}
	}
	return n
}

// askUsage asks what resourceRules read, of all namespaces.
func (l *live) askUsage(ctx context.Context) {
	r := l.Catalog.ResourceRules()
	if r == nil {
		return
	}
	for _, u := range []struct {
		name  string
		usage *rules.CompiledUsage
	}{{"cpu", r.CPU}, {"memory", r.Memory}} {
		if u.usage == nil {
			continue
		}
		l.askOf(ctx, r, plan.PodUsage(r, u.usage, ""), "resourceRules."+u.name+".containerQuery", "pods/"+u.name)
		l.askOf(ctx, r, plan.NodeUsage(r, u.usage), "resourceRules."+u.name+".nodeQuery", "nodes/"+u.name)
	}
}

// askOf asks one query of resourceRules.
func (l *live) askOf(ctx context.Context, r *rules.CompiledResource, s plan.Subject, name, exposes string) {
	question, err := s.Asker.Question(l.Mapper, rules.Ask{Resource: s.Resource, Scope: rules.Cluster})
	if err != nil {
		return // The loader says what of it is missing.
	}
	answer, err := l.Engine.Read(ctx, engine.Request{
		Source: builtin.Prometheus, Query: prometheus.NewQuery(r.Server, question.PromQL, question.Window),
		Interval: r.Interval, MaxAge: cmp.Or(r.MaxAge, l.of.MaxAge),
	})
	row := Rule{Rule: name, Server: r.Server, Series: len(answer.Samples)}
	finding := Finding{Severity: Error, File: l.of.file, Object: name}
	switch {
	case errors.Is(err, sources.ErrNoData):
		finding.Severity, finding.Message = Warning, fmt.Sprintf("server %s gives nothing for %s", r.Server, question.PromQL)
		l.add(finding)
	case err != nil:
		row.Error = oneLine(err.Error())
		finding.Message = row.Error
		l.add(finding)
	default:
		row.Metrics, row.Exposes = 1, []string{exposes}
	}
	l.rules = append(l.rules, row)
}
