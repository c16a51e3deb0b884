// Package self tells the cluster how this process is: as conditions and Events of the pod
// that it runs in.
package self

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// Types of the conditions.
const (
	// ConfigurationLoaded says whether the configuration in force is that of the file.
	ConfigurationLoaded = "tidegauge.dev/ConfigurationLoaded"
	// RulesDiscovered says whether the series of all rules could be listed.
	RulesDiscovered = "tidegauge.dev/RulesDiscovered"
)

const (
	// reporterName is who the Events are from.
	reporterName = "tidegauge"
	// maxMessage is how long the note of an Event may be, in bytes
	// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
	maxMessage = 1024

	// writeEvery is the least time between two writes of one condition.
	writeEvery = 10 * time.Second
	// callTimeout is how long one call to the API server may take, and firstRetry and
	// maxRetry bound the time until one that failed is tried again.
	callTimeout = 10 * time.Second
	firstRetry  = 2 * time.Second
	maxRetry    = 2 * time.Minute
)

// Condition is how one side of the process is.
type Condition struct {
	// Type is the condition's type, such as ConfigurationLoaded.
	Type string
	// True is the condition's status: True is as it should be.
	True bool
	// Reason says why, in one word of letters. The Event has it too.
	Reason string
	// Message says why, to people. It must have no secrets. What is too long is cut.
	Message string
}

// Configuration is the condition ConfigurationLoaded: the configuration in force, in a few
// words, what in it is allowed and cannot work, and why it is not that of the file; nil if
// it is.
func Configuration(summary string, warnings []string, err error) Condition {
	if err != nil {
		return Condition{ConfigurationLoaded, false, "ConfigurationInvalid", "the last good configuration stays in force: " + err.Error()}
	}
	if len(warnings) > 0 {
		summary += "; what cannot work: " + warned(warnings)
	}
	return Condition{ConfigurationLoaded, true, "ConfigurationLoaded", summary}
}

// maxWarnings is how many warnings a message has, and maxWarning how many bytes of each.
const (
	maxWarnings = 3
	maxWarning  = 200
)

func warned(warnings []string) string {
	var texts []string
	for _, w := range warnings[:min(len(warnings), maxWarnings)] {
		texts = append(texts, cut(w, maxWarning))
	}
	text := strings.Join(texts, "; ")
	if more := len(warnings) - len(texts); more > 0 {
		text += fmt.Sprintf("; and %d more, which the log has", more)
	}
	return text
}

// Rules is the condition RulesDiscovered: why the series of rules could not be listed; nil
// if they could.
func Rules(err error) Condition {
	if err != nil {
		return Condition{RulesDiscovered, false, "RuleFailing", err.Error()}
	}
	return Condition{RulesDiscovered, true, "RulesDiscovered", "the series of all rules are listed"}
}

// Reporter writes conditions to the status of the process's own pod, and an Event when
// one changes. A process without a pod, or without the rights, goes on without. It is
// safe for concurrent use.
type Reporter struct {
	kube           kubernetes.Interface
	namespace, pod string
	changed        chan struct{} // wakes Run

	mu     sync.Mutex
	wanted map[string]Condition

	// Run alone uses what follows.
	told     map[string]telling
	silenced map[string]bool // what was logged as not possible
	events   int
}

// telling is the last attempt to tell of a condition.
type telling struct {
	Condition

	at time.Time
	// retry is how long after at the next attempt is due; zero if this one was the last.
	retry time.Duration
	// compared says that it is known whether the pod had the condition before, and
	// owed that it had not and that the Event is not written yet.
	compared, owed bool
}

// NewReporter makes a reporter for the pod of that name. It asks nobody before Run.
func NewReporter(kube kubernetes.Interface, namespace, pod string) *Reporter {
	return &Reporter{
		kube: kube, namespace: namespace, pod: pod,
		changed:  make(chan struct{}, 1),
		wanted:   map[string]Condition{},
		told:     map[string]telling{},
		silenced: map[string]bool{},
	}
}

// Set has the condition told of, in place of the last one of its type. It does not wait.
func (r *Reporter) Set(c Condition) {
	c.Message = shorten(c.Message)
	r.mu.Lock()
	r.wanted[c.Type] = c
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default: // Run will look anyway.
	}
}

// Run tells of conditions until ctx is done.
func (r *Reporter) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		var timer <-chan time.Time
		if next := r.tellDue(ctx); !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-r.changed:
		case <-timer:
		}
	}
	return nil
}

