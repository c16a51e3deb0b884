package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in proc_pid_stat(5), on every architecture that
// Kubernetes runs on.
const tick = 10 * time.Millisecond

// cpuOf is how long a process has computed, in user and in system mode, since it started.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time can be measured on Linux only: %w", err)
	}
	return parseStat(string(text))
}

// parseStat reads the fields utime and stime, the 14th and the 15th. The second is a name
// in parentheses that may have anything in it.
func parseStat(text string) (time.Duration, error) {
	const utime, stime = 14 - 3, 15 - 3
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= stime {
		return 0, fmt.Errorf("the statistics of the process are too short: %q", text)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("statistics of the process: utime: %w", err)
	}
	system, err := strconv.ParseInt(fields[stime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("statistics of the process: stime: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}
