package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// maxAge is long enough to see that the last good value still serves after the adapter
// has noticed the fault.
const maxAge = 15 * time.Second

// transit is how long a call may be under way to the stand-in on a loaded machine.
const transit = 2 * time.Second

// outage is something that keeps CloudWatch from answering, and the words that users
// have to find everywhere.
type outage struct {
	fault fakeaws.Fault
	words string
}

// longMaxAge makes an outage long in comparison with the maxAge of others.
const longMaxAge = 3 * maxAge

// Faults of one region, whose other regions go on at once.
var outages = map[string]outage{
	"internal failure":     {fakeaws.Fault{ErrorCode: "InternalFailure"}, "InternalFailure: The request processing has failed"},
	"unavailable":          {fakeaws.Fault{ErrorCode: "ServiceUnavailable"}, "ServiceUnavailable: The request has failed due to a temporary failure"},
	"access denied":        {fakeaws.Fault{ErrorCode: "AccessDenied"}, "is not authorized to perform: cloudwatch:GetMetricData"},
	"result forbidden":     {fakeaws.Fault{StatusCode: "Forbidden"}, "Forbidden"},
	"result failed":        {fakeaws.Fault{StatusCode: "InternalError"}, "InternalError"},
	"result never whole":   {fakeaws.Fault{StatusCode: "PartialData"}, "PartialData"},
	"connection cut":       {fakeaws.Fault{Cut: true}, "connection cut before the end of the answer"},
	"answer is not CBOR":   {fakeaws.Fault{Garbage: true}, "deserialization failed"},
	"message on the whole": {fakeaws.Fault{Messages: []fakeaws.Message{{Code: "Busy", Value: "Ask later."}}}, "Busy: Ask later."},
}

func TestOutage(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sharedBed(t).newSpace(t).outlive(o, maxAge)
		})
	}
}

// Throttling and slowness of one region must not reach the metrics of another.
func TestOutageBesideAnotherRegion(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]outage{
		"throttled": {fakeaws.Fault{ErrorCode: "Throttling"}, "Throttling: Rate exceeded"},
		"slow":      {fakeaws.Fault{Latency: 10 * time.Second}, "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ownBedWithAdapter(t)
			neighbour := b.newSpace(t)
			neighbour.put("Orders", 30)
			healthy := neighbour.metric("orders", "Orders")
			healthy.Spec.MaxAge = &metav1.Duration{Duration: maxAge}
			neighbour.create(healthy)
			neighbour.awaitValue("orders", "30")
			stop := neighbour.keepReading("orders", "30")
			b.newSpace(t).outlive(o, longMaxAge)
			stop()
		})
	}
}

// keepReading reads a metric again and again until stop is called, and fails the test
// when it once has not the value.
func (s *space) keepReading(name, want string) (stop func()) {
	s.t.Helper()
	return s.keepChecking(s.namespace+"/"+name, func(ctx context.Context) error { return s.hasValue(ctx, name, want) })
}

// outlive takes a metric, its HPA and its Deployment through an outage.
func (s *space) outlive(o outage, maxAge time.Duration) {
	s.t.Helper()
	s.put("Orders", 95)
	s.prepareOutage(s.metric("orders", "Orders"), maxAge)
	release := s.hold(4)

	since := s.lastAsked()
	o.fault.Service = "cloudwatch"
	end := s.fault(o.fault)
	s.put("Orders", 30) // Nobody can know that.
	s.checkOutage(since, maxAge, o.words)
	release()

	end()
	s.checkRecovery()
}

// prepareOutage brings four replicas up by the metric "orders".
func (s *space) prepareOutage(o *metricsaws.ExternalMetric, maxAge time.Duration) {
	s.t.Helper()
	o.Spec.MaxAge = &metav1.Duration{Duration: maxAge}
	s.create(o)
	s.scale(worker, 1, "orders")
	s.awaitReplicas(worker, 4)
	s.awaitCondition("orders", ready("Available"))
}

