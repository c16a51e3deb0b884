package cloudwatch

import (
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestInputsAreTheCallsOfAFetch(t *testing.T) {
	ask := func(region, id string) *Query {
		q, err := NewQuery(Spec{Region: region, Queries: []MetricDataQuery{{
			ID: id, MetricStat: &MetricStat{Metric: Metric{Namespace: "AWS/SQS", MetricName: "Visible"}, Period: 60, Stat: "Average"},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	c := DefaultConfig()
	c.Region = "eu-west-1"
	now := time.Date(2026, 11, 23, 9, 0, 30, 0, time.UTC)
	in := c.Inputs([]sources.Query{ask("", "depth")}, now)
	if len(in) != 1 || in[0].Region != "eu-west-1" || len(in[0].MetricDataQueries) != 1 || *in[0].MetricDataQueries[0].Id != "depth" {
		t.Fatalf("got %+v, want one call of the configuration's region under the object's own id", in)
	}
	if !in[0].EndTime.After(now.Add(-time.Minute)) || !in[0].StartTime.Before(*in[0].EndTime) {
		t.Errorf("the call asks from %v to %v", in[0].StartTime, in[0].EndTime)
	}
	if in := c.Inputs([]sources.Query{ask("", "a"), ask("us-east-1", "b")}, now); len(in) != 2 {
		t.Errorf("two regions are asked in %d calls", len(in))
	}
}
