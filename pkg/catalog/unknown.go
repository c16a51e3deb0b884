package catalog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

const (
	// lookEvery is how often to look for HPAs that name what nobody defines.
	lookEvery = 10 * time.Second
	// certainAfter is for how long it must have been known what there is, and a metric not
	// have been there. An HPA and what defines its metric are often applied together.
	certainAfter = time.Minute
	// foreignFor is for how long another adapter is taken to serve an API after it was last
	// seen to.
	foreignFor = time.Hour
	// maxUnknown is how many metrics that nobody defines are followed, each of one HPA, and
	// maxUnknownInNamespace how many of one namespace. A line of the log names
	// maxUnknownLogged of them.
	maxUnknown            = 10_000
	maxUnknownInNamespace = 1_000
	maxUnknownLogged      = 10
)

// api is an API that HPAs read, as a label of self-metrics.
type api string

const (
	externalAPI api = "external"
	customAPI   api = "custom"
	resourceAPI api = "resource"
)

// naming is a metric that an HPA names and that nobody defines.
type naming struct {
	hpa types.NamespacedName
	uid types.UID
	api api
	// metric and resource are what it names; the resource of custom metrics only.
	metric   string
	resource schema.GroupResource
	// namespaced says that the resource is read within the HPA's namespace.
	namespaced bool
}

// followed is what is known of a naming.
type followed struct {
	since time.Time
	// field is the HPA's that names the metric.
	field string
	// served says that another adapter gives the HPA a value.
	served bool
}

// undefined are the metrics of HPAs that for certain nobody defines.
type undefined struct {
	// counts has those APIs of which that is certain.
	counts map[api]int
	names  map[naming]followed
}

// lookout looks for HPAs that name what nobody defines. It belongs to one goroutine.
type lookout struct {
	*Watcher

	// sure is since when it is known what there is in an API.
	sure map[api]time.Time
	// foreign is when an HPA was last seen to have a value of the API that is not ours.
	foreign map[api]time.Time
	seen    map[naming]followed
	told    map[naming]followed
}

func newLookout(w *Watcher) *lookout {
	return &lookout{Watcher: w, sure: map[api]time.Time{}, foreign: map[api]time.Time{}}
}

// run looks until ctx is done.
func (l *lookout) run(ctx context.Context) {
	every(ctx, lookEvery, func() { l.look(ctx, time.Now()) })
}

// look finds what nobody defines now. What was found of an API that nothing is certain of
// for a moment stays found.
func (l *lookout) look(ctx context.Context, now time.Time) {
	judged, seen, room := l.judged(now), map[naming]followed{}, map[string]int{}
	for n, f := range l.seen {
		room[n.hpa.Namespace]++
		if !judged[n.api] {
			seen[n] = f
		}
	}
	for _, hpa := range stored[*scaler](l.hpas) {
		for i, m := range hpa.metrics {
			n, unknown := l.unknown(hpa, m)
			if _, twice := seen[n]; twice || !unknown || !judged[n.api] {
				continue
			}
			f, known := l.seen[n]
			if !known {
				if max(len(seen), len(l.seen)) >= maxUnknown || room[hpa.Namespace] >= maxUnknownInNamespace {
					continue
				}
				f.since = now
				room[hpa.Namespace]++
			}
			f.field, f.served = fieldOf(m, i), i < maxServed && hpa.served&(1<<i) != 0
			seen[n] = f
		}
	}
	l.seen = seen
	l.publish(ctx, judged, now)
}

// publish makes known what is certain, and logs what is new.
func (l *lookout) publish(ctx context.Context, judged map[api]bool, now time.Time) {
	l.noteForeign(judged, now)
	u := &undefined{counts: map[api]int{}, names: map[naming]followed{}}
	for a := range judged {
		u.counts[a] = 0
	}
	told := map[naming]followed{}
	var fresh []string
	for n, f := range l.seen {
		_, before := l.told[n]
		switch {
		case f.served, now.Sub(f.since) < certainAfter, l.isForeign(n.api, now):
		case judged[n.api]:
			u.counts[n.api]++
			u.names[n], told[n] = f, f
			if !before {
				fresh = append(fresh, n.String())
			}
		case before:
			told[n] = f
		}
	}
	l.catalog.undefined.Store(u)
	l.tellUnknown(ctx, fresh, told)
}

// noteForeign takes in that an HPA has a value of what is not defined here: it shows that
// another adapter serves the API, to which nobody here knows what there is.
func (l *lookout) noteForeign(judged map[api]bool, now time.Time) {
	for n, f := range l.seen {
		if f.served && judged[n.api] && now.Sub(f.since) >= certainAfter {
			l.foreign[n.api] = now
		}
	}
}

func (l *lookout) isForeign(a api, now time.Time) bool {
	at, seen := l.foreign[a]
	return seen && now.Sub(at) < foreignFor
}

// tellUnknown logs what is new.
func (l *lookout) tellUnknown(ctx context.Context, fresh []string, told map[naming]followed) {
	var gone []string
	for n := range l.told {
		if _, still := told[n]; !still {
			gone = append(gone, n.String())
		}
	}
	l.told = told
	if len(fresh) > 0 {
		klog.FromContext(ctx).Info("HPAs name metrics that nobody defines", "new", some(fresh), "total", len(told))
	}
	if len(gone) > 0 {
		klog.FromContext(ctx).Info("HPAs do not name these metrics any more, or they are defined now", "metrics", some(gone), "total", len(told))
	}
}

