package objects

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/klog/v2"
)

const (
	// learnPause is the least time between the end of a refresh and the start of one by
	// Learn.
	learnPause = 10 * time.Second
	// refreshTimeout bounds one refresh, whoever waits for it.
	refreshTimeout = 30 * time.Second
)

// metricsGroups are the APIs of metrics. Their "pods" and "nodes" are usages, and those
// of custom.metrics.k8s.io are metrics that this adapter may serve itself: none is an
// object to describe.
var metricsGroups = []string{"metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io"}

// Mapper implements rules.Mapper. It is safe for concurrent use, and its readers take
// no lock and wait for nothing: whoever misses a resource calls Learn and asks again.
type Mapper struct {
	client discovery.DiscoveryInterfaceWithContext
	flight singleflight.Group
	// tried is when the last refresh ended, whether it succeeded or not.
	tried atomic.Pointer[time.Time]
	known atomic.Pointer[resources]
}

// NewMapper knows nothing until Refresh.
func NewMapper(d discovery.DiscoveryInterface) *Mapper {
	m := &Mapper{client: discovery.ToDiscoveryInterfaceWithContext(d)}
	m.known.Store(index(nil))
	return m
}

// Refresh learns the resources anew. A group that cannot be read, as when its
// aggregated server is away, keeps what was known of it and is no error, but for the core
// group before anything was known. After an error everything that was known still is.
// Refreshes at the same time are one.
func (m *Mapper) Refresh(ctx context.Context) error {
	// The refresh goes on for the others if one caller leaves.
	detached := context.WithoutCancel(ctx)
	done := m.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(detached, refreshTimeout)
		defer cancel()
		err := m.refresh(ctx)
		now := time.Now()
		m.tried.Store(&now)
		return nil, err
	})
	select {
	case <-ctx.Done():
		return fmt.Errorf("discovery of the API's resources: %w", ctx.Err())
	case r := <-done:
		return r.Err
	}
}

// Learn is for whoever was asked for a resource that is not known, which may be that of
// a CRD which was created just now: it refreshes, unless that was done or tried in the
// last 10 s, in which case it returns at once and without error.
func (m *Mapper) Learn(ctx context.Context) error {
	if last := m.tried.Load(); last != nil && time.Since(*last) < learnPause {
		return nil
	}
	return m.Refresh(ctx)
}

// Normalize implements rules.Mapper. A resource is known by its plural and by its
// singular, without regard to case, as to apimachinery's RESTMapper. A group that no API
// group has matches those that start with it, such as "networking" for
// "networking.k8s.io". Of several groups the core group wins, and then the one that the
// API server lists first, which are its own before those of CRDs.
func (m *Mapper) Normalize(r schema.GroupResource) (resource schema.GroupResource, namespaced, ok bool) {
	found := m.known.Load().find(r)
	if found == nil {
		return schema.GroupResource{}, false, false
	}
	return found.GroupResource, found.namespaced, true
}

// Singular implements rules.Mapper. It is the name itself for a resource that is not known.
func (m *Mapper) Singular(r schema.GroupResource) string {
	if found := m.known.Load().byResource[r]; found != nil {
		return found.singular
	}
	return r.Resource
}

// Known implements rules.Mapper: it is true after the first Refresh without an error.
func (m *Mapper) Known() bool { return m.Generation() > 0 }

// Generation implements rules.Mapper. It counts the Refreshes that found other resources
// than were known, the first of all included.
func (m *Mapper) Generation() uint64 { return m.known.Load().generation }

// KindOf is the kind of a resource that Normalize gave, in the version that the API
// server prefers of those which have it.
func (m *Mapper) KindOf(r schema.GroupResource) (schema.GroupVersionKind, bool) {
	if found := m.known.Load().byResource[r]; found != nil {
		return found.kind, true
	}
	return schema.GroupVersionKind{}, false
}

