package cloudwatch

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"

	"github.com/tidegauge/tidegauge/internal/heap"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// manyQueries is how many queries and answers are held while their memory is measured.
const manyQueries = 10_000

// decoded is a spec as an API server gives it: none of its texts is that of another one.
func decoded(tb testing.TB, i int) Spec {
	tb.Helper()
	raw, err := json.Marshal(Spec{
		Region: "eu-west-1", RoleARN: "arn:aws:iam::123456789012:role/reader",
		Queries: []MetricDataQuery{depth("depth", fmt.Sprint("jobs-depth-", i))},
	})
	if err != nil {
		tb.Fatal(err)
	}
	var spec Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		tb.Fatal(err)
	}
	return spec
}

// BenchmarkMemory says how many bytes of memory a query of one metric takes, and its answer.
func BenchmarkMemory(b *testing.B) {
	b.Run("queries", func(b *testing.B) {
		var bytes uint64
		for b.Loop() {
			queries := make([]*Query, manyQueries)
			before := heap.InUse()
			for i := range queries {
				queries[i] = mustSpec(b, decoded(b, i))
			}
			bytes = heap.InUse() - before
			runtime.KeepAlive(queries)
		}
		b.ReportMetric(float64(bytes)/manyQueries, "B/query")
	})
	b.Run("answers", func(b *testing.B) {
		queries := repeat(manyQueries, func(i int) *Query { return mustSpec(b, decoded(b, i)) })
		var bytes uint64
		for b.Loop() {
			before := heap.InUse()
			results := make([]sources.Result, 0, manyQueries)
			for _, c := range packAt(answeredAt, queries...) {
				results = append(results, answered1(c)...)
			}
			bytes = heap.InUse() - before - manyQueries*40 // The results' own places.
			runtime.KeepAlive(results)
		}
		b.ReportMetric(float64(bytes)/manyQueries, "B/answer")
	})
}

// answered1 are the results of a call whose metrics all have the value 1.
func answered1(c *call) []sources.Result {
	ids := c.ids()
	page := &cloudwatch.GetMetricDataOutput{}
	for i, q := range c.queries {
		label := []byte(q.data[0].MetricStat.Metric.MetricName)
		page.MetricDataResults = append(page.MetricDataResults, result(ids[i][0], string(label), 1))
	}
	a := &answer{series: make(map[string][]*series)}
	a.add(page)
	return c.results(a, ids)
}
