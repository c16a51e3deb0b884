package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	fieldManager = "tidegauge-test"
	// settleLimit is how long Apply waits for a kind that the API server does not serve
	// yet, as happens just after its CRD was applied, and for the service account of a
	// new namespace.
	settleLimit = 10 * time.Second
)

// Apply applies the objects of a YAML text, in order, as an administrator and by
// server-side apply. It stops at the first that is refused; the error names the
// object and has the API server's words.
func (c *Cluster) Apply(ctx context.Context, text []byte) error {
	objects, err := ParseObjects(text)
	if err != nil {
		return err
	}
	return c.apply(ctx, objects)
}

func (c *Cluster) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if err := c.applyOne(ctx, o); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), objectName(o), err)
		}
	}
	return nil
}

func (c *Cluster) applyOne(ctx context.Context, o *unstructured.Unstructured) error {
	resource, err := c.resource(ctx, o)
	if err != nil {
		return err
	}
	apply := func(ctx context.Context) error {
		_, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		return err
	}
	// A Pod is refused until a controller has given its namespace a service account, a
	// moment after the namespace was made.
	if err = apply(ctx); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "looking up service account") {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	return until.Nil(ctx, apply)
}

// resource is the client for an object's kind, in the object's namespace.
func (c *Cluster) resource(ctx context.Context, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	mapping, err := c.mapping(ctx, o.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	client := c.dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return client, nil
	}
	if o.GetNamespace() == "" {
		return nil, errors.New("metadata.namespace is missing")
	}
	return client.Namespace(o.GetNamespace()), nil
}

func (c *Cluster) mapping(ctx context.Context, kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()

	var mapping *meta.RESTMapping
	err := until.Nil(ctx, func(context.Context) error {
		var err error
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			c.mapper.Reset()
		}
		return err
	})
	return mapping, err
}

// readObjects parses all YAML files of a folder of the repository.
func (c *Cluster) readObjects(folder string) ([]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(c.root, folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no YAML file", folder)
	}
	var objects []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parsed, err := ParseObjects(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, parsed...)
	}
	return objects, nil
}

// ParseObjects are the objects of a text of YAML documents, in their order.
func ParseObjects(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), len(text))
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 { // A document may be comments only.
			objects = append(objects, o)
		}
	}
}

func objectName(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// awaitCondition waits until a condition of a cluster-scoped object is True.
func (c *Cluster) awaitCondition(ctx context.Context, resource schema.GroupVersionResource, name, condition string) error {
	err := until.Nil(ctx, func(ctx context.Context) error {
		o, err := c.dynamic.Resource(resource).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return conditionTrue(o, condition)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", resource.Resource, name, err)
	}
	return nil
}

// Aggregated returns nil if every API that another server serves is available. It
// asks the cluster of a kubeconfig, which may have been started by another process.
func Aggregated(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	list, err := client.Resource(apiServices).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range list.Items {
		if err := conditionTrue(&o, "Available"); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

func conditionTrue(o *unstructured.Unstructured, name string) error {
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, item := range conditions {
		condition, ok := item.(map[string]any)
		if !ok || condition["type"] != name {
			continue
		}
		if condition["status"] == string(metav1.ConditionTrue) {
			return nil
		}
		return fmt.Errorf("%s is %v: %v: %v", name, condition["status"], condition["reason"], condition["message"])
	}
	return fmt.Errorf("there is no condition %s yet", name)
}
