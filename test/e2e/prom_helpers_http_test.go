package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	custom "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

const (
	pathV1beta1 = "/apis/custom.metrics.k8s.io/v1beta1"
	pathV1beta2 = "/apis/custom.metrics.k8s.io/v1beta2"
	// unscheduled is the scheduler of pods that stay pending, as no scheduler has the name.
	unscheduled = "nobody"
)

// own is a name of a metric that no other test has.
func (s *space) own(name string) string {
	return strings.ReplaceAll(name+"_"+s.namespace, "-", "_")
}

// described is a series of the metric of objects of that name, whose labels name them. Those
// of objects in the test's namespace have the label namespace, too.
func described(metric string, value float64, labels map[string]string) player.Series {
	return player.Series{Name: "e2e_" + metric, Value: model.SampleValue(value), Labels: labels}
}

// outside is a series of the external metric of that name.
func outside(metric string, value float64, labels map[string]string) player.Series {
	return player.Series{Name: "external_" + metric, Value: model.SampleValue(value), Labels: labels}
}

// here are labels that say the namespace of the test, and the others.
func (s *space) here(pairs ...string) map[string]string {
	labels := map[string]string{"namespace": s.namespace}
	for pair := range slices.Chunk(pairs, 2) {
		labels[pair[0]] = pair[1]
	}
	return labels
}

// setSeries puts the series of the test in place of those that it had.
func (s *space) setSeries(series ...player.Series) {
	s.t.Helper()
	if err := s.player.SetSeries(s.namespace, series...); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.player.SetSeries(s.namespace) })
}

