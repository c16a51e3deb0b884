package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)

func TestConstants(t *testing.T) {
	c := newConstants()
	external, err := c.GetExternalMetric(t.Context(), "shop", labels.Everything(), provider.ExternalMetricInfo{Metric: "depth"})
	if err != nil || len(external.Items) != 1 || external.Items[0].MetricName != "depth" {
		t.Errorf("external: got %+v, %v", external, err)
	}
	for selector, want := range map[string]int{"app=pods-100": 100, "app=pods-1": 1, "app=pods": 0, "app=pods-0": 0, "": 0, "app!=pods-5": 0} {
		parsed, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.GetMetricBySelector(t.Context(), "shop", parsed, provider.CustomMetricInfo{Metric: "requests"}, labels.Everything())
		if (err == nil) != (want > 0) || err == nil && len(list.Items) != want {
			t.Errorf("%q: got %+v, %v, want %d items", selector, list, err, want)
		}
		names := map[string]bool{}
		if err == nil {
			for _, item := range list.Items {
				names[item.DescribedObject.Name] = true
			}
		}
		if len(names) != want {
			t.Errorf("%q: %d names, want %d", selector, len(names), want)
		}
	}
}
