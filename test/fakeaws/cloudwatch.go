package fakeaws

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
)

// Limits of CloudWatch, see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html
// and the references of the operations.
const (
	maxQueries          = 500
	maxDatapoints       = 100_800
	maxDimensions       = 30
	maxDataPerPut       = 1000
	maxValuesPerDatum   = 150
	maxGetBody          = 614_400 // bytes
	maxPutBody          = 1 << 20 // bytes
	maxListed           = 500     // metrics per page
	maxNameLength       = 255
	maxDimensionValue   = 1024
	oldestDatum         = 14 * 24 * time.Hour
	newestDatum         = 2 * time.Hour
	recentlyActiveHours = 3
)

// maxMagnitude bounds the values that PutMetricData takes.
var maxMagnitude = math.Ldexp(1, 360)

func (s *Server) cloudWatch() *service {
	return &service{
		name:        "cloudwatch",
		signingName: "monitoring",
		operations: map[string]operation{
			"GetMetricData": newOperation(maxGetBody, s.getMetricData),
			"ListMetrics":   newOperation(maxPutBody, s.listMetrics),
			"PutMetricData": newOperation(maxPutBody, s.putMetricData),
		},
	}
}

// Metric is one value of a metric, for PutMetric.
type Metric struct {
	// Account and Region are where the metric is; by default DefaultAccount and DefaultRegion.
	Account    string            `json:"account,omitempty"`
	Region     string            `json:"region,omitempty"`
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Dimensions map[string]string `json:"dimensions,omitempty"`
	Unit       string            `json:"unit,omitempty"` // by default None
	Value      Float             `json:"value"`
	// Time is when the value was measured; by default now.
	Time time.Time `json:"time,omitzero"`
	// HighResolution keeps the time to the second and not to the minute.
	HighResolution bool `json:"highResolution,omitempty"`
}

// PutMetric stores values as they are: in any namespace, AWS's own too, NaN and
// the infinities too, none of which PutMetricData takes. Data older than six hours
// is forgotten.
func (s *Server) PutMetric(metrics ...Metric) {
	for _, m := range metrics {
		var dimensions []types.Dimension
		for _, name := range slices.Sorted(maps.Keys(m.Dimensions)) {
			dimensions = append(dimensions, types.Dimension{Name: &name, Value: aws.String(m.Dimensions[name])})
		}
		if m.Time.IsZero() {
			m.Time = s.opts.Now()
		}
		resolution := int64(regular)
		if m.HighResolution {
			resolution = fine
		}
		d := newDatum(m.Namespace, m.Name, dimensions, newBucket(m.Time, resolution, types.StandardUnit(m.Unit)))
		d.bucket.data.add(float64(m.Value), 1)
		s.store.put(scope{cmp.Or(m.Account, s.opts.Account), cmp.Or(m.Region, DefaultRegion)}, d)
	}
}

func newDatum(namespace, name string, dimensions []types.Dimension, b bucket) datum {
	return datum{id: newMetricID(namespace, name, dimensions), dimensions: dimensions, bucket: b}
}

func (s *Server) putMetricData(c *call, in *cloudwatch.PutMetricDataInput) (*cloudwatch.PutMetricDataOutput, error) {
	namespace := aws.ToString(in.Namespace)
	switch {
	case namespace == "":
		return nil, missingParameter("Namespace")
	case strings.HasPrefix(namespace, "AWS/"), strings.HasPrefix(namespace, ":"), len(namespace) > maxNameLength:
		return nil, invalidParameterValue("The value %s for parameter Namespace is invalid.", namespace)
	}
	all := slices.Clone(in.MetricData)
	for _, entity := range in.EntityMetricData {
		all = append(all, entity.MetricData...)
	}
	if len(all) == 0 {
		return nil, missingParameter("MetricData")
	}
	if len(all) > maxDataPerPut {
		return nil, invalidParameterValue("The collection MetricData must not have a size greater than %d.", maxDataPerPut)
	}
	data := make([]datum, 0, len(all))
	for i := range all {
		d, err := parseDatum(namespace, &all[i], fmt.Sprintf("MetricData.member.%d", i+1), s.opts.Now())
		if err != nil {
			return nil, err
		}
		data = append(data, d)
	}
	s.store.put(scope{c.caller.account, c.caller.region}, data...)
	return &cloudwatch.PutMetricDataOutput{}, nil
}

// parseDatum checks a datum and makes it one of the store; path names it in errors.
func parseDatum(namespace string, in *types.MetricDatum, path string, now time.Time) (datum, error) {
	name := aws.ToString(in.MetricName)
	if name == "" {
		return datum{}, missingParameter(path + ".MetricName")
	}
	if err := checkDimensions(in.Dimensions, path); err != nil {
		return datum{}, err
	}
	if in.Unit != "" && !slices.Contains(in.Unit.Values(), in.Unit) {
		return datum{}, invalidParameterValue("The parameter %s.Unit must be a value in the set %v.", path, in.Unit.Values())
	}
	resolution := aws.ToInt32(cmp.Or(in.StorageResolution, aws.Int32(regular)))
	if resolution != fine && resolution != regular {
		return datum{}, invalidParameterValue("The parameter %s.StorageResolution must be a value in the set [ 1, 60 ].", path)
	}
	at := aws.ToTime(cmp.Or(in.Timestamp, &now))
	if at.Before(now.Add(-oldestDatum)) {
		return datum{}, invalidParameterValue("The parameter %s.Timestamp must specify a time no more than two weeks in the past.", path)
	}
	if at.After(now.Add(newestDatum)) {
		return datum{}, invalidParameterValue("The parameter %s.Timestamp must specify a time within two hours of the current time.", path)
	}
	d := newDatum(namespace, name, in.Dimensions, newBucket(at, int64(resolution), in.Unit))
	return d, parseValues(&d.bucket.data, in, path)
}

