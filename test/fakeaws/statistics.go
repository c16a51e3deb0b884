package fakeaws

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// statistic makes one number of a distribution; false means that it has none.
type statistic func(*distribution) (float64, bool)

// Statistics over part of the values, such as p99.9, tm90, tm(10%:90%) and
// PR(:300), see
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
var (
	shortStatistic = regexp.MustCompile(`^(p|tm|wm|tc|ts)(\d{1,3}(?:\.\d{1,10})?)$`)
	rangeStatistic = regexp.MustCompile(`^(TM|WM|TC|TS|PR)\(([\d.]*)(%?):([\d.]*)(%?)\)$`)
)

// parseStatistic understands the Stat of a MetricStat.
func parseStatistic(stat string) (statistic, error) {
	switch stat {
	case "Average":
		return func(d *distribution) (float64, bool) { return d.sum / d.count, true }, nil
	case "Sum":
		return func(d *distribution) (float64, bool) { return d.sum, true }, nil
	case "Minimum":
		return func(d *distribution) (float64, bool) { return d.minimum, true }, nil
	case "Maximum":
		return func(d *distribution) (float64, bool) { return d.maximum, true }, nil
	case "SampleCount":
		return func(d *distribution) (float64, bool) { return d.count, true }, nil
	case "IQM":
		return overRange("TM", byRank(0.25, 0.75)), nil
	}
	if m := shortStatistic.FindStringSubmatch(stat); m != nil {
		percent, err := strconv.ParseFloat(m[2], 64)
		if err != nil || percent > 100 {
			return nil, fmt.Errorf("percentile %s is above 100", m[2])
		}
		if m[1] == "p" {
			return percentile(percent / 100), nil
		}
		return overRange(strings.ToUpper(m[1]), byRank(0, percent/100)), nil
	}
	if m := rangeStatistic.FindStringSubmatch(strings.ToUpper(stat)); m != nil {
		return parseRangeStatistic(m[1], m[2:])
	}
	return nil, fmt.Errorf("%q is no statistic", stat)
}

// parseRangeStatistic takes the parts low, %, high, % of a range.
func parseRangeStatistic(kind string, parts []string) (statistic, error) {
	if parts[0] == "" && parts[2] == "" {
		return nil, fmt.Errorf("%s needs a bound", kind)
	}
	low, high := math.Inf(-1), math.Inf(1)
	var err error
	if parts[0] != "" {
		low, err = strconv.ParseFloat(parts[0], 64)
	}
	if parts[2] != "" && err == nil {
		high, err = strconv.ParseFloat(parts[2], 64)
	}
	if err != nil {
		return nil, fmt.Errorf("reading bound of %s: %w", kind, err)
	}
	if parts[1] == "" && parts[3] == "" {
		return overRange(kind, byValue(low, high)), nil
	}
	if kind == "PR" {
		return nil, fmt.Errorf("%s takes values, not percentages", kind)
	}
	return overRange(kind, byRank(max(low/100, 0), min(high/100, 1))), nil
}

// weighted is a value and how often it was measured.
type weighted struct {
	value, count float64
}

// sorted returns the values in order, or false when they are not all known.
func (d *distribution) sorted() ([]weighted, bool) {
	if d.opaque {
		return nil, false
	}
	all := make([]weighted, 0, len(d.values))
	for value, count := range d.values {
		all = append(all, weighted{value, count})
	}
	slices.SortFunc(all, func(a, b weighted) int { return cmp.Compare(a.value, b.value) })
	return all, true
}

// percentile is the smallest value that at least a share q of the values do not exceed.
func percentile(q float64) statistic {
	return func(d *distribution) (float64, bool) {
		all, ok := d.sorted()
		if !ok {
			return 0, false
		}
		seen := 0.0
		for _, v := range all {
			if seen += v.count; seen >= q*d.count {
				return v.value, true
			}
		}
		return d.maximum, true
	}
}

// part cuts a part out of values, which are sorted and count in all.
type part func(all []weighted, count float64) []weighted

// byRank is the part from one share of the values to another.
func byRank(low, high float64) part {
	return func(all []weighted, count float64) []weighted {
		var inside []weighted
		seen := 0.0
		for _, v := range all {
			from, to := max(seen, low*count), min(seen+v.count, high*count)
			seen += v.count
			if to > from {
				inside = append(inside, weighted{v.value, to - from})
			}
		}
		return inside
	}
}

// byValue is the part above low and up to high.
func byValue(low, high float64) part {
	return func(all []weighted, _ float64) []weighted {
		outside := func(v weighted) bool { return v.value <= low || v.value > high }
		return slices.DeleteFunc(slices.Clone(all), outside)
	}
}

// clampTo returns all values with those outside replaced by the nearest inside.
func clampTo(all, inside []weighted) []weighted {
	low, high := inside[0].value, inside[len(inside)-1].value
	clamped := make([]weighted, 0, len(all))
	for _, v := range all {
		clamped = append(clamped, weighted{min(max(v.value, low), high), v.count})
	}
	return clamped
}

// overRange is the trimmed mean, winsorized mean, trimmed count, trimmed sum or
// percentile rank, by the name in kind.
func overRange(kind string, within part) statistic {
	return func(d *distribution) (float64, bool) {
		all, ok := d.sorted()
		if !ok {
			return 0, false
		}
		inside := within(all, d.count)
		switch sum, count := total(inside); kind {
		case "TC":
			return count, true
		case "TS":
			return sum, true
		case "PR":
			return 100 * count / d.count, true
		case "TM":
			return sum / count, count > 0
		default: // WM
			if count == 0 {
				return 0, false
			}
			sum, count = total(clampTo(all, inside))
			return sum / count, true
		}
	}
}

func total(values []weighted) (sum, count float64) {
	for _, v := range values {
		sum += v.value * v.count
		count += v.count
	}
	return sum, count
}
