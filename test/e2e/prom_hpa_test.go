package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/player"
)

// The metrics of the rules that prometheus-adapter's users write, of pods as Prometheus
// finds them at the API server.
func TestDiscoveryListsMetricsOfRules(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.deploy(worker, 1, scraped)
	pod := s.podNames(worker, 1)[0]

	const series = `http_requests_total{path="/",kubernetes_namespace=%q,kubernetes_pod_name=%q}`
	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	err := s.prometheus.Await(ctx, fmt.Sprintf(series, s.namespace, pod), func(v model.Vector) error {
		if len(v) != 1 {
			return fmt.Errorf("%d series", len(v))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, version := range []string{pathV1beta1, pathV1beta2} {
		s.eventually("discovery of "+version, func(ctx context.Context) error {
			list, err := read[metav1.APIResourceList](ctx, s.admin(), version)
			if err != nil {
				return err
			}
			for _, metric := range []string{httpRequests, meshRequests} {
				for of, namespaced := range map[string]bool{"pods": true, "namespaces": false} {
					i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == of+"/"+metric })
					if i < 0 {
						return fmt.Errorf("%s/%s is not there", of, metric)
					}
					if r := list.APIResources[i]; r.Namespaced != namespaced || r.Kind != "MetricValueList" {
						return fmt.Errorf("%s is %+v", r.Name, r)
					}
				}
			}
			return nil
		})
	}
	s.awaitDescribed(texts{pod: "1"}, s.of("pods", pod, httpRequests)) // The scrapes.
	s.awaitDescribed(texts{pod: "1"}, s.of("pods", "*", httpRequests))
	s.awaitDescribed(texts{s.namespace: "1"}, "/namespaces/"+s.namespace+"/metrics/"+httpRequests)
}

// A scrape every five seconds is all that comes to an idle pod; five clients with five
// requests per second each are work for three.
func TestHPAFollowsRequests(t *testing.T) {
	t.Parallel()
	b := ownBedScrapedEvery(t, 5*time.Second)
	if err := b.startAdapter(t.Context(), b.withRules()...); err != nil {
		t.Fatal(err)
	}
	s := b.newSpace(t)
	s.deploy(worker, 1, scraped)
	s.createHPA(hpaOf(ofPods(httpRequests, requestsPerPod, nil)))

	s.awaitTargets("200m/10")
	s.awaitReplicas(worker, 1)
	s.requests(requestsOfClients)
	s.awaitHPAEvent("New size: 3; reason: pods metric http_requests_per_second above target")
	s.awaitReplicas(worker, 3)
	s.requests(0)
	s.awaitHPAEvent("New size: 1; reason: All metrics below target")
	s.awaitReplicas(worker, 1)
	s.awaitTargets("200m/10")
}

// The rule of a service mesh has a literal name, and the HPA a metric selector.
func TestHPAFollowsEnvoyRequests(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.deploy(worker, 1, scraped)
	s.createHPA(hpaOf(ofPods(meshRequests, requestsPerPod, matching("envoy_response_code", "200"))))
	s.awaitTargets("0/10") // Envoy does not count the scrapes.
	s.requests(requestsOfClients)
	s.awaitReplicas(worker, 3)
	s.requests(0)
	s.awaitReplicas(worker, 1)
}

// A pod without a sample does nothing, as far as an HPA that scales up knows, and works
// to the full for one that scales down.
func TestHPAOfPodsSelectsSeries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.deploy(worker, 1)
	first := s.podNames(worker, 1)[0]
	s.setSeries(described("jobs", 25, s.here("pod", first, "queue", "orders")), described("jobs", 1000, s.here("pod", first, "queue", "returns")))
	s.createHPA(hpaOf(ofPods("jobs", requestsPerPod, matching("queue", "orders"))))
	s.awaitReplicas(worker, 3)
	s.awaitTargets("25/10")

	var series []player.Series
	for _, pod := range s.podNames(worker, 3) {
		series = append(series, described("jobs", 2, s.here("pod", pod, "queue", "orders")), described("jobs", 1000, s.here("pod", pod, "queue", "returns")))
	}
	s.setSeries(series...)
	s.awaitReplicas(worker, 1)
	s.awaitTargets("2/10")
}

