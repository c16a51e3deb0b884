package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// ResourceCatalog says how usage is asked, as *catalog.Catalog does.
type ResourceCatalog interface {
	// ResourceRules are nil if the configuration has none.
	ResourceRules() *rules.CompiledResource
	// Ready is nil once the configuration counts.
	Ready() error
}

// ResourcePlanner reads usage, as *plan.Planner does.
type ResourcePlanner interface {
	Read(ctx context.Context, s plan.Subject, names *plan.Names) (plan.Reading, error)
	ReadAll(ctx context.Context, s plan.Subject, objects []types.NamespacedName) (plan.Reading, error)
}

// ResourceObjects knows the pods and nodes, as *objects.Store does.
type ResourceObjects interface {
	// Version is another one whenever List may give other objects, and 0 says nothing.
	Version(ctx context.Context, r schema.GroupResource, namespace string) (uint64, error)
	List(ctx context.Context, r schema.GroupResource, namespace string, selector labels.Selector) ([]objects.Object, error)
	Get(ctx context.Context, r schema.GroupResource, namespace, name string) (objects.Object, bool, error)
}

// Resource serves metrics.k8s.io, the usage of containers and nodes, by resourceRules:
// CPU in cores, exact to a billionth, and memory in bytes. Install adds it to a server.
//
// An HPA adds up the containers of a pod and takes a pod without a usage for one that it
// does not know. So a pod is left out if one of its containers lacks CPU or memory, as it
// does until Prometheus has read it twice, or has a value that is no usage: NaN, infinite,
// negative, or several values. A node is left out likewise.
//
// The containers of a pod are those that its samples name, of CPU or of memory. Of the
// specification of pods nothing is read. So a container of which Prometheus has no sample of
// either, as before it is read for the first time or where its metrics are dropped, does not
// show, and the usage of its pod is less by it. A sample with an empty
// container label is of the pod as a whole and one of POD is of its pause container, as
// in cAdvisor's metrics. Such are not counted beside containers with names, which
// would count them twice. A pod that has nothing but samples without a container, as where
// the rule has no containerLabel, is served as one container without a name.
//
// Errors are API errors whose text names pods or nodes and the server: 404 where there
// are no resourceRules, no such object or no usage of it, 503 where the backend is away
// or the API server does not show the objects, 429 where too much is read that no HPA
// names, 500 where the backend refuses the
// query, or gives what is no usage for everything that was asked for, 504 where the
// first answer takes too long. A list is never empty because something failed.
type Resource struct {
	catalog ResourceCatalog
	planner ResourcePlanner
	objects ResourceObjects
	reads   *Reads
	kept    *kept[usageKey, usages]
}

// NewResource makes a provider of the catalog's resourceRules, whose reads are counted
// unless nobody is given to count them.
func NewResource(c ResourceCatalog, p ResourcePlanner, o ResourceObjects, reads *Reads) *Resource {
	return &Resource{
		catalog: c, planner: p, objects: o, reads: reads,
		kept: newKept[usageKey, usages](func() { reads.evicted(resourceAPI) }),
	}
}

const (
	// pauseContainer is what cAdvisor calls the container that holds a pod's namespaces.
	pauseContainer = "POD"
	// maxUsage is more cores or bytes than any machine has, and so little that an HPA,
	// which adds up thousandths in 64 bits, does not overflow with 9,000 of it.
	maxUsage = 1e15
)

var (
	podResource       = schema.GroupResource{Resource: "pods"}
	nodeResource      = schema.GroupResource{Resource: "nodes"}
	namespaceResource = schema.GroupResource{Resource: "namespaces"}

	// errNotAUsage is the error of a value that cannot be how much somebody uses.
	errNotAUsage = errors.New("not a usage")
	// errNoUsage is the error of an object that lacks a value.
	errNoUsage = errors.New("there is no sample")
)

// asked is what one request asks the usage of.
type asked struct {
	resource  schema.GroupResource
	namespace string
	// name is empty if several are asked for.
	name  string
	rules *rules.CompiledResource
}

// everywhere says that the objects may be of several namespaces.
func (a asked) everywhere() bool { return a.resource == podResource && a.namespace == "" }

