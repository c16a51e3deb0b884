package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// frameInterval is the time between two looks at the board.
	frameInterval = 200 * time.Millisecond
	// lineInterval is the time between two lines for a pipe.
	lineInterval = time.Second

	fallbackWidth, fallbackHeight = 80, 24
)

// display shows snapshots, one after the other.
type display interface {
	show(s snapshot) error
	// close shows the last snapshot in a way that stays.
	close(s snapshot) error
}

func newDisplay(o Options) display {
	if o.TerminalSize == nil {
		return &lines{out: o.Out}
	}
	return &terminal{out: o.Out, size: o.TerminalSize, color: o.Color}
}

// terminal shows each snapshot in place of the one before, on the terminal's second
// screen, so that no resize of the window can leave torn lines behind.
type terminal struct {
	out   io.Writer
	size  func() (width, height int, err error)
	color bool
	open  bool
	width int
}

// Control sequences of xterm, which others understand too
// (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	clearScreen = "\x1b[2J"
	topLeft     = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

func (t *terminal) show(s snapshot) error {
	var b strings.Builder
	if !t.open {
		b.WriteString(enterScreen)
		t.open = true
	}
	width, height := t.dimensions()
	if width != t.width {
		b.WriteString(clearScreen)
		t.width = width
	}
	b.WriteString(topLeft)
	for i, r := range s.screen(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(t.paint(r, width) + clearRight)
	}
	b.WriteString(clearBelow)
	_, err := io.WriteString(t.out, b.String()) // In one piece, or it would flicker.
	return err
}

func (t *terminal) close(s snapshot) error {
	var b strings.Builder
	if t.open {
		b.WriteString(leaveScreen)
		t.open = false
	}
	width, _ := t.dimensions()
	for _, r := range s.screen(width, fallbackHeight) {
		b.WriteString(t.paint(r, width) + "\n")
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

// dimensions leave the last column free: some terminals go to the next line when it
// is written.
func (t *terminal) dimensions() (width, height int) {
	width, height, err := t.size()
	if err != nil || width <= 0 || height <= 0 {
		width, height = fallbackWidth, fallbackHeight
	}
	return width - 1, height
}

func (t *terminal) paint(r row, width int) string {
	if t.color {
		return r.styled(width)
	}
	return r.text(width)
}

// lines writes a line each second, and one for whatever happens.
type lines struct {
	out   io.Writer
	steps int           // how many were written
	event string        // the one that was written last
	next  time.Duration // when the next line is due
}

func (l *lines) show(s snapshot) error {
	return l.write(l.due(s))
}

func (l *lines) close(s snapshot) error {
	l.next = 0
	due := l.due(s)
	if s.summary != nil {
		due = append(due, s.summary.lines()...)
	}
	return l.write(due)
}

// due are the lines that the snapshot brings.
func (l *lines) due(s snapshot) []string {
	var due []string
	for _, step := range s.steps[l.steps:] {
		due = append(due, seconds(step.at)+"  "+step.text)
	}
	l.steps = len(s.steps)
	if s.hpa.event != l.event { // A failure is told again at each sync.
		l.event = s.hpa.event
		due = append(due, row{{fmt.Sprintf("%s  HPA event: %s", seconds(s.hpa.eventAt), s.hpa.event), plain}}.text(maxLine))
	}
	if s.phase != starting && s.elapsed >= l.next {
		l.next = s.elapsed.Truncate(lineInterval) + lineInterval
		due = append(due, s.line())
	}
	return due
}

// maxLine keeps what others wrote from flooding a log.
const maxLine = 300

func (l *lines) write(due []string) error {
	if len(due) == 0 {
		return nil
	}
	_, err := io.WriteString(l.out, strings.Join(due, "\n")+"\n")
	return err
}
