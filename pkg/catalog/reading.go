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
	// unserved says that the API server has no such kind, which it does not tell those who
	// have no right to read it; nil if nobody knows.
	unserved func() bool
	now      atomic.Pointer[outcome]
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
		forbidden: `without the right to read them none is served; where they are wanted, install their CustomResourceDefinition (deploy/crds) and add to the adapter's ClusterRole: ` +
			`{apiGroups: ["metrics.aws"], resources: ["externalmetrics"], verbs: ["list", "watch"]} and ` +
			`{apiGroups: ["metrics.aws"], resources: ["externalmetrics/status"], verbs: ["patch"]}`,
	}
	hpaKind = &kind{
		name:   "HPAs",
		absent: "this API server has no autoscaling/v2; metrics are asked for when they are read",
		forbidden: `without the right to read them a metric is asked for only once it is read; add to the adapter's ClusterRole: ` +
			`{apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["list", "watch"]}`,
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
	case o.progress == forbidden && r.unserved != nil && r.unserved():
		return nil
	case o.err != nil:
		return o.err
	}
	return errNotSynced
}

// fail takes in why the objects cannot be read now. The informer goes on trying.
func (r *reading) fail(ctx context.Context, reflector *cache.Reflector, err error) {
	if !r.take(ctx, err) {
		cache.DefaultWatchErrorHandler(ctx, reflector, err)
	}
}

// take takes in why the objects cannot be read now, and says whether the API server said
// by it that it will not show them. One that is away for a moment takes nothing back of
// what it has said.
func (r *reading) take(ctx context.Context, err error) bool {
	before, next := r.now.Load(), r.kind.outcome(err)
	if before != nil && (before.progress == synced || before.progress != unread && next.progress == unread) {
		return false
	}
	r.now.CompareAndSwap(before, next)
	if next.progress == unread {
		return false
	}
	if before == nil || before.progress != next.progress {
		klog.FromContext(ctx).Info(r.kind.name+" cannot be read", "reason", next.err)
	}
	return true
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
