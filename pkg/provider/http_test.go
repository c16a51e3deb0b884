package provider

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// newAPI is the API server that serves both providers, as the adapter has it, for
// everybody.
func newAPI(t *testing.T, custom provider.CustomMetricsProvider, external provider.ExternalMetricsProvider) http.Handler {
	t.Helper()
	generic := genericapiserver.NewConfig(apiserver.Codecs)
	generic.ExternalAddress = "127.0.0.1:443"
	generic.LoopbackClientConfig = &rest.Config{}
	generic.SkipOpenAPIInstallation = true
	generic.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(RefuseBadMetricSelectors(h), c)
	}
	config := &apiserver.Config{GenericConfig: generic}
	server, err := config.Complete(nil).New("test", custom, external)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.GenericAPIServer.Destroy)
	return server.GenericAPIServer.Handler
}

// fetch is the status and the body of an answer.
func fetch(t *testing.T, h http.Handler, path string) (int, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, body
}

// fetchInto decodes an answer of 200; of others it gives the code and the message.
func fetchInto(t *testing.T, h http.Handler, path string, into any) string {
	t.Helper()
	code, body := fetch(t, h, path)
	if code == http.StatusOK {
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		if strings.Contains(string(body), `"items":null`) {
			t.Errorf("%s has no list of items: %s", path, body)
		}
		return ""
	}
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil {
		t.Fatalf("%d: %v in %s", code, err, body)
	}
	if int(status.Code) != code {
		t.Errorf("%s answers %d with a status of %d", path, code, status.Code)
	}
	return fmt.Sprint(code, " ", status.Message)
}

// fetchCustom is the answer to a path below the API's version, in one line.
func fetchCustom(t *testing.T, h http.Handler, version, path string) string {
	t.Helper()
	path = "/apis/custom.metrics.k8s.io/" + version + path
	var values []custom_metrics.MetricValue
	if version == "v1beta1" {
		var list v1beta1.MetricValueList
		if failure := fetchInto(t, h, path, &list); failure != "" {
			return failure
		}
		for _, v := range list.Items {
			values = append(values, custom_metrics.MetricValue{
				DescribedObject: objectOf(v.DescribedObject.APIVersion, v.DescribedObject.Kind, v.DescribedObject.Namespace, v.DescribedObject.Name),
				Metric:          custom_metrics.MetricIdentifier{Name: v.MetricName, Selector: v.Selector},
				Timestamp:       v.Timestamp, WindowSeconds: v.WindowSeconds, Value: v.Value,
			})
		}
		return lines(values)
	}
	var list v1beta2.MetricValueList
	if failure := fetchInto(t, h, path, &list); failure != "" {
		return failure
	}
	for _, v := range list.Items {
		values = append(values, custom_metrics.MetricValue{
			DescribedObject: objectOf(v.DescribedObject.APIVersion, v.DescribedObject.Kind, v.DescribedObject.Namespace, v.DescribedObject.Name),
			Metric:          custom_metrics.MetricIdentifier{Name: v.Metric.Name, Selector: v.Metric.Selector},
			Timestamp:       v.Timestamp, WindowSeconds: v.WindowSeconds, Value: v.Value,
		})
	}
	return lines(values)
}

func objectOf(version, kind, namespace, name string) custom_metrics.ObjectReference {
	return custom_metrics.ObjectReference{APIVersion: version, Kind: kind, Namespace: namespace, Name: name}
}

