// Package schemas holds objects against the API of each minor version of Kubernetes that
// the chart is for, strictly: a field that a version does not know is an error.
//
// The schemas are parts of Kubernetes' own; see README.md.
package schemas

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
)

//go:embed v1.*.json
var files embed.FS

const (
	definitionPrefix = "#/definitions/"
	quantity         = "io.k8s.apimachinery.pkg.api.resource.Quantity"
	intOrString      = "int-or-string"

	extensionKinds    = "x-kubernetes-group-version-kind"
	extensionPreserve = "x-kubernetes-preserve-unknown-fields"
)

// Kinds are the kinds that the schemas have: those of the chart and of the manifests.
func Kinds() []schema.GroupVersionKind {
	var kinds []schema.GroupVersionKind
	for _, api := range []struct {
		group, version string
		kinds          []string
	}{
		{"", "v1", []string{"ConfigMap", "LimitRange", "Namespace", "ResourceQuota", "Secret", "Service", "ServiceAccount"}},
		{"admissionregistration.k8s.io", "v1", []string{"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}},
		{"apiextensions.k8s.io", "v1", []string{"CustomResourceDefinition"}},
		{"apiregistration.k8s.io", "v1", []string{"APIService"}},
		{"apps", "v1", []string{"Deployment"}},
		{"autoscaling", "v2", []string{"HorizontalPodAutoscaler"}},
		{"networking.k8s.io", "v1", []string{"Ingress", "NetworkPolicy"}},
		{"policy", "v1", []string{"PodDisruptionBudget"}},
		{"rbac.authorization.k8s.io", "v1", []string{"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}},
	} {
		for _, kind := range api.kinds {
			kinds = append(kinds, schema.GroupVersionKind{Group: api.group, Version: api.version, Kind: kind})
		}
	}
	return kinds
}

// File is a file of this package.
type File struct {
	// Version is the release that the definitions are of, such as v1.30.14.
	Version string `json:"version"`
	// Definitions are by name. What they refer to is among them.
	Definitions map[string]json.RawMessage `json:"definitions"`
}

// API is the API of one version of Kubernetes.
type API struct {
	// Minor is the version without its patch, such as 1.30.
	Minor string
	// Version is the release that the schemas are of, such as v1.30.14.
	Version string

	definitions map[string]*spec.Schema
	kinds       map[schema.GroupVersionKind]*spec.Schema
}

// All are the APIs of all versions, the oldest first.
func All() ([]*API, error) {
	names, err := fs.Glob(files, "v1.*.json")
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // All minor versions have two digits.
	var all []*API
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		a, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		a.Minor = strings.TrimSuffix(strings.TrimPrefix(path.Base(name), "v"), ".json")
		all = append(all, a)
	}
	return all, nil
}

func parse(text []byte) (*API, error) {
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	a := &API{Version: f.Version, definitions: map[string]*spec.Schema{}, kinds: map[schema.GroupVersionKind]*spec.Schema{}}
	for name, text := range f.Definitions {
		s := &spec.Schema{}
		if err := json.Unmarshal(text, s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var kinds []schema.GroupVersionKind
		if err := s.Extensions.GetObject(extensionKinds, &kinds); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, kind := range kinds {
			a.kinds[kind] = s
		}
		a.definitions[name] = s
	}
	return a, nil
}

// Check is an error that names each field of an object that the version does not know, that
// is of another type, or that is missing. What a server checks beyond that, such as the
// bounds of a number, is not checked.
func (a *API) Check(o *unstructured.Unstructured) error {
	s := a.kinds[o.GroupVersionKind()]
	if s == nil {
		return fmt.Errorf("%s: there is no schema of %s", a.Version, o.GroupVersionKind())
	}
	if err := a.check(s, o.Object); err != nil {
		return fmt.Errorf("%s: %s %s: %w", a.Version, o.GetKind(), o.GetName(), err)
	}
	return nil
}

// CheckCustom does the same for an object of a CRD, in its version of that CRD.
func CheckCustom(crd, o *unstructured.Unstructured) error {
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return err
	}
	for _, version := range versions {
		version, ok := version.(map[string]any)
		if !ok || version["name"] != o.GroupVersionKind().Version {
			continue
		}
		s := &spec.Schema{}
		text, err := json.Marshal(version["schema"])
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &struct {
			Schema *spec.Schema `json:"openAPIV3Schema"`
		}{s}); err != nil {
			return err
		}
		return (&API{}).check(s, o.Object)
	}
	return fmt.Errorf("%s has no version of %s", crd.GetName(), o.GroupVersionKind())
}

func (a *API) check(s *spec.Schema, object map[string]any) error {
	result := a.validator(s, "").Validate(object)
	slices.SortFunc(result.Errors, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(result.Errors...)
}

// validator follows references when it comes to them, as schemas refer to themselves.
func (a *API) validator(s *spec.Schema, path string) validate.ValueValidator {
	return validate.NewSchemaValidator(a.resolve(s), nil, path, strfmt.Default, func(o *validate.SchemaValidatorOptions) {
		o.NewValidatorForField = func(_ string, s *spec.Schema, _ any, path string, _ strfmt.Registry, _ ...validate.Option) validate.ValueValidator {
			return a.validator(s, path)
		}
		o.NewValidatorForIndex = func(_ int, s *spec.Schema, _ any, path string, _ strfmt.Registry, _ ...validate.Option) validate.ValueValidator {
			return a.validator(s, path)
		}
	})
}

// resolve is what a schema refers to, as a server understands it: other fields than those
// named are refused, quantities may be numbers, and ports may be names.
func (a *API) resolve(s *spec.Schema) *spec.Schema {
	resolved := *s
	if name, ok := strings.CutPrefix(s.Ref.String(), definitionPrefix); ok {
		to := a.definitions[name]
		if to == nil {
			panic("the schemas have no definition " + name) // TestClosed.
		}
		resolved = *to
		if name == quantity {
			resolved.Type = spec.StringOrArray{"string", "number"}
		}
	}
	if resolved.Format == intOrString {
		resolved.Type, resolved.Format = spec.StringOrArray{"string", "integer"}, ""
	}
	preserve, _ := resolved.Extensions.GetBool(extensionPreserve)
	if len(resolved.Properties) > 0 && resolved.AdditionalProperties == nil && !preserve {
		resolved.AdditionalProperties = &spec.SchemaOrBool{}
	}
	return &resolved
}

// Prune makes a file of the definitions of Kubernetes' swagger.json: those of Kinds and what
// they refer to, without their texts and without what only clients that merge need. Each
// definition is a line.
func Prune(version string, swagger []byte) ([]byte, error) {
	var all struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(swagger, &all); err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, kind := range Kinds() {
		name, err := definitionOf(all.Definitions, kind)
		if err != nil {
			return nil, err
		}
		collect(all.Definitions, name, wanted)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "{\"version\":%q,\"definitions\":{", version)
	for i, name := range slices.Sorted(maps.Keys(wanted)) {
		line, err := json.Marshal(all.Definitions[name])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, "\n%q:%s", name, line)
	}
	out.WriteString("\n}}\n")
	return out.Bytes(), nil
}

func definitionOf(definitions map[string]map[string]any, kind schema.GroupVersionKind) (string, error) {
	for name, d := range definitions {
		kinds, ok := d[extensionKinds].([]any)
		if !ok || len(kinds) != 1 {
			continue // Those of several kinds, such as DeleteOptions, are no object's.
		}
		k, ok := kinds[0].(map[string]any)
		if ok && k["group"] == kind.Group && k["version"] == kind.Version && k["kind"] == kind.Kind {
			return name, nil
		}
	}
	return "", fmt.Errorf("there is no definition of %s", kind)
}

// collect takes the texts out of a definition and of all that it refers to, and their names.
func collect(definitions map[string]map[string]any, name string, wanted map[string]bool) {
	if wanted[name] {
		return
	}
	wanted[name] = true
	walk(definitions[name], func(ref string) { collect(definitions, strings.TrimPrefix(ref, definitionPrefix), wanted) })
}

// walk takes the texts out of a schema and of those in it.
func walk(in any, refers func(string)) {
	switch in := in.(type) {
	case []any:
		for _, item := range in {
			walk(item, refers)
		}
	case map[string]any:
		for key, value := range in {
			walkKey(in, key, value, refers)
		}
	}
}

func walkKey(in map[string]any, key string, value any, refers func(string)) {
	switch {
	case key == "description", strings.HasPrefix(key, "x-kubernetes-") && key != extensionKinds:
		delete(in, key)
	case key == "$ref":
		if ref, ok := value.(string); ok {
			refers(ref)
		}
	case key == "properties": // Schemas by the names of fields, which may be any.
		if fields, ok := value.(map[string]any); ok {
			for _, field := range fields {
				walk(field, refers)
			}
		}
	default:
		walk(value, refers)
	}
}
