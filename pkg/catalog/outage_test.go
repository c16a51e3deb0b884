package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// failsWith sets the error of a selector.
func (f *fakeServers) failsWith(selector string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[selector] = err
}

// gaps are how often queryA was listed since the last call of lastAsked, and the longest
// time between two of these listings.
func (f *fakeServers) gaps() (listings int, longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var last time.Time
	for i, asked := range f.asked {
		if asked != queryA {
			continue
		}
		listings++
		if listings > 1 {
			longest = max(longest, f.starts[i].Sub(last))
		}
		last = f.starts[i]
	}
	return listings, longest
}

// several sets that many rules of one server that list, and gives their selectors.
func (w *world) several(n int, more ...rules.Rule) []string {
	selectors := make([]string, n)
	list := more
	for i := range n {
		selectors[i] = fmt.Sprintf(`{n="%03d"}`, i)
		list = append(list, custom(selectors[i], ""))
	}
	w.listAll(selectors)
	w.set(customRules(list...))
	return selectors
}

func (w *world) listAll(selectors []string) {
	for i, q := range selectors {
		w.servers.lists(q, fmt.Sprintf("metric_%d namespace pod", i))
	}
}

func (w *world) failAll(selectors []string) {
	for _, q := range selectors {
		w.servers.fails(q, "connection refused")
	}
}

// betweenRounds lets time pass until no query has its place in a round within minutes.
func (w *world) betweenRounds() {
	w.pass(untilRound(time.Now(), relist))
	w.pass(2 * relist / spread)
}

var errRefusal = fmt.Errorf("400 bad query: %w", sources.ErrRejected)

// What nothing is known of is listed again soon, and what the server refuses less and less
// often.
func TestFirstListingIsRetriedSoon(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.failsWith(queryA, errRefusal)
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.want(w.RulesReady(), "the series of the rules are not listed yet: rules[0]: server default: 400 bad query: rejected")
		w.pass(2 * time.Hour)
		w.servers.mu.Lock()
		starts := w.servers.starts
		w.servers.mu.Unlock()
		want := firstRetry
		for i := 1; i < len(starts); i++ {
			if gap := starts[i].Sub(starts[i-1]); gap > want || gap < want*3/4 {
				t.Errorf("retry %d after %v, want about %v", i, gap, want)
			}
			want = min(2*want, relist)
		}
		if len(starts) < 15 {
			t.Errorf("%d listings", len(starts))
		}
		w.want(w.troubled(), 1)
		w.servers.lists(queryA, "a namespace pod")
		w.pass(relist)
		w.want(w.names(), "root:namespaces/a=a pods/a=a")
		w.want(w.RulesReady(), nil)
	})
}

// However long Relist is, and whether or not something is known.
func TestServerThatCouldNotBeAskedIsAskedAgainSoon(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		soon bool
	}{
		"refused connection": {errors.New("connection refused"), true},
		"rejected":           {errRefusal, false},
		"too slow":           {fmt.Errorf("no answer within 1m0s: %w", sources.ErrTooSlow), false},
		"out of time":        {fmt.Errorf("no answer in time: %w", context.DeadlineExceeded), false},
		"throttled":          {&sources.ThrottledError{Err: errors.New("429")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.servers.lists(queryA, "a namespace pod")
				w.set(customRules(custom(queryA, "")))
				w.run()
				w.servers.failsWith(queryA, tc.err)
				w.pass(2 * relist)
				w.servers.lastAsked()
				w.pass(5 * relist)
				n, longest := w.servers.gaps()
				if soon := longest <= 10*time.Second; soon != tc.soon || !soon && n != 5 {
					t.Errorf("%d listings in 5 rounds, at most %v apart, want soon: %v", n, longest, tc.soon)
				}
				w.betweenRounds()
				w.servers.lists(queryA, "a namespace pod", "b namespace pod")
				w.servers.lastAsked()
				w.pass(10 * time.Second)
				w.want(len(w.discovery.Troubles()) == 0, tc.soon)
				w.pass(2 * relist)
				n, _ = w.servers.gaps()
				if n > 3 {
					t.Errorf("%d listings in 2 rounds since", n)
				}
			})
		})
	}
}

