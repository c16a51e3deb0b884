package e2e

import (
	"net/http"
	"testing"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

func TestNoDataIsAnError(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.create(s.metric("jobs", "Jobs"))
	s.deploy(worker, 3)
	release := s.hold(3)
	s.createHPA(autoscaler(worker, 0, "jobs"))
	s.awaitError("jobs", http.StatusNotFound, s.namespace+"/jobs", "no data", "Average of Shop Jobs")
	s.awaitCondition("jobs", notReady("NoData"), "Average of Shop Jobs")
	s.warns(s.awaitEvent("jobs", "NoData", "Average of Shop Jobs"))
	s.awaitBlindHPA("no data", "Average of Shop Jobs")
	release()

	s.put("Jobs", 300)
	s.awaitReplicas(worker, 10)
}

// noDataZero are the two ways of an object to say that no data is zero.
var noDataZero = map[string]func(*metricsaws.ExternalMetric){
	"field": func(o *metricsaws.ExternalMetric) { o.Spec.NoData = metricsaws.NoDataZero },
	"annotation": func(o *metricsaws.ExternalMetric) {
		o.Annotations = map[string]string{metricsaws.AnnotationNoData: string(metricsaws.NoDataZero)}
	},
}

func TestNoDataIsZeroIfTheObjectSaysSo(t *testing.T) {
	t.Parallel()
	for name, say := range noDataZero {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			o := s.metric("jobs", "Jobs")
			say(o)
			s.create(o)
			s.deploy(worker, 1)
			s.createHPA(autoscaler(worker, 0, "jobs"))
			s.awaitValue("jobs", "0")
			s.awaitReplicas(worker, 0)
			s.put("Jobs", 95)
			s.awaitValue("jobs", "95")
		})
	}
}

func TestFailureIsNeverNoData(t *testing.T) {
	t.Parallel()
	for name, say := range noDataZero {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharedBed(t).newSpace(t)
			s.fault(fakeaws.Fault{Service: "cloudwatch", ErrorCode: "AccessDenied"})
			o := s.metric("jobs", "Jobs")
			say(o)
			s.create(o)
			s.deploy(worker, 3)
			release := s.hold(3)
			s.createHPA(autoscaler(worker, 0, "jobs"))
			s.awaitError("jobs", http.StatusServiceUnavailable, "is not authorized to perform: cloudwatch:GetMetricData")
			s.awaitBlindHPA("is not authorized to perform: cloudwatch:GetMetricData")
			release()
		})
	}
}

func TestFlagSaysNoDataIsZero(t *testing.T) {
	t.Parallel()
	b := ownBedWithAdapter(t, "--cloudwatch-empty-as-zero")
	s := b.newSpace(t)
	strict := s.metric("strict", "Jobs")
	strict.Spec.NoData = metricsaws.NoDataError
	annotated := s.metric("annotated", "Jobs")
	annotated.Annotations = map[string]string{metricsaws.AnnotationNoData: string(metricsaws.NoDataError)}
	s.create(s.metric("jobs", "Jobs"), strict, annotated)
	s.awaitValue("jobs", "0")
	s.awaitError("strict", http.StatusNotFound, "no data")
	s.awaitError("annotated", http.StatusNotFound, "no data")
}
