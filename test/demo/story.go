package demo

import (
	"context"
	"fmt"
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// calmTime is how long the workers stay at 0: before the messages come, for people to
// see it, and at the end, in case the HPA changes its mind.
const calmTime = 3 * time.Second

// story plays the phases one after the other, and returns why one did not end as it
// should.
func (d *demo) story(ctx context.Context) error {
	for _, part := range []func(context.Context) error{d.playIdle, d.playLoad, d.playOutages, d.playBurst, d.playCalm, d.playWaves} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	d.enter(ctx, done)
	return nil
}

func (d *demo) playIdle(ctx context.Context) error {
	d.enter(ctx, idle)
	if err := d.await(ctx, d.opts.stepLimit, "0 workers", noWorkers); err != nil {
		return err
	}
	if err := d.await(ctx, d.opts.stepLimit, "1 ready web pod", webOf(1)); err != nil {
		return err
	}
	return pause(ctx, calmTime)
}

// playLoad has the load rise, and leaves it so.
func (d *demo) playLoad(ctx context.Context) error {
	if d.opts.noLoad {
		return nil
	}
	d.enter(ctx, loading)
	if err := d.setLoad(ctx, loadRate); err != nil {
		return err
	}
	came := time.Now()
	if err := d.await(ctx, d.opts.stepLimit, fmt.Sprintf("%d ready web pods", loadPods), webOf(loadPods)); err != nil {
		return err
	}
	d.webUp = time.Since(came)
	wanted := fmt.Sprintf("%d requests a second on %d ready web pods, and the HPA to see them", loadRate, loadPods)
	steady := webOf(loadPods)
	err := d.await(ctx, d.opts.stepLimit, wanted, func(s *snapshot) bool { return steady(s) && d.serves(ctx) && d.seesLoad() })
	if err == nil {
		d.board.step(fmt.Sprintf("%d requests a second are served by %d web pods", loadRate, loadPods))
	}
	return err
}

const (
	// rateMargin is by what part the loaders may miss the rate that they were asked for.
	rateMargin = 0.05
	// seenMargin is that for the rate that the HPA sees, which Prometheus makes of a few scrapes.
	seenMargin = 0.1
)

// serves says whether the load is what was asked for, and all of it is served.
func (d *demo) serves(ctx context.Context) bool {
	served, ok := d.collector.Snapshot(ctx).Traffic.Served.Get()
	return ok && math.Abs(served-loadRate) <= rateMargin*loadRate
}

// seesLoad says whether the HPA of web sees the whole load, on loadPods.
func (d *demo) seesLoad() bool {
	h := d.collector.cluster.scaling(webName).hpa
	if h == nil {
		return false
	}
	seen, ok := targetIn(h, h.Spec.Metrics[0]).Current.Get()
	return ok && math.Abs(seen*loadPods-loadRate) <= seenMargin*loadRate
}

func (d *demo) playBurst(ctx context.Context) error {
	sent := time.Now()
	d.enter(ctx, sending)
	d.course.rise()
	if err := d.placeOrders(ctx, d.opts.Messages); err != nil {
		return err
	}
	if err := d.checkPlaced(ctx); err != nil {
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
	// Before the HPA takes the workers away, and what they counted with them.
	if err := d.countWork(ctx); err != nil {
		return err
	}

	d.enter(ctx, falling)
	if err := d.await(ctx, d.opts.stepLimit, "0 workers", noWorkers); err != nil {
		return err
	}
	gone := time.Now()
	if err := pause(ctx, calmTime); err != nil {
		return err
	}
	if err := d.checkOrders(ctx); err != nil {
		return err
	}
	u, err := d.usage(ctx)
	d.board.update(func(s *snapshot) {
		s.summary = &summary{
			up: ready.Sub(sent), down: gone.Sub(d.course.turnedAt()), late: gone.Sub(empty), usage: u,
			orders: d.worked.verdict(d.opts.Messages),
		}
	})
	return err
}

// playCalm takes the load away.
func (d *demo) playCalm(ctx context.Context) error {
	d.enter(ctx, calm)
	if err := d.setLoad(ctx, calmRate); err != nil {
		return err
	}
	gone := time.Now()
	if err := d.await(ctx, d.opts.webStabilization()+d.opts.stepLimit, "1 ready web pod", webOf(1)); err != nil {
		return err
	}
	d.board.update(func(s *snapshot) {
		now := *s.summary // Others look at the one before.
		now.webUp, now.webDown = d.webUp, time.Since(gone)
		s.summary = &now
	})
	return nil
}

// playWaves leaves the load to the simulator for as long as was asked for.
func (d *demo) playWaves(ctx context.Context) error {
	if d.opts.For == 0 {
		return nil
	}
	d.enter(ctx, waves)
	if err := d.setLoad(ctx, loadRate); err != nil {
		return err
	}
	patch := []byte(`{"spec":{"replicas":1}}`)
	_, err := d.cluster.Client().AppsV1().Deployments(namespace).Patch(ctx, simulatorName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("starting the simulator: %w", err)
	}
	return pause(ctx, d.opts.For)
}

// webOf says whether web has that many pods, which are all ready.
func webOf(pods int) func(*snapshot) bool {
	return func(s *snapshot) bool {
		return s.web.known && s.web.desired == pods && s.web.running == pods && s.web.ready == pods
	}
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
