package sources

import "time"

// Backoff is how long to wait after so many failures in a row: first, and from the second
// on twice as long each time, up to the limit.
func Backoff(first, limit time.Duration, inARow int) time.Duration {
	for ; inARow > 1 && first < limit; inARow-- {
		first *= 2
	}
	return min(first, limit)
}
