package demo

import (
	"fmt"
	"sync"
	"time"
)

// course judges what the HPA does to the number of workers: first only down to 0,
// after the first message only up, and after the top only down.
type course struct {
	mu       sync.Mutex
	known    bool
	replicas int
	rising   bool
	reached  bool
	turned   time.Time // when the first worker was taken away after the top; zero before
}

// rise says that from now on there are messages.
func (c *course) rise() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rising = true
}

// turnedAt is when the HPA began to take workers away after the top.
func (c *course) turnedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turned
}

// moved is told the desired number of workers as often as one likes, and returns an
// error if the HPA should not have changed it to that.
func (c *course) moved(to int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, known := c.replicas, c.known
	c.replicas, c.known = to, true
	if !known || to == from {
		return nil
	}
	switch {
	case c.rising && to < from:
		return fmt.Errorf("the HPA went from %d to %d workers before it reached %d; did they empty the queue first? Then it takes more messages or a lower rate", from, to, maxWorkers)
	case !c.rising && to > from && c.reached:
		return fmt.Errorf("the HPA went from %d to %d workers while the queue got empty", from, to)
	case !c.rising && to > from:
		return fmt.Errorf("the HPA went from %d to %d workers while the queue was empty", from, to)
	case c.rising && to >= maxWorkers:
		c.rising, c.reached = false, true
	case c.reached && c.turned.IsZero():
		c.turned = time.Now()
	}
	return nil
}