// One attempt is made for all, and all are listed once when it succeeds.
func TestOutageOfManyRulesIsOverSoon(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			inBubble(t, func(w *world) {
				selectors := w.several(200)
				if !known {
					w.failAll(selectors)
				}
				w.run()
				w.failAll(selectors)
				w.pass(2 * relist)
				w.servers.lastAsked()
				w.pass(6 * relist)
				// 360 attempts, and 6 rounds.
				if n := strings.Count(w.servers.lastAsked(), "{n="); n > 450+6*200 {
					t.Errorf("%d listings in 6 rounds while the server is away", n)
				}
				w.betweenRounds()
				w.servers.lastAsked()
				w.listAll(selectors)
				w.pass(10*time.Second + retrySpread)
				w.want(len(w.discovery.Troubles()), 0)
				w.pass(10 * time.Second)
				if n := strings.Count(w.servers.lastAsked(), "{n="); n > 200+listAtOnce {
					t.Errorf("%d listings of 200 rules when the server is back", n)
				}
			})
		})
	}
}

// The others succeed at 200 times in each round.
func TestRuleThatAlwaysFailsIsListedOnceInARound(t *testing.T) {
	for name, err := range map[string]error{
		"refused":            errRefusal,
		"too slow":           sources.ErrTooSlow,
		"its own connection": errors.New("503 service unavailable"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.servers.failsWith(queryA, err)
				selectors := w.several(40, custom(queryA, ""))
				w.run()
				w.pass(2 * time.Hour)
				w.servers.lastAsked()
				w.pass(6 * relist)
				n, _ := w.servers.gaps()
				if n < 6 || n > 8 {
					t.Errorf("%d listings in 6 rounds", n)
				}

				// An outage of the server hastens it no more than once.
				w.failAll(selectors)
				w.pass(2 * relist)
				w.betweenRounds()
				w.servers.lastAsked()
				w.listAll(selectors)
				w.pass(20 * time.Second)
				n, _ = w.servers.gaps()
				if n > 2 {
					t.Errorf("%d listings after an outage", n)
				}
				w.want(len(w.discovery.Troubles()), 1)

				// Another text is another fault, and may be none of its own.
				w.servers.fails(queryA, "502 bad gateway")
				w.pass(2 * relist)
				w.servers.lists(queryA, "a namespace pod")
				w.pass(relist)
				w.want(len(w.discovery.Troubles()), 0)
			})
		})
	}
}

// The server goes away again before the second rule is listed, so that it seems to have a
// fault of its own.
func TestBlameIsForgottenWhenTheServerGoesAwayAgain(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.lists(queryA, "a namespace pod")
		w.servers.fails(queryB, "connection refused")
		w.set(customRules(custom(queryA, ""), custom(queryB, "")))
		w.run()
		w.pass(2 * relist)
		w.servers.fails(queryA, "503 service unavailable")
		w.pass(2 * relist)
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lists(queryB, "b namespace pod")
		w.pass(10*time.Second + retrySpread)
		w.want(len(w.discovery.Troubles()), 0)
	})
}

// What is told while a query is listed, or is about to be, is of no more use.
func TestAttemptThatWasMadeIsNotMadeAgain(t *testing.T) {
	inBubble(t, func(w *world) {
		w.servers.fails(queryA, "connection refused")
		w.set(customRules(custom(queryA, "")))
		w.run()
		w.pass(relist)
		w.betweenRounds()
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lastAsked()
		l := w.discovery.queries[seriesQuery{"default", queryA}]
		for len(w.discovery.Troubles()) > 0 {
			l.hasten()
			w.pass(10 * time.Millisecond)
		}
		w.pass(10 * time.Second)
		n, _ := w.servers.gaps()
		w.want(n, 1)
	})
}

// listingLog keeps what is logged of listings without V.
type listingLog struct {
	mu    *sync.Mutex
	lines *[]string
	with  []any
}

func newListingLog() listingLog { return listingLog{mu: &sync.Mutex{}, lines: &[]string{}} }

func (listingLog) Init(klog.RuntimeInfo)             {}
func (listingLog) Enabled(level int) bool            { return level == 0 }
func (l listingLog) WithName(string) klog.LogSink    { return l }
func (l listingLog) Info(_ int, s string, kv ...any) { l.add(s, kv) }
func (l listingLog) Error(err error, s string, kv ...any) {
	l.add(s, append(slices.Clone(kv), "err", err))
}

func (l listingLog) WithValues(kv ...any) klog.LogSink {
	l.with = slices.Concat(l.with, kv)
	return l
}

