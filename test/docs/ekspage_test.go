package docs

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidegauge/tidegauge/test/env"
)

const eksPage = "eks.md"

// TestEKSParameters asks kube-controller-manager for the defaults that the page has.
func TestEKSParameters(t *testing.T) {
	program, err := env.Program("kube-controller-manager")
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.CommandContext(t.Context(), program, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	page := text(t, "docs/"+eksPage)
	for flag, says := range map[string]string{
		"sync-period": "15 s", "initial-readiness-delay": "30 s", "cpu-initialization-period": "5 min", "downscale-stabilization": "5 min", "tolerance": "0.1",
	} {
		flag = "--horizontal-pod-autoscaler-" + flag
		if !strings.Contains(page, "| "+says+" | `"+flag+"` |") {
			t.Errorf("the page does not say that %s is %s", flag, says)
		}
		found := regexp.MustCompile(`(?s)` + flag + ` \S+\s.*?\(default ([^)]*)\)`).FindSubmatch(help)
		if found == nil {
			t.Errorf("kube-controller-manager has no %s", flag)
			continue
		}
		said := strings.NewReplacer(" min", "m0s", " ", "").Replace(says)
		if got := string(found[1]); got != said {
			t.Errorf("%s is %s, and the page says %s", flag, got, says)
		}
	}
	if !regexp.MustCompile(`HPAScaleToZero=true\|false \((BETA|GA) - default=true\)`).Match(help) {
		t.Error("HPAs do not scale to zero by default")
	}
	if bytes.Contains(help, []byte("HPAConfigurableTolerance=true|false (ALPHA")) {
		t.Error("an HPA has no tolerance of its own by default")
	}
}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// demoHPA is the HPA of a file of the demo.
func demoHPA(t *testing.T, name string) autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	objects, err := env.ParseObjects([]byte(text(t, "deploy/demo/base/"+name+".yaml")))
	if err != nil {
		t.Fatal(err)
	}
	var h autoscalingv2.HorizontalPodAutoscaler
	for _, o := range objects {
		if o.GetKind() == "HorizontalPodAutoscaler" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &h); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// reckoned is what an HPA makes of a number, by the rules of
// https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/.
type reckoned struct {
	hpa     autoscalingv2.HorizontalPodAutoscaler
	pods    int32
	number  float64
	per     float64 // of one pod
	target  float64
	wanted  int32
	stays   bool
	allowed int32
	period  int32 // seconds; 0 if nothing bounds the step
	first   bool  // step of several
}

func reckon(h autoscalingv2.HorizontalPodAutoscaler, pods int32, number float64) *reckoned {
	m := h.Spec.Metrics[0]
	r := &reckoned{hpa: h, pods: pods, number: number, per: number / float64(pods)}
	if m.Pods != nil {
		r.target = m.Pods.Target.AverageValue.AsApproximateFloat64()
	} else {
		r.target = m.External.Target.AverageValue.AsApproximateFloat64()
	}
	const tolerance = 0.1
	r.stays = math.Abs(r.per/r.target-1) <= tolerance
	if r.stays {
		r.wanted = pods
		return r
	}
	r.wanted = int32(math.Ceil(number / r.target))
	switch {
	case r.wanted > pods:
		r.bound(h.Spec.Behavior.ScaleUp, 1, func(a, b int32) int32 { return max(a, b) })
	case r.wanted < pods && len(h.Spec.Behavior.ScaleDown.Policies) > 0:
		r.allowed = pods
		r.bound(h.Spec.Behavior.ScaleDown, -1, func(a, b int32) int32 { return min(a, b) })
	}
	return r
}

// bound is how far the policy goes that goes furthest. A part of a pod is none, on the way up
// as on the way down.
func (r *reckoned) bound(rules *autoscalingv2.HPAScalingRules, sign int32, further func(a, b int32) int32) {
	for _, p := range rules.Policies {
		to := r.pods + sign*p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			exact := float64(r.pods) * (1 + float64(sign*p.Value)/100)
			to = int32(math.Ceil(exact))
			if sign < 0 {
				to = int32(exact)
			}
		}
		r.allowed, r.period = further(r.allowed, to), p.PeriodSeconds
	}
	r.allowed = max(r.allowed, 0)
}

// row is how the page says it.
func (r *reckoned) row() string {
	unit, wanted := fmt.Sprintf("%g messages", r.number), fmt.Sprintf("ceil(%g / %g) = %d", r.number, r.target, r.wanted)
	if r.hpa.Name == "web" {
		unit = fmt.Sprintf("%g requests/s, %.3g a pod", r.number, r.per)
	}
	if r.number == 1 {
		unit = "1 message"
	}
	becomes := r.wanted
	allowed := ""
	switch {
	case r.stays:
		wanted = fmt.Sprintf("%.2f is within the tolerance", r.per/r.target)
	case r.wanted > r.pods:
		becomes, allowed = min(r.wanted, r.allowed, r.hpa.Spec.MaxReplicas), fmt.Sprintf("%d in %d s", r.allowed, r.period)
	case r.wanted < r.pods && r.period == 0:
		allowed = "at once, after 5 min"
	case r.wanted < r.pods:
		becomes, allowed = max(r.wanted, r.allowed), fmt.Sprintf("%d in %d s", r.allowed, r.period)
		if r.first {
			allowed += ", after 5 min"
		}
	}
	end := strconv.Itoa(int(becomes))
	if becomes == r.hpa.Spec.MaxReplicas && r.wanted > becomes {
		end += ", its most"
	}
	return strings.ReplaceAll(fmt.Sprintf("| %s | %d | %s | %s | %s | %s |", r.hpa.Name, r.pods, unit, wanted, allowed, end), "|  |", "| |")
}