// ResourceOf is the resource of a kind, such as an HPA names. Here an empty group is the
// core group.
func (m *Mapper) ResourceOf(k schema.GroupKind) (schema.GroupResource, bool) {
	if found := m.known.Load().byKind[k]; found != nil {
		return found.GroupResource, true
	}
	return schema.GroupResource{}, false
}

// resources are what is known at one time. They are never changed.
type resources struct {
	// generation is 0 before anything was read.
	generation uint64
	groups     []group
	// byName has plurals and singulars in lower case; of each the resource of the
	// group that wins comes first.
	byName     map[string][]*resource
	byResource map[schema.GroupResource]*resource
	byKind     map[schema.GroupKind]*resource
}

// group is an API group with its versions, the preferred one first.
type group struct {
	name     string
	versions []version
}

type version struct {
	schema.GroupVersion

	resources []*resource
}

type resource struct {
	schema.GroupResource

	kind       schema.GroupVersionKind
	singular   string
	namespaced bool
}

// index takes the groups in the order in which they win. Of several versions of a
// resource the first counts.
func index(groups []group) *resources {
	known := &resources{
		groups:     groups,
		byName:     map[string][]*resource{},
		byResource: map[schema.GroupResource]*resource{},
		byKind:     map[schema.GroupKind]*resource{},
	}
	for _, g := range groups {
		for _, v := range g.versions {
			for _, r := range v.resources {
				known.add(r)
			}
		}
	}
	return known
}

func (k *resources) add(r *resource) {
	if k.byResource[r.GroupResource] != nil {
		return
	}
	k.byResource[r.GroupResource] = r
	if kind := r.kind.GroupKind(); k.byKind[kind] == nil {
		k.byKind[kind] = r
	}
	plural, singular := strings.ToLower(r.Resource), strings.ToLower(r.singular)
	k.byName[plural] = append(k.byName[plural], r)
	if singular != plural {
		k.byName[singular] = append(k.byName[singular], r)
	}
}

// find is the resource of that name in the group, or nil.
func (k *resources) find(r schema.GroupResource) *resource {
	named := k.byName[strings.ToLower(r.Resource)]
	for _, match := range []func(group string) bool{
		func(group string) bool { return r.Group == "" || group == r.Group },
		func(group string) bool { return strings.HasPrefix(group, r.Group) },
	} {
		if i := slices.IndexFunc(named, func(found *resource) bool { return match(found.Group) }); i >= 0 {
			return named[i]
		}
	}
	return nil
}

// group is what is known of a group, or nil.
func (k *resources) group(name string) *group {
	if i := slices.IndexFunc(k.groups, func(g group) bool { return g.name == name }); i >= 0 {
		return &k.groups[i]
	}
	return nil
}

