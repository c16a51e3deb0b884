package e2e

import (
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHPAFollowsQueueDepth(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs := s.newQueue("jobs")
	s.create(s.object("jobs", depth("jobs")))
	s.scale(worker, 1, "jobs")

	sent := 0
	for _, step := range []struct {
		depth    int
		replicas int32
	}{{95, 4}, {300, 10}, {1000, 10}} {
		jobs.send(step.depth - sent)
		sent = step.depth
		s.awaitValue("jobs", strconv.Itoa(step.depth))
		s.awaitReplicas(worker, step.replicas)
	}
	jobs.purge()
	s.awaitReplicas(worker, 1)
}

func TestHPAScalesToZeroAndBack(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	jobs := s.newQueue("jobs")
	s.create(s.object("jobs", depth("jobs")))
	s.deploy(worker, 1)
	s.createHPA(autoscaler(worker, 0, "jobs"))

	s.awaitReplicas(worker, 0)
	jobs.send(95)
	s.awaitReplicas(worker, 4)
	jobs.purge()
	s.awaitReplicas(worker, 0)
	jobs.send(300)
	s.awaitReplicas(worker, 10)
}

func TestHPASelectsASeries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Returns", 1000)
	s.create(s.object("work", query("orders", "Orders"), query("returns", "Returns")))
	s.deploy(worker, 1)
	hpa := autoscaler(worker, 1, "work")
	hpa.Spec.Metrics[0].External.Metric.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"id": "orders"}}
	s.createHPA(hpa)
	s.awaitReplicas(worker, 4)
}

// Without a selector an HPA adds up the series.
func TestHPAAddsUpSeries(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Returns", 55)
	s.create(s.object("work", query("orders", "Orders"), query("returns", "Returns")))
	s.scale(worker, 1, "work")
	s.awaitReplicas(worker, 5)
}

// An HPA computes in thousandths in an int64: it would see an empty queue in a value
// that is too large, and an endless one in a negative value. It gets an error instead,
// and keeps its replicas; people read the value as it is.
func TestValueThatAnHPAWouldMisread(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		value float64
		text  string
	}{{"large", 9.1e18, "9100P"}, {"negative", -7.5, "-7500m"}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			s.put("Bytes", tc.value)
			s.create(s.metric("bytes", "Bytes"))
			s.scale(worker, 3, "bytes")
			release := s.hold(3)
			s.awaitValue("bytes", tc.text)
			s.awaitCondition("bytes", ready("MisreadByHPA"), tc.text)
			s.warns(s.awaitEvent("bytes", "MisreadByHPA", tc.text))
			s.awaitBlindHPA("an HPA would misread the value", tc.text)
			release()
			s.put("Bytes", 120)
			s.awaitReplicas(worker, 4)
		})
	}
}
