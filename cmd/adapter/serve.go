package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/waitgroup"
	"k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/objects"
	"github.com/tidegauge/tidegauge/pkg/plan"
	"github.com/tidegauge/tidegauge/pkg/provider"
	"github.com/tidegauge/tidegauge/pkg/self"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
)

// serve wires the adapter and runs it until ctx is done and the requests in
// flight are answered. It registers the process's self-metrics, so that one
// process serves once.
func serve(ctx context.Context, o *options) error {
	configuration, err := o.load()
	if err != nil {
		return err
	}
	clients, err := newClients(o.base)
	if err != nil {
		return err
	}
	namespace, err := podNamespace()
	if err != nil {
		return err
	}
	backends, err := builtin.Open(ctx, configuration)
	if err != nil {
		return err
	}
	a, err := newAdapter(o, configuration, backends, clients, namespace)
	if err != nil {
		return err
	}
	server, err := newServer(ctx, o, a)
	if err != nil {
		return err
	}
	legacyregistry.RawMustRegister(a.engine, a.backends, a.discovery, a.reloader, a.reads, a.metrics, a.memory)
	klog.FromContext(ctx).Info("Starting tidegauge", "version", buildVersion(), "configuration", configuration.Summary())
	return a.run(ctx, server)
}

// adapter are the parts between the backends and the server.
type adapter struct {
	backends  *builtin.Set
	engine    *engine.Engine
	mapper    *objects.Mapper
	objects   *objects.Store
	planner   *plan.Planner
	metrics   *catalog.Catalog
	discovery *catalog.Discovery
	watcher   *catalog.Watcher
	reporter  *catalog.Reporter
	pod       *self.Reporter
	reloader  *config.Reloader
	reads     *provider.Reads
	memory    *memoryWatch
	known     *known

	namespace    string // the adapter's own
	noDataIsZero bool
	maxAge       atomic.Int64 // of the configuration in force
}

// newAdapter wires the parts in the direction in which a number travels.
func newAdapter(o *options, c *config.Config, backends *builtin.Set, clients *clients, namespace string) (*adapter, error) {
	a := &adapter{
		backends:     backends,
		mapper:       objects.NewMapper(clients.kube.Discovery()),
		metrics:      &catalog.Catalog{},
		pod:          self.NewReporter(clients.kube, namespace, podName()),
		reads:        provider.NewReads(),
		namespace:    namespace,
		noDataIsZero: o.cloudWatchEmptyAsZero,
	}
	a.maxAge.Store(int64(c.MaxAge))
	a.engine = engine.New(engine.Options{
		Sources:      backends.Sources(),
		FetchTimeout: c.FetchTimeout,
		OnChange:     func(source, key string) { a.reporter.QueryChanged(source, key) },
	})
	a.objects = objects.NewStore(clients.metadata, a.mapper)
	a.planner = plan.New(plan.Options{
		Source:  builtin.Prometheus,
		Engine:  a.engine,
		Mapper:  a.mapper,
		Counter: a.objects,
		MaxAge:  func() time.Duration { return time.Duration(a.maxAge.Load()) },
	})
	a.known = &known{engine: a.engine, catalog: a.metrics, mapper: a.mapper}
	a.discovery = catalog.NewDiscovery(a.metrics, catalog.DiscoveryOptions{
		Lister: backends, Mapper: a.mapper, Relist: o.relist, MaxAge: o.discoveryMaxAge(),
	})
	a.discovery.SetRules(c.Compiled)
	var err error
	a.watcher, err = catalog.NewWatcher(catalog.WatcherOptions{
		Catalog:  a.metrics,
		Pinner:   knownPinner{a.engine, a.known},
		Defaults: a.defaults(c),
		Kube:     clients.kube,
		Custom:   clients.custom,
		Planner:  knownPlanner{a.planner, a.known},
		Mapper:   a.mapper,
		Objects:  a.objects,
	})
	if err != nil {
		return nil, err
	}
	a.reporter = catalog.NewReporter(a.watcher, a.engine, clients.kube, clients.custom, namespace, identity())
	a.watcher.OnChange(a.reporter.MetricsChanged)
	a.discovery.OnChange(a.watcher.Refresh)
	a.discovery.OnTrouble(func() { a.pod.Set(self.Rules(troubles(a.discovery.Troubles()))) })
	a.reloader = config.NewReloader(config.ReloaderOptions{
		Path:    o.configFile,
		Current: c,
		Load:    o.load,
		Apply:   a.apply,
		Report: func(c *config.Config, err error) {
			a.pod.Set(self.Configuration(c.Summary(), c.Compiled.Warnings, err))
		},
	})
	pods := replicas{clients.kube, namespace, podName()}
	a.memory = newMemoryWatch(openMemoryGroup("/"), pods.look, a.engine, a.metrics, a.discovery)
	return a, nil
}

