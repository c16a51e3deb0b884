package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReplicas(t *testing.T) {
	t.Parallel()
	r := newReplicas()
	none := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	breaks := func(err error, words string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want %q", err, words)
		}
	}
	none(r.ofDeployment("jobs", 7)) // Nobody said what it should be.
	r.hold("jobs", 3)
	none(r.ofDeployment("jobs", 3))
	none(r.ofHPA("jobs", 3))
	breaks(r.ofHPA("jobs", 0), "HPA jobs has 0 replicas, and had 3; the demand is for 3")
	none(r.ofHPA("jobs", 0)) // That was told.
	breaks(r.ofDeployment("jobs", 4), "Deployment jobs has 4 replicas, and had 3")
	breaks(r.reached("jobs", 3), "the HPA wants 0, the Deployment has 4, the demand is for 3")
	none(r.ofHPA("jobs", 3))
	none(r.ofDeployment("jobs", 3))
	none(r.reached("jobs", 3))

	r.change("jobs", 5)
	none(r.ofHPA("jobs", 4))
	breaks(r.ofHPA("jobs", 6), "the demand goes from 3 to 5")
	breaks(r.ofHPA("jobs", 2), "the demand goes from 3 to 5")
	none(r.ofHPA("jobs", 5))
	none(r.ofDeployment("jobs", 5))
	r.hold("jobs", 5)
	breaks(r.ofHPA("jobs", 3), "the demand is for 5")

	r.release("jobs")
	none(r.ofHPA("jobs", 0))
}

// An HPA that never computed says 0, which is no number of replicas. One that computed
// and says 0 would remove every pod.
func TestComputed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status autoscalingv2.HorizontalPodAutoscalerStatus
		want   bool
	}{
		"new":              {},
		"blind":            {status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 3}},
		"has a number":     {status: autoscalingv2.HorizontalPodAutoscalerStatus{DesiredReplicas: 3}, want: true},
		"has scaled to 0":  {status: autoscalingv2.HorizontalPodAutoscalerStatus{LastScaleTime: &metav1.Time{Time: start}}, want: true},
		"has read nothing": {status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentMetrics: make([]autoscalingv2.MetricStatus, 1)}},
		"has read 0": {
			status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentMetrics: []autoscalingv2.MetricStatus{{Type: autoscalingv2.ExternalMetricSourceType}}},
			want:   true,
		},
	} {
		if got := computed(&autoscalingv2.HorizontalPodAutoscaler{Status: tc.status}); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestSeeTellsOfWhatMoves(t *testing.T) {
	t.Parallel()
	b := newChecks()
	b.replicas.hold("jobs", 3)
	hpa := (&workload{name: "jobs", kind: external}).hpa()
	b.see(hpa)
	expectBreak(t, b.tally, steady, "")
	hpa.Status.DesiredReplicas = 1
	b.see(hpa)
	expectBreak(t, b.tally, steady, "HPA jobs has 1 replicas")
	b.see(jobs.deployment())
	if got := b.tally.checked[steady]; got != 2 {
		t.Errorf("%d looks, want 2", got)
	}
}

func TestPods(t *testing.T) {
	t.Parallel()
	p := &pods{runs: map[string]map[string]time.Time{}}
	pod := func(name string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Status: corev1.PodStatus{Phase: phase},
		}
	}
	p.see(pod("web-a", corev1.PodRunning), at(0))
	p.see(pod("web-b", corev1.PodPending), at(0))
	p.see(pod("web-c", corev1.PodRunning), at(1))
	p.see(pod("web-a", corev1.PodRunning), at(9))
	if got, want := fmt.Sprint(p.of("web")), "[web-a web-c]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.throughout("web", at(1))), "[web-a]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ending := pod("web-a", corev1.PodRunning)
	ending.DeletionTimestamp = &metav1.Time{Time: at(10)}
	p.see(ending, at(10))
	p.gone(pod("web-c", corev1.PodRunning))
	if got := p.of("web"); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// resources are samples every 20 s, of a number of goroutines each; memory and files do not
// change.
func resources(goroutines ...float64) []sample {
	samples := make([]sample, len(goroutines))
	for i, n := range goroutines {
		samples[i] = sample{at: time.Duration(i) * 20 * time.Second, goroutines: n, memory: 200 << 20, heap: 30 << 20, files: 24}
	}
	return samples
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		samples []sample
		checked int
		grows   bool
	}{
		"too few":            {samples: resources(100, 1000, 2000, 3000)},
		"steady":             {samples: resources(160, 155, 158, 161, 154, 159, 160, 156), checked: 6},
		"warms up":           {samples: resources(50, 150, 158, 161, 154, 159, 160, 156), checked: 6},
		"a bit":              {samples: resources(150, 150, 152, 154, 156, 158, 160, 162), checked: 6},
		"one is far off":     {samples: resources(150, 150, 150, 150, 150, 150, 150, 900), checked: 6},
		"shrinks":            {samples: resources(900, 800, 700, 600, 500, 400, 300, 200), checked: 6},
		"one in each second": {samples: resources(150, 170, 190, 210, 230, 250, 270, 290), checked: 6, grows: true},
		"grows with noise":   {samples: resources(150, 160, 200, 190, 260, 240, 300, 290), checked: 6, grows: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChecks()
			b.rests, b.residentPart = tc.samples, part
			b.checkGrowth()
			words := ""
			if tc.grows {
				words = "goroutines grow"
			}
			expectBreak(t, b.tally, goroutines, words)
			if got := b.tally.checked[goroutines]; got != tc.checked {
				t.Errorf("%d samples are checked, want %d", got, tc.checked)
			}
		})
	}
}

