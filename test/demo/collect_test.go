package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

const orders = "orders"

// hpaOf is an HPA of the pods of web with a target of 10 a pod, from 1 to 10.
func hpaOf(has, wants int32, current string, conditions ...autoscalingv2.HorizontalPodAutoscalerCondition) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: orders, Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 10, Metrics: []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.PodsMetricSourceType,
			Pods: &autoscalingv2.PodsMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "http_requests_per_second"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("10"))},
			},
		}}},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: has, DesiredReplicas: wants, Conditions: conditions},
	}
	if current != "" {
		h.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.PodsMetricSourceType,
			Pods: &autoscalingv2.PodsMetricStatus{
				Metric:  autoscalingv2.MetricIdentifier{Name: "http_requests_per_second"},
				Current: autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse(current))},
			},
		}}
	}
	return h
}

func conditionFor(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason string) autoscalingv2.HorizontalPodAutoscalerCondition {
	return autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind, Status: status, Reason: reason, Message: "words of the HPA"}
}

var (
	able   = conditionFor(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale")
	active = conditionFor(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound")
)

func TestDecisionIsASentence(t *testing.T) {
	for name, tc := range map[string]struct {
		hpa  *autoscalingv2.HorizontalPodAutoscaler
		want string
	}{
		"nothing yet": {hpaOf(0, 0, ""), ""},
		"up":          {hpaOf(1, 3, "25", able, active), "It goes up from 1 to 3: http_requests_per_second is 25 per pod, and 10 is the target."},
		"down":        {hpaOf(3, 1, "660m", able, active), "It goes down from 3 to 1: http_requests_per_second is 0.7 per pod, and 10 is the target."},
		"right":       {hpaOf(3, 3, "8330m", able, active), "3 is right: http_requests_per_second is 8.3 per pod, and 10 is the target."},
		"most": {
			hpaOf(10, 10, "50", able, active, conditionFor(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "TooManyReplicas")),
			"It would have more than 10, which is the most it may: http_requests_per_second is 50 per pod, and 10 is the target.",
		},
		"least": {
			hpaOf(1, 1, "0", able, active, conditionFor(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "TooFewReplicas")),
			"It would have fewer than 1, which is the least it may: http_requests_per_second is 0 per pod, and 10 is the target.",
		},
		"up as fast as it may": {
			hpaOf(6, 6, "27", able, active, conditionFor(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "ScaleUpLimit")),
			"It would have more than 6, and goes up no faster than it may: http_requests_per_second is 27 per pod, and 10 is the target.",
		},
		"down as fast as it may": {
			hpaOf(6, 6, "0", able, active, conditionFor(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "ScaleDownLimit")),
			"It would have fewer than 6, and goes down no faster than it may: http_requests_per_second is 0 per pod, and 10 is the target.",
		},
		"not down yet": {
			hpaOf(7, 7, "200m", conditionFor(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleDownStabilized"), active),
			"It keeps 7 for now, which were needed a while ago: http_requests_per_second is 0.2 per pod, and 10 is the target.",
		},
		"no metric": {
			hpaOf(3, 3, "25", able, conditionFor(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetPodsMetric")),
			"It holds 3: it cannot get its metric.",
		},
		"off": {
			hpaOf(0, 0, "", able, conditionFor(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled")),
			"It is off: somebody has set the replicas to 0, and it leaves them there.",
		},
		"unable": {
			hpaOf(2, 2, "", conditionFor(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale")),
			"It cannot scale and stays at 2: words of the HPA.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decisionOf(tc.hpa); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestValueFromBeforeAFailureIsNotShown(t *testing.T) {
	h := hpaOf(3, 3, "25", able, conditionFor(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetPodsMetric"))
	if got := targetIn(h, h.Spec.Metrics[0]); got.Current != (page.Number{}) || got.Target != page.Num(10) {
		t.Errorf("got %+v", got)
	}
	h = hpaOf(0, 0, "-9223372036854775808m", able, active)
	if got := targetIn(h, h.Spec.Metrics[0]); got.Current != (page.Number{}) {
		t.Errorf("an average of no pods: got %+v", got)
	}
}

func TestTrafficIsOfTheWindow(t *testing.T) {
	now := time.Now()
	var m trafficMeter
	if got := m.at(now); got.Asked != (page.Number{}) || got.Served != (page.Number{}) {
		t.Errorf("nobody said anything: %+v", got)
	}
	counts := func(ok, bad, none, fast, all float64) reading {
		return reading{
			asked: 25, responses: map[string]float64{"200": ok, "503": bad, "0": none},
			within: map[float64]float64{0.1: fast, 0.2: all, math.Inf(1): all},
		}
	}
	take := func(ago time.Duration, r reading) {
		r.at = now.Add(-ago)
		m.take(r)
	}
	take(30*time.Second, counts(0, 0, 0, 0, 0))
	take(10*time.Second, counts(1000, 10, 0, 1000, 1000))
	if got := m.at(now.Add(-9 * time.Second)); got.Served != (page.Number{}) || got.Asked != page.Num(25) {
		t.Errorf("one reading in the window: %+v", got)
	}
	take(0, counts(1200, 30, 5, 1050, 1200))
	got := m.at(now)
	if got.Served != page.Num(20) || got.E503 != page.Num(2) || got.E502 != page.Num(0) || got.Total["503"] != page.Num(30) {
		t.Errorf("got %+v", got)
	}
	if p50, _ := got.P50.Get(); math.Abs(p50-(0.1+0.1*50/150)) > 1e-9 {
		t.Errorf("p50 is %v", p50)
	}
	if got := m.at(now.Add(staleAfter + time.Second)); got.Asked != (page.Number{}) {
		t.Errorf("too old, and still %+v", got)
	}
	take(-time.Second, counts(3, 0, 0, 3, 3)) // The loader began anew.
	if got := m.at(now.Add(time.Second)); got.Served != (page.Number{}) {
		t.Errorf("after a new start: %+v", got)
	}
}

func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	for name, tc := range map[string]struct {
		within map[float64]float64
		want   page.Number
	}{
		"nothing":    {nil, page.Number{}},
		"none":       {map[float64]float64{0.1: 0, inf: 0}, page.Number{}},
		"first":      {map[float64]float64{0.1: 10, inf: 10}, page.Num(0.05)},
		"beyond all": {map[float64]float64{0.1: 1, inf: 10}, page.Num(0.1)},
	} {
		if got := quantile(tc.within, 0.5); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

func TestPartIsDownAfterTwoFailures(t *testing.T) {
	var failing error
	p := newParts([]probe{{"database", func(context.Context) error { return failing }}})
	look := func() page.Part {
		_ = p.look(t.Context(), 0)
		return p.all()[0]
	}
	if got := p.all()[0]; got.State != "" || got.Name != "database" {
		t.Errorf("before the first look: %+v", got)
	}
	if got := look(); got.State != page.Up {
		t.Errorf("got %+v", got)
	}
	failing = errors.New("connection refused")
	first := time.Now()
	if got := look(); got.State != page.Up {
		t.Errorf("after one failure: %+v", got)
	}
	got := look()
	if got.State != page.Down || got.Says != "connection refused" || got.Since.Before(first) || got.Since.After(time.Now()) || !p.isDown("database") {
		t.Errorf("after two: %+v", got)
	}
	failing = nil
	if got := look(); got.State != page.Up || got.Says != "" || p.isDown("database") {
		t.Errorf("after it came back: %+v", got)
	}
}

const knownText = `{"time":"2026-05-04T12:00:10Z","queries":[
{"metrics":[{"kind":"external","namespace":"orders","name":"orders-queue-depth"},{"kind":"external","namespace":"other","name":"depth"}],
 "source":"cloudwatch","backend":"eu-central-1","query":"depth (waiting + FILL(in_work, 0))","value":"42","samples":1,"serves":true,
 "measured":"2026-05-04T12:00:00Z","fetched":"2026-05-04T12:00:05Z","next":"2026-05-04T12:00:20Z","intervalSeconds":15,"maxAgeSeconds":300},
{"metrics":[],"source":"prometheus","query":"up at default","samples":0,"serves":false,"error":"connection refused","failingSince":"2026-05-04T11:59:00Z","intervalSeconds":5,"maxAgeSeconds":60}]}`

func TestKnownBecomesMetrics(t *testing.T) {
	metrics, err := metricsOf([]byte(knownText))
	if err != nil || len(metrics) != 3 {
		t.Fatalf("got %+v: %v", metrics, err)
	}
	first := metrics[0]
	if first.Name != "orders-queue-depth" || first.Namespace != orders || first.Value != "42" || first.Source != "cloudwatch eu-central-1" ||
		first.Next.Sub(first.Asked) != 15*time.Second || first.Measured.IsZero() {
		t.Errorf("got %+v", first)
	}
	if last := metrics[2]; last.Name != "up at default" || last.Error != "connection refused" || last.FailingSince.IsZero() || last.Value != "" {
		t.Errorf("got %+v", last)
	}
	if _, err := metricsOf([]byte("<html>")); err == nil {
		t.Error("a page is taken for an answer")
	}
}

// bench has fakes of all that a collector asks.
type bench struct {
	loader, adapter *httptest.Server
	kube            *kubefake.Clientset
	away            atomic.Bool // the adapter and the control plane
	told            sync.Map    // kinds of objects
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{kube: kubefake.NewClientset(
		&appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: orders, Name: "web"},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(3))}, Status: appsv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 2},
		},
		hpaOf(1, 3, "25", able, active),
		&corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: orders, Name: "web.1"},
			InvolvedObject: corev1.ObjectReference{Kind: "HorizontalPodAutoscaler", Name: "web"},
			Reason:         "SuccessfulRescale", Message: "(combined from similar events): New size: 3", LastTimestamp: metav1.Now(), Count: 1,
		},
	)}
	var requests atomic.Int64
	b.loader = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := requests.Add(25)
		_, _ = fmt.Fprintf(w, "# TYPE loader_rate gauge\nloader_rate 25\n# TYPE loader_responses_total counter\nloader_responses_total{code=\"200\"} %d\n", n)
	}))
	t.Cleanup(b.loader.Close)
	b.adapter = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.away.Load() || r.URL.Path != knownPath {
			http.Error(w, "gone", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, knownText)
	}))
	t.Cleanup(b.adapter.Close)
	return b
}

// collect runs a collector of the bench until the test is over.
func (b *bench) collect(t *testing.T) *collector {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: b.adapter.URL})
	if err != nil {
		t.Fatal(err)
	}
	c := newCollector(collectorOptions{
		Kube: b.kube, Namespace: orders, Web: "web", Worker: "worker",
		Told:    func(object any) { b.told.Store(fmt.Sprintf("%T", object), true) },
		Depth:   func(context.Context) (int, int, error) { return 40, 2, nil },
		Loaders: func() []string { return []string{b.loader.URL} },
		Known:   knownBy(client.Discovery().RESTClient()),
		Probes: []probe{{controlPlane, func(context.Context) error {
			if b.away.Load() {
				return errors.New("connection refused")
			}
			return nil
		}}},
		Phase: func() page.Phase { return page.Phase{Word: "rise", Title: "The load rises"} },
	})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return c
}

func awaitSnapshot(t *testing.T, c *collector, what string, wanted func(page.Snapshot) bool) page.Snapshot {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		s := c.Snapshot(t.Context())
		if wanted(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %+v", what, s)
		}
	}
}