// TestEKSArithmetic computes the page's examples from the demo's HPAs.
func TestEKSArithmetic(t *testing.T) {
	page := text(t, "docs/"+eksPage)
	rows := 0
	for _, c := range []struct {
		hpa    string
		pods   int32
		number float64
		first  bool
	}{
		{"web", 1, 25, false},
		{"web", 3, 25, false},
		{"web", 3, 100, false},
		{"web", 7, 100, false},
		{"web", 10, 93, false},
		{"web", 10, 25, true},
		{"worker", 0, 1, false},
		{"worker", 1, 95, false},
		{"worker", 3, 95, false},
		{"worker", 0, 300, false},
		{"worker", 5, 1000, false},
		{"worker", 10, 0, true},
		{"worker", 5, 0, false},
		{"worker", 2, 0, false},
		{"worker", 1, 0, false},
	} {
		rows++
		r := reckon(demoHPA(t, c.hpa), c.pods, c.number)
		r.first = c.first
		if row := r.row(); !strings.Contains(page, row) {
			t.Errorf("the page has no row %s", row)
		}
	}
	if got := strings.Count(page, "\n| web | ") + strings.Count(page, "\n| worker | "); got != rows {
		t.Errorf("the page has %d rows, and %d are computed", got, rows)
	}
	for _, name := range []string{"web", "worker"} {
		if got := *demoHPA(t, name).Spec.Behavior.ScaleDown.StabilizationWindowSeconds; got != 300 {
			t.Errorf("%s is stabilised for %d s, and the page says 5 min", name, got)
		}
	}
}

// TestEKSCosts adds up the prices of docs/clusters.md, and counts what the demo asks and publishes.
func TestEKSCosts(t *testing.T) {
	page, clusters := text(t, "docs/"+eksPage), strings.ReplaceAll(text(t, "docs/clusters.md"), "\n", " ")
	price := func(of string) float64 {
		found := regexp.MustCompile(regexp.QuoteMeta(of) + ` (\d\.\d+)`).FindStringSubmatch(clusters)
		if found == nil {
			t.Fatalf("docs/clusters.md has no price of %s", of)
		}
		p, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	both := price("a cluster") + price("a NAT gateway")
	hpa := both + 2*price("an m5.large")
	metrics := 60 * strings.Count(text(t, "deploy/demo/base/worker.yaml"), "metricStat:") * 2
	if !strings.Contains(text(t, "charts/tidegauge/values.yaml"), "\nreplicas: 2\n") {
		t.Error("the chart has not two replicas")
	}
	load := both + 3*price("an m5.large")
	for _, row := range []string{
		fmt.Sprintf("| two m5.large, up to five; Fargate for `scheduler: fargate` | %.2f |", hpa),
		fmt.Sprintf("| the same | %.2f, with the STS endpoint in three zones |", hpa+3*price("an endpoint")),
		fmt.Sprintf("| three t3.medium of 110 pods | %.2f, with the load balancer |", both+3*price("a t3.medium")+price("a load balancer")),
		fmt.Sprintf("| three m5.large, and up to 27 m5.xlarge | %.2f idle, %.2f at 30 nodes |", load, load+27*price("an m5.xlarge")),
	} {
		if !strings.Contains(clusters, row) {
			t.Errorf("docs/clusters.md has no %q", row)
		}
	}
	calls := 5 * 3600 / 10
	// A loader places one order in five requests: --mix of the program.
	messages := 4 * 25 / 5 * 3 * 3600
	for _, want := range []string{
		fmt.Sprintf("| %.2f: cluster %.2f, two m5.large %.2f, NAT gateway %.3f |", hpa, price("a cluster"), 2*price("an m5.large"), price("a NAT gateway")),
		fmt.Sprintf("| %.2f: the same, and an STS endpoint in three zones, %.3f |", hpa+3*price("an endpoint"), 3*price("an endpoint")),
		fmt.Sprintf("| %.2f: cluster %.2f, NAT gateway %.3f, three t3.medium %.3f, load balancer %.3f |", both+3*price("a t3.medium")+price("a load balancer"),
			price("a cluster"), price("a NAT gateway"), 3*price("a t3.medium"), price("a load balancer")),
		fmt.Sprintf("| %.4f for the queue's depth: 2 metrics a minute for each of 2 replicas, %d an hour |", float64(metrics)/1000*0.01, metrics),
		fmt.Sprintf("| %.3f at most for SQS: %d orders a second, each sent, received and deleted |", float64(messages)/1e6*0.4, messages/3/3600),
		fmt.Sprintf("| %.3f at most for what loaders and simulator publish: 5 pods, each 10 s, %d calls an hour |", float64(calls)/1000*0.01, calls),
		fmt.Sprintf("%.3f for each m5.large more", price("an m5.large")),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if !strings.Contains(text(t, "deploy/demo/base/simulator.yaml"), "--max=4\n") || !strings.Contains(text(t, "deploy/demo/base/simulator.yaml"), "--period=24m\n") {
		t.Error("the simulator has not four loaders in 24 minutes")
	}
}
