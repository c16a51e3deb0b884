package e2e

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	customPath = "/apis/custom.metrics.k8s.io/v1beta2"
	// ruleMaxAge is that of the rules for series that tests make up.
	ruleMaxAge = 10 * time.Second
	// till is the Service that series are of, which need not exist.
	till = "till"
)

// promMetric is the metric of a rule that scales the workers of a space, and the one
// beside it that nothing happens to.
type promMetric struct {
	*space

	kind promKind
	// name is that of the metric, calm that of the other one, and id what is in the names
	// of the series of both.
	name, calm, id string
	// queries matches what the adapter asks of the metric.
	queries *regexp.Regexp
	pods    []string
}

// promKind is what the metric describes, in the terms of HPAs.
type promKind string

const (
	kindPods     promKind = "Pods"
	kindObject   promKind = "Object"
	kindExternal promKind = "External"
)

// blind is what `kubectl describe hpa` calls it when there is no such metric.
func (k promKind) blind() string { return "FailedGet" + string(k) + "Metric" }

// promMetric makes the metric's series of three workers, who have 30 each.
func (s *space) promMetric(kind promKind) *promMetric {
	s.t.Helper()
	id := strings.TrimPrefix(s.namespace, "e2e-")
	m := &promMetric{
		space: s, kind: kind, id: id, name: "load_" + id, calm: "calm_" + id,
		queries: regexp.MustCompile(`_load_` + id + `\b`),
	}
	s.deploy(worker, 3)
	m.pods = s.podNames(worker, 3)
	m.play(30)
	return m
}

// play sets what each of three workers has to do. The other metric is 7.
func (m *promMetric) play(each float64) {
	m.t.Helper()
	series := []player.Series{{Name: "e2e_calm_" + m.id, Labels: m.labels("service", till), Value: 7}}
	for labels, value := range m.samples(each) {
		name := "e2e_load_" + m.id
		if m.kind == kindExternal {
			name = "external_load_" + m.id
		}
		series = append(series, player.Series{Name: name, Labels: *labels, Value: model.SampleValue(value)})
	}
	if err := m.player.SetSeries(m.namespace, series...); err != nil {
		m.t.Fatal(err)
	}
}

// samples are the metric's, each with its labels.
func (m *promMetric) samples(each float64) map[*map[string]string]float64 {
	samples := map[*map[string]string]float64{}
	switch m.kind {
	case kindPods:
		for _, pod := range m.pods {
			samples[new(m.labels("pod", pod))] = each
		}
	case kindObject:
		samples[new(m.labels("service", till))] = 3 * each
	default:
		samples[new(m.labels())] = 3 * each
	}
	return samples
}

func (m *promMetric) labels(pairs ...string) map[string]string {
	labels := map[string]string{"namespace": m.namespace}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return labels
}

// vector is the answer to a query of the metric, with another value.
func (m *promMetric) vector(value string) promproxy.Answer {
	var samples []promproxy.Sample
	for labels := range m.samples(0) {
		samples = append(samples, promproxy.Sample{Labels: *labels, Value: value})
	}
	return promproxy.Vector(samples...)
}

// hpa scales the workers by the metric, 30 for each.
func (m *promMetric) hpa() *autoscalingv2.HorizontalPodAutoscaler {
	hpa := autoscaler(worker, 1, m.name)
	of, target := autoscalingv2.MetricIdentifier{Name: m.name}, hpa.Spec.Metrics[0].External.Target
	switch m.kind {
	case kindPods:
		hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: of, Target: target},
		}}
	case kindObject:
		service := autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: till}
		hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type:   autoscalingv2.ObjectMetricSourceType,
			Object: &autoscalingv2.ObjectMetricSource{Metric: of, Target: target, DescribedObject: service},
		}}
	case kindExternal: // It is one.
	}
	return hpa
}

// read gives the metric's values as text: those of the pods in their order.
func (m *promMetric) read(ctx context.Context) (string, error) {
	if m.kind == kindExternal {
		items, err := m.values(ctx, m.name)
		texts := make([]string, len(items))
		for i, item := range items {
			texts[i] = item.Value.String()
		}
		return strings.Join(texts, " "), err
	}
	items, err := m.promObjects(ctx, m.path())
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.Value.String()
	}
	return strings.Join(texts, " "), err
}

