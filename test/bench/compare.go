package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

// side is one of the servers that are compared, with a client of its own.
type side struct {
	name   string
	server *env.Adapter
	client *http.Client
}

// tally is what was measured of one side in all rounds.
type tally struct {
	rates []float64 // requests in a second, of each round
	each  []float64 // how long each request took, in nanoseconds
	cpu   time.Duration
}

// rate is that of the usual round.
func (t tally) rate() float64 { return median(t.rates) }

// latency is what a part of all requests did not exceed, in milliseconds.
func (t tally) latency(part float64) float64 {
	return quantile(t.each, part) / float64(time.Millisecond)
}

// cost is the time that the server computed for one request, in milliseconds.
func (t tally) cost() float64 {
	return float64(t.cpu) / float64(time.Millisecond) / float64(max(1, len(t.each)))
}

// usual is what half of the requests did not exceed, in milliseconds.
func (t tally) usual() float64 { return t.latency(0.5) }

// late is what all but a hundredth did not exceed, in milliseconds.
func (t tally) late() float64 { return t.latency(0.99) }

// tallies are those of the sides: the adapter, the floor, and prometheus-adapter if it is
// there.
type tallies []tally

// beside is what the adapter has, with what the others have.
func (t tallies) beside(of func(tally) float64) measured {
	m := measured{value: of(t[0]), floor: new(of(t[1]))}
	if len(t) > 2 {
		m.peer = new(of(t[2]))
	}
	return m
}

// inFloors is what the adapter has, in what the floor has.
func (t tallies) inFloors(of func(tally) float64) float64 { return of(t[0]) / of(t[1]) }

// inTurns does something for each side in each round, in the order of before and then in
// the reverse of it: what the machine does meanwhile is for all of them the same.
func inTurns(rounds, sides int, do func(side int) error) error {
	order := make([]int, sides)
	for i := range order {
		order[i] = i
	}
	for range rounds {
		for _, i := range order {
			if err := do(i); err != nil {
				return err
			}
		}
		slices.Reverse(order)
	}
	return nil
}

// compare reads from the sides in turns, for as long as the load's limit in each round.
func compare(ctx context.Context, sides []side, rounds int, of func(side) load) (tallies, error) {
	all := make(tallies, len(sides))
	for _, s := range sides {
		if _, err := of(s).warm().run(ctx, s.client); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	err := inTurns(rounds, len(sides), func(i int) error {
		s, t := sides[i], &all[i]
		before, err := cpuOf(s.server.ID().PID)
		if err != nil {
			return err
		}
		result, err := of(s).run(ctx, s.client)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		after, err := cpuOf(s.server.ID().PID)
		t.cpu += after - before
		t.rates = append(t.rates, result.rate())
		t.each = append(t.each, result.each...)
		return err
	})
	return all, err
}

// warm is a load of the same kind, after which connections, caches and heap are as they
// are in a program that has run for some time.
func (l load) warm() load {
	l.limit /= 2
	return l
}
