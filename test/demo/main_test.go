package demo

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// parallel is how many tests run at once unless the command line says otherwise: they wait for
// most of their time, and each has a control plane.
const parallel = "3"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	os.Exit(m.Run())
}
