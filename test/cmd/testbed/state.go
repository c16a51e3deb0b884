package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tidegauge/tidegauge/test/env"
)

// stopLimit is how long a process may take to end before it is killed.
const stopLimit = 10 * time.Second

// state is what `up` leaves behind for `down` and `status`. It is written anew after
// each process that was started, so that no end of `up` leaves an unknown process.
type state struct {
	// Complete says that `up` got to its end.
	Complete   bool        `json:"complete"`
	Kubeconfig string      `json:"kubeconfig,omitempty"`
	Components []component `json:"components"` // in the order of their start

	dir string
}

type component struct {
	env.ProcessID
	Health env.Health `json:"health"`
}

// load reads the state of the test bed in dir; without one it is empty.
func load(dir string) (*state, error) {
	s := &state{dir: dir}
	text, err := os.ReadFile(s.file())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file(), err)
	}
	return s, nil
}

func (s *state) file() string { return filepath.Join(s.dir, "pids.json") }

// save replaces the file in one step, so that a reader finds the old or the new one.
func (s *state) save() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	next := s.file() + ".next"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.file())
}

// alive counts the components that still run.
func (s *state) alive() int {
	n := 0
	for _, c := range s.Components {
		if c.Alive() {
			n++
		}
	}
	return n
}

// up says whether the whole test bed runs.
func (s *state) up() bool { return s.Complete && s.alive() == len(s.Components) }

// stop ends what still runs, in the reverse order of the start, and forgets it.
func (s *state) stop(ctx context.Context) error {
	var errs []error
	for _, c := range slices.Backward(s.Components) {
		errs = append(errs, c.terminate(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(remove(s.file()), remove(envFile(s.dir)))
}

func (c component) terminate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	return c.Terminate(ctx)
}

// lock makes sure that one command at a time changes the test bed in dir, until it
// calls release or ends.
func lock(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another testbed command works in %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}