// defaults are what holds for ExternalMetrics that do not say, and what they may say.
func (a *adapter) defaults(c *config.Config) catalog.Defaults {
	return catalog.Defaults{
		Source: builtin.CloudWatch, MaxAge: c.MaxAge, NoDataIsZero: a.noDataIsZero,
		Roles: c.Roles, OwnNamespace: a.namespace,
	}
}

// apply puts another configuration in force. What can fail comes first, and then changes
// nothing. What is known from backends that are configured anew is dropped before rules
// count that ask them.
func (a *adapter) apply(ctx context.Context, c *config.Config) error {
	changes, err := a.backends.Reload(ctx, c)
	if err != nil {
		return err
	}
	for source, backends := range changes {
		a.engine.Forget(source, backends)
	}
	a.maxAge.Store(int64(c.MaxAge))
	a.engine.SetFetchTimeout(c.FetchTimeout)
	a.watcher.SetDefaults(a.defaults(c))
	a.discovery.SetRules(c.Compiled, changes[builtin.Prometheus]...)
	return nil
}

// maxTroubled is how many rules the text of one trouble names.
const maxTroubled = 10

// troubles is one error of all rules that are in trouble, or nil. Rules of one server that
// are in it for the same cause are named together, with when the first of them began to be.
func troubles(rules []catalog.RuleTrouble) error {
	type cause struct {
		server, text string
		known        bool
	}
	var causes []cause
	of := map[cause][]catalog.RuleTrouble{}
	for _, r := range rules {
		c := cause{r.Server, r.Err.Error(), r.Known}
		if of[c] == nil {
			causes = append(causes, c)
		}
		of[c] = append(of[c], r)
	}
	if len(causes) == 0 {
		return nil
	}
	texts := make([]string, len(causes))
	for i, c := range causes {
		texts[i] = fmt.Sprintf("%s: %s (since %s", namesOf(of[c]), c.text, firstOf(of[c]).UTC().Format(time.RFC3339))
		if !c.known {
			texts[i] += "; nothing is known of them yet"
		}
		texts[i] += ")"
	}
	return errors.New(strings.Join(texts, "; "))
}

