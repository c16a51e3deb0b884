package scale

import (
	"math"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/tidegauge/tidegauge/test/promproxy"
)

// Series that are played.
const (
	requestsSeries = "http_requests_total"
	cpuSeries      = "container_cpu_usage_seconds_total"
	memorySeries   = "container_memory_working_set_bytes"
)

const (
	// maxAge is how old an answer may be that the adapter serves, as the rules and the
	// ExternalMetric of testdata say at most.
	maxAge = 20 * time.Second
	// exact is what a number may lose on its way: custom metrics are thousandths.
	exact = 0.001
)

// load is what comes to workloads each second. It plays a Prometheus that has scraped their
// pods: those that are ready share it evenly, as behind a load balancer.
type load struct {
	pods corelisters.PodLister

	mu      sync.Mutex
	streams map[stream]*flow
}

// stream is a series of the pods of a workload, which have the label app with its name.
type stream struct {
	of     tier
	series string
}

// flow is how much comes of a stream, and what was said of it.
type flow struct {
	perSecond float64
	said      history
}

func newLoad(pods corelisters.PodLister) *load {
	return &load{pods: pods, streams: map[stream]*flow{}}
}

// set says how much comes from now on.
func (l *load) set(s stream, perSecond float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[s] == nil {
		l.streams[s] = &flow{}
	}
	l.streams[s].perSecond = perSecond
}

// age is for how long a value of a pod has not been what Prometheus said; false is for a
// value that it did not say of late.
func (l *load) age(s stream, value float64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams[s].said.age(value, time.Now())
}

// play is a promproxy.Player.
func (l *load) play(c promproxy.Call) (promproxy.Answer, bool) {
	data, shares, err := l.data()
	if err != nil {
		return promproxy.ExecutionError(), true
	}
	if c.Endpoint == promproxy.Query {
		l.remember(shares)
	}
	return data.Play(c)
}

// remember what is about to be said of each stream.
func (l *load) remember(shares map[stream]float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, each := range shares {
		l.streams[s].said.add(each, time.Now())
	}
}

// data are the series of all pods that are ready, and what each pod has of a stream.
func (l *load) data() (data promproxy.Data, shares map[stream]float64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	shares = map[stream]float64{}
	for s, f := range l.streams {
		pods, err := l.ready(s.of)
		if err != nil {
			return nil, nil, err
		}
		if len(pods) == 0 {
			continue
		}
		shares[s] = f.perSecond / float64(len(pods))
		for _, pod := range pods {
			data = append(data, sample(pod, s.series, shares[s]))
		}
	}
	return data, shares, nil
}

func (l *load) ready(of tier) ([]*corev1.Pod, error) {
	all, err := l.pods.Pods(of.namespace).List(labels.SelectorFromSet(labels.Set{"app": of.name}))
	if err != nil {
		return nil, err
	}
	var ready []*corev1.Pod
	for _, pod := range all {
		if isReady(pod) {
			ready = append(ready, pod)
		}
	}
	return ready, nil
}

func isReady(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func sample(pod *corev1.Pod, series string, value float64) promproxy.Sample {
	return promproxy.Sample{
		Labels: map[string]string{
			"__name__": series, "namespace": pod.Namespace, "pod": pod.Name,
			"container": pod.Spec.Containers[0].Name, "node": pod.Spec.NodeName,
		},
		Value: strconv.FormatFloat(value, 'f', -1, 64),
	}
}

// history are numbers with the time at which each was last said.
type history struct{ at map[float64]time.Time }

func (h *history) add(value float64, now time.Time) {
	if h.at == nil {
		h.at = map[float64]time.Time{}
	}
	h.at[value] = now
	for old, at := range h.at {
		if now.Sub(at) > 2*maxAge {
			delete(h.at, old)
		}
	}
}

// age is the time since a number was last said, if that is no longer than answers may be old.
func (h *history) age(value float64, now time.Time) (age time.Duration, ok bool) {
	age = 2 * maxAge
	for said, at := range h.at {
		if math.Abs(said-value) <= exact {
			age = min(age, now.Sub(at))
		}
	}
	return age, age <= maxAge
}
