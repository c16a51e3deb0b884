package graceful

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"syscall"
	"time"

	"github.com/tidegauge/tidegauge/test/balancer"
)

const (
	// lead is how long there is load before pods are stopped.
	lead = 3 * time.Second
	// patience of a user is longer than that of the load balancer, whose answer counts.
	patience = 30 * time.Second
)

// Round is what came of the load while pods were stopped once, or several times.
type Round struct {
	// Requests are those that users sent, and Failed those that were not answered by 2xx.
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Codes are the users' answers by code. 0 is none, or not all of one.
	Codes map[string]int `json:"codes"`
	// Repeated are requests that the user's HTTP client sent again by itself.
	Repeated int `json:"repeated"`
	// Balancer are the answers that the load balancer made itself, and Target those of pods, by code.
	Balancer map[int]uint64 `json:"balancer"`
	Target   map[int]uint64 `json:"target"`
	// Cut are answers of pods that ended before their end.
	Cut uint64 `json:"cut"`
	// WorstSecond is the largest share of 50x in what the load balancer answered in one second.
	WorstSecond float64 `json:"worstSecond"`
	// P99 is of the users' latency in seconds, the largest of several rounds.
	P99 float64 `json:"p99Seconds"`
}

// plus is the sum of two rounds.
func (r Round) plus(other Round) Round {
	return Round{
		Requests: r.Requests + other.Requests, Failed: r.Failed + other.Failed, Codes: sum(r.Codes, other.Codes),
		Repeated: r.Repeated + other.Repeated, Balancer: sum(r.Balancer, other.Balancer), Target: sum(r.Target, other.Target),
		Cut: r.Cut + other.Cut, WorstSecond: max(r.WorstSecond, other.WorstSecond), P99: max(r.P99, other.P99),
	}
}

func sum[K comparable, V int | uint64](a, b map[K]V) map[K]V {
	all := maps.Clone(a)
	if all == nil {
		all = map[K]V{}
	}
	for k, n := range b {
		all[k] += n
	}
	return all
}

// less is what was counted from one look to the next.
func less(now, then map[int]uint64) map[int]uint64 {
	rest := map[int]uint64{}
	for code, n := range now {
		if n > then[code] {
			rest[code] = n - then[code]
		}
	}
	return rest
}

// measure has a variant scaled in as often as was asked for.
func (b *bed) measure(ctx context.Context, v Variant) (result Result, err error) {
	result.Variant = v.Name
	s, err := b.open(ctx, v)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	for i := range b.opts.Rounds {
		if err := s.scale(ctx, b.opts.Pods); err != nil {
			return result, err
		}
		if err := s.await(ctx, b.opts.Pods); err != nil {
			return result, err
		}
		round, err := s.watch(ctx, func(ctx context.Context) error { return s.scale(ctx, left) })
		if err != nil {
			return result, err
		}
		b.say("%s, round %d: %d of %d requests failed", v.Name, i+1, round.Failed, round.Requests)
		if err := s.await(ctx, left); err != nil {
			return result, fmt.Errorf("after round %d: %w", i+1, err)
		}
		result.Rounds = append(result.Rounds, round)
		result.Total = result.Total.plus(round)
	}
	return result, nil
}

// watch has pods stopped under load, after which there are to be few, and returns what came of
// it once the window is over and the last of those pods has ended.
func (s *shop) watch(ctx context.Context, stop func(ctx context.Context) error) (Round, error) {
	start := s.balancer.Snapshot()
	l, err := s.load(ctx)
	if err != nil {
		return Round{}, err
	}
	worst, err := s.attend(ctx, l, stop)
	loaded := l.end()
	if err := errors.Join(err, loaded.err); err != nil {
		return Round{}, err
	}
	end := s.balancer.Snapshot()
	round := loaded.round()
	round.Balancer, round.Target = less(end.Balancer, start.Balancer), less(end.Target, start.Target)
	round.Cut, round.WorstSecond = end.Cut-start.Cut, worst
	return round, nil
}