func (a asked) String() string {
	text := "usage of " + a.resource.Resource
	if a.name != "" {
		text = "usage of " + strings.TrimSuffix(a.resource.Resource, "s") + " "
	}
	switch {
	case a.name != "" && a.namespace != "":
		text += a.namespace + "/" + a.name
	case a.name != "":
		text += a.name
	case a.namespace != "":
		text += " in namespace " + a.namespace
	}
	if a.rules != nil {
		text += " (resourceRules, server " + a.rules.Server + ")"
	}
	return text
}

// usage is how much an object uses.
type usage struct {
	objects.Object

	// containers are sorted by name. A node has one, which has no name.
	containers []container
	// time is the earliest of the samples.
	time   time.Time
	window time.Duration
}

type container struct {
	name   string
	usage  corev1.ResourceList
	oldest time.Time
}

// one is the usage of one object. Its error is the API's.
func (p *Resource) one(ctx context.Context, a asked) (usage, error) {
	began := time.Now()
	u, err := p.readOne(ctx, a)
	p.reads.count(kindOfUsage(a.resource), began, 1, err)
	return u, err
}

func (p *Resource) readOne(ctx context.Context, a asked) (usage, error) {
	a, err := p.withRules(a)
	if err != nil {
		return usage{}, err
	}
	object, ok, err := p.objects.Get(ctx, a.resource, a.namespace, a.name)
	if err != nil {
		return usage{}, failedMetric(a.String(), err)
	}
	if !ok {
		return usage{}, a.notFound(errors.New("there is none of that name, or it has ended"))
	}
	r, err := p.read(ctx, a, newChosen([]objects.Object{object}))
	if err != nil {
		return usage{}, failedMetric(a.String(), err)
	}
	found, left := r.usages(ctx, a, []objects.Object{object})
	switch {
	case errors.Is(left, errNoUsage):
		return usage{}, noData(a.notFound(left))
	case left != nil:
		return usage{}, failedMetric(a.String(), left)
	}
	return found[0], nil
}

// several are the usages of the objects that the selector matches and the filter keeps, if
// there is one, sorted by namespace and name. They must not be written to. Its error is the
// API's.
func (p *Resource) several(ctx context.Context, a asked, selector labels.Selector, keep func(objects.Object) bool) ([]usage, error) {
	began := time.Now()
	found, err := p.readSeveral(ctx, a, selector, keep)
	p.reads.count(kindOfUsage(a.resource), began, len(found), err)
	return found, err
}

func (p *Resource) readSeveral(ctx context.Context, a asked, selector labels.Selector, keep func(objects.Object) bool) ([]usage, error) {
	a, err := p.withRules(a)
	if err != nil {
		return nil, err
	}
	found, err := p.keptOrMade(ctx, a, selector, keep)
	if err != nil {
		return nil, failedMetric(a.String(), err)
	}
	return found, nil
}

// withRules is what is asked and how.
func (p *Resource) withRules(a asked) (asked, error) {
	a.rules = p.catalog.ResourceRules()
	if a.rules != nil {
		return a, nil
	}
	if err := p.catalog.Ready(); err != nil {
		return a, notReady(a.String(), err)
	}
	return a, a.notFound(errors.New("the adapter's configuration has no resourceRules; " +
		"add them, or have the APIService v1beta1.metrics.k8s.io name another server"))
}

func (a asked) notFound(err error) *apierrors.StatusError {
	return status(http.StatusNotFound, metav1.StatusReasonNotFound, "%s: %v", a, err)
}

// readings are what was read of both sides of usage.
type readings struct{ cpu, memory plan.Reading }

// read reads both at the same time.
func (p *Resource) read(ctx context.Context, a asked, of chosen) (readings, error) {
	var r readings
	group, ctx := errgroup.WithContext(ctx)
	for _, side := range []struct {
		reading *plan.Reading
		usage   *rules.CompiledUsage
	}{{&r.cpu, a.rules.CPU}, {&r.memory, a.rules.Memory}} {
		group.Go(func() (err error) {
			*side.reading, err = p.readSide(ctx, a, side.usage, of)
			return err
		})
	}
	return r, group.Wait()
}

