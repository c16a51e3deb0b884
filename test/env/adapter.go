package env

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/until"
)

// annotationProcess names the adapter's process on the objects that lead to it. The
// aggregator looks at an adapter that was away only every 30 s, unless its APIService
// changes.
const annotationProcess = "tidegauge.dev/test-process"

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// AdapterOptions say which adapter to start, and how.
type AdapterOptions struct {
	// Binary is the program's path, by default .bin/adapter. Any program that takes the
	// flags of custom-metrics-apiserver can be started.
	Binary string
	// Args follow the arguments that StartAdapter gives: the kubeconfigs, the
	// certificate and the port.
	Args []string
	// Env are additional environment variables, as KEY=value. Of the caller's
	// environment the adapter gets PATH only.
	Env []string
	// ResourceMetrics leads metrics.k8s.io to the adapter too, with what
	// deploy/resource-metrics has.
	ResourceMetrics bool
	// OwnRights leaves the adapter the rights that its ServiceAccount has, and applies
	// none of deploy.
	OwnRights bool
	// Apart leaves the aggregator where it leads, and applies nothing: the adapter is
	// reached at its own URL only.
	Apart bool
}

// Adapter is a running adapter, under the rights of its ServiceAccount.
type Adapter struct {
	*Process
	// URL is the adapter's own, past the aggregator.
	URL string

	cluster *Cluster
	port    int
	dirs    []string // of the objects that lead to the adapter
	// routesOnly says that of those objects only what leads to the adapter is applied.
	routesOnly bool
	// apart says that nothing leads to the adapter.
	apart bool
}

// StartAdapter starts an adapter, leads the aggregator to it and returns when the
// APIs of deploy/base are available through the API server. When a second adapter is
// started, the aggregator goes over to it, unless that one is to be apart.
func (c *Cluster) StartAdapter(ctx context.Context, opts AdapterOptions) (*Adapter, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	a := &Adapter{cluster: c, dirs: []string{baseDir}, routesOnly: opts.OwnRights, apart: opts.Apart}
	if opts.ResourceMetrics {
		a.dirs = append(a.dirs, resourceMetricsDir)
	}
	if err := c.installPod(ctx); err != nil {
		return nil, fmt.Errorf("adapter: %w", err)
	}
	cmd, err := a.command(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("adapter: %w", err)
	}
	if a.Process, err = c.run(ctx, cmd); err != nil {
		return nil, err
	}
	if err := a.route(ctx); err != nil {
		return nil, fmt.Errorf("adapter: %w\n%s", err, a.tail())
	}
	c.progress("the adapter's API is available")
	return a, nil
}

// Restart stops the adapter if it runs, starts it again with the same arguments and
// port, and returns when it is available through the API server.
func (a *Adapter) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := a.Process.Restart(ctx); err != nil {
		return err
	}
	return a.route(ctx)
}

// CA is the certificate of the authority that vouches for the adapter, as PEM.
func (a *Adapter) CA() []byte { return a.cluster.pki.adapter.pem() }

// Config is for asking the adapter itself, past the aggregator, with the credentials
// of another configuration.
func (a *Adapter) Config(as *rest.Config) *rest.Config {
	config := rest.CopyConfig(as)
	config.Host = a.URL
	config.CAData = a.CA()
	return config
}

// command completes a with its port.
func (a *Adapter) command(ctx context.Context, opts AdapterOptions) (command, error) {
	c := a.cluster
	kubeconfig, err := c.ServiceAccountKubeconfig(ctx, Namespace, ServiceAccount)
	if err != nil {
		return command{}, err
	}
	if opts.Binary == "" {
		if opts.Binary, err = c.binary("adapter"); err != nil {
			return command{}, err
		}
	}
	name := filepath.Base(opts.Binary)
	serving, err := c.pki.adapter.serving(name, ServiceAccount+"."+Namespace+".svc")
	if err != nil {
		return command{}, err
	}
	if a.port, err = FreePort(); err != nil {
		return command{}, err
	}
	a.URL = "https://" + address(a.port)
	return command{
		name: name, path: opts.Binary,
		args: append([]string{
			"--lister-kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", a.port),
			"--tls-cert-file=" + serving.cert, "--tls-private-key-file=" + serving.key,
		}, opts.Args...),
		env:    append([]string{"POD_NAMESPACE=" + Namespace, "POD_NAME=" + PodName}, opts.Env...),
		health: Health{URL: a.URL + "/readyz", CA: string(a.CA())},
	}, nil
}

// route applies what leads to this adapter, changed so that it does, and waits until the
// API server can reach it there. An adapter that is apart is not led to.
func (a *Adapter) route(ctx context.Context) error {
	if a.apart {
		return nil
	}
	var apis []*unstructured.Unstructured
	for _, dir := range a.dirs {
		objects, err := a.cluster.readObjects(dir)
		if err != nil {
			return err
		}
		for _, o := range objects {
			if a.routesOnly && !routes(o) {
				continue
			}
			if err := a.routeOne(ctx, o); err != nil {
				return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
			}
			if o.GetKind() == "APIService" {
				apis = append(apis, o)
			}
		}
	}
	for _, o := range apis {
		if err := a.cluster.awaitAPI(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// routeOne applies an object, unless install did.
func (a *Adapter) routeOne(ctx context.Context, o *unstructured.Unstructured) error {
	if routes(o) {
		if err := a.lead(o); err != nil {
			return err
		}
	}
	return a.cluster.applyOne(ctx, o)
}

// lead changes a Service or an APIService: there is no pod to select, and nothing
// that serves the cluster's own addresses, so the Service is another name for
// localhost and the APIService has the port.
func (a *Adapter) lead(o *unstructured.Unstructured) error {
	id := a.ID()
	o.SetAnnotations(map[string]string{annotationProcess: fmt.Sprintf("%d %s", id.PID, id.Started)})
	if o.GetKind() == "Service" {
		return unstructured.SetNestedField(o.Object, map[string]any{
			"type": "ExternalName", "externalName": "localhost",
		}, "spec")
	}
	if err := unstructured.SetNestedField(o.Object, int64(a.port), "spec", "service", "port"); err != nil {
		return err
	}
	return unstructured.SetNestedField(o.Object, base64.StdEncoding.EncodeToString(a.CA()), "spec", "caBundle")
}

// awaitAPI waits until the API server finds an APIService available and its
// discovery answers.
func (c *Cluster) awaitAPI(ctx context.Context, o *unstructured.Unstructured) error {
	if err := c.awaitCondition(ctx, apiServices, o.GetName(), "Available"); err != nil {
		return err
	}
	group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
	version, _, _ := unstructured.NestedString(o.Object, "spec", "version")
	path := "/apis/" + group + "/" + version
	err := until.Nil(ctx, func(ctx context.Context) error {
		return c.client.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error()
	})
	if err != nil {
		return fmt.Errorf("discovery at %s: %w", path, err)
	}
	return nil
}