// pendingPods creates pods that no node runs, which are objects like others.
func (s *space) pendingPods(labels map[string]string, names ...string) {
	s.t.Helper()
	for _, name := range names {
		_, err := s.Client().CoreV1().Pods(s.namespace).Create(s.t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec: corev1.PodSpec{
				SchedulerName: unscheduled, Containers: []corev1.Container{{Name: "worker", Image: "worker"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// admin is an administrator's client of the API server.
func (s *space) admin() rest.Interface { return s.Client().Discovery().RESTClient() }

// read reads a path with the parameters, which come in pairs, into an object.
func read[T any](ctx context.Context, client rest.Interface, path string, parameters ...string) (T, error) {
	var into T
	request := client.Get().AbsPath(path)
	for pair := range slices.Chunk(parameters, 2) {
		request.Param(pair[0], pair[1])
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil { // Unlike that of Raw it has the server's words.
		return into, err
	}
	text, err := result.Raw()
	if err != nil {
		return into, err
	}
	if err := json.Unmarshal(text, &into); err != nil {
		return into, fmt.Errorf("%s: %w", text, err)
	}
	return into, nil
}

// of is the path, below a version, of a metric of objects of the test's namespace.
func (s *space) of(resource, name, metric string) string {
	return "/namespaces/" + s.namespace + "/" + resource + "/" + name + "/" + metric
}

// described reads what there is at a path below v1beta2.
func (s *space) described(ctx context.Context, path string, parameters ...string) ([]custom.MetricValue, error) {
	list, err := read[custom.MetricValueList](ctx, s.admin(), pathV1beta2+path, parameters...)
	return list.Items, err
}

// texts are values by the name of the object, as the API writes them.
type texts map[string]string

func textsOf(items []custom.MetricValue) texts {
	values := texts{}
	for _, item := range items {
		values[item.DescribedObject.Name] = item.Value.String()
	}
	return values
}

// hasDescribed is nil if a path has exactly the values.
func (s *space) hasDescribed(ctx context.Context, want texts, path string, parameters ...string) error {
	items, err := s.described(ctx, path, parameters...)
	if err != nil {
		return err
	}
	if got := textsOf(items); !maps.Equal(got, want) || len(items) != len(want) {
		return fmt.Errorf("%s %q: got %v in %d items, want %v", path, parameters, got, len(items), want)
	}
	return nil
}

// awaitDescribed waits until a path has exactly the values.
func (s *space) awaitDescribed(want texts, path string, parameters ...string) {
	s.t.Helper()
	s.eventually(path, func(ctx context.Context) error { return s.hasDescribed(ctx, want, path, parameters...) })
}

// awaitRefusal waits until a read of a path fails with the code and the words.
func (s *space) awaitRefusal(code int, words []string, path string, parameters ...string) {
	s.t.Helper()
	s.eventually(path, func(ctx context.Context) error { return s.refuses(ctx, code, words, path, parameters...) })
}

func (s *space) refuses(ctx context.Context, code int, words []string, path string, parameters ...string) error {
	items, err := s.described(ctx, path, parameters...)
	if err == nil {
		return fmt.Errorf("%s %q: got %v, want an error", path, parameters, textsOf(items))
	}
	return isError(err, code, words...)
}

// disturb plays a fault for the queries that name the test's namespace or one of its own
// metrics, and so for no other test's.
func (s *space) disturb(f promproxy.Fault) (lift func()) {
	f.Endpoint = promproxy.Query
	f.Query = s.mine()
	lift = s.proxy.Fault(f)
	s.t.Cleanup(lift)
	return lift
}

func (s *space) mine() *regexp.Regexp {
	return regexp.MustCompile(`"` + regexp.QuoteMeta(s.namespace) + `"|` + regexp.QuoteMeta(s.own("")) + `\b`)
}

// promQueries are the queries of the test that Prometheus got since a time.
func (s *space) promQueries(since time.Time) []promproxy.Call {
	return slices.DeleteFunc(s.proxy.Calls(promproxy.Query), func(c promproxy.Call) bool {
		return c.Time.Before(since) || !s.mine().MatchString(c.Query)
	})
}

// discovered are the names of discovery at a version of custom.metrics.k8s.io, and whether
// they are namespaced.
func (s *space) discovered(ctx context.Context, version string) (map[string]bool, error) {
	list, err := read[metav1.APIResourceList](ctx, s.admin(), version)
	if err != nil {
		return nil, err
	}
	if want := strings.TrimPrefix(version, "/apis/"); list.GroupVersion != want || list.Kind != "APIResourceList" {
		return nil, fmt.Errorf("discovery is a %s of %s, want an APIResourceList of %s", list.Kind, list.GroupVersion, want)
	}
	names := map[string]bool{}
	for _, r := range list.APIResources {
		if _, twice := names[r.Name]; twice {
			return nil, fmt.Errorf("discovery lists %s twice", r.Name)
		}
		if !slices.Equal(r.Verbs, metav1.Verbs{"get"}) {
			return nil, fmt.Errorf("discovery lists %s with the verbs %v", r.Name, r.Verbs)
		}
		names[r.Name] = r.Namespaced
	}
	return names, nil
}

// awaitDiscovered waits until discovery has exactly these resources of a metric.
func (s *space) awaitDiscovered(version, metric string, want map[string]bool) {
	s.t.Helper()
	s.eventually("discovery", func(ctx context.Context) error {
		names, err := s.discovered(ctx, version)
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for name, namespaced := range names {
			if resource, ok := strings.CutSuffix(name, "/"+metric); ok {
				got[resource] = namespaced
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("%s: %s is listed for %v, want %v", version, metric, got, want)
		}
		return nil
	})
}

// first is the first of several errors.
func first(errs ...error) error { return cmp.Or(errs...) }

// raw is what kubectl prints for a path with parameters, or its error.
func (s *space) raw(ctx context.Context, path string, parameters url.Values) (string, error) {
	if len(parameters) > 0 {
		path += "?" + parameters.Encode()
	}
	return s.runKubectl(ctx, "get", "--raw", path)
}

// parallelReads runs a read n times, ten at once, and gives the errors.
func parallelReads(n int, once func() error) error {
	work, failed := make(chan struct{}), make(chan error, n)
	done := make(chan struct{})
	for range 10 {
		go func() {
			for range work {
				failed <- once()
			}
			done <- struct{}{}
		}()
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range 10 {
		<-done
	}
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
