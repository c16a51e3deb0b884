// Package crd tests the CRDs of deploy/crds and the policies of deploy/policies on a
// real API server.
package crd

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// cluster is what all tests of the package share. They leave no objects behind.
var cluster *env.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	var err error
	if cluster, err = env.Start(context.Background(), env.Options{Nodes: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}
