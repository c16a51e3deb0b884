package demo

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

const (
	collectInterval = time.Second
	// collectLimit bounds one call, so that whoever is away is asked again in time.
	collectLimit = 900 * time.Millisecond
	// staleAfter is how old what somebody said may be before it is absent.
	staleAfter = 4 * time.Second
	// controlPlane is the part without which nobody knows replicas and HPAs.
	controlPlane = "control plane"
)

// collectorOptions say whom a collector asks. What is nil is not asked, and absent on the page.
type collectorOptions struct {
	// Kube is asked about Deployments, HPAs and their Events of the namespace.
	Kube      kubernetes.Interface
	Namespace string
	// Told gets each of those objects as it is now, one at a time of a kind. It may be nil.
	Told func(object any)
	// Web and Worker are the names of the Deployments and of their HPAs.
	Web, Worker string
	// Depth is the depth of the queue in messages.
	Depth func(context.Context) (visible, inFlight int, err error)
	// Loaders are the URLs of the admin ports of the loaders that there are now.
	Loaders func() []string
	// Known is what the adapter answers at /debug/metrics-known.
	Known func(context.Context) ([]byte, error)
	// Probes are the parts, in the order in which they are shown.
	Probes []probe
	// Phase is the part of the story.
	Phase func() page.Phase
}

// collector is a page.Source. Each of those that it asks has a loop of its own, so that one
// that is away holds up no other, and a snapshot is made of what is remembered.
type collector struct {
	opts    collectorOptions
	parts   *parts
	cluster *clusterView

	mu      sync.Mutex
	depth   remembered[depthOf]
	traffic trafficMeter
	known   remembered[[]page.Metric]
}

type depthOf struct{ visible, inFlight int }

// remembered is what somebody said last, and when.
type remembered[T any] struct {
	value T
	at    time.Time
	err   error
}

// fresh is what was said lately; false if that was nothing.
func (r remembered[T]) fresh(now time.Time) (T, bool) {
	return r.value, r.err == nil && !r.at.IsZero() && now.Sub(r.at) <= staleAfter
}

func newCollector(opts collectorOptions) *collector {
	return &collector{opts: opts, parts: newParts(opts.Probes), cluster: newClusterView(opts.Told)}
}

var _ page.Source = (*collector)(nil)

// run asks until ctx is done.
func (c *collector) run(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	ask := func(wanted bool, what string, call func(context.Context) error) {
		if !wanted {
			return
		}
		loops.Go(func() {
			each(ctx, collectInterval, func(ctx context.Context) {
				ctx, cancel := context.WithTimeout(ctx, collectLimit)
				defer cancel()
				if err := call(ctx); err != nil && ctx.Err() == nil {
					klog.FromContext(ctx).V(2).Info("Nothing for the page", "from", what, "err", err)
				}
			})
		})
	}
	ask(c.opts.Depth != nil, "queue", c.askDepth)
	ask(c.opts.Loaders != nil, "loaders", c.askLoaders)
	ask(c.opts.Known != nil, "adapter", c.askKnown)
	for i := range c.opts.Probes {
		ask(true, c.opts.Probes[i].name, func(ctx context.Context) error { return c.parts.look(ctx, i) })
	}
	if c.opts.Kube != nil {
		loops.Go(func() { c.cluster.watch(ctx, c.opts.Kube, c.opts.Namespace) })
	}
}

func (c *collector) askDepth(ctx context.Context) error {
	visible, inFlight, err := c.opts.Depth(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.depth = remembered[depthOf]{depthOf{visible, inFlight}, time.Now(), err}
	return err
}

// Snapshot is what is known now. It asks nobody.
func (c *collector) Snapshot(context.Context) page.Snapshot {
	now := time.Now()
	s := page.Snapshot{Time: now, Parts: c.parts.all()}
	if c.opts.Phase != nil {
		s.Phase = c.opts.Phase()
	}
	web, worker := c.cluster.scaling(c.opts.Web), c.cluster.scaling(c.opts.Worker)
	s.HPAs = append(web.hpas(), worker.hpas()...)
	if !c.parts.isDown(controlPlane) { // Else what is known of them is from before.
		s.Web, s.Worker = web.tier(), worker.tier()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.depth.fresh(now); ok {
		s.Queue.Visible, s.Queue.InFlight = page.Num(d.visible), page.Num(d.inFlight)
	}
	s.Traffic = c.traffic.at(now)
	s.Queue.Target, s.Traffic.Target = worker.capacity(s.Worker), web.capacity(s.Web)
	metrics, ok := c.known.fresh(now)
	switch {
	case ok:
		s.Metrics = metrics
	case c.known.err != nil:
		s.MetricsErr = c.known.err.Error()
	}
	return s
}
