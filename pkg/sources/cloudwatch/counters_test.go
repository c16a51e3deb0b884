package cloudwatch

import "testing"

// TestDollars compares what a query says that it costs with what its call is counted as.
func TestDollars(t *testing.T) {
	for _, tc := range []struct {
		name    string
		queries []MetricDataQuery
		want    float64
	}{
		{"a metric", []MetricDataQuery{of("m1", "a", "Average", 60)}, 0.00001},
		{"two statistics of one metric", []MetricDataQuery{of("m1", "a", "Average", 60), of("m2", "a", "Sum", 60)}, 0.00002},
		{"math costs nothing more", []MetricDataQuery{of("m1", "a", "Average", 60), of("m2", "b", "Average", 60), math("e1", "m1 + m2")}, 0.00002},
		{"what a search finds only AWS knows", []MetricDataQuery{math("e1", `SUM(SEARCH('{AWS/SQS,QueueName} MetricName="a"', 'Sum', 60))`)}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := mustQuery(t, tc.queries...)
			if got := q.Dollars(); !isNear(got, tc.want) {
				t.Errorf("the query says that it costs %v, want %v", got, tc.want)
			}
			f := &fakeAWS{values: map[string]float64{"a": 1, "b": 2}}
			s := f.source(DefaultConfig())
			s.Fetch(t.Context(), asQueries([]*Query{q}))
			if got := gather(t, s)["tidegauge_cloudwatch_dollars_total{eu-west-1}"]; !isNear(got, tc.want) {
				t.Errorf("its call is counted as %v dollars, want %v", got, tc.want)
			}
		})
	}
}

// TestThousandMetricsCostACent also shows that adding up does not lose any of it.
func TestThousandMetricsCostACent(t *testing.T) {
	f := &fakeAWS{values: map[string]float64{"ApproximateNumberOfMessagesVisible": 4}}
	s := f.source(DefaultConfig())
	for range 10 {
		s.Fetch(t.Context(), asQueries(repeat(500, func(i int) *Query { return pair(t, i) })))
	}
	if got := gather(t, s)["tidegauge_cloudwatch_dollars_total{eu-west-1}"]; !isNear(got, 0.1) {
		t.Errorf("10,000 metrics cost %v dollars, want 0.1", got)
	}
}

func isNear(a, b float64) bool { return a-b < 1e-12 && b-a < 1e-12 }
