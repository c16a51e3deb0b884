package waysin

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/balancer"
)

const (
	local   = corev1.ServiceExternalTrafficPolicyLocal
	cluster = corev1.ServiceExternalTrafficPolicyCluster
)

// measure has the ways measured. How much they lose depends on the machine: on one that is busy
// with other tests a rollout is slower than a throttled registration, or a drain shorter than a lag.
var measure = flag.Bool("measure", false, "measure what each way into the cluster loses, on a machine that does nothing else")

// ways are the measurements, by the row of docs/ways-in.md. The worse way of a row loses
// requests, the better one loses none. A row may have one that loses fewer than the worse.
var ways = []struct {
	row                  string
	worse, fewer, better way
}{
	{
		// A new pod is ready before the load balancer knows of it, and the last old one goes.
		row:    "registration lag",
		worse:  way{name: "lag without gate", pods: 2, drain: 4 * time.Second, set: lagging, event: rollOut},
		better: way{name: "lag with gate", pods: 2, drain: 4 * time.Second, gate: true, set: lagging, event: rollOut},
	},
	{
		row:    "throttled registration",
		worse:  way{name: "throttled without gate", pods: 3, drain: 4 * time.Second, set: throttled, event: rollOut},
		fewer:  way{name: "unthrottled without gate", pods: 3, drain: 4 * time.Second, event: rollOut},
		better: way{name: "throttled with gate", pods: 3, drain: 4 * time.Second, gate: true, set: throttled, event: rollOut},
	},
	{
		// The load balancer hears of a pod's end a second after the pod does.
		row:    "pods that end at once",
		worse:  way{name: "scale in at once", pods: 4, set: hearingLate, event: scaleIn},
		better: way{name: "scale in drained", pods: 4, drain: 4 * time.Second, set: hearingLate, event: scaleIn},
	},
	{
		// Requests of 2 s, of which a draining target may finish what it has.
		row:    "deregistration delay",
		worse:  way{name: "short delay", pods: 4, drain: 6 * time.Second, path: "/slow", set: delay(500 * time.Millisecond), event: scaleIn},
		better: way{name: "long delay", pods: 4, drain: 6 * time.Second, path: "/slow", set: delay(5 * time.Second), event: scaleIn},
	},
	{
		// The node of the pod that ends stays a target until its checks fail.
		row:    "externalTrafficPolicy Local",
		worse:  way{name: "local at once", pods: 2, policy: local, event: scaleIn},
		better: way{name: "local drained", pods: 2, drain: 4 * time.Second, policy: local, event: scaleIn},
	},
	{
		row:    "node drain, pods as targets",
		worse:  way{name: "drain at once", pods: 2, set: hearingLate, event: drainNode},
		better: way{name: "drain with budget", pods: 2, drain: 4 * time.Second, gate: true, budget: true, set: hearingLate, event: drainNode},
	},
	{
		// Whatever runs on it, every node passes requests on.
		row:    "node ends, nodes as targets",
		worse:  way{name: "node gone", pods: 2, drain: 4 * time.Second, policy: cluster, set: delay(time.Second), event: nodeEnds},
		better: way{name: "node announced", pods: 2, drain: 4 * time.Second, policy: cluster, set: delay(time.Second), event: nodeEndsAnnounced},
	},
}

func lagging(o *balancer.Options)     { o.RegistrationLag = 2 * time.Second }
func hearingLate(o *balancer.Options) { o.DeregistrationLag = time.Second }

// throttled is what an account is whose other clusters make calls too. Every target is a call.
func throttled(o *balancer.Options) {
	o.CallTargets, o.Throttle = 1, balancer.Throttle{PerSecond: 0.5, Burst: 3}
}

func delay(d time.Duration) func(*balancer.Options) {
	return func(o *balancer.Options) { o.DeregistrationDelay = d }
}

// nodeEnds takes a node away that has no pod of the Service, as all of its pods were evicted.
func nodeEnds(t *testing.T, s *scene) {
	t.Helper()
	s.takeAway(s.nodes(t)["node-0"])
}

// nodeEndsAnnounced is of a node whose end was announced by a taint, as Karpenter and Cluster
// Autoscaler do, and which was a target until it had drained.
func nodeEndsAnnounced(t *testing.T, s *scene) {
	t.Helper()
	const name = "node-1"
	address := s.nodes(t)[name]
	nodes := bed.cluster.Client().CoreV1().Nodes()
	patch := `{"spec":{"taints":[{"key":"` + leaving + `","effect":"NoSchedule"}]}}`
	if _, err := nodes.Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		back := []byte(`{"spec":{"taints":null}}`)
		if _, err := nodes.Patch(context.WithoutCancel(t.Context()), name, types.StrategicMergePatchType, back, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, s.name+": nothing is sent to the node", func() error { return busy(s.balancer, address) })
	s.takeAway(address)
}

// TestFigures measures all ways at the same time, each with its own pods and load balancer.
// TestWaysIn shows the same without figures, on any machine.
func TestFigures(t *testing.T) {
	if !*measure {
		t.Skip("it takes -args -measure, and a machine that does nothing else")
	}
	running(t)
	begin := time.Now()
	results := make([][3]figures, len(ways))
	t.Run("ways", func(t *testing.T) {
		for i, row := range ways {
			for j, w := range []way{row.worse, row.fewer, row.better} {
				if w.name == "" {
					continue
				}
				t.Run(w.name, func(t *testing.T) {
					t.Parallel()
					results[i][j] = w.measure(t)
				})
			}
		}
	})
	if t.Failed() {
		return
	}
	var table strings.Builder
	for i, row := range ways {
		worse, fewer, better := results[i][0], results[i][1], results[i][2]
		if worse.lost == 0 || row.fewer.name != "" && fewer.lost >= worse.lost {
			t.Errorf("%s: %d are lost the worse way, and %d another way", row.row, worse.lost, fewer.lost)
		}
		if better.lost > 0 {
			t.Errorf("%s: %d of %d are lost the better way (%s)", row.row, better.lost, better.sent, better.codes)
		}
		for j, w := range []way{row.worse, row.fewer, row.better} {
			if f := results[i][j]; w.name != "" {
				fmt.Fprintf(&table, "| %s | %s | %d of %d | %s |\n", row.row, w.name, f.lost, f.sent, f.codes)
			}
		}
	}
	for i, pair := range ways {
		if pair.row == "throttled registration" && results[i][0].calls.Throttled == 0 {
			t.Error("no call was throttled")
		}
	}
	t.Logf("%d requests a second each, %v in all\n%s", perSecond, time.Since(begin).Round(time.Second), table.String())
}
