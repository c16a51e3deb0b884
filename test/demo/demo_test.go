package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/tidegauge/tidegauge/test/demo/page"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// The tests wait for a machine on which other tests run.
const (
	patience     = 12 * time.Minute
	stepPatience = 3 * time.Minute
	// absence is how long a part is away: longer than metricMaxAge, so that the HPAs get errors.
	absence = 12 * time.Second
)

// traces are what a demo could leave behind.
type traces struct {
	dir       string
	server    string // the stand-in's URL
	processes []env.ProcessID
	pods      []int // their processes
}

// follow notes in each phase what there is, and then does what is given for it.
func (found *traces) follow(t *testing.T, do map[phase]func(context.Context, *demo)) func(context.Context, *demo, phase) {
	t.Helper()
	t.Cleanup(func() {
		if err := os.RemoveAll(found.dir); err != nil {
			t.Error(err)
		}
	})
	return func(ctx context.Context, d *demo, p phase) {
		found.dir, found.server, found.processes, found.pods = d.dir, d.amazon.server.URL(), nil, nil
		for _, process := range d.cluster.Processes() {
			found.processes = append(found.processes, process.ID())
		}
		for _, pod := range d.runner.Pods() {
			if pod.PID != 0 {
				found.pods = append(found.pods, pod.PID)
			}
		}
		if do[p] != nil {
			do[p](ctx, d)
		}
	}
}

