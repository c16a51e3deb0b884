package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	customv1beta1 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	custom "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	external "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// shop is a space with metrics of objects of several resources.
type shop struct {
	*space

	// jobs is a metric of pods, depth of a Service, heat of the node, size of the
	// namespace, wear of a volume and speed of a StorageClass.
	jobs, depth, heat, size, wear, speed string
	volume, class                        string
}

const shopNode = "node-0"

// newShop makes the objects and their series. Pod web-2 has no sample.
func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{space: sharedBed(t).newSpace(t)}
	s.jobs, s.depth, s.heat = s.own("jobs"), s.own("depth"), s.own("heat")
	s.size, s.wear, s.speed = s.own("size"), s.own("wear"), s.own("speed")
	s.volume, s.class = s.namespace+"-disk", s.namespace+"-fast"
	s.pendingPods(map[string]string{"app": "web"}, "web-0", "web-1", "web-2")
	s.pendingPods(map[string]string{"app": "other"}, "other-0")
	s.createVolume()
	s.setSeries(
		described(s.jobs, 3, s.here("pod", "web-0", "queue", "fast")),
		described(s.jobs, 2, s.here("pod", "web-0", "queue", "slow")),
		described(s.jobs, 2.5, s.here("pod", "web-1", "queue", "fast")),
		described(s.jobs, 7, s.here("pod", "other-0", "queue", "slow")),
		described(s.depth, 12.5, s.here("service", "checkout")),
		described(s.heat, 61, map[string]string{"node": shopNode}),
		described(s.size, 9, s.here()),
		described(s.wear, 30, map[string]string{"persistentvolume": s.volume}),
		described(s.speed, 4, map[string]string{"storageclass": s.class}),
	)
	s.awaitDescribed(texts{"web-0": "5", "web-1": "2500m", "other-0": "7"}, s.of("pods", "*", s.jobs))
	s.awaitDescribed(texts{s.class: "4"}, "/storageclasses/"+s.class+"/"+s.speed)
	return s
}

// createVolume makes the Service, the volume and the StorageClass.
func (s *shop) createVolume() {
	s.t.Helper()
	ctx, client := s.t.Context(), s.Client()
	_, err := client.CoreV1().Services(s.namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "checkout", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.volume, Labels: map[string]string{"space": s.namespace}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/disk"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: s.class}, Provisioner: "nobody",
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if err := client.CoreV1().PersistentVolumes().Delete(ctx, s.volume, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
		if err := client.StorageV1().StorageClasses().Delete(ctx, s.class, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	})
}

// TestCustomMetricsHTTP has a case for each promise about custom.metrics.k8s.io that
// prometheus-adapter's users rely on.
func TestCustomMetricsHTTP(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, tc := range []struct {
		name string
		test func(s *shop)
	}{
		{"discovery", (*shop).testDiscovery},
		{"both versions", (*shop).testVersions},
		{"wildcard with selectors", (*shop).testWildcard},
		{"by name", (*shop).testByName},
		{"objects without a namespace", (*shop).testRoot},
		{"a resource that the adapter may not list", (*shop).testNoRight},
		{"a wildcard leaves out objects without a sample", (*shop).testLeftOut},
		{"not found", (*shop).testNotFound},
		{"bad selectors", (*shop).testBadSelectors},
		{"the metric selector is echoed", (*shop).testEcho},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			own := *s.space
			own.t = t
			of := *s
			of.space = &own
			tc.test(&of)
		})
	}
}

func (s *shop) testDiscovery() {
	for _, version := range []string{pathV1beta1, pathV1beta2} {
		// A scraped series has the label job too, which the template reads as a Job's name.
		for metric, want := range map[string]map[string]bool{
			s.jobs:  {"pods": true, "namespaces": false, "jobs.batch": true},
			s.depth: {"services": true, "namespaces": false, "jobs.batch": true},
			s.heat:  {"nodes": false, "jobs.batch": false},
			s.size:  {"namespaces": false, "jobs.batch": true},
			s.wear:  {"persistentvolumes": false, "jobs.batch": false},
			s.speed: {"storageclasses.storage.k8s.io": false, "jobs.batch": false},
		} {
			s.awaitDiscovered(version, metric, want)
		}
	}
}

