package catalog

import (
	"context"
	"fmt"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// progress is how far the objects of a kind are read.
type progress int

const (
	// unread: nothing is known, or the API server is away.
	unread progress = iota
	// synced: they are known, and followed.
	synced
	// absent: the API server does not know the kind, so that there are none.
	absent
	// forbidden: the right to read them is missing.
	forbidden
)

// reading is how reading the objects of one kind goes. The zero reading has not begun.
type reading struct {
	kind *kind
	now  atomic.Pointer[outcome]
}

// outcome is how it went last.
type outcome struct {
	progress progress
	err      error
}

// kind says what to tell people of a kind of objects.
type kind struct {
	name string
	// absent and forbidden are what it means that they cannot be read, and the cure.
	absent, forbidden string
}

var (
	objectKind = &kind{
		name:   "ExternalMetrics",
		absent: "there are none until their CustomResourceDefinition is installed (deploy/crds); it then works without a restart",
		forbidden: `without the right to read them none is served; add to the adapter's ClusterRole: ` +
			`{apiGroups: ["metrics.aws"], resources: ["externalmetrics"], verbs: ["get", "list", "watch"]} and ` +
			`{apiGroups: ["metrics.aws"], resources: ["externalmetrics/status"], verbs: ["patch"]}`,
	}
	hpaKind = &kind{
		name:   "HPAs",
		absent: "this API server has no autoscaling/v2; metrics are asked for when they are read",
		forbidden: `without the right to read them a metric is asked for only once it is read; add to the adapter's ClusterRole: ` +
			`{apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["get", "list", "watch"]}`,
	}
)

func (r *reading) load() outcome {
	if o := r.now.Load(); o != nil {
		return *o
	}
	return outcome{}
}

// settled says whether it is certain what can be read, for a catalog that can serve
// without.
func (r *reading) settled() bool { return r.load().progress != unread }

// synced says whether the objects are known.
func (r *reading) synced() bool { return r.load().progress == synced }

// trouble is why the objects are not read; nil if they are, or nothing is known yet.
func (r *reading) trouble() error { return r.load().err }

// known is nil if it is known which objects there are.
func (r *reading) known() error {
	switch o := r.load(); {
	case o.progress == synced, o.progress == absent:
		return nil
	case o.err != nil:
		return o.err
	}
	return errNotSynced
}

// fail takes in why the objects cannot be read now. The informer goes on trying.
func (r *reading) fail(ctx context.Context, reflector *cache.Reflector, err error) {
	before := r.now.Load()
	if before != nil && before.progress == synced {
		cache.DefaultWatchErrorHandler(ctx, reflector, err)
		return
	}
	next := r.kind.outcome(err)
	r.now.CompareAndSwap(before, next)
	switch {
	case next.progress == unread:
		cache.DefaultWatchErrorHandler(ctx, reflector, err)
	case before == nil || before.progress != next.progress:
		klog.FromContext(ctx).Info(r.kind.name+" cannot be read", "reason", next.err)
	}
}

func (k *kind) outcome(err error) *outcome {
	switch {
	case apierrors.IsNotFound(err):
		return &outcome{absent, fmt.Errorf("%s: %w: %s", k.name, err, k.absent)}
	case apierrors.IsForbidden(err):
		return &outcome{forbidden, fmt.Errorf("%s: %w: %s", k.name, err, k.forbidden)}
	}
	return &outcome{unread, fmt.Errorf("%s: %w", k.name, err)}
}

// succeed says that the objects are known from now on.
func (r *reading) succeed(ctx context.Context) {
	if before := r.now.Swap(&outcome{progress: synced}); before != nil {
		klog.FromContext(ctx).Info("Reading "+r.kind.name+" now", "before", before.err)
	}
}
