package check

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const rules = `rules:
- seriesQuery: '{__name__=~"^http_.*",namespace!="",pod!=""}'
  resources: {template: <<.Resource>>}
  name: {as: "${0}_now"}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
externalRules:
- seriesQuery: '{__name__=~"^jobs_.*"}'
  resources: {namespaced: false}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (queue)
- seriesQuery: '{__name__=~"^nothing_.*"}'
  resources: {namespaced: false}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>})
`

const queueDepth = `apiVersion: metrics.aws/v1alpha1
kind: ExternalMetric
metadata: {name: queue-depth, namespace: shop}
spec:
  queries:
  - id: visible
    metricStat:
      metric: {namespace: AWS/SQS, metricName: Visible, dimensions: [{name: QueueName, value: orders}]}
      period: 60
      stat: Average
`

const autoscaler = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: workers, namespace: shop}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: workers}
  metrics:
  - type: External
    external:
      metric: {name: jobs_waiting, selector: {matchLabels: {queue: orders}}}
      target: {type: AverageValue, averageValue: "5"}
  - type: Pods
    pods:
      metric: {name: http_requests_now}
      target: {type: AverageValue, averageValue: "5"}
`

// report is what check prints.
type report struct {
	Findings []struct{ Severity, Object, Message, Where string }
	Rules    []struct {
		Rule, Error     string
		Series, Metrics int
		Exposes         []string
	}
	Values []struct {
		Namespace, Metric, Source, Selector, Value, Error, Took string
		Time                                                    time.Time
		Items                                                   []struct {
			Labels map[string]string
			Value  string
		}
	}
	Checked struct{ Errors, Warnings int }
}

// live is a report of check --live.
func (b *bed) live(code int, args ...string) report {
	b.t.Helper()
	o := b.check(append([]string{"-o", "json"}, args...)...)
	o.want(code)
	var r report
	o.into(&r)
	return r
}

func TestLiveSaysWhatRulesAndObjectsExpose(t *testing.T) {
	b := start(t)
	r := b.live(0, file(t, "rules.yaml", rules), file(t, "objects.yaml", queueDepth+"---\n"+autoscaler))
	for i, want := range []string{
		// Prometheus' own label job names a resource too.
		"rules[0] 3 series 6 metrics [namespaces/http_errors_now namespaces/http_requests_now pods/http_errors_now pods/http_requests_now jobs.batch/http_errors_now jobs.batch/http_requests_now]",
		"externalRules[0] 2 series 1 metrics [jobs_waiting]",
		"externalRules[1] 0 series 0 metrics []",
	} {
		rule := r.Rules[i]
		if got := fmt.Sprintf("%s %d series %d metrics %v", rule.Rule, rule.Series, rule.Metrics, rule.Exposes); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	values := map[string]string{}
	for _, v := range r.Values {
		values[v.Source+" "+v.Namespace+"/"+v.Metric+"{"+v.Selector+"}"] = v.Value
		if age := time.Since(v.Time); age < -time.Minute || age > 10*time.Minute || v.Took == "" {
			t.Errorf("%s was measured %v ago and read in %q", v.Metric, age, v.Took)
		}
	}
	want := map[string]string{"ExternalMetric shop/queue-depth{}": "41500m", "externalRules[0] shop/jobs_waiting{queue=orders}": "7"}
	if fmt.Sprint(values) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", values, want)
	}
	if r.Checked.Warnings != 1 || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Message, "has had no series of seriesQuery") {
		t.Errorf("got %+v, want a warning of the rule without series", r.Findings)
	}
}

func TestLiveAddsUpAsAnHPADoes(t *testing.T) {
	b := start(t)
	r := b.live(0, file(t, "rules.yaml", rules))
	if len(r.Values) != 1 || r.Values[0].Value != "7500m" || len(r.Values[0].Items) != 2 {
		t.Errorf("got %+v, want 7.5 of two queues", r.Values)
	}
	b.check(file(t, "rules.yaml", rules)).want(0, "externalRules[0]", "7500m (sum of 2)", "checked 1 configuration in 1 file: 0 errors, 1 warning")
	b.check("--strict", file(t, "rules.yaml", rules)).want(1, "1 error")
}

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestLiveTellsOfBackendsInTheirWords(t *testing.T) {
	b := start(t)
	config, object := file(t, "rules.yaml", rules), file(t, "object.yaml", queueDepth)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such tenant", http.StatusForbidden) }))
	t.Cleanup(page.Close)
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hung.Close)

	// One that is away spoils nothing of the other.
	b.run("check", "--live", "--prometheus-url="+closed(t), config, object).
		want(1, "rules[0], externalRules[0], externalRules[1]", "connection refused", "41500m", "1 error")
	b.run("check", "--live", "--prometheus-url="+page.URL, config).want(1, "403 Forbidden", "no such tenant")
	b.run("check", "--live", "--timeout=3s", "--prometheus-url="+hung.URL, config, object).
		want(1, "no answer within --timeout", "0 of 3 rules' series are listed", "41500m")

	end := b.aws.Fault(fakeaws.Fault{Service: "cloudwatch", ErrorCode: "AccessDenied", ErrorStatus: 403, ErrorMessage: "not allowed to perform cloudwatch:GetMetricData"})
	b.check(config, object).want(1, "not allowed to perform cloudwatch:GetMetricData", "7500m")
	end()
	b.aws.Fault(fakeaws.Fault{Metric: "Visible", Empty: true})
	b.check(object).want(0, "warning", "no data")
}

func TestLiveSaysNoSecret(t *testing.T) {
	b := start(t)
	o := b.run("check", "--live", "--prometheus-url="+strings.Replace(b.prometheus, "//", "//user:hunter2@", 1), "--prometheus-header=X-Token=hunter2",
		file(t, "rules.yaml", rules), file(t, "object.yaml", queueDepth))
	o.want(0, "41500m")
	for _, secret := range []string{"hunter2", b.aws.SecretAccessKey(), b.aws.AccessKeyID()} {
		if strings.Contains(o.out+o.errOut, secret) {
			t.Errorf("a secret is told: %v", o)
		}
	}
}

// The hook of the chart has a flag for the file, and an image without a shell.
func TestCheckOfAConfigurationAlone(t *testing.T) {
	b := &bed{t: t}
	config := file(t, "config.yaml", rules)
	b.run("check", "--config="+config).want(0, "checked 1 configuration in 1 file: 0 errors, 0 warnings")
	b.run("check", config, file(t, "wrong.yaml", "rules:\n- seriesQuery: 'up{'\n")).want(1, "wrong.yaml:2", "rules[0].seriesQuery", "is no series selector")
	b.run("check", config+".missing").want(2, "no such file")
	b.run("check", "--live", "--prometheus-url=ftp://x", config).want(2, "--prometheus-url")
}
