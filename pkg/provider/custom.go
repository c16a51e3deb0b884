package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// CustomCatalog says which metrics of objects exist.
type CustomCatalog interface {
	// Custom is the metric that a rule makes, or nil.
	Custom(name catalog.CustomName) *catalog.RuleMetric
	// CustomNames are the names of all of them, sorted, in a slice that is never written to:
	// other names come in another slice.
	CustomNames() []catalog.CustomName
	// SuggestCustom asks whether another metric was meant; it is empty if none is near.
	SuggestCustom(name catalog.CustomName) string
	// Unmapped are the rules that would make a metric of that name for resources that the
	// API server does not have.
	Unmapped(metric string) []catalog.Unmapped
	// RulesReady is nil once a metric that Custom does not have is one that no rule makes.
	RulesReady() error
	// LeastTarget is the smallest target of the HPAs that name the metric; false if there is
	// none.
	LeastTarget(metric types.NamespacedName) (float64, bool)
}

// CustomPlanner reads the metrics of objects, as *plan.Planner does.
type CustomPlanner interface {
	Read(ctx context.Context, s plan.Subject, names *plan.Names) (plan.Reading, error)
}

// Objects knows which objects there are, as *objects.Store does.
type Objects interface {
	// Version is another one whenever Select may give other names, and 0 says nothing.
	Version(ctx context.Context, r schema.GroupResource, namespace string) (uint64, error)
	Select(ctx context.Context, r schema.GroupResource, namespace string, selector labels.Selector) ([]string, error)
	Get(ctx context.Context, r schema.GroupResource, namespace, name string) (objects.Object, bool, error)
}

// Kinds knows the resources of the Kubernetes API, as *objects.Mapper does.
type Kinds interface {
	Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool)
	KindOf(r schema.GroupResource) (schema.GroupVersionKind, bool)
	// Learn is called for a resource that is not known, which may be that of a CRD that
	// was created just now.
	Learn(ctx context.Context) error
}

// Custom serves custom.metrics.k8s.io. Its metrics are those of the rules.
//
// Errors are API errors whose text names metric, objects, rule and server: 404 where
// there is no such metric, no such object or no sample of the object, 400 where the rule
// cannot express the metric selector, 503 where the backend is away or nobody can say
// yet whether there is such a metric, 429 where too much is read that no HPA names, 500 where the backend refuses the query or
// answers with no number or several for one object, 504 where the first answer takes too
// long. Users of the system, such as the HPA controller, also get an error (500)
// for numbers that an HPA would misread.
type Custom struct {
	catalog CustomCatalog
	planner CustomPlanner
	objects Objects
	kinds   Kinds
	reads   *Reads
	kept    *kept[answerKey, answer]
}

var _ provider.CustomMetricsProvider = (*Custom)(nil)

// NewCustom makes a provider of the catalog's metrics of objects, whose reads are counted
// unless nobody is given to count them.
func NewCustom(c CustomCatalog, p CustomPlanner, o Objects, k Kinds, reads *Reads) *Custom {
	return &Custom{
		catalog: c, planner: p, objects: o, kinds: k, reads: reads,
		kept: newKept[answerKey, answer](func() { reads.evicted(customAPI) }),
	}
}

// GetMetricByName gives the value of one object, which need not exist: what counts is
// whether the rule's query has a sample of it. Where there is none and the rule says
// that this means zero, an object that exists has zero.
func (p *Custom) GetMetricByName(ctx context.Context, name types.NamespacedName, info provider.CustomMetricInfo, metricSelector labels.Selector) (*custom_metrics.MetricValue, error) {
	began := time.Now()
	m := &objectMetric{info: info, namespace: name.Namespace, selector: metricSelector, hpa: mayBeHPA(ctx)}
	value, err := p.byName(ctx, m, name.Name)
	p.reads.count(m.kindOfRead(), began, 1, err)
	return value, err
}

func (p *Custom) byName(ctx context.Context, m *objectMetric, name string) (*custom_metrics.MetricValue, error) {
	if err := p.find(ctx, m); err != nil {
		return nil, err
	}
	item, err := p.one(ctx, m, name)
	if err != nil {
		return nil, m.failed(name, err)
	}
	values, err := m.values([]string{name}, []catalog.Item{item}, p.leastTarget(m, name))
	if err != nil {
		return nil, m.failed(name, err)
	}
	return &values[0], nil
}

