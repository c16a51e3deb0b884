package e2e

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tidegauge/tidegauge/test/player"
)

const (
	mebi = 1 << 20
	// near is by which part a rate may miss what the player was told: scrapes come a
	// little early or late.
	near = 0.1
)

// use sets what the containers of a Deployment use together; of one name, if it is not empty.
func (s *space) use(workload, container string, cores, bytes float64) {
	s.t.Helper()
	err := s.player.SetUsage(player.Usage{Namespace: s.namespace, Workload: workload, Container: container, Cores: cores, Bytes: bytes})
	if err != nil {
		s.t.Fatal(err)
	}
}

// sized makes pods of two containers, worker and proxy, that request a core and 100Mi each.
func sized(pod *corev1.PodTemplateSpec) {
	requests := corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("100Mi"),
	}}
	pod.Spec.Containers = []corev1.Container{
		{Name: "worker", Image: "worker", Resources: requests}, {Name: "proxy", Image: "proxy", Resources: requests},
	}
}

func TestHPAOfResources(t *testing.T) {
	t.Parallel()
	half := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))}
	hundredMebi := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(100*mebi, resource.BinarySI)}
	pods := func(name corev1.ResourceName, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
		return autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: name, Target: target},
		}
	}
	containers := func(name corev1.ResourceName, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
		return autoscalingv2.MetricSpec{
			Type:              autoscalingv2.ContainerResourceMetricSourceType,
			ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: name, Container: "worker", Target: target},
		}
	}
	for name, tc := range map[string]struct {
		metric autoscalingv2.MetricSpec
		// busy is work for four pods, idle for one. The proxies use as much again, in bytes
		// or cores, if both is said.
		busy, idle player.Usage
		proxies    float64
	}{
		// Each pod requests two cores, and aims at one.
		"CPU":              {pods(corev1.ResourceCPU, half), player.Usage{Cores: 1.9}, player.Usage{Cores: 0.2}, 1},
		"memory":           {pods(corev1.ResourceMemory, hundredMebi), player.Usage{Bytes: 190 * mebi}, player.Usage{Bytes: 20 * mebi}, 1},
		"CPU of a name":    {containers(corev1.ResourceCPU, half), player.Usage{Cores: 1.9}, player.Usage{Cores: 0.2}, 5},
		"memory of a name": {containers(corev1.ResourceMemory, hundredMebi), player.Usage{Bytes: 380 * mebi}, player.Usage{Bytes: 20 * mebi}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			set := func(u player.Usage) {
				s.use(worker, "worker", u.Cores, u.Bytes)
				s.use(worker, "proxy", tc.proxies*u.Cores, tc.proxies*u.Bytes)
			}
			s.deploy(worker, 1, sized)
			s.createHPA(hpaOf(tc.metric))
			set(tc.busy)
			s.awaitReplicas(worker, 4)
			set(tc.idle)
			s.awaitReplicas(worker, 1)
		})
	}
}

func TestKubectlTopPods(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	const other = "other"
	s.deploy(worker, 1, sized)
	s.deploy(other, 1, sized)
	s.use(worker, "worker", 0.25, 64*mebi)
	s.use(worker, "proxy", 0.75, 16*mebi)
	s.use(other, "worker", 2, 1024*mebi)
	name, others := s.podNames(worker, 1)[0], s.podNames(other, 1)[0]

	s.awaitTop([]topLine{{[]string{name}, 1000, 80}, {[]string{others}, 2000, 1024}}, "top", "pods")
	s.awaitTop([]topLine{{[]string{name}, 1000, 80}}, "top", "pod", "-l", "app="+worker)
	s.awaitTop([]topLine{{[]string{name}, 1000, 80}}, "top", "pod", name)
	s.awaitTop([]topLine{{[]string{name, "proxy"}, 750, 16}, {[]string{name, "worker"}, 250, 64}}, "top", "pod", name, "--containers")
}

func TestKubectlTopNodes(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	const node = "node-0"
	if err := s.player.SetUsage(player.Usage{Node: node, Cores: 25, Bytes: 256 * 1024 * mebi}); err != nil {
		t.Fatal(err)
	}
	want := []topLine{{[]string{node}, 25_000, 256 * 1024}}
	s.awaitTop(want, "top", "nodes")
	s.awaitTop(want, "top", "node", node)
	// Of 500 cores and 1Ti.
	fields := strings.Fields(s.kubectl("top", "node", node, "--no-headers"))
	if len(fields) != 5 || fields[2] != "5%" && fields[2] != "4%" || fields[4] != "25%" {
		t.Errorf("kubectl top node says %q", fields)
	}
}

// topLine is a line of kubectl top: what it is of, thousandths of cores and Mi.
type topLine struct {
	names      []string
	milli, mib float64
}

// awaitTop waits until kubectl says the lines, in any order and no others.
func (s *space) awaitTop(want []topLine, args ...string) {
	s.t.Helper()
	s.eventually("kubectl "+strings.Join(args, " "), func(ctx context.Context) error {
		text, err := s.runKubectl(ctx, append(args, "--no-headers")...)
		if err != nil {
			return err
		}
		got := map[string][]string{}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if n := len(want[0].names); len(fields) >= n+2 {
				got[strings.Join(fields[:n], " ")] = fields[n:]
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d lines, want %d:\n%s", len(got), len(want), text)
		}
		for _, w := range want {
			if err := w.matches(got[strings.Join(w.names, " ")]); err != nil {
				return fmt.Errorf("%v: %w:\n%s", w.names, err, text)
			}
		}
		return nil
	})
}

// matches compares the columns after the names: those of a node have a percentage after
// the cores.
func (l topLine) matches(fields []string) error {
	if len(fields) < 2 {
		return fmt.Errorf("the line is %q", fields)
	}
	memory := 1
	if len(fields) > 3 {
		memory = 2
	}
	milli, err := resource.ParseQuantity(fields[0])
	if err != nil {
		return err
	}
	bytes, err := resource.ParseQuantity(fields[memory])
	if err != nil {
		return err
	}
	if got := float64(milli.MilliValue()); math.Abs(got-l.milli) > near*l.milli {
		return fmt.Errorf("%v thousandths of cores, want %v", got, l.milli)
	}
	if got := float64(bytes.Value()) / mebi; got != l.mib {
		return fmt.Errorf("%vMi, want %vMi", got, l.mib)
	}
	return nil
}
