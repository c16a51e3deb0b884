package env

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// Namespace is where the adapter's own objects are.
	Namespace = "tidegauge-system"
	// ServiceAccount is the adapter's, in Namespace.
	ServiceAccount = "tidegauge"
	// PodName is the pod, in Namespace, for which an adapter takes itself.
	PodName = "tidegauge"

	crdDir    = "deploy/crds"
	policyDir = "deploy/policies"
	baseDir   = "deploy/base"
	// resourceMetricsDir is for adapters that serve metrics.k8s.io.
	resourceMetricsDir = "deploy/resource-metrics"
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

// installPod creates the pod whose status the adapter writes, as if it ran in it. Its
// container is simulated.
func (c *Cluster) installPod(ctx context.Context) error {
	_, err := c.client.CoreV1().Pods(Namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: PodName},
		Spec: corev1.PodSpec{
			ServiceAccountName: ServiceAccount,
			Containers:         []corev1.Container{{Name: "adapter", Image: "adapter"}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// routes says whether an object leads requests to an adapter. Those are applied when
// there is one, see Cluster.route.
func routes(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Service" || o.GetKind() == "APIService"
}

// awaitDefaultServiceAccount waits until pods can be created.
func (c *Cluster) awaitDefaultServiceAccount(ctx context.Context) error {
	err := until.Nil(ctx, func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("default ServiceAccount: %w", err)
	}
	return nil
}
