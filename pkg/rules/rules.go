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
	// Rules make metrics of custom.metrics.k8s.io.
	Rules []Rule `yaml:"rules"`
	// ExternalRules make metrics of external.metrics.k8s.io.
	ExternalRules []Rule `yaml:"externalRules"`
	// ResourceRules make metrics.k8s.io; nil if the file has none.
	ResourceRules *ResourceRules `yaml:"resourceRules"`
}

// Rule is one of `rules` or `externalRules`.
type Rule struct {
	SeriesQuery   string        `yaml:"seriesQuery"`
	SeriesFilters []RegexFilter `yaml:"seriesFilters"`
	Resources     Resources     `yaml:"resources"`
	Name          Name          `yaml:"name"`
	MetricsQuery  string        `yaml:"metricsQuery"`

	// The fields from here on are not prometheus-adapter's.
	Options `yaml:",inline"`
}

// Options are how the queries of a rule are asked.
type Options struct {
	// Server is the name of the Prometheus server; "default" if it is empty.
	Server string `yaml:"server"`
	// Interval is how often a query is asked while it is in demand; DefaultInterval
	// if it is zero.
	Interval time.Duration `yaml:"interval"`
	// MaxAge is how long the last good value serves; the file's maxAge by default.
	MaxAge time.Duration `yaml:"maxAge"`
	// NoData is what an answer without a value means: "error" (the default) or "zero".
	// For metrics of objects, zero holds for each object that is asked for and exists.
	NoData string `yaml:"noData"`
	// ShareQueries lets one query serve many readers where that gives the same
	// numbers; true by default.
	ShareQueries *bool `yaml:"shareQueries"`
}

// RegexFilter keeps the series whose names match Is, or do not match IsNot.
type RegexFilter struct {
	Is    string `yaml:"is"`
	IsNot string `yaml:"isNot"`
}

// Resources says which labels name which objects.
type Resources struct {
	Template   string                   `yaml:"template"`
	Overrides  map[string]GroupResource `yaml:"overrides"`
	Namespaced *bool                    `yaml:"namespaced"`
}

// GroupResource names a resource of the Kubernetes API, in the singular or the plural.
type GroupResource struct {
	Group    string `yaml:"group"`
	Resource string `yaml:"resource"`
}

// Name turns the name of a series into that of a metric.
type Name struct {
	Matches string `yaml:"matches"`
	As      string `yaml:"as"`
}

// ResourceRules make the usage of containers and nodes.
type ResourceRules struct {
	CPU    ResourceRule `yaml:"cpu"`
	Memory ResourceRule `yaml:"memory"`
	// Window is the time that a usage covers, as a Prometheus duration such as 3m.
	Window string `yaml:"window"`

	Options `yaml:",inline"`
}

// ResourceRule makes one kind of usage.
type ResourceRule struct {
	ContainerQuery string    `yaml:"containerQuery"`
	NodeQuery      string    `yaml:"nodeQuery"`
	Resources      Resources `yaml:"resources"`
	ContainerLabel string    `yaml:"containerLabel"`
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
