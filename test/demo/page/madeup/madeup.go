// Package madeup is a made-up story for the page, to look at it and to test it without a
// cluster.
package madeup

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// Length is how long the story is.
const Length = 10 * time.Minute

// Phases of the story, from when on they are.
var phases = []struct {
	from        float64 // seconds
	word, title string
}{
	{0, "idle", "The queue is empty, the workers are at 0, and the web tier rests at 1 replica"},
	{60, "rise", "25 requests a second come: the HPA takes the web tier from 1 replica to 3"},
	{200, "burst", "A burst of orders fills the queue: the HPA takes the workers from 0 to 10"},
	{320, "outage", "Prometheus is stopped for a minute: the HPAs hold what they have"},
	{400, "drain", "Prometheus is back, and the workers empty the queue"},
	{520, "fall", "The load is gone: both tiers go back to where they began"},
}

// Times of what happens in the story, in seconds.
const (
	loadFrom, loadTo     = 60, 520
	burstFrom, emptyAt   = 200, 500
	outageFrom, outageTo = 322, 384
	lostFrom, lostTo     = 150, 158 // nothing is known
)

// Known says whether there is a snapshot of that time of the story: there is a gap.
func Known(elapsed time.Duration) bool {
	at := elapsed.Seconds()
	return at < lostFrom || at > lostTo
}

// At is the story so far. The same times give the same snapshot.
func At(start time.Time, elapsed time.Duration) page.Snapshot {
	t := &teller{start: start, at: elapsed.Seconds()}
	s := page.Snapshot{Time: start.Add(elapsed)}
	for _, p := range phases {
		if t.at >= p.from {
			s.Phase = page.Phase{Word: p.word, Title: p.title, Since: t.time(p.from)}
		}
	}
	s.Web, s.Worker = t.web(), t.worker()
	s.Queue, s.Traffic = t.queue(), t.traffic()
	s.HPAs = []page.HPA{t.webHPA(), t.workerHPA()}
	s.Metrics, s.Parts = t.metrics(), t.parts()
	return s
}

// Source is the story as it goes on from Start, again and again.
type Source struct{ Start time.Time }

// Snapshot is the story of now.
func (s Source) Snapshot(context.Context) page.Snapshot {
	elapsed := time.Since(s.Start)
	played := At(time.Now().Add(-elapsed%Length), elapsed%Length)
	return played
}

// teller knows the story at a time.
type teller struct {
	start time.Time
	at    float64
}

func (t *teller) time(at float64) time.Time {
	return t.start.Add(time.Duration(at * float64(time.Second)))
}

func (t *teller) outage() bool { return t.at >= outageFrom && t.at < outageTo }

// rise is 0 if t is before from, top if it is after to, and in between on the way.
func (t *teller) rise(from, to, top float64) float64 {
	return top * min(max((t.at-from)/(to-from), 0), 1)
}

// noise is a small number that belongs to the time.
func (t *teller) noise(scale float64) float64 {
	return scale * (math.Sin(t.at*1.7) + math.Sin(t.at*0.61+2) + math.Sin(t.at*3.1)/2) / 2.5
}

func (t *teller) asked() float64 {
	if t.at < loadFrom || t.at >= loadTo {
		return 2
	}
	return 25
}

func (t *teller) webDesired() float64 {
	switch {
	case t.at < loadFrom+22, t.at > loadTo+45:
		return 1
	case t.at < loadFrom+40:
		return 2
	}
	return 3
}

func (t *teller) webReady() float64 {
	late := teller{t.start, t.at - 4}
	return min(t.webDesired(), late.webDesired())
}

func (t *teller) workerDesired() float64 {
	return math.Ceil(t.rise(burstFrom+10, burstFrom+40, 10) - t.rise(emptyAt-20, emptyAt+30, 10))
}

func (t *teller) workerReady() float64 {
	late := teller{t.start, t.at - 5}
	return min(t.workerDesired(), late.workerDesired())
}

func (t *teller) web() page.Tier {
	return page.Tier{
		Desired: page.Num(t.webDesired()), Current: page.Num(t.webDesired()), Ready: page.Num(t.webReady()),
		Min: page.Num(1), Max: page.Num(10),
	}
}

