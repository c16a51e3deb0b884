package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/tidegauge/tidegauge/pkg/catalog"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

type fakeCatalog map[types.NamespacedName]*catalog.Metric

func (c fakeCatalog) External(name types.NamespacedName) *catalog.Metric { return c[name] }

func (c fakeCatalog) ExternalNames() []string {
	var names []string
	for name := range c {
		names = append(names, name.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (fakeCatalog) Ready() error { return nil }

// unreadCatalog has not been able to read the objects.
type unreadCatalog struct{ fakeCatalog }

func (unreadCatalog) Ready() error { return errors.New("ExternalMetrics: forbidden") }

type fakeEngine struct {
	answer engine.Answer
	err    error
}

func (e fakeEngine) Read(context.Context, engine.Request) (engine.Answer, error) {
	return e.answer, e.err
}

// person is the context of a request by somebody who is no HPA controller.
func person(t *testing.T) context.Context {
	t.Helper()
	return request.WithUser(t.Context(), &user.DefaultInfo{Name: "jane"})
}

var (
	depth = types.NamespacedName{Namespace: "shop", Name: "depth"}
	at    = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
)

func TestGetExternalMetric(t *testing.T) {
	two := engine.Answer{Samples: []sources.Sample{
		{Labels: map[string]string{"id": "visible"}, Value: 0.9, Time: at, Window: time.Minute},
		{Labels: map[string]string{"id": "delayed"}, Value: -7.5, Time: at},
	}}
	p := NewExternal(fakeCatalog{depth: {Name: depth}}, fakeEngine{answer: two})
	for selector, want := range map[string]string{
		"":             "depth map[id:visible] 900m 03:04:00 60 | depth map[id:delayed] -7500m 03:04:00 -",
		"id=delayed":   "depth map[id:delayed] -7500m 03:04:00 -",
		"id!=delayed":  "depth map[id:visible] 900m 03:04:00 60",
		"id in (a, b)": `404 external metric shop/depth: no series matches the selector "id in (a,b)"; there are [{id=visible} {id=delayed}]`,
	} {
		t.Run(selector, func(t *testing.T) {
			if got := get(person(t), t, p, depth, selector); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		})
	}
}

func TestGetExternalMetricFails(t *testing.T) {
	away := &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: errors.New("ServiceUnavailable: try later")}
	for _, tc := range []struct {
		name   string
		metric types.NamespacedName
		broken error
		read   fakeEngine
		want   string
	}{
		{
			name: "unknown", metric: types.NamespacedName{Namespace: "shop", Name: "dpeth"},
			want: `404 no external metric "dpeth" in namespace "shop": no ExternalMetric of that name is there`,
		},
		{
			name: "of another namespace", metric: types.NamespacedName{Namespace: "bank", Name: "depth"},
			want: `404 no external metric "depth" in namespace "bank": no ExternalMetric of that name is there`,
		},
		{name: "no data", read: fakeEngine{err: fmt.Errorf("queue jobs: %w", sources.ErrNoData)}, want: "404 external metric shop/depth: queue jobs: no data"},
		{
			name: "backend away", read: fakeEngine{err: away},
			want: "503 external metric shop/depth: source cloudwatch has failed since 2026-01-02T03:04:00Z (no earlier answer): ServiceUnavailable: try later",
		},
		{
			name: "backend slow", read: fakeEngine{err: &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: context.DeadlineExceeded}},
			want: "503 external metric shop/depth: source cloudwatch has failed",
		},
		{
			name: "query refused", read: fakeEngine{err: &engine.UnavailableError{Source: "cloudwatch", Since: at, Err: fmt.Errorf("%w: ValidationError", sources.ErrRejected)}},
			want: "500 external metric shop/depth: source cloudwatch has failed",
		},
		{
			name: "caller left", read: fakeEngine{err: fmt.Errorf("first fetch is under way: %w", context.Canceled)},
			want: "504 external metric shop/depth: first fetch is under way: context canceled",
		},
		{
			name: "NaN", read: fakeEngine{answer: engine.Answer{Samples: []sources.Sample{{Value: math.NaN(), Time: at}}}},
			want: "500 external metric shop/depth: series map[]: not a number that can be served: NaN",
		},
		{name: "cannot be asked", broken: errors.New("spec.queries: there are none"), want: "500 external metric shop/depth: spec.queries: there are none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.metric == (types.NamespacedName{}) {
				tc.metric = depth
			}
			p := NewExternal(fakeCatalog{depth: {Name: depth, Err: tc.broken}}, tc.read)
			if got := get(t.Context(), t, p, tc.metric, ""); !strings.HasPrefix(got, tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestHPAGetsNoNumberThatItMisreads has the same number asked for by what may be an
// HPA controller, which would take it for 0, and by somebody who can read it.
func TestHPAGetsNoNumberThatItMisreads(t *testing.T) {
	p := NewExternal(fakeCatalog{depth: {Name: depth}}, fakeEngine{answer: engine.Answer{
		Samples: []sources.Sample{{Value: 9.1e18, Time: at}},
	}})
	for name, want := range map[string]string{
		"jane":             "9100P",
		"kubernetes-admin": "9100P",
		"system:serviceaccount:kube-system:horizontal-pod-autoscaler":   "an HPA would misread the value 9100P",
		"system:serviceaccount:openshift-infra:hpa-controller":          "an HPA would misread the value 9100P",
		"system:kube-controller-manager":                                "an HPA would misread the value 9100P",
		"system:serviceaccount:autoscaling:an-hpa-controller-of-my-own": "an HPA would misread the value 9100P",
	} {
		ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: name})
		if got := get(ctx, t, p, depth, ""); !strings.Contains(got, want) {
			t.Errorf("%s got %s, want %s", name, got, want)
		}
	}
	if got := get(t.Context(), t, p, depth, ""); !strings.Contains(got, "an HPA would misread the value 9100P") {
		t.Errorf("nobody got %s", got)
	}
}

func TestNotReadyIsNotUnknown(t *testing.T) {
	want := "503 external metric shop/depth: the adapter is not ready: ExternalMetrics: forbidden"
	if got := get(t.Context(), t, NewExternal(unreadCatalog{}, fakeEngine{}), depth, ""); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestListAllExternalMetrics(t *testing.T) {
	other := types.NamespacedName{Namespace: "bank", Name: "depth"}
	p := NewExternal(fakeCatalog{depth: {Name: depth}, other: {Name: other}}, fakeEngine{})
	if got := fmt.Sprint(p.ListAllExternalMetrics()); got != "[{depth}]" {
		t.Errorf("got %s, want each name once", got)
	}
}

// get is the answer as one line: the items, or the error's code and message.
func get(ctx context.Context, t *testing.T, p *External, metric types.NamespacedName, selector string) string {
	t.Helper()
	s, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.GetExternalMetric(ctx, metric.Namespace, s, provider.ExternalMetricInfo{Metric: metric.Name})
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			t.Fatalf("%v is no API error", err)
		}
		return fmt.Sprint(status.Status().Code, " ", status.Status().Message)
	}
	items := make([]string, len(list.Items))
	for i, v := range list.Items {
		window := "-"
		if v.WindowSeconds != nil {
			window = strconv.FormatInt(*v.WindowSeconds, 10)
		}
		items[i] = fmt.Sprint(v.MetricName, " ", v.MetricLabels, " ", v.Value.String(), " ", v.Timestamp.UTC().Format(time.TimeOnly), " ", window)
	}
	return strings.Join(items, " | ")
}
