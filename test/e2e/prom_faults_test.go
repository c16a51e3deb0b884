package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"

	"github.com/tidegauge/tidegauge/pkg/self"
	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// promFault is something that Prometheus answers in place of a metric's value, and what
// users see of it.
type promFault struct {
	kind  promKind
	fault func(m *promMetric) promproxy.Fault
	// code is what a read fails with, after the last good value has served for maxAge.
	code int
	// words are what users have to find everywhere.
	words string
}

// answers is a fault that answers every call.
func answers(a promproxy.Answer) func(*promMetric) promproxy.Fault {
	return func(*promMetric) promproxy.Fault { return promproxy.Fault{Answer: &a} }
}

// Faults of the queries of one metric, whose neighbours are at the same server.
var promFaults = map[string]promFault{
	"503 timeout":        {kindPods, answers(promproxy.TimedOut()), http.StatusServiceUnavailable, "query timed out in expression evaluation"},
	"503 starting":       {kindExternal, answers(promproxy.Unavailable()), http.StatusServiceUnavailable, "TSDB not ready"},
	"422":                {kindPods, answers(promproxy.ExecutionError()), http.StatusInternalServerError, "many-to-many matching not allowed"},
	"400":                {kindExternal, answers(promproxy.BadData()), http.StatusInternalServerError, "unexpected end of input"},
	"401":                {kindObject, answers(promproxy.Unauthorized()), http.StatusServiceUnavailable, "401 Unauthorized"},
	"login page":         {kindPods, answers(promproxy.HTML()), http.StatusServiceUnavailable, "not an answer of the Prometheus API"},
	"half of the answer": {kindExternal, answers(promproxy.TruncatedJSON()), http.StatusServiceUnavailable, "connection cut before the end of the answer"},
	"other JSON":         {kindObject, answers(promproxy.OtherJSON()), http.StatusServiceUnavailable, "the answer does not have the form of the Prometheus API"},
	"redirect": {
		kindPods, answers(promproxy.Redirect("http://127.0.0.1:1/login")), http.StatusServiceUnavailable,
		"302 Found: a redirect to http://127.0.0.1:1/login, which is not followed",
	},
	"matrix": {kindExternal, func(m *promMetric) promproxy.Fault {
		return promproxy.Fault{Answer: promproxy.Matrix(promproxy.Sample{Labels: m.labels(), Value: "1"}).Pointer()}
	}, http.StatusInternalServerError, "the query gives a range vector, and must give an instant vector"},
	"native histograms": {kindPods, func(m *promMetric) promproxy.Fault {
		return promproxy.Fault{Answer: promproxy.Vector(promproxy.Sample{Labels: m.labels("pod", m.pods[0]), Histogram: true}).Pointer()}
	}, http.StatusInternalServerError, "the query gives native histograms"},
	"connection cut": {kindObject, func(*promMetric) promproxy.Fault {
		return promproxy.Fault{CutAfter: 60}
	}, http.StatusServiceUnavailable, "connection cut before the end of the answer"},
}

// A metric that cannot be read keeps its last good value for maxAge, then says why, and
// its HPA holds. Nothing else notices.
func TestPrometheusFaults(t *testing.T) {
	t.Parallel()
	for name, f := range promFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sharedBed(t).newSpace(t).promMetric(f.kind)
			m.outliveFault(f)
		})
	}
}

// A server that is slow with one metric keeps its others waiting for no longer than a call
// may take.
func TestSlowPrometheus(t *testing.T) {
	t.Parallel()
	b := ownRules(t, os.Getenv(adapterVariable), madeUpRules+`
- seriesQuery: '{__name__=~"^e2e_calm_.*"}'
  resources: {template: <<.Resource>>}
  name: {matches: ^e2e_(.*)$}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 1s
  maxAge: 30s
`)
	b.newSpace(t).promMetric(kindPods).outliveFault(promFault{kindPods, func(*promMetric) promproxy.Fault {
		return promproxy.Fault{Delay: 30 * time.Second}
	}, http.StatusServiceUnavailable, "no answer within 8s"})
}

