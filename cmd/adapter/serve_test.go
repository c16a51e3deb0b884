package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources/builtin"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// server is a Prometheus server that answers every query with that value.
func server(t *testing.T, value string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,"%s"]}]}}`, time.Now().Unix(), value)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func configuration(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newTestAdapter is an adapter whose engine runs until the test is over.
func newTestAdapter(t *testing.T, c *config.Config) *adapter {
	t.Helper()
	backends, err := builtin.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	custom := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[k8sschema.GroupVersionResource]string{metricsaws.Resource: "ExternalMetricList"})
	a, err := newAdapter(&options{}, c, backends, &clients{
		kube: kubefake.NewClientset(), custom: custom, metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()),
	}, "tidegauge-system")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = a.engine.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return a
}

func TestTroublesOfOneCauseAreToldTogether(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	trouble := func(rule, server, text string, known bool, after time.Duration) catalog.RuleTrouble {
		return catalog.RuleTrouble{Rule: rule, Where: "line 5", Server: server, Since: since.Add(after), Known: known, Err: errors.New(text)}
	}
	many := make([]catalog.RuleTrouble, 12)
	for i := range many {
		many[i] = trouble(fmt.Sprintf("rules[%d]", i), "main", "refused", true, 0)
	}
	for name, tc := range map[string]struct {
		rules []catalog.RuleTrouble
		want  string
	}{
		"none": {nil, "<nil>"},
		"one":  {[]catalog.RuleTrouble{trouble("rules[0]", "main", "refused", true, 0)}, "rules[0] (line 5): refused (since 2026-01-02T03:04:05Z)"},
		"one cause": {
			[]catalog.RuleTrouble{trouble("rules[0]", "main", "refused", true, time.Second), trouble("rules[2]", "main", "refused", true, 0), trouble("externalRules[0]", "main", "refused", true, time.Minute)},
			"rules[0], rules[2], externalRules[0]: refused (since 2026-01-02T03:04:05Z)",
		},
		"other causes and servers": {
			[]catalog.RuleTrouble{trouble("rules[0]", "main", "refused", true, 0), trouble("rules[1]", "other", "refused", true, 0), trouble("rules[2]", "main", "slow", true, 0)},
			"rules[0] (line 5): refused (since 2026-01-02T03:04:05Z); rules[1] (line 5): refused (since 2026-01-02T03:04:05Z); rules[2] (line 5): slow (since 2026-01-02T03:04:05Z)",
		},
		"nothing known": {
			[]catalog.RuleTrouble{trouble("rules[0]", "main", "refused", false, 0), trouble("rules[1]", "main", "refused", false, 0)},
			"rules[0], rules[1]: refused (since 2026-01-02T03:04:05Z; nothing is known of them yet)",
		},
		"many": {many, "rules[0], rules[1], rules[2], rules[3], rules[4], rules[5], rules[6], rules[7], rules[8], rules[9] and 2 more: refused (since 2026-01-02T03:04:05Z)"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(troubles(tc.rules)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestApplyForgetsTheServerOfBefore has a server's name stand for another server, and then a
// configuration that cannot be put in force.
func TestApplyForgetsTheServerOfBefore(t *testing.T) {
	const file = `
prometheus: {servers: {default: {url: "%s"%s}}}
rules:
- seriesQuery: '%s{namespace!=""}'
  resources: {template: "<<.Resource>>"}
  metricsQuery: 'sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)'
`
	a := newTestAdapter(t, configuration(t, fmt.Sprintf(file, server(t, "1"), "", "old")))
	read := func() string {
		t.Helper()
		answer, err := a.engine.Read(t.Context(), engine.Request{
			Source: builtin.Prometheus, Query: prometheus.NewQuery("default", "up", 0), Interval: time.Minute, MaxAge: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer.Samples[0].Value)
	}
	if got := read(); got != "1" {
		t.Fatalf("got %s", got)
	}
	now := server(t, "2")
	if err := a.apply(t.Context(), configuration(t, fmt.Sprintf(file, now, "", "new"))); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "2" {
		t.Errorf("got %s from the server of before", got)
	}
	bad := configuration(t, fmt.Sprintf(file, now, `, kubeconfig: "/does/not/exist"`, "newer"))
	bad.MaxAge = 7 * time.Hour
	if err := a.apply(t.Context(), bad); err == nil {
		t.Fatal("it is in force")
	}
	if got := time.Duration(a.maxAge.Load()); got == bad.MaxAge {
		t.Error("a part of it is in force")
	}
}
