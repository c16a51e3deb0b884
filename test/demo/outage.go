package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/demo/page"
	"github.com/tidegauge/tidegauge/test/env"
)

// Parts that Options.Stop may name. The page has them under these names.
const (
	AWS        = "aws"
	Database   = "database"
	Prometheus = "prometheus"
	Adapter    = "adapter"
)

// Parts are all that may be stopped.
func Parts() []string { return []string{AWS, Database, Prometheus, Adapter} }

// database is where the orders are: a PostgreSQL where one can run, or else a file of SQLite
// that all pods share.
type database struct {
	postgres *env.Postgres // nil for SQLite
	file     string
}

func startDatabase(ctx context.Context, dir string) (*database, error) {
	if env.CanRunPostgres() != nil {
		return &database{file: filepath.Join(dir, "orders.db")}, nil //nolint:nilerr // Without one it is a file.
	}
	// It ends with stop.
	p, err := env.StartPostgres(ctx, env.PostgresOptions{})
	return &database{postgres: p}, err
}

func (b *database) String() string {
	if b.postgres == nil {
		return "SQLite"
	}
	return "PostgreSQL"
}

// secret is what the manifests want to be there. An empty URL is that of the file.
func (b *database) secret() *unstructured.Unstructured {
	address := ""
	if b.postgres != nil {
		address = b.postgres.DatabaseURL()
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata":   map[string]any{"name": secretName, "namespace": namespace},
		"stringData": map[string]any{secretKey: address},
	}}
}

// args are arguments for the pods.
func (b *database) args() []string {
	if b.postgres != nil {
		return nil
	}
	return []string{"--sqlite=" + b.file}
}

func (b *database) stop() error {
	if b == nil || b.postgres == nil {
		return nil
	}
	return b.postgres.Remove()
}

// outages knows which processes are to be away.
type outages struct {
	mu   sync.Mutex
	away map[string]bool // by the name of the process
}

// begin has a process be away.
func (o *outages) begin(process string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away == nil {
		o.away = map[string]bool{}
	}
	o.away[process] = true
}

// end has a process be there again.
func (o *outages) end(process string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.away, process)
}

func (o *outages) has(process string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.away[process]
}

// validateStop refuses parts that there are not, or that cannot be stopped here.
func (o Options) validateStop() error {
	for _, part := range o.Stop {
		if !slices.Contains(Parts(), part) {
			return fmt.Errorf("there is no part %q to stop: there are %s", part, strings.Join(Parts(), ", "))
		}
		if err := env.CanRunPostgres(); part == Database && err != nil {
			return fmt.Errorf("the database cannot be stopped: it is a file, as there is %w", err)
		}
	}
	switch {
	case len(o.Stop) == 0:
	case o.Outage < leastOutage:
		return fmt.Errorf("an outage of %v is less than %v, in which the page notices it", o.Outage, leastOutage)
	case o.webStabilization() > maxStabilization:
		return fmt.Errorf("an outage of %v is more than %v: an HPA takes no longer window than %v", o.Outage, maxStabilization-outageMargin, maxStabilization)
	}
	return nil
}

const (
	// leastOutage is in which a part is found to be away, on a busy machine.
	leastOutage = 10 * time.Second
	// outageMargin is by how much web stays at its highest need longer than a part is away:
	// until it is back, and its pods are asked again.
	outageMargin = time.Minute
	// maxStabilization is the longest stabilizationWindowSeconds that the API server takes.
	maxStabilization = time.Hour
)

// webStabilization is longer than a part is away, as the five minutes of the manifest are
// longer than the minute of an outage: without its database web serves nobody, and is not to
// be taken away for it.
func (o Options) webStabilization() time.Duration {
	if len(o.Stop) == 0 {
		return webStabilization
	}
	return o.Outage + outageMargin
}

