package check

import (
	"testing"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// answer is what query prints.
type answer struct {
	Values []struct {
		Object, Metric, Value, Window string
		Labels                        map[string]string
	}
	Sum, MadeBy, Error string
	Asked              []struct {
		Backend, PromQL string
		GetMetricData   struct {
			MetricDataQueries []struct{ ID string }
			StartTime         string
			EndTime           string
		}
	}
}

func TestQueryOfAnExternalMetric(t *testing.T) {
	b := start(t)
	object := file(t, "object.yaml", queueDepth)
	b.run("query", "external", "-f", object).want(0, "queue-depth", "41500m", "1m0s")
	b.run("query", "external", "queue-depth", "-f", object).want(0, "41500m")
	b.run("query", "external", "queue-depth", "-n", "other", "-f", object).want(1, `no external metric "queue-depth" in namespace "other"`)
	b.run("query", "external", "queue-dept", "-n", "shop", "-f", object).want(1, "is it queue-depth that is meant?")

	o := b.run("query", "external", "--explain", "-o", "json", "-f", object)
	o.want(0)
	var a answer
	o.into(&a)
	if len(a.Values) != 1 || a.Values[0].Value != "41500m" || a.MadeBy != "ExternalMetric shop/queue-depth" || len(a.Asked) != 1 {
		t.Fatalf("got %+v", a)
	}
	if in := a.Asked[0].GetMetricData; len(in.MetricDataQueries) != 1 || in.MetricDataQueries[0].ID != "visible" || in.StartTime == "" || in.EndTime == "" {
		t.Errorf("asked %+v", a.Asked[0])
	}

	b.aws.Fault(fakeaws.Fault{Service: "cloudwatch", ErrorCode: "AccessDenied", ErrorStatus: 403, ErrorMessage: "not allowed"})
	b.run("query", "external", "-v", "-f", object).want(1, "not allowed", "Asked CloudWatch", `"MetricName": "Visible"`)
}

func TestQueryOfARule(t *testing.T) {
	b := start(t)
	config := file(t, "rules.yaml", rules)
	query := func(args ...string) *outcome {
		t.Helper()
		return b.run(append([]string{"query"}, append(args, "--config="+config, "--prometheus-url="+b.prometheus)...)...)
	}
	query("external", "jobs_waiting", "-n", "shop", "--selector", "queue=orders", "-v").
		want(0, "[queue:orders]", " 7 ", "Made by externalRules[0] (line 7) of series jobs_waiting", `sum(jobs_waiting{queue="orders"}) by (queue)`, b.prometheus)
	query("external", "jobs_waiting").want(0, "An HPA adds these up to 7500m.")
	query("external", "jobs_waiting", "-l", "queue=none").want(1, "there is no value")
	query("external", "jobs_waitin").want(1, "is it jobs_waiting that is meant?")

	query("custom", "pods/web-0", "http_requests_now", "-n", "shop", "-v").
		want(0, "Pod shop/web-0", "1500m", `sum(http_requests{namespace="shop",pod="web-0"}) by (pod)`)
	query("custom", "namespaces/shop", "http_requests_now").want(0, "Namespace shop", " 4 ")
	query("custom", "pods/web-9", "http_requests_now", "-n", "shop").want(1, "there is no sample of it")
	query("custom", "pods/web-0", "http_request_now", "-n", "shop").want(1, "is it http_requests_now that is meant?")
	query("custom", "rollouts/web", "http_requests_now", "-n", "shop").want(1, "has no resource of that name")
	query("custom", "pods/*", "http_requests_now", "-n", "shop").want(2, "only a cluster knows which pods there are")

	b.prometheus = closed(t)
	query("external", "jobs_waiting").want(1, "connection refused")
}