// An average counts for all replicas together. A value is what the replicas are expected
// to bring down, so that it goes on to scale until they have.
func TestHPAOfObjects(t *testing.T) {
	t.Parallel()
	type step struct {
		value    float64
		shows    string
		replicas int32
	}
	for name, tc := range map[string]struct {
		apiVersion, kind, resource, label, spec string
		target                                  autoscalingv2.MetricTarget
		steps                                   []step
	}{
		"service, average": {
			"v1", "Service", "services", "service", "{ports: [{port: 80}]}",
			average(perReplica),
			[]step{{95, "23750m/30", 4}, {300, "30/30", 10}, {12.5, "12500m/30", 1}},
		},
		"service, value": {
			"v1", "Service", "services", "service", "{ports: [{port: 80}]}",
			whole(perReplica),
			[]step{{95, "95/30", 10}, {30, "30/30", 10}, {0.5, "500m/30", 1}},
		},
		"ingress, average": {
			"networking.k8s.io/v1", "Ingress", "ingresses.networking.k8s.io", "ingress", "{defaultBackend: {service: {name: shop, port: {number: 80}}}}",
			average(perReplica),
			[]step{{95, "23750m/30", 4}, {12.5, "12500m/30", 1}},
		},
		"ingress, value": {
			"networking.k8s.io/v1", "Ingress", "ingresses.networking.k8s.io", "ingress", "{defaultBackend: {service: {name: shop, port: {number: 80}}}}",
			whole(perReplica),
			[]step{{31.5, "31500m/30", 1}, {60, "60/30", 10}, {0.5, "500m/30", 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			s.createNamed(tc.apiVersion, tc.kind, "shop", tc.spec)
			s.deploy(worker, 1)
			s.createHPA(hpaOf(ofObject(tc.apiVersion, tc.kind, "shop", "jobs", tc.target)))
			for _, step := range tc.steps {
				// What another object has is no matter of this one.
				s.setSeries(described("jobs", step.value, s.here(tc.label, "shop")), described("jobs", 1000, s.here(tc.label, "other")))
				s.awaitReplicas(worker, step.replicas)
				s.awaitTargets(step.shows)
			}
			items, err := s.described(t.Context(), s.of(tc.resource, "shop", "jobs"))
			if err != nil || len(items) != 1 {
				t.Fatalf("%v, %v", items, err)
			}
			if o := items[0].DescribedObject; o.APIVersion != tc.apiVersion || o.Kind != tc.kind || o.Namespace != s.namespace || o.Name != "shop" {
				t.Errorf("the described object is %+v", o)
			}
		})
	}
}

func TestHPAOfExternalMetrics(t *testing.T) {
	t.Parallel()
	among := func(operator metav1.LabelSelectorOperator, values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "topic", Operator: operator, Values: values}}}
	}
	for name, tc := range map[string]struct {
		selector *metav1.LabelSelector
		target   autoscalingv2.MetricTarget
		replicas int32
	}{
		"all add up":    {nil, average(perReplica), 7},
		"one":           {matching("topic", "orders"), average(perReplica), 4},
		"some":          {among(metav1.LabelSelectorOpIn, "orders", "refunds"), average(perReplica), 5},
		"all but one":   {among(metav1.LabelSelectorOpNotIn, "orders"), average(perReplica), 4},
		"with a label":  {among(metav1.LabelSelectorOpExists), average(perReplica), 6},
		"without it":    {among(metav1.LabelSelectorOpDoesNotExist), average(perReplica), 2},
		"value, at it":  {matching("topic", "refunds"), whole(55), 1},
		"value, beyond": {matching("topic", "refunds"), whole(perReplica), 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			s.setSeries(
				outside("work", 95, s.here("topic", "orders")), outside("work", 55, s.here("topic", "refunds")),
				outside("work", 10, s.here("topic", "returns")), outside("work", 45, s.here()))
			s.deploy(worker, 1)
			s.createHPA(hpaOf(ofAnything("work", tc.target, tc.selector)))
			s.awaitReplicas(worker, tc.replicas)
		})
	}
}