func checkDimensions(dimensions []types.Dimension, path string) error {
	if len(dimensions) > maxDimensions {
		return invalidParameterValue("The collection %s.Dimensions must not have a size greater than %d.", path, maxDimensions)
	}
	seen := map[string]bool{}
	for i, d := range dimensions {
		name, value := aws.ToString(d.Name), aws.ToString(d.Value)
		at := fmt.Sprintf("%s.Dimensions.member.%d", path, i+1)
		switch {
		case name == "" || len(name) > maxNameLength || strings.HasPrefix(name, ":"):
			return invalidParameterValue("The value %q for parameter %s.Name is invalid.", name, at)
		case strings.TrimSpace(value) == "" || len(value) > maxDimensionValue:
			return invalidParameterValue("The value %q for parameter %s.Value is invalid.", value, at)
		case seen[name]:
			return invalidParameterValue("The parameter %s.Name repeats the dimension %s.", at, name)
		}
		seen[name] = true
	}
	return nil
}

// parseValues takes exactly one of Value, Values and StatisticValues.
func parseValues(into *distribution, in *types.MetricDatum, path string) error {
	given := 0
	for _, is := range []bool{in.Value != nil, len(in.Values) > 0, in.StatisticValues != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return missingParameter(path + ".Value")
	case given > 1:
		return invalidParameterCombination("The parameters %s.Value, %[1]s.Values and %[1]s.StatisticValues are mutually exclusive.", path)
	case in.StatisticValues != nil:
		return parseStatisticSet(into, in.StatisticValues, path+".StatisticValues")
	case in.Value != nil:
		return addValue(into, *in.Value, 1, path+".Value")
	case len(in.Values) > maxValuesPerDatum:
		return invalidParameterValue("The collection %s.Values must not have a size greater than %d.", path, maxValuesPerDatum)
	case len(in.Counts) > 0 && len(in.Counts) != len(in.Values):
		return invalidParameterValue("The parameters %s.Values and %[1]s.Counts must have the same number of members.", path)
	}
	for i, v := range in.Values {
		count := 1.0
		if len(in.Counts) > 0 {
			count = in.Counts[i]
		}
		if !(count > 0) || math.IsInf(count, 0) {
			return invalidParameterValue("The value %v for parameter %s.Counts.member.%d is invalid.", count, path, i+1)
		}
		if err := addValue(into, v, count, fmt.Sprintf("%s.Values.member.%d", path, i+1)); err != nil {
			return err
		}
	}
	return nil
}

func addValue(into *distribution, value, count float64, path string) error {
	if err := checkValue(value, path); err != nil {
		return err
	}
	into.add(value, count)
	return nil
}

func checkValue(value float64, path string) error {
	if math.IsNaN(value) || math.Abs(value) > maxMagnitude {
		return invalidParameterValue("The value %v for parameter %s is invalid.", value, path)
	}
	return nil
}

func parseStatisticSet(into *distribution, in *types.StatisticSet, path string) error {
	fields := []struct {
		name  string
		value *float64
	}{{"Sum", in.Sum}, {"SampleCount", in.SampleCount}, {"Minimum", in.Minimum}, {"Maximum", in.Maximum}}
	for _, f := range fields {
		if f.value == nil {
			return missingParameter(path + "." + f.name)
		}
		if err := checkValue(*f.value, path+"."+f.name); err != nil {
			return err
		}
	}
	if *in.SampleCount <= 0 || *in.Minimum > *in.Maximum {
		return invalidParameterValue("The parameter %s needs a positive SampleCount, and a Minimum that is no more than the Maximum.", path)
	}
	into.addSet(*in.Sum, *in.SampleCount, *in.Minimum, *in.Maximum)
	return nil
}

func (s *Server) listMetrics(c *call, in *cloudwatch.ListMetricsInput) (*cloudwatch.ListMetricsOutput, error) {
	if in.RecentlyActive != "" && in.RecentlyActive != types.RecentlyActivePt3h {
		return nil, validationError("The parameter RecentlyActive must be a value in the set [ PT3H ].")
	}
	from, err := parseListToken(aws.ToString(in.NextToken))
	if err != nil {
		return nil, err
	}
	var found []types.Metric
	for _, m := range s.store.list(scope{c.caller.account, c.caller.region}) {
		if in.RecentlyActive != "" && m.newest < s.opts.Now().Add(-recentlyActiveHours*time.Hour).Unix() {
			continue
		}
		if matchesList(m, in) {
			found = append(found, types.Metric{Namespace: &m.id.namespace, MetricName: &m.id.name, Dimensions: m.dimensions})
		}
	}
	from = min(from, len(found))
	to := min(from+maxListed, len(found))
	out := &cloudwatch.ListMetricsOutput{Metrics: found[from:to]}
	if to < len(found) {
		out.NextToken = aws.String(base64.URLEncoding.EncodeToString([]byte(strconv.Itoa(to))))
	}
	return out, nil
}

func parseListToken(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	text, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		return 0, invalidNextToken()
	}
	from, err := strconv.Atoi(string(text))
	if err != nil || from < 0 {
		return 0, invalidNextToken()
	}
	return from, nil
}

func matchesList(m storedMetric, in *cloudwatch.ListMetricsInput) bool {
	if in.Namespace != nil && *in.Namespace != m.id.namespace || in.MetricName != nil && *in.MetricName != m.id.name {
		return false
	}
	for _, filter := range in.Dimensions {
		matches := func(d types.Dimension) bool {
			return *d.Name == aws.ToString(filter.Name) && (filter.Value == nil || *d.Value == *filter.Value)
		}
		if !slices.ContainsFunc(m.dimensions, matches) {
			return false
		}
	}
	return true
}