func (t *teller) worker() page.Tier {
	return page.Tier{
		Desired: page.Num(t.workerDesired()), Current: page.Num(t.workerDesired()), Ready: page.Num(t.workerReady()),
		Min: page.Num(0), Max: page.Num(10),
	}
}

func (t *teller) depth() float64 {
	up := t.rise(burstFrom, burstFrom+30, 900)
	return max(0, math.Round(up-t.rise(burstFrom+30, emptyAt, 900)))
}

func (t *teller) queue() page.Queue {
	q := page.Queue{Visible: page.Num(t.depth()), InFlight: page.Num(math.Round(min(t.depth(), t.workerReady()*10)))}
	if ready := t.workerReady(); ready > 0 {
		q.Target = page.Num(30 * ready)
	}
	return q
}

// traffic comes from Prometheus, but for what was asked.
func (t *teller) traffic() page.Traffic {
	f := page.Traffic{Asked: page.Num(t.asked()), Target: page.Num(10 * t.webReady())}
	if t.outage() {
		return f
	}
	crowded := t.asked() / (10 * t.webReady())
	f.Served = page.Num(max(0, t.asked()-0.2+t.noise(0.9)))
	f.P50 = page.Num(0.018*crowded + math.Abs(t.noise(0.003)))
	f.P99 = page.Num(0.07*crowded*crowded + 0.03 + math.Abs(t.noise(0.03)))
	bump := func(center, width, height float64) float64 {
		d := (t.at - center) / width
		return max(0, height*math.Exp(-d*d)-0.02)
	}
	f.E502, f.E503 = page.Num(bump(loadTo+46, 4, 1.4)), page.Num(bump(loadFrom+14, 6, 2.2))
	f.E504 = page.Num(bump(loadFrom+19, 5, 0.6))
	f.Total = map[string]page.Number{
		"200": page.Num(math.Floor(t.at * 18)),
		"502": page.Num(t.rise(loadTo+40, loadTo+52, 7)), "503": page.Num(math.Floor(t.rise(loadFrom, loadFrom+28, 22))),
		"504": page.Num(math.Floor(t.rise(loadFrom+10, loadFrom+28, 5))),
	}
	return f
}

const prometheusRefuses = "Get \"http://127.0.0.1:9090/api/v1/query\": dial tcp 127.0.0.1:9090: connect: connection refused"

func (t *teller) webHPA() page.HPA {
	each := t.asked() / t.webReady()
	h := page.HPA{
		Name:    "orders/web",
		Metrics: []page.Target{{Metric: "http_requests_per_second", Current: page.Num(each), Target: page.Num(10), Per: "pod"}},
		Conditions: []page.Condition{
			{Type: "AbleToScale", Status: "True", Reason: "ReadyForNewScale", Message: "recommended size matches current size", Since: t.start},
			{Type: "ScalingActive", Status: "True", Reason: "ValidMetricFound", Message: "the HPA was able to successfully calculate a replica count from pods metric http_requests_per_second", Since: t.start},
			{Type: "ScalingLimited", Status: "False", Reason: "DesiredWithinRange", Message: "the desired count is within the acceptable range", Since: t.start},
		},
	}
	h.Decision = fmt.Sprintf("It wants %.0f and has %.0f: http_requests_per_second is %.1f per pod, and 10 is the target.", t.webDesired(), t.webReady(), each)
	if t.webDesired() > 1 {
		h.Events = append(h.Events, page.Event{
			Time: t.time(loadFrom + 22), Reason: "SuccessfulRescale", Count: 1,
			Message: fmt.Sprintf("New size: %.0f; reason: pods metric http_requests_per_second above target", t.webDesired()),
		})
	}
	if t.outage() && t.at > outageFrom+15 {
		h.Decision = fmt.Sprintf("It holds %.0f: nobody can tell it the metric.", t.webReady())
		h.Metrics[0].Current = page.Number{}
		h.Conditions[1] = page.Condition{
			Type: "ScalingActive", Status: "False", Reason: "FailedGetPodsMetric", Since: t.time(outageFrom + 15),
			Message: "the HPA was unable to compute the replica count: unable to get metric http_requests_per_second: source prometheus has failed: " + prometheusRefuses,
		}
		h.Events = append([]page.Event{{
			Time: t.time(outageFrom + 15), Warning: true, Reason: "FailedGetPodsMetric", Count: 3,
			Message: "unable to get metric http_requests_per_second: " + prometheusRefuses,
		}}, h.Events...)
	}
	return h
}

