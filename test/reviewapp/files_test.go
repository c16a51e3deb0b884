package reviewapp

import (
	"maps"
	"reflect"
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
	out, err := env.Run(t.Context(), "", "kubectl", "kustomize", at)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := env.ParseObjects([]byte(out))
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
	Env  map[string]string `json:"env"`
	Jobs map[string]job    `json:"jobs"`
}

type job struct {
	If          string                     `json:"if"`
	Permissions map[string]string          `json:"permissions"`
	Environment struct{ Name, URL string } `json:"environment"`
	Steps       []step                     `json:"steps"`
}

type step struct {
	ID, Name, Uses, Run string
	With                map[string]any
	Env                 map[string]string
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
	if len(w.Permissions) > 0 || w.Concurrency.Cancel || w.Concurrency.Group != "review-app-${{ github.event.number || 'prune' }}" {
		t.Errorf("permissions are %v, and concurrency %+v", w.Permissions, w.Concurrency)
	}
	on := map[string]any{
		"pull_request": map[string]any{"types": []any{"opened", "reopened", "synchronize", "closed"}},
		"schedule":     []any{map[string]any{"cron": "23 3 * * *"}},
	}
	if !reflect.DeepEqual(w.On, on) {
		t.Errorf("it runs on %v, want %v", w.On, on)
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
	wantRole(t, w)
	wantSteps(t, w.Jobs)
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
	if e := w.Jobs["create"].Environment; e.Name != "review-app-${{ github.event.number }}" || e.URL != "${{ steps.create.outputs.url }}" {
		t.Errorf("the environment is %+v", e)
	}
}

// wantPermissions: a job may what it needs and no more, and runs for what it is for. A fork's
// pull request is for none.
func wantPermissions(t *testing.T, w workflow) {
	t.Helper()
	const own = " && github.event.pull_request.head.repo.full_name == github.repository"
	if got := slices.Sorted(maps.Keys(w.Jobs)); !slices.Equal(got, []string{"create", "delete", "prune"}) {
		t.Errorf("the jobs are %v", got)
	}
	for name, want := range map[string]job{
		"create": {
			If:          "github.event_name == 'pull_request' && github.event.action != 'closed'" + own,
			Permissions: map[string]string{"contents": "read", "id-token": "write"},
		},
		"delete": {
			If:          "github.event_name == 'pull_request' && github.event.action == 'closed'" + own,
			Permissions: map[string]string{"contents": "read", "id-token": "write", "deployments": "write"},
		},
		"prune": {
			If:          "github.event_name == 'schedule'",
			Permissions: map[string]string{"contents": "read", "id-token": "write", "pull-requests": "read"},
		},
	} {
		job := w.Jobs[name]
		if !maps.Equal(job.Permissions, want.Permissions) {
			t.Errorf("job %s has the permissions %v, want %v", name, job.Permissions, want.Permissions)
		}
		if got := strings.Join(strings.Fields(job.If), " "); got != want.If {
			t.Errorf("job %s runs if %s, want %s", name, got, want.If)
		}
	}
}

// wantRole: each job takes the role by GitHub's token, in a file that nobody else can read.
func wantRole(t *testing.T, w workflow) {
	t.Helper()
	want := map[string]string{"AWS_REGION": "${{ vars.AWS_REGION }}", "AWS_ROLE_ARN": "${{ vars.REVIEW_APP_DEPLOYER }}", "AWS_WEB_IDENTITY_TOKEN_FILE": "/tmp/token"}
	if !maps.Equal(w.Env, want) {
		t.Errorf("all jobs have %v, want %v", w.Env, want)
	}
	for name, job := range w.Jobs {
		i := slices.IndexFunc(job.Steps, func(s step) bool { return s.Name == "Take the role" })
		if i != 1 {
			t.Errorf("job %s takes the role in step %d, want right after the checkout", name, i)
			continue
		}
		if !maps.Equal(job.Steps[i].Env, map[string]string{"CLUSTER": "${{ vars.REVIEW_APP_CLUSTER }}"}) {
			t.Errorf("job %s: with the role come %v", name, job.Steps[i].Env)
		}
		var lines []string
		for line := range strings.Lines(job.Steps[i].Run) {
			lines = append(lines, strings.TrimSpace(line))
		}
		wantLines := []string{
			"umask 077",
			`curl -fsS -H "Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" \`,
			`"$ACTIONS_ID_TOKEN_REQUEST_URL&audience=sts.amazonaws.com" | jq -er .value > "$AWS_WEB_IDENTITY_TOKEN_FILE"`,
			`aws eks update-kubeconfig --name "$CLUSTER"`,
		}
		if !slices.Equal(lines, wantLines) {
			t.Errorf("job %s takes the role by %q, want %q", name, lines, wantLines)
		}
	}
}

// wantSteps: what deploys is of the base branch, whose own rights no later step finds; the
// pull request brings its image, by its commit; and a link that leads nowhere goes.
func wantSteps(t *testing.T, jobs map[string]job) {
	t.Helper()
	number := "${{ github.event.number }}"
	base := map[string]any{"ref": "${{ github.event.pull_request.base.sha }}", "persist-credentials": false}
	for name, want := range map[string]struct {
		checkout map[string]any
		last     []step
	}{
		"create": {base, []step{{
			ID: "create",
			Run: `deploy/review-app/review-app create "$NUMBER" --domain "$DOMAIN" --image "$IMAGE" --role-arn "$ROLE"` + "\n" +
				`echo "url=https://web-pr-$NUMBER.$DOMAIN" >> "$GITHUB_OUTPUT"` + "\n",
			Env: map[string]string{
				"NUMBER": number, "DOMAIN": "${{ vars.REVIEW_APP_DOMAIN }}", "ROLE": "${{ vars.REVIEW_APP_ROLE }}",
				"IMAGE": "${{ vars.REVIEW_APP_IMAGE }}:${{ github.event.pull_request.head.sha }}",
			},
		}}},
		"delete": {base, []step{
			{Run: `deploy/review-app/review-app delete "$NUMBER"`, Env: map[string]string{"NUMBER": number}},
			{
				Name: "Take the link away",
				Run: `gh api --paginate "repos/$GITHUB_REPOSITORY/deployments?environment=review-app-$NUMBER" --jq '.[].id' |` + "\n" +
					"  while read -r id; do\n" +
					`    gh api --silent --method POST "repos/$GITHUB_REPOSITORY/deployments/$id/statuses" -f state=inactive` + "\n" +
					"  done\n",
				Env: map[string]string{"NUMBER": number, "GH_TOKEN": "${{ github.token }}"},
			},
		}},
		// On a schedule the checkout is of the default branch.
		"prune": {map[string]any{"persist-credentials": false}, []step{{
			Run: "deploy/review-app/review-app prune", Env: map[string]string{"GH_TOKEN": "${{ github.token }}", "GH_REPO": "${{ github.repository }}"},
		}}},
	} {
		steps := jobs[name].Steps
		if len(steps) < 2 || !strings.HasPrefix(steps[0].Uses, "actions/checkout@") || !reflect.DeepEqual(steps[0].With, want.checkout) {
			t.Errorf("job %s begins with %+v, want a checkout with %v", name, steps, want.checkout)
			continue
		}
		if got := steps[2:]; !reflect.DeepEqual(got, want.last) {
			t.Errorf("job %s ends with %+v, want %+v", name, got, want.last)
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
		if got, want := i.Annotations["alb.ingress.kubernetes.io/ssl-policy"], setting(t, read(t, "deploy", "review-app", "gateway", "alb.yaml"), `sslPolicy: (\S+)`); got != want {
			t.Errorf("the Ingress takes TLS by the policy %q, want %s", got, want)
		}
		if *i.Spec.IngressClassName != "alb" || i.Annotations["alb.ingress.kubernetes.io/group.name"] != "review-apps" {
			t.Errorf("the Ingress is %+v", i)
		}
		return
	}
	t.Error("README.md has no Ingress")
}
