// Package objects knows the resources of the Kubernetes API, and the names and labels
// of the objects that somebody asks for, from memory.
package objects

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is what a Store holds of an object.
type Object struct {
	// Namespace is empty for an object without one.
	Namespace, Name string
	// Labels are shared and must not be written to.
	Labels labels.Set
}

// UnavailableError is the error of reading objects that the Store does not hold.
type UnavailableError struct {
	// Resource is what the objects are of.
	Resource schema.GroupResource
	// Err is what keeps them from being read, in the API server's words, or the
	// context's error if the wait for them was cut short.
	Err error
}

// Error names the resource and the cause, and for a missing right the cure.
func (e *UnavailableError) Error() string {
	text := fmt.Sprintf("cannot read %s from the API server: %v", e.Resource, e.Err)
	if apierrors.IsForbidden(e.Err) {
		text += fmt.Sprintf("; the adapter's ClusterRole needs the rule {apiGroups: [%q], resources: [%q], verbs: [list, watch]}",
			e.Resource.Group, e.Resource.Resource)
	}
	return text
}

func (e *UnavailableError) Unwrap() error { return e.Err }