func TestCollectorAsksEverybody(t *testing.T) {
	b := newBench(t)
	c := b.collect(t)
	s := awaitSnapshot(t, c, "all", func(s page.Snapshot) bool {
		served, _ := s.Traffic.Served.Get()
		return served > 0 && len(s.HPAs) == 1 && len(s.HPAs[0].Events) == 1 && len(s.Metrics) == 3 && s.Web.Ready == page.Num(2) && s.Parts[0].State == page.Up
	})
	if s.Queue.Visible != page.Num(40) || s.Queue.InFlight != page.Num(2) || s.Traffic.Asked != page.Num(25) {
		t.Errorf("got queue %+v, traffic %+v", s.Queue, s.Traffic)
	}
	if s.Web.Desired != page.Num(3) || s.Web.Min != page.Num(1) || s.Web.Max != page.Num(10) || s.Traffic.Target != page.Num(20) {
		t.Errorf("got web %+v, target %v", s.Web, s.Traffic.Target)
	}
	if s.Worker != (page.Tier{}) || s.Queue.Target != (page.Number{}) {
		t.Errorf("there are no workers: got %+v, target %v", s.Worker, s.Queue.Target)
	}
	if !strings.HasPrefix(s.HPAs[0].Decision, "It goes up from 1 to 3") || s.HPAs[0].Name != "orders/web" || s.Phase.Word != "rise" {
		t.Errorf("got %+v, %+v", s.HPAs[0], s.Phase)
	}
}

