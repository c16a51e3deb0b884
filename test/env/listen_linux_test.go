package env

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testLoopback looks up the sockets of every process on which it listens.
func testLoopback(t *testing.T, c *Cluster) {
	addresses := listening(t)
	for _, p := range c.Processes() {
		if !p.ID().Alive() {
			continue
		}
		own := 0
		for _, inode := range sockets(t, p.ID().PID) {
			address, ok := addresses[inode]
			if !ok {
				continue
			}
			own++
			// The kernel prints the four bytes of 127.0.0.1 from last to first.
			if !strings.HasPrefix(address, "0100007F:") {
				t.Errorf("%s listens on %s, want a port of 127.0.0.1", p.Name(), address)
			}
		}
		if own == 0 {
			t.Errorf("%s listens on nothing", p.Name())
		}
	}
}

// listening are the local addresses of listening TCP sockets, as hexadecimal
// address:port, by the socket's inode. See proc_pid_net(5).
func listening(t *testing.T) map[string]string {
	const listen = "0A"
	addresses := map[string]string{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 9 && fields[3] == listen {
				addresses[fields[9]] = fields[1]
			}
		}
	}
	return addresses
}

// sockets are the inodes of a process's sockets.
func sockets(t *testing.T, pid int) []string {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	var inodes []string
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue // closed since
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}
