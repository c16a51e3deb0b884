package catalog

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

var since = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

func answered(values ...float64) engine.State {
	s := engine.State{InDemand: true, Answer: engine.Answer{Fetched: since}}
	for _, v := range values {
		s.Answer.Samples = append(s.Answer.Samples, sources.Sample{Value: v, Time: since.Add(-time.Minute)})
	}
	return s
}

func failing(s engine.State, err error) engine.State {
	s.Err, s.Since = err, since
	return s
}

func unreadable(s engine.State, err error) engine.State {
	s.ReadErr = err
	return s
}

func noData(s engine.State) engine.State {
	return unreadable(s, sources.ErrNoData)
}

func TestStatus(t *testing.T) {
	throttled := errors.New("ThrottlingException: Rate exceeded")
	rejected := fmt.Errorf("%w: ValidationError: bad expression", sources.ErrRejected)
	away := &engine.UnavailableError{Source: "cloudwatch", Since: since, Err: throttled}
	for _, tc := range []struct {
		name  string
		know  knowledge
		ready string
		fresh string
		value string
	}{
		{
			name: "a value", know: knowledge{known: true, state: answered(0.9)},
			ready: "True Available the metric has a value", fresh: "True Answered", value: "900m",
		},
		{
			name: "items are added up, as an HPA does", know: knowledge{known: true, state: answered(1, 2.5)},
			ready: "True Available", fresh: "True Answered", value: "3500m",
		},
		{
			name: "the last good value while the backend fails", know: knowledge{known: true, state: failing(answered(7), throttled)},
			ready: "True Available", fresh: "False FetchFailed since 2026-01-02T03:04:00Z: ThrottlingException: Rate exceeded", value: "7",
		},
		{
			name: "too old", know: knowledge{known: true, state: unreadable(failing(answered(7), throttled), away)},
			ready: "False BackendUnavailable source cloudwatch has failed since 2026-01-02T03:04:00Z", fresh: "False FetchFailed",
		},
		{
			name: "refused by AWS", know: knowledge{known: true, state: unreadable(failing(answered(), rejected), &engine.UnavailableError{Source: "cloudwatch", Since: since, Err: rejected})},
			ready: "False Rejected source cloudwatch has failed since 2026-01-02T03:04:00Z (no earlier answer): rejected: ValidationError: bad expression", fresh: "False FetchFailed",
		},
		{
			name: "no data", know: knowledge{known: true, state: unreadable(answered(), sources.ErrNoData)},
			ready: "False NoData no data", fresh: "True Answered",
		},
		{
			name: "no data that somebody wanted as zero", know: knowledge{metric: &Metric{Zeros: []sources.Labels{sources.NewLabels("id", "a")}}, known: true, state: unreadable(answered(), sources.ErrNoData)},
			ready: "True Available", fresh: "True Answered", value: "0",
		},
		{
			name: "NaN", know: knowledge{known: true, state: answered(math.NaN())},
			ready: "False NotANumber", fresh: "True Answered",
		},
		{
			name: "more than an HPA can read", know: knowledge{known: true, state: answered(9.1e18)},
			ready: "True MisreadByHPA an HPA would misread the value 9100P", fresh: "True Answered", value: "9100P",
		},
		{
			name: "less than nothing", know: knowledge{known: true, state: answered(-7.5)},
			ready: "True MisreadByHPA an HPA would misread the value -7500m: it takes what is negative for an overflow", fresh: "True Answered", value: "-7500m",
		},
		{
			name: "as many replicas as there can be", know: knowledge{known: true, state: answered(2e9), target: 1, targeted: true},
			ready: "True Available", fresh: "True Answered", value: "2G",
		},
		{
			name: "more replicas than there can be", know: knowledge{known: true, state: answered(3e9), target: 1, targeted: true},
			ready: "True MisreadByHPA an HPA would misread the value 3e+09: by the target 1 of an HPA of that metric it means more than 2147483647 replicas", fresh: "True Answered", value: "3G",
		},
		{
			name: "an object that cannot be asked", know: knowledge{metric: &Metric{Err: errors.New("spec.queries: there are none")}},
			ready: "False Invalid spec.queries: there are none", fresh: "Unknown Invalid",
		},
		{name: "never asked", know: knowledge{}, ready: "Unknown NotInDemand", fresh: "Unknown NotInDemand"},
		{
			name: "no longer asked", know: knowledge{known: true, state: engine.State{Answer: answered(7).Answer}},
			ready: "Unknown NotInDemand", fresh: "Unknown NotInDemand",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.know.metric == nil {
				tc.know.metric = &Metric{}
			}
			object := &metricsaws.ExternalMetric{}
			s := statusOf(3, object.Status, tc.know)
			for kind, want := range map[string]string{metricsaws.ConditionReady: tc.ready, metricsaws.ConditionFresh: tc.fresh} {
				c := conditionOf(s, kind)
				if got := fmt.Sprint(c.Status, " ", c.Reason, " ", c.Message); !strings.HasPrefix(got, want) {
					t.Errorf("%s is %q, want %q", kind, got, want)
				}
				if c.ObservedGeneration != 3 {
					t.Errorf("%s is about generation %d", kind, c.ObservedGeneration)
				}
			}
			if s.Value != tc.value {
				t.Errorf("value %q, want %q", s.Value, tc.value)
			}
			if measured := s.Value != "" && tc.know.state.Answer.Samples != nil; (s.ValueTime != nil) != measured {
				t.Errorf("value %q is of %v", s.Value, s.ValueTime)
			}
		})
	}
}