func (s *shop) testVersions() {
	path := s.of("pods", "web-0", s.jobs)
	old, err := read[customv1beta1.MetricValueList](s.t.Context(), s.admin(), pathV1beta1+path)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := read[custom.MetricValueList](s.t.Context(), s.admin(), pathV1beta2+path)
	if err != nil {
		s.t.Fatal(err)
	}
	for kind, got := range map[string]metav1.TypeMeta{"v1beta1": old.TypeMeta, "v1beta2": list.TypeMeta} {
		if want := (metav1.TypeMeta{Kind: "MetricValueList", APIVersion: "custom.metrics.k8s.io/" + kind}); got != want {
			s.t.Errorf("got %v, want %v", got, want)
		}
	}
	if len(old.Items) != 1 || len(list.Items) != 1 {
		s.t.Fatalf("got %v and %v, want one item each", old.Items, list.Items)
	}
	pod := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: s.namespace, Name: "web-0"}
	if got := old.Items[0]; got.DescribedObject != pod || got.MetricName != s.jobs || got.Value.String() != "5" {
		s.t.Errorf("v1beta1 has %+v", got)
	}
	if got := list.Items[0]; got.DescribedObject != pod || got.Metric.Name != s.jobs || got.Metric.Selector != nil || got.Value.String() != "5" {
		s.t.Errorf("v1beta2 has %+v", got)
	}
	for _, at := range []time.Time{old.Items[0].Timestamp.Time, list.Items[0].Timestamp.Time} {
		if age := time.Since(at); age < -time.Second || age > await {
			s.t.Errorf("the value is of %v, %v ago", at, age)
		}
	}
}

func (s *shop) testWildcard() {
	path := s.of("pods", "*", s.jobs)
	for _, tc := range []struct {
		parameters []string
		want       texts
	}{
		{nil, texts{"web-0": "5", "web-1": "2500m", "other-0": "7"}},
		{[]string{"labelSelector", "app=web"}, texts{"web-0": "5", "web-1": "2500m"}},
		{[]string{"labelSelector", "app!=web"}, texts{"other-0": "7"}},
		{[]string{"labelSelector", "app in (web, other), app != other"}, texts{"web-0": "5", "web-1": "2500m"}},
		{[]string{"metricLabelSelector", "queue=slow"}, texts{"web-0": "2", "other-0": "7"}},
		{[]string{"labelSelector", "app=web", "metricLabelSelector", "queue=slow"}, texts{"web-0": "2"}},
		{[]string{"labelSelector", "app=other", "metricLabelSelector", "queue=fast"}, texts{}},
	} {
		s.awaitDescribed(tc.want, path, tc.parameters...)
	}
	for _, resource := range []string{"services", "service"} {
		s.awaitDescribed(texts{"checkout": "12500m"}, s.of(resource, "*", s.depth))
		s.awaitDescribed(texts{"checkout": "12500m"}, s.of(resource, "*", s.depth), "labelSelector", "app=web")
	}
	s.awaitDescribed(texts{"web-0": "5", "web-1": "2500m", "other-0": "7"}, s.of("pod", "*", s.jobs))
}

func (s *shop) testByName() {
	for _, resource := range []string{"pods", "pod"} {
		s.awaitDescribed(texts{"web-0": "5"}, s.of(resource, "web-0", s.jobs))
		s.awaitDescribed(texts{"web-0": "3"}, s.of(resource, "web-0", s.jobs), "metricLabelSelector", "queue=fast")
	}
	for _, resource := range []string{"services", "service"} {
		s.awaitDescribed(texts{"checkout": "12500m"}, s.of(resource, "checkout", s.depth))
	}
}