func TestGrowthOfEachResource(t *testing.T) {
	t.Parallel()
	for of, grow := range map[invariant]func(s *sample, by float64){
		memory: func(s *sample, by float64) { s.memory += by * (10 << 20) },
		heap:   func(s *sample, by float64) { s.heap += by * (3 << 20) },
		files:  func(s *sample, by float64) { s.files += by * 3 },
	} {
		b := newChecks()
		b.rests, b.residentPart = resources(150, 150, 150, 150, 150, 150, 150, 150), part
		for i := range b.rests {
			grow(&b.rests[i], float64(i))
		}
		b.checkGrowth()
		expectBreak(t, b.tally, of, of.String()+" grow")
	}
}

// The race detector's own memory is no growth of the adapter, whose heap is looked at as
// strictly as ever.
func TestGrowthWithTheRaceDetector(t *testing.T) {
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := residentPart(binary); err != nil {
		t.Error(err)
	}
	b := newChecks()
	b.rests, b.residentPart = resources(150, 150, 150, 150, 150, 150, 150, 150), partRaced
	for i := range b.rests {
		b.rests[i].memory += float64(i) * (10 << 20)
	}
	b.checkGrowth()
	expectBreak(t, b.tally, memory, "")
	for i := range b.rests {
		b.rests[i].heap += float64(i) * (3 << 20)
	}
	b.checkGrowth()
	expectBreak(t, b.tally, heap, "heap grow")
}

func TestLog(t *testing.T) {
	t.Parallel()
	calm := "I1123 02:31:47.000000       1 main.go:1] \"Configuration not loaded\"\n"
	for name, tc := range map[string]struct {
		text         string
		lines        int
		alarm, flood string
	}{
		"calm":      {text: calm + calm, lines: 2},
		"race":      {text: calm + "==================\nWARNING: DATA RACE\n", lines: 3, alarm: "WARNING: DATA RACE"},
		"panic":     {text: "panic: runtime error: index out of range\n", lines: 1, alarm: "panic: runtime error"},
		"recovered": {text: "E1123 02:31:47.000000       1 runtime.go:1] \"Observed a panic\"\n", lines: 1, alarm: "Observed a panic"},
		"as many":   {text: strings.Repeat(calm, maxLines), lines: maxLines},
		"too many":  {text: strings.Repeat(calm, maxLines+1), lines: maxLines + 1, flood: "more than 500 lines in a minute"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l logReader
			half := len(tc.text) / 2 // A line may come in two parts.
			firstLines, firstAlarm, firstFlood := l.take(tc.text[:half], 61*time.Second)
			lines, alarm, flood := l.take(tc.text[half:], 62*time.Second)
			if got := firstLines + lines; got != tc.lines {
				t.Errorf("%d lines, want %d", got, tc.lines)
			}
			expectError(t, errors.Join(firstAlarm, alarm), tc.alarm)
			expectError(t, errors.Join(firstFlood, flood), tc.flood)
		})
	}
}

