package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// worker is the name of the Deployment that most tests scale, and of its HPA.
const worker = "worker"

// perReplica is the AverageValue that the tests' HPAs aim at.
const perReplica = 30

// deploy creates a Deployment of workers, whose pods are as the functions change them.
func (s *space) deploy(name string, replicas int32, changes ...func(*corev1.PodTemplateSpec)) {
	s.t.Helper()
	labels := map[string]string{"app": name}
	pod := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "worker", Image: "worker"}}},
	}
	for _, change := range changes {
		change(&pod)
	}
	_, err := s.Client().AppsV1().Deployments(s.namespace).Create(s.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: pod,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

// podNames waits until a Deployment has so many pods and all run, and gives their names,
// sorted.
func (s *space) podNames(name string, want int) []string {
	s.t.Helper()
	var names []string
	s.eventually("pods of "+name, func(ctx context.Context) error {
		pods, err := s.Client().CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		names = nil
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
				names = append(names, pod.Name)
			}
		}
		if len(names) != want || len(pods.Items) != want {
			return fmt.Errorf("%d of %d pods run, want %d", len(names), len(pods.Items), want)
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// autoscaler is an HPA that scales the Deployment of its own name between min and 10
// replicas by the external metric, as fast as the HPA controller looks at it.
func autoscaler(name string, minReplicas int32, metric string) *autoscalingv2.HorizontalPodAutoscaler {
	atOnce := &autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32(0)),
		Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 100, PeriodSeconds: 1}},
	}
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    &minReplicas,
			MaxReplicas:    10,
			Behavior:       &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: atOnce, ScaleDown: atOnce},
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ExternalMetricSourceType,
				External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: metric},
					Target: autoscalingv2.MetricTarget{
						Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(perReplica, resource.DecimalSI),
					},
				},
			}},
		},
	}
}

func (s *space) createHPA(hpa *autoscalingv2.HorizontalPodAutoscaler) {
	s.t.Helper()
	hpas := s.Client().AutoscalingV2().HorizontalPodAutoscalers(s.namespace)
	if _, err := hpas.Create(s.t.Context(), hpa, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// scale deploys workers with so many replicas and an HPA of the same name, min 1.
func (s *space) scale(name string, replicas int32, metric string) {
	s.t.Helper()
	s.deploy(name, replicas)
	s.createHPA(autoscaler(name, 1, metric))
}

// awaitReplicas waits until the HPA wants so many replicas by its metric, and they are ready.
func (s *space) awaitReplicas(name string, want int32) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s: %d replicas", name, want), func(ctx context.Context) error {
		hpa, err := s.Client().AutoscalingV2().HorizontalPodAutoscalers(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d, err := s.Client().AppsV1().Deployments(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := scalingActive(hpa); err != nil {
			return err
		}
		if hpa.Status.DesiredReplicas != want || *d.Spec.Replicas != want || d.Status.ReadyReplicas != want || d.Status.Replicas != want {
			return fmt.Errorf("the HPA wants %d, the Deployment has %d of %d, ready %d",
				hpa.Status.DesiredReplicas, d.Status.Replicas, *d.Spec.Replicas, d.Status.ReadyReplicas)
		}
		return nil
	})
}

// scalingActive is nil if the HPA could compute the replicas when it last looked.
func scalingActive(hpa *autoscalingv2.HorizontalPodAutoscaler) error {
	for _, c := range hpa.Status.Conditions {
		if c.Type != autoscalingv2.ScalingActive {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return nil
		}
		return fmt.Errorf("%s is %s: %s: %s", c.Type, c.Status, c.Reason, c.Message)
	}
	return fmt.Errorf("there is no condition %s yet", autoscalingv2.ScalingActive)
}

// awaitBlindHPA waits until `kubectl describe hpa` says that the metric of the workers
// cannot be read, and why.
func (s *space) awaitBlindHPA(words ...string) {
	s.t.Helper()
	s.eventually("kubectl describe hpa", func(ctx context.Context) error {
		text, err := s.runKubectl(ctx, "describe", "hpa", worker)
		if err != nil {
			return err
		}
		return mentions(text, append([]string{"FailedGetExternalMetric"}, words...)...)
	})
}

// hold fails the test if the Deployment of workers, or what its HPA wants of it, has any
// other number of replicas before release is called or the test ends.
func (s *space) hold(replicas int32) (release func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var watching sync.WaitGroup
	only := metav1.ListOptions{FieldSelector: "metadata.name=" + worker}
	deployments := s.Client().AppsV1().Deployments(s.namespace)
	hpas := s.Client().AutoscalingV2().HorizontalPodAutoscalers(s.namespace)
	for _, start := range []func(context.Context, metav1.ListOptions) (watch.Interface, error){deployments.Watch, hpas.Watch} {
		w, err := start(ctx, only)
		if err != nil {
			s.t.Fatal(err)
		}
		watching.Go(func() { s.watchReplicas(ctx, w, replicas) })
	}
	release = sync.OnceFunc(func() {
		cancel()
		watching.Wait()
	})
	s.t.Cleanup(release)
	return release
}

func (s *space) watchReplicas(ctx context.Context, w watch.Interface, want int32) {
	defer w.Stop()
	computed := false
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if ctx.Err() != nil {
				return
			}
			if !ok {
				s.t.Error("the watch of the replicas ended early")
				return
			}
			got, ok := replicasOf(e)
			if computed = computed || got > 0; !computed {
				continue // An HPA that could not compute anything yet says 0.
			}
			if !ok || got != want {
				s.t.Errorf("%s of %T: %d replicas, want %d throughout", e.Type, e.Object, got, want)
			}
		}
	}
}

func replicasOf(e watch.Event) (int32, bool) {
	switch o := e.Object.(type) {
	case *appsv1.Deployment:
		return *o.Spec.Replicas, true
	case *autoscalingv2.HorizontalPodAutoscaler:
		return o.Status.DesiredReplicas, true
	}
	return 0, false
}
