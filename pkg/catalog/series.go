package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Limits of what one series query may list. What is beyond them is an error that says
// so: a part of the metrics, and another one each time, would be worse than the ones
// known before.
const (
	maxSeriesNames = 100_000
	// maxLabelSets is for the series of one name.
	maxLabelSets = 1_000
	// maxSightings is for all names together.
	maxSightings = 200_000
)

// labelSet is the names of the labels of a series. There is one of each for a series
// query, however many series have it.
type labelSet struct {
	names []string
}

// sighting is a label set that series of a name have.
type sighting struct {
	set *labelSet
	// missing is when a listing first did not find it any more; zero if the last one did.
	missing time.Time
}

// inventory is which series there are of one series query: their names, and for each
// name the label sets. It grows with metrics, not with series.
type inventory struct {
	names map[string][]sighting
	sets  map[string]*labelSet
	// series is how many the last listing had.
	series int
}

// listing is an inventory that is being taken.
type listing struct {
	inventory

	before    *inventory
	sightings int
	key       []byte
	// err is not nil once a limit is reached.
	err error
}

func newListing(before *inventory) *listing {
	return &listing{inventory: inventory{names: map[string][]sighting{}, sets: map[string]*labelSet{}}, before: before}
}

// visit takes in a series. What it is given is valid during the call only.
func (l *listing) visit(name string, labelNames []string) {
	if l.err != nil {
		return
	}
	l.series++
	set, seen := l.set(labelNames), l.names[name]
	if slices.ContainsFunc(seen, func(s sighting) bool { return s.set == set }) {
		return
	}
	if l.err = l.room(name, len(seen)); l.err != nil {
		return
	}
	if seen == nil {
		name = strings.Clone(name)
	}
	l.names[name] = append(seen, sighting{set: set})
	l.sightings++
}

// room is why a label set more of a name, which has some, is too many; nil if it is not.
func (l *listing) room(name string, has int) error {
	switch {
	case has == 0 && len(l.names) >= maxSeriesNames:
		return fmt.Errorf("the series query finds more than %d names of series: write one that finds fewer", maxSeriesNames)
	case has >= maxLabelSets:
		return fmt.Errorf("the series %s have more than %d different sets of label names: write a series query that finds fewer", strings.Clone(name), maxLabelSets)
	case l.sightings >= maxSightings:
		return fmt.Errorf("the series query finds more than %d names of series with different label names: write one that finds fewer", maxSightings)
	}
	return nil
}

// set is the one label set of those names, which are sorted.
func (l *listing) set(labelNames []string) *labelSet {
	l.key = l.key[:0]
	for _, name := range labelNames {
		// A name may have any character, so that none can stand between two.
		l.key = binary.BigEndian.AppendUint32(l.key, uint32(len(name))) //nolint:gosec // It came in one answer.
		l.key = append(l.key, name...)
	}
	if set, ok := l.sets[string(l.key)]; ok {
		return set
	}
	if set, ok := l.before.sets[string(l.key)]; ok {
		l.sets[string(l.key)] = set
		return set
	}
	key := string(l.key)
	set := &labelSet{names: make([]string, len(labelNames))}
	at := 0
	for i, name := range labelNames {
		at += 4
		set.names[i] = key[at : at+len(name)]
		at += len(name)
	}
	l.sets[key] = set
	return set
}

// finish is the inventory when the listing is over. What the one before had and the
// listing has not stays in it until maxAge has passed without it, as when a server
// restarts without its data.
func (l *listing) finish(now time.Time, maxAge time.Duration) *inventory {
	keys := make(map[*labelSet]string, len(l.before.sets))
	for key, set := range l.before.sets {
		keys[set] = key
	}
	for name, sightings := range l.before.names {
		for _, s := range sightings {
			seen := l.names[name]
			if slices.ContainsFunc(seen, func(o sighting) bool { return o.set == s.set }) {
				continue
			}
			if s.missing.IsZero() {
				s.missing = now
			}
			if now.Sub(s.missing) >= maxAge || l.room(name, len(seen)) != nil {
				continue
			}
			l.names[name] = append(seen, s)
			l.sets[keys[s.set]] = s.set
			l.sightings++
		}
	}
	done := l.inventory
	return &done
}

// same says whether two inventories make the same metrics.
func (i *inventory) same(o *inventory) bool {
	return maps.EqualFunc(i.names, o.names, func(a, b []sighting) bool {
		if len(a) != len(b) {
			return false
		}
		for _, s := range a {
			if !slices.ContainsFunc(b, func(o sighting) bool { return s.set == o.set && s.missing.IsZero() == o.missing.IsZero() }) {
				return false
			}
		}
		return true
	})
}

// errTooMuch ends a listing that has reached a limit.
var errTooMuch = errors.New("the listing has reached a limit")
