package soak

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// phaseKind is what a phase is for.
type phaseKind string

const (
	// quiet phases have no fault, and end with a look at what the adapter takes.
	quiet phaseKind = "quiet"
	// faulty phases have one fault or two.
	faulty phaseKind = "fault"
	// demand phases change the true demand, with no fault about.
	demand phaseKind = "demand"
)

const (
	leastQuiet, mostQuiet = 4 * time.Second, 8 * time.Second
	leastFault, mostFault = 6 * time.Second, 18 * time.Second
	// faultsPerDemand is after how many phases of faults the demand changes.
	faultsPerDemand = 3
	// besides is one in how many faults has another one beside it.
	besides = 2
	// maxReplicas keeps the steps between two numbers larger than an HPA's tolerance.
	maxReplicas = 6
)

// phase is what happens next.
type phase struct {
	kind   phaseKind
	faults []chosen
	// lasts is how long; a demand phase lasts until the HPAs have followed.
	lasts time.Duration
	// demand is the new number of replicas of the workloads whose demand changes.
	demand map[string]int32
}

// chosen is a fault with what was drawn for it.
type chosen struct {
	name string
	side side
	// region is the one of AWS that it is in; all of them if it is empty.
	region string
	// pick is for the fault to draw from.
	pick uint64
}

func (c chosen) String() string {
	if c.region != "" {
		return c.name + " in " + c.region
	}
	return c.name
}

func (p phase) String() string {
	switch p.kind {
	case faulty:
		names := make([]string, len(p.faults))
		for i, f := range p.faults {
			names[i] = f.String()
		}
		return strings.Join(names, " and ")
	case demand:
		changes := make([]string, 0, len(p.demand))
		for name, n := range p.demand {
			changes = append(changes, fmt.Sprintf("%s to %d", name, n))
		}
		return "a new demand: " + join(changes)
	default:
		return "a quiet phase"
	}
}

// plan makes up the phases: a quiet one, one with faults, and so on, with a new demand
// from time to time. Every fault has its turn before one comes again. A plan depends on
// nothing but its seed and the names.
type plan struct {
	random    *rand.Rand
	workloads []string
	demand    map[string]int32
	bag       []chosen
	drawn     bool // a first bag
	phases    int
	sinceThen int // phases of faults since the demand changed
}

func newPlan(seed uint64, workloads []string) *plan {
	p := &plan{random: rand.New(rand.NewPCG(seed, seed)), workloads: slices.Sorted(slices.Values(workloads)), demand: map[string]int32{}}
	for _, name := range p.workloads {
		p.demand[name] = firstDemand
	}
	return p
}

// next is the next phase.
func (p *plan) next() phase {
	p.phases++
	switch {
	case p.phases%2 == 1:
		return phase{kind: quiet, lasts: p.between(leastQuiet, mostQuiet)}
	case p.sinceThen == faultsPerDemand:
		p.sinceThen = 0
		return phase{kind: demand, demand: p.change()}
	default:
		p.sinceThen++
		return phase{kind: faulty, faults: p.faults(), lasts: p.between(leastFault, mostFault)}
	}
}

func (p *plan) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.random.Int64N(int64(most-least))).Round(time.Second/10)
}

// faults are one, and sometimes another one of another side.
func (p *plan) faults() []chosen {
	faults := []chosen{p.draw(func(chosen) bool { return true })}
	first := faults[0].side
	if p.random.IntN(besides) == 0 {
		if f := p.draw(func(c chosen) bool { return c.side != first }); f.name != "" {
			faults = append(faults, f)
		}
	}
	return faults
}

// draw takes the first fault out of the bag that fits; none if the bag is not empty and
// nothing in it does.
func (p *plan) draw(fits func(chosen) bool) chosen {
	if len(p.bag) == 0 {
		p.fill()
	}
	i := slices.IndexFunc(p.bag, fits)
	if i < 0 {
		return chosen{}
	}
	c := p.bag[i]
	p.bag = slices.Delete(p.bag, i, i+1)
	return c
}

// fill puts every fault into the bag, in any order.
func (p *plan) fill() {
	for _, f := range catalogue() {
		if f.once && p.drawn {
			continue
		}
		c := chosen{name: f.name, side: f.side, pick: p.random.Uint64()}
		// Of AWS as a whole, or of a region, while the other goes on.
		if where := p.random.IntN(len(regions) + 1); f.regional && where < len(regions) {
			c.region = regions[where]
		}
		p.bag = append(p.bag, c)
	}
	p.random.Shuffle(len(p.bag), func(i, j int) { p.bag[i], p.bag[j] = p.bag[j], p.bag[i] })
	p.drawn = true
}

// change draws another number of replicas for about half of the workloads, and for at
// least one.
func (p *plan) change() map[string]int32 {
	changed := map[string]int32{}
	must := p.random.IntN(len(p.workloads))
	for i, name := range p.workloads {
		if p.random.IntN(2) == 0 && i != must {
			continue
		}
		n := 1 + p.random.Int32N(maxReplicas-1)
		if n >= p.demand[name] {
			n++
		}
		p.demand[name], changed[name] = n, n
	}
	return changed
}
