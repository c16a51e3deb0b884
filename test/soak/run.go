package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
)

const (
	// recoverLimit is how long after a fault everything has to be fresh again: a backend
	// that throttles is left alone for up to 30 s.
	recoverLimit = 45 * time.Second
	// followLimit is how long an HPA may take to reach the number of a new demand, and
	// followSettle how long after that pods come and go.
	followLimit  = 45 * time.Second
	followSettle = 5 * time.Second
	// settleAway is how long after kube-apiserver is ready the adapter may still have it for
	// away: its clients try again after some seconds.
	settleAway = 10 * time.Second
	// passingLimit is how long an object that comes, or goes, may take to be known.
	passingLimit = time.Minute
	// passingObjects is how many come and go at a time.
	passingObjects = 3
)

// run goes through the phases of a plan until the time is over.
func (b *bed) run(ctx context.Context, p *plan, d time.Duration) error {
	ctx, fell := context.WithCancelCause(ctx)
	defer fell(nil) // It ends the readers too, for whom stop waits.
	if err := b.watchAdapter(ctx, func(err error) { fell(fmt.Errorf("%w: %w", ErrBroken, err)) }); err != nil {
		return err
	}
	if err := b.startReaders(ctx); err != nil {
		return err
	}
	var err error
	for begun := time.Now(); err == nil && time.Since(begun) < d; {
		err = b.phase(ctx, p.next())
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // What else went wrong came of that.
	}
	b.checkGrowth()
	return err
}

// startReaders reads all the while.
func (b *bed) startReaders(ctx context.Context) error {
	aggregated, err := b.ServiceAccountConfig(ctx, namespace, readerName)
	if err != nil {
		return err
	}
	direct := b.adapter.Config(aggregated)
	for i := range directReaders + 1 {
		config := direct
		if i == directReaders {
			config = aggregated
		}
		r, err := newReader(config, i == directReaders)
		if err != nil {
			return err
		}
		b.running.Go(func() {
			defer r.client.CloseIdleConnections()
			r.run(ctx, b)
		})
	}
	return nil
}

// phase goes through one phase.
func (b *bed) phase(ctx context.Context, p phase) error {
	b.tally.enter(p)
	switch p.kind {
	case faulty:
		return b.disturb(ctx, p)
	case demand:
		return b.follow(ctx, p)
	default:
		return b.rest(ctx, p)
	}
}

// rest is a quiet phase.
func (b *bed) rest(ctx context.Context, p phase) error {
	s, err := b.look(ctx, p.lasts)
	if err != nil {
		return err
	}
	b.rests = append(b.rests, s)
	b.tally.say("quiet for %v: %.0f goroutines, %.0f MiB, of which heap at most %.0f MiB, %.0f files; %d reads",
		p.lasts, s.goroutines, s.memory/(1<<20), s.heap/(1<<20), s.files, b.tally.reads())
	return nil
}

// ends are what is left to do of a fault that has begun.
type ends struct {
	episode *episode
	// lift ends it, and tidy is called when all is fresh again. Both may be nil.
	lift, tidy func(context.Context) error
}

// disturb is a phase with faults.
func (b *bed) disturb(ctx context.Context, p phase) error {
	b.tally.say("%v for %v", p, p.lasts)
	over := time.After(p.lasts)
	var begun []ends
	for _, c := range p.faults {
		f := faultOf(c.name)
		e := ends{episode: b.episodes.begin(f, c, time.Now())}
		var err error
		if e.lift, e.tidy, err = f.begin(ctx, b, c); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
		begun = append(begun, e)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
	}
	for _, e := range slices.Backward(begun) {
		if err := call(ctx, e.lift); err != nil {
			return fmt.Errorf("the end of %v: %w", e.episode.chosen, err)
		}
	}
	if err := b.recover(ctx); err != nil {
		return err
	}
	for _, e := range begun {
		b.episodes.end(e.episode, time.Now())
	}
	for _, e := range begun {
		if err := call(ctx, e.tidy); err != nil {
			return fmt.Errorf("after %v: %w", e.episode.chosen, err)
		}
	}
	return nil
}

