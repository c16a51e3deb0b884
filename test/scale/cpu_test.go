package scale

import (
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// oneCore is what the pods of these tests request, so that percents are hundredths of a core.
var oneCore = corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}

// Row B3. HPAs by the CPU of their pods, with the numbers of the components cpu and
// cpu-5-percent of deploy/demo.
func TestCPU(t *testing.T) {
	t.Parallel()
	type step struct {
		cores float64
		want  int32
	}
	b := startBed(t, 2)
	for name, test := range map[string]struct {
		percent, minReplicas, maxReplicas int32
		steps                             []step
	}{
		"ninety": {90, 1, 10, []step{{0.1, 1}, {4.5, 5}, {20, 10}, {0.1, 1}}},
		"five":   {5, 2, 1000, []step{{0.02, 2}, {2, 40}, {0.02, 2}}},
	} {
		of := tier{metav1.NamespaceDefault, name}
		deploy(t, b.Cluster, of, test.minReplicas, oneCore)
		b.load.set(stream{of, memorySeries}, 1<<30)
		b.load.set(stream{of, cpuSeries}, test.steps[0].cores)
		b.scaleByCPU(of, test.percent, test.minReplicas, test.maxReplicas)
		for _, step := range test.steps {
			b.load.set(stream{of, cpuSeries}, step.cores)
			b.awaitSize(of, step.want)
			t.Logf("%s: %v cores at %d%% of a core: %d pods", name, step.cores, test.percent, step.want)
		}
	}
}

func (b *bed) scaleByCPU(of tier, percent, minReplicas, maxReplicas int32) {
	b.t.Helper()
	atOnce := &autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32(0)),
		Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1000, PeriodSeconds: 1}},
	}
	_, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(of.namespace).Create(b.t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: of.name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: of.name},
			MinReplicas:    &minReplicas,
			MaxReplicas:    maxReplicas,
			Behavior:       &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: atOnce, ScaleDown: atOnce},
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ResourceMetricSourceType,
				Resource: &autoscalingv2.ResourceMetricSource{
					Name:   corev1.ResourceCPU,
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
				},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
}
