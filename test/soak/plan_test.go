package soak

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var someWorkloads = []string{"one", "three", "two"}

// phases are the first of a plan.
func phases(seed uint64, n int) []phase {
	p := newPlan(seed, someWorkloads)
	all := make([]phase, n)
	for i := range all {
		all[i] = p.next()
	}
	return all
}

func TestPlanDependsOnTheSeedOnly(t *testing.T) {
	t.Parallel()
	text := func(seed uint64) string { return fmt.Sprintf("%+v", phases(seed, 200)) }
	if first, second := text(7), text(7); first != second {
		t.Errorf("one seed gives two plans:\n%s\n%s", first, second)
	}
	if text(7) == text(8) {
		t.Error("two seeds give one plan")
	}
	p := newPlan(7, []string{"two", "one", "three"})
	if got, want := fmt.Sprintf("%+v", p.next()), fmt.Sprintf("%+v", phases(7, 1)[0]); got != want {
		t.Errorf("the order of the workloads counts: %s, want %s", got, want)
	}
}

func TestPlanHasEveryFaultBeforeOneComesAgain(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		var drawn []string
		for _, p := range phases(seed, 300) {
			for _, f := range p.faults {
				drawn = append(drawn, f.name)
			}
		}
		var first []string
		for _, f := range catalogue() {
			first = append(first, f.name)
		}
		slices.Sort(first)
		got := slices.Sorted(slices.Values(drawn[:len(first)]))
		if !slices.Equal(got, first) {
			t.Errorf("seed %d: the first faults are %v, want each of %v once", seed, got, first)
		}
		if slices.Contains(drawn[len(first):], "kube-apiserver restarts") {
			t.Errorf("seed %d: kube-apiserver restarts again", seed)
		}
	}
}

func TestFaultsComeOneByOneWithQuietBetween(t *testing.T) {
	t.Parallel()
	two := 0
	for i, p := range phases(3, 400) {
		if quiets := i%2 == 0; quiets != (p.kind == quiet) {
			t.Fatalf("phase %d is %v", i, p)
		}
		switch p.kind {
		case quiet:
			if len(p.faults) > 0 || p.lasts < leastQuiet || p.lasts > mostQuiet {
				t.Errorf("%+v", p)
			}
		case faulty:
			if len(p.faults) == 0 || len(p.faults) > 2 || p.lasts < leastFault || p.lasts > mostFault {
				t.Errorf("%+v", p)
			}
			if len(p.faults) == 2 {
				two++
				if p.faults[0].side == p.faults[1].side {
					t.Errorf("%v: both are of %s", p, p.faults[0].side)
				}
			}
		case demand:
			if len(p.faults) > 0 {
				t.Errorf("%v: a fault with a new demand", p)
			}
		}
	}
	if two == 0 {
		t.Error("no two faults came together")
	}
}

// A new demand is another one, and so far from the one before that an HPA acts on it.
func TestDemandChanges(t *testing.T) {
	t.Parallel()
	number := map[string]int32{}
	for _, name := range someWorkloads {
		number[name] = firstDemand
	}
	changes := 0
	for _, p := range phases(5, 400) {
		if p.kind == demand && len(p.demand) == 0 {
			t.Error("a new demand of nothing")
		}
		for name, n := range p.demand {
			changes++
			before := number[name]
			if n < 1 || n > maxReplicas || n == before {
				t.Errorf("%s goes from %d to %d", name, before, n)
			}
			number[name] = n
			low, high := measured(n)-float64(n), measured(n) // of all pods, each with its counting part
			ratio := float64(perReplica) * float64(before)
			if low/ratio > 0.9 && high/ratio < 1.1 {
				t.Errorf("from %d to %d is within an HPA's tolerance", before, n)
			}
		}
	}
	if changes < 50 {
		t.Errorf("%d changes in all", changes)
	}
}

// The values of a demand keep an HPA at its number, whatever their counting part.
func TestValuesOfADemandAreItsNumber(t *testing.T) {
	t.Parallel()
	for n := int32(1); n <= maxReplicas; n++ {
		for _, v := range []float64{measured(n), measured(n) - float64(n)} {
			if ratio := v / (perReplica * float64(n)); ratio < 0.9 || ratio > 1 {
				t.Errorf("%v is %v of the demand for %d, and not within an HPA's tolerance", v, ratio, n)
			}
		}
	}
}

func TestTenMinutesHaveEveryFault(t *testing.T) {
	t.Parallel()
	// What an episode takes beside its time, as measured.
	const recovery = 6 * time.Second
	for seed := range uint64(20) {
		p, left, seen := newPlan(seed, someWorkloads), DefaultFor, map[string]bool{}
		for left > 0 {
			next := p.next()
			left -= next.lasts
			if next.kind != quiet {
				left -= recovery
			}
			for _, f := range next.faults {
				seen[f.name] = true
			}
		}
		if len(seen) < len(catalogue()) {
			t.Errorf("seed %d: %d of %d faults", seed, len(seen), len(catalogue()))
		}
	}
}
