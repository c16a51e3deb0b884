package reviewapp

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
)

// kustomize are the objects of a folder of deploy/review-app.
func kustomize(t *testing.T, name string) []*unstructured.Unstructured {
	t.Helper()
	at, err := folder(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv(env.BinVariable)
	if dir == "" {
		root, err := env.Root()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, ".bin")
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "kubectl"), "kustomize", at)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	objects, err := env.ParseObjects(out)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func allOf[T any](t *testing.T, objects []*unstructured.Unstructured, kind string) map[string]T {
	t.Helper()
	all := map[string]T{}
	for _, o := range objects {
		if o.GetKind() != kind {
			continue
		}
		var decoded T
		if err := into(o, &decoded); err != nil {
			t.Fatal(err)
		}
		all[o.GetName()] = decoded
	}
	return all
}

// TestTemplate shows that what a pull request may grow to fits in its quota, that each route
// leads to a Service, and that nothing is there which nobody asks for.
func TestTemplate(t *testing.T) {
	objects := kustomize(t, "app")
	deployments := allOf[appsv1.Deployment](t, objects, "Deployment")
	if got := slices.Sorted(maps.Keys(deployments)); !slices.Equal(got, []string{"echo", "web", "worker"}) {
		t.Errorf("the Deployments are %v", got)
	}
	hpas := allOf[autoscalingv2.HorizontalPodAutoscaler](t, objects, "HorizontalPodAutoscaler")
	quota := allOf[corev1.ResourceQuota](t, objects, "ResourceQuota")["review-app"].Spec.Hard
	need := corev1.ResourceList{}
	for name, d := range deployments {
		pods := int32(1)
		if d.Spec.Replicas != nil {
			pods = *d.Spec.Replicas
		}
		if hpa, ok := hpas[name]; ok {
			pods = hpa.Spec.MaxReplicas
		}
		addMost(t, need, d, pods)
	}
	for name, most := range quota {
		if n := need[name]; n.Cmp(most) > 0 {
			t.Errorf("%s: pods may need %s, and the quota is %s", name, n.String(), most.String())
		}
	}
	services := allOf[corev1.Service](t, objects, "Service")
	for name, r := range allOf[route](t, objects, "HTTPRoute") {
		for _, b := range r.Spec.Rules[0].BackendRefs {
			if !slices.ContainsFunc(services[b.Name].Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == b.Port }) {
				t.Errorf("route %s: there is no Service %s with a port %d", name, b.Name, b.Port)
			}
		}
	}
	if len(services) != 3 {
		t.Errorf("there are %d Services, want 3", len(services))
	}
}

// addMost adds what a Deployment requests in the middle of a rollout.
func addMost(t *testing.T, need corev1.ResourceList, d appsv1.Deployment, pods int32) {
	t.Helper()
	surge := intstr.FromString("25%")
	if r := d.Spec.Strategy.RollingUpdate; r != nil && r.MaxSurge != nil {
		surge = *r.MaxSurge
	}
	more, err := intstr.GetScaledValueFromIntOrPercent(&surge, int(pods), true)
	if err != nil {
		t.Fatal(err)
	}
	all := int64(pods) + int64(more)
	c := d.Spec.Template.Spec.Containers[0].Resources
	for name, of := range map[corev1.ResourceName]resource.Quantity{
		corev1.ResourceRequestsCPU:    *c.Requests.Cpu(),
		corev1.ResourceRequestsMemory: *c.Requests.Memory(),
		corev1.ResourceLimitsMemory:   *c.Limits.Memory(),
		corev1.ResourcePods:           *resource.NewQuantity(1, resource.DecimalSI),
	} {
		sum := need[name]
		of.Mul(all)
		sum.Add(of)
		need[name] = sum
	}
}

// workflow is the part of a workflow that the test looks at, see
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax.
type workflow struct {
	// YAML reads the key "on" as true.
	On          map[string]any    `json:"true"`
	Permissions map[string]string `json:"permissions"`
	Concurrency struct {
		Group  string `json:"group"`
		Cancel bool   `json:"cancel-in-progress"`
	} `json:"concurrency"`
	Jobs map[string]struct {
		If          string                     `json:"if"`
		Permissions map[string]string          `json:"permissions"`
		Environment struct{ Name, URL string } `json:"environment"`
		Steps       []struct {
			ID, Uses, Run string
			With          map[string]any
			Env           map[string]string
		} `json:"steps"`
	} `json:"jobs"`
}

