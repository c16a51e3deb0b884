package provider

import (
	"context"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	openapi "k8s.io/kube-openapi/pkg/common"
	"k8s.io/metrics/pkg/apis/metrics"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	coreapi "sigs.k8s.io/custom-metrics-apiserver/pkg/generated/openapi/core"
	customapi "sigs.k8s.io/custom-metrics-apiserver/pkg/generated/openapi/custommetrics"
	externalapi "sigs.k8s.io/custom-metrics-apiserver/pkg/generated/openapi/externalmetrics"
	"sigs.k8s.io/metrics-server/pkg/api"
	resourceapi "sigs.k8s.io/metrics-server/pkg/api/generated/openapi"

	"github.com/tidegauge/tidegauge/pkg/objects"
)

// Install adds metrics.k8s.io to a server. The server's OpenAPI configurations have to be
// those of OpenAPI, or have its definitions in another way.
func (p *Resource) Install(server *genericapiserver.GenericAPIServer) error {
	group := api.Build(&podStorage{p}, &nodeStorage{p})
	// The library warns of versions that its types have and nobody serves.
	group.PrioritizedVersions = []schema.GroupVersion{v1beta1.SchemeGroupVersion}
	return server.InstallAPIGroup(&group)
}

// OpenAPI are the OpenAPI configurations, version 2 and 3, of a server of that name
// which serves custom.metrics.k8s.io, external.metrics.k8s.io and metrics.k8s.io. A
// server that lacks the definitions of a type does not start.
func OpenAPI(name string) (*openapi.Config, *openapi.OpenAPIV3Config) {
	namer := openapinamer.NewDefinitionNamer(apiserver.Scheme, api.Scheme)
	v2 := genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	v3 := genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	v2.Info.Title, v2.Info.Version = name, "1.0.0"
	v3.Info.Title, v3.Info.Version = name, "1.0.0"
	return v2, v3
}

func definitions(ref openapi.ReferenceCallback) map[string]openapi.OpenAPIDefinition {
	all := map[string]openapi.OpenAPIDefinition{}
	for _, some := range []openapi.GetOpenAPIDefinitions{
		resourceapi.GetOpenAPIDefinitions, coreapi.GetOpenAPIDefinitions, customapi.GetOpenAPIDefinitions, externalapi.GetOpenAPIDefinitions,
	} {
		maps.Copy(all, some(ref))
	}
	// The server keeps these as long as it lives. Of the core API's 246 types it uses one.
	maps.DeleteFunc(all, func(name string, _ openapi.OpenAPIDefinition) bool {
		return strings.HasPrefix(name, "io.k8s.api.core.v1.") && name != "io.k8s.api.core.v1.ObjectReference"
	})
	return all
}

// podStorage and nodeStorage are the API's view of usage. metrics-server has such too, but
// its give a getter no context, and turn every error into one of code 500 without a reason.
type podStorage struct{ *Resource }

type nodeStorage struct{ *Resource }

type storage interface {
	rest.Storage
	rest.KindProvider
	rest.Getter
	rest.Lister
	rest.Scoper
	rest.SingularNameProvider
}

var _, _ storage = (*podStorage)(nil), (*nodeStorage)(nil)

// New implements rest.Storage.
func (*podStorage) New() runtime.Object { return &metrics.PodMetrics{} }

// New implements rest.Storage.
func (*nodeStorage) New() runtime.Object { return &metrics.NodeMetrics{} }

// NewList implements rest.Lister.
func (*podStorage) NewList() runtime.Object { return &metrics.PodMetricsList{} }

// NewList implements rest.Lister.
func (*nodeStorage) NewList() runtime.Object { return &metrics.NodeMetricsList{} }

// Kind implements rest.KindProvider.
func (*podStorage) Kind() string { return "PodMetrics" }

// Kind implements rest.KindProvider.
func (*nodeStorage) Kind() string { return "NodeMetrics" }

// NamespaceScoped implements rest.Scoper.
func (*podStorage) NamespaceScoped() bool { return true }

// NamespaceScoped implements rest.Scoper.
func (*nodeStorage) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider: as with metrics-server there is none, so
// that "pod" means the pods of the core group.
func (*Resource) GetSingularName() string { return "" }

// Destroy implements rest.Storage.
func (*Resource) Destroy() {}

// Get implements rest.Getter.
func (s *podStorage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	u, err := s.one(ctx, asked{resource: podResource, namespace: request.NamespaceValue(ctx), name: name})
	if err != nil {
		return nil, err
	}
	m := u.podMetrics()
	return &m, nil
}

