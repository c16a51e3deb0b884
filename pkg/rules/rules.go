// Package rules reads prometheus-adapter's rule grammar: which series are metrics,
// what they are called, which objects their labels name, and by which PromQL they are
// asked. It talks to nobody.
package rules

import (
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// File is the part of the configuration file that holds rules, as it is written. Its
// fields, names and defaults are those of prometheus-adapter, but for the ones of Rule
// that say otherwise. Compile checks it.
type File struct {
	// Rules make the metrics of custom.metrics.k8s.io. Of two that make a metric of one name
	// for one resource, the later one counts.
	Rules []Rule `yaml:"rules"`
	// ExternalRules make the metrics of external.metrics.k8s.io. Of two that make one of the
	// same name, the later one counts, and an ExternalMetric of the name counts before both.
	ExternalRules []Rule `yaml:"externalRules"`
	// ResourceRules make metrics.k8s.io: the usage of containers and nodes, in place of
	// metrics-server. Without them it is not served.
	ResourceRules *ResourceRules `yaml:"resourceRules"`
}

// Rule is one of `rules` or `externalRules`.
type Rule struct {
	// SeriesQuery is a selector of PromQL: the series that it finds become metrics.
	SeriesQuery string `yaml:"seriesQuery"`
	// SeriesFilters leave out series by their names. All of them have to hold.
	SeriesFilters []RegexFilter `yaml:"seriesFilters"`
	// Resources are which labels of the series name which objects.
	Resources Resources `yaml:"resources"`
	// Name is what the metric is called; as the series if nothing is said.
	Name Name `yaml:"name"`
	// MetricsQuery is the PromQL that is asked, a template with `<<.Series>>`,
	// `<<.LabelMatchers>>`, `<<.GroupBy>>`, `<<.GroupBySlice>>` and `<<.LabelValuesByName>>`.
	MetricsQuery string `yaml:"metricsQuery"`

	// The fields from here on are not prometheus-adapter's.
	Options `yaml:",inline"`
}

// Options are how the queries of a rule are asked.
type Options struct {
	// Server is the name of the Prometheus server to ask, one of prometheus.servers.
	Server string `yaml:"server"`
	// Interval is how often a query is asked while it is in demand; no more often than the
	// scrapeInterval of the server.
	Interval time.Duration `yaml:"interval"`
	// MaxAge is how long the last good value serves while the server cannot be asked: not
	// less than the interval, and the file's maxAge by default.
	MaxAge time.Duration `yaml:"maxAge"`
	// NoData is what an answer without a value means, error or zero. For metrics of objects,
	// zero holds for each object that is asked for and exists. ResourceRules have no zero.
	NoData string `yaml:"noData"`
	// ShareQueries lets one query serve many readers where that gives the same numbers.
	ShareQueries *bool `yaml:"shareQueries"`
}

// RegexFilter keeps the series whose names match Is, or do not match IsNot.
type RegexFilter struct {
	// Is keeps the series whose names match this regular expression somewhere; one filter
	// has either this or isNot.
	Is string `yaml:"is"`
	// IsNot keeps the others.
	IsNot string `yaml:"isNot"`
}

// Resources says which labels name which objects.
type Resources struct {
	// Template makes the label of a resource, such as `kube_<<.Group>>_<<.Resource>>`. It
	// is read backwards too.
	Template string `yaml:"template"`
	// Overrides are resources by the labels that name their objects. They win over the
	// template.
	Overrides map[string]GroupResource `yaml:"overrides"`
	// Namespaced is false for external metrics that are of no namespace: whoever may read
	// external metrics in one reads them all.
	Namespaced *bool `yaml:"namespaced"`
}

// GroupResource names a resource of the Kubernetes API, in the singular or the plural.
type GroupResource struct {
	// Group is the resource's API group; if it is left out, the first that has the resource,
	// the core group before all others.
	Group string `yaml:"group"`
	// Resource is the resource's name, in the singular or the plural.
	Resource string `yaml:"resource"`
}

// Name turns the name of a series into that of a metric.
type Name struct {
	// Matches is a regular expression: series whose names it does not match make no metric.
	Matches string `yaml:"matches"`
	// As is the metric's name, in which `$1` and `${1}` are captures of matches. By default it is
	// the only capture, or without any the whole name.
	As string `yaml:"as"`
}

// ResourceRules make the usage of containers and nodes.
type ResourceRules struct {
	// CPU is the usage of CPU, in cores.
	CPU ResourceRule `yaml:"cpu"`
	// Memory is the usage of memory, in bytes.
	Memory ResourceRule `yaml:"memory"`
	// Window is the time that a usage covers, as the API is to say it: a duration of
	// Prometheus such as 3m. By default it is the longest range of the query.
	Window string `yaml:"window"`

	Options `yaml:",inline"`
}

// ResourceRule makes one kind of usage.
type ResourceRule struct {
	// ContainerQuery is the PromQL of the containers of pods, a template as metricsQuery,
	// without `<<.Series>>`.
	ContainerQuery string `yaml:"containerQuery"`
	// NodeQuery is that of the nodes.
	NodeQuery string `yaml:"nodeQuery"`
	// Resources are which labels name pods, namespaces and nodes.
	Resources Resources `yaml:"resources"`
	// ContainerLabel is the label that names the container.
	ContainerLabel string `yaml:"containerLabel"`
}

// Mapper knows the resources of the Kubernetes API. It may learn new ones at any time.
type Mapper interface {
	// Normalize is the resource's plural name and its group, as the API server has
	// them, for a name in the singular or the plural, and whether its objects have
	// namespaces. An empty group matches every group, the core group first. It is false
	// for a resource that is not known.
	Normalize(schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool)
	// Singular is the singular name of a resource that Normalize gave. Of another one it
	// may be anything.
	Singular(schema.GroupResource) string
	// Known is false until the API's resources were read for the first time. Until then
	// Normalize knows none of them.
	Known() bool
	// Generation is another number whenever the resources have changed, so that what was
	// found out of them can be told to be of old.
	Generation() uint64
}

// ErrNotReady is the error of a question before the Mapper is Known: nobody can say yet
// which labels it needs.
var ErrNotReady = errors.New("the resources of the Kubernetes API are not known yet")

// Set is a File that was compiled. It is never changed, and safe for concurrent use.
type Set struct {
	// Custom and External are in the order of the file: of two that make the same
	// metric the later one counts.
	Custom, External []*Compiled
	// Resource is nil if the file has no resourceRules.
	Resource *CompiledResource
	// Warnings say what in the file is allowed and cannot work, as Compile's errors do.
	Warnings []string
}

// Ask is what a reader wants to know of one metric of a rule.
type Ask struct {
	// Series is the name of the series; empty for resourceRules.
	Series string
	// Selector is the reader's metric selector; nil is everything. One that matches
	// nothing, as labels.Nothing, is refused.
	Selector labels.Selector
	// Resource is the resource, as Mapper.Normalize gives it, whose objects the metric
	// describes; zero for an external metric.
	Resource schema.GroupResource
	// Namespace is the objects' namespace, or that of the reader of an external metric.
	// It is empty for objects without a namespace, and where Scope is Cluster.
	Namespace string
	// Names are the objects that are asked for if Scope is Named, at least one.
	Names []string
	// Scope is which objects are asked for. An external metric leaves it at Named.
	Scope Scope
}

// Scope is which objects a query asks for.
type Scope int

const (
	// Named asks for the objects of Ask.Names, exactly as the rule is written.
	Named Scope = iota
	// Namespace asks for all objects of Ask.Namespace; for a resource without
	// namespaces, for all of its objects.
	Namespace
	// Cluster asks for all objects of all namespaces.
	Cluster
)

// Question is the PromQL that answers an Ask, and how to read the answer.
type Question struct {
	PromQL string
	// Window is the longest range that the PromQL looks back over, such as 2m for
	// rate(x[2m]); zero if it has none. For resourceRules it is the rules' window if
	// they set one.
	Window time.Duration
	// ObjectLabel is the label that names the object of a sample; empty for an external
	// metric.
	ObjectLabel string
	// NamespaceLabel names the namespace of a sample if Scope is Cluster; else empty.
	NamespaceLabel string
	// ContainerLabel names the container of a sample; only for resourceRules' pods.
	ContainerLabel string
}
