package soak

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// start is when the tests' soaks begin.
var start = time.Unix(1_000_000, 0)

// at is some seconds after start.
func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

var (
	jobs = &workload{name: "jobs", kind: external, metric: "short_jobs", series: "external_short_jobs", maxAge: shortAge}
	web  = &workload{name: "web", kind: ofPods, metric: "short_web", series: "soak_short_web", maxAge: shortAge}
)

// newChecks is a bed with nothing but what is checked with: a value of jobs was to be had
// from second 0 to 5, one of web's pods at second 5, and both pods run since second -100.
func newChecks() *bed {
	b := &bed{
		tally: newTally(io.Discard, start), truth: newTruth(), replicas: newReplicas(),
		pods:  &pods{runs: map[string]map[string]time.Time{"web": {"web-a": at(-100), "web-b": at(-100)}}},
		fresh: &freshness{last: map[string]time.Time{}}, episodes: &episodes{},
	}
	b.truth.publish(jobs.series, 89_400_000, at(0), at(0))
	b.truth.publish(jobs.series, 89_300_000, at(5), at(5))
	for _, pod := range []string{"web-a", "web-b"} {
		b.truth.answered(web.seriesOf(pod), 29_400_000, at(5), at(5))
	}
	return b
}

// one is a read that begins at a second.
func one(w *workload, second float64, status int, body string) read {
	return read{workload: w, began: at(second), ended: at(second + 0.1), status: status, body: []byte(body)}
}

func jobsList(items ...string) string {
	return `{"kind":"ExternalMetricValueList","items":[` + strings.Join(items, ",") + `]}`
}

func jobsItem(second float64, value string) string {
	return fmt.Sprintf(`{"metricName":"short_jobs","timestamp":%q,"value":%q}`, at(second).UTC().Format(time.RFC3339), value)
}

func webList(pods ...string) string {
	items := make([]string, len(pods))
	for i, pod := range pods {
		items[i] = fmt.Sprintf(`{"describedObject":{"name":%q},"timestamp":%q,"value":"29400m"}`, pod, at(5).UTC().Format(time.RFC3339))
	}
	return `{"kind":"MetricValueList","items":[` + strings.Join(items, ",") + `]}`
}

func failure(code int, message string) string {
	return fmt.Sprintf(`{"kind":"Status","status":"Failure","code":%d,"message":%q}`, code, message)
}

// during begins a fault at a second.
func during(b *bed, name string, second float64) *episode {
	f := faultOf(name)
	return b.episodes.begin(f, chosen{name: f.name, side: f.side}, at(second))
}

