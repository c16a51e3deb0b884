package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// The tests wait for a machine on which other tests run.
const (
	patience     = 4 * time.Minute
	stepPatience = 2 * time.Minute
)

// traces are what a demo could leave behind.
type traces struct {
	dir       string
	server    string // the stand-in's URL
	processes []env.ProcessID
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
		found.dir, found.server, found.processes = d.dir, d.amazon.server.URL(), nil
		for _, process := range d.cluster.Processes() {
			found.processes = append(found.processes, process.ID())
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
	err := Run(t.Context(), Options{Out: &out, Timeout: patience, stepLimit: stepPatience, entered: found.follow(t, nil)})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	found.check(t)
	for _, want := range []string{"HPA event: SuccessfulRescale", "desired 10  ready 10", "0 → 10 workers in ", "10 → 0 workers in "} {
		if !strings.Contains(out.String(), want) {
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
		Timeout: patience,
		// Longer than the maxAge of the manifest.
		stepLimit: 45 * time.Second,
		entered: found.follow(t, map[phase]func(context.Context, *demo){sending: func(_ context.Context, d *demo) {
			d.amazon.server.Fault(fakeaws.Fault{Service: "cloudwatch", Operation: "GetMetricData", ErrorCode: "AccessDenied"})
		}}),
	})
	checkError(t, err, rising.title(), "waited 45s for 10 ready workers", "queue 1000", "workers desired 0 and ready 0",
		"ScalingActive False FailedGetExternalMetric", "AccessDenied", "FailedGetExternalMetric", "logs: "+found.dir)
	found.check(t, logFileName, bedLogs)
	checkLogs(t, found.dir, logFileName, "logs/adapter.log", "logs/kube-controller-manager.log")
}

func TestStoryWithoutAdapter(t *testing.T) {
	t.Parallel()
	var found traces
	err := Run(t.Context(), Options{
		Timeout: patience, stepLimit: stepPatience,
		entered: found.follow(t, map[phase]func(context.Context, *demo){sending: func(ctx context.Context, d *demo) {
			if _, err := d.adapter.Stop(ctx); err != nil {
				t.Error(err)
			}
		}}),
	})
	checkError(t, err, "adapter ended by itself: exit status 0", "workers desired 0 and ready 0", "logs: "+found.dir)
	found.check(t, logFileName, bedLogs)
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
		"many messages": {Options{Messages: 10_000}, "10000 messages take 10 workers 200 s at 5 a second each"},
		"little time":   {Options{Timeout: 10 * time.Second}, "longer than the time limit of 10s"},
	} {
		t.Run(name, func(t *testing.T) {
			checkError(t, Run(t.Context(), test.options), test.want)
		})
	}
}