// check fails the test if anything is still there, beside files that are expected.
func (found *traces) check(t *testing.T, files ...string) {
	t.Helper()
	if len(found.processes) == 0 {
		t.Error("the demo started nothing")
	}
	for _, id := range found.processes {
		if id.Alive() {
			t.Errorf("%s still runs, as process %d", id.Name, id.PID)
		}
	}
	for _, pid := range found.pods {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("a pod still runs, as process %d", pid)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, found.server, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Error("the stand-in still answers")
	}
	left, err := filepath.Glob(filepath.Join(found.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if got, want := strings.Join(left, " "), strings.Join(files, " "); got != want {
		t.Errorf("files are left: %q, want %q", got, want)
	}
}

func TestStory(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var found traces
	var failed float64 // requests, while the first pods were not there yet
	var lost doomed
	err := Run(t.Context(), Options{
		Out: &out, Timeout: patience, stepLimit: stepPatience, Page: true,
		entered: found.follow(t, map[phase]func(context.Context, *demo){
			sending: func(ctx context.Context, d *demo) { failed = failures(d.collector.Snapshot(ctx)) },
			// In mid-message: each worker has one as long as the queue has any.
			draining: func(ctx context.Context, d *demo) { lost = killWorker(ctx, t, d) },
			falling:  func(_ context.Context, d *demo) { lost.check(t, d.worked, d.opts.Messages) },
			done: func(ctx context.Context, d *demo) {
				checkPage(ctx, t, d)
				checkDead(ctx, t, d)
				if now := failures(d.collector.Snapshot(ctx)); now != failed {
					t.Errorf("%v requests failed while web came and went, want none", now-failed)
				}
			},
		}),
	})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	found.check(t)
	for _, want := range []string{
		"HPA event: SuccessfulRescale", "workers 10 of 10", "0 → 10 workers in ", "10 → 0 workers in ",
		"HPA of web: SuccessfulRescale: New size: 1", "25 requests a second are served by 3 web pods", "web  3 of  3", "web  1 of  1", "1 → 3 web pods in ",
		"all 1000 orders are processed, each once", "restarts: 1)", "the page: http://127.0.0.1:",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing was shown of %q", want)
		}
	}
}

// failures are the requests that were answered by 500 and above, or not at all.
func failures(s page.Snapshot) (total float64) {
	for code, count := range s.Traffic.Total {
		if n, ok := count.Get(); ok && (code == "0" || code >= "500") {
			total += n
		}
	}
	return total
}

// doomed is what a worker counted before it was killed.
type doomed struct {
	processed int
	// unknown is how many orders it may have processed since it was asked.
	unknown int
}

// killWorker takes a worker's process away, as the kernel does that is out of memory.
func killWorker(ctx context.Context, t *testing.T, d *demo) doomed {
	t.Helper()
	pods := d.podsOf(workerName)
	if len(pods) == 0 {
		t.Error("there is no worker to kill")
		return doomed{}
	}
	counts, asked := map[string]float64{}, time.Now()
	err := d.insist(ctx, "asking the worker", func(ctx context.Context) error {
		clear(counts)
		asked = time.Now()
		return d.addCounts(ctx, counts, pods[0])
	})
	if err := errors.Join(err, d.runner.Kill(namespace, pods[0].Name)); err != nil {
		t.Error(err)
	}
	// It has one at a time, and Rate of them in a second.
	return doomed{processed: int(counts[ordersProcessed]), unknown: 1 + int(time.Since(asked).Seconds()*d.opts.Rate)}
}

// check fails the test unless the workers counted each order once, what the one that was killed
// counted included.
func (lost doomed) check(t *testing.T, w worked, placed int) {
	t.Helper()
	t.Logf("%+v, and the worker that was killed: %+v", w, lost)
	least := placed - lost.unknown
	if w.counting < maxWorkers {
		t.Logf("NOT TESTED: on this slow machine the HPA took %d workers away before they could be asked", maxWorkers-w.counting)
		least = 0
	}
	if sum := lost.processed + w.processed; sum > placed || sum < least {
		t.Errorf("the workers processed %d orders, want %d to %d", sum, least, placed)
	}
}

// checkPage asks the page for what it shows.
func checkPage(ctx context.Context, t *testing.T, d *demo) {
	t.Helper()
	text, err := fetchText(ctx, d.board.look().page+"snapshot.json")
	if err != nil {
		t.Error(err)
		return
	}
	var s page.Snapshot
	if err := json.Unmarshal(text, &s); err != nil {
		t.Error(err)
		return
	}
	if len(s.HPAs) != 2 || len(s.Metrics) == 0 {
		t.Errorf("the page has %d HPAs and %d metrics, want 2 and some", len(s.HPAs), len(s.Metrics))
	}
	for _, part := range s.Parts {
		if part.State != page.Up {
			t.Errorf("the page has %s %q: %s", part.Name, part.State, part.Says)
		}
	}
}

// checkDead fails the test if a worker took an order for poison.
func checkDead(ctx context.Context, t *testing.T, d *demo) {
	t.Helper()
	queue, err := d.amazon.queue.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(deadQueueName)})
	if err != nil {
		t.Error(err)
		return
	}
	const count = sqstypes.QueueAttributeNameApproximateNumberOfMessages
	out, err := d.amazon.queue.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: queue.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{count},
	})
	if err != nil {
		t.Error(err)
		return
	}
	if n := out.Attributes[string(count)]; n != "0" {
		t.Errorf("%s dead letters, want 0", n)
	}
}

// Whatever is away: the page says which, the HPAs hold, and everything recovers, or else the
// story would not get to the burst. The demo judges that itself, see playOutage. An adapter that
// ends when it is not to be away fails the story, though it was away before.
func TestStoryWithOutages(t *testing.T) {
	t.Parallel()
	stop := Parts()
	if err := env.CanRunPostgres(); err != nil {
		if os.Getenv(env.RequirePostgresVariable) != "" {
			t.Fatal(err)
		}
		t.Logf("NOT TESTED HERE, a database that is away: %v", err)
		stop = slices.DeleteFunc(stop, func(part string) bool { return part == Database })
	}
	var out bytes.Buffer
	var found traces
	err := Run(t.Context(), Options{
		Out: &out, Timeout: patience, stepLimit: stepPatience, Stop: stop, Outage: absence,
		entered: found.follow(t, map[phase]func(context.Context, *demo){sending: func(ctx context.Context, d *demo) {
			if _, err := d.adapter.Stop(ctx); err != nil {
				t.Error(err)
			}
		}}),
	})
	t.Log(out.String())
	checkError(t, err, "adapter ended by itself: exit status 0", "workers desired 0 and ready 0", "logs: "+found.dir)
	found.check(t, logFileName, bedLogs)
	for _, part := range stop {
		if want := part + " is back"; !strings.Contains(out.String(), want) {
			t.Errorf("nothing was shown of %q", want)
		}
	}
}

