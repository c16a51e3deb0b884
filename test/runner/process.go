package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// launch is what to start.
type launch struct {
	path string
	args []string
	env  []string
	dir  string
	log  string
	// ports are those of 127.0.0.1 by the ports of the pod.
	ports map[int32]int
}

// process is one life of a container. It is the leader of its own process group, and dies
// with this process.
type process struct {
	launch

	pid     int
	started time.Time
	done    chan struct{}
	state   *os.ProcessState // valid once done is closed
	ended   time.Time        // as state
}

func start(l launch) (*process, error) {
	p := &process{launch: l, started: time.Now(), done: make(chan struct{})}
	running := make(chan error, 1)
	// Linux kills a child when the thread that started it ends.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd, err := p.exec()
		running <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // How it ended is in ProcessState.
		p.state, p.ended = cmd.ProcessState, time.Now()
		close(p.done)
	}()
	if err := <-running; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) exec() (*exec.Cmd, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return cmd, nil
}

// signal reaches the whole process group; a process that has ended needs none.
func (p *process) signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(-p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	return nil
}

// exitCode is as a kubelet tells it: 128 and the signal for one that a signal ended.
func (p *process) exitCode() (code, signal int32) {
	if status, ok := p.state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int32(status.Signal()), int32(status.Signal()) //nolint:gosec // Signals are below 128.
	}
	return int32(p.state.ExitCode()), 0 //nolint:gosec // Exit codes are below 256.
}
