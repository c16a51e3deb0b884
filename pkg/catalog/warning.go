package catalog

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	// reasonUnknownMetric is the reason of the Events of HPAs that name a metric which nobody
	// defines.
	reasonUnknownMetric = "UnknownMetric"
	// warnEvery is how often some of them are written, and warnAtOnce how many: one a second.
	warnEvery  = 10 * time.Second
	warnAtOnce = 10
	// warnAgain is when an Event is written again whose cause is still there: the API server
	// keeps one for an hour (kube-apiserver, --event-ttl), under a name that is always the
	// same. So there is one of a cause, whichever replica writes it, and whenever it started.
	// warnKept is when to look whether one is there that was.
	warnAgain = time.Hour + time.Minute
	warnKept  = 10 * time.Minute
	// maxReporter is how long the name of a reporting instance may be
	// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
	maxReporter = 128
	// maxEventName leaves room for a hash in the name of an object.
	maxEventName = 200

	eventCure = `add to the adapter's ClusterRole: {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"]}`
)

// warnings are the Events on HPAs that name what nobody defines. They belong to a turn.
type warnings struct {
	*turn

	// next is when to write the Event of a naming again.
	next map[naming]time.Time
	// refusals counts those in a row for want of the right, of which the next try is at resume.
	refusals int
	resume   time.Time
}

// run writes Events until ctx is done.
func (w *warnings) run(ctx context.Context) {
	every(ctx, warnEvery, func() { w.warn(ctx, time.Now()) })
}

// warn writes some of the Events that are due: those first that were tried the longest time
// ago, or never, so that none waits for all others again and again; of these those whose cause
// is the oldest.
func (w *warnings) warn(ctx context.Context, now time.Time) {
	u := w.catalog.undefined.Load()
	if u == nil || now.Before(w.resume) {
		return
	}
	maps.DeleteFunc(w.next, func(n naming, next time.Time) bool {
		_, still := u.names[n]
		return !still && !now.Before(next)
	})
	var due []naming
	for n := range u.names {
		if !now.Before(w.next[n]) {
			due = append(due, n)
		}
	}
	slices.SortFunc(due, func(a, b naming) int {
		return cmp.Or(w.next[a].Compare(w.next[b]), u.names[a].since.Compare(u.names[b].since),
			cmp.Compare(a.hpa.Namespace, b.hpa.Namespace), cmp.Compare(a.hpa.Name, b.hpa.Name), cmp.Compare(a.metric, b.metric))
	})
	for _, n := range due[:min(len(due), warnAtOnce)] {
		if !w.write(ctx, n, u.names[n].field, now) {
			return
		}
	}
}

// write writes an Event, and is false if there is no use in writing others now.
func (w *warnings) write(ctx context.Context, n naming, field string, now time.Time) bool {
	_, err := w.kube.EventsV1().Events(n.hpa.Namespace).Create(ctx, w.event(n, field, now), metav1.CreateOptions{FieldManager: reporterName})
	switch {
	case err == nil:
		w.next[n] = now.Add(warnAgain)
	case apierrors.IsAlreadyExists(err):
		w.next[n] = now.Add(warnKept)
	case apierrors.IsForbidden(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		w.refusals++
		w.resume = now.Add(pauseAfter(w.refusals))
		if w.refusals == 1 {
			klog.FromContext(ctx).Info("Events of HPAs that name a metric which nobody defines are not written", "reason", err, "cure", eventCure)
		}
		return false
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		return false
	default: // The namespace may be gone, or the API server be away.
		w.next[n] = now.Add(warnKept)
		klog.FromContext(ctx).V(2).Info("An Event was not written", "hpa", n.hpa, "reason", err)
	}
	w.refusals = 0
	return true
}

func (w *warnings) event(n naming, field string, now time.Time) *eventsv1.Event {
	identity := w.lock.Identity()
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: n.hpa.Namespace, Name: n.eventName()},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: reporterName,
		ReportingInstance:   identity[:min(len(identity), maxReporter)],
		Action:              "ReadMetric",
		Reason:              reasonUnknownMetric,
		Type:                corev1.EventTypeWarning,
		Note:                shorten(w.catalog.note(n, field)),
		Regarding: corev1.ObjectReference{
			APIVersion: autoscalingv2.SchemeGroupVersion.String(), Kind: "HorizontalPodAutoscaler",
			Namespace: n.hpa.Namespace, Name: n.hpa.Name, UID: n.uid,
		},
	}
}

// eventName is the same for the same metric of the same HPA.
func (n naming) eventName() string {
	sum := fnv.New64a()
	for _, part := range []string{string(n.uid), string(n.api), n.metric, n.resource.String()} {
		_, _ = io.WriteString(sum, part+"\n")
	}
	name := strings.TrimRight(n.hpa.Name[:min(len(n.hpa.Name), maxEventName)], ".-")
	return name + "." + hex.EncodeToString(sum.Sum(nil))
}
