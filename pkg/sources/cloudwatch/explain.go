package cloudwatch

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Input is a GetMetricData call.
type Input struct {
	// Region is empty for the source's own, RoleARN for the source's own identity.
	Region, RoleARN string
	*cloudwatch.GetMetricDataInput
}

// Inputs are the calls with which a Fetch of the queries at that time begins. Queries of
// other sources are left out.
func (c Config) Inputs(queries []sources.Query, now time.Time) []Input {
	own := make([]sources.Query, 0, len(queries))
	for _, q := range queries {
		if q, ok := q.(*Query); ok {
			own = append(own, q)
		}
	}
	var inputs []Input
	for key, group := range newBatch(own, make([]sources.Result, len(own)), c.Region).byClient() {
		for _, call := range pack(group, now, c.Settle) {
			inputs = append(inputs, Input{Region: key.region, RoleARN: key.role, GetMetricDataInput: call.input(call.ids())})
		}
	}
	return inputs
}
