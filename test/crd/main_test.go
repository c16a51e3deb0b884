// Package crd tests the CRDs of deploy/crds and the policies of deploy/policies on a
// real API server.
package crd

import (
	"os"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

// bed is what all tests of the package share. They leave no objects behind.
var bed = testcluster.Shared{Options: env.Options{Nodes: 1}}

func TestMain(m *testing.M) { os.Exit(bed.Run(m)) }
