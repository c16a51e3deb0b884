package simulator

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// looksEmpty is how often in a row the queue has to be empty before a wave begins.
	looksEmpty = 2
	// pause is between two attempts when SQS fails.
	pause = 2 * time.Second
	// early is how long before it is due a step is waited for with its message in hand.
	early = 2 * time.Second
	// maxJitter bounds jitter.
	maxJitter = time.Second
)

// loop goes through the wave. The message of a step becomes visible when the step is due; who
// receives it drives the load, sends the message of the next step, and then deletes it. In this
// order a crash leaves one message too many at the worst, and none too few: the step is
// done again, and the messages of steps that were done are deleted. The other order would lose the
// wave. Two simulators share the messages and so the steps.
type loop struct {
	queue    *queue
	wave     wave
	steps    int
	interval time.Duration // of a step
	drive    func(ctx context.Context, value float64)

	// done is the last step that was taken here, if one was.
	done atomic.Pointer[position]
	// due is when the one after it is, and poll how many seconds to wait for a message then.
	due  time.Time
	poll int32
	// sweep says to look at once for more messages of the step that was taken.
	sweep bool
	// empties is how often the queue was empty in a row.
	empties int
}

// run goes on until ctx is done. While SQS is away the load stays as it is.
func (l *loop) run(ctx context.Context) {
	failing := false
	l.poll = shortPoll
	for ctx.Err() == nil {
		err := l.next(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failing:
			slog.Warn("the wave stands still", "error", err)
		case err == nil && failing:
			slog.Info("the wave goes on")
		}
		failing = err != nil
		if failing {
			wait(ctx, pause)
		}
	}
}

// next receives, and takes the step if there is one.
func (l *loop) next(ctx context.Context) error {
	if err := l.queue.find(ctx); err != nil {
		return err
	}
	if l.sweep {
		return l.sweepUp(ctx)
	}
	if l.due.After(time.Now()) {
		// What was sent last is not due yet. Who is not always the first to ask sees the
		// messages of two waves at once, if there are two, and ends one of them.
		jitter := rand.N(min(l.interval/10, maxJitter) + 1) //nolint:gosec // Nobody has to guess it.
		// It is no further away, unless the clock was set back.
		wait(ctx, min(time.Until(l.due), 2*l.interval)+jitter)
	}
	got, err := l.queue.receive(ctx, l.poll)
	if err != nil {
		return err
	}
	if len(got) == 0 {
		return l.begin(ctx)
	}
	l.empties, l.poll = 0, longPoll
	// Before the message of the next step can be there. Of shorter steps it is there at once.
	l.sweep = l.interval >= 2*shortPoll*time.Second
	return l.take(ctx, got)
}

// sweepUp looks for what a receive has left: it need not give all messages that there are.
func (l *loop) sweepUp(ctx context.Context) error {
	got, err := l.queue.receive(ctx, shortPoll)
	if err != nil {
		return err
	}
	l.sweep = len(got) > 0
	if !l.sweep {
		return nil
	}
	return l.take(ctx, got)
}

// take takes the step of the first of some messages, and deletes the others.
func (l *loop) take(ctx context.Context, got []received) error {
	for _, old := range got[1:] {
		if err := l.queue.remove(ctx, old); err != nil {
			return err
		}
	}
	return l.step(ctx, got[0])
}

// begin sends the first message, if the queue has had none for a while. If this
// simulator has driven before, it goes on from there.
func (l *loop) begin(ctx context.Context) error {
	empty, err := l.queue.empty(ctx)
	if err != nil {
		return err
	}
	if !empty {
		l.empties, l.poll = 0, longPoll
		return nil
	}
	l.poll = shortPoll
	l.empties++
	if l.empties < looksEmpty {
		return nil
	}
	l.empties = 0
	first := position{Due: time.Now()}
	if done := l.done.Load(); done != nil {
		first = l.after(*done)
		if first.check() != nil { // Nobody counts on from a message that said too much.
			first.Step = 0
			l.done.Store(nil)
		}
	}
	slog.Info("the queue is empty; a wave begins", "queue", l.queue.name, "step", first.Step, "phase", first.Phase)
	return l.queue.send(ctx, first)
}

// step takes the step of a message.
func (l *loop) step(ctx context.Context, now received) error {
	done := l.done.Load()
	if done != nil && now.Step <= done.Step {
		return l.queue.remove(ctx, now) // Of a wave that is behind.
	}
	ahead := time.Until(now.Due)
	if ahead > 2*l.interval {
		ahead = 0 // Somebody's clock is wrong.
	}
	if ahead > early {
		return l.queue.giveBack(ctx, now, ahead)
	}
	if !wait(ctx, ahead) {
		return l.queue.giveBack(context.WithoutCancel(ctx), now, 0)
	}
	// What has begun is finished.
	ctx = context.WithoutCancel(ctx)
	l.drive(ctx, l.wave.at(now.Phase))
	next := l.after(now.position)
	if err := l.queue.send(ctx, next); err != nil {
		return err
	}
	l.done.Store(&now.position)
	l.due = next.Due
	return l.queue.remove(ctx, now)
}

// after is the position after p. It is due at a multiple of the interval, so that waves that should
// be one have their messages visible at the same time. Steps that nobody was there for are not
// made up for.
func (l *loop) after(p position) position {
	due := p.Due.Round(l.interval).Add(l.interval)
	if now := time.Now(); !due.After(now) || due.After(now.Add(2*l.interval)) {
		due = now.Truncate(l.interval).Add(l.interval)
	}
	return position{Step: p.Step + 1, Phase: turn(p.Phase, l.steps), Due: due}
}

// wait waits, and says whether ctx was not done before.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
