package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	hpaNamespaces    = 20
	hpasPerNamespace = 50
	hpas             = hpaNamespaces * hpasPerNamespace

	// queryInterval is how often a query is asked if its rule does not say.
	queryInterval = 15 * time.Second
	intervals     = 4
	hpaLimit      = 5 * time.Minute

	figHPAs    = "HPAs with the number of their own pod"
	figReads   = "reads of metrics every 15 s"
	figQueries = "PromQL queries every 15 s"
	figLists   = "LISTs of pods every 15 s"
	figFirst   = "LISTs of pods until all HPAs have a number"
)

// autoscalers measures what many HPAs on one rule cost Prometheus and the API server.
// For prometheus-adapter each read is a query and a LIST.
func autoscalers() measurement {
	return measurement{
		name: "hpas",
		figures: []figure{
			{name: figHPAs, atLeast: new(float64(hpas))},
			{name: figReads},
			{name: figQueries, atMost: new(20.0), peer: new(float64(hpas))},
			{name: figLists, atMost: new(0.0), peer: new(float64(hpas))},
			{name: figFirst},
		},
		run: measureAutoscalers,
	}
}

func measureAutoscalers(ctx context.Context, b *bed) (map[string]float64, error) {
	var wanted []deployment
	for n := range hpaNamespaces {
		for i := range hpasPerNamespace {
			wanted = append(wanted, deployment{fmt.Sprintf("bench-hpas-%02d", n), fmt.Sprintf("app-%02d", i), 1})
		}
	}
	pods, err := b.deployments(ctx, wanted)
	if err != nil {
		return nil, err
	}
	b.proxy.Play(requests(pods).Play)
	defer b.proxy.Play(nil)

	values := map[string]float64{}
	err = b.with(ctx, requestRules, nil, func(a *env.Adapter) error {
		return b.measureHPAs(ctx, a, wanted, numbers(pods), values)
	})
	return values, err
}

// measureHPAs creates the HPAs, waits until they have their numbers, and then counts.
func (b *bed) measureHPAs(ctx context.Context, a *env.Adapter, targets []deployment, want map[types.NamespacedName]int, values map[string]float64) error {
	atStart, err := b.count(ctx, a)
	if err != nil {
		return err
	}
	err = b.createMany(ctx, "HPAs", len(targets), func(ctx context.Context, i int) error {
		d := targets[i]
		_, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(d.namespace).Create(ctx, d.hpa(), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = b.await(ctx, "HPAs", hpaLimit, func(ctx context.Context) (string, bool, error) {
		right, example, err := b.rightHPAs(ctx, want)
		return fmt.Sprintf("%d of %d have their number; %s", right, hpas, example), right == hpas, err
	})
	if err != nil {
		return err
	}

	before, err := b.count(ctx, a)
	if err != nil {
		return err
	}
	b.say("counting for %v", intervals*queryInterval)
	if err := pause(ctx, intervals*queryInterval); err != nil {
		return err
	}
	after, err := b.count(ctx, a)
	if err != nil {
		return err
	}
	// The bed itself listed the pods, and no number comes from nowhere.
	if atStart.lists == 0 || after.queries == 0 {
		return fmt.Errorf("what is counted is not what was asked: %v LISTs of pods, %v queries", atStart.lists, after.queries)
	}
	right, _, err := b.rightHPAs(ctx, want)
	values[figHPAs] = float64(right)
	values[figReads] = (after.reads - before.reads) / intervals
	values[figQueries] = (after.queries - before.queries) / intervals
	values[figLists] = (after.lists - before.lists) / intervals
	values[figFirst] = before.lists - atStart.lists
	return err
}

// hpa scales the Deployment by http_requests_per_second.
func (d deployment) hpa() *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace, Name: d.name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.name},
			MinReplicas:    new(int32(1)),
			MaxReplicas:    2,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.PodsMetricSourceType,
				Pods: &autoscalingv2.PodsMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "http_requests_per_second"},
					Target: autoscalingv2.MetricTarget{
						Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(requestsTarget, resource.DecimalSI),
					},
				},
			}},
		},
	}
}

// numbers are the values of the metric of each Deployment with one pod.
func numbers(pods []types.NamespacedName) map[types.NamespacedName]int {
	of := map[types.NamespacedName]int{}
	for i, p := range pods {
		of[types.NamespacedName{Namespace: p.Namespace, Name: deploymentOf(p.Name)}] = requestsOf(i)
	}
	return of
}

// deploymentOf leaves out what ReplicaSet and pod add to the name of a Deployment.
func deploymentOf(pod string) string {
	for range 2 {
		pod = pod[:max(0, strings.LastIndexByte(pod, '-'))]
	}
	return pod
}

// rightHPAs counts the HPAs that are active and have the number of their own pod. The
// example is what one of the others says.
func (b *bed) rightHPAs(ctx context.Context, want map[types.NamespacedName]int) (right int, example string, err error) {
	list, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, "", err
	}
	for _, h := range list.Items {
		number, ok := want[types.NamespacedName{Namespace: h.Namespace, Name: h.Name}]
		if !ok {
			continue
		}
		if found, says := numberOf(h.Status); found == float64(number) {
			right++
		} else {
			example = fmt.Sprintf("%s/%s, whose number is %d: %s", h.Namespace, h.Name, number, says)
		}
	}
	return right, example, nil
}

// numberOf is the HPA's value of its metric, -1 if it has none, and what the HPA says.
func numberOf(s autoscalingv2.HorizontalPodAutoscalerStatus) (value float64, says string) {
	says = "it was not looked at yet"
	for _, c := range s.Conditions {
		if c.Type != autoscalingv2.ScalingActive {
			continue
		}
		says = c.Message
		if c.Status != corev1.ConditionTrue {
			return -1, says
		}
	}
	for _, m := range s.CurrentMetrics {
		if m.Pods != nil && m.Pods.Current.AverageValue != nil {
			return m.Pods.Current.AverageValue.AsApproximateFloat64(), says
		}
	}
	return -1, says
}

// counted is what was asked until some time.
type counted struct {
	// reads are those of metrics from the adapter, queries those of the adapter from
	// Prometheus, and lists those of pods from the API server, whoever asked.
	reads, queries, lists float64
}

func (b *bed) count(ctx context.Context, a *env.Adapter) (counted, error) {
	lists, err := requestsServed(ctx, b.Config(), map[string]string{"group": "", "resource": "pods", "subresource": "", "verb": "LIST"})
	if err != nil {
		return counted{}, err
	}
	reads, err := requestsServed(ctx, a.Config(b.Config()), map[string]string{"group": "custom.metrics.k8s.io"})
	return counted{reads: reads, queries: float64(b.proxy.Counts().Calls[promproxy.Query]), lists: lists}, err
}

// requestsServed is how many requests with those labels an API server has answered, as
// its own metrics say.
func requestsServed(ctx context.Context, server *rest.Config, labels map[string]string) (float64, error) {
	client, err := rest.HTTPClientFor(server)
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	text, err := read(ctx, client, server.Host+"/metrics")
	if err != nil {
		return 0, err
	}
	return sumOf(text, "apiserver_request_total", labels)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
