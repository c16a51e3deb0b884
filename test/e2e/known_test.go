package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestKnown asks the adapter what it knows of a metric that an HPA names: as an
// administrator, as whoever may read metrics, as a stranger, and as nobody.
func TestKnown(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.create(s.metric("orders", "Orders"))
	_, err := s.Client().AutoscalingV2().HorizontalPodAutoscalers(s.namespace).Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "worker"},
			MaxReplicas:    10,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "orders"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("30"))},
			}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin := s.client(s.adapter.Config(s.Config()))
	s.eventually("the adapter says what it knows", func(ctx context.Context) error {
		text, err := admin.Get().AbsPath("/debug/metrics-known").Param("namespace", s.namespace).DoRaw(ctx)
		if err != nil {
			return err
		}
		var answer struct {
			Queries []struct {
				Metrics       []struct{ Kind, Namespace, Name string }
				Source, Value string
				Serves        bool
				Fetched, Next time.Time
			}
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return err
		}
		if len(answer.Queries) != 1 {
			return fmt.Errorf("%d queries: %s", len(answer.Queries), text)
		}
		q := answer.Queries[0]
		if q.Value != "95" || !q.Serves || q.Source != "cloudwatch" || len(q.Metrics) != 1 || q.Metrics[0].Name != "orders" || q.Fetched.IsZero() || q.Next.IsZero() {
			return fmt.Errorf("it says %s", text)
		}
		return nil
	})
	stranger, err := s.UserConfig("mallory")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		as   *rest.Config
		code int
	}{
		"who may read metrics": {s.reader(), http.StatusForbidden},
		"a stranger":           {stranger, http.StatusForbidden},
		"nobody":               {rest.AnonymousClientConfig(s.Config()), http.StatusUnauthorized},
	} {
		err := s.client(s.adapter.Config(tc.as)).Get().AbsPath("/debug/metrics-known").Do(t.Context()).Error()
		if err := isError(err, tc.code, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
