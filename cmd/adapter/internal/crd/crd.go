// Package crd judges ExternalMetrics as a Kubernetes API server does that has the CRD of
// deploy/crds and the policy of deploy/policies, by the API server's own code.
package crd

import (
	"context"
	_ "embed" // The CRD and the policy are in the program.
	"errors"
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/crdserverscheme"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/yaml"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// Definition and Policy are copies of deploy/crds/metrics.aws_externalmetrics.yaml and of
// deploy/policies/externalmetric-ignored-fields.yaml, which `make generate` makes.
var (
	//go:embed definition.yaml
	Definition []byte
	//go:embed policy.yaml
	Policy []byte
)

// Fault is something that the API server says of an object.
type Fault struct {
	// Field is the field's path, such as "spec.queries[0].id"; empty for the object as a
	// whole.
	Field string
	// Text is what it says, in its own words.
	Text string
}

// Judge judges ExternalMetrics.
type Judge struct {
	schema   *schema.Structural
	strategy rest.RESTCreateStrategy
	policy   *policy
}

// New is the judge of the CRD and the policy that are in the program. It is made once, as
// that takes a moment, and is safe for concurrent use.
var New = sync.OnceValues(func() (*Judge, error) {
	judge, err := judgeOf(Definition, Policy)
	if err != nil {
		return nil, fmt.Errorf("the CRD of ExternalMetrics: %w", err)
	}
	return judge, nil
})

func judgeOf(definition, admission []byte) (*Judge, error) {
	var external apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(definition, &external); err != nil {
		return nil, err
	}
	if len(external.Spec.Versions) != 1 || external.Spec.Versions[0].Schema == nil {
		return nil, errors.New("it has not one version with a schema")
	}
	version := external.Spec.Versions[0]
	var properties apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &properties, nil); err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(&properties)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&properties)
	if err != nil {
		return nil, err
	}
	rules, err := newPolicy(admission)
	if err != nil {
		return nil, err
	}
	typer := crdserverscheme.NewUnstructuredObjectTyper()
	kind := metricsaws.GroupVersion.WithKind(external.Spec.Names.Kind)
	return &Judge{
		schema: structural,
		strategy: customresource.NewStrategy(typer, true, kind, validator, nil, structural,
			&apiextensions.CustomResourceSubresourceStatus{}, nil, version.SelectableFields),
		policy: rules,
	}, nil
}

// Errors are for what the API server would refuse to create the object. It has a
// namespace. It is read and changed as the API server does it: unknown fields are gone
// afterwards.
func (j *Judge) Errors(ctx context.Context, o *unstructured.Unstructured) []Fault {
	faults, err := j.decode(o)
	if err != nil {
		return append(faults, Fault{Text: err.Error()})
	}
	rest.FillObjectMetaSystemFields(o)
	return append(faults, faultsOf(rest.BeforeCreate(j.strategy, request.WithNamespace(ctx, o.GetNamespace()), o))...)
}

// decode is what the API server does with what it was sent before it looks at the values.
// Fields that it does not know are faults for clients that ask for that, as kubectl does.
func (j *Judge) decode(o *unstructured.Unstructured) ([]Fault, error) {
	kind, version := o.GetKind(), o.GetAPIVersion()
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(o.Object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, err
	}
	track := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	unknown = append(unknown, pruning.PruneWithOptions(o.Object, j.schema, true, track)...)
	defaulting.PruneNonNullableNullsWithoutDefaults(o.Object, j.schema)
	defaulting.Default(o.Object, j.schema)
	o.SetKind(kind)
	o.SetAPIVersion(version)
	if meta != nil {
		if err := objectmeta.SetObjectMeta(o.Object, meta); err != nil {
			return nil, err
		}
	}
	faults := make([]Fault, len(unknown))
	for i, field := range unknown {
		faults[i] = Fault{Field: field, Text: fmt.Sprintf("unknown field %q", field)}
	}
	return faults, nil
}

// faultsOf are what an answer of the API server says.
func faultsOf(err error) []Fault {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	switch {
	case err == nil:
		return nil
	case !ok || status.ErrStatus.Details == nil || len(status.ErrStatus.Details.Causes) == 0:
		return []Fault{{Text: err.Error()}}
	}
	var faults []Fault
	for _, cause := range status.ErrStatus.Details.Causes {
		// It remarks without a field that it left some rules unchecked, until the rest is right.
		if cause.Field != noField {
			faults = append(faults, Fault{Field: cause.Field, Text: cause.Message})
		}
	}
	return faults
}

// noField is the field of what is about none.
const noField = "<nil>"

// Warnings are what the policy says of the object.
func (j *Judge) Warnings(ctx context.Context, o *unstructured.Unstructured) []string {
	return j.policy.warnings(ctx, o)
}
