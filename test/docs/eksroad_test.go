package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/docs/cloud"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// road follows the page by one of its roads. What a block has set, later ones have.
type road struct {
	name  string
	dir   string
	cloud *cloud.Cloud
	env   []string
	// region takes the place of the example's.
	region string
}

var (
	// built has what player built.
	built string
	// player is the program that plays the others. The page calls it some hundred times, so it has
	// no race detector.
	player = sync.OnceValues(func() (string, error) {
		var err error
		if built, err = os.MkdirTemp("", "tidegauge-docs-"); err != nil {
			return "", err
		}
		build := exec.Command("go", "build", "-o", built, "./cloud/cmd/play")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return filepath.Join(built, "play"), nil
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built) // It is only a program.
	}
	os.Exit(code)
}

// newRoad has the programs of the page in a working directory, which has the repository's deploy.
func newRoad(t *testing.T, name, dir, region string) *road {
	t.Helper()
	bin := filepath.Join(dir, ".bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	played, err := player()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range cloud.Programs {
		if err := os.Symlink(played, filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	r := &road{name: name, dir: dir, region: region, cloud: &cloud.Cloud{Dir: t.TempDir()}}
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS").Output()
	if err != nil {
		t.Fatal(err)
	}
	builds := strings.Split(string(out), "\n")
	r.env = []string{
		"HOME=" + dir, "TMPDIR=" + t.TempDir(), "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), cloud.Variable + "=" + r.cloud.Dir,
		"GOCACHE=" + builds[0], "GOMODCACHE=" + builds[1], "GOPROXY=" + builds[2], "GOFLAGS=" + builds[3], "GOTOOLCHAIN=local",
	}
	return r
}

// state restores what earlier blocks have set, and keeps what this one sets.
const state = `set -euo pipefail
if [[ -e .state ]]; then . ./.state; fi
trap '{ declare -p AWS_REGION account network repository admin vpc subnets; declare -f yours output; } > .state 2>/dev/null || :' EXIT
`

// run runs the commands of a block. delete.sh is told yes.
func (r *road) run(ctx context.Context, text string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", state+strings.ReplaceAll(text, "AWS_REGION="+region, "AWS_REGION="+r.region))
	cmd.Dir, cmd.Env, cmd.Stdin = r.dir, r.env, strings.NewReader(strings.Repeat("yes\n", 10))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if faults, readErr := os.ReadFile(r.cloud.Path("faults")); readErr == nil {
		err = errors.Join(err, errors.New(string(faults)))
	}
	if err != nil {
		return "", fmt.Errorf("%w\n%s\nit printed:\n%s", err, complaint.String(), out.String())
	}
	return out.String(), nil
}

func (r *road) do(t *testing.T, b block) {
	t.Helper()
	t.Logf("%s:\n%s", b, b.text)
	out, err := r.run(t.Context(), b.text)
	if err == nil {
		err = printed(out, b.prints)
	}
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}

// blockOf is the first block of a shell below a heading.
func blockOf(t *testing.T, page, heading string) block {
	t.Helper()
	for _, b := range readPage(t, page) {
		if b.heading == heading && b.language == "sh" {
			return b
		}
	}
	t.Fatalf("docs/%s has no commands below %q", page, heading)
	return block{}
}

// alone is what the page puts behind a file of eksctl, for an account without roles.
func alone(t *testing.T) string {
	t.Helper()
	text := regexp.MustCompile(`sed '[^']+'`).FindString(blockOf(t, eksPage, "By eksctl").text)
	if text == "" {
		t.Fatal("the page does not say what an empty account has no roles for")
	}
	return text
}

// begin makes the cluster of the road.
func (r *road) begin(t *testing.T) {
	t.Helper()
	r.do(t, blockOf(t, "clusters.md", "Before"))
	if r.name == "review" {
		b := blockOf(t, "clusters.md", "Review apps")
		b.text = strings.Replace(b.text, "review.yaml |", "review.yaml | "+alone(t)+" |", 1)
		r.do(t, b)
	}
	for _, b := range readPage(t, eksPage) {
		if rest, ok := b.is("step"); ok && rest == "road "+r.name {
			r.do(t, b)
		}
	}
}

// end goes back to nothing, and shows that nothing is left.
func (r *road) end(t *testing.T) {
	t.Helper()
	for _, b := range readPage(t, eksPage) {
		if name, ok := b.is("back"); ok && name == r.name {
			r.do(t, b)
		}
		if rest, ok := b.is("step"); ok && rest == "empty account" {
			out, err := r.run(t.Context(), b.text)
			if err != nil || strings.TrimSpace(out) != "" {
				t.Errorf("%s: %v, and there is still %s", b, err, out)
			}
		}
	}
	for _, kind := range []string{"cluster", "stack", "nodes", "logs"} {
		left, err := os.ReadDir(r.cloud.Path(kind))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("by %s there is still %s %s", r.name, kind, e.Name())
		}
	}
	if isFile(filepath.Join(r.dir, "prometheus.yaml")) || isFile(filepath.Join(r.dir, ".local", "orders")) {
		t.Errorf("by %s files are left", r.name)
	}
}

// TestEKSRoads makes each cluster, pushes the image, and goes back to nothing, with kubectl played too.
func TestEKSRoads(t *testing.T) {
	image := func(t *testing.T) block {
		t.Helper()
		for _, b := range readPage(t, eksPage) {
			if strings.Contains(b.text, "docker push") {
				return b
			}
		}
		t.Fatal("the page pushes no image")
		return block{}
	}
	for _, name := range []string{"eksctl", "cdk", "cdk " + cloud.ByUser, "review"} {
		t.Run(name, func(t *testing.T) {
			name, user, _ := strings.Cut(name, " ")
			dir := t.TempDir()
			if err := os.Symlink(filepath.Join(root(t), "deploy"), filepath.Join(dir, "deploy")); err != nil {
				t.Fatal(err)
			}
			r := newRoad(t, name, dir, cloud.Region)
			// It knows of nothing.
			if err := os.WriteFile(filepath.Join(dir, ".bin", "kubectl"), []byte("#!/bin/bash\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			if user != "" {
				if err := r.cloud.Put(user); err != nil {
					t.Fatal(err)
				}
			}
			r.begin(t)
			r.do(t, image(t))
			if !r.cloud.Has("image/orders:0.1.0") {
				t.Error("there is no image")
			}
			r.end(t)
		})
	}
}

// TestEKSPage follows the page by eksctl: what is of AWS is played, all else is real, but for
// pods, which are kwok's, and the numbers of Prometheus and CloudWatch.
func TestEKSPage(t *testing.T) {
	b := newBed(t, "helm")
	r := newRoad(t, "eksctl", b.dir, region)
	b.startPrometheus()
	b.prometheus.Play(func(c promproxy.Call) (promproxy.Answer, bool) {
		return b.shop(context.WithoutCancel(t.Context())).Play(c)
	})
	r.env = append(r.env, "KUBECONFIG="+b.Kubeconfig(), "BED_PROMETHEUS="+b.prometheus.URL())
	r.helm(t)
	b.publish(depth("ApproximateNumberOfMessagesVisible", 95), depth("ApproximateNumberOfMessagesNotVisible", 0))
	// What the add-on brings.
	b.apply("{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1beta1.metrics.k8s.io}, spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100}}")

	r.begin(t)
	for _, step := range readPage(t, eksPage) {
		rest, ok := step.is("step")
		switch {
		case !ok:
		case rest == "watched":
			r.watch(t, step)
			b.settle(t, "web", 31*time.Second)
			b.publish(depth("ApproximateNumberOfMessagesVisible", 1000))
		case rest == "until printed":
			eventually(t, func(ctx context.Context) error {
				out, err := r.run(ctx, step.text)
				return errors.Join(err, printed(out, step.prints))
			})
		case rest == "":
			r.do(t, step)
			eventually(t, b.node.ready)
		}
	}
	b.awaitReplicas(t, "worker", 10)
	r.reachedFromOutside(t)
	r.lookAround(t)
	b.keep(t)
	r.end(t)
	claims, err := b.Client().CoreV1().PersistentVolumeClaims("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(claims.Items) > 0 {
		t.Errorf("%v, and there are still claims: %v", err, claims)
	}
}

// kept are pods that keep something: of a StatefulSet, which makes a claim that is missing again,
// and of a Deployment.
const kept = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: stored-0}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /nowhere}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: stored-1}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /nowhere}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files, namespace: default}
spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: files, namespace: default}
spec:
  selector: {matchLabels: {app: stored, of: files}}
  template:
    metadata: {labels: {app: stored, of: files}}
    spec:
      containers: [{name: work, image: work}]
      volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, namespace: default}
