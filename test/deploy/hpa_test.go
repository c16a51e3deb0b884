package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/test/repo"
)

// examples are the files of deploy/hpa.
func examples(t *testing.T) []string {
	t.Helper()
	return repo.Glob(t, "deploy/hpa/*.yaml")
}

// exampleValues are the arguments of Helm for all rules that the examples need.
func exampleValues(t *testing.T) []string {
	t.Helper()
	return []string{
		"--values", repo.Path(t, "deploy/hpa/helm/values.yaml"), "--values", repo.Path(t, "deploy/hpa/helm/values-resource.yaml"),
		"--set", "prometheus.url=http://prometheus.monitoring.svc",
	}
}

// exampleConfig is the configuration that the chart makes of the examples' values.
func exampleConfig(t *testing.T) (string, *config.Config) {
	t.Helper()
	text := nested(parse(t, template(t, exampleValues(t)...)).own(t, "ConfigMap"), "data", "config.yaml")
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return text, c
}

// example is a file of deploy/hpa.
type example struct {
	objects

	hpa        autoscalingv2.HorizontalPodAutoscaler
	deployment appsv1.Deployment
}

func readExample(t *testing.T, file string) example {
	t.Helper()
	e := example{objects: parse(t, repo.Text(t, file))}
	for kind, into := range map[string]any{"HorizontalPodAutoscaler": &e.hpa, "Deployment": &e.deployment} {
		of := e.of(kind)
		if len(of) != 1 {
			t.Fatalf("%s has %d objects of kind %s, want 1", file, len(of), kind)
		}
		text, err := of[0].MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return e
}

// TestExamplesAreComplete shows that whatever an HPA names is beside it: what it scales,
// and the object or the rule that makes its metric. Each says how fast it scales.
func TestExamplesAreComplete(t *testing.T) {
	_, c := exampleConfig(t)
	readme := repo.Text(t, "deploy/hpa/README.md")
	for _, file := range examples(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			e := readExample(t, file)
			if to := e.hpa.Spec.ScaleTargetRef; to.Kind != "Deployment" || to.Name != e.deployment.Name {
				t.Errorf("it scales %s %s, want the Deployment %s", to.Kind, to.Name, e.deployment.Name)
			}
			if e.deployment.Spec.Replicas != nil {
				t.Error("the Deployment has replicas, which are the HPA's")
			}
			if b := e.hpa.Spec.Behavior; b == nil || b.ScaleUp == nil || b.ScaleDown == nil || b.ScaleDown.StabilizationWindowSeconds == nil {
				t.Error("behavior does not say how fast it scales up and down")
			}
			for _, m := range e.hpa.Spec.Metrics {
				if err := e.made(m, c); err != nil {
					t.Error(err)
				}
			}
			for _, m := range e.hpa.Spec.Metrics {
				if name := metricName(m); !strings.Contains(row(readme, filepath.Base(file)), "`"+name+"`") {
					t.Errorf("README.md has no row of the file with %s", name)
				}
			}
		})
	}
}

// TestExamplesServeWhileAPodMoves shows that no example that does not go to 0 goes to 1, and that
// it says why.
func TestExamplesServeWhileAPodMoves(t *testing.T) {
	reason := regexp.MustCompile(`(?m)^ +# Not 1: .*\n +minReplicas: 2$`)
	for _, file := range examples(t) {
		switch low := readExample(t, file).hpa.Spec.MinReplicas; {
		case low == nil || *low == 1:
			t.Errorf("%s: an HPA leaves one pod, and nobody serves while that moves", file)
		case *low > 1 && !reason.MatchString(repo.Text(t, file)):
			t.Errorf("%s: minReplicas is %d, and nothing says why", file, *low)
		}
	}
}

// row is the line of a table that leads to a file.
func row(text, file string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| [`"+file+"`]("+file+")") {
			return line
		}
	}
	return ""
}

func metricName(m autoscalingv2.MetricSpec) string {
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		return m.External.Metric.Name
	case autoscalingv2.PodsMetricSourceType:
		return m.Pods.Metric.Name
	case autoscalingv2.ObjectMetricSourceType:
		return m.Object.Metric.Name
	case autoscalingv2.ResourceMetricSourceType:
		return string(m.Resource.Name)
	default:
		return ""
	}
}

