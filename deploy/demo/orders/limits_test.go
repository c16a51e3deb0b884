package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestConnectionsFitTheMemory opens more connections than the default of --max-connections, each
// with as much in it as it may have. They have to fit into the memory of base/web.yaml.
func TestConnectionsFitTheMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the memory of a process is read from /proc")
	}
	manifest, err := os.ReadFile("../base/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	limit := regexp.MustCompile(`limits:\n +memory: (\d+)Mi\n`).FindSubmatch(manifest)
	if limit == nil {
		t.Fatal("base/web.yaml has no limit of memory in Mi")
	}
	most, err := strconv.Atoi(string(limit[1]))
	if err != nil {
		t.Fatal(err)
	}
	cmd, address := startWeb(t)
	// Beyond the limit the kernel holds some more, as many as its own limits say.
	if n := fill(t, address, 2500); n < 1000 {
		t.Fatalf("only %d connections could be opened", n)
	}
	used := 0
	for before := -1; used != before; <-time.After(500 * time.Millisecond) {
		before, used = used, peak(t, cmd.Process.Pid)
	}
	t.Logf("it used %d MiB at most", used>>10)
	if used > most<<10*8/10 {
		t.Errorf("it used %d MiB, want 80%% of %d MiB at most", used>>10, most)
	}
}

// startWeb starts the program as its image has it. The race detector would take memory, too.
func startWeb(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "orders")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "web", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--sqlite", filepath.Join(dir, "orders.db"))
	cmd.Env = []string{"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // It has no other end.
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		var line struct{ Port, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Port == "http" {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			return cmd, line.Address
		}
	}
	t.Fatal("web does not listen")
	return nil, ""
}

// fill opens connections with requests that do not end, and returns how many it could.
func fill(t *testing.T, address string, connections int) int {
	t.Helper()
	request := fmt.Sprintf("POST /api/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 16000\r\nX: %s\r\n\r\n%s",
		strings.Repeat("x", 15<<10), strings.Repeat(" ", 15_000))
	dialer := net.Dialer{Timeout: time.Second}
	for n := range connections {
		c, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			return n
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // It is one that can be set.
		_, _ = io.WriteString(c, request)                   // It may be refused.
	}
	return connections
}

// peak is the most memory that a process has had, in KiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	hwm := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if hwm == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.Atoi(string(hwm[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
