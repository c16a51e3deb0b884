package objects

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// steady is how long a watch must have lasted for its failures to be forgotten.
	steady = time.Minute
	// refusalGrace is how long objects serve that the API server refuses to show again.
	refusalGrace = time.Minute
	// running are the pods that have not ended. Their phase is no part of the metadata,
	// but the API server can select by it.
	running = "status.phase!=Succeeded,status.phase!=Failed"
)

var errEnded = errors.New("the adapter reads them no more")

var pods = schema.GroupResource{Resource: "pods"}

// retries are the pauses between attempts, of 1 to 12 s: a right that is granted counts
// soon.
func retries() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Steps: 10, Cap: 10 * time.Second, Jitter: 0.2}
}

// watch reads the objects of one resource and follows their changes.
type watch struct {
	resource schema.GroupResource
	objects  *memory
	// used is when somebody last asked, in nanoseconds of the Unix epoch.
	used atomic.Int64
	// stop ends it; nil until it was started. It belongs to the Store's mutex.
	stop context.CancelFunc

	mu sync.Mutex
	// loaded says that all objects were read once.
	loaded bool
	// err is why the latest attempt failed, and refused since when the API server
	// refuses them; zero if that is not why.
	err     error
	refused time.Time
	// changed is closed when one of these changes.
	changed chan struct{}
}

func newWatch(r schema.GroupResource) *watch {
	w := &watch{resource: r, changed: make(chan struct{})}
	w.objects = newMemory(w.succeed)
	return w
}

func (w *watch) use() { w.used.Store(time.Now().UnixNano()) }

func (w *watch) idle() time.Duration { return time.Since(time.Unix(0, w.used.Load())) }

// ready says whether the objects may be read from memory, and if not, why not, which is
// nil while nobody knows yet.
func (w *watch) ready() (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loaded && (w.refused.IsZero() || time.Since(w.refused) < refusalGrace) {
		return true, nil
	}
	return false, w.err
}

// await waits until the objects are read, or it is known why they cannot be.
func (w *watch) await(ctx context.Context) error {
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		if ok, err := w.ready(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the first reading is under way: %w", ctx.Err())
		case <-changed:
		}
	}
}

func (w *watch) succeed() { w.note(nil) }

// note keeps how the latest attempt went, and says whether that is news.
func (w *watch) note(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	news := text(err) != text(w.err)
	w.err = err
	switch {
	case err == nil:
		w.loaded, w.refused = true, time.Time{}
	case !refusal(err):
		w.refused = time.Time{}
	case w.refused.IsZero():
		w.refused = time.Now()
	}
	close(w.changed)
	w.changed = make(chan struct{})
	return news
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// refusal says whether the API server is there and will not show the objects.
func refusal(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || errors.Is(err, errUnknown)
}

// run reads and follows the objects until ctx is done, whatever happens.
func (w *watch) run(ctx context.Context, client metadata.Interface, mapper *Mapper) {
	ctx = klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "resource", w.resource))
	var reflector *cache.Reflector
	var of schema.GroupVersionResource
	defer func() { w.note(errEnded) }() // Nobody waits for what never comes.
	pause := retries()
	for ctx.Err() == nil {
		kind, ok := mapper.KindOf(w.resource)
		if gvr := kind.GroupVersion().WithResource(w.resource.Resource); ok && gvr != of {
			of, reflector = gvr, w.reflector(ctx, client, gvr)
		}
		began := time.Now()
		err := errUnknown
		if ok {
			err = reflector.ListAndWatchWithContext(ctx)
		}
		if time.Since(began) >= steady {
			pause = retries()
		}
		if err != nil && ctx.Err() == nil {
			w.fail(ctx, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause.Step()):
		}
	}
}

func (w *watch) fail(ctx context.Context, err error) {
	// Without the reflector's words around it, and the request's that differ each time.
	if status := (*apierrors.StatusError)(nil); errors.As(err, &status) {
		err = status
	}
	if request := (*url.Error)(nil); errors.As(err, &request) {
		err = request.Err
	}
	if w.note(err) {
		klog.FromContext(ctx).Error(&UnavailableError{Resource: w.resource, Err: err}, "Failed to watch objects")
	}
}

func (w *watch) reflector(ctx context.Context, client metadata.Interface, gvr schema.GroupVersionResource) *cache.Reflector {
	getter := client.Resource(gvr)
	narrow := func(options metav1.ListOptions) metav1.ListOptions {
		if w.resource == pods {
			options.FieldSelector = running
		}
		return options
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := getter.List(ctx, narrow(options))
			if err != nil {
				return nil, err
			}
			return trim(list), nil
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
			events, err := getter.Watch(ctx, narrow(options))
			if utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err) {
				w.fail(ctx, err) // The reflector tries these again and tells nobody.
			}
			return events, err
		},
	}
	logger, backoff := klog.FromContext(ctx), retries()
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, client),
		&metav1.PartialObjectMetadata{}, w.objects, cache.ReflectorOptions{
			Logger:          &logger,
			Name:            "objects",
			TypeDescription: w.resource.String(),
			Backoff:         &backoff,
		})
}

// trim leaves away what nobody reads, most of it managedFields, before the pages of a
// list come together.
func trim(list *metav1.PartialObjectMetadataList) *metav1.PartialObjectMetadataList {
	for i, o := range list.Items {
		list.Items[i].ObjectMeta = metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, Labels: o.Labels, ResourceVersion: o.ResourceVersion,
		}
	}
	return list
}