// judged are the APIs of which it has been known for a while what there is in them.
func (l *lookout) judged(now time.Time) map[api]bool {
	c, r := l.catalog, l.catalog.load().rules
	judged := map[api]bool{}
	for a, sure := range map[api]bool{
		externalAPI: (c.objects.synced() || r.makes.external) && c.ObjectsReady() == nil && c.RulesReady() == nil,
		customAPI:   r.makes.custom && c.RulesReady() == nil,
		resourceAPI: r.resource != nil && c.RulesReady() == nil,
	} {
		switch since, was := l.sure[a]; {
		case !sure || !c.hpas.synced():
			delete(l.sure, a)
		case !was:
			l.sure[a] = now
		default:
			judged[a] = now.Sub(since) >= certainAfter
		}
	}
	maps.DeleteFunc(judged, func(_ api, is bool) bool { return !is })
	return judged
}

// unknown says whether nobody defines that metric of the HPA.
func (l *lookout) unknown(hpa *scaler, m autoscalingv2.MetricSpec) (naming, bool) {
	c, n := l.catalog, naming{hpa: nameOf(hpa), uid: hpa.UID}
	switch {
	case m.External != nil:
		n.api, n.metric = externalAPI, m.External.Metric.Name
		return n, c.External(types.NamespacedName{Namespace: hpa.Namespace, Name: n.metric}) == nil && c.ExternalRule(n.metric) == nil
	case m.Pods != nil:
		n.api, n.metric, n.resource, n.namespaced = customAPI, m.Pods.Metric.Name, podResource, true
	case m.Object != nil:
		n.api, n.metric = customAPI, m.Object.Metric.Name
		var err error
		if n.resource, n.namespaced, err = l.resourceOf(m.Object.DescribedObject); err != nil {
			return n, false // The HPA controller says so itself.
		}
	case m.Resource != nil:
		return l.unknownUsage(n, m.Resource.Name)
	case m.ContainerResource != nil:
		return l.unknownUsage(n, m.ContainerResource.Name)
	default:
		return n, false
	}
	return n, c.Custom(n.custom()) == nil
}

// fieldOf is the field that names the metric, the i-th of its HPA.
func fieldOf(m autoscalingv2.MetricSpec, i int) string {
	field := "resource.name"
	switch {
	case m.External != nil:
		field = "external.metric.name"
	case m.Pods != nil:
		field = "pods.metric.name"
	case m.Object != nil:
		field = "object.metric.name"
	case m.ContainerResource != nil:
		field = "containerResource.name"
	}
	return fmt.Sprintf("spec.metrics[%d].%s", i, field)
}

func (n naming) custom() CustomName {
	return CustomName{Resource: n.resource, Namespaced: n.namespaced, Metric: n.metric}
}

// unknownUsage says whether the rules have nothing for a metric of metrics.k8s.io.
func (l *lookout) unknownUsage(n naming, name corev1.ResourceName) (naming, bool) {
	n.api, n.metric = resourceAPI, string(name)
	r := l.catalog.ResourceRules()
	switch {
	case r == nil, name == corev1.ResourceCPU && r.CPU != nil, name == corev1.ResourceMemory && r.Memory != nil:
		return n, false
	}
	return n, true
}

// some are a few of the texts, sorted, and how many more there are.
func some(texts []string) string {
	slices.Sort(texts)
	more := ""
	if n := len(texts) - maxUnknownLogged; n > 0 {
		texts, more = texts[:maxUnknownLogged], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(texts, ", ") + more
}

func (n naming) String() string {
	what := string(n.api)
	if n.api == customAPI {
		what = n.resource.String()
	}
	// The log has it, and an HPA may have a name of any length.
	return fmt.Sprintf("%s: %s (%s)", n.hpa, sources.Shorten(n.metric, maxSuggested), what)
}

// note says what is wrong in an Event: what is missing, what may have been meant, and the
// cure.
func (c *Catalog) note(n naming, field string) string {
	switch n.api {
	case externalAPI:
		return fmt.Sprintf("no external metric %q: no ExternalMetric of that name is in namespace %s, and no rule of the configuration makes it%s; correct %s, or create the ExternalMetric or the rule",
			n.metric, n.hpa.Namespace, c.SuggestExternal(types.NamespacedName{Namespace: n.hpa.Namespace, Name: n.metric}), field)
	case customAPI:
		return fmt.Sprintf("no metric %q of %s: no rule of the configuration makes it of a series that its server had within --metrics-max-age%s%s; correct %s, or the rule",
			n.metric, n.resource.String(), c.unmappedFor(n.metric), c.SuggestCustom(n.custom()), field)
	default:
		return fmt.Sprintf("no metric %q of pods: resourceRules of the configuration have nothing for it; correct %s, or the rules", n.metric, field)
	}
}

// unmappedFor names a rule that would make the metric of a resource that the API server
// does not have; it is empty without.
func (c *Catalog) unmappedFor(metric string) string {
	lost := c.Unmapped(metric)
	if len(lost) == 0 {
		return ""
	}
	return "; " + lost[0].String()
}
