package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

// start starts everything that the story needs. What was started when it fails is
// left to stop.
func (d *demo) start(ctx context.Context) error {
	var err error
	if d.amazon, err = startAmazon(ctx); err != nil {
		return err
	}
	d.board.step("the AWS stand-in is ready, with an empty queue")
	if d.database, err = startDatabase(ctx, filepath.Join(d.dir, bedDir)); err != nil {
		return err
	}
	if err := d.database.note(ctx, d.dir); err != nil {
		return err
	}
	d.board.step(d.database.String() + " is the database")
	if d.cluster, err = env.Start(ctx, env.Options{Dir: filepath.Join(d.dir, bedDir), Progress: d.board.step}); err != nil {
		return err
	}
	if err := d.startRunner(ctx); err != nil {
		return err
	}
	if err := d.startPrometheus(ctx); err != nil {
		return err
	}
	if err := d.startAdapter(ctx); err != nil {
		return err
	}
	d.load.set(calmRate)
	if err := d.startApplication(ctx); err != nil {
		return err
	}
	d.board.step("the shop and its HPAs are applied: " + manifestDir)
	return d.newLive()
}

func (d *demo) startPrometheus(ctx context.Context) (err error) {
	if err := d.startScraped(ctx); err != nil {
		return err
	}
	d.prometheus, err = d.cluster.StartPrometheus(ctx, env.PrometheusOptions{PlayerURL: d.scraped.url, ScrapeInterval: scrapeInterval})
	return err
}

func (d *demo) startAdapter(ctx context.Context) error {
	file, err := d.writeRules()
	if err != nil {
		return err
	}
	d.adapter, err = d.cluster.StartAdapter(ctx, env.AdapterOptions{
		Args: []string{"--config=" + file, "--prometheus-url=" + d.prometheus.URL, "--metrics-relist-interval=" + relistInterval.String()},
		Env:  d.amazon.env(),
	})
	return err
}

// guard fails the story when a process ends in the middle of it that is not to be away.
func (d *demo) guard(ctx context.Context) {
	var guards sync.WaitGroup
	for _, p := range d.cluster.Processes() {
		guards.Go(func() { d.guardOne(ctx, p) })
	}
	guards.Wait()
}

func (d *demo) guardOne(ctx context.Context, p *env.Process) {
	for {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return
		}
		if !d.outages.has(p.Name()) {
			state, err := p.Stop(ctx)
			d.fail(errors.Join(fmt.Errorf("%s ended by itself: %v", p.Name(), state), err))
			return
		}
		for d.outages.has(p.Name()) {
			if pause(ctx, guardInterval) != nil {
				return
			}
		}
	}
}

const (
	// relistInterval is how soon the adapter knows a new metric of Prometheus.
	relistInterval = 2 * time.Second
	// guardInterval is how soon a process is guarded again that was away.
	guardInterval = 100 * time.Millisecond
)
