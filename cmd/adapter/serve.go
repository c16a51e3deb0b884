package main

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/waitgroup"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/provider"
	"github.com/tidegauge/tidegauge/pkg/sources"
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

	backends, err := openSources(ctx, configuration)
	if err != nil {
		return err
	}

	metrics := &catalog.Catalog{}
	var reporter *catalog.Reporter
	eng := engine.New(engine.Options{
		Sources:      backends,
		FetchTimeout: configuration.FetchTimeout,
		OnChange:     func(source, key string) { reporter.QueryChanged(source, key) },
	})
	legacyregistry.RawMustRegister(eng)

	watcher, err := catalog.NewWatcher(metrics, eng, catalog.Defaults{
		Source:       builtin.CloudWatch,
		MaxAge:       configuration.MaxAge,
		NoDataIsZero: o.cloudWatchEmptyAsZero,
	}, clients.kube, clients.custom)
	if err != nil {
		return err
	}
	namespace, err := podNamespace()
	if err != nil {
		return err
	}
	reporter = catalog.NewReporter(watcher, eng, clients.kube, clients.custom, namespace, identity())
	watcher.OnChange(reporter.MetricsChanged)

	server, err := newServer(o, metrics, provider.NewExternal(metrics, eng))
	if err != nil {
		return err
	}

	// The engine outlives the server, so that the requests in flight at the end
	// are still answered.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, running := errgroup.WithContext(running)
	group.Go(func() error { return eng.Run(running) })
	group.Go(func() error { return watcher.Run(running) })
	group.Go(func() error { return reporter.Run(running) })
	group.Go(func() error {
		defer stop()
		serving, cancel := context.WithCancel(ctx)
		defer cancel()
		context.AfterFunc(running, cancel)
		return server.PrepareRun().RunWithContext(serving)
	})
	klog.FromContext(ctx).Info("Starting tidegauge", "version", buildVersion())
	return group.Wait()
}

// openSources opens the sources and registers what they count.
func openSources(ctx context.Context, c *config.Config) (map[string]sources.Source, error) {
	opened, err := builtin.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	backends := make(map[string]sources.Source, len(opened))
	for name, source := range opened {
		backends[name] = source
		legacyregistry.RawMustRegister(source)
	}
	return backends, nil
}

// newServer makes the API server, which is ready once the catalog is.
func newServer(o *options, metrics *catalog.Catalog, external *provider.External) (*genericapiserver.GenericAPIServer, error) {
	o.base.WithExternalMetrics(external)
	config, err := o.base.Config()
	if err != nil {
		return nil, err
	}
	config.GenericConfig.ShutdownDelayDuration = o.shutdownDelay
	config.GenericConfig.Authentication.Authenticator = credentialed{config.GenericConfig.Authentication.Authenticator}
	server, err := o.base.Server()
	if err != nil {
		return nil, err
	}
	// The library would refuse what arrives on open connections from the moment it
	// stops. With a group that is empty it leaves the end to http.Server.Shutdown,
	// which answers those requests, and asks their clients to connect elsewhere. An
	// audit backend ends before that, and misses the last of them.
	server.GenericAPIServer.NonLongRunningRequestWaitGroup = &waitgroup.SafeWaitGroup{}
	ready := healthz.NamedCheck("catalog", func(*http.Request) error { return metrics.Ready() })
	return server.GenericAPIServer, server.GenericAPIServer.AddReadyzChecks(ready)
}

// clients are the clients of the Kubernetes API, under the adapter's own rights.
type clients struct {
	kube   kubernetes.Interface
	custom dynamic.Interface
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
	return &clients{kube: kube, custom: custom}, nil
}
