package rules

import (
	"fmt"
	"time"
)

// Bounds of times, which hold wherever an interval or a maxAge is given.
const (
	minInterval = time.Second
	maxInterval = 10 * time.Minute
	minMaxAge   = 2 * time.Second
	maxMaxAge   = 24 * time.Hour
)

// CheckInterval says what is wrong with an interval.
func CheckInterval(d time.Duration) error {
	if d < minInterval || d > maxInterval {
		return fmt.Errorf("%v is not between 1s and 10m", d)
	}
	return nil
}

// CheckMaxAge says what is wrong with a maxAge.
func CheckMaxAge(d time.Duration) error {
	if d < minMaxAge || d > maxMaxAge {
		return fmt.Errorf("%v is not between 2s and 24h", d)
	}
	return nil
}