// tellDue tells of the conditions that are due, and says when the next one is; zero if
// there is none.
func (r *Reporter) tellDue(ctx context.Context) (next time.Time) {
	r.mu.Lock()
	wanted := maps.Clone(r.wanted)
	r.mu.Unlock()
	for _, c := range wanted {
		due, ok := r.due(c)
		if ok && !due.After(time.Now()) {
			r.attempt(ctx, c)
			due, ok = r.due(c)
		}
		if ok && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// due is when to tell of c, if there is anything to tell.
func (r *Reporter) due(c Condition) (time.Time, bool) {
	last, ok := r.told[c.Type]
	switch {
	case !ok:
		return time.Time{}, true
	case last.Condition != c:
		return last.at.Add(writeEvery), true
	default:
		return last.at.Add(last.retry), last.retry > 0
	}
}

// attempt tells of c, and notes how that ended.
func (r *Reporter) attempt(ctx context.Context, c Condition) {
	last := r.told[c.Type]
	now := telling{Condition: c, at: time.Now()}
	if last.Condition == c {
		now.compared, now.owed = last.compared, last.owed
	}
	if err := r.tell(ctx, &now); err != nil {
		now.retry = min(max(2*last.retry, firstRetry), maxRetry)
		klog.FromContext(ctx).V(1).Info("The pod's condition is not written yet", "condition", c.Type, "pod", klog.KRef(r.namespace, r.pod), "reason", err.Error())
	}
	r.told[c.Type] = now
}

// tell writes the condition, and the Event of its change, unless the pod has the condition
// already. Its error is worth another attempt.
func (r *Reporter) tell(ctx context.Context, t *telling) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, r.pod, metav1.GetOptions{})
	if err != nil {
		return r.excuse(ctx, "read its pod", err)
	}
	before := conditionOf(pod, t.Type)
	differs := before.Status != t.status() || before.Reason != t.Reason || before.Message != t.Message
	t.owed = t.owed || differs && !t.compared
	t.compared = true
	if differs {
		if err := r.patch(ctx, pod, t.Condition, before); err != nil {
			return err
		}
	}
	if !t.owed {
		return nil
	}
	if err := r.event(ctx, pod, t.Condition); err != nil {
		return err
	}
	t.owed = false
	return nil
}

// patch writes that one condition of that very pod.
func (r *Reporter) patch(ctx context.Context, pod *corev1.Pod, c Condition, before corev1.PodCondition) error {
	since := before.LastTransitionTime
	if before.Status != c.status() {
		since = metav1.Now()
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": c.Type, "status": c.status(), "reason": c.Reason, "message": c.Message, "lastTransitionTime": since,
		}}},
	})
	if err != nil {
		return err
	}
	_, err = r.kube.CoreV1().Pods(r.namespace).Patch(ctx, r.pod, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: reporterName}, "status")
	return r.excuse(ctx, "write the status of its pod", err)
}

func (r *Reporter) event(ctx context.Context, pod *corev1.Pod, c Condition) error {
	kind := corev1.EventTypeWarning
	if c.True {
		kind = corev1.EventTypeNormal
	}
	now := metav1.NowMicro()
	r.events++
	_, err := r.kube.EventsV1().Events(r.namespace).Create(ctx, &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: r.namespace, Name: fmt.Sprintf("%s.%x.%d", r.pod, now.UnixNano(), r.events)},
		EventTime:           now,
		ReportingController: reporterName,
		ReportingInstance:   r.pod,
		Action:              path.Base(c.Type),
		Reason:              c.Reason,
		Type:                kind,
		Note:                c.Message,
		Regarding: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: r.namespace, Name: r.pod, UID: pod.UID,
		},
	}, metav1.CreateOptions{FieldManager: reporterName})
	return r.excuse(ctx, "write Events of its pod", err)
}

// excuse is nil for an error that another attempt would not mend, and says so once.
func (r *Reporter) excuse(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// It runs outside of the cluster, or another pod has the name by now.
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	if !r.silenced[what] {
		r.silenced[what] = true
		log := klog.FromContext(ctx).WithValues("pod", klog.KRef(r.namespace, r.pod), "reason", err.Error())
		if apierrors.IsForbidden(err) {
			log = log.WithValues("cure", rightsCure)
		}
		log.Info("The adapter cannot " + what + ", and goes on without")
	}
	return nil
}

// rightsCure has all that telling takes, so that nobody comes back for the next right.
const rightsCure = `add to a Role of the adapter in its namespace: {apiGroups: [""], resources: ["pods"], verbs: ["get"]}, ` +
	`{apiGroups: [""], resources: ["pods/status"], verbs: ["patch"]} and {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}`

func (c Condition) status() corev1.ConditionStatus {
	if c.True {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func conditionOf(pod *corev1.Pod, kind string) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if string(c.Type) == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// shorten cuts a message that is longer than an Event's note may be.
func shorten(message string) string { return cut(message, maxMessage) }

// cut cuts a text to that many bytes.
func cut(text string, limit int) string {
	const more = "…"
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len(more)], "") + more
}