func call(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}

// recover waits until every metric shows what the backends have only since now.
func (b *bed) recover(ctx context.Context) error {
	lifted := time.Now()
	err := await(ctx, "recovery", recoverLimit, func(context.Context) error {
		if stale := b.fresh.stale(b.workloads, lifted); len(stale) > 0 {
			return errors.New("no fresh value of " + strings.Join(stale, ", "))
		}
		return nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.tally.check(recovers, err)
	b.tally.recovered(time.Since(lifted))
	b.tally.say("all is fresh %v after it", time.Since(lifted).Round(time.Second/10))
	return nil
}

// follow is a phase with a new demand.
func (b *bed) follow(ctx context.Context, p phase) error {
	b.tally.say("%v", p)
	changed := time.Now()
	for name, n := range p.demand {
		b.replicas.change(name, n)
		b.demands.set(name, n)
	}
	for _, name := range slices.Sorted(maps.Keys(p.demand)) {
		n := p.demand[name]
		err := await(ctx, name, followLimit-time.Since(changed), func(context.Context) error { return b.replicas.reached(name, n) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.tally.check(follows, err)
	}
	b.tally.say("the HPAs have followed in %v", time.Since(changed).Round(time.Second/10))
	if err := pause(ctx, followSettle); err != nil {
		return err
	}
	for name, n := range p.demand {
		if b.replicas.reached(name, n) == nil {
			b.replicas.hold(name, n)
		}
	}
	return nil
}

// comeAndGo creates workloads of their own, whose HPAs must not move either, and removes
// them when all is well again.
func comeAndGo(ctx context.Context, b *bed, c chosen) (lift, tidy func(context.Context) error, err error) {
	var passing []*workload
	for i := range passingObjects {
		name := fmt.Sprintf("passing-%d-%d", c.pick%1000, i)
		passing = append(passing, &workload{
			name: name, kind: cloudWatch, metric: name, series: fmt.Sprintf("%s-%d", name, time.Now().Unix()),
			maxAge: shortAge, region: regions[i%len(regions)],
		})
		b.demands.set(name, firstDemand)
		b.replicas.hold(name, firstDemand)
	}
	b.setPassing(passing...)
	for _, w := range passing {
		if err := b.create(ctx, w); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.name, err)
		}
		if _, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, w.hpa(), metav1.CreateOptions{}); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil, func(ctx context.Context) error { return b.part(ctx, passing) }, nil
}

// part waits until workloads that come and go are well, and removes them.
func (b *bed) part(ctx context.Context, passing []*workload) error {
	r, err := newReader(b.adapter.Config(b.Config()), false)
	if err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	for _, w := range passing {
		b.tally.check(recovers, await(ctx, w.name, passingLimit, func(ctx context.Context) error {
			return errors.Join(complete(r.read(ctx, w)), b.replicas.reached(w.name, firstDemand))
		}))
		b.judge(r.read(ctx, w))
	}
	for _, w := range passing {
		b.replicas.release(w.name)
		if err := b.remove(ctx, w); err != nil {
			return err
		}
	}
	for _, w := range passing {
		b.tally.check(recovers, await(ctx, w.name+", which is deleted", passingLimit, func(ctx context.Context) error {
			if one := r.read(ctx, w); one.status != http.StatusNotFound {
				return fmt.Errorf("%d: %s (%w)", one.status, shown(one.body), one.err)
			}
			return nil
		}))
	}
	b.setPassing()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// remove deletes all objects of a workload.
func (b *bed) remove(ctx context.Context, w *workload) error {
	return errors.Join(
		b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Delete(ctx, w.name, metav1.DeleteOptions{}),
		b.Dynamic().Resource(metricsaws.Resource).Namespace(namespace).Delete(ctx, w.metric, metav1.DeleteOptions{}),
		b.Client().AppsV1().Deployments(namespace).Delete(ctx, w.name, metav1.DeleteOptions{}),
	)
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
