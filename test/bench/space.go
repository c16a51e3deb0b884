package bench

import (
	"context"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	spaceMetrics    = 10_000
	spacePods       = 10_000
	spaceNamespaces = 20
	spaceApp        = "web"
	// spaceReaders are as many as the HPA controller has workers.
	spaceReaders = 5
	spacePeriod  = time.Minute
	// spaceWindow has two refreshes of everything in it.
	spaceWindow = 2 * time.Minute
	spaceLimit  = 10 * time.Minute

	figSpace     = "resident, 10,000 definitions in demand, 10,000 pods known"
	figSpacePeak = "peak, the same"
	figSpaceNone = "resident, none of either"
	figInDemand  = "CloudWatch metrics refreshed a minute"
)

// space measures the memory of an adapter that has a lot to keep: definitions with an HPA
// each, and pods with a metric. The HPA controller of a small machine cannot sync that
// many, so that readers read every metric in its place, more seldom.
func space() measurement {
	return measurement{
		name: "space",
		figures: []figure{
			{name: figSpaceNone, unit: "MB"},
			{name: figSpace, unit: "MB", atMost: new(150.0)},
			{name: figSpacePeak, unit: "MB"},
			{name: figInDemand, atLeast: new(float64(spaceMetrics))},
		},
		run: measureSpace,
	}
}

func measureSpace(ctx context.Context, b *bed) (map[string]measured, error) {
	metrics, pods := spread("bench-space", spaceMetrics, spaceNamespaces), spread("bench-space", spacePods, spaceNamespaces)
	values := map[string]float64{}
	err := b.with(ctx, requestRules, nil, func(a *env.Adapter) error {
		m, err := settledMemory(ctx, a.ID().PID, relistInterval)
		values[figSpaceNone] = m.resident / megabyte
		return err
	})
	if err != nil {
		return nil, err
	}
	err = b.withMany(ctx, metrics, pods, spaceLimit, func(aws *fakeaws.Server, a *env.Adapter) error {
		return b.measureFull(ctx, a, aws, metrics, values)
	})
	return plain(values), err
}

// withMany starts an adapter that has a lot to keep, for the time of a function: metrics with
// an HPA each, whose values last for so long, and pods of the same namespaces, with an HPA in
// each. No controller runs meanwhile.
func (b *bed) withMany(ctx context.Context, metrics, pods []types.NamespacedName, last time.Duration, use func(*fakeaws.Server, *env.Adapter) error) error {
	aws, err := startAmazon(ctx, metrics, last)
	if err != nil {
		return err
	}
	defer aws.Close()
	b.proxy.Play(requests(pods).Play)
	defer b.proxy.Play(nil)
	if err := b.createMetrics(ctx, metrics, ""); err != nil {
		return err
	}
	if err := b.createPods(ctx, pods); err != nil {
		return err
	}
	return b.withoutControllers(ctx, func() error {
		err := b.createHPAs(ctx, metrics)
		if err == nil {
			err = b.createPodsHPAs(ctx, pods)
		}
		if err == nil {
			err = b.withAmazon(ctx, aws, requestRules, nil, func(a *env.Adapter) error { return use(aws, a) })
		}
		return b.clearAfter(ctx, namespacesOf(metrics), err)
	})
}

func (b *bed) measureFull(ctx context.Context, a *env.Adapter, aws *fakeaws.Server, metrics []types.NamespacedName, values map[string]float64) error {
	err := b.await(ctx, "the first fetch of all", spaceLimit, func(context.Context) (string, bool, error) {
		n := aws.Counts().MetricsRequested
		return fmt.Sprintf("%d of %d metrics were requested", n, len(metrics)), n >= len(metrics), nil
	})
	if err != nil {
		return err
	}
	client, err := b.reader(ctx, a)
	if err != nil {
		return err
	}
	ofPods := podsURLs(a, metrics)
	b.say("reading every metric once")
	if _, err := readEach(ctx, client, append(externalURLs(a, metrics), ofPods...), spaceReaders); err != nil {
		return err
	}
	everyone := pace{externalURLs(a, metrics), spacePeriod, spaceReaders}
	_, err = everyone.beside(ctx, client, func() error {
		_, err := pace{ofPods, hpaSync, 1}.beside(ctx, client, func() error {
			b.say("reading the memory for %v, and metrics meanwhile", spaceWindow)
			before := aws.Counts().MetricsRequested
			m, err := settledMemory(ctx, a.ID().PID, spaceWindow)
			values[figSpace], values[figSpacePeak] = m.resident/megabyte, m.peak/megabyte
			values[figInDemand] = float64(aws.Counts().MetricsRequested-before) / spaceWindow.Minutes()
			return err
		})
		return err
	})
	return err
}

// createPods creates pods that no node runs, as fast as the API server takes them: what
// is known of a pod are its name and labels.
func (b *bed) createPods(ctx context.Context, pods []types.NamespacedName) error {
	for _, namespace := range namespacesOf(pods) {
		if err := b.awaitServiceAccount(ctx, namespace); err != nil {
			return err
		}
	}
	return b.createMany(ctx, "pods", len(pods), func(ctx context.Context, i int) error {
		p := pods[i]
		_, err := b.Client().CoreV1().Pods(p.Namespace).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: p.Namespace, Name: p.Name,
				Labels: map[string]string{"app": spaceApp, "pod-template-hash": "5d59d67564"},
			},
			Spec: corev1.PodSpec{
				SchedulerName: "nobody",
				Containers:    []corev1.Container{{Name: "app", Image: "app:1.0"}},
			},
		}, metav1.CreateOptions{})
		return err
	})
}

// awaitServiceAccount waits until pods can be created in a namespace.
func (b *bed) awaitServiceAccount(ctx context.Context, namespace string) error {
	return b.await(ctx, "the ServiceAccount of "+namespace, podLimit, func(ctx context.Context) (string, bool, error) {
		_, err := b.Client().CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "it is not there", false, nil
		}
		return "", err == nil, err
	})
}

// createPodsHPAs creates an HPA of a metric of pods in each namespace, that has seen them all.
func (b *bed) createPodsHPAs(ctx context.Context, pods []types.NamespacedName) error {
	replicas := map[string]int32{}
	for _, p := range pods {
		replicas[p.Namespace]++
	}
	for namespace, n := range replicas {
		client := b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace)
		hpa, err := client.Create(ctx, deployment{namespace, spaceApp, n}.hpa(), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		hpa.Status = autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: n, DesiredReplicas: n}
		if _, err := client.UpdateStatus(ctx, hpa, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
