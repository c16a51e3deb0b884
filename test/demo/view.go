package demo

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	labelWidth = 12
	// fullHeight is the least height of a terminal for plots of several rows.
	fullHeight = 22
	plotRows   = 3
)

// style is how a piece of text looks.
type style int

const (
	plain style = iota
	bold
	faint
	green
	yellow
)

// sequences are the terminal's, by style
// (https://www.ecma-international.org/publications-and-standards/standards/ecma-48/).
var sequences = [...]string{plain: "", bold: "\x1b[1m", faint: "\x1b[2m", green: "\x1b[32m", yellow: "\x1b[33m"}

const reset = "\x1b[0m"

// span is text of one style, and row is a line of them.
type (
	span struct {
		text  string
		style style
	}
	row []span
)

// text is the row without its styles, cut at the width.
func (r row) text(width int) string {
	var b strings.Builder
	for _, s := range r.cut(width) {
		b.WriteString(s.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// styled is the row for a terminal, cut at the width.
func (r row) styled(width int) string {
	var b strings.Builder
	for _, s := range r.cut(width) {
		if s.style == plain {
			b.WriteString(s.text)
			continue
		}
		b.WriteString(sequences[s.style] + s.text + reset)
	}
	return b.String()
}

// cut leaves what fits into the width. What others wrote (events, conditions) may
// hold anything: characters that do not print become blanks.
func (r row) cut(width int) row {
	var out row
	for _, s := range r {
		runes := []rune(strings.Map(printable, s.text))
		if len(runes) > width {
			runes = runes[:width]
		}
		width -= len(runes)
		out = append(out, span{string(runes), s.style})
	}
	return out
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

func labelled(label string, rest ...span) row {
	return append(row{{fmt.Sprintf("%-*s ", labelWidth, label), faint}}, rest...)
}

// screen is the snapshot for a terminal of that size, in no more rows than it has.
func (s *snapshot) screen(width, height int) []row {
	rows := []row{
		{{"tidegauge demo", bold}, {"  " + clock(s.elapsed) + "  ", plain}, {s.phase.title(), s.phaseStyle()}},
		s.subtitle(),
	}
	if s.phase == starting {
		rows = append(rows, s.stepRows(height-len(rows))...)
	} else {
		rows = append(rows, s.numberRows()...)
		rows = append(rows, s.plots(width, height)...)
		rows = append(rows, s.closingRows()...)
	}
	return rows[:min(len(rows), max(height, 0))]
}

// subtitle says what is away, and else where the page is.
func (s *snapshot) subtitle() row {
	switch {
	case s.away != "":
		return row{{s.away + " is stopped", yellow}}
	case s.page != "":
		return row{{s.page, faint}}
	}
	return nil
}

func (s *snapshot) phaseStyle() style {
	if s.phase == done {
		return green
	}
	return yellow
}

// stepRows are the latest steps.
func (s *snapshot) stepRows(height int) []row {
	var rows []row
	for _, step := range s.steps[max(0, len(s.steps)-max(height, 0)):] {
		rows = append(rows, row{{seconds(step.at) + "  ", faint}, {step.text, plain}})
	}
	return rows
}

func (s *snapshot) numberRows() []row {
	average := row{{"no average: there was no worker to divide by", faint}}
	if s.hpa.average != "" {
		average = row{{s.hpa.average, bold}, {fmt.Sprintf(" a worker, and wants %d", perWorker), plain}}
	}
	return []row{
		labelled("queue", s.queue.spans("")...),
		labelled("CloudWatch", s.metric.spans(s.age())...),
		labelled("the HPA sees", average...),
		s.workers.row("workers"),
		s.web.row("web"),
		nil,
	}
}

func (w workers) row(name string) row {
	bar := strings.Repeat("■", w.ready) + strings.Repeat("□", max(0, w.desired-w.ready))
	return labelled(name, span{fmt.Sprintf("desired %d, ready %d  ", w.desired, w.ready), bold}, span{bar, green})
}

func (d depth) spans(age string) row {
	if !d.known {
		return row{{"nothing yet", faint}}
	}
	return row{{strconv.Itoa(d.messages), bold}, {" messages", plain}, {age, faint}}
}

// age is how old the value is that CloudWatch gives.
func (s *snapshot) age() string {
	return fmt.Sprintf(", measured %.0f s ago", max(0, s.elapsed-s.metric.measured).Seconds())
}

func (s *snapshot) plots(width, height int) []row {
	count := plotRows
	if height < fullHeight {
		count = 1
	}
	columns := max(0, width-labelWidth-1)
	messages := plot{name: "queue", style: yellow, columns: columns, rows: count}
	ready := plot{name: "ready", style: green, columns: columns, rows: count, top: maxWorkers}
	for _, p := range s.history {
		messages.values = append(messages.values, p.messages)
		ready.values = append(ready.values, p.ready)
	}
	messages.top = slices.Max(append(messages.values, 1))
	return append(append(messages.draw(), ready.draw()...), nil)
}

// closingRows are the HPA's words, or at the end the summary.
func (s *snapshot) closingRows() []row {
	if s.summary != nil {
		var rows []row
		for _, line := range s.summary.lines() {
			rows = append(rows, row{{line, plain}})
		}
		return rows
	}
	return []row{
		labelled("HPA event", span{s.eventText(), plain}),
		labelled("HPA says", span{cmp.Or(s.hpa.condition, "nothing yet"), plain}),
	}
}

func (s *snapshot) eventText() string {
	if s.hpa.event == "" {
		return "nothing yet"
	}
	return fmt.Sprintf("%.0f s ago: %s", max(0, s.elapsed-s.hpa.eventAt).Seconds(), s.hpa.event)
}

// line is the snapshot in one line: of the pods those that are ready, of those that are desired.
func (s *snapshot) line() string {
	desired, ready := s.workers.texts()
	webDesired, webReady := s.web.texts()
	return fmt.Sprintf("%s  %-5s  queue %5s  CloudWatch %5s  HPA sees %5s/%d  workers %2s of %2s  web %2s of %2s",
		seconds(s.elapsed), s.phase, s.queue, s.metric, cmp.Or(s.hpa.average, "-"), perWorker, ready, desired, webReady, webDesired)
}

// texts are the numbers, or dashes for what is not known.
func (w workers) texts() (desired, ready string) {
	if !w.known {
		return "-", "-"
	}
	return strconv.Itoa(w.desired), strconv.Itoa(w.ready)
}

func (d depth) String() string {
	if !d.known {
		return "-"
	}
	return strconv.Itoa(d.messages)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%6.1fs", d.Seconds()) }

func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// plot draws values as bars that grow from the bottom row.
type plot struct {
	name   string
	style  style
	values []int
	// top is the value that fills all rows.
	top           int
	columns, rows int
}

// bars are eighths of a character's height.
var bars = []rune(" ▁▂▃▄▅▆▇█")

const eighths = 8

func (p plot) draw() []row {
	values := fit(p.values, p.columns)
	var rows []row
	for r := range p.rows {
		name, mark := "", ""
		if r == 0 {
			name, mark = p.name, strconv.Itoa(p.top)
		}
		var bar strings.Builder
		for _, v := range values {
			level := p.level(v) - (p.rows-1-r)*eighths
			bar.WriteRune(bars[min(max(level, 0), eighths)])
		}
		label := fmt.Sprintf("%s%*s", name, labelWidth-len(name), mark)
		rows = append(rows, labelled(label, span{bar.String(), p.style}))
	}
	return rows
}

// level is the height of a value in eighths of a row. Zero is the base line, and
// the least that is more stands out from it.
func (p plot) level(v int) int {
	if v <= 0 {
		return 1
	}
	full := p.rows * eighths
	return max(2, min(full, (v*full+p.top-1)/p.top))
}

// fit makes of the values no more than there are columns. A column shows the
// greatest of those that it stands for.
func fit(values []int, columns int) []int {
	if len(values) <= columns {
		return values
	}
	fitted := make([]int, columns)
	for i := range columns {
		fitted[i] = slices.Max(values[i*len(values)/columns : (i+1)*len(values)/columns])
	}
	return fitted
}
