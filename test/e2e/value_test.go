package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func TestKubectlGetRaw(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	measured := time.Now().Add(-2 * time.Minute).Truncate(time.Minute)
	_, err := s.cloudWatch().PutMetricData(t.Context(), &cloudwatch.PutMetricDataInput{
		Namespace:  aws.String(metricNamespace),
		MetricData: []types.MetricDatum{{MetricName: aws.String("Orders"), Value: aws.Float64(42.5), Timestamp: &measured}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := s.metric("orders-"+s.namespace, "Orders")
	o.Spec.Queries[0].MetricStat.Period = 60
	s.create(o)
	s.awaitValue(o.Name, "42500m")

	var discovery metav1.APIResourceList
	s.unmarshal(s.kubectl("get", "--raw", apiPath), &discovery)
	if !slices.ContainsFunc(discovery.APIResources, func(r metav1.APIResource) bool { return r.Name == o.Name && r.Namespaced }) {
		t.Errorf("discovery does not list %s: %v", o.Name, discovery.APIResources)
	}

	var got v1beta1.ExternalMetricValueList
	s.unmarshal(s.kubectl("get", "--raw", metricPath(s.namespace, o.Name)), &got)
	if len(got.Items) != 1 {
		t.Fatalf("%d items: %v", len(got.Items), got.Items)
	}
	item := got.Items[0]
	if !item.Timestamp.Time.Equal(measured) {
		t.Errorf("the timestamp is %v, want the datapoint's: %v", item.Timestamp, measured)
	}
	item.Timestamp = metav1.Time{}
	value := item.Value.String()
	item.Value.Reset()
	want := v1beta1.ExternalMetricValue{
		MetricName: o.Name, MetricLabels: map[string]string{"id": "m1", "label": "Orders"}, WindowSeconds: new(int64(60)),
	}
	if diff := cmp.Diff(want, item); diff != "" || value != "42500m" {
		t.Errorf("value %s, want 42500m; item (-want +got):\n%s", value, diff)
	}
}

func (s *space) unmarshal(text string, into any) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
}

func TestValuesAreExact(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	tests := []struct {
		value float64
		want  string
	}{
		{0, "0"},
		{0.9, "900m"},
		{-1.5, "-1500m"},
		{-7.5, "-7500m"},
		{0.001, "1m"},
		{0.000_25, "250u"},
		{123_456.789, "123456789m"},
		{95, "95"},
		{1 << 53, "9007199254740992"},
		{9.1e18, "9100P"},
		{-9.1e18, "-9100P"},
	}
	for i, tc := range tests {
		metric := fmt.Sprintf("Value%d", i)
		s.put(metric, tc.value)
		s.create(s.metric(fmt.Sprintf("value-%d", i), metric))
	}
	for i, tc := range tests {
		t.Logf("%v is %s", tc.value, tc.want)
		s.awaitValue(fmt.Sprintf("value-%d", i), tc.want)
	}
}

func TestNoNumberIsAnError(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	for name, value := range map[string]float64{"nan": math.NaN(), "infinite": math.Inf(-1), "over": math.Ldexp(1, 63)} {
		s.put(name, value)
		s.create(s.metric(name, name))
		s.awaitError(name, http.StatusInternalServerError, s.namespace+"/"+name, "not a number", fmt.Sprint(value))
		s.awaitCondition(name, notReady("NotANumber"), fmt.Sprint(value))
		s.warns(s.awaitEvent(name, "NotANumber", fmt.Sprint(value)))
	}
}

// A NaN among several series is no reason to add up the others.
func TestNaNInOneOfSeveralSeries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Returns", 5)
	s.create(s.object("work", query("orders", "Orders"), query("returns", "Returns")))
	s.eventually("two items", func(ctx context.Context) error {
		items, err := s.values(ctx, "work")
		if err == nil && len(items) != 2 {
			err = fmt.Errorf("%d items", len(items))
		}
		return err
	})
	s.fault(fakeaws.Fault{Metric: "Returns", Value: new(fakeaws.Float(math.NaN()))})
	s.awaitError("work", http.StatusInternalServerError, "NaN", "returns")
}

func TestMetricMath(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Workers", 4)
	s.create(
		s.object("load", hidden(query("orders", "Orders")), hidden(query("workers", "Workers")), expression("load", "orders / workers")),
		// The same ids with another meaning, in the same call.
		s.object("swapped", hidden(query("orders", "Workers")), hidden(query("workers", "Orders")), expression("load", "orders - workers")),
	)
	s.awaitValue("load", "23750m")
	s.awaitValue("swapped", "-91")
}

func TestSeveralSeries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Returns", 5)
	named := query("returns", "Returns")
	named.Label = "sent back"
	s.create(s.object("work", query("orders", "Orders"), named))

	type item struct{ ID, Label, Value string }
	want := []item{{"orders", "Orders", "95"}, {"returns", "sent back", "5"}}
	s.eventually("items", func(ctx context.Context) error {
		items, err := s.values(ctx, "work")
		if err != nil {
			return err
		}
		var got []item
		for _, i := range items {
			got = append(got, item{i.MetricLabels["id"], i.MetricLabels["label"], i.Value.String()})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("items (-want +got):\n%s", diff)
		}
		return nil
	})
	var got v1beta1.ExternalMetricValueList
	s.unmarshal(s.kubectl("get", "--raw", metricPath(s.namespace, "work")+"?labelSelector=id%3Dreturns"), &got)
	if len(got.Items) != 1 || got.Items[0].MetricLabels["id"] != "returns" {
		t.Errorf("the selector gives %v", got.Items)
	}
}

// The window of a query has to fit its period: five minutes hold no whole period of five
// minutes.
func TestPeriodOfFiveMinutes(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	const period = 5 * time.Minute
	const settled = 2 * time.Minute // The adapter reads sums of periods that ended that long ago.
	last := time.Now().Add(-settled).Truncate(period).Add(-period)
	for i := range 5 {
		s.aws.PutMetric(fakeaws.Metric{
			Region: s.region, Namespace: metricNamespace, Name: "Orders", Value: 10, Time: last.Add(time.Duration(i) * time.Minute),
		})
	}
	o := s.metric("orders", "Orders")
	o.Spec.Queries[0].MetricStat.Period, o.Spec.Queries[0].MetricStat.Stat = int32(period.Seconds()), "Sum"
	s.create(o)
	s.awaitValue("orders", "50")
	items, err := s.values(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if got := items[0]; !got.Timestamp.Time.Equal(last) || *got.WindowSeconds != int64(period.Seconds()) {
		t.Errorf("timestamp %v and window %d s, want %v and %v", got.Timestamp, *got.WindowSeconds, last, period)
	}
}
