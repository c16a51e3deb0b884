// Package local is the adapter without a server, for one look at its metrics: the parts
// that serve, wired in the same direction, with ExternalMetrics of files in place of those
// of a cluster.
package local

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/provider"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
)

// lookEvery is how often is looked whether something is there that is waited for.
const lookEvery = 20 * time.Millisecond

// Options are what New needs. All but Config may be left zero.
type Options struct {
	Config *config.Config
	// Backends are what is asked; nil asks nobody, and then nothing can be read.
	Backends *builtin.Set
	// Objects are ExternalMetrics, each with a namespace.
	Objects []*unstructured.Unstructured
	// NoDataIsZero is for ExternalMetrics that do not say.
	NoDataIsZero bool
	// OwnNamespace is the adapter's, whose objects may name any role; none if it is empty.
	OwnNamespace string
	// MaxAge is how far back series are looked for.
	MaxAge time.Duration
	// Kubeconfig is the file of the cluster whose resources and objects count. Without one
	// the resources are those that every cluster has, and there are no objects.
	Kubeconfig string
	// Asked is told of the queries that a source is asked; it may be nil.
	Asked func(source string, queries []sources.Query)
}

// Adapter are the parts.
type Adapter struct {
	Catalog   *catalog.Catalog
	Discovery *catalog.Discovery
	Mapper    *objects.Mapper
	Planner   *plan.Planner
	Engine    *engine.Engine
	External  *provider.External
	Custom    *provider.Custom
	// Metrics are what the objects of the Options define, in their order.
	Metrics []*catalog.Metric

	run []func(context.Context) error
}

// New wires the parts. It asks the cluster of a kubeconfig for its resources, and nobody else.
func New(ctx context.Context, o Options) (*Adapter, error) {
	a := &Adapter{Catalog: &catalog.Catalog{}}
	store, err := a.cluster(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if err := a.Mapper.Refresh(ctx); err != nil {
		return nil, err
	}
	a.Engine = engine.New(engine.Options{Sources: o.sources(), FetchTimeout: o.Config.FetchTimeout})
	a.Planner = plan.New(plan.Options{
		Source: builtin.Prometheus, Engine: a.Engine, Mapper: a.Mapper, Counter: store,
		MaxAge: func() time.Duration { return o.Config.MaxAge },
	})
	a.Discovery = catalog.NewDiscovery(a.Catalog, catalog.DiscoveryOptions{Lister: o.Backends, Mapper: a.Mapper, MaxAge: o.MaxAge})
	a.External = provider.NewExternal(a.Catalog, a.Engine, a.Planner, nil)
	a.Custom = provider.NewCustom(a.Catalog, a.Planner, store, a.Mapper, nil)
	a.run = append(a.run, a.Engine.Run, a.Discovery.Run)
	defaults := catalog.Defaults{
		Source: builtin.CloudWatch, MaxAge: o.Config.MaxAge, NoDataIsZero: o.NoDataIsZero,
		Roles: o.Config.Roles, OwnNamespace: o.OwnNamespace,
	}
	for _, object := range o.Objects {
		a.Metrics = append(a.Metrics, catalog.NewMetric(object, defaults))
	}
	a.Catalog.SetMetrics(a.Metrics)
	a.Discovery.SetRules(o.Config.Compiled)
	return a, nil
}

// store knows which objects there are.
type store interface {
	provider.Objects
	plan.Counter
}

// cluster makes what knows the cluster, or does without one.
func (a *Adapter) cluster(kubeconfig string) (store, error) {
	if kubeconfig == "" {
		a.Mapper = objects.NewMapper(ownResources{})
		return noObjects{}, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: cannot use %s: %w", kubeconfig, err)
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %s: %w", kubeconfig, err)
	}
	data, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %s: %w", kubeconfig, err)
	}
	a.Mapper = objects.NewMapper(kube.Discovery())
	s := objects.NewStore(data, a.Mapper)
	a.run = append(a.run, s.Run)
	return s, nil
}

// sources are those that the engine asks.
func (o Options) sources() map[string]sources.Source {
	if o.Backends == nil {
		return nil
	}
	all := o.Backends.Sources()
	if o.Asked != nil {
		for name, source := range all {
			all[name] = listened{Source: source, name: name, asked: o.Asked}
		}
	}
	return all
}

// listened is a source that tells what it is asked.
type listened struct {
	sources.Source

	name  string
	asked func(source string, queries []sources.Query)
}

// Fetch implements sources.Source.
func (l listened) Fetch(ctx context.Context, queries []sources.Query) []sources.Result {
	l.asked(l.name, queries)
	return l.Source.Fetch(ctx, queries)
}

// While runs the parts while f runs.
func (a *Adapter) While(ctx context.Context, f func(context.Context) error) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	group, running := errgroup.WithContext(running)
	for _, part := range a.run {
		group.Go(func() error { return part(running) })
	}
	group.Go(func() error {
		defer stop()
		return f(running)
	})
	return group.Wait()
}

// Await waits until the series of every rule were listed or could not be, or ctx is done.
func (a *Adapter) Await(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !a.Discovery.Settled() {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}
