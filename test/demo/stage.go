package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

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
	if d.cluster, err = env.Start(ctx, env.Options{Dir: filepath.Join(d.dir, bedDir), Progress: d.board.step}); err != nil {
		return err
	}
	if d.adapter, err = d.cluster.StartAdapter(ctx, env.AdapterOptions{Env: d.amazon.env()}); err != nil {
		return err
	}
	if err := d.applyManifests(ctx); err != nil {
		return err
	}
	d.board.step("the worker, its metric and its HPA are applied: " + manifestDir)
	return nil
}

func (d *demo) applyManifests(ctx context.Context) error {
	files, err := manifests()
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := d.cluster.Apply(ctx, text); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// manifests are the paths of the demo's manifests, in the order in which they are
// applied.
func manifests() ([]string, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(root, manifestDir, "*.yaml"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no manifests", manifestDir)
	}
	return files, err
}

// guard fails the story when a process ends in the middle of it.
func (d *demo) guard(ctx context.Context) {
	var guards sync.WaitGroup
	for _, p := range d.cluster.Processes() {
		guards.Go(func() {
			select {
			case <-p.Done():
				state, err := p.Stop(ctx)
				d.fail(errors.Join(fmt.Errorf("%s ended by itself: %v", p.Name(), state), err))
			case <-ctx.Done():
			}
		})
	}
	guards.Wait()
}
