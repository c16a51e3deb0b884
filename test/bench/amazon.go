package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	amazonNamespace = "Bench"
	amazonRole      = "arn:aws:iam::" + fakeaws.DefaultAccount + ":role/bench"
	// allowsRole is a configuration that lets objects use that role.
	allowsRole = `cloudwatch: {roles: [{namespaces: ["bench-*"], arns: ["` + amazonRole + `"]}]}`
	// dataBefore is since when metrics have values: an adapter looks back some minutes.
	dataBefore = 10 * time.Minute

	externalTarget = 100
	clearLimit     = 5 * time.Minute
)

// spread gives so many names, evenly over the namespaces prefix-00, prefix-01 and so on.
func spread(prefix string, n, namespaces int) []types.NamespacedName {
	names := make([]types.NamespacedName, n)
	for i := range names {
		names[i] = types.NamespacedName{
			Namespace: fmt.Sprintf("%s-%02d", prefix, i%namespaces), Name: fmt.Sprintf("work-%04d", i/namespaces),
		}
	}
	return names
}

// namespacesOf are the namespaces of the names, each once, in order.
func namespacesOf(names []types.NamespacedName) []string {
	var all []string
	seen := map[string]bool{}
	for _, n := range names {
		if !seen[n.Namespace] {
			seen[n.Namespace] = true
			all = append(all, n.Namespace)
		}
	}
	return all
}

// startAmazon starts an AWS stand-in in which each metric has a value a minute, for so long
// from now on. They differ from one minute to the next, as those of real ones do, and no
// HPA of the target acts on them.
func startAmazon(ctx context.Context, metrics []types.NamespacedName, last time.Duration) (*fakeaws.Server, error) {
	server, err := fakeaws.Start(context.WithoutCancel(ctx), fakeaws.Options{})
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for at := now.Add(-dataBefore); at.Before(now.Add(last)); at = at.Add(time.Minute) {
		for i, m := range metrics {
			server.PutMetric(fakeaws.Metric{
				Namespace: amazonNamespace, Name: m.Namespace + "." + m.Name, Time: at,
				Value: fakeaws.Float(valueOf(i, at)),
			})
		}
	}
	return server, nil
}

// valueOf is within the tolerance of HPAs, which is a tenth.
func valueOf(metric int, at time.Time) int {
	return externalTarget - 5 + (metric+int(at.Unix()/60))%11
}

// createMetrics creates an ExternalMetric of each name, with its namespace.
func (b *bed) createMetrics(ctx context.Context, metrics []types.NamespacedName, role string) error {
	for _, namespace := range namespacesOf(metrics) {
		if err := b.namespace(ctx, namespace); err != nil {
			return err
		}
	}
	return b.createMany(ctx, "ExternalMetrics", len(metrics), func(ctx context.Context, i int) error {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(externalMetric(metrics[i], role))
		if err != nil {
			return err
		}
		_, err = b.Dynamic().Resource(metricsaws.Resource).Namespace(metrics[i].Namespace).Create(
			ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
		return err
	})
}

// externalMetric is the average of a minute, as manifests of the old adapter have it.
func externalMetric(m types.NamespacedName, role string) *metricsaws.ExternalMetric {
	return &metricsaws.ExternalMetric{
		TypeMeta:   metav1.TypeMeta{APIVersion: metricsaws.GroupVersion.String(), Kind: "ExternalMetric"},
		ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name},
		Spec: metricsaws.ExternalMetricSpec{
			RoleARN: role,
			Queries: []metricsaws.MetricDataQuery{{ID: "m1", MetricStat: &metricsaws.MetricStat{
				Metric: metricsaws.Metric{Namespace: amazonNamespace, MetricName: m.Namespace + "." + m.Name},
				Period: 60, Stat: "Average",
			}}},
		},
	}
}

// createHPAs creates an HPA of each metric, for the Deployment of the same name.
func (b *bed) createHPAs(ctx context.Context, metrics []types.NamespacedName) error {
	return b.createMany(ctx, "HPAs", len(metrics), func(ctx context.Context, i int) error {
		hpa := externalHPA(metrics[i])
		_, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(hpa.Namespace).Create(ctx, hpa, metav1.CreateOptions{})
		return err
	})
}

func externalHPA(m types.NamespacedName) *autoscalingv2.HorizontalPodAutoscaler {
	hpa := deployment{m.Namespace, m.Name, 1}.hpa()
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
		Type: autoscalingv2.ExternalMetricSourceType,
		External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: m.Name},
			Target: autoscalingv2.MetricTarget{
				Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(externalTarget, resource.DecimalSI),
			},
		},
	}}
	return hpa
}

