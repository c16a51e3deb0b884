// Package v1alpha1 is the API group metrics.aws/v1alpha1 of k8s-cloudwatch-adapter,
// served by this adapter with the same meaning.
//
// +kubebuilder:object:generate=true
// +groupName=metrics.aws
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the types of this package.
var GroupVersion = schema.GroupVersion{Group: "metrics.aws", Version: "v1alpha1"}

// Resource is the plural name that ExternalMetrics are served under.
var Resource = GroupVersion.WithResource("externalmetrics")

// AddToScheme registers the types of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &ExternalMetric{}, &ExternalMetricList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