// path is that of a metric of objects.
func (m *promMetric) path() string {
	if m.kind == kindPods {
		return "pods/*/" + m.name
	}
	return "services/" + till + "/" + m.name
}

// promObjects reads a metric of objects in the space, sorted by their names.
func (s *space) promObjects(ctx context.Context, path string) ([]v1beta2.MetricValue, error) {
	result := s.Client().Discovery().RESTClient().Get().AbsPath(customPath + "/namespaces/" + s.namespace + "/" + path).Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	text, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var list v1beta2.MetricValueList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	slices.SortFunc(list.Items, func(a, b v1beta2.MetricValue) int {
		return strings.Compare(a.DescribedObject.Name, b.DescribedObject.Name)
	})
	return list.Items, nil
}

// good is the metric's text when each worker has so much to do.
func (m *promMetric) good(each int) string {
	if m.kind == kindPods {
		return strings.TrimSpace(strings.Repeat(strconv.Itoa(each)+" ", len(m.pods)))
	}
	return strconv.Itoa(3 * each)
}

// awaitGood waits until the metric is what each worker has to do.
func (m *promMetric) awaitGood(each int) {
	m.t.Helper()
	m.eventually(m.name, func(ctx context.Context) error { return m.isText(ctx, m.good(each)) })
}

func (m *promMetric) isText(ctx context.Context, want string) error {
	got, err := m.read(ctx)
	if err == nil && got != want {
		err = fmt.Errorf("%s of kind %s is %q, want %q", m.name, m.kind, got, want)
	}
	return err
}

// isCalm is nil if the metric beside has its value.
func (m *promMetric) isCalm(ctx context.Context) error {
	items, err := m.promObjects(ctx, "services/"+till+"/"+m.calm)
	if err != nil {
		return err
	}
	if len(items) != 1 || items[0].Value.String() != "7" {
		return fmt.Errorf("%s is %v, want 7", m.calm, items)
	}
	return nil
}

// keepCalm fails the test if the metric beside has once not its value, until stop is called.
// From now on the proxy answers in place of Prometheus, of which a scrape may be late on a
// busy machine.
func (m *promMetric) keepCalm() (stop func()) {
	m.t.Helper()
	m.eventually(m.calm, m.isCalm)
	m.t.Cleanup(m.proxy.Fault(promproxy.Fault{
		Endpoint: promproxy.Query, Query: regexp.MustCompile(`_calm_` + m.id + `\b`),
		Answer: promproxy.Vector(promproxy.Sample{Labels: map[string]string{"service": till}, Value: "7"}).Pointer(),
	}))
	m.eventually(m.calm, m.isCalm)
	return m.keepChecking("the metric beside", m.isCalm)
}

// lastAnswered is when the adapter last asked for the metric, by what the proxy saw.
func (m *promMetric) lastAnswered() time.Time {
	m.t.Helper()
	var last time.Time
	for _, c := range m.proxy.Calls(promproxy.Query) {
		if c.OK() && m.queries.MatchString(c.Query) {
			last = c.Time
		}
	}
	if last.IsZero() {
		m.t.Fatalf("the adapter has not asked for %s", m.name)
	}
	return last
}

// servesLastGood reads the metric until that fails, as it must when the answer is
// older than maxAge that the adapter asked for at last or later, but not after began.
func (m *promMetric) servesLastGood(each int, last, began time.Time) {
	m.t.Helper()
	var good time.Time
	err := wait.PollUntilContextTimeout(m.t.Context(), pause, await, true, func(ctx context.Context) (bool, error) {
		asked := time.Now()
		got, err := m.read(ctx)
		if err != nil {
			return true, nil //nolint:nilerr // It is awaited.
		}
		if got != m.good(each) {
			m.t.Errorf("%s is %q during the fault, want %q", m.name, got, m.good(each))
		}
		good = asked
		return false, nil
	})
	if err != nil {
		m.t.Fatalf("%s still has a value: %v", m.name, err)
	}
	// The adapter counts from before it makes the call, which arrived at last.
	if early := time.Until(last.Add(ruleMaxAge - transit)); early > 0 {
		m.t.Errorf("the last good value was served for %v less than the maxAge of %v", early+transit, ruleMaxAge)
	}
	if late := good.Sub(began.Add(ruleMaxAge)); late > 0 {
		m.t.Errorf("the last good value was served for %v more than the maxAge of %v", late, ruleMaxAge)
	}
}