// Get implements rest.Getter.
func (s *nodeStorage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	u, err := s.one(ctx, asked{resource: nodeResource, name: name})
	if err != nil {
		return nil, err
	}
	m := u.nodeMetrics()
	return &m, nil
}

// List implements rest.Lister.
func (s *podStorage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	found, err := s.list(ctx, podResource, options)
	if err != nil {
		return nil, err
	}
	list := &metrics.PodMetricsList{Items: make([]metrics.PodMetrics, len(found))}
	for i, u := range found {
		list.Items[i] = u.podMetrics()
	}
	return list, nil
}

// List implements rest.Lister.
func (s *nodeStorage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	found, err := s.list(ctx, nodeResource, options)
	if err != nil {
		return nil, err
	}
	list := &metrics.NodeMetricsList{Items: make([]metrics.NodeMetrics, len(found))}
	for i, u := range found {
		list.Items[i] = u.nodeMetrics()
	}
	return list, nil
}

func (p *Resource) list(ctx context.Context, of schema.GroupResource, options *internalversion.ListOptions) ([]usage, error) {
	selector := labels.Everything()
	var keep func(objects.Object) bool
	if options != nil && options.LabelSelector != nil {
		selector = options.LabelSelector
	}
	if options != nil && options.FieldSelector != nil && !options.FieldSelector.Empty() {
		keep = func(o objects.Object) bool {
			return options.FieldSelector.Matches(fields.Set{"metadata.name": o.Name, "metadata.namespace": o.Namespace})
		}
	}
	return p.several(ctx, asked{resource: of, namespace: request.NamespaceValue(ctx)}, selector, keep)
}

// podMetrics shares nothing with u but what nobody writes to: the library may change what it
// is given, and u is for the next reader too.
func (u usage) podMetrics() metrics.PodMetrics {
	m := metrics.PodMetrics{
		ObjectMeta: u.meta(),
		Timestamp:  metav1.NewTime(u.time),
		Window:     metav1.Duration{Duration: u.window},
		Containers: make([]metrics.ContainerMetrics, len(u.containers)),
	}
	for i, c := range u.containers {
		m.Containers[i] = metrics.ContainerMetrics{Name: c.name, Usage: maps.Clone(c.usage)}
	}
	return m
}

func (u usage) nodeMetrics() metrics.NodeMetrics {
	return metrics.NodeMetrics{
		ObjectMeta: u.meta(),
		Timestamp:  metav1.NewTime(u.time),
		Window:     metav1.Duration{Duration: u.window},
		Usage:      maps.Clone(u.containers[0].usage),
	}
}

// meta is what metrics-server says of an object: the usage is created when it is asked for.
func (u usage) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: u.Namespace,
		Name:      u.Name,
		// The API's types may be changed on their way out, the store's may not.
		Labels:            maps.Clone(u.Labels),
		CreationTimestamp: metav1.Now(),
	}
}

// ConvertToTable implements rest.TableConvertor: it is what `kubectl get` shows, with the
// columns that metrics-server has.
func (*Resource) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	switch o := object.(type) {
	case *metrics.PodMetrics:
		table.Rows = append(table.Rows, podRow(o))
	case *metrics.PodMetricsList:
		for i := range o.Items {
			table.Rows = append(table.Rows, podRow(&o.Items[i]))
		}
	case *metrics.NodeMetrics:
		table.Rows = append(table.Rows, nodeRow(o))
	case *metrics.NodeMetricsList:
		for i := range o.Items {
			table.Rows = append(table.Rows, nodeRow(&o.Items[i]))
		}
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: "Name of the pod or node"},
			{Name: "cpu", Type: "string", Format: "quantity", Description: "CPU in use, in cores"},
			{Name: "memory", Type: "string", Format: "quantity", Description: "Memory in use, in bytes"},
			{Name: "Window", Type: "string", Format: "duration", Description: "Time that the usage covers"},
		}
	}
	return table, nil
}

func podRow(m *metrics.PodMetrics) metav1.TableRow {
	total := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, used := range c.Usage {
			sum := total[name]
			sum.Add(used)
			total[name] = sum
		}
	}
	return row(m, m.Name, total, m.Window)
}

func nodeRow(m *metrics.NodeMetrics) metav1.TableRow { return row(m, m.Name, m.Usage, m.Window) }

func row(o runtime.Object, name string, used corev1.ResourceList, window metav1.Duration) metav1.TableRow {
	return metav1.TableRow{
		Cells:  []any{name, used.Cpu().String(), used.Memory().String(), window.Duration.String()},
		Object: runtime.RawExtension{Object: o},
	}
}
