package local

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/tidegauge/tidegauge/pkg/objects"
)

// errNoCluster is why there are no objects.
var errNoCluster = errors.New("there is no cluster to ask (name the object, or give --kubeconfig)")

// noObjects is a store of a cluster that is not there.
type noObjects struct{}

// Version is for provider.Objects.
func (noObjects) Version(_ context.Context, r schema.GroupResource, _ string) (uint64, error) {
	return 0, &objects.UnavailableError{Resource: r, Err: errNoCluster}
}

// Select is for provider.Objects.
func (noObjects) Select(_ context.Context, r schema.GroupResource, _ string, _ labels.Selector) ([]string, error) {
	return nil, &objects.UnavailableError{Resource: r, Err: errNoCluster}
}

// Get is for provider.Objects.
func (noObjects) Get(_ context.Context, r schema.GroupResource, _, _ string) (objects.Object, bool, error) {
	return objects.Object{}, false, &objects.UnavailableError{Resource: r, Err: errNoCluster}
}

// Count is for plan.Counter.
func (noObjects) Count(schema.GroupResource, string) (int, bool) { return 0, false }

// ownResources is the discovery of an API server that has Kubernetes' own resources, in
// their current versions, and no others.
type ownResources struct{ discovery.DiscoveryInterface }

// ServerGroups is for objects.Mapper.
func (ownResources) ServerGroups() (*metav1.APIGroupList, error) {
	list := &metav1.APIGroupList{}
	for _, v := range own {
		version := metav1.GroupVersionForDiscovery{GroupVersion: v.String(), Version: v.Version}
		list.Groups = append(list.Groups, metav1.APIGroup{
			Name: v.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
		})
	}
	return list, nil
}

// ServerResourcesForGroupVersion is for objects.Mapper.
func (ownResources) ServerResourcesForGroupVersion(version string) (*metav1.APIResourceList, error) {
	list := &metav1.APIResourceList{GroupVersion: version}
	for _, v := range own {
		if v.String() == version {
			list.APIResources = v.resources
		}
	}
	return list, nil
}

// ownVersion are resources of one group and version.
type ownVersion struct {
	schema.GroupVersion

	resources []metav1.APIResource
}

// own are the resources of Kubernetes itself that labels of series may name, in the order
// in which an API server lists their groups
// (https://kubernetes.io/docs/reference/kubernetes-api/).
var own = []ownVersion{
	{schema.GroupVersion{Version: "v1"}, []metav1.APIResource{
		within("pods", "Pod"), within("services", "Service"), within("endpoints", "Endpoints"), within("configmaps", "ConfigMap"),
		within("secrets", "Secret"), within("serviceaccounts", "ServiceAccount"), within("persistentvolumeclaims", "PersistentVolumeClaim"),
		within("replicationcontrollers", "ReplicationController"), within("resourcequotas", "ResourceQuota"), within("limitranges", "LimitRange"),
		within("events", "Event"), without("namespaces", "Namespace"), without("nodes", "Node"), without("persistentvolumes", "PersistentVolume"),
	}},
	{schema.GroupVersion{Group: "apps", Version: "v1"}, []metav1.APIResource{
		within("deployments", "Deployment"), within("statefulsets", "StatefulSet"), within("daemonsets", "DaemonSet"),
		within("replicasets", "ReplicaSet"), within("controllerrevisions", "ControllerRevision"),
	}},
	{schema.GroupVersion{Group: "autoscaling", Version: "v2"}, []metav1.APIResource{within("horizontalpodautoscalers", "HorizontalPodAutoscaler")}},
	{schema.GroupVersion{Group: "batch", Version: "v1"}, []metav1.APIResource{within("jobs", "Job"), within("cronjobs", "CronJob")}},
	{schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}, []metav1.APIResource{
		within("ingresses", "Ingress"), within("networkpolicies", "NetworkPolicy"), without("ingressclasses", "IngressClass"),
	}},
	{schema.GroupVersion{Group: "policy", Version: "v1"}, []metav1.APIResource{within("poddisruptionbudgets", "PodDisruptionBudget")}},
	{schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}, []metav1.APIResource{within("endpointslices", "EndpointSlice")}},
	{schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}, []metav1.APIResource{within("leases", "Lease")}},
	{schema.GroupVersion{Group: "scheduling.k8s.io", Version: "v1"}, []metav1.APIResource{without("priorityclasses", "PriorityClass")}},
	{schema.GroupVersion{Group: "storage.k8s.io", Version: "v1"}, []metav1.APIResource{
		without("storageclasses", "StorageClass"), without("volumeattachments", "VolumeAttachment"), without("csinodes", "CSINode"),
	}},
}

// within is a resource whose objects have a namespace, without one whose objects have none.
// The singular is the kind in lower case.
func within(plural, kind string) metav1.APIResource {
	return metav1.APIResource{Name: plural, Kind: kind, Namespaced: true}
}

func without(plural, kind string) metav1.APIResource {
	return metav1.APIResource{Name: plural, Kind: kind}
}
