package catalog

import (
	"context"
	"time"
)

// lackingRefresh is how often the API's resources are read while a rule names one that
// is not among them, as before its CRD is created.
const lackingRefresh = 10 * time.Second

// refreshMapper learns the API's resources, now, before every round, and sooner while it
// lacks some. What somebody else makes the mapper learn counts soon as well.
func (d *Discovery) refreshMapper(ctx context.Context) {
	d.learn(ctx)
	tried := time.Now()
	every(ctx, watchPause, func() {
		if time.Since(tried) >= d.refreshPause(tried) {
			d.learn(ctx)
			tried = time.Now()
			return
		}
		d.takeResources()
	})
}

// refreshPause is how long after the last refresh, which ended at tried, is the next.
func (d *Discovery) refreshPause(tried time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	pause := untilRound(tried, d.opts.Relist)
	switch {
	case !d.mapped:
		return min(pause, firstRetry)
	case len(d.lacking) > 0:
		return min(pause, lackingRefresh)
	}
	return pause
}

// learn refreshes the mapper, and makes anew what depends on it.
func (d *Discovery) learn(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	err := d.opts.Mapper.Refresh(limited)
	if ctx.Err() != nil {
		return
	}
	if d.noteRefresh(err) {
		d.update(func() bool { return false }) // The error of RulesReady is another.
	}
	d.takeResources()
}

// noteRefresh takes in how a refresh went, and says whether it failed of something else
// than the one before.
func (d *Discovery) noteRefresh(err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.mapErr
	d.mapErr = err
	if err == nil || before != nil && before.Error() == err.Error() {
		return false
	}
	d.log.Error(err, "The resources of the Kubernetes API are not read; those that are known stay")
	return true
}

// takeResources makes anew what depends on the API's resources, if the mapper has learned
// others.
func (d *Discovery) takeResources() {
	// What is made while they change is made anew the next time.
	generation, known := d.opts.Mapper.Generation(), d.opts.Mapper.Known()
	d.mu.Lock()
	taken := d.mapped && d.generation == generation
	d.mu.Unlock()
	if taken || !known {
		return
	}
	d.update(func() bool {
		d.mapped, d.generation = true, generation
		for _, l := range d.queries {
			clear(l.made)
		}
		return false
	})
}
