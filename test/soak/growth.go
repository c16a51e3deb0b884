package soak

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// looks is how often the adapter is looked at in a quiet phase, of which the median
	// counts.
	looks = 5
	// warm is the part of the samples that does not count, as the adapter warms up, and
	// leastSamples how many there have to be of the others.
	warm         = 0.25
	leastSamples = 4
)

// sample is what the adapter took in a quiet phase.
type sample struct {
	at                        time.Duration
	goroutines, memory, files float64
	// heap is at which size of the heap the next garbage collection begins, which
	// follows what was alive at the last one.
	heap float64
}

// growing is what a resource may grow by over the whole run: a part of what it is, or so
// much, whatever is more.
type growing struct {
	of    invariant
	value func(sample) float64
	part  float64
	least float64
	unit  string
	scale float64
}

// part of what it is that a resource may grow by. The race detector has memory of its
// own, which grows for minutes and then goes at once: about 20% were seen. What the program
// itself keeps shows in its heap.
const (
	part      = 0.15
	partRaced = 0.5
)

// bounds are those of all resources, with the part for the resident memory.
func bounds(resident float64) []growing {
	return []growing{
		{goroutines, func(s sample) float64 { return s.goroutines }, part, 20, "", 1},
		{memory, func(s sample) float64 { return s.memory }, resident, 16 << 20, " MiB", 1 << 20},
		{heap, func(s sample) float64 { return s.heap }, part, 8 << 20, " MiB", 1 << 20},
		{files, func(s sample) float64 { return s.files }, part, 8, "", 1},
	}
}

// residentPart is the part for an adapter of that binary.
func residentPart(binary string) (float64, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return 0, fmt.Errorf("the adapter: %w", err)
	}
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return partRaced, nil
	}
	return part, nil
}

// check looks for a trend in the samples. It is false if there are too few of them. The
// note says what there was.
func (g growing) check(samples []sample) (note string, checked int, err error) {
	counted := samples[int(warm*float64(len(samples))):]
	if len(counted) < leastSamples {
		return fmt.Sprintf("%d quiet phases are too few to see a trend", len(samples)), 0, nil
	}
	values := make([]float64, len(counted))
	for i, s := range counted {
		values[i] = g.value(s)
	}
	middle := median(values)
	growth := slope(counted, g.value) * (counted[len(counted)-1].at - counted[0].at).Seconds()
	limit := max(g.part*middle, g.least)
	note = fmt.Sprintf("%.0f%s in the middle, %.0f to %.0f, trend %+.0f, limit %+.0f",
		middle/g.scale, g.unit, slices.Min(values)/g.scale, slices.Max(values)/g.scale, growth/g.scale, limit/g.scale)
	if growth > limit {
		err = fmt.Errorf("%s grow: %s", g.of, note)
	}
	return note, len(counted), err
}

// slope is the median of the slopes between any two samples, a second, which one sample
// that is far off does not change (Theil and Sen).
func slope(samples []sample, value func(sample) float64) float64 {
	var slopes []float64
	for i, a := range samples {
		for _, b := range samples[i+1:] {
			if seconds := (b.at - a.at).Seconds(); seconds > 0 {
				slopes = append(slopes, (value(b)-value(a))/seconds)
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	return median(slopes)
}

// median is the middle one of the values, of which there must be some.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// selfMetrics are the adapter's own metrics that are gauges or counters, by name with
// labels.
func (b *bed) selfMetrics(ctx context.Context) (map[string]float64, error) {
	status, text, err := get(ctx, b.self, b.adapter.URL+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("self-metrics: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("self-metrics: %d: %s", status, shown(text))
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("self-metrics: %w", err)
	}
	values := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			values[name+labelsOf(m)] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values, nil
}

// labelsOf writes labels as in {a="b",c="d"}.
func labelsOf(m *dto.Metric) string {
	var text []byte
	for _, l := range m.GetLabel() {
		text = fmt.Appendf(append(text, ','), "%s=%q", l.GetName(), l.GetValue())
	}
	if text == nil {
		return ""
	}
	text[0] = '{'
	return string(append(text, '}'))
}

// look takes a sample of what the adapter takes over a while.
func (b *bed) look(ctx context.Context, while time.Duration) (sample, error) {
	names := []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds", "go_memstats_next_gc_bytes"}
	seen := make([][]float64, len(names))
	tick := time.NewTicker(while / looks)
	defer tick.Stop()
	for range looks {
		select {
		case <-ctx.Done():
			return sample{}, context.Cause(ctx)
		case <-tick.C:
		}
		m, err := b.selfMetrics(ctx)
		if err != nil {
			return sample{}, err
		}
		for i, name := range names {
			if m[name] == 0 {
				return sample{}, fmt.Errorf("self-metrics: there is no %s", name)
			}
			seen[i] = append(seen[i], m[name])
		}
	}
	return sample{at: time.Since(b.tally.start), goroutines: median(seen[0]), memory: median(seen[1]), files: median(seen[2]), heap: median(seen[3])}, nil
}

// checkGrowth looks at all quiet phases together.
func (b *bed) checkGrowth() {
	for _, g := range bounds(b.residentPart) {
		note, checked, err := g.check(b.rests)
		b.tally.note(g.of, "%s", note)
		b.tally.count(g.of, checked)
		if err != nil {
			b.tally.fail(g.of, err)
		}
	}
}
