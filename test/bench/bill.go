package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

const (
	billMetrics = 1000
	billReaders = 4
	// billMinutes is how long is counted; MinutesVariable shortens it for a try.
	billMinutes = 5
	// MinutesVariable is the environment variable of how many minutes the bill is about.
	MinutesVariable = "TIDEGAUGE_BENCH_MINUTES"
	// quietFor is how long nothing is asked before the count begins, so that no refresh
	// counts by a part of it.
	quietFor   = 10 * time.Second
	quietLimit = 4 * time.Minute

	// dollarsPerMetric is what GetMetricData costs, see https://aws.amazon.com/cloudwatch/pricing/
	dollarsPerMetric = 0.01 / 1000
	minutesOfAMonth  = 365 * 24 * 60 / 12

	getMetricData = "cloudwatch.GetMetricData"
	assumeRole    = "sts.AssumeRole"

	figBilled         = "CloudWatch metrics requested a minute, at most"
	figBillCalls      = "GetMetricData calls a minute, at most"
	figAssumed        = "AssumeRole calls in all"
	figWarmUp         = "CloudWatch metrics requested until each had a value"
	figBillReads      = "reads a minute"
	figBilledUncached = "CloudWatch metrics a minute if each read asked"
	figDollars        = "bill of a month"
	figDollarsOld     = "bill of a month if each read asked"
)

// bill measures what CloudWatch is asked for metrics that are read as HPAs read them. Its
// predecessors ask at each read, and assume the role for it.
func bill() measurement {
	return measurement{
		name: "bill",
		figures: []figure{
			{name: figBilled, atMost: new(float64(billMetrics))},
			{name: figBillCalls, atMost: new(2.0)},
			{name: figAssumed, atMost: new(1.0)},
			{name: figWarmUp},
			{name: figBillReads},
			{name: figBilledUncached},
			{name: figDollars, unit: "$"},
			{name: figDollarsOld, unit: "$"},
		},
		run: measureBill,
	}
}

func measureBill(ctx context.Context, b *bed) (map[string]measured, error) {
	minutes, err := minutesToCount(os.Getenv(MinutesVariable))
	if err != nil {
		return nil, err
	}
	metrics := spread("bench-bill", billMetrics, 1)
	aws, err := startAmazon(ctx, metrics, time.Duration(minutes)*time.Minute+quietLimit+hpaLimit)
	if err != nil {
		return nil, err
	}
	defer aws.Close()
	if err := b.createMetrics(ctx, metrics, amazonRole); err != nil {
		return nil, err
	}
	file, err := b.writeConfig([]byte(allowsRole))
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	err = b.withAmazon(ctx, aws, nil, []string{"--config=" + file}, func(a *env.Adapter) error {
		client, err := b.reader(ctx, a)
		if err != nil {
			return err
		}
		return b.measureBilled(ctx, client, aws, externalURLs(a, metrics), minutes, values)
	})
	return plain(values), b.clearAfter(ctx, namespacesOf(metrics), err)
}

// minutesToCount is what the variable says, if it says something.
func minutesToCount(text string) (int, error) {
	if text == "" {
		return billMinutes, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s: %q is no number of minutes", MinutesVariable, text)
	}
	return n, nil
}

func (b *bed) measureBilled(ctx context.Context, client *http.Client, aws *fakeaws.Server, urls []string, minutes int, values map[string]float64) error {
	b.say("reading %d metrics for the first time", len(urls))
	if _, err := readEach(ctx, client, urls, writers); err != nil {
		return err
	}
	values[figWarmUp] = float64(aws.Counts().MetricsRequested)

	var each []asked
	start := time.Now()
	reads, err := pace{urls, hpaSync, billReaders}.beside(ctx, client, func() error {
		if err := b.awaitQuiet(ctx, aws); err != nil {
			return err
		}
		b.say("counting for %d minutes", minutes)
		var err error
		each, err = countMinutes(ctx, aws, minutes)
		return err
	})
	if err != nil {
		return err
	}
	readsAMinute, counts := float64(reads)/time.Since(start).Minutes(), aws.Counts()
	if n := counts.Errors[getMetricData]; len(n) > 0 {
		return fmt.Errorf("calls failed: %v", n)
	}
	if counts.CallsByCaller[amazonRole][getMetricData] != counts.Calls[getMetricData] || counts.Calls[assumeRole] == 0 || reads == 0 {
		return fmt.Errorf("what is counted is not what was asked: %v, %d reads", counts.CallsByCaller, reads)
	}
	sum := asked{}
	for _, one := range each {
		values[figBilled] = max(values[figBilled], float64(one.metrics))
		values[figBillCalls] = max(values[figBillCalls], float64(one.calls))
		sum.metrics += one.metrics
	}
	if sum.metrics == 0 {
		return errors.New("no metric was requested while there was counted")
	}
	values[figAssumed] = float64(counts.Calls[assumeRole])
	values[figBillReads] = readsAMinute
	values[figBilledUncached] = readsAMinute
	values[figDollars] = dollarsOfAMonth(float64(sum.metrics) / float64(minutes))
	values[figDollarsOld] = dollarsOfAMonth(readsAMinute)
	return nil
}

// asked is what CloudWatch was asked in some time.
type asked struct {
	metrics, calls int
}

func askedOf(aws *fakeaws.Server) asked {
	counts := aws.Counts()
	return asked{metrics: counts.MetricsRequested, calls: counts.Calls[getMetricData]}
}

// countMinutes counts what is asked in each of so many minutes from now on.
func countMinutes(ctx context.Context, aws *fakeaws.Server, minutes int) ([]asked, error) {
	each := make([]asked, minutes)
	before, start := askedOf(aws), time.Now()
	for i := range each {
		if err := pause(ctx, time.Until(start.Add(time.Duration(i+1)*time.Minute))); err != nil {
			return nil, err
		}
		now := askedOf(aws)
		each[i] = asked{metrics: now.metrics - before.metrics, calls: now.calls - before.calls}
		before = now
	}
	return each, nil
}

// awaitQuiet waits until nothing was asked for a while.
func (b *bed) awaitQuiet(ctx context.Context, aws *fakeaws.Server) error {
	before, since := askedOf(aws), time.Now()
	return b.await(ctx, "a pause of GetMetricData calls", quietLimit, func(context.Context) (string, bool, error) {
		now := askedOf(aws)
		if now != before {
			before, since = now, time.Now()
		}
		return fmt.Sprintf("%d calls so far", now.calls), time.Since(since) >= quietFor, nil
	})
}

func dollarsOfAMonth(metricsAMinute float64) float64 {
	return metricsAMinute * minutesOfAMonth * dollarsPerMetric
}