func (l listingLog) add(text string, kv []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(text, "Listing series") {
		return
	}
	words, all := []string{text}, slices.Concat(l.with, kv)
	for i := 0; i < len(all); i += 2 {
		if all[i] != "seriesQuery" && all[i] != "failedFor" {
			words = append(words, fmt.Sprintf("%v=%v", all[i], all[i+1]))
		}
	}
	*l.lines = append(*l.lines, strings.Join(words, " "))
}

// since are the lines since it was last asked.
func (l listingLog) since() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := *l.lines
	*l.lines = nil
	return lines
}

func (w *world) wantLines(got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	fails    = "Listing series fails; more rules of the server that fail of this are not logged, but in the condition RulesDiscovered"
	still    = "Listing series still fails for these rules, and no more for those that were logged"
	succeeds = "Listing series succeeds again, for all rules of the server that failed of this"
	known    = " known=the metrics that are known stay"
)

func TestOneOutageIsLoggedOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		log := newListingLog()
		selectors := w.several(30)
		w.failAll(selectors)
		w.runIn(klog.NewContext(w.t.Context(), klog.New(log)))
		w.pass(time.Hour)
		lines := log.since()
		w.want(len(lines), 1)
		w.want(strings.HasSuffix(lines[0], "known=nothing is known of them yet err=connection refused"), true)
		w.listAll(selectors)
		w.pass(2 * relist)
		w.wantLines(log.since(), succeeds+" server=default cause=connection refused")
		w.pass(2 * relist)
		w.wantLines(log.since())
	})
}

// The log has a line for each rule that keeps failing, and each "fails" has its end.
func TestLogNamesTheRulesThatStillFail(t *testing.T) {
	inBubble(t, func(w *world) {
		log := newListingLog()
		w.servers.lists(queryA, "a namespace pod")
		w.servers.lists(queryB, "b namespace pod")
		file := customRules(custom(queryA, ""), custom(queryB, ""))
		w.set(file)
		w.runIn(klog.NewContext(w.t.Context(), klog.New(log)))
		w.servers.failsWith(queryA, errRefusal)
		w.pass(relist)
		w.wantLines(log.since(), fails+" server=default rules=[rules[0]]"+known+" err=400 bad query: rejected")
		w.servers.failsWith(queryB, errRefusal)
		w.pass(relist)
		w.wantLines(log.since())
		w.servers.lists(queryA, "a namespace pod")
		w.pass(3 * relist)
		w.wantLines(log.since(), still+" server=default rules=[rules[1]] cause=400 bad query: rejected")

		// It fails otherwise, which closes the one before.
		w.servers.fails(queryB, "connection refused")
		w.pass(relist)
		w.wantLines(log.since(), fails+" server=default rules=[rules[1]] before=400 bad query: rejected"+known+" err=connection refused")
		w.servers.failsWith(queryA, errRefusal)
		w.pass(relist)
		w.wantLines(log.since(), fails+" server=default rules=[rules[0]]"+known+" err=400 bad query: rejected")
		w.servers.fails(queryA, "connection refused")
		w.pass(relist)
		w.wantLines(log.since(), "Listing series fails no more of this, but as for other rules of the server server=default before=400 bad query: rejected cause=connection refused")

		// Rules that are gone fail no more.
		w.set(customRules(custom(queryA, "")))
		w.wantLines(log.since())
		w.pass(time.Minute)
		w.wantLines(log.since(), still+" server=default rules=[rules[0]] cause=connection refused")
		w.set(rules.File{})
		w.wantLines(log.since(), "Listing series that failed is given up, as the rules or their server were changed server=default cause=connection refused")
		w.want(len(w.discovery.servers["default"].outages), 0)
	})
}

func TestLogNamesSoManyRulesOnly(t *testing.T) {
	inBubble(t, func(w *world) {
		log := newListingLog()
		selectors := w.several(maxLogged + 6)
		w.runIn(klog.NewContext(w.t.Context(), klog.New(log)))
		for _, q := range selectors {
			w.servers.failsWith(q, errRefusal)
		}
		w.pass(2 * relist)
		lines := log.since()
		w.want(len(lines), 1)
		for i, q := range selectors {
			if strings.Contains(lines[0], fmt.Sprintf("rules=[rules[%d]]", i)) {
				w.servers.lists(q, "metric namespace pod")
			}
		}
		w.pass(2 * relist)
		lines = log.since()
		w.want(len(lines), 1)
		w.want(strings.HasPrefix(lines[0], still), true)
		w.want(strings.Count(lines[0], "rules["), maxLogged)
		w.want(strings.Contains(lines[0], " more=5 "), true)
	})
}