// outliveFault takes the metric, its HPA and its Deployment through a fault.
func (m *promMetric) outliveFault(f promFault) {
	m.t.Helper()
	m.prepareFault()
	pid := m.adapter.ID()
	release, stop := m.hold(3), m.keepCalm()

	last := m.lastAnswered()
	lift := m.disrupt(f.fault(m))
	began := time.Now()
	m.play(10) // Nobody can know that.
	m.servesLastGood(30, last, began)
	m.awaitFailure(f.code, m.name, "server default", "source prometheus has failed since", m.proxy.URL(), f.words)
	m.awaitHPASays(m.kind.blind(), f.words)
	stop()
	release()

	lift()
	m.recovers(pid)
}

// promOddity is an answer that is whole, but has no value, or none that can be served.
type promOddity struct {
	kind promKind
	// value is that of all samples; without there are none.
	value string
	// code is what a read fails with; 0 if it gives an empty list.
	code int
	// read and hpa are what a read says then, and what the HPA does.
	read, hpa string
}

var promOddities = map[string]promOddity{
	"no pods":     {kindPods, "", 0, "", "no metrics returned from custom metrics API"},
	"no object":   {kindObject, "", http.StatusNotFound, "there is no sample of it", "there is no sample of it"},
	"nothing":     {kindExternal, "", 0, "", "no metrics returned from external metrics API"},
	"NaN pods":    {kindPods, "NaN", http.StatusInternalServerError, "not a number that can be served: NaN", "not a number that can be served: NaN"},
	"NaN object":  {kindObject, "NaN", http.StatusInternalServerError, "not a number that can be served: NaN", "not a number that can be served: NaN"},
	"NaN":         {kindExternal, "NaN", http.StatusInternalServerError, "not a number that can be served: NaN", "not a number that can be served: NaN"},
	"+Inf pods":   {kindPods, "+Inf", http.StatusInternalServerError, "not a number that can be served: +Inf", "not a number that can be served: +Inf"},
	"-Inf object": {kindObject, "-Inf", http.StatusInternalServerError, "not a number that can be served: -Inf", "not a number that can be served: -Inf"},
	"+Inf":        {kindExternal, "+Inf", http.StatusInternalServerError, "not a number that can be served: +Inf", "not a number that can be served: +Inf"},
}

// What Prometheus answers counts at once, also if it is nothing: no last good value serves
// in its place, and none of it becomes a 0 that an HPA could act on.
func TestPrometheusHasNoNumber(t *testing.T) {
	t.Parallel()
	for name, o := range promOddities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sharedBed(t).newSpace(t).promMetric(o.kind)
			m.outliveOddity(o)
		})
	}
}

func (m *promMetric) outliveOddity(o promOddity) {
	m.t.Helper()
	m.prepareFault()
	pid := m.adapter.ID()
	release, stop := m.hold(3), m.keepCalm()
	odd := promproxy.Vector()
	if o.value != "" {
		odd = m.vector(o.value)
	}
	lift := m.disrupt(promproxy.Fault{Answer: &odd})
	m.play(10) // Nobody can know that.
	if o.code == 0 {
		m.eventually(m.name, func(ctx context.Context) error { return m.isText(ctx, "") })
	} else {
		m.awaitFailure(o.code, m.name, "server default", o.read)
	}
	if o.value != "" {
		m.awaitFailure(o.code, "_load_"+m.id) // The query, to look at in Prometheus.
	}
	m.awaitHPASays(m.kind.blind(), o.hpa)
	stop()
	release()
	lift()
	m.recovers(pid)
}

// A pod whose value is no number is one that the HPA does not know: it takes it for one
// that has as much to do as it should where the others have less, and for one that has
// nothing to do where they have more. So it neither takes away the pods that others need
// nor adds more than they do.
func TestOnePodHasNoNumber(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]float64{"NaN": math.NaN(), "infinite": math.Inf(1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sharedBed(t).newSpace(t).promMetric(kindPods)
			m.prepareFault()
			release := m.hold(3)
			// Of two pods alone it would be 16/30 of three, and so two.
			m.playPods(value, 16, 16)
			m.eventually(m.name, func(ctx context.Context) error { return m.isText(ctx, "16 16") })
			m.awaitHPASays("16 / 30")
			release()
			// Of two pods alone it would be twice three.
			m.playPods(value, 60, 60)
			m.awaitReplicas(worker, 4)
			m.awaitHPASays("60 / 30")
		})
	}
}