func (t *teller) workerHPA() page.HPA {
	h := page.HPA{
		Name:    "orders/worker",
		Metrics: []page.Target{{Metric: "orders-queue-depth", Target: page.Num(30), Per: "worker"}},
		Conditions: []page.Condition{
			{Type: "AbleToScale", Status: "True", Reason: "SucceededRescale", Message: "the HPA controller was able to update the target scale", Since: t.start},
			{Type: "ScalingActive", Status: "True", Reason: "ValidMetricFound", Message: "the HPA was able to successfully calculate a replica count from external metric orders-queue-depth(nil)", Since: t.start},
			{Type: "ScalingLimited", Status: "False", Reason: "DesiredWithinRange", Message: "the desired count is within the acceptable range", Since: t.start},
		},
	}
	h.Decision = fmt.Sprintf("It wants %.0f and has %.0f: the queue has %.0f messages.", t.workerDesired(), t.workerReady(), t.depth())
	if ready := t.workerReady(); ready > 0 {
		h.Metrics[0].Current = page.Num(t.depth() / ready)
		h.Decision = fmt.Sprintf("It wants %.0f and has %.0f: orders-queue-depth is %.1f per worker, and 30 is the target.", t.workerDesired(), ready, t.depth()/ready)
	}
	if t.workerDesired() == 10 {
		h.Conditions[2] = page.Condition{
			Type: "ScalingLimited", Status: "True", Reason: "TooManyReplicas", Since: t.time(burstFrom + 40),
			Message: "the desired replica count is more than the maximum replica count",
		}
		h.Decision = fmt.Sprintf("It wants more than 10 and has %.0f, which is the most it may: the queue has %.0f messages.", t.workerReady(), t.depth())
	}
	if t.at > burstFrom+12 {
		h.Events = []page.Event{{
			Time: t.time(burstFrom + 12), Reason: "SuccessfulRescale", Count: 1,
			Message: "New size: 4; reason: external metric orders-queue-depth(nil) above target",
		}}
	}
	return h
}

func (t *teller) metrics() []page.Metric {
	now := math.Floor(t.at)
	queue := page.Metric{
		Name: "orders-queue-depth", Namespace: "orders", Value: fmt.Sprintf("%.0f", t.depth()),
		Measured: t.time(now - math.Mod(now, 60) - 2), Asked: t.time(now - math.Mod(now, 15)), Next: t.time(now - math.Mod(now, 15) + 15),
		Source: "cloudwatch eu-central-1", Query: "waiting + FILL(in_work, 0)",
	}
	requests := page.Metric{
		Name: "http_requests_per_second", Namespace: "orders", Value: fmt.Sprintf("%.0f", t.asked()),
		Measured: t.time(now - math.Mod(now, 5)), Asked: t.time(now - math.Mod(now, 5)), Next: t.time(now - math.Mod(now, 5) + 5),
		Source: "prometheus default", Query: `sum(rate(http_requests_total{namespace="orders",pod!=""}[1m])) by (pod)`,
	}
	cpu := page.Metric{Name: "cpu of pods", Namespace: "orders", Source: "prometheus default", Error: "no data: no series matches"}
	if t.outage() {
		requests.Measured, requests.Asked, requests.Next = t.time(outageFrom-1), t.time(outageFrom-1), t.time(now+4)
		requests.Error, requests.FailingSince = prometheusRefuses, t.time(outageFrom)
		cpu.Error, cpu.FailingSince = prometheusRefuses, t.time(outageFrom)
	}
	return []page.Metric{requests, queue, cpu}
}

func (t *teller) parts() []page.Part {
	var parts []page.Part
	for _, name := range []string{"adapter", "Prometheus", "AWS stand-in", "database", "load balancer", "control plane"} {
		parts = append(parts, page.Part{Name: name, State: page.Up, Since: t.start})
	}
	if t.outage() {
		parts[1] = page.Part{Name: "Prometheus", State: page.Down, Since: t.time(outageFrom), Says: prometheusRefuses}
	}
	return parts
}
