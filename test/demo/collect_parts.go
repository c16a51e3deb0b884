package demo

import (
	"context"
	"sync"
	"time"

	"github.com/tidegauge/tidegauge/test/demo/page"
)

// downAfter is how many looks in a row have to fail: one may be late on a busy machine.
const downAfter = 2

// probe looks after a part. The check is nil if the part does its work.
type probe struct {
	name  string
	check func(context.Context) error
}

// parts knows which parts are up. It is safe for concurrent use.
type parts struct {
	probes []probe

	mu     sync.Mutex
	states []partState
}

type partState struct {
	part page.Part
	// failures counts those in a row, the first of which was at failed.
	failures int
	failed   time.Time
}

func newParts(probes []probe) *parts {
	p := &parts{probes: probes, states: make([]partState, len(probes))}
	for i := range probes {
		p.states[i].part.Name = probes[i].name
	}
	return p
}

// look checks the part of that number.
func (p *parts) look(ctx context.Context, i int) error {
	began := time.Now()
	err := p.probes[i].check(ctx)
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == context.Canceled { //nolint:errorlint // It is that very one.
		return err // The end of the demo, and nobody's fault.
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states[i].take(err, began)
	return err
}

func (s *partState) take(err error, at time.Time) {
	if err == nil {
		s.failures = 0
		if s.part.State != page.Up {
			s.part.State, s.part.Since, s.part.Says = page.Up, at, ""
		}
		return
	}
	s.failures++
	if s.failures == 1 {
		s.failed = at
	}
	if s.failures < downAfter {
		return
	}
	if s.part.State != page.Down {
		s.part.State, s.part.Since = page.Down, s.failed
	}
	s.part.Says = err.Error()
}

func (p *parts) all() []page.Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]page.Part, len(p.states))
	for i := range p.states {
		all[i] = p.states[i].part
	}
	return all
}

func (p *parts) isDown(name string) bool {
	for _, part := range p.all() {
		if part.Name == name {
			return part.State == page.Down
		}
	}
	return false
}