// withAmazon starts an adapter in front of an AWS stand-in for the time of a function. With
// a configuration it is in front of the bed's Prometheus too.
func (b *bed) withAmazon(ctx context.Context, aws *fakeaws.Server, config []byte, args []string, use func(*env.Adapter) error) error {
	if len(config) > 0 {
		led, err := b.toProxy(config)
		if err != nil {
			return err
		}
		args = append(led, args...)
	}
	return b.during(ctx, env.AdapterOptions{
		Binary: b.adapter,
		Args:   args,
		Env: []string{
			"AWS_ENDPOINT_URL=" + aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion,
			"AWS_ACCESS_KEY_ID=" + aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + aws.SecretAccessKey(),
		},
	}, use)
}

// clearAfter deletes what a measurement created, whose error it takes.
func (b *bed) clearAfter(ctx context.Context, namespaces []string, measured error) error {
	if ctx.Err() != nil {
		return measured // The cluster ends anyway.
	}
	return errors.Join(measured, b.clear(ctx, namespaces))
}

// clear deletes what is in the namespaces of a measurement. They stay themselves: one ends
// only while all APIs answer, the adapter's too.
func (b *bed) clear(ctx context.Context, namespaces []string) error {
	b.say("deleting what is in %d namespaces", len(namespaces))
	g, deleting := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, namespace := range namespaces {
		g.Go(func() error { return b.deleteAll(deleting, namespace) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("deleting what was measured: %w", err)
	}
	return b.await(ctx, "the end of the pods", clearLimit, func(ctx context.Context) (string, bool, error) {
		left := 0
		for _, namespace := range namespaces {
			list, err := b.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				return "", false, err
			}
			left += len(list.Items)
		}
		return fmt.Sprintf("%d are left", left), left == 0, nil
	})
}

// deleteAll deletes owners before what they own, so that nothing is created anew.
func (b *bed) deleteAll(ctx context.Context, namespace string) error {
	at := metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), PropagationPolicy: new(metav1.DeletePropagationBackground)}
	all, kube := metav1.ListOptions{}, b.Client()
	for _, deletion := range []func() error{
		func() error {
			return kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).DeleteCollection(ctx, at, all)
		},
		func() error {
			return b.Dynamic().Resource(metricsaws.Resource).Namespace(namespace).DeleteCollection(ctx, at, all)
		},
		func() error { return kube.AppsV1().Deployments(namespace).DeleteCollection(ctx, at, all) },
		func() error { return kube.AppsV1().ReplicaSets(namespace).DeleteCollection(ctx, at, all) },
		func() error { return kube.CoreV1().Pods(namespace).DeleteCollection(ctx, at, all) },
	} {
		if err := deletion(); err != nil {
			return err
		}
	}
	return nil
}

// withoutControllers runs a function while no controller of the control plane runs, so
// that nobody but the measurement reads metrics.
func (b *bed) withoutControllers(ctx context.Context, use func() error) error {
	var manager *env.Process
	for _, p := range b.Processes() {
		if p.Name() == "kube-controller-manager" {
			manager = p
		}
	}
	if manager == nil {
		return errors.New("the cluster has no kube-controller-manager")
	}
	stopping, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if _, err := manager.Stop(stopping); err != nil {
		return err
	}
	used := use()
	if ctx.Err() != nil {
		return used
	}
	return errors.Join(used, manager.Restart(ctx))
}

func externalURL(a *env.Adapter, m types.NamespacedName) string {
	return a.URL + "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + m.Namespace + "/" + m.Name
}

func externalURLs(a *env.Adapter, metrics []types.NamespacedName) []string {
	urls := make([]string, len(metrics))
	for i, m := range metrics {
		urls[i] = externalURL(a, m)
	}
	return urls
}

// podsURLs are those of a metric of the pods of each namespace that have the label of
// space.
func podsURLs(a *env.Adapter, in []types.NamespacedName) []string {
	namespaces := namespacesOf(in)
	urls := make([]string, len(namespaces))
	for i, namespace := range namespaces {
		urls[i] = a.URL + "/apis/custom.metrics.k8s.io/v1beta1/namespaces/" + namespace +
			"/pods/*/http_requests_per_second?labelSelector=app%3D" + spaceApp
	}
	return urls
}
