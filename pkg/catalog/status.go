package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// Reasons of an ExternalMetric's conditions. Those of a condition that is False
// are also the reasons of its Events.
const (
	reasonAvailable    = "Available"
	reasonMisreadByHPA = "MisreadByHPA"
	reasonInvalid      = "Invalid"
	reasonTooMany      = "TooManyExternalMetrics"
	reasonRole         = "RoleNotAllowed"
	reasonRejected     = "Rejected"
	reasonNoData       = "NoData"
	reasonNotANumber   = "NotANumber"
	reasonUnavailable  = "BackendUnavailable"
	reasonFetchFailed  = "FetchFailed"
	reasonAnswered     = "Answered"
	reasonNotInDemand  = "NotInDemand"
)

// maxMessage is less than what an Event can say
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/, note).
const maxMessage = 1000

// knowledge is all that a status is made of.
type knowledge struct {
	metric *Metric
	state  engine.State
	known  bool
	users  []string
	// target is the smallest of the users that counts, see Catalog.LeastExternalTarget, if
	// targeted says that there is one.
	target   float64
	targeted bool
}

// statusOf is what the status of an object of that generation should say after
// before. Conditions that stay as they were keep their transition times.
func statusOf(generation int64, before metricsaws.ExternalMetricStatus, k knowledge) metricsaws.ExternalMetricStatus {
	s := metricsaws.ExternalMetricStatus{
		ObservedGeneration: generation,
		HPAs:               k.users[:min(len(k.users), metricsaws.MaxHPAs)],
		Conditions:         slices.Clone(before.Conditions),
	}
	ready, items := k.ready()
	if len(items) > 0 {
		total, newest := sum(items)
		s.Value = total.String()
		if len(k.state.Answer.Samples) > 0 { // A zero for no data was not measured.
			s.ValueTime = &metav1.Time{Time: newest.Truncate(time.Second)}
		}
	}
	for _, condition := range []metav1.Condition{ready, k.fresh()} {
		condition.ObservedGeneration = generation
		condition.Message = shorten(condition.Message)
		meta.SetStatusCondition(&s.Conditions, condition)
	}
	return s
}

// ready says whether a read of the metric gives a value, and gives the items of it.
func (k knowledge) ready() (metav1.Condition, []Item) {
	c := metav1.Condition{Type: metricsaws.ConditionReady, Status: metav1.ConditionFalse}
	if k.metric.Err != nil {
		c.Reason, c.Message = reasonInvalid, k.metric.Err.Error()
		switch {
		case errors.Is(k.metric.Err, errTooMany):
			c.Reason = reasonTooMany
		case mayNotUseRole(k.metric):
			c.Reason = reasonRole
		}
		return c, nil
	}
	if !k.known || !k.state.InDemand {
		c.Status, c.Reason = metav1.ConditionUnknown, reasonNotInDemand
		c.Message = "no HPA names the metric and nobody reads it of this replica, so it is not asked"
		return c, nil
	}
	items, err := k.metric.Items(k.state.Answer, k.state.ReadErr)
	if err != nil {
		c.Reason, c.Message = reasonOf(err), err.Error()
		return c, nil
	}
	c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonAvailable, "the metric has a value"
	if err := k.readable(items); err != nil {
		c.Reason, c.Message = reasonMisreadByHPA, err.Error()
	}
	return c, items
}

// readable wraps ErrMisreadByHPA if an HPA would misread what all items add up to.
func (k knowledge) readable(items []Item) error {
	if err := ReadableByHPA(items); err != nil || !k.targeted {
		return err
	}
	return ReplicasOfSumReadableByHPA(items, k.target)
}

// fresh says whether the backend answered when it was last asked, while the last
// good value may still serve.
func (k knowledge) fresh() metav1.Condition {
	c := metav1.Condition{Type: metricsaws.ConditionFresh, Status: metav1.ConditionUnknown, Reason: reasonNotInDemand}
	switch {
	case k.metric.Err != nil:
		c.Reason, c.Message = reasonInvalid, "the metric cannot be asked"
	case !k.known || !k.state.InDemand:
		c.Message = "the metric is not asked"
	case k.state.Err != nil:
		c.Status, c.Reason = metav1.ConditionFalse, reasonFetchFailed
		c.Message = fmt.Sprintf("since %s: %v", k.state.Since.UTC().Format(time.RFC3339), k.state.Err)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonAnswered, "the backend answered when it was last asked"
	}
	return c
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, sources.ErrNoData):
		return reasonNoData
	case errors.Is(err, sources.ErrRejected):
		return reasonRejected
	case errors.Is(err, ErrNotANumber):
		return reasonNotANumber
	}
	return reasonUnavailable
}

func shorten(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-len("…")], "") + "…"
}

// event is something that happened to a metric which its users should hear of.
type event struct {
	kind, reason, note string
}

// eventsOf are what changed for the worse between two statuses, and the recovery.
func eventsOf(before, after metricsaws.ExternalMetricStatus) []event {
	wasReady, ready := conditionOf(before, metricsaws.ConditionReady), conditionOf(after, metricsaws.ConditionReady)
	wasFresh, fresh := conditionOf(before, metricsaws.ConditionFresh), conditionOf(after, metricsaws.ConditionFresh)
	var events []event
	switch {
	case ready.Reason == reasonTooMany: // Of thousands there would be thousands.
	case ready.Status == metav1.ConditionFalse && (wasReady.Status != ready.Status || wasReady.Reason != ready.Reason),
		ready.Reason == reasonMisreadByHPA && wasReady.Reason != ready.Reason:
		events = append(events, event{corev1.EventTypeWarning, ready.Reason, ready.Message})
	case ready.Status == metav1.ConditionTrue && fresh.Status == metav1.ConditionFalse && wasFresh.Status != fresh.Status:
		events = append(events, event{corev1.EventTypeWarning, fresh.Reason, "the last good value goes on serving until it is too old; " + fresh.Message})
	case ready.Status == metav1.ConditionTrue && fresh.Status != metav1.ConditionFalse &&
		(wasReady.Status == metav1.ConditionFalse || wasFresh.Status == metav1.ConditionFalse):
		events = append(events, event{corev1.EventTypeNormal, reasonAvailable, "the metric has a value again, and the backend answers"})
	}
	return events
}

func conditionOf(s metricsaws.ExternalMetricStatus, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(s.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{Status: metav1.ConditionUnknown}
}
