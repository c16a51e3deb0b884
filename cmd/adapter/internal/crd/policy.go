package crd

import (
	"bytes"
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

// policy is a ValidatingAdmissionPolicy.
type policy struct{ validator validating.Validator }

// newPolicy compiles the first document of the text, as the API server does it.
func newPolicy(text []byte) (*policy, error) {
	first, _, _ := bytes.Cut(text, []byte("\n---"))
	var p admissionv1.ValidatingAdmissionPolicy
	if err := yaml.UnmarshalStrict(first, &p); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	variables := make([]cel.NamedExpressionAccessor, len(p.Spec.Variables))
	for i, v := range p.Spec.Variables {
		variables[i] = &validating.Variable{Name: v.Name, Expression: v.Expression}
	}
	conditions := make([]cel.ExpressionAccessor, len(p.Spec.Validations))
	messages := make([]cel.ExpressionAccessor, len(p.Spec.Validations))
	for i, v := range p.Spec.Validations {
		conditions[i] = &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason}
		if v.MessageExpression != "" {
			messages[i] = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
		}
	}
	var declared cel.OptionalVariableDeclarations
	compiler.CompileAndStoreVariables(variables, declared, environment.StoredExpressions)
	return &policy{validating.NewValidator(
		compiler.CompileCondition(conditions, declared, environment.StoredExpressions), nil,
		compiler.CompileCondition(nil, declared, environment.StoredExpressions),
		compiler.CompileCondition(messages, declared, environment.StoredExpressions),
		p.Spec.FailurePolicy, nil,
	)}, nil
}

// warnings are the messages of the rules that the object breaks.
func (p *policy) warnings(ctx context.Context, o *unstructured.Unstructured) []string {
	kind := o.GroupVersionKind()
	attributes := admission.NewAttributesRecord(o, nil, kind, o.GetNamespace(), o.GetName(), metricsaws.Resource, "",
		admission.Create, &metav1.CreateOptions{}, true, &user.DefaultInfo{})
	versioned := &admission.VersionedAttributes{Attributes: attributes, VersionedKind: kind}
	versioned.VersionedObject.Set(o)
	var texts []string
	for _, d := range p.validator.Validate(ctx, metricsaws.Resource, versioned, nil, nil, celconfig.RuntimeCELCostBudget, nil).Decisions {
		if d.Evaluation != validating.EvalAdmit {
			texts = append(texts, d.Message)
		}
	}
	return texts
}