// namesOf are the names of the rules, with the line of one that is alone.
func namesOf(rules []catalog.RuleTrouble) string {
	if len(rules) == 1 {
		if rules[0].Where == "" {
			return rules[0].Rule
		}
		return fmt.Sprintf("%s (%s)", rules[0].Rule, rules[0].Where)
	}
	names := make([]string, min(len(rules), maxTroubled))
	for i := range names {
		names[i] = rules[i].Rule
	}
	text := strings.Join(names, ", ")
	if more := len(rules) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// firstOf is when the first of the troubles began.
func firstOf(rules []catalog.RuleTrouble) time.Time {
	first := rules[0].Since
	for _, r := range rules {
		if r.Since.Before(first) {
			first = r.Since
		}
	}
	return first
}

// run runs the parts and the server. The parts outlive the server, so that the requests
// in flight at the end are still answered.
func (a *adapter) run(ctx context.Context, server *genericapiserver.GenericAPIServer) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, running := errgroup.WithContext(running)
	for _, part := range []func(context.Context) error{
		a.engine.Run, a.objects.Run, a.discovery.Run, a.watcher.Run, a.reporter.Run, a.pod.Run, a.reloader.Run, collectGarbage,
	} {
		group.Go(func() error { return part(running) })
	}
	serving, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group.Go(func() error { return a.memory.run(running, cancel) })
	group.Go(func() error {
		defer stop()
		context.AfterFunc(running, func() { cancel(nil) })
		if err := server.PrepareRun().RunWithContext(serving); err != nil {
			return err
		}
		if full, ok := errors.AsType[*nearLimitError](context.Cause(serving)); ok {
			return full
		}
		return nil
	})
	return group.Wait()
}

// newServer makes the API server, which is ready once the catalog is.
func newServer(ctx context.Context, o *options, a *adapter) (*genericapiserver.GenericAPIServer, error) {
	// API servers look at the list of metrics again and again, several times at once. To
	// compress each answer takes more memory than everything else that the list takes.
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{string(features.APIResponseCompression): false}); err != nil {
		return nil, err
	}
	o.base.OpenAPIConfig, o.base.OpenAPIV3Config = provider.OpenAPI(o.base.Name)
	o.base.WithExternalMetrics(provider.NewExternal(a.metrics, a.engine, a.planner, a.reads))
	o.base.WithCustomMetrics(provider.NewCustom(a.metrics, a.planner, a.objects, a.mapper, a.reads))
	first := newFirstRead(ctx)
	o.base.Authentication.WithCustomRoundTripper(first.wrap)
	config, err := o.base.Config()
	if err != nil {
		return nil, first.withCure(err)
	}
	config.GenericConfig.ShutdownDelayDuration = o.shutdownDelay
	config.GenericConfig.Authentication.Authenticator = credentialed{config.GenericConfig.Authentication.Authenticator}
	config.GenericConfig.Authorization.Authorizer = authorizeAllFirst(config.GenericConfig.Authorization.Authorizer)
	config.GenericConfig.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		chain := genericapiserver.DefaultBuildHandlerChain(provider.RefuseBadMetricSelectors(provider.KeepLists(a.metrics, h)), c)
		return goAway(ctx, chain)
	}
	server, err := o.base.Server()
	if err != nil {
		return nil, err
	}
	if err := provider.NewResource(a.metrics, a.planner, a.objects, a.reads).Install(server.GenericAPIServer); err != nil {
		return nil, fmt.Errorf("metrics.k8s.io: %w", err)
	}
	server.GenericAPIServer.Handler.NonGoRestfulMux.Handle(knownPath, a.known)
	// The library would refuse what arrives on open connections from the moment it
	// stops. With a group that is empty it leaves the end to http.Server.Shutdown,
	// which answers those requests, and asks their clients to connect elsewhere. An
	// audit backend ends before that, and misses the last of them.
	server.GenericAPIServer.NonLongRunningRequestWaitGroup = &waitgroup.SafeWaitGroup{}
	ready := healthz.NamedCheck("catalog", func(*http.Request) error { return a.metrics.Ready() })
	memory := healthz.NamedCheck("memory", a.memory.check)
	return server.GenericAPIServer, server.GenericAPIServer.AddReadyzChecks(ready, memory)
}

// clients are the clients of the Kubernetes API, under the adapter's own rights.
type clients struct {
	kube     kubernetes.Interface
	custom   dynamic.Interface
	metadata metadata.Interface
}

func newClients(base *basecmd.AdapterBase) (*clients, error) {
	config, err := base.ClientConfig()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	custom, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client of custom resources: %w", err)
	}
	data, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client of metadata: %w", err)
	}
	return &clients{kube: kube, custom: custom, metadata: data}, nil
}
