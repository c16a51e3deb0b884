package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	// logPause is between two looks at the log and the process.
	logPause = time.Second
	// maxLines is how many lines a minute may have: twenty or thirty, and two more for each
	// read of which kube-apiserver cannot be asked who may do it.
	maxLines = 500
	// maxLine is how much of a line is kept that has no end yet, in bytes.
	maxLine = 64 << 10
)

// alarms are words that a sound program does not say.
var alarms = []string{"WARNING: DATA RACE", "panic:", "panicked", "Observed a panic", "fatal error:", "SIGSEGV"}

// logReader looks at what comes to a log.
type logReader struct {
	file   io.ReadCloser
	rest   string
	minute int
	lines  int    // of the minute
	most   int    // in any minute
	kept   string // all of it, once the adapter has ended
}

// take looks at what came at a time since the start, and gives how many lines that were,
// the first that raises an alarm, and an error if a minute has too many lines, once.
func (l *logReader) take(text string, at time.Duration) (lines int, alarm, flood error) {
	if minute := int(at / time.Minute); minute != l.minute {
		l.minute, l.lines = minute, 0
	}
	text = l.rest + text
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		text = rest
		lines++
		if word := alarming(line); word != "" && alarm == nil {
			alarm = fmt.Errorf("the log says %q: %s", word, shown([]byte(line)))
		}
	}
	l.rest = text[max(0, len(text)-maxLine):]
	before := l.lines
	l.lines += lines
	l.most = max(l.most, l.lines)
	if before <= maxLines && l.lines > maxLines {
		flood = fmt.Errorf("more than %d lines in a minute", maxLines)
	}
	return lines, alarm, flood
}

func alarming(line string) string {
	for _, word := range alarms {
		if strings.Contains(line, word) {
			return word
		}
	}
	return ""
}

// watchAdapter looks at the adapter's log and process until ctx is done. fell is called
// when the adapter has ended.
func (b *bed) watchAdapter(ctx context.Context, fell func(error)) error {
	var err error
	if b.log.file, err = os.Open(b.adapter.LogFile()); err != nil {
		return err
	}
	first := b.adapter.ID()
	b.running.Go(func() {
		tick := time.NewTicker(logPause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			b.readLog()
			err := b.sameAs(first)
			b.tally.check(alive, err)
			if err != nil {
				fell(err)
				return
			}
		}
	})
	return nil
}

// sameAs is nil if the adapter runs and is the process that it was.
func (b *bed) sameAs(first env.ProcessID) error {
	select {
	case <-b.adapter.Done():
		return fmt.Errorf("the adapter, process %d, has ended; its log ends with:\n%s", first.PID, tail(b.adapter.Logs()))
	default:
	}
	if now := b.adapter.ID(); now != first {
		return fmt.Errorf("the adapter was process %d and is %d", first.PID, now.PID)
	}
	return nil
}

// readLog looks at what came to the log since the last time.
func (b *bed) readLog() {
	if b.log.file == nil {
		return
	}
	minute := b.log.minute
	text, err := io.ReadAll(b.log.file)
	lines, alarm, flood := b.log.take(string(text), time.Since(b.tally.start))
	b.tally.count(clean, lines)
	if found := errors.Join(err, alarm); found != nil {
		b.tally.fail(clean, found)
	}
	if flood != nil {
		b.tally.fail(terse, flood)
	}
	if b.log.minute != minute {
		b.tally.count(terse, 1)
	}
	b.tally.note(terse, "at most %d in a minute, limit %d", b.log.most, maxLines)
}

// tail is the end of a log.
func tail(log string) string {
	const enough = 4000
	return log[max(0, len(log)-enough):]
}
