// Package testcluster starts clusters for tests, and stops them when those end.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// Start starts a cluster that ends with the test. A short test is skipped.
func Start(t *testing.T, opts env.Options) *env.Cluster {
	t.Helper()
	skipShort(t)
	c, err := env.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Shared is one cluster for the tests of a package, which the first one starts that needs it.
type Shared struct {
	Options env.Options
	// Prepare makes the cluster what the tests expect. It may be nil.
	Prepare func(context.Context, *env.Cluster) error

	once    sync.Once
	cluster *env.Cluster
	err     error
}

// Run runs the tests of the package, stops the cluster if there is one, and returns the code to
// exit with.
func (s *Shared) Run(m *testing.M) (code int) {
	defer func() {
		if s.cluster == nil {
			return
		}
		if err := s.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// Cluster is the cluster. A short test is skipped.
func (s *Shared) Cluster(t *testing.T) *env.Cluster {
	t.Helper()
	skipShort(t)
	// The cluster is for the tests to come, too.
	s.once.Do(func() { s.err = s.start(context.WithoutCancel(t.Context())) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

func (s *Shared) start(ctx context.Context) error {
	c, err := env.Start(ctx, s.Options)
	if err != nil {
		return err
	}
	if s.Prepare != nil {
		if err := s.Prepare(ctx, c); err != nil {
			return errors.Join(err, c.Stop())
		}
	}
	s.cluster = c
	return nil
}

func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a cluster")
	}
}