// made is an error unless something makes the metric.
func (e example) made(m autoscalingv2.MetricSpec, c *config.Config) error {
	name := metricName(m)
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		if !slices.ContainsFunc(e.of("ExternalMetric"), named(name)) {
			return fmt.Errorf("there is no ExternalMetric %s", name)
		}
	case autoscalingv2.PodsMetricSourceType:
		return ruled(c, "pod", name)
	case autoscalingv2.ObjectMetricSourceType:
		if of := m.Object.DescribedObject; !slices.ContainsFunc(e.of(of.Kind), named(of.Name)) {
			return fmt.Errorf("there is no %s %s", of.Kind, of.Name)
		}
		return ruled(c, strings.ToLower(m.Object.DescribedObject.Kind), name)
	case autoscalingv2.ResourceMetricSourceType:
		for _, container := range e.deployment.Spec.Template.Spec.Containers {
			if _, ok := container.Resources.Requests[m.Resource.Name]; !ok {
				return fmt.Errorf("the container %s does not request %s", container.Name, name)
			}
		}
		if c.ResourceRules == nil {
			return fmt.Errorf("no rule makes %s", name)
		}
	default:
		return fmt.Errorf("no example of type %s was looked at before", m.Type)
	}
	return nil
}

func named(name string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool { return o.GetName() == name }
}

// ruled is an error unless a rule makes the metric of a resource. The names in the values
// are literal.
func ruled(c *config.Config, resource, name string) error {
	for _, rule := range c.Rules {
		for _, of := range rule.Resources.Overrides {
			if rule.Name.As == name && of.Resource == resource {
				return nil
			}
		}
	}
	return fmt.Errorf("no rule in helm/values.yaml makes %s of a %s", name, resource)
}

// TestExampleKinds shows that there is one of each kind.
func TestExampleKinds(t *testing.T) {
	kinds := map[string]string{}
	var fromZero []string
	for _, file := range examples(t) {
		e := readExample(t, file)
		var types []string
		for _, m := range e.hpa.Spec.Metrics {
			types = append(types, string(m.Type))
		}
		slices.Sort(types)
		kinds[strings.Join(types, " ")] += filepath.Base(file) + " "
		if low := e.hpa.Spec.MinReplicas; low != nil && *low == 0 {
			fromZero = append(fromZero, filepath.Base(file))
		}
	}
	want := map[string]string{
		"External": "queue.yaml ", "Pods": "envoy.yaml requests.yaml ", "Object": "service.yaml ",
		"Resource": "cpu.yaml ", "External Pods Resource": "combined.yaml ",
	}
	for types, files := range want {
		if kinds[types] != files {
			t.Errorf("examples of type %s: %q, want %q", types, kinds[types], files)
		}
	}
	if !slices.Equal(fromZero, []string{"queue.yaml"}) {
		t.Errorf("%v scales from 0, want queue.yaml", fromZero)
	}
}

// TestExamplesApply gives the examples to the API server, strictly, in a namespace that
// takes restricted pods only. A warning is an error.
func TestExamplesApply(t *testing.T) {
	c := bed.Cluster(t)
	const own = "examples"
	ownNamespace(t, c, own)
	// Each by itself, then the folder, which is what some hand to kubectl.
	for _, file := range append(examples(t), "deploy/hpa") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			for _, args := range [][]string{
				{"--server-side", "--field-manager=example"},
				{"--server-side", "--field-manager=example"}, // Again, which changes nothing.
				{"--dry-run=server"},
			} {
				args = append([]string{"apply", "-n", own, "--validate=strict", "--warnings-as-errors", "-f", repo.Path(t, file)}, args...)
				if _, err := c.Kubectl(t.Context(), "", args...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Pods that Pod Security refuses would show as none.
	for _, file := range examples(t) {
		e := readExample(t, file)
		eventually(t, "pods of "+e.deployment.Name, func(ctx context.Context) error {
			text, err := c.Kubectl(ctx, "", "get", "deployment", "-n", own, e.deployment.Name, "-o", "json")
			if err != nil {
				return err
			}
			var d appsv1.Deployment
			if err := json.Unmarshal([]byte(text), &d); err != nil {
				return err
			}
			if d.Status.Replicas == 0 || d.Status.ReadyReplicas != d.Status.Replicas {
				return fmt.Errorf("%d of %d pods are ready: %v", d.Status.ReadyReplicas, d.Status.Replicas, d.Status.Conditions)
			}
			return nil
		})
	}
}