func TestReads(t *testing.T) {
	t.Parallel()
	refused := "external metric soak/short_jobs: source prometheus has failed since …: dial tcp: connection refused"
	tests := map[string]struct {
		read  read
		fault string // since second 6
		// breaks is the invariant that the answer breaks, and words are of what is told.
		breaks invariant
		words  string
	}{
		"value of now":              {read: one(jobs, 6, 200, jobsList(jobsItem(5, "89300m")))},
		"value as old as it may be": {read: one(jobs, 15, 200, jobsList(jobsItem(0, "89400m")))},
		"value that is too old": {
			read: one(jobs, 15.001, 200, jobsList(jobsItem(0, "89400m"))), breaks: young, words: "was last to be had from the backend 10.001s before the read",
		},
		"value that is too old in a fault": {
			read: one(jobs, 16, 200, jobsList(jobsItem(0, "89400m"))), fault: "Prometheus is away", breaks: young, words: "11s",
		},
		"zero":                  {read: one(jobs, 6, 200, jobsList(jobsItem(5, "0"))), breaks: genuine, words: "0, which the backend did not have"},
		"value that never was":  {read: one(jobs, 6, 200, jobsList(jobsItem(5, "89350m"))), breaks: genuine, words: "89.35, which the backend did not have"},
		"truncated value":       {read: one(jobs, 6, 200, jobsList(jobsItem(5, "89"))), breaks: genuine, words: "89, which"},
		"time of asking":        {read: one(jobs, 8, 200, jobsList(jobsItem(8, "89300m"))), breaks: genuine, words: "has the time"},
		"empty list":            {read: one(jobs, 6, 200, jobsList()), breaks: honest, words: "an empty list"},
		"empty list in a fault": {read: one(jobs, 7, 200, jobsList()), fault: "Prometheus hangs", breaks: honest, words: "an empty list"},
		"empty list where the backend has nothing": {read: one(jobs, 7, 200, jobsList()), fault: "Prometheus answers nothing"},
		"two items":  {read: one(jobs, 6, 200, jobsList(jobsItem(5, "89300m"), jobsItem(5, "89300m"))), breaks: honest, words: "2 items"},
		"not a list": {read: one(jobs, 6, 200, `{"kind":"Status"}`), breaks: honest, words: "kind is Status"},
		"not JSON":   {read: one(jobs, 6, 200, `oops`), breaks: honest, words: "oops"},
		"not found":  {read: one(jobs, 6, 404, failure(404, "no external metric")), breaks: honest, words: "404"},
		"a 404 of a fault": {
			read: one(jobs, 7, 404, failure(404, refused)), fault: "Prometheus is away", breaks: honest, words: "404",
		},
		"a 404 where the backend has nothing": {read: one(jobs, 7, 404, failure(404, "no data")), fault: "Prometheus answers nothing"},
		"a 403":                               {read: one(jobs, 7, 403, failure(403, "forbidden")), breaks: honest, words: "403"},
		"honest error":                        {read: one(jobs, 7, 503, failure(503, refused)), fault: "Prometheus is away"},
		"too many requests":                   {read: one(jobs, 7, 429, failure(429, refused)), fault: "Prometheus is away"},
		"error without a fault":               {read: one(jobs, 7, 503, failure(503, refused)), breaks: honest, words: "nothing is wrong with its backend"},
		"error in a fault of another backend": {
			read: one(jobs, 7, 503, failure(503, refused)), fault: "AWS is away", breaks: honest, words: "nothing is wrong with its backend",
		},
		"error of a listing that may not matter": {
			read: one(jobs, 7, 503, failure(503, refused)), fault: "Prometheus lists nothing", breaks: honest, words: "nothing is wrong with its backend",
		},
		"error that names no cause": {
			read: one(jobs, 7, 503, failure(503, "internal error")), fault: "Prometheus is away", breaks: honest, words: "does not name the cause: internal error",
		},
		"error that is no status": {read: one(jobs, 7, 502, "Bad Gateway"), fault: "Prometheus is away", breaks: honest, words: "Bad Gateway"},
		"no answer":               {read: read{workload: jobs, began: at(6), ended: at(36), err: errors.New("timeout")}, breaks: honest, words: "no answer after 30s: timeout"},
		"all pods":                {read: one(web, 6, 200, webList("web-a", "web-b"))},
		"a pod is missing":        {read: one(web, 6, 200, webList("web-a")), breaks: honest, words: "pod web-b is missing from 1 items"},
		"pod that never was":      {read: one(web, 6, 200, webList("web-a", "web-b", "web-c")), breaks: genuine, words: "soak_short_web/web-c"},
		"no pods":                 {read: one(web, 6, 200, webList()), breaks: honest, words: "an empty list"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChecks()
			if tc.fault != "" {
				during(b, tc.fault, 6)
			}
			b.judge(tc.read)
			expectBreak(t, b.tally, tc.breaks, tc.words)
		})
	}
}

// expectBreak fails the test unless just that invariant broke, and is told of with the
// words; none without words.
func expectBreak(t *testing.T, y *tally, of invariant, words string) {
	t.Helper()
	r := y.report(Options{})
	for i, result := range r.Invariants {
		if want := invariant(i) == of && words != ""; want != (result.Broken > 0) {
			t.Errorf("%s is broken %d times: %v", result.Name, result.Broken, result.Breaks)
		}
	}
	if words != "" && !strings.Contains(strings.Join(r.Invariants[of].Breaks, "\n"), words) {
		t.Errorf("%q is not in %q", words, r.Invariants[of].Breaks)
	}
}

