package player

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
)

func started(t *testing.T) *Player {
	t.Helper()
	p, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func do(ctx context.Context, t *testing.T, method, url, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func TestControl(t *testing.T) {
	p := started(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		words              string
	}{
		{"PUT", "/_control/requests", `[{"namespace":"shop","workload":"web","perSecond":25},{"namespace":"shop","pod":"a","perSecond":1}]`, 204, ""},
		{"GET", "/shop/web-0/metrics", "", 200, "# TYPE http_requests_total counter"},
		{"GET", "/_control/requests", "", 200, `[{"namespace":"shop","pod":"a","perSecond":1,"pods":0},{"namespace":"shop","workload":"web","perSecond":25,"pods":1}]`},
		{"PUT", "/_control/requests", `[{"namespace":"shop","workload":"web"}]`, 204, ""},
		{"GET", "/_control/requests", "", 200, `[{"namespace":"shop","pod":"a","perSecond":1,"pods":0}]`},
		{"PUT", "/_control/requests", `[{"namespace":"shop","workload":"web","rate":25}]`, 400, `unknown field "rate"`},
		{"PUT", "/_control/requests", `[{"namespace":"shop","perSecond":25}]`, 400, "in namespace shop: either a workload or a pod"},
		{"PUT", "/_control/requests", `[{"namespace":"shop","workload":"web","pod":"web-0","perSecond":25}]`, 400, "either a workload or a pod"},
		{"PUT", "/_control/requests", `[{"workload":"web","perSecond":25}]`, 400, "namespace is missing"},
		{"PUT", "/_control/requests", `[{"namespace":"shop","workload":"web","perSecond":-1}]`, 400, "perSecond is -1, want 0 or more"},
		{"PUT", "/_control/requests", `{}`, 400, "cannot unmarshal object"},
		{"PUT", "/_control/usage", `[{"node":"node-0","cores":0.5,"bytes":1e9},{"namespace":"shop","workload":"web","cores":1}]`, 204, ""},
		{"GET", "/cadvisor/metrics", "", 200, `container_memory_working_set_bytes{id="/",node="node-0"} 1e+09`},
		{"GET", "/cadvisor/metrics?pod=a", "", 400, "namespace, pod and container have to be given together"},
		{"PUT", "/_control/usage", `[{"node":"node-0","pod":"a"}]`, 400, "node node-0: a node has no namespace"},
		{"PUT", "/_control/usage", `[{"node":"node-0","cores":-0.5}]`, 400, "cores is -0.5"},
		{"PUT", "/_control/usage", `[{"namespace":"shop","cores":1}]`, 400, "either a workload or a pod"},
		{"PUT", "/_control/series/a", `[{"name":"depth","labels":{"queue":"jobs"},"value":"NaN"},{"name":"up_total","counter":true,"perSecond":2}]`, 204, ""},
		{"GET", "/extra/metrics", "", 200, `depth{queue="jobs"} NaN`},
		{"PUT", "/_control/series/b", `[{"name":"depth","labels":{"queue":"jobs","x":""}}]`, 400, `depth{queue="jobs"} is in set a already`},
		{"PUT", "/_control/series/b", `[{"name":"d"},{"name":"d"}]`, 400, "set b: d is there twice"},
		{"PUT", "/_control/series/b", `[{"name":""}]`, 400, `"" is no name of a metric`},
		{"PUT", "/_control/series/b", `[{"name":"d","labels":{"__name__":"e"}}]`, 400, `d: "__name__" is no name of a label`},
		{"PUT", "/_control/series/b", `[{"name":"d","perSecond":1}]`, 400, "d: perSecond is for counters"},
		{"PUT", "/_control/series/b", `[{"name":"d","value":7}]`, 400, "quoted string"},
		{"DELETE", "/_control/series/a", "", 204, ""},
		{"GET", "/extra/metrics", "", 200, ""},
		{"POST", "/_control/requests", "", 405, ""},
		{"GET", "/metrics", "", 404, ""},
	} {
		status, text := do(t.Context(), t, test.method, p.URL()+test.path, test.body)
		if status != test.status || !strings.Contains(text, test.words) {
			t.Errorf("%s %s %s\nanswers %d %s\nwant    %d %s", test.method, test.path, test.body, status, text, test.status, test.words)
		}
	}
}

func TestClient(t *testing.T) {
	p := started(t)
	c := Client{URL: p.URL()}
	ok(t, c.SetRequests(t.Context(), Requests{Namespace: "shop", Workload: "web", PerSecond: 25}))
	ok(t, c.SetUsage(t.Context(), Usage{Node: "node-0", Bytes: 7}))
	ok(t, c.SetSeries(t.Context(), "a b/c", Series{Name: "odd", Labels: map[string]string{"x": "\"\\\n"}, Value: model.SampleValue(math.Inf(-1))}))
	equal(t, "series", get(t, p, "/extra/metrics"), map[string]float64{`odd{x="\"\\\n"}`: math.Inf(-1)})
	ok(t, c.SetSeries(t.Context(), "a b/c"))
	equal(t, "no series", get(t, p, "/extra/metrics"), map[string]float64{})
	equal(t, "node", get(t, p, "/cadvisor/metrics")[`container_memory_working_set_bytes{id="/",node="node-0"}`], 7.0)
	var list []shared
	_, text := do(t.Context(), t, http.MethodGet, p.URL()+"/_control/requests", "")
	ok(t, json.Unmarshal([]byte(text), &list))
	equal(t, "requests", list, []shared{{Requests: Requests{Namespace: "shop", Workload: "web", PerSecond: 25}}})

	err := c.SetRequests(t.Context(), Requests{Namespace: "shop"})
	if err == nil || !strings.Contains(err.Error(), "400 Bad Request: requests: in namespace shop: either") {
		t.Errorf("requests of nobody: %v", err)
	}
	p.Close()
	if err := c.SetUsage(t.Context()); err == nil {
		t.Error("a player that is closed answers")
	}
}