func (m *Mapper) refresh(ctx context.Context) error {
	found, err := m.discover(ctx)
	if err != nil {
		return fmt.Errorf("discovery of the API's resources: %w", err)
	}
	if len(found.failed) > 0 {
		klog.FromContext(ctx).V(2).Info("Some resources of the API cannot be discovered, and stay as they were", "why", found.failed)
	}
	before := m.known.Load()
	if err := found.coreFailure(); err != nil && before.generation == 0 {
		return fmt.Errorf("discovery of the core group's resources: %w", err)
	}
	groups := make([]group, 0, len(found.groups))
	for _, g := range found.groups {
		if !slices.Contains(metricsGroups, g.Name) {
			groups = append(groups, found.group(g, before.group(g.Name)))
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int {
		// The core group is the one without a name.
		return min(len(a.name), 1) - min(len(b.name), 1)
	})
	if before.generation > 0 && reflect.DeepEqual(before.groups, groups) {
		return nil
	}
	next := index(groups)
	next.generation = before.generation + 1
	m.known.Store(next)
	return nil
}

// discovered is what the API server said: its groups in its order, and the resources
// of each version, but for those that failed.
type discovered struct {
	groups []metav1.APIGroup
	lists  map[schema.GroupVersion]*metav1.APIResourceList
	failed map[schema.GroupVersion]error
}

// discover asks twice where the API server has aggregated discovery, which is from 1.27
// on, and once for each version where it has not.
func (m *Mapper) discover(ctx context.Context) (discovered, error) {
	var d discovered
	var groups *metav1.APIGroupList
	var err error
	if client, ok := m.client.(discovery.AggregatedDiscoveryInterfaceWithContext); ok {
		groups, d.lists, d.failed, err = client.GroupsAndMaybeResourcesWithContext(ctx)
	} else {
		groups, err = m.client.ServerGroupsWithContext(ctx)
	}
	if err != nil {
		return discovered{}, err
	}
	d.groups = groups.Groups
	if d.lists != nil {
		return d, nil
	}
	d.lists, d.failed, err = m.discoverVersions(ctx, d.groups)
	return d, err
}

func (m *Mapper) discoverVersions(ctx context.Context, groups []metav1.APIGroup) (lists map[schema.GroupVersion]*metav1.APIResourceList, failed map[schema.GroupVersion]error, err error) {
	lists, failed = map[schema.GroupVersion]*metav1.APIResourceList{}, map[schema.GroupVersion]error{}
	for _, g := range groups {
		if slices.Contains(metricsGroups, g.Name) {
			continue
		}
		for _, v := range g.Versions {
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			list, err := m.client.ServerResourcesForGroupVersionWithContext(ctx, gv.String())
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if err != nil {
				failed[gv] = err
				continue
			}
			lists[gv] = list
		}
	}
	return lists, failed, nil
}

// group is the group as it was discovered. Versions that failed are as they were
// before, and then the order is as it was before as well: a version that cannot be read
// may be the preferred one.
func (d discovered) group(listed metav1.APIGroup, before *group) group {
	names := []string{listed.PreferredVersion.Version}
	for _, v := range listed.Versions {
		names = append(names, v.Version)
	}
	known := map[string]version{}
	if before != nil && d.failedAny(listed.Name) {
		var earlier []string
		for _, v := range before.versions {
			earlier, known[v.Version] = append(earlier, v.Version), v
		}
		names = slices.Concat(earlier, names)
	}
	g := group{name: listed.Name}
	done := map[string]bool{}
	for _, name := range names {
		gv := schema.GroupVersion{Group: listed.Name, Version: name}
		list, read := d.lists[gv]
		switch {
		case done[name]:
		case read:
			g.versions = append(g.versions, newVersion(gv, list))
		case d.failed[gv] != nil && known[name].Version != "":
			g.versions = append(g.versions, known[name])
		}
		done[name] = true
	}
	return g
}

func (d discovered) failedAny(group string) bool {
	for v := range d.failed {
		if v.Group == group {
			return true
		}
	}
	return false
}

// coreFailure is why the core group cannot be read.
func (d discovered) coreFailure() error {
	for v, err := range d.failed {
		if v.Group == "" {
			return err
		}
	}
	return nil
}

func newVersion(gv schema.GroupVersion, list *metav1.APIResourceList) version {
	v := version{GroupVersion: gv}
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") {
			continue // A subresource, such as pods/log.
		}
		singular := r.SingularName
		if singular == "" {
			singular = strings.ToLower(r.Kind)
		}
		v.resources = append(v.resources, &resource{
			GroupResource: schema.GroupResource{Group: gv.Group, Resource: r.Name},
			kind:          gv.WithKind(r.Kind),
			singular:      singular,
			namespaced:    r.Namespaced,
		})
	}
	return v
}

// scope is the namespace, or nothing for a resource whose objects have none.
func (m *Mapper) scope(r schema.GroupResource, namespace string) string {
	if found := m.known.Load().byResource[r]; found != nil && !found.namespaced {
		return ""
	}
	return namespace
}
