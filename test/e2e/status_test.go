package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	measured := time.Now().Add(-time.Minute).Truncate(time.Second)
	s.aws.PutMetric(fakeaws.Metric{
		Region: s.region, Namespace: metricNamespace, Name: "Orders", Value: 95.5, Time: measured, HighResolution: true,
	})
	s.create(s.metric("orders", "Orders"))
	s.scale(worker, 1, "orders")
	s.scale("another", 1, "orders")

	s.eventually("status", func(ctx context.Context) error {
		got, err := s.status(ctx, "orders")
		if err != nil {
			return err
		}
		for _, kind := range []string{metricsaws.ConditionReady, metricsaws.ConditionFresh} {
			if !meta.IsStatusConditionTrue(got.Conditions, kind) {
				return fmt.Errorf("%s is not True: %v", kind, got.Conditions)
			}
		}
		got.Conditions = nil
		want := metricsaws.ExternalMetricStatus{
			ObservedGeneration: 1, Value: "95500m", ValueTime: &metav1.Time{Time: measured}, HPAs: []string{"another", "worker"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("status (-want +got):\n%s", diff)
		}
		return nil
	})

	text := s.kubectl("get", "em", "orders", "-o", "wide")
	header, row, _ := strings.Cut(text, "\n")
	columns := strings.Fields(header)
	if diff := cmp.Diff([]string{"NAME", "READY", "REASON", "VALUE", "MEASURED", "HPAS", "FRESH", "MESSAGE", "AGE"}, columns); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if err := mentions(row, "True", "Available", "95500m", `["another","worker"]`); err != nil {
		t.Error(err)
	}
}

// An object that nobody uses is asked once, so that its author sees whether it works.
func TestStatusOfAnUnusedObject(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.create(s.metric("orders", "Orders"), s.metric("typo", "Ordres"))
	s.awaitCondition("orders", ready("Available"))
	s.awaitCondition("typo", notReady("NoData"), "Ordres")
}
