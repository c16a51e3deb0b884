// Package e2e tests the adapter as its users meet it: on a real control plane with the
// real HPA controller and kubectl, in front of an AWS stand-in that real AWS clients
// talk to.
//
// Most tests share one cluster. Each has a namespace and an AWS region of its own, so
// that they run at the same time and a fault in one region is no other test's.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// parallel is how many tests run at once unless the command line says otherwise: they
// wait for most of their time.
const parallel = "16"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flag.Parse()
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
