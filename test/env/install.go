package env

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// Namespace is where the adapter's own objects are.
	Namespace = "tidegauge-system"
	// ServiceAccount is the adapter's, in Namespace.
	ServiceAccount = "tidegauge"

	crdDir    = "deploy/crds"
	policyDir = "deploy/policies"
	baseDir   = "deploy/base"
)

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// install applies the CRDs and policies, and of deploy/base what has to be there
// before an adapter runs.
func (c *Cluster) install(ctx context.Context) error {
	definitions, err := c.readObjects(crdDir)
	if err != nil {
		return err
	}
	base, err := c.readObjects(baseDir)
	if err != nil {
		return err
	}
	policies, err := c.readObjects(policyDir)
	if err != nil {
		return err
	}
	base = slices.DeleteFunc(base, routes)
	// Cluster-scoped objects first, and so the namespace before what is in it.
	slices.SortStableFunc(base, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetNamespace(), b.GetNamespace())
	})
	if err := c.apply(ctx, slices.Concat(definitions, policies, base)); err != nil {
		return err
	}
	for _, d := range definitions {
		if err := c.awaitCondition(ctx, crds, d.GetName(), "Established"); err != nil {
			return err
		}
	}
	c.progress("CRDs, policies and RBAC are installed")
	return nil
}

// routes says whether an object leads requests to an adapter. Those are applied when
// there is one, see Cluster.route.
func routes(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Service" || o.GetKind() == "APIService"
}

// awaitDefaultServiceAccount waits until pods can be created.
func (c *Cluster) awaitDefaultServiceAccount(ctx context.Context) error {
	err := poll(ctx, func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("default ServiceAccount: %w", err)
	}
	return nil
}
