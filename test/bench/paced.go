package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// pace is what readers read again and again, as HPAs do: each URL once in a period, and
// all of them evenly spread over it.
type pace struct {
	urls    []string
	period  time.Duration
	readers int
}

// run reads until ctx is done, and gives how many reads that were. An answer other than
// 200 is an error. A reader that is late does not wait.
func (p pace) run(ctx context.Context, client *http.Client) (int, error) {
	var reads atomic.Int64
	start := time.Now()
	g, reading := errgroup.WithContext(ctx)
	for r := range p.readers {
		g.Go(func() error {
			for i := r; ; i += p.readers {
				due := start.Add(time.Duration(i) * p.period / time.Duration(len(p.urls)))
				err := pause(reading, time.Until(due))
				if err == nil {
					_, err = read(reading, client, p.urls[i%len(p.urls)])
				}
				switch {
				case reading.Err() != nil:
					return nil //nolint:nilerr // It was to end, or another reader's error counts.
				case err != nil:
					return err
				}
				reads.Add(1)
			}
		})
	}
	err := g.Wait()
	return int(reads.Load()), err
}

// readEach reads each URL once, so many at a time, and gives how long each took.
func readEach(ctx context.Context, client *http.Client, urls []string, inFlight int) ([]time.Duration, error) {
	took := make([]time.Duration, len(urls))
	g, reading := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range inFlight {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(urls); i = int(next.Add(1)) - 1 {
				began := time.Now()
				if _, err := read(reading, client, urls[i]); err != nil {
					return fmt.Errorf("the first read: %w", err)
				}
				took[i] = time.Since(began)
			}
			return nil
		})
	}
	return took, g.Wait()
}

// beside runs a load while a function runs, and gives how many reads that were.
func (p pace) beside(ctx context.Context, client *http.Client, use func() error) (int, error) {
	reading, stop := context.WithCancel(ctx)
	var reads int
	var failed error
	var load sync.WaitGroup
	load.Go(func() { reads, failed = p.run(reading, client) })
	used := use()
	stop()
	load.Wait()
	if failed != nil {
		return reads, failed
	}
	return reads, used
}

// slow counts the reads that took more than atOnce.
func slow(took []time.Duration) int {
	n := 0
	for _, t := range took {
		if t > atOnce {
			n++
		}
	}
	return n
}
