package env

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary play a program that starts a child and is killed.
func TestMain(m *testing.M) {
	if url := os.Getenv("TIDEGAUGE_TEST_PARENT"); url != "" {
		parent(url)
		return
	}
	os.Exit(m.Run())
}

func parent(health string) {
	p := newProcess(script("exec sleep 1000", Health{URL: health}), os.TempDir(), os.DevNull)
	if err := p.start(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.ID().PID)
	select {}
}

// healthy answers 200 to every request.
func healthy(t *testing.T) Health {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	return Health{URL: server.URL}
}

func script(text string, health Health) command {
	return command{name: "shell", path: "/bin/sh", args: []string{"-c", text}, health: health}
}

// shell is a process that runs a script, and is started.
func shell(t *testing.T, text string) *Process {
	t.Helper()
	dir := t.TempDir()
	p := newProcess(script(text, healthy(t)), dir, filepath.Join(dir, "log"))
	if err := p.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// says waits until the process has written a word.
func says(t *testing.T, p *Process, word string) {
	t.Helper()
	await(t, func(context.Context) error {
		if !strings.Contains(p.Logs(), word) {
			return fmt.Errorf("%q is not in the log", word)
		}
		return nil
	})
}

func TestStopTerminates(t *testing.T) {
	p := shell(t, `trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done`)
	says(t, p, "ready")
	state, err := p.Stop(t.Context())
	if err != nil || state.ExitCode() != 7 {
		t.Errorf("Stop = %v, %v, want exit status 7", state, err)
	}
	if again, err := p.Stop(t.Context()); err != nil || again != state {
		t.Errorf("second Stop = %v, %v, want the same state", again, err)
	}
}

func TestStopKillsWhatDoesNotStop(t *testing.T) {
	p := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	says(t, p, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	state, err := p.Stop(ctx)
	if err == nil || !strings.Contains(err.Error(), "did not stop in time") || !strings.Contains(state.String(), "killed") {
		t.Errorf("Stop = %v, %v, want a killed process and an error that says so", state, err)
	}
	if p.ID().Alive() {
		t.Error("the process still runs")
	}
}

func TestRestart(t *testing.T) {
	p := shell(t, `echo started; exec sleep 1000`)
	says(t, p, "started")
	before := p.ID()
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if before.Alive() || !p.ID().Alive() {
		t.Errorf("after Restart %v alive: %t, %v alive: %t", before, before.Alive(), p.ID(), p.ID().Alive())
	}
	await(t, func(context.Context) error {
		if n := strings.Count(p.Logs(), "started"); n != 2 {
			return fmt.Errorf("the log has %d lives of the process, want both", n)
		}
		return nil
	})
}

func TestStartFails(t *testing.T) {
	dir := t.TempDir()
	p := newProcess(script("echo no port left; exit 3", Health{URL: "http://127.0.0.1:1"}), dir, filepath.Join(dir, "log"))
	err := p.start(t.Context())
	for _, want := range []string{"shell: ", "exit status 3", "no port left"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("start: %v, want %q in it", err, want)
		}
	}
}

func TestChildEnvironment(t *testing.T) {
	t.Setenv("AWS_PROFILE", "production")
	p := shell(t, `env; exec sleep 1000`)
	says(t, p, "HOME="+p.dir)
	if strings.Contains(p.Logs(), "AWS_PROFILE") {
		t.Errorf("the caller's environment reaches the process:\n%s", p.Logs())
	}
}

func TestTerminate(t *testing.T) {
	p := shell(t, `exec sleep 1000`)
	reused := p.ID()
	reused.Started = "earlier"
	if err := reused.Terminate(t.Context()); err != nil || !p.ID().Alive() {
		t.Fatalf("Terminate of an earlier process of the same number: %v; alive: %t, want it left alone", err, p.ID().Alive())
	}
	if err := p.ID().Terminate(t.Context()); err != nil || p.ID().Alive() {
		t.Errorf("Terminate: %v; alive: %t", err, p.ID().Alive())
	}
	if err := p.ID().Terminate(t.Context()); err != nil {
		t.Errorf("second Terminate: %v", err)
	}
}

func TestTerminateKills(t *testing.T) {
	p := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	says(t, p, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.ID().Terminate(ctx); err != nil || p.ID().Alive() {
		t.Errorf("Terminate: %v; alive: %t", err, p.ID().Alive())
	}
}

func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 100 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < firstPort || port > lastPort {
			t.Errorf("port %d was given before or is out of range", port)
		}
		seen[port] = true
	}
}