var (
	pinned  = regexp.MustCompile(`uses: (\S+@[0-9a-f]{40} # v\S+)`)
	calls   = regexp.MustCompile(`(?m)deploy/review-app/review-app (\w+)([^\n]*)`)
	inlined = regexp.MustCompile(`\$\{\{`)
)

// TestWorkflow shows what keeps the example safe: no rights but those that a job needs, no
// event that gives a stranger's code any, actions pinned as this repository pins its own, no
// text of a pull request in a script. What it calls, the program knows.
func TestWorkflow(t *testing.T) {
	text := read(t, "deploy", "review-app", "workflow.yaml")
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	if len(w.Permissions) > 0 || w.Concurrency.Cancel || !strings.Contains(w.Concurrency.Group, "github.event.number") {
		t.Errorf("permissions are %v, and concurrency %+v", w.Permissions, w.Concurrency)
	}
	if got := slices.Sorted(maps.Keys(w.On)); !slices.Equal(got, []string{"pull_request", "schedule"}) {
		t.Errorf("it runs on %v", got)
	}
	ours := read(t, ".github", "workflows", "ci.yaml") + read(t, ".github", "workflows", "release.yaml")
	for _, use := range pinned.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(ours, use[1]) {
			t.Errorf("%s is not pinned as in .github/workflows", use[1])
		}
	}
	if n, m := len(pinned.FindAllString(text, -1)), strings.Count(text, "uses: "); n != m {
		t.Errorf("%d of %d actions are pinned", n, m)
	}
	wantPermissions(t, w)
	called := map[string]bool{}
	for name, job := range w.Jobs {
		for _, step := range job.Steps {
			if inlined.MatchString(step.Run) {
				t.Errorf("job %s: an expression in a script, in place of a variable: %s", name, step.Run)
			}
			for _, call := range calls.FindAllStringSubmatch(step.Run, -1) {
				called[call[1]] = true
				wantKnown(t, call[1], call[2])
			}
		}
	}
	if got := slices.Sorted(maps.Keys(called)); !slices.Equal(got, []string{"create", "delete", "prune"}) {
		t.Errorf("called are %v", got)
	}
	if e := w.Jobs["create"].Environment; !strings.Contains(e.Name, "github.event.number") || !strings.Contains(e.URL, "steps.create.outputs.url") {
		t.Errorf("the environment is %+v", e)
	}
}

func wantPermissions(t *testing.T, w workflow) {
	t.Helper()
	for name, want := range map[string]map[string]string{
		"create": {"contents": "read", "id-token": "write"},
		"delete": {"contents": "read", "id-token": "write", "deployments": "write"},
		"prune":  {"contents": "read", "id-token": "write", "pull-requests": "read"},
	} {
		job, ok := w.Jobs[name]
		if !ok || !maps.Equal(job.Permissions, want) {
			t.Errorf("job %s has the permissions %v, want %v", name, job.Permissions, want)
		}
		if name != "prune" && !strings.Contains(job.If, "head.repo.full_name == github.repository") {
			t.Errorf("job %s runs for forks: %s", name, job.If)
		}
	}
}

// wantKnown looks for a command and its flags in what --help says.
func wantKnown(t *testing.T, command, rest string) {
	t.Helper()
	help := reviewApp(t, []string{"PATH=/usr/bin:/bin"}, "--help").well(t)
	if !strings.Contains(help, "review-app "+command) {
		t.Errorf("the program has no %s", command)
	}
	for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(rest, -1) {
		if !strings.Contains(help, "  "+flag+" ") {
			t.Errorf("%s has no flag %s", command, flag)
		}
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestReadme decodes the Ingress that takes the place of a route, and finds its Service.
func TestReadme(t *testing.T) {
	for _, block := range yamlBlock.FindAllStringSubmatch(read(t, "deploy", "review-app", "README.md"), -1) {
		if !strings.Contains(block[1], "kind: Ingress") {
			continue
		}
		var i networkingv1.Ingress
		if err := yaml.UnmarshalStrict([]byte(block[1]), &i); err != nil {
			t.Fatal(err)
		}
		backend := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
		services := allOf[corev1.Service](t, kustomize(t, "app"), "Service")
		if !slices.ContainsFunc(services[backend.Name].Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == backend.Port.Name }) {
			t.Errorf("there is no Service %s with a port %s", backend.Name, backend.Port.Name)
		}
		if *i.Spec.IngressClassName != "alb" || i.Annotations["alb.ingress.kubernetes.io/group.name"] != "review-apps" {
			t.Errorf("the Ingress is %+v", i)
		}
		return
	}
	t.Error("README.md has no Ingress")
}