// An error in a fault's words is for the time until all is fresh again, and in the regions
// that it is in.
func TestErrorsEndWithTheFault(t *testing.T) {
	t.Parallel()
	b := newChecks()
	e := during(b, "Prometheus is away", 6)
	b.episodes.end(e, at(20))
	refused := failure(503, "connection refused")
	b.judge(one(jobs, 19.95, 503, refused))
	expectBreak(t, b.tally, honest, "")
	b.judge(one(jobs, 20.05, 503, refused))
	expectBreak(t, b.tally, honest, "nothing is wrong")

	f := faultOf("AWS throttles")
	for region, want := range map[string]bool{"": true, regions[0]: true, regions[1]: false} {
		w := &workload{kind: cloudWatch, region: regions[0]}
		if got := f.affects(chosen{region: region}, w); got != want {
			t.Errorf("throttling in %q affects %s: %v, want %v", region, w.region, got, want)
		}
	}
}

// While kube-apiserver is away nobody can say who may read: errors do not count then. What
// the adapter answers all the same does.
func TestReadsWithoutAPIServer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		read    read
		breaks  invariant
		words   string
		excused int
	}{
		"nobody knows the reader":        {read: one(jobs, 7, 401, "Unauthorized"), excused: 1},
		"kube-apiserver does not answer": {read: read{workload: jobs, began: at(7), ended: at(7), err: io.EOF, aggregated: true}, excused: 1},
		"zero":                           {read: one(jobs, 7, 200, jobsList(jobsItem(5, "0"))), breaks: genuine, words: "0, which"},
		"a 404":                          {read: one(jobs, 7, 404, failure(404, "no external metric")), breaks: honest, words: "404"},
		"the adapter does not answer":    {read: read{workload: jobs, began: at(7), ended: at(7), err: io.EOF}, breaks: honest, words: "EOF"},
		"before it":                      {read: one(jobs, 5, 401, "Unauthorized"), breaks: honest, words: "401"},
		"after it":                       {read: one(jobs, 11, 401, "Unauthorized"), breaks: honest, words: "401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChecks()
			b.away.begin(at(6))
			b.away.end(at(10))
			b.judge(tc.read)
			expectBreak(t, b.tally, tc.breaks, tc.words)
			if b.tally.excused != tc.excused {
				t.Errorf("%d reads are excused, want %d", b.tally.excused, tc.excused)
			}
		})
	}
}

// A metric is fresh again when a value was read that the backend had after the fault.
func TestFreshness(t *testing.T) {
	t.Parallel()
	b := newChecks()
	all := []*workload{jobs, web}
	b.judge(one(jobs, 6, 200, jobsList(jobsItem(0, "89400m"))))
	b.judge(one(web, 6, 200, webList("web-a", "web-b")))
	if got := b.fresh.stale(all, at(5)); len(got) != 1 || got[0] != "jobs" {
		t.Errorf("stale are %v, want jobs", got)
	}
	b.judge(one(jobs, 6, 200, jobsList(jobsItem(5, "89300m"))))
	if got := b.fresh.stale(all, at(5)); len(got) != 0 {
		t.Errorf("stale are %v, want none", got)
	}
	if got := b.fresh.stale(all, at(5.001)); len(got) != 2 {
		t.Errorf("stale are %v, want both", got)
	}
}

// A list of which one pod's value is of before the fault is not fresh.
func TestFreshnessIsOfTheOldestPod(t *testing.T) {
	t.Parallel()
	b := newChecks()
	b.truth.answered(web.seriesOf("web-b"), 29_400_000, at(5), at(2))
	b.judge(one(web, 6, http.StatusOK, webList("web-a", "web-b")))
	if got := b.fresh.stale([]*workload{web}, at(3)); len(got) != 1 {
		t.Errorf("stale are %v, want web", got)
	}
}
