package demo

import (
	"context"
	"fmt"
	"time"
)

// calm is how long the workers stay at 0: before the messages come, for people to
// see it, and at the end, in case the HPA changes its mind.
const calm = 3 * time.Second

// story plays the phases one after the other, and returns why one did not end as it
// should.
func (d *demo) story(ctx context.Context) error {
	d.enter(ctx, idle)
	if err := d.await(ctx, d.opts.stepLimit, "0 workers", noWorkers); err != nil {
		return err
	}
	if err := pause(ctx, calm); err != nil {
		return err
	}

	sent := time.Now()
	d.enter(ctx, sending)
	d.course.rise()
	if err := d.amazon.send(ctx, d.opts.Messages); err != nil {
		return err
	}

	d.enter(ctx, rising)
	if err := d.await(ctx, d.opts.stepLimit, fmt.Sprintf("%d ready workers", maxWorkers), allWorkers); err != nil {
		return err
	}
	ready := time.Now()

	d.enter(ctx, draining)
	if err := d.await(ctx, d.opts.Timeout, "an empty queue", emptyQueue); err != nil {
		return err
	}
	empty := time.Now()

	d.enter(ctx, falling)
	if err := d.await(ctx, d.opts.stepLimit, "0 workers", noWorkers); err != nil {
		return err
	}
	gone := time.Now()
	if err := pause(ctx, calm); err != nil {
		return err
	}

	u, err := d.usage(ctx)
	if err != nil {
		return err
	}
	d.board.update(func(s *snapshot) {
		s.summary = &summary{up: ready.Sub(sent), down: gone.Sub(d.course.turnedAt()), late: gone.Sub(empty), usage: u}
	})
	d.enter(ctx, done)
	return nil
}

func noWorkers(s *snapshot) bool {
	return s.workers.known && s.workers.desired == 0 && s.workers.running == 0
}

func allWorkers(s *snapshot) bool { return s.workers.ready == maxWorkers }

func emptyQueue(s *snapshot) bool { return s.queue.known && s.queue.messages == 0 }

func (d *demo) enter(ctx context.Context, p phase) {
	d.board.enter(p)
	d.opts.entered(ctx, d, p)
}

// await waits until the board shows what is wanted.
func (d *demo) await(ctx context.Context, limit time.Duration, wanted string, seen func(*snapshot) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v for %s", limit, wanted))
	defer cancel()
	for {
		if s := d.board.look(); seen(&s) {
			return nil
		}
		select {
		case <-d.board.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-time.After(length):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
