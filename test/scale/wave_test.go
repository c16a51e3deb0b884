package scale

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	custommetrics "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalmetrics "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// The wave of the load, and what testdata/wave.yaml says of it.
const (
	waveNodes = 30
	// waveSteps are those of one period, from one trough to the next.
	waveSteps = 12
	// The pods at the peak are 623 together.
	peakWeb, peakWorkers = 600, 23
	// requestsPerPod and messagesPerPod are what the HPAs aim at.
	requestsPerPod, messagesPerPod = 10, 30

	depthMetric = "ApproximateNumberOfMessagesVisible"
	queueName   = "orders"

	webMetricPath   = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/wave/pods/*/http_requests_per_second"
	depthMetricPath = "/apis/external.metrics.k8s.io/v1beta1/namespaces/wave/orders-queue-depth"
)

var (
	web     = tier{"wave", "web"}
	workers = tier{"wave", "worker"}
)

var period = flag.Duration("period", 0, "how long the wave takes at least; by itself each step is as long as the HPAs take")

// level is the part of the peak at a step of the sine: 0 at the troughs, 1 in between. It is
// rounded, so that half a pod is half a pod on the way up and down.
func level(step int) float64 {
	const digits = 1e9
	return math.Round(digits*(1-math.Cos(2*math.Pi*float64(step)/waveSteps))/2) / digits
}

// sizes are how many pods are to be there at a step.
func sizes(step int) (ofWeb, ofWorkers int32) {
	return max(1, int32(math.Round(peakWeb*level(step)))), int32(math.Round(peakWorkers * level(step)))
}

// workFor is a load that takes so many pods: half a pod's less than would fill them, so that
// no rounding on the way makes it another number of pods.
func workFor(pods int32, perPod float64) float64 {
	if pods == 0 {
		return 0
	}
	return (float64(pods) - 0.5) * perPod
}

// Row B22. The load rises and falls like a sine, in minutes; both HPAs follow it from 1 pod
// to 623 on 30 nodes and back, and no read gives a number that nobody measured.
func TestWave(t *testing.T) {
	b := startBed(t, waveNodes)
	b.applyTiers()
	w := &wave{bed: b}
	stop := w.publishDepth()
	defer stop()

	w.settle(0, scaled{desired: 1})
	w.awaitSharing()
	before, began := w.figures(), time.Now()
	stopReading := w.readAlways()
	defer stopReading() // Also where a step fails.
	for step := 1; step <= waveSteps; step++ {
		w.settle(step, w.now(web))
		if step == waveSteps/2 {
			w.checkPeak()
		}
		w.hold(time.Until(began.Add(*period * time.Duration(step) / waveSteps)))
	}
	stopReading()
	w.report(before, w.figures(), time.Since(began))
}

// wave is a run of the wave.
type wave struct {
	*bed

	mu        sync.Mutex
	depth     float64 // of the queue
	published history
	checked   checked
	resident  float64 // the most, in bytes
}

// checked is what the reader saw, which reads as HPAs do.
type checked struct {
	reads, numbers int
	// oldest are the ages of the oldest numbers that were read.
	oldestOfWeb, oldestDepth time.Duration
}

// applyTiers applies both tiers with their HPAs.
func (b *bed) applyTiers() {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "wave.yaml"))
	if err == nil {
		err = b.Apply(b.t.Context(), text)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// settle sets the load of a step, and waits until both tiers have the size that it takes, and
// the numbers of the adapter say the same by the HPA's own arithmetic.
func (w *wave) settle(step int, from scaled) {
	w.t.Helper()
	began := time.Now()
	ofWeb, ofWorkers := sizes(step)
	w.load.set(stream{web, requestsSeries}, workFor(ofWeb, requestsPerPod))
	w.setDepth(workFor(ofWorkers, messagesPerPod))

	least, most := from.desired, from.desired
	eventually(w.t, fmt.Sprintf("step %d", step), func(ctx context.Context) error {
		now, err := w.look(ctx, web)
		if err != nil {
			return err
		}
		least, most = min(least, now.desired), max(most, now.desired)
		if err := now.is(ofWeb); err != nil {
			return fmt.Errorf("web: %w", err)
		}
		now, err = w.look(ctx, workers)
		if err != nil {
			return err
		}
		if err := now.is(ofWorkers); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		return w.agrees(ctx, ofWeb, ofWorkers)
	})
	w.t.Logf("step %2d: %6.0f requests/s, %3.0f messages: %3d web (%d to %d on the way), %2d workers, after %.1f s",
		step, workFor(ofWeb, requestsPerPod), workFor(ofWorkers, messagesPerPod), ofWeb, least, most, ofWorkers, time.Since(began).Seconds())
	w.noteMemory()
}

// awaitSharing waits until Prometheus is asked for all pods at once. What was read before the
// adapter knew of the HPA was asked for by the names of the pods.
func (w *wave) awaitSharing() {
	w.t.Helper()
	eventually(w.t, "sharing", func(context.Context) error {
		queries := w.queriesOfPrometheus()
		if slices.ContainsFunc(queries, func(q string) bool { return strings.Contains(q, `pod!=""`) }) {
			return nil
		}
		return fmt.Errorf("prometheus was asked %q", queries)
	})
}

// hold lets the load be as it is for a while.
func (w *wave) hold(d time.Duration) {
	select {
	case <-w.t.Context().Done():
	case <-time.After(d):
	}
}

// agrees is nil if the adapter's numbers, divided by the targets, are so many pods.
func (w *wave) agrees(ctx context.Context, ofWeb, ofWorkers int32) error {
	requests, err := w.readRequests(ctx)
	if err != nil {
		return err
	}
	if got := podsFor(sum(requests), requestsPerPod); len(requests) != int(ofWeb) || got != ofWeb {
		return fmt.Errorf("%d pods have %v requests/s together, which is work for %d; want %d", len(requests), sum(requests), got, ofWeb)
	}
	depth, err := w.readDepth(ctx)
	if err != nil {
		return err
	}
	if got := podsFor(depth, messagesPerPod); got != ofWorkers {
		return fmt.Errorf("there are %v messages, which is work for %d; want %d", depth, got, ofWorkers)
	}
	return nil
}

// podsFor is the HPA's arithmetic, see
// https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
func podsFor(total, perPod float64) int32 { return int32(math.Ceil(total / perPod)) }

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// now is what a tier is, whether its HPA has a number or not.
func (w *wave) now(of tier) scaled {
	s, _ := w.look(w.t.Context(), of)
	return s
}

// checkPeak counts pods and the nodes that have some.
func (w *wave) checkPeak() {
	w.t.Helper()
	pods, err := w.Client().CoreV1().Pods(web.namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	running, nodes := 0, map[string]bool{}
	for _, pod := range pods.Items {
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			running++
			nodes[pod.Spec.NodeName] = true
		}
	}
	if want := peakWeb + peakWorkers; running != want || len(nodes) != waveNodes {
		w.t.Errorf("at the peak %d pods run on %d nodes, want %d on %d", running, len(nodes), want, waveNodes)
	}
	w.t.Logf("the peak: %d pods on %d nodes", running, len(nodes))
}

func (w *wave) setDepth(messages float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.depth = messages
}

// publishDepth plays a queue: each second its depth becomes a datapoint of that second.
func (w *wave) publishDepth() (stop func()) {
	return w.every(time.Second, func(context.Context) {
		w.mu.Lock()
		defer w.mu.Unlock()
		now := time.Now()
		w.published.add(w.depth, now)
		w.aws.PutMetric(fakeaws.Metric{
			Region: fakeaws.DefaultRegion, Namespace: "AWS/SQS", Name: depthMetric, Dimensions: map[string]string{"QueueName": queueName},
			Value: fakeaws.Float(w.depth), Time: now.Truncate(time.Second), HighResolution: true,
		})
	})
}

// every calls a function again and again until stop is called, and at once for the first time.
func (w *wave) every(interval time.Duration, do func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var doing sync.WaitGroup
	doing.Go(func() {
		for ctx.Err() == nil {
			do(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(interval):
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		doing.Wait()
	})
}

// readAlways reads both metrics all the time, and fails the test for every number that was
// not measured of late and every read that fails.
func (w *wave) readAlways() (stop func()) {
	return w.every(lookInterval, func(ctx context.Context) {
		err := w.checkOnce(ctx)
		if err != nil && ctx.Err() == nil {
			w.t.Error(err)
		}
	})
}

func (w *wave) checkOnce(ctx context.Context) error {
	requests, err := w.readRequests(ctx)
	if err != nil {
		return err
	}
	depth, err := w.readDepth(ctx)
	if err != nil {
		return err
	}
	oldest := time.Duration(0)
	for _, v := range requests {
		age, ok := w.load.age(stream{web, requestsSeries}, v)
		if !ok {
			return fmt.Errorf("a pod has %v requests/s, which Prometheus did not say within %v", v, maxAge)
		}
		oldest = max(oldest, age)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	age, ok := w.published.age(depth, time.Now())
	if !ok {
		return fmt.Errorf("the queue has %v messages, which it did not have within %v", depth, maxAge)
	}
	w.checked.reads += 2
	w.checked.numbers += len(requests) + 1
	w.checked.oldestOfWeb = max(w.checked.oldestOfWeb, oldest)
	w.checked.oldestDepth = max(w.checked.oldestDepth, age)
	return nil
}

// readRequests are the requests per second of each pod of web, as its HPA reads them.
func (w *wave) readRequests(ctx context.Context) ([]float64, error) {
	var list custommetrics.MetricValueList
	if err := w.read(ctx, webMetricPath, map[string]string{"labelSelector": "app=" + web.name}, &list); err != nil {
		return nil, err
	}
	values := make([]float64, len(list.Items))
	for i, item := range list.Items {
		values[i] = number(item.Value)
	}
	return values, nil
}

// readDepth is the depth of the queue, as the workers' HPA reads it.
func (w *wave) readDepth(ctx context.Context) (float64, error) {
	var list externalmetrics.ExternalMetricValueList
	if err := w.read(ctx, depthMetricPath, nil, &list); err != nil {
		return 0, err
	}
	if len(list.Items) != 1 {
		return 0, fmt.Errorf("%s has %d items, want 1", depthMetricPath, len(list.Items))
	}
	return number(list.Items[0].Value), nil
}

func number(q resource.Quantity) float64 { return q.AsApproximateFloat64() }

// read reads through the API server.
func (w *wave) read(ctx context.Context, path string, params map[string]string, into any) error {
	request := w.Client().Discovery().RESTClient().Get().AbsPath(path)
	for name, value := range params {
		request = request.Param(name, value)
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil { // Unlike that of Raw it has the server's words.
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err := result.Raw()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, text)
	}
	return nil
}
