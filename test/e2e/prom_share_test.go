package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegauge/tidegauge/test/player"
	"github.com/tidegauge/tidegauge/test/promproxy"
)

// shareInterval is how often the rules of this file are asked.
const shareInterval = 2 * time.Second

// shareRules have one rule whose queries may be shared, the same with sharing switched
// off, and one of which pkg/rules says that it cannot be shared.
const shareRules = `
rules:
- seriesQuery: shared
  resources: {template: <<.Resource>>}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 2s
- seriesQuery: exact
  resources: {template: <<.Resource>>}
  metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
  interval: 2s
  shareQueries: false
- seriesQuery: portion
  resources: {template: <<.Resource>>}
  metricsQuery: <<.Series>>{<<.LabelMatchers>>} / scalar(max(<<.Series>>{<<.LabelMatchers>>}))
  interval: 2s
`

// Thirty HPAs of three namespaces on one rule are three queries per interval. Where a
// rule is not shared, each HPA has the query that the rule says.
func TestHPAsShareQueries(t *testing.T) {
	t.Parallel()
	const (
		namespaces = 3
		hpas       = 10 // in each
		intervals  = 5
	)
	b := ownRules(t, os.Getenv(adapterVariable), shareRules)
	spaces := make([]*space, namespaces)
	pods := make([]map[string]string, namespaces) // by the Deployment
	for i := range spaces {
		spaces[i] = b.newSpace(t)
		for j := range hpas {
			spaces[i].deploy(fmt.Sprintf("worker-%d", j), 1)
		}
	}
	for i, s := range spaces {
		pods[i] = s.onePodEach(hpas)
		s.playShares(pods[i])
	}
	var queries []string
	for i, s := range spaces {
		queries = append(queries, fmt.Sprintf(`sum(shared{namespace=%q,pod!=""}) by (pod)`, s.namespace))
		for _, pod := range pods[i] {
			selector := fmt.Sprintf(`{namespace=%q,pod=%q}`, s.namespace, pod)
			queries = append(queries, "sum(exact"+selector+") by (pod)", "portion"+selector+" / scalar(max(portion"+selector+"))")
		}
		s.scaleEach(hpas)
	}
	awaitValues := func() {
		for _, s := range spaces {
			// A portion is one of the largest that the HPA asks for.
			s.awaitEach(hpas, map[string]string{"shared": "30", "exact": "30", "portion": "1"})
		}
	}
	awaitValues()
	// The first reads of HPAs that have just been created may come before the adapter has
	// heard of these. One that starts knows them all.
	if err := b.adapter.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	awaitValues()
	spaces[0].awaitQueries(queries, began, intervals)
}

// onePodEach waits for the pods of the space's Deployments, and gives them by the Deployment.
func (s *space) onePodEach(want int) map[string]string {
	s.t.Helper()
	pods := map[string]string{}
	s.eventually("pods", func(ctx context.Context) error {
		list, err := s.Client().CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			pods[p.Labels["app"]] = p.Name
		}
		if len(pods) != want {
			return fmt.Errorf("%d Deployments have a pod, want %d", len(pods), want)
		}
		return nil
	})
	return pods
}

// playShares has the series of shareRules for the pods, which have different portions.
func (s *space) playShares(pods map[string]string) {
	s.t.Helper()
	var series []player.Series
	for i, workload := range slices.Sorted(maps.Keys(pods)) {
		labels := map[string]string{"namespace": s.namespace, "pod": pods[workload]}
		for name, value := range map[string]float64{"shared": 30, "exact": 30, "portion": float64(1 + i)} {
			series = append(series, player.Series{Name: name, Labels: labels, Value: model.SampleValue(value)})
		}
	}
	if err := s.player.SetSeries(s.namespace, series...); err != nil {
		s.t.Fatal(err)
	}
}

// scaleEach has an HPA for each of the space's Deployments, which scales it by the metrics of
// shareRules.
func (s *space) scaleEach(n int) {
	s.t.Helper()
	for i := range n {
		hpa := autoscaler(fmt.Sprintf("worker-%d", i), 1, "")
		hpa.Spec.MaxReplicas = 1
		target := hpa.Spec.Metrics[0].External.Target
		hpa.Spec.Metrics = nil
		for _, metric := range []string{"shared", "exact", "portion"} {
			hpa.Spec.Metrics = append(hpa.Spec.Metrics, autoscalingv2.MetricSpec{
				Type: autoscalingv2.PodsMetricSourceType,
				Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: metric}, Target: target},
			})
		}
		s.createHPA(hpa)
	}
}

// awaitEach waits until each HPA of the space has read the values of its metrics, and
// could the last time that it looked.
func (s *space) awaitEach(n int, want map[string]string) {
	s.t.Helper()
	s.eventually("HPAs", func(ctx context.Context) error {
		list, err := s.Client().AutoscalingV2().HorizontalPodAutoscalers(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != n {
			return fmt.Errorf("%d HPAs, want %d", len(list.Items), n)
		}
		for _, hpa := range list.Items {
			got := map[string]string{}
			for _, m := range hpa.Status.CurrentMetrics {
				if m.Pods != nil {
					got[m.Pods.Metric.Name] = m.Pods.Current.AverageValue.String()
				}
			}
			if !maps.Equal(got, want) {
				return fmt.Errorf("HPA %s has read %v, want %v", hpa.Name, got, want)
			}
			if err := scalingActive(&hpa); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitQueries waits until an adapter that started then was asking for several intervals, and
// fails the test unless it asked exactly the queries, each once in an interval.
func (s *space) awaitQueries(want []string, began time.Time, intervals int) {
	s.t.Helper()
	var passed time.Duration
	s.eventually("intervals", func(context.Context) error {
		if passed = time.Since(began); passed < time.Duration(intervals)*shareInterval {
			return fmt.Errorf("only %v have passed", passed)
		}
		return nil
	})
	asked := map[string]int{}
	for _, c := range s.proxy.Calls(promproxy.Query) {
		if c.Time.After(began) {
			asked[c.Query]++
		}
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(asked)); !slices.Equal(got, want) {
		s.t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	limit := int(passed/shareInterval) + 1
	for query, n := range asked {
		if n > limit || n < 2 {
			s.t.Errorf("%s was asked %d times in %v, want once in %v", query, n, passed, shareInterval)
		}
	}
}
