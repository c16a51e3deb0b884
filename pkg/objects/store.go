package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
)

const (
	// maxWatches bounds the resources that are watched at the same time: whoever may
	// read metrics may ask for any resource.
	maxWatches = 50
	// idleAfter is how long after its last use a watch ends, if not before because
	// another resource needs its place; that takes busyFor at least.
	idleAfter = 30 * time.Minute
	busyFor   = time.Minute
)

var (
	errUnknown = errors.New("it has no such resource")
	errTooMany = fmt.Errorf("%d resources are watched already, and all of them were in use in the last %v", maxWatches, busyFor)
)

// Store holds the names and labels of the objects of every resource that was asked for
// lately, from all namespaces. It reads their metadata only, and of pods only those that
// have not ended: a pod that succeeded or failed has nothing to measure, and an HPA does
// not count it. It is safe for concurrent use.
//
// What was once read serves while the API server is away. If the API server refuses to
// let it be read any more, because a right or the resource is gone, it serves for
// another minute, as an API server that starts also refuses for a moment.
type Store struct {
	client metadata.Interface
	mapper *Mapper
	// wake has Run look at watches.
	wake chan struct{}

	mu      sync.RWMutex
	watches map[schema.GroupResource]*watch
}

// NewStore asks nobody until the first Select, List or Get of a resource that the
// mapper knows.
func NewStore(client metadata.Interface, m *Mapper) *Store {
	return &Store{client: client, mapper: m, wake: make(chan struct{}, 1), watches: map[schema.GroupResource]*watch{}}
}

// Run watches what is asked for until ctx is done. Nothing is read without it.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(busyFor)
	defer tick.Stop()
	for {
		s.tend(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// Select gives the names, sorted, of the objects of a resource in a namespace that the
// selector matches; in all of them, if the resource has no namespaces. The resource is
// as Mapper.Normalize gives it. The first Select of a resource waits until its objects
// are read, no longer than ctx. The error is an *UnavailableError, which says at once
// what keeps them from being read, such as a missing right, and the cure.
func (s *Store) Select(ctx context.Context, r schema.GroupResource, namespace string, selector labels.Selector) ([]string, error) {
	found, err := s.List(ctx, r, namespace, selector)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(found))
	for i, o := range found {
		names[i] = o.Name
	}
	slices.Sort(names)
	return names, nil
}

// List gives the objects that Select names, in no order. With an empty namespace it
// gives those of all namespaces.
func (s *Store) List(ctx context.Context, r schema.GroupResource, namespace string, selector labels.Selector) ([]Object, error) {
	w, scope, err := s.await(ctx, r, namespace)
	if err != nil {
		return nil, err
	}
	return w.objects.list(scope, selector), nil
}

// Get gives one object, and whether there is one of that name. It waits and fails as
// Select does.
func (s *Store) Get(ctx context.Context, r schema.GroupResource, namespace, name string) (Object, bool, error) {
	w, scope, err := s.await(ctx, r, namespace)
	if err != nil {
		return Object{}, false, err
	}
	o, ok := w.objects.get(scope, name)
	return o, ok, nil
}

// Version tells states of the objects of a resource in a namespace apart; in all of them,
// if the resource has no namespaces. As long as it is the same, other than 0, Select gives
// the same names for the same selector. It waits and fails as Select does.
func (s *Store) Version(ctx context.Context, r schema.GroupResource, namespace string) (uint64, error) {
	w, scope, err := s.await(ctx, r, namespace)
	if err != nil {
		return 0, err
	}
	return w.objects.versionOf(scope), nil
}

// Count is how many objects of the resource there are in a namespace, in all of them if
// it is empty; false while they are not read, which Count does not start.
func (s *Store) Count(r schema.GroupResource, namespace string) (int, bool) {
	s.mu.RLock()
	w := s.watches[r]
	s.mu.RUnlock()
	if w == nil {
		return 0, false
	}
	if ok, _ := w.ready(); !ok {
		return 0, false
	}
	return w.objects.size(s.mapper.scope(r, namespace)), true
}

// Prepare keeps the objects of a resource read, as a Select does, and says whether they are,
// or cannot be. It does not wait.
func (s *Store) Prepare(r schema.GroupResource) bool {
	w, err := s.watch(r)
	if err != nil {
		return true
	}
	ok, err := w.ready()
	return ok || err != nil
}

// await is the watch of a resource once its objects are read, and the namespace by which
// it knows them.
func (s *Store) await(ctx context.Context, r schema.GroupResource, namespace string) (*watch, string, error) {
	w, err := s.watch(r)
	if err == nil {
		err = w.await(ctx)
	}
	if err != nil {
		return nil, "", &UnavailableError{Resource: r, Err: err}
	}
	return w, s.mapper.scope(r, namespace), nil
}

// watch is the watch of a resource, which it notes as used.
func (s *Store) watch(r schema.GroupResource) (*watch, error) {
	if _, ok := s.mapper.KindOf(r); !ok {
		return nil, errUnknown
	}
	s.mu.RLock()
	w := s.watches[r]
	s.mu.RUnlock()
	if w != nil {
		w.use()
		return w, nil
	}
	return s.begin(r)
}

func (s *Store) begin(r schema.GroupResource) (*watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[r]; w != nil {
		w.use()
		return w, nil
	}
	if len(s.watches) >= maxWatches && !s.drop() {
		return nil, errTooMany
	}
	w := newWatch(r)
	w.use()
	s.watches[r] = w
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return w, nil
}

// drop ends the watch whose last use is the longest ago, and says whether there is one
// that is not busy.
func (s *Store) drop() bool {
	var oldest *watch
	for _, w := range s.watches {
		if oldest == nil || w.idle() > oldest.idle() {
			oldest = w
		}
	}
	if oldest.idle() < busyFor {
		return false
	}
	s.end(oldest)
	return true
}

func (s *Store) end(w *watch) {
	delete(s.watches, w.resource)
	if w.stop != nil {
		w.stop()
	}
}

// tend ends the watches that nobody uses and starts those that are new.
func (s *Store) tend(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		switch {
		case w.idle() > idleAfter:
			s.end(w)
		case w.stop == nil:
			watching, stop := context.WithCancel(ctx)
			w.stop = stop
			go w.run(watching, s.client, s.mapper)
		}
	}
}
