package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// pricePerMetric is what AWS takes for a metric that GetMetricData asks, in US
	// dollars (https://aws.amazon.com/cloudwatch/pricing/).
	pricePerMetric = 0.01 / 1000
	// A month of AWS's price examples has 730 hours.
	minutesPerMonth = 730 * 60
)

// summary is what came out.
type summary struct {
	// up is the time from the first message until all workers were ready, down from
	// the first worker less until there was none, and late from the last message
	// until then.
	up, down, late time.Duration
	usage          usage
	// webUp is the time from the load until the web pods for it were ready, and webDown from
	// its end until one was left; 0 if it is not over.
	webUp, webDown time.Duration
	// orders says how often they were processed.
	orders string
}

// usage is what the HPA's reads cost.
type usage struct {
	// reads are those of the metric through the API, and waited those among them for
	// which the adapter had to ask first.
	reads, waited int
	// calls are the adapter's of GetMetricData, and metrics what they asked for.
	calls, metrics int
}

func (s *summary) lines() []string {
	u := s.usage
	perCall := float64(u.metrics) / float64(max(1, u.calls))
	lines := []string{
		fmt.Sprintf("0 → %d workers in %.1f s, from the first message until all were ready.", maxWorkers, s.up.Seconds()),
		fmt.Sprintf("%d → 0 workers in %.1f s; the last one left %.1f s after the last message.", maxWorkers, s.down.Seconds(), s.late.Seconds()),
		fmt.Sprintf("The HPA read the metric %d times, %d of them from the adapter's memory.", u.reads, u.reads-u.waited),
		fmt.Sprintf("The adapter asked CloudWatch %d times, for %d metrics: $%.5f.", u.calls, u.metrics, float64(u.metrics)*pricePerMetric),
		fmt.Sprintf("Asked once a minute, as in production: $%.2f a month for any number of HPAs.", perCall*minutesPerMonth*pricePerMetric),
		strings.ToUpper(s.orders[:1]) + s.orders[1:] + ".",
	}
	if s.webDown > 0 {
		lines = slices.Insert(lines, 0, fmt.Sprintf("1 → %d web pods in %.1f s, and back to 1 in %.1f s after the load.", loadPods, s.webUp.Seconds(), s.webDown.Seconds()))
	}
	return lines
}