spec:
  serviceName: store
  selector: {matchLabels: {app: stored, of: store}}
  template:
    metadata: {labels: {app: stored, of: store}}
    spec: {containers: [{name: work, image: work}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// keep waits until these pods run, and so hold their claims.
func (b *bed) keep(t *testing.T) {
	t.Helper()
	b.apply(kept)
	eventually(t, func(ctx context.Context) error {
		pods, err := b.Client().CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=stored"})
		if err != nil {
			return err
		}
		running := 0
		for _, pod := range pods.Items {
			if pod.Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running != 2 {
			return fmt.Errorf("%d pods run that keep something, want 2", running)
		}
		return nil
	})
}

// reachedFromOutside runs what the page has for review apps' cluster behind its load balancer.
func (r *road) reachedFromOutside(t *testing.T) {
	t.Helper()
	for _, b := range readPage(t, eksPage) {
		if rest, ok := b.is("step"); !ok || rest != "demo review" {
			continue
		}
		output := regexp.MustCompile(`(?m)^output\(\) .*$`).FindString(blockOf(t, "clusters.md", "Review apps").text)
		b.text = "aws cloudformation deploy --stack-name tidegauge-review-elb --template-file deploy/cluster/cloudformation/elb.yaml " +
			"--parameter-overrides VpcId=vpc-1 PublicSubnets=subnet-1,subnet-2,subnet-3 CertificateArn=\n" + output + "\n" + b.text
		r.do(t, b)
		if err := r.cloud.Remove("stack/tidegauge-review-elb"); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the page does not reach web")
}

// lookAround runs the commands of the page's tables, but for those that need a real pod.
func (r *road) lookAround(t *testing.T) {
	t.Helper()
	count, seen := 0, map[string]bool{}
	for line := range strings.Lines(prose(t, filepath.Join(root(t), "docs", eksPage))) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		for _, span := range codeSpan.FindAllString(line, -1) {
			command := strings.Trim(span, "`")
			if !regexp.MustCompile(`^(kubectl|aws|helm|eksctl) `).MatchString(command) || strings.Contains(command, "port-forward") {
				continue
			}
			count++
			// Some rows have the same cure, and no rollout is restarted twice in a second.
			if seen[command] {
				continue
			}
			seen[command] = true
			if _, err := r.run(t.Context(), "admin=${admin-role}\n"+command); err != nil {
				t.Errorf("docs/%s: %s: %v", eksPage, command, err)
			}
		}
	}
	if count < 10 {
		t.Errorf("the tables have %d commands only", count)
	}
}

// helm has charts of others played, and the repository's own installed by the bed's Helm.
func (r *road) helm(t *testing.T) {
	t.Helper()
	own := filepath.Join(r.dir, ".bin", "helm")
	if err := os.Rename(own, own+"-of-bed"); err != nil {
		t.Fatal(err)
	}
	const script = `#!/bin/bash
if [[ $3 == oci://* ]]; then exec helm-of-others "$@"; fi
exec helm-of-bed "$@"
`
	if err := os.WriteFile(own, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
}

// depth is a metric of the demo's queue.
func depth(name string, value float64) fakeaws.Metric {
	return fakeaws.Metric{Namespace: "AWS/SQS", Name: name, Dimensions: map[string]string{"QueueName": "orders"}, Value: fakeaws.Float(value)}
}

// shop are the requests of web's pods: of each loader that is wanted 25 a second, evenly on those
// that run.
func (b *bed) shop(ctx context.Context) promproxy.Data {
	loader, err := b.Client().AppsV1().Deployments("orders").Get(ctx, "loader", metav1.GetOptions{})
	if err != nil {
		return nil // Not yet.
	}
	pods, err := b.Client().CoreV1().Pods("orders").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		return nil
	}
	web := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil
	})
	data := make(promproxy.Data, 0, len(web))
	for _, pod := range web {
		data = append(data, promproxy.Sample{
			Labels: map[string]string{"__name__": "http_requests_total", "namespace": pod.Namespace, "pod": pod.Name},
			Value:  strconv.FormatFloat(25*float64(*loader.Spec.Replicas)/float64(len(web)), 'f', 3, 64),
		})
	}
	return data
}

// watch runs a command that does not end until it has printed what the page shows. Lines of one
// object come in their order; those of several may come in any.
func (r *road) watch(t *testing.T, b block) {
	t.Helper()
	t.Logf("%s:\n%s", b, b.text)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	out, err := os.Create(filepath.Join(t.TempDir(), "watched"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+b.text)
	cmd.Dir, cmd.Env, cmd.Stdout = r.dir, r.env, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // It was ended.
	}()
	eventually(t, func(context.Context) error {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			return err
		}
		return printedApart(string(text), b.prints)
	})
}

// printedApart is printed, for each object that a line begins with.
func printedApart(output, want string) error {
	objects := map[string]string{}
	for line := range strings.Lines(want) {
		objects[strings.Fields(line)[0]] += line
	}
	var errs []error
	for _, lines := range objects {
		errs = append(errs, printed(output, lines))
	}
	return errors.Join(errs...)
}

// settle waits until an HPA has scaled nothing for so long.
func (b *bed) settle(t *testing.T, name string, quiet time.Duration) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		h, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers("orders").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if last := h.Status.LastScaleTime; last != nil && time.Since(last.Time) < quiet {
			return fmt.Errorf("HPA %s scaled at %s", name, last)
		}
		return nil
	})
}

// awaitReplicas waits until an HPA wants so many pods.
func (b *bed) awaitReplicas(t *testing.T, name string, want int32) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		h, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers("orders").Get(ctx, name, metav1.GetOptions{})
		if err == nil && h.Status.DesiredReplicas != want {
			err = fmt.Errorf("HPA %s wants %d pods, want %d: %v", name, h.Status.DesiredReplicas, want, h.Status.Conditions)
		}
		return err
	})
}