func TestCustomMetricsOverHTTP(t *testing.T) {
	s := newShop()
	api := newAPI(t, s.provider(), NewExternal(withJobs(), fakeEngine{}, fakeExternalPlanner{}, nil))
	for _, tc := range []struct{ path, want string }{
		{
			"/namespaces/shop/pods/*/requests?labelSelector=app%3Dweb",
			"v1 Pod shop/web-1 requests 900m 03:04:00 120 | v1 Pod shop/web-2 requests -7500m 03:04:01 2",
		},
		{
			"/namespaces/shop/pods/*/requests",
			"v1 Pod shop/db-1 requests 4 03:04:00 - | v1 Pod shop/web-1 requests 900m 03:04:00 120 | v1 Pod shop/web-2 requests -7500m 03:04:01 2",
		},
		{"/namespaces/shop/pods/*/requests?labelSelector=app%3Djob", ""},
		{
			"/namespaces/shop/pods/*/requests?labelSelector=app%3Dnone",
			`404 the server could not find the metric requests for pods: no pods in namespace shop match the label selector "app=none"`,
		},
		{"/namespaces/shop/pods/web-1/requests", "v1 Pod shop/web-1 requests 900m 03:04:00 120"},
		{"/namespaces/shop/pod/web-1/requests", "v1 Pod shop/web-1 requests 900m 03:04:00 120"},
		{"/namespaces/shop/services/web/requests", "v1 Service shop/web requests 12 03:04:00 -"},
		{"/namespaces/shop/service/web/requests", "v1 Service shop/web requests 12 03:04:00 -"},
		{"/namespaces/shop/services/idle/requests", "404 the server could not find the metric requests for services idle: there is no sample of it"},
		{"/namespaces/shop/ingresses.networking.k8s.io/web/requests", "networking.k8s.io/v1 Ingress shop/web requests 12 03:04:00 -"},
		{"/nodes/n1/load", "v1 Node /n1 load 250m 03:04:00 -"},
		{"/nodes/*/load", "v1 Node /n1 load 250m 03:04:00 -"},
		{"/persistentvolumes/w/requests", "v1 PersistentVolume /w requests 1 03:04:00 -"},
		{"/widgets.example.com/w/requests", "example.com/v1alpha1 Widget /w requests 1 03:04:00 -"},
		{"/namespaces/shop/metrics/requests", "v1 Namespace /shop requests 30 03:04:00 -"},
		{"/namespaces/shop/metrics/requests?metricLabelSelector=code%3D200", "v1 Namespace /shop requests{code=200} 30 03:04:00 -"},
		{
			"/namespaces/shop/pods/*/requests?labelSelector=app%3Dweb&metricLabelSelector=code%3D200,path+in+(a,b)",
			"v1 Pod shop/web-1 requests{code=200,path in (a,b)} 900m 03:04:00 120 | v1 Pod shop/web-2 requests{code=200,path in (a,b)} -7500m 03:04:01 2",
		},
		{"/namespaces/shop/pods/web-1/nothing", "404 the server could not find the metric nothing for pods: "},
		{"/namespaces/shop/pods/*/nothing", "404 the server could not find the metric nothing for pods: "},
		{"/pods/web-1/requests", "404 the server could not find the metric requests for pods: it is read within a namespace"},
		{"/namespaces/shop/pods/*/requests?labelSelector=%3D%3D", "400 "},
		{"/namespaces/shop/pods/*/requests?metricLabelSelector=%3D%3D", `400 metricLabelSelector "==": `},
		{"/namespaces/shop/pods/web-1/requests?metricLabelSelector=code%3E5", "400 metric requests of pods shop/web-1 (rules[3], line 12, server main): the metric selector cannot be used: "},
	} {
		for _, version := range []string{"v1beta1", "v1beta2"} {
			t.Run(version+tc.path, func(t *testing.T) {
				got := fetchCustom(t, api, version, tc.path)
				if got != tc.want && (tc.want == "" || tc.want[0] != '4' || !strings.HasPrefix(got, tc.want)) {
					t.Errorf("got  %s\nwant %s", got, tc.want)
				}
			})
		}
	}
}

func TestSelectorsReachTheQueryOverHTTP(t *testing.T) {
	s := newShop()
	api := newAPI(t, s.provider(), nil)
	selector := labels.SelectorFromSet(labels.Set{"code": "200"})
	fetchCustom(t, api, "v1beta1", "/namespaces/shop/pods/*/requests?"+url.Values{
		"labelSelector": {"app in (web,db)"}, "metricLabelSelector": {selector.String()},
	}.Encode())
	if want := `requests_total of pods in "shop" [db-1 web-1 web-2 web-3] {code=200}`; s.planner.asked != want {
		t.Errorf("asked for %s, want %s", s.planner.asked, want)
	}
}

