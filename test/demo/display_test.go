package demo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	var out strings.Builder
	l := newDisplay(Options{Out: &out})
	s := snapshot{steps: []step{{100 * time.Millisecond, "one"}, {200 * time.Millisecond, "two"}}, elapsed: time.Second}
	show := func(change func()) {
		t.Helper()
		change()
		if err := l.show(s); err != nil {
			t.Fatal(err)
		}
	}
	show(func() {})
	show(func() {
		s.phase, s.elapsed = idle, 2300*time.Millisecond
		s.steps = append(s.steps, step{2200 * time.Millisecond, "three"})
	})
	show(func() { s.elapsed = 2900 * time.Millisecond })
	show(func() {
		s.elapsed = 3100 * time.Millisecond
		s.hpa.event, s.hpa.eventAt = "Failed: "+strings.Repeat("why\n", 100), 3*time.Second
	})
	show(func() { s.hpa.eventAt = 4 * time.Second }) // The same again.
	s = over()
	s.steps = nil
	l = &lines{out: &out, event: s.hpa.event, next: time.Hour}
	if err := l.close(s); err != nil {
		t.Fatal(err)
	}
	want := `   0.1s  one
   0.2s  two
   2.2s  three
   2.3s  idle   queue     -  CloudWatch     -  HPA sees     -/30  workers  - of  -  web  - of  -
   3.0s  HPA event: Failed: ` + strings.Repeat("why ", 67) + `why
   3.1s  idle   queue     -  CloudWatch     -  HPA sees     -/30  workers  - of  -  web  - of  -
  83.4s  done   queue     0  CloudWatch     0  HPA sees     -/30  workers  0 of  0  web  2 of  3
1 → 3 web pods in 11.3 s, and back to 1 in 17.4 s after the load.
0 → 10 workers in 11.1 s, from the first message until all were ready.
10 → 0 workers in 10.2 s; the last one left 10.9 s after the last message.
The HPA read the metric 25 times, 24 of them from the adapter's memory.
The adapter asked CloudWatch 26 times, for 52 metrics: $0.00052.
Asked once a minute, as in production: $0.88 a month for any number of HPAs.
All 1000 orders are processed, each once (duplicates: 0, restarts: 0).
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
}

func TestTerminal(t *testing.T) {
	width, height := 21, 4
	var sizeErr error
	var out strings.Builder
	view := newDisplay(Options{Out: &out, TerminalSize: func() (int, int, error) { return width, height, sizeErr }})
	start := snapshot{steps: []step{{time.Second, "etcd is ready"}, {2 * time.Second, "kwok is ready"}}}
	written := func(do func(snapshot) error) string {
		t.Helper()
		out.Reset()
		if err := do(start); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}

	frame := "\x1b[Htidegauge demo  0:00\x1b[K\r\n\x1b[K\r\n   1.0s  etcd is rea\x1b[K\r\n   2.0s  kwok is rea\x1b[K\x1b[J"
	got := []string{written(view.show), written(view.show)}
	width = 11
	got = append(got, written(view.show))
	sizeErr = errors.New("no terminal any more")
	got = append(got, written(view.close), written(view.close))

	whole := "tidegauge demo  0:00  Kubernetes, an AWS stand-in and the adapter start\n\n   1.0s  etcd is ready\n   2.0s  kwok is ready\n"
	want := []string{
		"\x1b[?1049h\x1b[?25l\x1b[2J" + frame,
		frame,
		"\x1b[2J\x1b[Htidegauge\x1b[K\r\n\x1b[K\r\n   1.0s  e\x1b[K\r\n   2.0s  k\x1b[K\x1b[J",
		"\x1b[?25h\x1b[?1049l" + whole,
		whole,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was written differs (-want +got):\n%s", diff)
	}
}
