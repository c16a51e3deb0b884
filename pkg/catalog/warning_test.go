package catalog

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
)

// keepEvents is an API server that keeps Events for an hour. It counts by namespace those that
// were written, and says until when each is kept.
func keepEvents(a *access) (written map[string]int, until map[string]time.Time) {
	written, until = map[string]int{}, map[string]time.Time{}
	a.kube.PrependReactor("create", "events", func(action clienttesting.Action) (bool, runtime.Object, error) {
		e := action.(clienttesting.CreateAction).GetObject().(*eventsv1.Event)
		if time.Now().Before(until[e.Name]) {
			return true, nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
		}
		until[e.Name] = time.Now().Add(time.Hour)
		written[e.Namespace]++
		return true, e, nil
	})
	return written, until
}

func namingsOf(namespace string, n int, since time.Time) map[naming]followed {
	all := map[naming]followed{}
	for i := range n {
		hpa := types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("h%04d", i)}
		n := naming{hpa: hpa, uid: types.UID(fmt.Sprint(namespace, i)), api: externalAPI, metric: "nope"}
		all[n] = followed{since: since, field: "spec.metrics[0].external.metric.name"}
	}
	return all
}

// newWarnings are those of a reporter that has just begun.
func newWarnings(a *access, identity string) *warnings {
	r := NewReporter(a.watcher, a.state, a.kube, a.custom, "ns", identity)
	return &warnings{turn: &turn{Reporter: r}, next: map[naming]time.Time{}}
}

// Four namespaces with all the unknown metrics that one may have do not keep the Event of
// another one from being written, however often theirs are due again.
func TestUnknownMetricsOfManyHPAsLeaveEventsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		written, _ := keepEvents(a)
		w := newWarnings(a, "first")
		u := &undefined{names: map[naming]followed{}}
		began := time.Now()
		for i := range 4 {
			maps.Copy(u.names, namingsOf(fmt.Sprintf("noisy-%d", i), 1000, began))
		}
		maps.Copy(u.names, namingsOf("shop", 1, began.Add(time.Minute)))
		a.catalog.undefined.Store(u)
		for written["shop"] == 0 && time.Since(began) < 6*time.Hour {
			<-time.After(warnEvery)
			w.warn(t.Context(), time.Now())
		}
		noisy := 0
		for ns, n := range written {
			if strings.HasPrefix(ns, "noisy") {
				noisy += n
			}
		}
		if written["shop"] == 0 {
			t.Errorf("in 6 hours %d Events were written, none of them for the HPA in shop", noisy)
		}
	})
}

// A reporter that has just begun, and finds hundreds of Events there, writes a new one soon.
func TestEventsThatAreThereDelayNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t)
		written, until := keepEvents(a)
		w := newWarnings(a, "second")
		u := &undefined{names: map[naming]followed{}}
		began := time.Now()
		for n, f := range namingsOf("noisy", 620, began) {
			u.names[n] = f
			until[n.eventName()] = began.Add(time.Hour)
		}
		maps.Copy(u.names, namingsOf("shop", 1, began.Add(time.Second)))
		a.catalog.undefined.Store(u)
		for written["shop"] == 0 && time.Since(began) < 24*time.Hour {
			<-time.After(warnEvery)
			w.warn(t.Context(), time.Now())
		}
		if took := time.Since(began); took > 15*time.Minute {
			t.Errorf("the Event of the HPA in shop took %v", took)
		}
	})
}