func expectError(t *testing.T, err error, words string) {
	t.Helper()
	if (err != nil) != (words != "") || err != nil && !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want %q", err, words)
	}
}

func TestLogCountsEachMinute(t *testing.T) {
	t.Parallel()
	var l logReader
	for minute := range 5 {
		text := strings.Repeat("line\n", maxLines)
		if _, _, flood := l.take(text, time.Duration(minute)*time.Minute); flood != nil {
			t.Errorf("minute %d: %v", minute, flood)
		}
	}
	if _, _, flood := l.take("one more\n", 4*time.Minute+59*time.Second); flood == nil {
		t.Error("a line more than there may be is not told of")
	}
	if l.most != maxLines+1 {
		t.Errorf("the most are %d, want %d", l.most, maxLines+1)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	var progress strings.Builder
	y := newTally(&progress, time.Now().Add(-451*time.Second))
	for i := range invariants {
		y.check(i, nil)
	}
	if err := y.report(Options{Seed: 7}).err(); err != nil {
		t.Errorf("everything holds, and the error is %v", err)
	}
	y.enter(phase{kind: faulty, faults: []chosen{{name: "AWS hangs", side: sideAWS, region: regions[0]}, {name: "a bad configuration"}}})
	for range maxBroken + 5 {
		y.check(honest, errors.New("short_jobs: an empty list"))
	}
	r := y.report(Options{Seed: 7})
	if err := r.err(); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "honest") {
		t.Errorf("the error is %v", err)
	}
	want := "07:31 honest: short_jobs: an empty list; during AWS hangs in eu-one-1 and a bad configuration"
	if got := r.Invariants[honest]; got.Broken != maxBroken+5 || len(got.Breaks) != maxBroken || got.Breaks[0] != want {
		t.Errorf("%d broken, and %d told, the first: %s", got.Broken, len(got.Breaks), got.Breaks[0])
	}
	if !strings.Contains(progress.String(), "07:31 BROKEN honest: short_jobs: an empty list; during AWS hangs") {
		t.Errorf("progress is %s", progress.String())
	}
	var table strings.Builder
	if err := r.write(Options{Out: &table}); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"seed 7", "honest no 16 reads 15", "BROKEN " + want, "and honest 5 times more", "AWS hangs"} {
		if !strings.Contains(strings.Join(strings.Fields(table.String()), " "), words) {
			t.Errorf("%q is not in\n%s", words, table.String())
		}
	}
	var text strings.Builder
	if err := r.write(Options{Out: &text, JSON: true}); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal([]byte(text.String()), &back); err != nil || back.Invariants[honest].Broken != maxBroken+5 || back.Faults["AWS hangs"] != 1 {
		t.Errorf("%v: %s", err, text.String())
	}
}

// An invariant that nobody looked at does not hold.
func TestReportOfWhatWasNotChecked(t *testing.T) {
	t.Parallel()
	y := newTally(io.Discard, time.Now())
	for i := range invariants {
		if i != follows {
			y.check(i, nil)
		}
	}
	if err := y.report(Options{}).err(); !errors.Is(err, ErrShort) || !strings.HasSuffix(err.Error(), ": follows") {
		t.Errorf("the error is %v", err)
	}
}

func TestLogIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	y := newTally(io.Discard, time.Now())
	file := filepath.Join(dir, "adapter.log")
	if err := y.keep(file, "started"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "started" {
		t.Errorf("the file has %q, %v", text, err)
	}
	var progress strings.Builder
	y = newTally(&progress, time.Now())
	if err := y.keep("", "started"); err != nil || progress.Len() > 0 {
		t.Errorf("nothing broke: %v, %s", err, progress.String())
	}
}

// The bad configurations are bad in the way that they say, and differ from the good one.
func TestBadConfigurationsDiffer(t *testing.T) {
	t.Parallel()
	for i, bad := range badConfigurations() {
		if bad == configuration {
			t.Errorf("the bad configuration %d is the good one", i)
		}
	}
}

func TestEveryInvariantHasWords(t *testing.T) {
	t.Parallel()
	for i := range invariants {
		if r := rulebook[i]; r.name == "" || r.text == "" || r.unit == "" {
			t.Errorf("invariant %d has %+v", i, r)
		}
	}
}
