package demo

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// half is a snapshot in the middle of the story.
func half() snapshot {
	return snapshot{
		elapsed: 83400 * time.Millisecond,
		phase:   rising,
		steps:   []step{{0, "the AWS stand-in is ready, with an empty queue"}, {2345 * time.Millisecond, "etcd is ready"}},
		queue:   depth{known: true, messages: 612},
		metric:  depth{known: true, messages: 640, measured: 80 * time.Second},
		hpa: hpa{
			average:   "76.5",
			condition: "ScalingLimited True TooManyReplicas: the desired replica count is more than the maximum replica count",
			event:     "SuccessfulRescale: New size: 10; reason: external metric jobs-depth(nil) above target",
			eventAt:   81 * time.Second,
		},
		workers: workers{known: true, desired: 10, running: 10, ready: 8},
		web:     workers{known: true, desired: 3, running: 3, ready: 2},
		history: []point{{0, 1}, {0, 0}, {1000, 0}, {990, 4}, {820, 4}, {612, 8}},
	}
}

// over is the snapshot at the end.
func over() snapshot {
	s := half()
	s.phase, s.workers, s.hpa.average = done, workers{known: true}, ""
	s.queue, s.metric = depth{known: true}, depth{known: true, measured: 82 * time.Second}
	s.summary = &summary{
		up: 11100 * time.Millisecond, down: 10200 * time.Millisecond, late: 10900 * time.Millisecond,
		usage: usage{reads: 25, waited: 1, calls: 26, metrics: 52},
		webUp: 11300 * time.Millisecond, webDown: 17400 * time.Millisecond, orders: worked{}.verdict(1000),
	}
	return s
}

func TestScreen(t *testing.T) {
	start := half()
	start.phase = starting
	for name, test := range map[string]struct {
		snapshot      snapshot
		width, height int
		want          string
	}{
		"before anything": {snapshot: snapshot{phase: idle}, width: 80, height: 24, want: `
tidegauge demo  0:00  the queue is empty, and the HPA takes the workers to 0

queue        nothing yet
CloudWatch   nothing yet
the HPA sees no average: there was no worker to divide by
workers      desired 0, ready 0
web          desired 0, ready 0

queue      1


ready     10



HPA event    nothing yet
HPA says     nothing yet
`},
		"starting": {snapshot: start, width: 80, height: 24, want: `
tidegauge demo  1:23  Kubernetes, an AWS stand-in and the adapter start

   0.0s  the AWS stand-in is ready, with an empty queue
   2.3s  etcd is ready
`},
		"starting, on few lines": {snapshot: start, width: 80, height: 3, want: `
tidegauge demo  1:23  Kubernetes, an AWS stand-in and the adapter start

   2.3s  etcd is ready
`},
		"in the middle": {snapshot: half(), width: 80, height: 24, want: `
tidegauge demo  1:23  the HPA takes the workers from 0 to 10

queue        612 messages
CloudWatch   640 messages, measured 3 s ago
the HPA sees 76.5 a worker, and wants 30
workers      desired 10, ready 8  ■■■■■■■■□□
web          desired 3, ready 2  ■■□

queue   1000   ██▄
               ███▇
             ▁▁████
ready     10      ▄
                ▂▂█
             ▃▁▁███

HPA event    2 s ago: SuccessfulRescale: New size: 10; reason: external metric j
HPA says     ScalingLimited True TooManyReplicas: the desired replica count is m
`},
		"narrow and low": {snapshot: half(), width: 30, height: 9, want: `
tidegauge demo  1:23  the HPA

queue        612 messages
CloudWatch   640 messages, mea
the HPA sees 76.5 a worker, an
workers      desired 10, ready
web          desired 3, ready

queue   1000 ▁▁██▇▅
`},
		"the end": {snapshot: over(), width: 80, height: 24, want: `
tidegauge demo  1:23  the HPA took the workers from 0 to 10 and back to 0

queue        0 messages
CloudWatch   0 messages, measured 1 s ago
the HPA sees no average: there was no worker to divide by
workers      desired 0, ready 0
web          desired 3, ready 2  ■■□

queue   1000   ██▄
               ███▇
             ▁▁████
ready     10      ▄
                ▂▂█
             ▃▁▁███

1 → 3 web pods in 11.3 s, and back to 1 in 17.4 s after the load.
0 → 10 workers in 11.1 s, from the first message until all were ready.
10 → 0 workers in 10.2 s; the last one left 10.9 s after the last message.
The HPA read the metric 25 times, 24 of them from the adapter's memory.
The adapter asked CloudWatch 26 times, for 52 metrics: $0.00052.
Asked once a minute, as in production: $0.88 a month for any number of HPAs.
All 1000 orders are processed, each once (duplicates: 0, restarts: 0).
`},
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for _, r := range test.snapshot.screen(test.width, test.height) {
				got.WriteString(r.text(test.width) + "\n")
			}
			if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), got.String()); diff != "" {
				t.Errorf("the screen differs (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the size, the screen is no larger.
func TestScreenFits(t *testing.T) {
	for _, s := range []snapshot{{}, half(), over()} {
		for width := range 100 {
			for height := range 30 {
				rows := s.screen(width, height)
				if len(rows) > height {
					t.Fatalf("%d×%d: %d rows", width, height, len(rows))
				}
				for _, r := range rows {
					if n := utf8.RuneCountInString(r.text(width)); n > width {
						t.Fatalf("%d×%d: %d characters: %s", width, height, n, r.text(width))
					}
				}
			}
		}
	}
}

func TestStyled(t *testing.T) {
	r := row{{"bold", bold}, {" plain ", plain}, {"gr\x1b[31m\neen", green}}
	for width, want := range map[int]string{
		0:  "\x1b[1m\x1b[0m\x1b[32m\x1b[0m",
		2:  "\x1b[1mbo\x1b[0m\x1b[32m\x1b[0m",
		80: "\x1b[1mbold\x1b[0m plain \x1b[32mgr [31m een\x1b[0m",
	} {
		if got := r.styled(width); got != want {
			t.Errorf("width %d: got %q, want %q", width, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	for name, test := range map[string]struct {
		snapshot snapshot
		want     string
	}{
		"before anything": {snapshot{}, "   0.0s  start  queue     -  CloudWatch     -  HPA sees     -/30  workers  - of  -  web  - of  -"},
		"in the middle":   {half(), "  83.4s  up     queue   612  CloudWatch   640  HPA sees  76.5/30  workers  8 of 10  web  2 of  3"},
		"the end":         {over(), "  83.4s  done   queue     0  CloudWatch     0  HPA sees     -/30  workers  0 of  0  web  2 of  3"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.snapshot.line()); diff != "" {
				t.Errorf("the line differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFit(t *testing.T) {
	values := []int{1, 9, 2, 3, 8, 4, 5}
	for columns, want := range map[int][]int{
		0: {}, 1: {9}, 3: {9, 3, 8}, 7: values, 8: values,
	} {
		if diff := cmp.Diff(want, fit(values, columns)); diff != "" {
			t.Errorf("%d columns (-want +got):\n%s", columns, diff)
		}
	}
}