func TestStatusIsBounded(t *testing.T) {
	users := make([]string, metricsaws.MaxHPAs+1)
	k := knowledge{metric: &Metric{Err: errors.New(strings.Repeat("ö", maxMessage))}, users: users}
	s := statusOf(1, metricsaws.ExternalMetricStatus{}, k)
	if n := len(conditionOf(s, metricsaws.ConditionReady).Message); n > maxMessage || len(s.HPAs) > metricsaws.MaxHPAs {
		t.Errorf("a message of %d bytes and %d HPAs", n, len(s.HPAs))
	}
}

// TestEvents goes through the life of a metric: each turn for the worse says so
// once, and so does the recovery.
func TestEvents(t *testing.T) {
	fault := errors.New("503 ServiceUnavailable")
	away := &engine.UnavailableError{Source: "cloudwatch", Since: since, Err: fault}
	object := &metricsaws.ExternalMetric{}
	for _, step := range []struct {
		name  string
		state engine.State
		want  []string
	}{
		{"first value", answered(1), nil},
		{"another value", answered(2), nil},
		{"a failure", failing(answered(2), fault), []string{"Warning FetchFailed"}},
		{"the same failure", failing(answered(2), fault), nil},
		{"too old", unreadable(failing(answered(2), fault), away), []string{"Warning BackendUnavailable"}},
		{"still too old", unreadable(failing(answered(2), fault), away), nil},
		{"recovery", answered(3), []string{"Normal Available"}},
		{"no data", unreadable(answered(), sources.ErrNoData), []string{"Warning NoData"}},
		{"data again", answered(3), []string{"Normal Available"}},
		{"huge", answered(1e16), []string{"Warning MisreadByHPA"}},
		{"still huge", answered(2e16), nil},
		{"not huge", answered(1), nil},
		{"a short failure", failing(answered(1), fault), []string{"Warning FetchFailed"}},
		{"over", answered(1), []string{"Normal Available"}},
	} {
		status := statusOf(1, object.Status, knowledge{metric: &Metric{}, known: true, state: step.state})
		var got []string
		for _, e := range eventsOf(object.Status, status) {
			got = append(got, e.kind+" "+e.reason)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: events %q, want %q", step.name, got, step.want)
		}
		object.Status = status
	}
}