func TestDiscoveryOverHTTP(t *testing.T) {
	s := newShop()
	api := newAPI(t, s.provider(), NewExternal(ruledCatalog{fakeCatalog: fakeCatalog{depth: nil}}, fakeEngine{}, nil, nil))
	for path, want := range map[string]string{
		"/apis/custom.metrics.k8s.io/v1beta1": "ingresses.networking.k8s.io/requests true | namespaces/requests false | nodes/load false | " +
			"nodes/requests false | persistentvolumes/requests false | pods/requests true | services/requests true | widgets.example.com/requests false | gadgets.example.com/requests true",
		"/apis/external.metrics.k8s.io/v1beta1": "depth true",
	} {
		var list metav1.APIResourceList
		if failure := fetchInto(t, api, path, &list); failure != "" {
			t.Fatal(failure)
		}
		var got []string
		for _, r := range list.APIResources {
			got = append(got, fmt.Sprint(r.Name, " ", r.Namespaced))
			if !slices.Contains(r.Verbs, "get") {
				t.Errorf("%s cannot be got", r.Name)
			}
		}
		if got := strings.Join(got, " | "); got != want {
			t.Errorf("%s lists\n     %s\nwant %s", path, got, want)
		}
	}
	var v1beta2List metav1.APIResourceList
	if failure := fetchInto(t, api, "/apis/custom.metrics.k8s.io/v1beta2", &v1beta2List); failure != "" || len(v1beta2List.APIResources) != 9 {
		t.Errorf("v1beta2 lists %v %s, want the same 9", v1beta2List.APIResources, failure)
	}
}

func TestExternalMetricsOverHTTP(t *testing.T) {
	jobs := types.NamespacedName{Namespace: "shop", Name: "jobs"}
	for name, tc := range map[string]struct {
		query string
		read  fakeEngine
		want  string
	}{
		"a vector": {
			read: fakeEngine{answer: engine.Answer{Samples: []sources.Sample{
				{Labels: sources.NewLabels("queue", "a"), Value: 1, Time: at, Window: time.Minute},
				{Labels: sources.NewLabels("queue", "b"), Value: 2.5, Time: at},
			}}},
			want: "map[queue:a] 1 60 | map[queue:b] 2500m -",
		},
		"a scalar":             {read: fakeEngine{answer: engine.Answer{Samples: sample(7)}}, want: "map[] 7 -"},
		"an empty vector":      {read: fakeEngine{err: fmt.Errorf("jobs: %w", sources.ErrNoData)}, want: ""},
		"NaN":                  {read: fakeEngine{answer: engine.Answer{Samples: sample(math.NaN())}}, want: "500 external metric shop/jobs (externalRules[2], line 40, server main): "},
		"a malformed selector": {query: "?labelSelector=%3D%3D", want: "400 "},
	} {
		t.Run(name, func(t *testing.T) {
			api := newAPI(t, nil, NewExternal(withJobs(), tc.read, fakeExternalPlanner{}, nil))
			var list external_metrics.ExternalMetricValueList
			got := fetchInto(t, api, "/apis/external.metrics.k8s.io/v1beta1/namespaces/"+jobs.Namespace+"/"+jobs.Name+tc.query, &list)
			var items []string
			for _, v := range list.Items {
				window := "-"
				if v.WindowSeconds != nil {
					window = strconv.FormatInt(*v.WindowSeconds, 10)
				}
				items = append(items, fmt.Sprint(v.MetricLabels, " ", v.Value.String(), " ", window))
			}
			if got += strings.Join(items, " | "); got != tc.want && (tc.want == "" || !strings.HasPrefix(got, tc.want)) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// Clients try again by themselves what was refused for a moment.
func TestRefusedReadsMayBeTriedAgain(t *testing.T) {
	api := newAPI(t, nil, NewExternal(withJobs(), fakeEngine{err: &engine.BusyError{Source: "prometheus"}}, fakeExternalPlanner{}, nil))
	w := httptest.NewRecorder()
	api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/jobs", http.NoBody))
	if after := w.Result().Header.Get("Retry-After"); w.Code != http.StatusTooManyRequests || after != strconv.Itoa(retryAfter) {
		t.Errorf("got %d and Retry-After %q", w.Code, after)
	}
}