// one is the item of one object.
func (p *Custom) one(ctx context.Context, m *objectMetric, name string) (catalog.Item, error) {
	reading, err := p.read(ctx, m, plan.NewNames(name))
	if err != nil {
		return catalog.Item{}, err
	}
	item, err := m.item(reading, name)
	if !errors.Is(err, errNoSample) || !m.Rule.ZeroForNoData {
		return item, err
	}
	_, exists, err := p.objects.Get(ctx, m.resource, m.namespace, name)
	if err == nil && !exists {
		err = fmt.Errorf("%w, and it does not exist, so that it has no zero either", errNoSample)
	}
	return catalog.Zero(sources.Labels{}, reading.Fetched), err
}

// GetMetricBySelector gives the values of the objects that the selector matches, sorted
// by name. Objects without a sample are left out unless the rule says that this means
// zero, and so are those whose sample is no number and those with several, as long as
// another one is left.
func (p *Custom) GetMetricBySelector(ctx context.Context, namespace string, selector labels.Selector, info provider.CustomMetricInfo, metricSelector labels.Selector) (*custom_metrics.MetricValueList, error) {
	began := time.Now()
	m := &objectMetric{info: info, namespace: namespace, selector: metricSelector, hpa: mayBeHPA(ctx)}
	values, err := p.bySelector(ctx, m, selector)
	p.reads.count(m.kindOfRead(), began, len(values), err)
	if err != nil {
		return nil, err
	}
	return &custom_metrics.MetricValueList{Items: values}, nil
}

func (p *Custom) bySelector(ctx context.Context, m *objectMetric, selector labels.Selector) ([]custom_metrics.MetricValue, error) {
	if err := p.find(ctx, m); err != nil {
		return nil, err
	}
	values, err := p.several(ctx, m, selector)
	if err != nil {
		return nil, m.failed("", err)
	}
	return values, nil
}

// read reads the objects of those names.
func (p *Custom) read(ctx context.Context, m *objectMetric, names *plan.Names) (plan.Reading, error) {
	reading, err := p.planner.Read(ctx, plan.OfRule(m.Rule, m.Series, m.resource, m.namespace, m.selector), names)
	if err != nil && !isOfEngine(err) {
		err = inexpressible(err, m.selector)
	}
	return reading, err
}

// ListAllMetrics lists the metrics that discovery found.
func (p *Custom) ListAllMetrics() []provider.CustomMetricInfo {
	names := p.catalog.CustomNames()
	infos := make([]provider.CustomMetricInfo, len(names))
	for i, n := range names {
		infos[i] = provider.CustomMetricInfo{GroupResource: n.Resource, Namespaced: n.Namespaced, Metric: n.Metric}
	}
	return infos
}

// find completes the metric that was asked for. Its error is the API's.
func (p *Custom) find(ctx context.Context, m *objectMetric) error {
	if err := p.resolve(ctx, m); err != nil {
		return err
	}
	name := catalog.CustomName{Resource: m.resource, Namespaced: m.info.Namespaced, Metric: m.info.Metric}
	if m.RuleMetric = p.catalog.Custom(name); m.RuleMetric != nil {
		return nil
	}
	if err := p.catalog.RulesReady(); err != nil {
		return notKnown(m.String(), err)
	}
	return m.failed("", m.notFound("", p.elsewhere(name)))
}

// resolve finds out which resource was asked for.
func (p *Custom) resolve(ctx context.Context, m *objectMetric) error {
	if p.knows(m) {
		return nil
	}
	err := p.kinds.Learn(ctx)
	switch {
	case p.knows(m):
		return nil
	case err != nil:
		return notKnown(m.String(), err)
	}
	return m.failed("", m.notFound("", errNoResource))
}

func (p *Custom) knows(m *objectMetric) bool {
	resource, _, ok := p.kinds.Normalize(m.info.GroupResource)
	if ok {
		m.resource = resource
		m.kind, ok = p.kinds.KindOf(resource)
	}
	return ok
}

// elsewhere says where there is a metric of that name, if not where it was asked for.
func (p *Custom) elsewhere(name catalog.CustomName) error {
	other := name
	if other.Namespaced = !name.Namespaced; p.catalog.Custom(other) != nil {
		if name.Namespaced {
			return errors.New("it is not read within a namespace")
		}
		return errors.New("it is read within a namespace")
	}
	var resources []string
	for _, n := range p.catalog.CustomNames() {
		if n.Metric == name.Metric {
			resources = append(resources, n.Resource.String())
		}
	}
	unmapped := p.unmapped(name.Metric)
	if len(resources) > 0 {
		return fmt.Errorf("it is there for [%s] only%s", listed(slices.Compact(resources)), unmapped)
	}
	if unmapped != "" {
		return fmt.Errorf("it is there for no resource%s", unmapped)
	}
	return fmt.Errorf("no rule of the configuration makes it of a series that its server had within --metrics-max-age%s", p.catalog.SuggestCustom(name))
}

