package bench

import (
	"context"
	_ "embed"
	"errors"
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
	// settleFor is how long after all HPAs have a number the queries of before may be
	// asked: those of a new plan take over when they were answered, and a query is in
	// demand for a minute after its last read.
	settleFor = 2 * time.Minute
	hpaLimit  = 5 * time.Minute

	figHPAs    = "HPAs with the number of their own pod"
	figReads   = "reads of metrics every 15 s"
	figWide    = "PromQL queries every 15 s, cluster-wide form"
	figQueries = "PromQL queries every 15 s, if the rule allows namespaces only"
	figLists   = "LISTs of pods every 15 s"
	figFirst   = "LISTs of pods until all HPAs have a number"
)

// byPodRules differ from requestRules in that the query does not tell apart namespaces.
//
//go:embed bypod.yaml
var byPodRules []byte

// autoscalers measures what many HPAs on one rule cost Prometheus and the API server.
// For prometheus-adapter each read is a query and a LIST.
func autoscalers() measurement {
	return measurement{
		name: "hpas",
		figures: []figure{
			{name: figHPAs, atLeast: new(float64(hpas))},
			{name: figReads},
			{name: figWide, atMost: new(1.0), peer: new(float64(hpas))},
			{name: figQueries, atMost: new(20.0), peer: new(float64(hpas))},
			{name: figLists, atMost: new(0.0), peer: new(float64(hpas))},
			{name: figFirst},
		},
		run: measureAutoscalers,
	}
}

func measureAutoscalers(ctx context.Context, b *bed) (map[string]measured, error) {
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
	want := numbers(pods)
	err = b.with(ctx, requestRules, nil, func(a *env.Adapter) error {
		return b.measureHPAs(ctx, a, wanted, want, values)
	})
	if err == nil {
		err = b.with(ctx, byPodRules, nil, func(a *env.Adapter) error {
			c, err := b.countSettled(ctx, a, want)
			values[figQueries] = c.queries
			values[figHPAs] = min(values[figHPAs], c.right)
			return err
		})
	}
	return plain(values), b.clearAfter(ctx, namespacesOf(pods), err)
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
	first, err := b.count(ctx, a)
	if err != nil {
		return err
	}
	// The bed itself listed the pods.
	if atStart.lists == 0 {
		return errors.New("what is counted is not what was asked: no LISTs of pods")
	}
	c, err := b.countSettled(ctx, a, want)
	values[figHPAs] = c.right
	values[figReads] = c.reads
	values[figWide] = c.queries
	values[figLists] = c.lists
	values[figFirst] = first.lists - atStart.lists
	return err
}

// countSettled counts what is asked in an interval once the queries are those that stay.
func (b *bed) countSettled(ctx context.Context, a *env.Adapter, want map[types.NamespacedName]int) (counted, error) {
	b.say("letting the queries settle for %v", settleFor)
	if err := pause(ctx, settleFor); err != nil {
		return counted{}, err
	}
	before, err := b.count(ctx, a)
	if err != nil {
		return counted{}, err
	}
	b.say("counting for %v", intervals*queryInterval)
	if err := pause(ctx, intervals*queryInterval); err != nil {
		return counted{}, err
	}
	after, err := b.count(ctx, a)
	if err != nil {
		return counted{}, err
	}
	// No number comes from nowhere.
	if after.queries == before.queries || after.reads == before.reads {
		return counted{}, fmt.Errorf("what is counted is not what was asked: %v queries, %v reads", after.queries-before.queries, after.reads-before.reads)
	}
	right, _, err := b.rightHPAs(ctx, want)
	return counted{
		reads:   (after.reads - before.reads) / intervals,
		queries: (after.queries - before.queries) / intervals,
		lists:   (after.lists - before.lists) / intervals,
		right:   float64(right),
	}, err
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
	// right are the HPAs that have their number.
	right float64
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
	return counterOf(ctx, server, "apiserver_request_total", labels)
}

// counterOf adds up a counter of an API server's own metrics, see sumOf.
func counterOf(ctx context.Context, server *rest.Config, name string, labels map[string]string) (float64, error) {
	client, err := rest.HTTPClientFor(server)
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	text, err := read(ctx, client, server.Host+"/metrics")
	if err != nil {
		return 0, err
	}
	return sumOf(text, name, labels)
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