// When CloudWatch refuses to answer, the last good value serves, and then the HPA
// gets AWS's words.
func TestStoryWithoutMetric(t *testing.T) {
	t.Parallel()
	var found traces
	err := Run(t.Context(), Options{
		Timeout: patience, stepLimit: stepPatience, noLoad: true,
		entered: found.follow(t, map[phase]func(context.Context, *demo){
			sending: func(_ context.Context, d *demo) {
				d.amazon.server.Fault(fakeaws.Fault{Service: "cloudwatch", Operation: "GetMetricData", ErrorCode: "AccessDenied"})
			},
			// Longer than metricMaxAge.
			rising: func(_ context.Context, d *demo) { d.opts.stepLimit = 25 * time.Second },
		}),
	})
	checkError(t, err, rising.title(), "waited 25s for 10 ready workers", "queue 1000", "workers desired 0 and ready 0",
		"ScalingActive False FailedGetExternalMetric", "AccessDenied", "FailedGetExternalMetric", "logs: "+found.dir)
	found.check(t, logFileName, bedLogs)
	checkLogs(t, found.dir, logFileName, "logs/adapter.log", "logs/kube-controller-manager.log")
}

func TestInterruptedStory(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	var found traces
	err := Run(ctx, Options{
		Out: &out, Timeout: patience, stepLimit: stepPatience,
		TerminalSize: func() (width, height int, err error) { return 80, 24, nil },
		entered: found.follow(t, map[phase]func(context.Context, *demo){
			idle: func(context.Context, *demo) { cancel() },
		}),
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got the error %v, want one that wraps %v", err, context.Canceled)
	}
	found.check(t)
	if text := out.String(); strings.Count(text, enterScreen) != 1 || strings.Count(text, leaveScreen) != 1 {
		t.Errorf("the terminal was not restored: %q", text)
	}
}

func checkError(t *testing.T, err error, phrases ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	t.Log(err)
	if strings.Contains(err.Error(), "\n") {
		t.Error("the error has more than one line")
	}
	for _, want := range phrases {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q", want)
		}
	}
}

// checkLogs looks for logs that have text.
func checkLogs(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("log %s: %v, %v", name, info, err)
		}
	}
}

func TestOneLine(t *testing.T) {
	one, two := errors.New("one\nthe end of its log"), errors.New("two")
	err := oneLine(errors.Join(nil, fmt.Errorf("both: %w", one), errors.Join(two)))
	if want := "both: one; two"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, one) || !errors.Is(err, two) {
		t.Error("the error lost what it wraps")
	}
}

func TestOptions(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"few messages":  {Options{Messages: 270}, "270 messages are too few: the HPA wants 10 workers for more than 270"},
		"no rate":       {Options{Rate: -1}, "a rate of -1 messages a second is not above 0 and at most 100"},
		"great rate":    {Options{Rate: 101}, "a rate of 101 messages"},
		"many messages": {Options{Messages: 30_000}, "30000 messages take 10 workers 600 s at 5 a second each"},
		"little time":   {Options{Timeout: 10 * time.Second}, "longer than the time limit of 10s"},
		"no such part":  {Options{Stop: []string{"moon"}}, `there is no part "moon" to stop: there are aws, database, prometheus, adapter`},
		"short outage":  {Options{Stop: []string{AWS}, Outage: time.Second}, "an outage of 1s is less than 10s"},
		"long outage":   {Options{Stop: []string{AWS}, Outage: time.Hour}, "an outage of 1h0m0s is more than 59m0s"},
		"short day":     {Options{For: time.Minute, Period: time.Second}, "with a period of 1s cannot be"},
		"back in time":  {Options{For: -time.Minute}, "going on for -1m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			checkError(t, Run(t.Context(), test.options), test.want)
		})
	}
}
