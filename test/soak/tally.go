package soak

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// invariant is what must hold all the while.
type invariant int

const (
	// steady: no HPA and no Deployment moves while the true demand is the same.
	steady invariant = iota
	// follows: an HPA reaches the number of a new demand in time.
	follows
	// young: no value is older than its maxAge.
	young
	// genuine: every value and its time are the backend's.
	genuine
	// honest: a fault is a value or an error that names its cause, and nothing else.
	honest
	// recovers: everything is fresh soon after a fault.
	recovers
	// goroutines, memory, heap and files: they do not grow between quiet phases.
	goroutines
	memory
	heap
	files
	// alive: the adapter is the process that it was.
	alive
	// clean: no data race and no panic in the log.
	clean
	// terse: the log has no more lines a minute than somebody reads.
	terse
	invariants
)

// rule is an invariant in words, and what is counted of it.
type rule struct{ name, text, unit string }

var rulebook = [invariants]rule{
	steady:     {"steady", "no HPA or Deployment moves while the true demand is the same", "looks at replicas"},
	follows:    {"follows", "HPAs reach the number of a new demand in time", "changes of demand"},
	young:      {"young", "no value is older than its maxAge", "values"},
	genuine:    {"genuine", "every value and its time are what the backend had", "values"},
	honest:     {"honest", "a fault is a value or an error that names the cause, never nothing", "reads"},
	recovers:   {"recovers", "every metric is fresh again soon after a fault", "recoveries"},
	goroutines: {"goroutines", "goroutines do not grow between quiet phases", "quiet phases"},
	memory:     {"memory", "resident memory does not grow between quiet phases", "quiet phases"},
	heap:       {"heap", "the heap's aim of garbage collection does not grow between quiet phases", "quiet phases"},
	files:      {"files", "open files do not grow between quiet phases", "quiet phases"},
	alive:      {"alive", "the adapter never ends or restarts", "looks"},
	clean:      {"clean", "the log has no data race and no panic", "lines"},
	terse:      {"terse", "the log's lines a minute are bounded", "minutes"},
}

func (i invariant) String() string { return rulebook[i].name }

// broken is an invariant that does not hold: when, what and during which faults.
type broken struct {
	invariant invariant
	at        time.Duration // since the start
	what      string
	during    string
}

func (b broken) String() string {
	return fmt.Sprintf("%s %s: %s; during %s", clock(b.at), b.invariant, b.what, b.during)
}

// maxBroken is how many breaks of one invariant are told one by one.
const maxBroken = 10

// tally counts what was checked and holds what broke. It may be used by many at once.
type tally struct {
	start time.Time

	mu      sync.Mutex
	out     io.Writer
	checked [invariants]int
	breaks  [invariants]int
	told    []broken
	phases  map[phaseKind]int
	faults  map[string]int
	errors  int
	// during is what is going on, for those who look at it later.
	during string
	notes  [invariants]string
	// slowest is the longest time until all was fresh after a fault.
	slowest time.Duration
	// excused are reads that nobody could answer.
	excused int
}

func newTally(out io.Writer, start time.Time) *tally {
	return &tally{out: out, start: start, during: "the start", phases: map[phaseKind]int{}, faults: map[string]int{}}
}

// say writes a line of progress.
func (t *tally) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sayLocked(format, args...)
}

func (t *tally) sayLocked(format string, args ...any) {
	fmt.Fprintf(t.out, "%s %s\n", clock(time.Since(t.start)), fmt.Sprintf(format, args...))
}

// enter says which phase begins.
func (t *tally) enter(p phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.during = p.String()
	t.phases[p.kind]++
	for _, f := range p.faults {
		t.faults[f.name]++
	}
}

// count adds to what was checked.
func (t *tally) count(of invariant, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked[of] += n
}

// note says something of an invariant in the report.
func (t *tally) note(of invariant, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes[of] = fmt.Sprintf(format, args...)
}

// check counts a check, and takes what it found; nil is nothing.
func (t *tally) check(of invariant, found error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked[of]++
	if found != nil {
		t.breakLocked(of, found.Error())
	}
}

// fail takes what broke, whose check was counted.
func (t *tally) fail(of invariant, found error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.breakLocked(of, found.Error())
}

func (t *tally) breakLocked(of invariant, what string) {
	t.breaks[of]++
	b := broken{invariant: of, at: time.Since(t.start), what: what, during: t.during}
	if t.breaks[of] <= maxBroken {
		t.told = append(t.told, b)
		t.sayLocked("BROKEN %s: %s; during %s", of, what, b.during)
	}
}

// excuse counts a read that could not be answered, as while kube-apiserver is away.
func (t *tally) excuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.excused++
}

// erred counts a read that was an error, as it had to be.
func (t *tally) erred() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errors++
}

// recovered takes how long it took until all was fresh after a fault.
func (t *tally) recovered(after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slowest = max(t.slowest, after)
	t.notes[recovers] = fmt.Sprintf("the slowest took %v, limit %v", t.slowest.Round(time.Second/10), recoverLimit)
}

// reads is how many reads there were so far.
func (t *tally) reads() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checked[honest]
}

// keep writes the adapter's log to a file: if nobody named one, to a temporary one if
// something broke.
func (t *tally) keep(file, log string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if file == "" && len(t.told) == 0 {
		return nil
	}
	if file == "" {
		temporary, err := os.CreateTemp("", "tidegauge-soak-*.log")
		if err != nil {
			return fmt.Errorf("the adapter's log: %w", err)
		}
		file = temporary.Name()
		if err := temporary.Close(); err != nil {
			return fmt.Errorf("the adapter's log: %w", err)
		}
	}
	t.sayLocked("the adapter's log is in %s", file)
	return os.WriteFile(file, []byte(log), 0o600)
}

// clock is a time since the start, as 07:31.
func clock(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// join lists words for people.
func join(words []string) string {
	sorted := slices.Sorted(slices.Values(words))
	return strings.Join(sorted, ", ")
}