// checkOutage checks what users see of an outage that began after since: for maxAge the
// last good value, then everywhere why there is none.
func (s *space) checkOutage(since time.Time, maxAge time.Duration, words string) {
	s.t.Helper()
	lastGood := s.readUntilError("orders", "95")
	// The adapter counts from before it makes the call, which arrived at since.
	if early := since.Add(-transit).Add(maxAge).Sub(lastGood); early > 0 {
		s.t.Errorf("the last good value was served for %v less than the maxAge of %v", early+transit, maxAge)
	}
	s.awaitError("orders", http.StatusServiceUnavailable, s.namespace+"/orders", "source cloudwatch has failed since", s.region, words)
	s.awaitCondition("orders", notFresh(), words)
	s.awaitCondition("orders", notReady("BackendUnavailable"), words)
	s.warns(s.awaitEvent("orders", "FetchFailed", "the last good value goes on serving", words))
	s.warns(s.awaitEvent("orders", "BackendUnavailable", words))
	s.awaitBlindHPA(words)
}

// checkRecovery checks that the value after an outage arrives.
func (s *space) checkRecovery() {
	s.t.Helper()
	s.awaitValue("orders", "30")
	s.awaitReplicas(worker, 1)
	s.awaitCondition("orders", ready("Available"))
	s.awaitEvent("orders", "Available", "has a value again")
}

// readUntilError reads a metric until that fails, and returns when. Until then it must
// have the value.
func (s *space) readUntilError(name, want string) time.Time {
	s.t.Helper()
	err := wait.PollUntilContextTimeout(s.t.Context(), pause, await, true, func(ctx context.Context) (bool, error) {
		got, err := s.value(ctx, name)
		if err == nil && got.String() != want {
			s.t.Errorf("%s is %s during the outage, want %s", name, got.String(), want)
		}
		return err != nil, nil
	})
	if err != nil {
		s.t.Fatalf("%s still has a value: %v", name, err)
	}
	return time.Now()
}

// The stand-in is away for two minutes, as the issue of all this demands, while a queue
// that drives an HPA changes.
func TestAWSAwayForTwoMinutes(t *testing.T) {
	t.Parallel()
	s := ownBedWithAdapter(t).newSpace(t)
	jobs := s.newQueue("jobs")
	jobs.send(95)
	s.prepareOutage(s.object("orders", depth("jobs")), maxAge)
	pid := s.adapter.ID()
	release := s.hold(4)

	since := s.lastAsked()
	jobs.purge()
	over := time.After(2 * time.Minute)
	s.aws.Pause()
	s.checkOutage(since, maxAge, "connection refused")
	<-over
	s.awaitBlindHPA("connection refused")
	release()

	if err := s.aws.Resume(); err != nil {
		t.Fatal(err)
	}
	jobs.send(30)
	s.checkRecovery()
	if now := s.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// An answer in pages is whole at its end.
func TestPagedAnswer(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.fault(fakeaws.Fault{MaxDatapoints: 20})
	now := time.Now()
	for i := range 100 {
		s.aws.PutMetric(fakeaws.Metric{
			Region: s.region, Namespace: metricNamespace, Name: "Orders", Value: fakeaws.Float(i),
			Time: now.Add(time.Duration(i-100) * time.Second), HighResolution: true,
		})
	}
	s.put("Returns", 5)
	s.create(s.object("work", query("orders", "Orders"), query("returns", "Returns")))
	s.eventually("both series", func(ctx context.Context) error {
		items, err := s.values(ctx, "work")
		if err != nil {
			return err
		}
		if len(items) != 2 || items[0].Value.String() != "99" || items[1].Value.String() != "5" {
			return fmt.Errorf("the items are %v, want 99 and 5", items)
		}
		return nil
	})
	for _, call := range s.asked() {
		if call.More {
			return
		}
	}
	t.Error("no answer had a second page")
}
