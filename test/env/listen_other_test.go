//go:build !linux

package env

import "testing"

func testLoopback(t *testing.T, _ *Cluster) {
	t.Skip("a process's sockets are looked up in /proc")
}
