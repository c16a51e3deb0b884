// Package program builds the demo application deploy/demo/orders and runs it as processes, for
// its tests.
package program

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

// Deadline is how long a test waits for a condition, however loaded the machine is.
const Deadline = time.Minute

const interval = 20 * time.Millisecond

// Build builds the application as its image has it, in a folder, and returns its path.
func Build(dir string) (string, error) {
	path := filepath.Join(dir, "orders")
	cmd, err := Go("build", "-trimpath", "-o", path, ".")
	if err != nil {
		return "", err
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building orders: %w\n%s", err, out)
	}
	return path, nil
}

// Go is a call of go in the application's module.
func Go(args ...string) (*exec.Cmd, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join(root, "deploy", "demo", "orders")
	return cmd, nil
}

// Process is a mode of the application that runs. It ends with the test at the latest.
type Process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	out  bytes.Buffer

	mu     sync.Mutex
	log    strings.Builder
	listen map[string]string // URLs by the names of the ports
}

// Start runs the application at a path with these variables and no others.
func Start(t *testing.T, path string, variables []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(path, args...), done: make(chan struct{}), listen: map[string]string{}}
	p.cmd.Env = variables
	p.cmd.Stdout = &p.out
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.read(stderr)
		_ = p.cmd.Wait() // How it ended is in ProcessState.
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // It may have ended.
		<-p.done
		if t.Failed() {
			t.Logf("orders %s:\n%s", strings.Join(args, " "), p.Log())
		}
	})
	return p
}

// read reads the log, and finds in it where the process listens.
func (p *Process) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		var line struct{ Msg, Port, Address string }
		_ = json.Unmarshal(lines.Bytes(), &line) // That of a wrong command line is no JSON.
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		if line.Msg == "listening" {
			p.listen[line.Port] = "http://" + line.Address
		}
		p.mu.Unlock()
	}
}

// Log is what it said on the standard error.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Output is what it said on the standard output, once it has ended.
func (p *Process) Output() []byte {
	<-p.done
	return p.out.Bytes()
}

// URL is where a port is, by the name that the log has for it. It waits until the process
// listens.
func (p *Process) URL(port string) string {
	p.t.Helper()
	for until := time.Now().Add(Deadline); ; {
		p.mu.Lock()
		url := p.listen[port]
		p.mu.Unlock()
		if url != "" {
			return url
		}
		select {
		case <-p.done:
			p.t.Fatalf("it ended without a port %s: %s\n%s", port, p.cmd.ProcessState, p.Log())
		case <-time.After(interval):
		}
		if time.Now().After(until) {
			p.t.Fatalf("it does not listen for %s\n%s", port, p.Log())
		}
	}
}

// Terminate asks it to end, as Kubernetes does.
func (p *Process) Terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends it at once.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.Wait()
}

// Wait waits for its end and returns the exit code.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Deadline):
		p.t.Fatalf("it does not end:\n%s", p.Log())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Stop is Terminate and Wait.
func (p *Process) Stop() int {
	p.t.Helper()
	p.Terminate()
	return p.Wait()
}
