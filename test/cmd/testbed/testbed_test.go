package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// run runs a testbed command on dir and returns what it prints.
func run(ctx context.Context, dir string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newCommand() //nolint:contextcheck // ExecuteContext gives it one
	cmd.SetArgs(append(args, "--dir="+dir))
	cmd.SetOut(&out)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// wants runs a command that has to succeed and to print a text.
func wants(t *testing.T, dir, text string, args ...string) {
	t.Helper()
	out, err := run(t.Context(), dir, args...)
	if err != nil || !strings.Contains(out, text) {
		t.Fatalf("testbed %s: %v, prints\n%s\nwant %q in it", args, err, out, text)
	}
}

func TestUpAndDown(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		if out, err := run(context.WithoutCancel(t.Context()), dir, "down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})

	wants(t, dir, "up: . "+envFile(dir), "up")
	wants(t, dir, "aggregated APIs", "status")
	for _, name := range []string{"fakeaws", "player", "prometheus", "adapter"} {
		wants(t, dir, name, "status")
	}
	first := components(t, dir)
	wants(t, dir, "already up", "up")
	if again := components(t, dir); !slices.Equal(again, first) {
		t.Errorf("the second up changed\n%v to\n%v", first, again)
	}
	checkEnv(t, dir)

	// The adapter crashes.
	if err := first[len(first)-1].Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), dir, "status"); err == nil || !strings.Contains(out, "it has ended") {
		t.Errorf("status without an adapter: %v\n%s", err, out)
	}
	wants(t, dir, "of an earlier test bed", "up")
	second := components(t, dir)
	for _, c := range first {
		if c.Alive() {
			t.Errorf("%s of the first test bed still runs", c.Name)
		}
	}

	wants(t, dir, "processes stopped", "down")
	for _, c := range second {
		if c.Alive() {
			t.Errorf("%s still runs after down", c.Name)
		}
	}
	wants(t, dir, "nothing is up", "down")
	if _, err := os.Stat(envFile(dir)); err == nil {
		t.Error("down left the shell variables")
	}
	if out, err := run(t.Context(), dir, "status"); err == nil || !strings.Contains(err.Error(), "nothing is up") {
		t.Errorf("status after down: %v\n%s", err, out)
	}
}

func components(t *testing.T, dir string) []component {
	t.Helper()
	s, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.Components
}

// checkEnv reads the shell variables in a shell and asks the API server with them.
func checkEnv(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-euc", `. "$0"; : "$AWS_ENDPOINT_URL" "$AWS_REGION" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$PLAYER_URL" "$PROMETHEUS_URL" "$ADAPTER_URL"; kubectl auth whoami -o name`, envFile(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with %s: %v\n%s", envFile(dir), err, out)
	}
}

// sleeper starts a process that sleeps, in a group of its own.
func sleeper(t *testing.T) component {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	id, err := env.Identify("sleeper", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return component{ProcessID: id}
}

func TestDownLeavesOthersAlone(t *testing.T) {
	recorded, other := sleeper(t), sleeper(t)
	reused := other
	reused.Started = "before the last boot"
	dir := t.TempDir()
	if err := (&state{dir: dir, Components: []component{recorded, reused}}).save(); err != nil {
		t.Fatal(err)
	}
	wants(t, dir, "1 process stopped", "down")
	if recorded.Alive() || !other.Alive() {
		t.Errorf("after down the recorded process is alive: %t, the other: %t", recorded.Alive(), other.Alive())
	}
}

// TestUpAfterKilledUp has a state as an `up` leaves it that was killed half way.
func TestUpAfterKilledUp(t *testing.T) {
	t.Setenv(env.BinVariable, t.TempDir()) // nothing to start
	recorded := sleeper(t)
	dir := t.TempDir()
	if err := (&state{dir: dir, Components: []component{recorded}}).save(); err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), dir, "up")
	if err == nil || !strings.Contains(out, "stopping 1 process ") || recorded.Alive() {
		t.Errorf("up: %v, prints %q; the earlier process is alive: %t", err, out, recorded.Alive())
	}
	if s, err := load(dir); err != nil || len(s.Components) != 0 {
		t.Errorf("after an up that failed the state is %+v, %v", s, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), dir, "down"); err == nil || !strings.Contains(err.Error(), "another testbed command") {
		t.Errorf("down beside another command: %v", err)
	}
	release()
	wants(t, dir, "nothing is up", "down")
}

func TestQuote(t *testing.T) {
	const value = `a 'quoted' $HOME\`
	out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(value)).Output()
	if err != nil || string(out) != value {
		t.Errorf("a shell reads %q, %v, want %q", out, err, value)
	}
}

func TestFolder(t *testing.T) {
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := folder(""); err != nil || got != filepath.Join(root, ".local") {
		t.Errorf("folder() = %s, %v", got, err)
	}
}