// awaitFailure waits until a read of the metric fails with the code and the words.
func (m *promMetric) awaitFailure(code int, words ...string) {
	m.t.Helper()
	m.eventually(m.name, func(ctx context.Context) error {
		got, err := m.read(ctx)
		if err == nil {
			return fmt.Errorf("%s is %q, want an error", m.name, got)
		}
		return isError(err, code, words...)
	})
}

// awaitHPASays waits until `kubectl describe hpa` has the words.
func (s *space) awaitHPASays(words ...string) {
	s.t.Helper()
	s.eventually("kubectl describe hpa", func(ctx context.Context) error {
		text, err := s.runKubectl(ctx, "describe", "hpa", worker)
		if err != nil {
			return err
		}
		return mentions(text, words...)
	})
}

// ownRules is an own bed with a Prometheus, and an adapter of the binary that asks it by the
// rules.
func ownRules(t *testing.T, binary, rules string) *bed {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	b := ownBed(t)
	if err := b.startPrometheus(t.Context()); err != nil {
		t.Fatal(err)
	}
	var err error
	b.adapter, err = b.StartAdapter(t.Context(), env.AdapterOptions{
		Binary: binary, Args: []string{"--config=" + file, "--prometheus-url=" + b.proxy.URL(), "--metrics-relist-interval=2s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plainBinary is an adapter without the race detector, which takes memory of its own.
func plainBinary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv(adapterVariable)
	if binary == "" {
		return ""
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return "" // The test bed's own.
	}
	return binary
}

// checkMemory fails the test if the adapter ever had more bytes resident than the limit.
func (b *bed) checkMemory(t *testing.T, limit int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.adapter.ID().PID))
	if errors.Is(err, os.ErrNotExist) {
		t.Log("there is no /proc on this system")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the adapter had at most %d bytes resident", kib<<10)
		if kib<<10 > limit {
			t.Errorf("that is more than %d", limit)
		}
		return
	}
	t.Error("the adapter's process has no VmHWM")
}

// prepareFault brings three replicas up by the metric.
func (m *promMetric) prepareFault() {
	m.t.Helper()
	m.awaitGood(30)
	m.createHPA(m.hpa())
	m.awaitReplicas(worker, 3)
}

// disrupt plays a fault for the queries of the metric.
func (m *promMetric) disrupt(f promproxy.Fault) (lift func()) {
	f.Endpoint, f.Query = promproxy.Query, m.queries
	lift = m.proxy.Fault(f)
	m.t.Cleanup(lift)
	return lift
}

// recovers waits until the HPA scales by the value of after the fault, which is 10. The
// adapter must be the process that it was.
func (m *promMetric) recovers(pid env.ProcessID) {
	m.t.Helper()
	m.awaitReplicas(worker, 1)
	if now := m.adapter.ID(); now != pid {
		m.t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// podCondition is a condition of the adapter's own pod.
func (s *space) podCondition(ctx context.Context, kind corev1.PodConditionType) (corev1.PodCondition, error) {
	pod, err := s.Client().CoreV1().Pods(env.Namespace).Get(ctx, env.PodName, metav1.GetOptions{})
	if err != nil {
		return corev1.PodCondition{}, err
	}
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if i < 0 {
		return corev1.PodCondition{}, fmt.Errorf("the pod has no such condition: %v", pod.Status.Conditions)
	}
	return pod.Status.Conditions[i], nil
}

// awaitPodCondition waits until the condition of the adapter's own pod has the status, and says
// the words.
func (s *space) awaitPodCondition(kind corev1.PodConditionType, want corev1.ConditionStatus, words ...string) {
	s.t.Helper()
	s.eventually(string(kind), func(ctx context.Context) error {
		c, err := s.podCondition(ctx, kind)
		if err != nil {
			return err
		}
		if c.Status != want {
			return fmt.Errorf("it is %s (%s: %s), want %s", c.Status, c.Reason, c.Message, want)
		}
		return mentions(c.Message, words...)
	})
}

// awaitPodEvent waits for an Event of the adapter's own pod that has the reason and the type,
// and says the words.
func (s *space) awaitPodEvent(reason, kind string, words ...string) {
	s.t.Helper()
	about := fields.Set{"regarding.kind": "Pod", "regarding.name": env.PodName, "reason": reason, "type": kind}
	s.eventually("Event "+reason, func(ctx context.Context) error {
		list, err := s.Client().EventsV1().Events(env.Namespace).List(ctx, metav1.ListOptions{FieldSelector: about.String()})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if mentions(e.Note, words...) == nil {
				return nil
			}
		}
		return fmt.Errorf("%d Events, none of which says %q", len(list.Items), words)
	})
}

// keepChecking calls check again and again until stop is called, and fails the test when
// it once returns an error.
func (s *space) keepChecking(what string, check func(context.Context) error) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := check(ctx); err != nil && ctx.Err() == nil {
				s.t.Errorf("%s: %v", what, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// playPods sets what each pod has to do.
func (m *promMetric) playPods(values ...float64) {
	m.t.Helper()
	var series []player.Series
	for i, value := range values {
		series = append(series, player.Series{
			Name: "e2e_load_" + m.id, Labels: m.labels("pod", m.pods[i]), Value: model.SampleValue(value),
		})
	}
	if err := m.player.SetSeries(m.namespace, series...); err != nil {
		m.t.Fatal(err)
	}
}

const (
	// madeUpRules are those of the shared bed for what tests make up, alone.
	madeUpRules = `
rules:
- seriesQuery: '{__name__=~"^e2e_.*"}'
  resources: {template: <<.Resource>>}
  name: {matches: ^e2e_(.*)$}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 1s
  maxAge: 10s
`
	megabyte = 1_000_000
)

// isDiscovered is nil if discovery lists both metrics.
func (m *promMetric) isDiscovered(ctx context.Context) error {
	text, err := m.Client().Discovery().RESTClient().Get().AbsPath(customPath).DoRaw(ctx)
	if err != nil {
		return err
	}
	return mentions(string(text), `"pods/`+m.name+`"`, `"services/`+m.calm+`"`)
}

// useMemory sets how many megabytes each of three workers uses.
func (s *space) useMemory(each float64) {
	s.t.Helper()
	const workers, cores = 3, 0.1
	err := s.player.SetUsage(player.Usage{Namespace: s.namespace, Workload: worker, Cores: workers * cores, Bytes: workers * each * megabyte})
	if err != nil {
		s.t.Fatal(err)
	}
}

// prepareUsage brings three replicas up by their memory, of which each is to have 30
// megabytes.
func (s *space) prepareUsage() {
	s.t.Helper()
	s.deploy(worker, 3)
	s.useMemory(30)
	s.eventually("kubectl top pods", func(ctx context.Context) error {
		text, err := s.runKubectl(ctx, "top", "pods")
		if err == nil && strings.Count(text, worker) != 3 {
			err = errors.New(text)
		}
		return err
	})
	hpa := autoscaler(worker, 1, "")
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceMemory,
			Target: autoscalingv2.MetricTarget{
				Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(30*megabyte, resource.DecimalSI),
			},
		},
	}}
	s.createHPA(hpa)
	s.awaitReplicas(worker, 3)
}

// awaitNoTop waits until `kubectl top` fails with the words. It must never say that there
// is nothing.
func (s *space) awaitNoTop(what string, words ...string) {
	s.t.Helper()
	s.eventually("kubectl top "+what, func(ctx context.Context) error {
		text, err := s.runKubectl(ctx, "top", what)
		if err == nil {
			if !strings.Contains(text, "MEMORY") {
				s.t.Errorf("kubectl top %s shows nothing: %s", what, text)
			}
			return fmt.Errorf("it shows %s", text)
		}
		return mentions(err.Error(), words...)
	})
}

// holdAll is hold for the workers of several spaces.
func holdAll(replicas int32, spaces ...*space) (release func()) {
	var releases []func()
	for _, s := range spaces {
		releases = append(releases, s.hold(replicas))
	}
	return func() {
		for _, release := range releases {
			release()
		}
	}
}

// forgetPrometheus deletes the data of the bed's Prometheus, which does not run.
func (b *bed) forgetPrometheus(t *testing.T) {
	t.Helper()
	u, err := url.Parse(b.prometheus.URL)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(b.Dir(), "prometheus", u.Port(), "data")
	if _, err := os.Stat(data); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
}