// An answer of 100,000 series serves the pods that are asked for, and takes nobody else's
// time or memory; one of twice as many is refused.
func TestAnswerOfManySeries(t *testing.T) {
	t.Parallel()
	const (
		samples   = 100_000
		answers   = 10
		maxMemory = 500_000_000
	)
	b := ownRules(t, plainBinary(t), madeUpRules)
	m := b.newSpace(t).promMetric(kindPods)
	m.prepareFault()
	release, stop := m.hold(3), m.keepCalm()
	lift := m.disrupt(promproxy.Fault{Answer: m.crowd(samples).Pointer()})
	m.play(10) // Nobody can know that.
	m.eventually("long answers", func(ctx context.Context) error {
		if err := m.isText(ctx, m.good(30)); err != nil {
			m.t.Fatal(err)
		}
		long := 0
		for _, c := range m.proxy.Calls(promproxy.Query) {
			if c.OK() && m.queries.MatchString(c.Query) && c.AnswerBytes > samples {
				long++
			}
		}
		if long < answers {
			return fmt.Errorf("%d answers of %d", long, answers)
		}
		return nil
	})
	stop()
	release()
	lift()
	m.recovers(b.adapter.ID())

	b.newSpace(t).promMetric(kindPods).outliveFault(promFault{kindPods, func(m *promMetric) promproxy.Fault {
		return promproxy.Fault{Answer: m.crowd(2*samples + 1).Pointer()}
	}, http.StatusInternalServerError, "the query gives more than 200000 samples"})
	b.checkMemory(t, maxMemory)
}