// unmapped says which rules would make the metric for resources that the API server does
// not have; it is empty without.
func (p *Custom) unmapped(metric string) string {
	var text strings.Builder
	unmapped := p.catalog.Unmapped(metric)
	for _, u := range unmapped[:min(len(unmapped), maxUnmapped)] {
		fmt.Fprintf(&text, "; %s", u)
	}
	return text.String()
}

// objectMetric is a metric of objects as one request asks for it.
type objectMetric struct {
	// RuleMetric is nil until the metric is known.
	*catalog.RuleMetric

	// info is what the request says, resource and kind what that means.
	info     provider.CustomMetricInfo
	resource schema.GroupResource
	kind     schema.GroupVersionKind
	// namespace is that of the objects; empty for objects without one.
	namespace string
	selector  labels.Selector
	// hpa says that an HPA may ask.
	hpa bool
}

// kindOfRead is what a read of the metric counts as.
func (m *objectMetric) kindOfRead() kind {
	if m.resource.Empty() {
		return kindOfCustom(m.info.GroupResource, m.info.Namespaced)
	}
	return kindOfCustom(m.resource, m.info.Namespaced)
}

// objects are what the metric describes, in words: all that were asked for if the name
// is empty.
func (m *objectMetric) objects(name string) string {
	resource := m.info.GroupResource.String()
	switch {
	case name == "" && m.namespace == "":
		return resource
	case name == "":
		return resource + " in namespace " + m.namespace
	case m.namespace == "":
		return resource + " " + name
	}
	return resource + " " + m.namespace + "/" + name
}

// noneMatches says that the selector matches no object.
func (m *objectMetric) noneMatches(selector labels.Selector) error {
	switch {
	case !selector.Empty():
		return fmt.Errorf("no %s match the label selector %q", m.objects(""), selector)
	case m.namespace == "":
		return fmt.Errorf("there are no %s", m.info.GroupResource.String())
	}
	return fmt.Errorf("namespace %q has no %s", m.namespace, m.info.GroupResource.String())
}

func (m *objectMetric) String() string {
	return "metric " + m.info.Metric + " of " + m.objects("")
}

var (
	// errNotFound starts the text of what there is none of, as in the library's
	// NewMetricNotFoundError, which prometheus-adapter's users know.
	errNotFound   = errors.New("the server could not find the metric")
	errNoResource = errors.New("the API server has no resource of that name")
	// errNoSample is the error of an object of which the backend has none.
	errNoSample = errors.New("there is no sample of it")
	// errSeveral is the error of a query that gives one object several values: whichever
	// were served, it would be a wrong number.
	errSeveral = errors.New("samples for one object: the rule's metricsQuery must make one of them, as sum(…) by (<<.GroupBy>>) does")
)

// notFound says that there is no such metric of the object, or of any that was asked for
// if the name is empty.
func (m *objectMetric) notFound(name string, why error) error {
	object := m.info.GroupResource.String()
	if name != "" {
		object += " " + name
	}
	return fmt.Errorf("%w %s for %s: %w", errNotFound, m.info.Metric, object, why)
}

// failed is the API's error of an object whose value could not be read, or of all that
// were asked for if the name is empty.
func (m *objectMetric) failed(name string, err error) error {
	place := ""
	if m.RuleMetric != nil {
		place = " " + placeOf(m.Rule)
	}
	if errors.Is(err, errNoSample) {
		return noData(status(http.StatusNotFound, metav1.StatusReasonNotFound, "%v%s", m.notFound(name, err), place))
	}
	if errors.Is(err, errNotFound) {
		return status(http.StatusNotFound, metav1.StatusReasonNotFound, "%v%s", err, place)
	}
	return failedMetric("metric "+m.info.Metric+" of "+m.objects(name)+place, err)
}

// item is what was read of one object. The error wraps errNoSample if that is nothing.
func (m *objectMetric) item(reading plan.Reading, name string) (item catalog.Item, err error) {
	samples := reading.Samples[types.NamespacedName{Namespace: m.namespace, Name: name}]
	switch len(samples) {
	case 0:
		err = errNoSample
	case 1:
		item, err = catalog.NewItem(samples[0])
	default:
		err = fmt.Errorf("%s has %d %w", m.objects(name), len(samples), errSeveral)
	}
	if err != nil {
		return catalog.Item{}, asAnswerTo(reading.Question.PromQL, err)
	}
	return item, nil
}

