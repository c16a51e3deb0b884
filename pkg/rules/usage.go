package rules

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ResourceAsker asks one query of a CompiledUsage as Compiled does. Those of the same
// query are equal.
type ResourceAsker struct {
	usage    *CompiledUsage
	resource schema.GroupResource
}

// ForPods asks for the containers of pods.
func (u *CompiledUsage) ForPods() ResourceAsker { return ResourceAsker{usage: u, resource: pods} }

// ForNodes asks for nodes.
func (u *CompiledUsage) ForNodes() ResourceAsker { return ResourceAsker{usage: u, resource: nodes} }

// Identity is what Compiled.Identity is.
func (r ResourceAsker) Identity() string {
	if r.resource == pods {
		return r.usage.containersIdentity
	}
	return r.usage.nodesIdentity
}

// Question is the PromQL for an Ask; a.Series and a.Resource are ignored, and for nodes
// a.Namespace too.
func (r ResourceAsker) Question(m Mapper, a Ask) (Question, error) {
	query, a, err := r.of(a)
	if err != nil {
		return Question{}, err
	}
	q, err := query.question(m, a)
	if err != nil {
		return Question{}, fmt.Errorf("%s: %w", r.usage.id, err)
	}
	return q, nil
}

// Shareable is what Compiled.Shareable is.
func (r ResourceAsker) Shareable(m Mapper, a Ask) error {
	query, a, err := r.of(a)
	if err != nil {
		return err
	}
	if err := query.shareable(m, a); err != nil {
		return fmt.Errorf("%s: %w", r.usage.id, err)
	}
	return nil
}

// of is the query that answers, and the Ask without what it ignores.
func (r ResourceAsker) of(a Ask) (*query, Ask, error) {
	a.Series, a.Resource = "", r.resource
	if r.resource == pods {
		if r.usage.containers == nil {
			return nil, a, fmt.Errorf("%s has no containerQuery", r.usage.id)
		}
		return r.usage.containers, a, nil
	}
	if r.usage.nodes == nil {
		return nil, a, fmt.Errorf("%s has no nodeQuery", r.usage.id)
	}
	a.Namespace = ""
	if a.Scope == Cluster {
		a.Scope = Namespace // Nodes have no namespaces: it is the same.
	}
	return r.usage.nodes, a, nil
}

func (a at) resourceRules(r *ResourceRules) *CompiledResource {
	if r == nil {
		return nil
	}
	a.options(r.Options)
	if r.NoData == "zero" {
		a.field("noData").fault("cannot be zero: an HPA would take a pod without a measurement for an idle one (leave it out)")
	}
	window := a.field("window").window(r.Window)
	return &CompiledResource{
		Server: cmp.Or(r.Server, defaultServer), Interval: cmp.Or(r.Interval, DefaultInterval), MaxAge: r.MaxAge,
		Share:  r.ShareQueries == nil || *r.ShareQueries,
		CPU:    a.field("cpu").usage(r.CPU, window),
		Memory: a.field("memory").usage(r.Memory, window),
	}
}

// window is zero if there is none.
func (a at) window(text string) time.Duration {
	if text == "" || text == "0" {
		return 0
	}
	window, err := model.ParseDuration(text)
	if err != nil || time.Duration(window) > maxWindow {
		a.fault("%q is no duration up to 24h (such as 5m)", shorten(text))
	}
	return time.Duration(window)
}

func (a at) usage(r ResourceRule, window time.Duration) *CompiledUsage {
	u := &CompiledUsage{id: a.path}
	labels := a.resources(r.Resources)
	if labels.empty() && r.Resources.Template == "" && len(r.Resources.Overrides) == 0 {
		a.field("resources").fault("is required, to name the labels of pods, namespaces and nodes (set overrides, or template)")
	}
	if r.ContainerQuery == "" && r.NodeQuery == "" {
		a.fault("needs containerQuery and nodeQuery")
		return u
	}
	u.containers = a.usageQuery("containerQuery", r.ContainerQuery, labels, window)
	u.nodes = a.usageQuery("nodeQuery", r.NodeQuery, labels, window)
	pod, namespace, node := labels.sample(pods, "pod"), labels.sampleNamespace(), labels.sample(nodes, "node")
	if u.containers != nil {
		u.containers.container = a.containerLabel(r.ContainerLabel, pod)
		a.need("containerQuery", pod, "pods")
		a.need("containerQuery", namespace, "namespaces")
		a.field("containerQuery").try(u.containers, "", []target{{object: cmp.Or(pod, "pod"), namespace: cmp.Or(namespace, "namespace")}})
	}
	if u.nodes != nil {
		a.need("nodeQuery", node, "nodes")
		a.field("nodeQuery").try(u.nodes, "", []target{{object: cmp.Or(node, "node")}})
	}
	return u
}

// usageQuery is nil if there is none.
func (a at) usageQuery(field, text string, labels *resourceLabels, window time.Duration) *query {
	a = a.field(field)
	if text == "" {
		a.warn("is missing, so that its usage cannot be read")
		return nil
	}
	q := a.query(text, labels)
	if q == nil {
		return nil
	}
	if q.template.uses.series {
		a.fault("%w", errUsesSeries)
		return nil
	}
	q.window = window
	return q
}

var errUsesSeries = errors.New("uses .Series, which resourceRules do not have (write the name of the series)")

func (a at) need(field, label, resource string) {
	if label == "" {
		a.field(field).warn("cannot be asked, since no label names the %s (add it to resources.overrides)", resource)
	}
}

func (a at) containerLabel(label, pod string) string {
	a = a.field("containerLabel")
	switch {
	case label == "":
		a.warn("is missing, so that the usage of a pod is that of one container without a name (such as container)")
	case !validLabelName(label):
		a.fault("%q is no Prometheus label name (letters, digits and _, not starting with a digit)", shorten(label))
	case label == pod:
		a.fault("%s is the label of the pods", label)
	}
	return label
}