// playOutages stops one part after the other, and returns why one was not noticed, changed a
// number of replicas, or did not come back.
func (d *demo) playOutages(ctx context.Context) error {
	if len(d.opts.Stop) == 0 {
		return nil
	}
	d.enter(ctx, outage)
	for _, part := range d.opts.Stop {
		if err := d.playOutage(ctx, part); err != nil {
			return fmt.Errorf("%s stopped: %w", part, err)
		}
	}
	return nil
}

func (d *demo) playOutage(ctx context.Context, part string) error {
	before := d.board.look()
	d.board.step(part + " is stopped for " + d.opts.Outage.String())
	if err := d.take(ctx, part); err != nil {
		return err
	}
	d.board.update(func(s *snapshot) { s.away = part })
	if err := d.awaitAway(ctx, part); err != nil {
		return err
	}
	if err := d.holds(ctx, before); err != nil {
		return err
	}
	if err := d.giveBack(ctx, part); err != nil {
		return err
	}
	d.board.update(func(s *snapshot) { s.away = "" })
	if err := d.awaitAway(ctx); err != nil {
		return err
	}
	d.board.step(part + " is back")
	// The whole rate, too: a backend that is away next leaves the last one in force.
	return d.await(ctx, d.opts.stepLimit, "all replicas ready and both HPAs with their metrics again", func(s *snapshot) bool {
		return s.web.ready == before.web.desired && s.workers.ready == before.workers.desired &&
			d.active(webName) && d.active(workerName) && d.serves(ctx) && d.seesLoad()
	})
}

// active says whether an HPA gets its metric.
func (d *demo) active(name string) bool {
	h := d.collector.cluster.scaling(name).hpa
	return h != nil && hasCondition(h, autoscalingv2.ScalingActive, corev1.ConditionTrue)
}

// holds waits for the time of an outage, in which no HPA may change its mind.
func (d *demo) holds(ctx context.Context, before snapshot) error {
	over := time.After(d.opts.Outage)
	for {
		if now := d.board.look(); now.web.desired != before.web.desired || now.workers.desired != before.workers.desired {
			return fmt.Errorf("the HPAs went from %d web pods and %d workers to %d and %d",
				before.web.desired, before.workers.desired, now.web.desired, now.workers.desired)
		}
		select {
		case <-d.board.changed:
		case <-over:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitAway waits until the page has these parts down and all others up.
func (d *demo) awaitAway(ctx context.Context, parts ...string) error {
	wanted := "the page to say that all parts are up"
	if len(parts) > 0 {
		wanted = "the page to say what is down: " + strings.Join(parts, ", ")
	}
	return d.await(ctx, d.opts.stepLimit, wanted, func(*snapshot) bool {
		return !slices.ContainsFunc(d.collector.parts.all(), func(p page.Part) bool {
			want := page.Up
			if slices.Contains(parts, p.Name) {
				want = page.Down
			}
			return p.State != want
		})
	})
}

// take stops a part.
func (d *demo) take(ctx context.Context, part string) error {
	switch part {
	case AWS:
		d.amazon.server.Pause()
	case Database:
		return d.database.postgres.Away(ctx)
	case Prometheus:
		return d.end(ctx, d.prometheus.Process)
	case Adapter:
		return d.end(ctx, d.adapter.Process)
	}
	return nil
}

func (d *demo) end(ctx context.Context, p *env.Process) error {
	d.outages.begin(p.Name())
	_, err := p.Stop(ctx)
	return err
}

// giveBack starts a part again.
func (d *demo) giveBack(ctx context.Context, part string) (err error) {
	switch part {
	case AWS:
		err = d.amazon.server.Resume()
	case Database:
		err = d.database.postgres.Back(ctx)
	case Prometheus:
		if err = d.prometheus.Restart(ctx); err == nil {
			d.outages.end(d.prometheus.Name())
		}
	case Adapter:
		if err = d.adapter.Restart(ctx); err == nil {
			d.outages.end(d.adapter.Name())
		}
	}
	return err
}