// TestCollectorTellsTheStory: the story hears of each object by the same watch as the page.
func TestCollectorTellsTheStory(t *testing.T) {
	b := newBench(t)
	c := b.collect(t)
	for _, kind := range []string{"*v1.Deployment", "*v2.HorizontalPodAutoscaler", "*v1.Event"} {
		awaitSnapshot(t, c, kind, func(page.Snapshot) bool { _, there := b.told.Load(kind); return there })
	}
	watches := map[string]int{}
	for _, action := range b.kube.Actions() {
		if action.GetVerb() == "watch" {
			watches[action.GetResource().Resource]++
		}
	}
	if want := map[string]int{"deployments": 1, "horizontalpodautoscalers": 1, "events": 1}; !maps.Equal(watches, want) {
		t.Errorf("watches are %v, want %v", watches, want)
	}
}

// TestCollectorSaysWhatItDoesNotKnow takes the adapter and the control plane away.
func TestCollectorSaysWhatItDoesNotKnow(t *testing.T) {
	b := newBench(t)
	c := b.collect(t)
	awaitSnapshot(t, c, "replicas", func(s page.Snapshot) bool { return s.Web.Ready == page.Num(2) && len(s.Metrics) == 3 })
	b.away.Store(true)
	s := awaitSnapshot(t, c, "the outage", func(s page.Snapshot) bool { return s.Parts[0].State == page.Down && s.MetricsErr != "" })
	if s.Web.Ready != (page.Number{}) || s.Web.Desired != (page.Number{}) || len(s.Metrics) != 0 {
		t.Errorf("nobody can know: got %+v, %+v", s.Web, s.Metrics)
	}
	if s.Queue.Visible != page.Num(40) {
		t.Errorf("the queue is there: got %+v", s.Queue)
	}
	b.away.Store(false)
	awaitSnapshot(t, c, "the return", func(s page.Snapshot) bool { return s.Web.Ready == page.Num(2) && len(s.Metrics) == 3 })
}