// attend stops pods and returns when there is no need of load any more, with the share of 50x
// in the worst second.
func (s *shop) attend(ctx context.Context, l *load, stop func(ctx context.Context) error) (worst float64, err error) {
	if err := l.wait(ctx, lead); err != nil {
		return 0, err
	}
	if err := stop(ctx); err != nil {
		return 0, err
	}
	began, last := time.Now(), s.balancer.Snapshot()
	for {
		if err := l.wait(ctx, time.Second); err != nil {
			return 0, err
		}
		now := s.balancer.Snapshot()
		worst = max(worst, errorShare(last, now))
		last = now
		if time.Since(began) < s.opts.Window {
			continue
		}
		// Those that are about to end are counted, too.
		pods, err := s.pods(ctx)
		if err != nil || len(pods) == left {
			return worst, err
		}
		if time.Since(began) > s.opts.Window+deadline {
			return 0, fmt.Errorf("%d pods are there %v after the stop, want %d", len(pods), time.Since(began).Round(time.Second), left)
		}
	}
}

// errorShare is the share of 50x in what was answered from one look to the next.
func errorShare(then, now balancer.Snapshot) float64 {
	var all, bad uint64
	for _, answers := range []map[int]uint64{less(now.Balancer, then.Balancer), less(now.Target, then.Target)} {
		for code, n := range answers {
			all += n
			if code >= 500 {
				bad += n
			}
		}
	}
	if all == 0 {
		return 0
	}
	return float64(bad) / float64(all)
}

// loaded is what the loader says at its end.
type loaded struct {
	summary struct {
		Requests int                   `json:"requests"`
		Codes    map[string]int        `json:"codes"`
		Skipped  map[string]int        `json:"skipped"`
		Repeated int                   `json:"repeated"`
		Latency  struct{ P99 float64 } `json:"latencySeconds"`
	}
	err error
}

// round has what users saw. A request that could not even be sent was none.
func (l loaded) round() Round {
	r := Round{Requests: l.summary.Requests, Codes: l.summary.Codes, Repeated: l.summary.Repeated, P99: l.summary.Latency.P99}
	for code, n := range r.Codes {
		if len(code) != 3 || code[0] != '2' {
			r.Failed += n
		}
	}
	return r
}

// load is a loader that runs.
type load struct {
	rate           float64
	cmd            *exec.Cmd
	out, complaint bytes.Buffer
	began          time.Time
	ended          chan struct{}
	err            error // of its end
}

// load puts load on the load balancer.
func (s *shop) load(ctx context.Context) (*load, error) {
	l := &load{rate: s.opts.Rate, began: time.Now(), ended: make(chan struct{})}
	l.cmd = exec.CommandContext(ctx, s.orders(), "loader", "--url="+s.balancer.URL(), fmt.Sprintf("--rate=%v", l.rate),
		"--timeout="+patience.String(), "--publish=0s", "--admin-listen=127.0.0.1:0", "-o=json")
	l.cmd.Env = []string{} // Nothing of this process' is for it.
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.complaint
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	go func() {
		defer close(l.ended)
		l.err = l.cmd.Wait()
	}()
	return l, nil
}

// wait is for a time in which there is load.
func (l *load) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-l.ended:
		return errors.New("the load ended early")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end ends the load, and returns what came of it when all requests have their answers.
func (l *load) end() (summary loaded) {
	took := time.Since(l.began)
	_ = l.cmd.Process.Signal(syscall.SIGTERM) // If it has ended, that says more.
	<-l.ended
	if l.err != nil {
		summary.err = fmt.Errorf("loader: %w: %s", l.err, l.complaint.String())
		return summary
	}
	if err := json.Unmarshal(l.out.Bytes(), &summary.summary); err != nil {
		summary.err = fmt.Errorf("loader: %w: %s", err, l.out.String())
		return summary
	}
	// Half of it is steady enough on a machine that has much else to do.
	if want := int(l.rate * took.Seconds() / 2); summary.summary.Requests < want {
		summary.err = fmt.Errorf("loader: sent %d requests only, want %d at least; skipped: %v", summary.summary.Requests, want, summary.summary.Skipped)
	}
	return summary
}
