package player

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// missed is how many scrapes in a row a target has to miss to be gone.
	missed = 3
	// maxInterval bounds what is taken for the interval of two scrapes.
	maxInterval = time.Minute
	// forgetAfter is how long the count of a target that is gone is kept.
	forgetAfter = 10 * time.Minute
)

// spread has targets, and loads that it spreads over them. A count is the integral of
// the target's shares over the time, so that it loses nothing when a rate or the number
// of targets changes. It only moves on when it is looked at.
type spread struct {
	targets map[targetID]*target
	loads   map[scope]*load
}

func newSpread() *spread {
	return &spread{targets: map[targetID]*target{}, loads: map[scope]*load{}}
}

// targetID names a pod, or with a container one of its containers.
type targetID struct{ namespace, pod, container string }

// target is what is scraped, and what loads are spread over.
type target struct {
	id    targetID
	count float64
	seen  time.Time // when it was scraped last
	gone  time.Time // when it will count as gone, unless it is scraped before
	loads []*load
	// scrapes is how often it was scraped.
	scrapes int
}

// scope is what a load is spread over: the targets of a workload or of a pod.
type scope struct{ namespace, workload, pod, container string }

func (s scope) check() error {
	if s.namespace == "" {
		return errors.New("namespace is missing")
	}
	if (s.workload == "") == (s.pod == "") {
		return fmt.Errorf("in namespace %s: either a workload or a pod has to be named", s.namespace)
	}
	return nil
}

func (s scope) has(id targetID) bool {
	if s.namespace != id.namespace || s.container != "" && s.container != id.container {
		return false
	}
	if s.pod != "" {
		return s.pod == id.pod
	}
	rest, ok := strings.CutPrefix(id.pod, s.workload)
	return ok && ofWorkload.MatchString(rest)
}

// ofWorkload is what may follow a workload's name in a pod's name: nothing, a
// StatefulSet's number, the five characters of a ReplicaSet, DaemonSet or Job, before
// them a Deployment's hash. Kubernetes makes them of these characters, see
// https://pkg.go.dev/k8s.io/apimachinery/pkg/util/rand.
var ofWorkload = regexp.MustCompile(`^(-[0-9]+|(-[b-df-hj-np-tv-xz24-9]{1,10})?-[b-df-hj-np-tv-xz24-9]{5})?$`)

// load is a rate of counts per second, and a level, that targets share evenly.
type load struct {
	rate, level float64
	at          time.Time // the targets' counts have the load up to here
	targets     []*target // gone ones too
}

// settle counts the load up to now. A target that is gone by then had its share until it went.
func (l *load) settle(now time.Time) {
	for l.at.Before(now) {
		live, end := l.live(), now
		for _, t := range live {
			if t.gone.Before(end) {
				end = t.gone
			}
		}
		for _, t := range live {
			t.count += l.rate * end.Sub(l.at).Seconds() / float64(len(live))
		}
		l.at = end
	}
}

// live are the targets that share the load at the time up to which it is settled.
func (l *load) live() []*target {
	var live []*target
	for _, t := range l.targets {
		if t.gone.After(l.at) {
			live = append(live, t)
		}
	}
	return live
}

// set gives a load to all targets of a scope, in place of the one that they shared before.
func (s *spread) set(now time.Time, sc scope, rate, level float64) {
	l := s.loads[sc]
	if l == nil {
		l = &load{at: now}
		s.loads[sc] = l
		for _, t := range s.targets {
			if sc.has(t.id) {
				l.share(t)
			}
		}
	}
	l.settle(now)
	l.rate, l.level = rate, level
	if rate == 0 && level == 0 {
		delete(s.loads, sc)
		for _, t := range l.targets {
			t.loads = slices.DeleteFunc(t.loads, func(other *load) bool { return other == l })
		}
	}
}

func (l *load) share(t *target) {
	l.targets = append(l.targets, t)
	t.loads = append(t.loads, l)
}

// scraped returns a target that is scraped now, its count complete. interval is the
// least that lies between two scrapes of it.
func (s *spread) scraped(now time.Time, id targetID, interval time.Duration) *target {
	t := s.targets[id]
	if t == nil {
		s.forget(now)
		t = s.add(id)
	}
	for _, l := range t.loads {
		l.settle(now)
	}
	if !t.seen.IsZero() {
		interval = max(interval, min(now.Sub(t.seen), maxInterval))
	}
	t.seen, t.gone = now, now.Add(missed*interval)
	t.scrapes++
	return t
}

func (s *spread) add(id targetID) *target {
	t := &target{id: id}
	s.targets[id] = t
	for sc, l := range s.loads {
		if sc.has(id) {
			l.share(t)
		}
	}
	return t
}

// forget drops targets that are long gone.
func (s *spread) forget(now time.Time) {
	old := func(t *target) bool { return now.Sub(t.gone) > forgetAfter }
	maps.DeleteFunc(s.targets, func(_ targetID, t *target) bool { return old(t) })
	for _, l := range s.loads {
		l.settle(now)
		l.targets = slices.DeleteFunc(l.targets, old)
	}
}

// level is the target's share of the levels of its loads, at the time of its last scrape.
func (t *target) level() float64 {
	sum := 0.0
	for _, l := range t.loads {
		sum += l.level / float64(len(l.live()))
	}
	return sum
}

// meter is a count that rises by itself.
type meter struct {
	value, rate float64
	at          time.Time
}

func (m meter) read(now time.Time) float64 {
	if m.rate == 0 {
		return m.value // which may be infinite, and then has no rate
	}
	return m.value + m.rate*now.Sub(m.at).Seconds()
}

func checkAmount(name string, value float64) error {
	if !(value >= 0) || math.IsInf(value, 0) {
		return fmt.Errorf("%s is %v, want 0 or more", name, value)
	}
	return nil
}