// crowd is a vector of so many samples, among them those of the pods, who have 30 each.
// It is written once, and not at each call.
func (m *promMetric) crowd(samples int) promproxy.Answer {
	var body strings.Builder
	body.WriteString(`{"status":"success","data":{"resultType":"vector","result":[`)
	for i := range samples {
		pod := fmt.Sprintf("stranger-%d", i)
		if i < len(m.pods) {
			pod = m.pods[i]
		}
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"metric":{"namespace":%q,"pod":%q},"value":[%d,"30"]}`, m.namespace, pod, time.Now().Unix())
	}
	body.WriteString("]}}")
	return promproxy.JSON(http.StatusOK, body.String())
}

// Prometheus is away: first what leads to it, then its process, which then comes back
// without data. Metrics of another backend go on, and none is forgotten.
func TestPrometheusAway(t *testing.T) {
	t.Parallel()
	b := ownBed(t)
	if err := b.startPrometheus(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.startAdapter(t.Context(), b.withRules()...); err != nil {
		t.Fatal(err)
	}
	pid := b.adapter.ID()
	neighbour := b.newSpace(t)
	neighbour.put("Orders", 30)
	neighbour.create(neighbour.metric("orders", "Orders"))
	neighbour.awaitValue("orders", "30")
	m, u := b.newSpace(t).promMetric(kindPods), b.newSpace(t)
	m.prepareFault()
	u.prepareUsage()
	m.eventually(m.calm, m.isCalm)
	stops := []func(){
		neighbour.keepReading("orders", "30"),
		m.keepChecking("discovery", m.isDiscovered),
	}

	release, last := holdAll(3, m.space, u), m.lastAnswered()
	b.proxy.Pause()
	began := time.Now()
	m.play(10) // Nobody can know that.
	u.useMemory(10)
	m.servesLastGood(30, last, began)
	const refused = "connection refused"
	m.awaitFailure(http.StatusServiceUnavailable, m.name, "server default", "source prometheus has failed since", b.proxy.URL(), refused)
	m.awaitHPASays(kindPods.blind(), refused)
	u.awaitHPASays("FailedGetResourceMetric", refused)
	for _, what := range []string{"pods", "nodes"} {
		u.awaitNoTop(what, "usage of "+what, "source prometheus has failed since", refused)
	}
	release()
	if err := b.proxy.Resume(); err != nil {
		t.Fatal(err)
	}
	m.recovers(pid)
	u.awaitReplicas(worker, 1)

	// What Prometheus knew is gone, and what it had to scrape, too.
	release = holdAll(1, m.space, u)
	if _, err := b.prometheus.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.awaitHPASays(kindPods.blind(), "502 Bad Gateway")
	u.awaitHPASays("FailedGetResourceMetric", "502 Bad Gateway")
	if err := m.player.SetSeries(m.namespace); err != nil {
		t.Fatal(err)
	}
	b.forgetPrometheus(t)
	if err := b.prometheus.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.eventually("an empty answer", func(ctx context.Context) error { return m.isText(ctx, "") })
	m.awaitHPASays(kindPods.blind(), "no metrics returned from custom metrics API")
	release()
	m.pods = m.podNames(worker, 1)
	m.play(90)
	m.awaitReplicas(worker, 3)
	u.useMemory(30)
	u.awaitReplicas(worker, 3)
	for _, stop := range stops {
		stop()
	}
	if now := b.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// rulesFor are rules of their own for the series that begin with each of the names.
func rulesFor(names ...string) string {
	var b strings.Builder
	b.WriteString("rules:\n")
	for _, name := range names {
		fmt.Fprintf(&b, `- seriesQuery: '{__name__=~"^%s_.*"}'
  resources: {template: <<.Resource>>}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 1s
  maxAge: 10s
`, name)
	}
	return b.String()
}

// The series of some rules cannot be listed: their metrics stay as they are, those of other
// rules come and go as ever, and the adapter's pod says which and why.
func TestDiscoveryFaults(t *testing.T) {
	t.Parallel()
	const (
		manySeries = 100_000
		maxMemory  = 400_000_000
	)
	rules := []string{"calm", "refused", "slow", "garbled", "many"}
	faulty := rules[1:4]
	b := ownRules(t, plainBinary(t), rulesFor(rules...))
	s := b.newSpace(t)
	s.playNumbered(1, rules...)
	for _, rule := range rules {
		s.awaitNumbered(1, rule)
	}
	// A scrape that is late on a busy machine must not look as if a metric were lost.
	t.Cleanup(s.proxy.Fault(promproxy.Fault{
		Endpoint: promproxy.Query, Query: regexp.MustCompile(`_1\{`),
		Answer: promproxy.Vector(promproxy.Sample{Labels: map[string]string{"service": till}, Value: "1"}).Pointer(),
	}))
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionTrue)

	s.listFault("refused", promproxy.Fault{Answer: promproxy.Unavailable().Pointer()})
	s.listFault("slow", promproxy.Fault{Delay: 10 * time.Minute})
	s.listFault("garbled", promproxy.Fault{Answer: promproxy.TruncatedJSON().Pointer()})
	s.listFault("many", promproxy.Fault{
		Answer: promproxy.SyntheticSeries{Count: manySeries, Labels: 13, Names: []string{"many_1", "many_of_them"}}.Answer().Pointer(),
	})
	stop := s.keepChecking("metrics that are known", func(ctx context.Context) error {
		for _, rule := range rules {
			if err := s.hasNumbered(ctx, 1, rule); err != nil {
				return err
			}
		}
		return nil
	})
	s.playNumbered(2, rules...)
	s.awaitNumbered(2, "calm")
	s.eventually("the many series", func(ctx context.Context) error {
		text, err := s.Client().Discovery().RESTClient().Get().AbsPath(customPath).DoRaw(ctx)
		if err != nil {
			return err
		}
		return mentions(string(text), `"pods/many_of_them"`, `"services/many_1"`)
	})
	// Each of the failing rules at its time: a listing may take a minute.
	for rule, words := range map[string]string{
		"rules[1] (line 7)":  "503 Service Unavailable: unavailable: TSDB not ready",
		"rules[3] (line 17)": "the answer does not have the form of the Prometheus API",
		"rules[2] (line 12)": "no answer within 1m0s",
	} {
		s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionFalse, rule, words)
		s.awaitPodEvent("RuleFailing", corev1.EventTypeWarning, rule, words)
	}
	for _, rule := range faulty {
		if err := isError(s.hasNumbered(t.Context(), 2, rule), http.StatusNotFound, rule+"_2"); err != nil {
			t.Errorf("a metric that was never listed: %v", err)
		}
	}
	stop()
	b.checkMemory(t, maxMemory)

	b.proxy.ClearFaults() // Also that of what is known.
	for _, rule := range rules {
		s.awaitNumbered(2, rule)
	}
	s.awaitPodCondition(self.RulesDiscovered, corev1.ConditionTrue)
	s.awaitPodEvent("RulesDiscovered", corev1.EventTypeNormal)
}

// playNumbered has for each rule series up to a number, whose values are their numbers.
func (s *space) playNumbered(number int, rules ...string) {
	s.t.Helper()
	var series []player.Series
	for _, rule := range rules {
		for i := 1; i <= number; i++ {
			series = append(series, player.Series{
				Name: fmt.Sprintf("%s_%d", rule, i), Value: model.SampleValue(i),
				Labels: map[string]string{"namespace": s.namespace, "service": till},
			})
		}
	}
	if err := s.player.SetSeries(s.namespace, series...); err != nil {
		s.t.Fatal(err)
	}
}

// hasNumbered is nil if the metric of a rule's series is served.
func (s *space) hasNumbered(ctx context.Context, number int, rule string) error {
	metric := fmt.Sprintf("%s_%d", rule, number)
	items, err := s.promObjects(ctx, "services/"+till+"/"+metric)
	if err == nil && (len(items) != 1 || items[0].Value.Value() != int64(number)) {
		err = fmt.Errorf("%s is %v", metric, items)
	}
	return err
}

func (s *space) awaitNumbered(number int, rule string) {
	s.t.Helper()
	s.eventually(rule, func(ctx context.Context) error { return s.hasNumbered(ctx, number, rule) })
}

// listFault plays a fault when the series of a rule of rulesFor are listed.
func (s *space) listFault(rule string, f promproxy.Fault) {
	f.Endpoint, f.Query = promproxy.Series, regexp.MustCompile(`\^`+rule+`_`)
	s.t.Cleanup(s.proxy.Fault(f))
}

// A query that gives several samples of one pod has no right answer for it: the pod is left
// out, and a metric without any other pod is an error that names the cure.
func TestDuplicateSamples(t *testing.T) {
	t.Parallel()
	rules := strings.Replace(madeUpRules, "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)", "<<.Series>>{<<.LabelMatchers>>}", 1)
	b := ownRules(t, os.Getenv(adapterVariable), rules)
	m := b.newSpace(t).promMetric(kindPods)
	m.prepareFault()
	pid := m.adapter.ID()
	release, stop := m.hold(3), m.keepCalm()
	// What a pod has to do is told apart by its container now, and is far less.
	sidecars := func(pods ...string) {
		series := make([]player.Series, len(pods))
		for i, pod := range pods {
			series[i] = player.Series{Name: "e2e_load_" + m.id, Labels: m.labels("pod", pod, "container", "sidecar"), Value: 1}
		}
		if err := m.player.SetSeries("sidecars", series...); err != nil {
			t.Fatal(err)
		}
	}
	words := func(pod string) []string {
		return []string{m.name, "server default", pod + " has 2 samples for one object", "sum(…) by (<<.GroupBy>>)", "e2e_load_" + m.id}
	}
	sidecars(m.pods[0])
	m.eventually(m.name, func(ctx context.Context) error { return m.isText(ctx, "30 30") })
	m.eventually("the pod by its name", func(ctx context.Context) error {
		_, err := m.promObjects(ctx, "pods/"+m.pods[0]+"/"+m.name)
		return isError(err, http.StatusInternalServerError, words(m.pods[0])...)
	})
	sidecars(m.pods...)
	m.awaitFailure(http.StatusInternalServerError, words("")...)
	m.awaitHPASays(append(words(""), kindPods.blind())...)
	stop()
	release()
	m.play(10)
	sidecars()
	m.recovers(pid)
}