func (s *shop) testRoot() {
	for _, tc := range []struct {
		path, object, value string
		want                corev1.ObjectReference
	}{
		{"/nodes/" + shopNode + "/" + s.heat, shopNode, "61", corev1.ObjectReference{APIVersion: "v1", Kind: "Node"}},
		{"/namespaces/" + s.namespace + "/metrics/" + s.size, s.namespace, "9", corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace"}},
		{"/persistentvolumes/" + s.volume + "/" + s.wear, s.volume, "30", corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolume"}},
		{"/persistentvolumes/*/" + s.wear, s.volume, "30", corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolume"}},
		{"/storageclasses/" + s.class + "/" + s.speed, s.class, "4", corev1.ObjectReference{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"}},
		{"/storageclasses.storage.k8s.io/" + s.class + "/" + s.speed, s.class, "4", corev1.ObjectReference{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"}},
		// What a namespace has is also the sum of its objects' series.
		{"/namespaces/" + s.namespace + "/metrics/" + s.jobs, s.namespace, "14500m", corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace"}},
	} {
		s.awaitDescribed(texts{tc.object: tc.value}, tc.path)
		items, err := s.described(s.t.Context(), tc.path)
		if err != nil {
			s.t.Fatal(err)
		}
		tc.want.Name = tc.object
		if diff := cmp.Diff(tc.want, items[0].DescribedObject); diff != "" {
			s.t.Errorf("%s describes (-want +got):\n%s", tc.path, diff)
		}
	}
	s.awaitDescribed(texts{s.volume: "30"}, "/persistentvolumes/*/"+s.wear, "labelSelector", "space="+s.namespace)
	s.awaitDescribed(texts{shopNode: "61"}, "/nodes/*/"+s.heat)
}

// The metric is there by name; for a wildcard the adapter would have to list the objects.
func (s *shop) testNoRight() {
	s.awaitRefusal(http.StatusServiceUnavailable, []string{"storageclasses.storage.k8s.io", "forbidden", "list", "watch"}, "/storageclasses/*/"+s.speed)
}

func (s *shop) testLeftOut() {
	path := s.of("pods", "*", s.jobs)
	s.awaitDescribed(texts{"web-0": "5", "web-1": "2500m"}, path, "labelSelector", "app=web")
	// Even if that leaves none.
	text, err := s.raw(s.t.Context(), pathV1beta2+path, url.Values{"labelSelector": {"app=other"}, "metricLabelSelector": {"queue=fast"}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := mentions(text, `"items":[]`); err != nil {
		s.t.Error(err)
	}
}

func (s *shop) testNotFound() {
	const missing = "the server could not find the metric "
	for _, tc := range []struct {
		name, path string
		parameters []string
		words      []string
	}{
		{"no matching object", s.of("pods", "*", s.jobs), []string{"labelSelector", "app=nobody"}, []string{"app=nobody", s.namespace}},
		{"by name without a sample", s.of("pods", "web-2", s.jobs), nil, []string{missing + s.jobs + " for pods web-2", "no sample"}},
		{"by name of no object", s.of("pods", "web-9", s.jobs), nil, []string{missing + s.jobs + " for pods web-9"}},
		{"unknown metric", s.of("pods", "*", "nothing"), nil, []string{missing + "nothing for pods"}},
		{"unknown metric by name", s.of("pods", "web-0", "nothing"), nil, []string{missing + "nothing for pods"}},
		{"unknown metric of nodes", "/nodes/" + shopNode + "/nothing", nil, []string{missing + "nothing for nodes"}},
		{"unknown metric of the namespace", "/namespaces/" + s.namespace + "/metrics/nothing", nil, []string{missing + "nothing for namespaces"}},
		{"of other objects", s.of("services", "*", s.jobs), nil, []string{missing + s.jobs + " for services", "pods"}},
		{"of no resource", s.of("tides", "*", s.jobs), nil, []string{missing + s.jobs + " for tides"}},
		{"of another namespace", "/namespaces/default/pods/web-0/" + s.jobs, nil, []string{missing + s.jobs + " for pods web-0"}},
	} {
		if err := s.refuses(s.t.Context(), http.StatusNotFound, tc.words, tc.path, tc.parameters...); err != nil {
			s.t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func (s *shop) testBadSelectors() {
	for _, version := range []string{pathV1beta1, pathV1beta2} {
		for _, tc := range []struct{ path, parameter, text string }{
			{s.of("pods", "*", s.jobs), "labelSelector", "app in web"},
			{s.of("pods", "*", s.jobs), "labelSelector", "=;"},
			{s.of("pods", "*", s.jobs), "metricLabelSelector", "queue in fast"},
			{s.of("pods", "web-0", s.jobs), "metricLabelSelector", "=;"},
			{"/nodes/*/" + s.heat, "metricLabelSelector", "a b"},
			// PromQL cannot compare labels as numbers, and a selector that is nearly right
			// gives a number that is wrong.
			{s.of("pods", "*", s.jobs), "metricLabelSelector", "queue>5"},
			{s.of("pods", "web-0", s.jobs), "metricLabelSelector", "queue<5"},
		} {
			_, err := read[custom.MetricValueList](s.t.Context(), s.admin(), version+tc.path, tc.parameter, tc.text)
			if err == nil {
				s.t.Errorf("%s%s: %s %q is taken", version, tc.path, tc.parameter, tc.text)
			} else if err := isError(err, http.StatusBadRequest); err != nil {
				s.t.Errorf("%s%s: %s %q: %v", version, tc.path, tc.parameter, tc.text, err)
			}
		}
	}
}

func (s *shop) testEcho() {
	for _, tc := range []struct {
		text string
		want metav1.LabelSelector
	}{
		{"queue=fast", metav1.LabelSelector{MatchLabels: map[string]string{"queue": "fast"}}},
		{"queue in (slow,fast)", metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "queue", Operator: metav1.LabelSelectorOpIn, Values: []string{"fast", "slow"}},
		}}},
		{"queue,queue!=slow", metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "queue", Operator: metav1.LabelSelectorOpExists},
			{Key: "queue", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"slow"}},
		}}},
		{"!color", metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "color", Operator: metav1.LabelSelectorOpDoesNotExist},
		}}},
	} {
		for _, name := range []string{"*", "web-0"} {
			items, err := s.described(s.t.Context(), s.of("pods", name, s.jobs), "metricLabelSelector", tc.text)
			if err != nil {
				s.t.Errorf("%s: %v", tc.text, err)
				continue
			}
			for _, item := range items {
				if diff := cmp.Diff(&tc.want, item.Metric.Selector); diff != "" {
					s.t.Errorf("%s, %s: selector (-want +got):\n%s", name, tc.text, diff)
				}
			}
			if len(items) == 0 {
				s.t.Errorf("%s, %s: no items", name, tc.text)
			}
		}
	}
}

func TestExternalMetricsOfRules(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	depth, elsewhere := s.own("depth"), s.own("elsewhere")
	s.setSeries(
		outside(depth, 12.5, s.here("queue", "fast", "zone", "a")),
		outside(depth, 3, s.here("queue", "slow")),
		outside(depth, 400, map[string]string{"namespace": "somewhere", "queue": "fast"}),
		outside(elsewhere, 1, map[string]string{"namespace": "somewhere"}),
	)
	type item struct{ Name, Queue, Zone, Value string }
	vector := func(ctx context.Context, parameters ...string) ([]item, error) {
		list, err := read[external.ExternalMetricValueList](ctx, s.admin(), metricPath(s.namespace, depth), parameters...)
		var got []item
		for _, i := range list.Items {
			got = append(got, item{i.MetricName, i.MetricLabels["queue"], i.MetricLabels["zone"], i.Value.String()})
		}
		return got, err
	}
	fast, slow := item{depth, "fast", "a", "12500m"}, item{depth, "slow", "", "3"}
	for _, tc := range []struct {
		selector string
		want     []item
	}{
		{"", []item{fast, slow}},
		{"queue=slow", []item{slow}},
		{"!zone", []item{slow}},
		{"zone", []item{fast}},
		{"queue in (fast,slow),queue!=slow", []item{fast}},
		{"queue=none", nil},
	} {
		s.eventually("one item for each element, "+tc.selector, func(ctx context.Context) error {
			var parameters []string
			if tc.selector != "" {
				parameters = []string{"labelSelector", tc.selector}
			}
			got, err := vector(ctx, parameters...)
			if diff := cmp.Diff(tc.want, got); err == nil && diff != "" {
				err = fmt.Errorf("items (-want +got):\n%s", diff)
			}
			return err
		})
	}
	s.eventually("an empty vector", func(ctx context.Context) error {
		text, err := s.raw(ctx, metricPath(s.namespace, elsewhere), nil)
		return first(err, mentions(text, `"items":[]`, `"kind":"ExternalMetricValueList"`))
	})
	for _, selector := range []string{"queue in fast", "queue>5"} {
		_, err := vector(t.Context(), "labelSelector", selector)
		if err := isError(err, http.StatusBadRequest); err != nil {
			t.Errorf("%s: %v", selector, err)
		}
	}
	s.awaitError(s.own("nothing"), http.StatusNotFound, s.own("nothing"), s.namespace)

	s.disturb(promproxy.Fault{Answer: promproxy.Scalar("17.25").Pointer()})
	s.awaitValue(depth, "17250m")
}

// A described value has the sample's time and window, not those of the read.
func TestTimesOfRules(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs, depth := s.own("jobs"), s.own("depth")
	s.pendingPods(nil, "web-0")
	s.setSeries(described(jobs, 5, s.here("pod", "web-0")), outside(depth, 3, s.here()))
	path := s.of("pods", "*", jobs)
	s.awaitDescribed(texts{"web-0": "5"}, path)
	s.awaitValue(depth, "3")

	measured := time.Now().Add(-3 * time.Minute).Truncate(time.Second)
	played := promproxy.Vector(promproxy.Sample{
		Labels: map[string]string{"namespace": s.namespace, "pod": "web-0"}, Value: "8", Time: measured,
	})
	lift := s.disturb(promproxy.Fault{Answer: played.Pointer()})
	s.awaitDescribed(texts{"web-0": "8"}, path)
	s.awaitValue(depth, "8")
	item := s.only(path)
	if !item.Timestamp.Time.Equal(measured) || item.WindowSeconds != nil {
		t.Errorf("timestamp %v and window %v, want %v and none", item.Timestamp, item.WindowSeconds, measured)
	}
	items, err := s.values(t.Context(), depth)
	if err != nil {
		t.Fatal(err)
	}
	if got := items[0]; !got.Timestamp.Time.Equal(measured) || got.WindowSeconds != nil {
		t.Errorf("external: timestamp %v and window %v, want %v and none", got.Timestamp, got.WindowSeconds, measured)
	}
	lift()
	s.awaitDescribed(texts{"web-0": "5"}, path)

	// While Prometheus takes its time the last answer serves at once, and grows old.
	s.disturb(promproxy.Fault{Delay: time.Minute})
	stopped := time.Now().Add(time.Second) // One may have been under way.
	s.eventually("a value of 4 seconds ago", func(ctx context.Context) error {
		asked := time.Now()
		items, err := s.described(ctx, path)
		if err != nil {
			return err
		}
		at := items[0].Timestamp.Time
		if at.After(stopped) {
			t.Errorf("the value is of %v, and Prometheus has said nothing since %v", at, stopped)
		}
		if age := asked.Sub(at); age < 4*time.Second {
			return fmt.Errorf("it is of %v ago", age)
		}
		return nil
	})
}

// only is the one item at a path.
func (s *space) only(path string) custom.MetricValue {
	s.t.Helper()
	items, err := s.described(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(items) != 1 {
		s.t.Fatalf("%s: %d items", path, len(items))
	}
	return items[0]
}

// A rate has the window of its range.
func TestWindowOfARate(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	played := promproxy.Vector(promproxy.Sample{
		Labels: map[string]string{"kubernetes_namespace": s.namespace, "kubernetes_pod_name": "web-0"}, Value: "2.5",
	})
	s.disturb(promproxy.Fault{Answer: played.Pointer()})
	path := s.of("pods", "web-0", "http_requests_per_second")
	s.awaitDescribed(texts{"web-0": "2500m"}, path)
	if got := s.only(path).WindowSeconds; got == nil || *got != 20 {
		t.Errorf("the window is %v, want 20 s", got)
	}
}

func TestPrometheusFails(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs, depth := s.own("jobs"), s.own("depth")
	s.pendingPods(nil, "web-0")
	s.setSeries(described(jobs, 5, s.here("pod", "web-0")), outside(depth, 3, s.here()))
	wildcard, byName := s.of("pods", "*", jobs), s.of("pods", "web-0", jobs)
	s.awaitDescribed(texts{"web-0": "5"}, wildcard)
	s.awaitDescribed(texts{"web-0": "5"}, byName)
	s.awaitValue(depth, "3")

	failed := time.Now().UTC()
	lift := s.disturb(promproxy.Fault{Answer: promproxy.Unavailable().Pointer()})
	words := []string{"prometheus", "has failed since " + failed.Format("2006-01-02T15:"), "last answer as of", "TSDB not ready", `server default`}
	s.awaitRefusal(http.StatusServiceUnavailable, words, wildcard)
	s.awaitRefusal(http.StatusServiceUnavailable, words, byName)
	s.awaitError(depth, http.StatusServiceUnavailable, words...)
	// What was never asked has no earlier answer.
	s.awaitRefusal(http.StatusServiceUnavailable, []string{"no earlier answer", "TSDB not ready"}, byName, "metricLabelSelector", "!queue")
	lift()
	s.awaitDescribed(texts{"web-0": "5"}, wildcard)
	s.awaitValue(depth, "3")

	// A query that Prometheus refuses is nobody's outage.
	s.disturb(promproxy.Fault{Answer: promproxy.ExecutionError().Pointer()})
	s.awaitError(depth, http.StatusInternalServerError, depth, "many-to-many matching not allowed")
	s.awaitRefusal(http.StatusInternalServerError, []string{jobs, "many-to-many matching not allowed"}, byName)
}

// One pod's NaN leaves out that pod, and is never a zero.
func TestNoNumberOfAPod(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs, bad := s.own("jobs"), s.own("bad")
	odd := map[string]float64{"nan": math.NaN(), "inf": math.Inf(1), "minus-inf": math.Inf(-1), "over": 1e300, "limit": 1 << 63}
	series := []player.Series{described(jobs, 0.9, s.here("pod", "good")), described(jobs, -7.5, s.here("pod", "below"))}
	s.pendingPods(nil, "good", "below")
	for name, value := range odd {
		s.pendingPods(nil, name)
		series = append(series, described(jobs, value, s.here("pod", name)), described(bad, value, s.here("pod", name)))
	}
	s.setSeries(series...)
	s.awaitDescribed(texts{"good": "900m", "below": "-7500m"}, s.of("pods", "*", jobs))
	for name, value := range odd {
		s.awaitRefusal(http.StatusInternalServerError, []string{"not a number", fmt.Sprint(value), jobs, name}, s.of("pods", name, jobs))
	}
	// Where no pod is left the error says why.
	s.awaitRefusal(http.StatusInternalServerError, []string{"not a number", bad}, s.of("pods", "*", bad))
}

// An HPA adds up the items of an external metric, so that one NaN spoils all of them.
func TestNoNumberOfARule(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	values := map[string]float64{"nan": math.NaN(), "inf": math.Inf(1), "minus_inf": math.Inf(-1), "over": 1e300, "limit": -math.Ldexp(1, 63)}
	var series []player.Series
	for name, value := range values {
		series = append(series, outside(s.own(name), value, s.here("queue", "bad")), outside(s.own(name), 5, s.here("queue", "good")))
	}
	s.setSeries(series...)
	for name, value := range values {
		metric := s.own(name)
		s.awaitError(metric, http.StatusInternalServerError, "not a number", fmt.Sprint(value), "external_"+metric+`{namespace="`+s.namespace+`"}`)
		s.eventually("the good one", func(ctx context.Context) error {
			text, err := s.raw(ctx, metricPath(s.namespace, metric), url.Values{"labelSelector": {"queue=good"}})
			return first(err, mentions(text, `"value":"5"`))
		})
	}
}

// Five hundred equal reads are a few queries.
func TestReadsAreNotQueries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	const reads = 500
	jobs := s.own("jobs")
	s.pendingPods(nil, "web-0", "web-1")
	s.setSeries(described(jobs, 5, s.here("pod", "web-0")), described(jobs, 6, s.here("pod", "web-1")))
	path, want := s.of("pods", "*", jobs), texts{"web-0": "5", "web-1": "6"}
	s.awaitDescribed(want, path)

	began := time.Now()
	if err := parallelReads(reads, func() error { return s.hasDescribed(t.Context(), want, path) }); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	queries := s.promQueries(began)
	// The rule has its queries asked once a second.
	if most := int(took.Seconds()) + 3; len(queries) > most {
		t.Errorf("%d reads in %v were %d queries, want at most %d", reads, took, len(queries), most)
	}
	t.Logf("%d reads in %v: %d queries", reads, took, len(queries))
	for _, q := range queries {
		if limit, err := time.ParseDuration(q.Timeout); err != nil || limit <= 0 || limit > time.Minute {
			t.Errorf("the timeout of %s is %q", q.Query, q.Timeout)
		}
	}
}

// A query of many pods does not name them.
func TestQueryOfManyPodsIsShort(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	const pods, longest = 150, 300
	jobs := s.own("jobs")
	names, series, want := make([]string, pods), make([]player.Series, pods), texts{}
	for i := range pods {
		names[i] = fmt.Sprintf("checkout-6d4cf56db6-%05d", i)
		series[i] = described(jobs, float64(i), s.here("pod", names[i]))
		want[names[i]] = strconv.Itoa(i)
	}
	s.pendingPods(nil, names...)
	s.setSeries(series...)
	began := time.Now()
	s.awaitDescribed(want, s.of("pods", "*", jobs))
	queries := s.promQueries(began)
	for _, q := range queries {
		if len(q.Query) > longest {
			t.Errorf("a query of %d bytes: %s", len(q.Query), q.Query)
		}
	}
	if len(queries) == 0 {
		t.Error("there was no query")
	}
}

// Rules or not, the adapter counts its calls of Prometheus.
func TestPrometheusSelfMetrics(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.eventually("self-metrics", func(ctx context.Context) error {
		text, err := s.client(s.adapter.Config(s.Config())).Get().AbsPath("/metrics").DoRaw(ctx)
		return first(err, mentions(string(text),
			`tidegauge_prometheus_calls_total{endpoint="series",result="ok",server="default"} `,
			`tidegauge_prometheus_call_duration_seconds_count{endpoint="series",server="default"} `,
			`tidegauge_prometheus_received_bytes_total{endpoint="series",server="default"} `))
	})
}