func (p *Resource) readSide(ctx context.Context, a asked, u *rules.CompiledUsage, of chosen) (plan.Reading, error) {
	if a.everywhere() {
		names := make([]types.NamespacedName, len(of.objects))
		for i, o := range of.objects {
			names[i] = types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
		}
		return p.planner.ReadAll(ctx, plan.PodUsage(a.rules, u, ""), names)
	}
	subject := plan.NodeUsage(a.rules, u)
	if a.resource == podResource {
		subject = plan.PodUsage(a.rules, u, a.namespace)
	}
	return p.planner.Read(ctx, subject, of.names)
}

// usages are those of the objects that have one, in their order, and why others were left
// out: something other than errNoUsage if there is a choice. Each object is left out
// for itself, so that one container which restarts does not keep the others from scaling.
func (r readings) usages(ctx context.Context, a asked, of []objects.Object) (found []usage, left error) {
	found = make([]usage, 0, len(of))
	for _, o := range of {
		u, err := r.usage(o)
		if err == nil {
			found = append(found, u)
			continue
		}
		if len(of) > 1 {
			err = fmt.Errorf("%s: %w", types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, err)
		}
		klog.FromContext(ctx).V(4).Info("Leaving out a usage", "resource", a.resource.Resource, "reason", err)
		if left == nil || errors.Is(left, errNoUsage) {
			left = err
		}
	}
	return found, left
}

// usage is that of one object. The error wraps errNoUsage if the backend has none, or
// not yet.
func (r readings) usage(o objects.Object) (usage, error) {
	key := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
	cpu := byContainer(r.cpu.Samples[key], r.cpu.Question.ContainerLabel)
	memory := byContainer(r.memory.Samples[key], r.memory.Question.ContainerLabel)
	u := usage{Object: o, window: max(r.cpu.Question.Window, r.memory.Question.Window)}
	for _, name := range containers(cpu, memory) {
		c, err := newContainer(name, cpu[name], memory[name])
		if err != nil {
			return usage{}, err
		}
		u.containers = append(u.containers, c)
		if u.time.IsZero() || c.oldest.Before(u.time) {
			u.time = c.oldest
		}
	}
	if len(u.containers) == 0 {
		return usage{}, errNoUsage
	}
	return u, nil
}

func byContainer(samples []sources.Sample, label string) map[string][]sources.Sample {
	by := make(map[string][]sources.Sample, len(samples))
	for _, s := range samples {
		name := s.Labels.Get(label)
		by[name] = append(by[name], s)
	}
	return by
}

// containers are the names that count, sorted.
func containers(cpu, memory map[string][]sources.Sample) []string {
	names := slices.Sorted(maps.Keys(cpu))
	names = slices.AppendSeq(names, maps.Keys(memory))
	names = slices.DeleteFunc(names, func(name string) bool { return name == pauseContainer })
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 1 && names[0] == "" {
		names = names[1:]
	}
	return names
}

func newContainer(name string, cpu, memory []sources.Sample) (container, error) {
	c := container{name: name}
	cores, err := only(cpu)
	if err != nil {
		return c, fmt.Errorf("CPU%s: %w", ofContainer(name), err)
	}
	bytes, err := only(memory)
	if err != nil {
		return c, fmt.Errorf("memory%s: %w", ofContainer(name), err)
	}
	c.usage = corev1.ResourceList{
		corev1.ResourceCPU:    cores.Value,
		corev1.ResourceMemory: *resource.NewQuantity(int64(math.Round(memory[0].Value)), resource.BinarySI),
	}
	c.oldest = cores.Time
	if bytes.Time.Before(c.oldest) {
		c.oldest = bytes.Time
	}
	return c, nil
}

func ofContainer(name string) string {
	if name == "" {
		return ""
	}
	return " of container " + name
}

// only is the one sample that there must be.
func only(samples []sources.Sample) (catalog.Item, error) {
	switch len(samples) {
	case 0:
		return catalog.Item{}, errNoUsage
	case 1:
	default:
		return catalog.Item{}, fmt.Errorf("%w: it has %d samples, of which the query must make one, as sum(…) by (<<.GroupBy>>) does", errNotAUsage, len(samples))
	}
	item, err := catalog.NewItem(samples[0])
	if v := samples[0].Value; err != nil || v < 0 || v > maxUsage {
		return catalog.Item{}, fmt.Errorf("%w: %v", errNotAUsage, v)
	}
	return item, nil
}
