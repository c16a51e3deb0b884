package bench

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	definitionNamespaces = 10
	// definitionsRead are read at each number of definitions, so that no other cost grows
	// with it.
	definitionsRead = 10

	// settledShare of a core is what an adapter may take that has taken in what it was
	// given, over settleInterval.
	settledShare   = 0.02
	settleInterval = 5 * time.Second
	settleLimit    = 5 * time.Minute
	// dataFor is how long the metrics that are read have values.
	dataFor = 20 * time.Minute
)

// definitionCounts are the numbers of definitions; the others are compared with the first.
var definitionCounts = []int{10, 1000, 10_000}

func figDefinitions(n int) string { return fmt.Sprintf("CPU of a read with %d definitions", n) }

func figDefinitionsLate(n int) string { return fmt.Sprintf("p50 of a read with %d definitions", n) }

// definitions measures whether a read costs more where there is more that could be read.
// The unit is what a read of the floor costs at the same time, as the machine changes
// between the first number and the last.
func definitions() measurement {
	m := measurement{name: "definitions", run: measureDefinitions}
	for i, n := range definitionCounts {
		cpu, late := figure{name: figDefinitions(n), unit: "floors"}, figure{name: figDefinitionsLate(n), unit: "floors"}
		if i > 0 {
			cpu.ratioAtMost = new(1.1)
		}
		m.figures = append(m.figures, cpu, late)
	}
	return m
}

func measureDefinitions(ctx context.Context, b *bed) (map[string]measured, error) {
	metrics := spread("bench-definitions", definitionCounts[len(definitionCounts)-1], definitionNamespaces)
	aws, err := startAmazon(ctx, metrics[:definitionsRead], dataFor)
	if err != nil {
		return nil, err
	}
	defer aws.Close()
	values := map[string]measured{}
	// Of 10,000 statuses the usual rate would take minutes.
	args := []string{"--client-qps=1000", "--client-burst=1000"}
	err = b.withAmazon(ctx, aws, nil, args, func(a *env.Adapter) error {
		sides, err := b.sides(ctx, a, nil)
		if err != nil {
			return err
		}
		there := 0
		var first tallies
		for _, n := range definitionCounts {
			if err := b.createMetrics(ctx, metrics[there:n], ""); err != nil {
				return err
			}
			there = n
			t, err := b.measureDefined(ctx, sides, n, metrics[:definitionsRead])
			if err != nil {
				return err
			}
			if first == nil {
				first = t
			}
			values[figDefinitions(n)] = measured{value: t.inFloors(tally.cost), floor: new(first.inFloors(tally.cost))}
			values[figDefinitionsLate(n)] = measured{value: t.inFloors(tally.usual), floor: new(first.inFloors(tally.usual))}
		}
		return nil
	})
	return values, b.clearAfter(ctx, namespacesOf(metrics), err)
}

// measureDefined reads some of n definitions once the adapter knows them all.
func (b *bed) measureDefined(ctx context.Context, sides []side, n int, read []types.NamespacedName) (tallies, error) {
	of := func(s side) load {
		return load{urls: externalURLs(s.server, read), inFlight: 1, limit: roundLimit, items: 1}
	}
	if err := b.awaitAll(ctx, sides[0].client, of(sides[0]).urls); err != nil {
		return nil, err
	}
	if err := b.settle(ctx, sides[0].server); err != nil {
		return nil, err
	}
	b.say("reading with %d definitions", n)
	t, err := compare(ctx, sides, readRounds, of)
	if err != nil {
		return nil, err
	}
	return t, b.profile(ctx, sides, fmt.Sprintf("%d definitions", n), of)
}

// settle waits until a process has nothing more to do.
func (b *bed) settle(ctx context.Context, a *env.Adapter) error {
	before, err := cpuOf(a.ID().PID)
	if err != nil {
		return err
	}
	since, share := time.Now(), 1.0
	return b.await(ctx, "the adapter's CPU", settleLimit, func(context.Context) (string, bool, error) {
		if time.Since(since) >= settleInterval {
			now, err := cpuOf(a.ID().PID)
			if err != nil {
				return "", false, err
			}
			share = float64(now-before) / float64(time.Since(since))
			before, since = now, time.Now()
		}
		return fmt.Sprintf("%.0f%% of a core", 100*share), share < settledShare, nil
	})
}