// items are what was read of the objects, but for those that have no sample, no number or
// several, and the names of the objects.
func (m *objectMetric) items(ctx context.Context, reading plan.Reading, names []string) ([]string, []catalog.Item, error) {
	named := make([]string, 0, len(names))
	items := make([]catalog.Item, 0, len(names))
	var left error
	for _, name := range names {
		item, err := m.item(reading, name)
		switch {
		case err == nil:
		case errors.Is(err, errNoSample) && m.Rule.ZeroForNoData:
			item = catalog.Zero(sources.Labels{}, reading.Fetched)
		case errors.Is(err, errNoSample):
			continue
		case errors.Is(err, catalog.ErrNotANumber), errors.Is(err, errSeveral):
			left = fmt.Errorf("%s: %w", m.objects(name), err)
			klog.FromContext(ctx).V(2).Info("Leaving out an object", "metric", m.info.Metric, "rule", m.Rule.ID, "reason", left)
			continue
		default:
			return nil, nil, err
		}
		named, items = append(named, name), append(items, item)
	}
	if len(items) == 0 {
		// An HPA that gets no value holds its replicas; an error lets it also say why.
		return nil, nil, left
	}
	return named, items, nil
}

// readable wraps catalog.ErrMisreadByHPA if who asks may be an HPA and would misread one of
// the items.
func (m *objectMetric) readable(items []catalog.Item, least target) error {
	if !m.hpa {
		return nil
	}
	if err := catalog.ObjectsReadableByHPA(items); err != nil || !least.known {
		return err
	}
	return catalog.ReplicasReadableByHPA(items, least.value)
}

// values are the items of the objects of those names in the API's terms, unless they are
// misread by whoever asks. Nothing of them is a part of the request but the names.
func (m *objectMetric) values(names []string, items []catalog.Item, least target) ([]custom_metrics.MetricValue, error) {
	if err := m.readable(items, least); err != nil {
		return nil, err
	}
	metric := custom_metrics.MetricIdentifier{Name: strings.Clone(m.info.Metric)}
	var err error
	if metric.Selector, err = echoOf(m.selector); err != nil {
		return nil, inexpressible(err, m.selector)
	}
	values := make([]custom_metrics.MetricValue, len(items))
	object := custom_metrics.ObjectReference{
		APIVersion: m.kind.GroupVersion().String(), Kind: m.kind.Kind, Namespace: strings.Clone(m.namespace),
	}
	var window time.Duration
	var seconds *int64
	for i, item := range items {
		if item.Window != window {
			window, seconds = item.Window, secondsOf(item.Window)
		}
		object.Name = names[i]
		values[i] = custom_metrics.MetricValue{
			DescribedObject: object,
			Metric:          metric,
			Timestamp:       metav1.NewTime(item.Time),
			WindowSeconds:   seconds,
			Value:           withText(item.Value),
		}
	}
	return values, nil
}

// withText is a quantity that has its text. Without, Quantity.String would write to it,
// which readers may share, and each answer would be formatted anew.
func withText(q resource.Quantity) resource.Quantity {
	_ = q.String()
	return q
}

// operators are those that the API's selectors have.
var operators = map[selection.Operator]metav1.LabelSelectorOperator{
	selection.Equals:       metav1.LabelSelectorOpIn,
	selection.DoubleEquals: metav1.LabelSelectorOpIn,
	selection.In:           metav1.LabelSelectorOpIn,
	selection.NotEquals:    metav1.LabelSelectorOpNotIn,
	selection.NotIn:        metav1.LabelSelectorOpNotIn,
	selection.Exists:       metav1.LabelSelectorOpExists,
	selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
}

// echoOf is a metric selector as answers repeat it, without any part of it; nil for one
// that is empty.
func echoOf(selector labels.Selector) (*metav1.LabelSelector, error) {
	if selector.Empty() {
		return nil, nil //nolint:nilnil // Answers repeat no empty selector.
	}
	requirements, _ := selector.Requirements()
	echo := &metav1.LabelSelector{}
	for _, r := range requirements {
		operator, ok := operators[r.Operator()]
		if !ok {
			return nil, fmt.Errorf("%q cannot be compared by %q", r.Key(), r.Operator())
		}
		key, values := strings.Clone(r.Key()), slices.Sorted(slices.Values(r.ValuesUnsorted()))
		for i, v := range values {
			values[i] = strings.Clone(v)
		}
		isEquals := r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals
		if _, twice := echo.MatchLabels[key]; isEquals && !twice {
			metav1.AddLabelToSelector(echo, key, values[0])
			continue
		}
		echo.MatchExpressions = append(echo.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: values})
	}
	return echo, nil
}
