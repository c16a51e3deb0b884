// Package env starts the test bed: a real Kubernetes control plane with simulated
// nodes, the AWS stand-in, Prometheus, what plays the pods, and the adapter, as child
// processes on 127.0.0.1. The end-to-end tests, the demo, the benchmarks and `make up`
// all start it here.
package env

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const (
	defaultNodes   = 2
	defaultHPASync = 2 * time.Second
	// startLimit bounds Start and every other wait for a component, however loaded
	// the machine is.
	startLimit = 3 * time.Minute
)

// Options say what to start. The zero value serves.
type Options struct {
	// Dir holds the keys, data and logs. Start creates it, and removes what an earlier
	// test bed left in it. By default it is a temporary directory that Stop removes.
	Dir string
	// Nodes is how many simulated nodes join the cluster, 2 by default. Each takes
	// 500 pods.
	Nodes int
	// Bare leaves out the CRDs, the policies and the adapter's objects: a user's cluster before
	// anything is installed.
	Bare bool
	// HPASync is how often the HPA controller looks at each HPA, 2 s by default.
	HPASync time.Duration
	// RealNode adds a node with a kubelet, kube-proxy and real containers. There has to be a
	// machine for it, see CanRunNode, and the program has to be called by Apart. Pods reach
	// the adapters behind APIServices then, and StartAdapter, which is for a process that no
	// pod has, does not work. Simulated nodes have SimulatedTaint.
	RealNode bool
	// Detach lets the processes outlive the one that starts them.
	Detach bool
	// Started is told each process as soon as it runs, before it is ready, so that it
	// can be stopped by somebody else should this process end. It may be nil.
	Started func(*Process)
	// Progress is told each step when it is done. It may be nil. Started and
	// Progress are never called at the same time.
	Progress func(step string)
}

// Cluster is a running control plane with its nodes, and what was started for it.
type Cluster struct {
	opts    Options
	temp    bool
	bin     string
	root    string
	pki     *pki
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper

	apiserver *Process

	telling sync.Mutex // held while the caller is told of something

	mu        sync.Mutex
	processes []*Process // in the order of their start
}

// Start starts a cluster and returns when its nodes are ready, the product's CRDs
// are served and the objects of deploy/base that the adapter needs are there, unless it is bare. ctx
// bounds the start only. The caller ends the cluster with Stop.
//
// When a component does not start, everything is stopped and the error ends with
// the last lines of that component's log.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	c, err := newCluster(opts)
	if err != nil {
		return nil, fmt.Errorf("test bed: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("test bed: %w", err), c.Stop())
	}
	return c, nil
}

func newCluster(opts Options) (*Cluster, error) {
	if opts.Nodes == 0 {
		opts.Nodes = defaultNodes
	}
	if opts.HPASync == 0 {
		opts.HPASync = defaultHPASync
	}
	root, err := Root()
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, root: root, bin: binaries(root), temp: opts.Dir == ""}
	if err := c.checkRealNode(); err != nil {
		return nil, err
	}
	if c.temp {
		c.opts.Dir, err = os.MkdirTemp("", "tidegauge-")
	} else {
		c.opts.Dir, err = filepath.Abs(opts.Dir)
	}
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"etcd", "logs", "node", "pki", "prometheus"} {
		if err := os.RemoveAll(c.path(dir)); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(c.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.startAPI(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startControllerManager(ctx) })
	g.Go(func() error { return c.startScheduler(ctx) })
	g.Go(func() error { return c.startNodes(ctx) })
	g.Go(func() error { return c.startRealNode(ctx) })
	if !c.opts.Bare {
		g.Go(func() error { return c.install(ctx) })
	}
	g.Go(func() error { return c.awaitDefaultServiceAccount(ctx) })
	return g.Wait()
}

// Stop ends everything that was started, in reverse order, and waits for it. A
// component that does not end in time is killed, and the error says so. Stopping
// twice does nothing.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	processes := c.processes
	c.processes = nil
	c.mu.Unlock()

	var errs []error
	for _, p := range slices.Backward(processes) {
		errs = append(errs, p.stopWithin(stopGrace))
	}
	errs = append(errs, c.clearNode())
	if c.temp {
		errs = append(errs, os.RemoveAll(c.opts.Dir))
	}
	return errors.Join(errs...)
}

// Processes are all that were started, in the order of their start; some may have
// ended.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.processes)
}

// Dir holds the keys, data and logs.
func (c *Cluster) Dir() string { return c.opts.Dir }

// Binaries is the folder of the test bed's programs, kubectl among them.
func (c *Cluster) Binaries() string { return c.bin }

// Config is an administrator's, without a limit of requests per second. The caller
// may change it.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Client is an administrator's.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Dynamic is an administrator's.
func (c *Cluster) Dynamic() dynamic.Interface { return c.dynamic }

// RestartAPIServer stops kube-apiserver and starts it again on the same port.
func (c *Cluster) RestartAPIServer(ctx context.Context) error {
	return c.apiserver.Restart(ctx)
}

// run starts a process of the cluster and waits until it is ready.
func (c *Cluster) run(ctx context.Context, cmd command) (*Process, error) {
	p := c.add(cmd)
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	c.progress(p.name + " is ready")
	return p, nil
}

// add makes a process of the cluster. One that is not the first of its name gets a
// number, and with it a log of its own.
func (c *Cluster) add(cmd command) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := cmd.name
	for n := 2; slices.ContainsFunc(c.processes, func(p *Process) bool { return p.name == cmd.name }); n++ {
		cmd.name = fmt.Sprintf("%s-%d", name, n)
	}
	p := newProcess(cmd, c.opts.Dir, c.path("logs", cmd.name+".log"))
	p.detach, p.started = c.opts.Detach, c.started
	c.processes = append(c.processes, p)
	return p
}

func (c *Cluster) started(p *Process) {
	c.telling.Lock()
	defer c.telling.Unlock()
	if c.opts.Started != nil {
		c.opts.Started(p)
	}
}

func (c *Cluster) progress(step string) {
	c.telling.Lock()
	defer c.telling.Unlock()
	if c.opts.Progress != nil {
		c.opts.Progress(step)
	}
}

// binary is the path of a program that `make` built.
func (c *Cluster) binary(name string) (string, error) { return lookBinary(c.bin, name) }

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.opts.Dir}, elements...)...)
}
