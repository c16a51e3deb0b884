package env

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// ProcessID identifies a process for good: its number alone may have been given to
// another one since.
type ProcessID struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Started says when the process started, in a form that only this machine's
	// operating system gives a meaning.
	Started string `json:"started"`
}

// Alive says whether the process still runs.
func (id ProcessID) Alive() bool {
	started, ended, err := startOf(id.PID)
	return err == nil && !ended && started == id.Started
}

// Terminate ends the process group of a process that another program started:
// SIGTERM, and SIGKILL when ctx is done first. A process that is gone, or whose
// number is another's now, is left alone.
func (id ProcessID) Terminate(ctx context.Context) error {
	if err := id.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if id.awaitEnd(ctx) == nil {
		return nil
	}
	if err := id.signal(syscall.SIGKILL); err != nil {
		return err
	}
	killed, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	return id.awaitEnd(killed)
}

func (id ProcessID) signal(sig syscall.Signal) error {
	if !id.Alive() {
		return nil
	}
	if err := syscall.Kill(-id.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%s (process %d): %w", id.Name, id.PID, err)
	}
	return nil
}

func (id ProcessID) awaitEnd(ctx context.Context) error {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for id.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s (process %d) still runs: %w", id.Name, id.PID, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Identify names a process that runs, or a child that has ended but that nobody
// waited for.
func Identify(name string, pid int) (ProcessID, error) {
	started, _, err := startOf(pid)
	if err != nil {
		return ProcessID{}, fmt.Errorf("the start of process %d: %w", pid, err)
	}
	return ProcessID{Name: name, PID: pid, Started: started}, nil
}
