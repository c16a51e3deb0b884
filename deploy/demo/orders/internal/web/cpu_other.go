//go:build !linux

package web

import "time"

// cpuTime is the time of the day where there is nothing better.
func cpuTime() time.Duration { return time.Duration(time.Now().UnixNano()) }
