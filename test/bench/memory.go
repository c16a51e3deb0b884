package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// memory is what a process takes, in bytes.
type memory struct {
	resident float64
	// peak is the most that was ever resident.
	peak float64
}

// memoryOf reads proc_pid_status(5).
func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("memory can be measured on Linux only: %w", err)
	}
	return parseStatus(string(text))
}

func parseStatus(text string) (memory, error) {
	fields := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
		if err != nil {
			return memory{}, fmt.Errorf("status of the process: %s: %w", name, err)
		}
		fields[name] = float64(n) * 1024
	}
	m := memory{resident: fields["VmRSS"], peak: fields["VmHWM"]}
	if m.resident == 0 || m.peak == 0 {
		return m, fmt.Errorf("the status of the process has no VmRSS and VmHWM: %q", text)
	}
	return m, nil
}

// settledMemory is the median of what a process takes over a while, and its peak at
// the end of that.
func settledMemory(ctx context.Context, pid int, while time.Duration) (memory, error) {
	const looks = 40
	tick := time.NewTicker(while / looks)
	defer tick.Stop()
	var resident []float64
	for {
		m, err := memoryOf(pid)
		if err != nil {
			return memory{}, err
		}
		resident = append(resident, m.resident)
		if len(resident) == looks {
			m.resident = median(resident)
			return m, nil
		}
		select {
		case <-ctx.Done():
			return memory{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// median is the middle one of the values, of which there must be some.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile is the smallest value that is not exceeded by a part of the values, of which
// there must be some.
func quantile(values []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	i := int(part * float64(len(sorted)))
	return sorted[min(i, len(sorted)-1)]
}
