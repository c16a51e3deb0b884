package schemas

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// maxBytes is how large a file may be: its reader is a person who compares two of them.
const maxBytes = 150_000

var once = sync.OnceValues(All)

func all(t *testing.T) []*API {
	t.Helper()
	apis, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return apis
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestComplete shows that every version has every kind, and whatever its definitions refer
// to.
func TestComplete(t *testing.T) {
	apis := all(t)
	if len(apis) < 8 {
		t.Errorf("there are %d versions", len(apis))
	}
	for _, a := range apis {
		if !strings.HasPrefix(a.Version, "v"+a.Minor+".") {
			t.Errorf("v%s.json is of %s", a.Minor, a.Version)
		}
		for _, kind := range Kinds() {
			if a.kinds[kind] == nil {
				t.Errorf("%s has no %s", a.Version, kind)
			}
		}
		text, err := files.ReadFile("v" + a.Minor + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxBytes {
			t.Errorf("v%s.json has %d bytes, want %d at most", a.Minor, len(text), maxBytes)
		}
		for part := range strings.SplitSeq(string(text), `"$ref":"`+definitionPrefix) {
			if name, _, ok := strings.Cut(part, `"`); ok && name != "" && strings.HasPrefix(name, "io.") && a.definitions[name] == nil {
				t.Errorf("%s has no definition %s", a.Version, name)
			}
		}
	}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 25%}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web
        ports: [{containerPort: 80}]
        livenessProbe: {httpGet: {port: http}}
        resources: {requests: {cpu: 1, memory: 64Mi}}
`

// TestCheck shows what is found in an object.
func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		object, old, replacement string
		want                     string // empty for no error
	}{
		"right":                        {deployment, "", "", ""},
		"unknown field":                {deployment, "  replicas: 2", "  replica: 2", "spec.replica in body is a forbidden property"},
		"unknown field, deep":          {deployment, "image: web", "image: web\n        imagePullPolice: Always", "spec.template.spec.containers[0].imagePullPolice in body is a forbidden property"},
		"text for a number":            {deployment, "replicas: 2", "replicas: two", "spec.replicas in body must be of type integer"},
		"number for a text":            {deployment, "labels: {app: web}}\nspec", "labels: {app: 1}}\nspec", "metadata.labels.app in body must be of type string"},
		"text for a list":              {deployment, "ports: [{containerPort: 80}]", "ports: http", "spec.template.spec.containers[0].ports in body must be of type array"},
		"text for an object":           {deployment, "{httpGet: {port: http}}", "http", "livenessProbe in body must be of type object"},
		"missing field":                {deployment, "selector: {matchLabels: {app: web}}", "minReadySeconds: 1", "spec.selector in body is required"},
		"missing field, deep":          {deployment, "ports: [{containerPort: 80}]", "ports: [{name: http}]", "containerPort in body is required"},
		"truth for a port":             {deployment, "{port: http}", "{port: true}", "httpGet.port in body must be of type string,integer"},
		"kind that nobody asked about": {"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}}", "", "", "there is no schema of apps/v1, Kind=DaemonSet"},
	} {
		t.Run(name, func(t *testing.T) {
			o := object(t, strings.Replace(test.object, test.old, test.replacement, 1))
			for _, a := range all(t) {
				err := a.Check(o)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
		})
	}
}

// TestVersionsDiffer shows that a field is found that only newer versions know.
func TestVersionsDiffer(t *testing.T) {
	hpa := object(t, `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  maxReplicas: 2
  scaleTargetRef: {kind: Deployment, name: web}
  behavior: {scaleUp: {tolerance: "0.05"}}
`)
	pod := object(t, strings.Replace(deployment, "      containers:", "      resources: {requests: {cpu: 1}}\n      containers:", 1))
	for _, test := range []struct {
		object *unstructured.Unstructured
		since  string
	}{
		{hpa, "1.33"}, // https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/: HPAConfigurableTolerance
		{pod, "1.32"}, // The same: PodLevelResources
	} {
		for _, a := range all(t) {
			if err, known := a.Check(test.object), a.Minor >= test.since; (err == nil) != known {
				t.Errorf("%s: known is %t, want %t: %v", a.Version, err == nil, known, err)
			}
		}
	}
}

// TestCheckCustom shows that objects of a CRD are held against it as strictly.
func TestCheckCustom(t *testing.T) {
	crd := object(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          apiVersion: {type: string}
          kind: {type: string}
          metadata: {type: object}
          spec: {type: object, properties: {size: {type: integer}}}
`)
	for text, want := range map[string]string{
		"{apiVersion: example.com/v1, kind: Thing, metadata: {name: a, labels: {b: c}}, spec: {size: 1}}": "",
		"{apiVersion: example.com/v1, kind: Thing, spec: {sise: 1}}":                                      "spec.sise in body is a forbidden property",
		"{apiVersion: example.com/v1, kind: Thing, spec: {size: big}}":                                    "spec.size in body must be of type integer",
		"{apiVersion: example.com/v1, kind: Thing}":                                                       "spec in body is required",
		"{apiVersion: example.com/v2, kind: Thing, spec: {}}":                                             "things.example.com has no version of",
	} {
		err := CheckCustom(crd, object(t, text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// TestPrune shows what is left of Kubernetes' file.
func TestPrune(t *testing.T) {
	definitions := map[string]any{
		"other":       map[string]any{"description": "Nobody refers to it."},
		"description": map[string]any{"type": "string", "description": "A text."},
	}
	for _, kind := range Kinds() {
		definitions[kind.Kind] = map[string]any{
			extensionKinds: []any{map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.Kind}},
			"description":  "What it is.",
			"properties": map[string]any{
				"description": map[string]any{"$ref": "#/definitions/description", "x-kubernetes-list-type": "atomic"},
				"self":        map[string]any{"items": map[string]any{"$ref": "#/definitions/" + kind.Kind}},
			},
		}
	}
	swagger, err := json.Marshal(map[string]any{"definitions": definitions, "paths": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := Prune("v1.99.0", swagger)
	if err != nil {
		t.Fatal(err)
	}
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	if f.Version != "v1.99.0" || len(f.Definitions) != len(Kinds())+1 || f.Definitions["other"] != nil {
		t.Errorf("version %s, %d definitions", f.Version, len(f.Definitions))
	}
	want := `{"properties":{"description":{"$ref":"#/definitions/description"},"self":{"items":{"$ref":"#/definitions/Secret"}}},` +
		`"x-kubernetes-group-version-kind":[{"group":"","kind":"Secret","version":"v1"}]}`
	if got := string(f.Definitions["Secret"]); got != want {
		t.Errorf("the definition is %s, want %s", got, want)
	}
	if _, err := Prune("v1.99.0", []byte(`{"definitions":{}}`)); err == nil || !strings.Contains(err.Error(), "there is no definition of") {
		t.Errorf("without definitions: %v", err)
	}
}
