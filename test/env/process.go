package env

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tidegauge/tidegauge/test/until"
)

const (
	// probeInterval is the pause between two looks at something that is not ready.
	probeInterval = 50 * time.Millisecond
	// stopGrace is how long a component may take after SIGTERM before Cluster.Stop kills it.
	stopGrace = 10 * time.Second
	// logTail is how much of a component's log an error carries, in bytes.
	logTail = 2000
)

// command is what a process runs, and how one sees that it is ready.
type command struct {
	name string
	path string
	args []string
	env  []string
	// health is asked again and again until it finds the process ready.
	health Health
}

// Process is a child process: a component of the cluster, the AWS stand-in or the adapter.
// It is the leader of its own process group.
type Process struct {
	command
	dir     string
	log     string
	detach  bool
	started func(*Process) // may be nil

	mu  sync.Mutex
	run *run
}

// run is one life of a Process.
type run struct {
	id    ProcessID
	done  chan struct{}
	state *os.ProcessState // valid once done is closed
}

// newProcess is a process that has not been started, which is like one that has ended.
func newProcess(cmd command, dir, log string) *Process {
	p := &Process{command: cmd, dir: dir, log: log, run: &run{done: make(chan struct{})}}
	close(p.run.done)
	return p
}

// Name is the component's name, such as kube-apiserver.
func (p *Process) Name() string { return p.name }

// Health is where the process says that it is ready.
func (p *Process) Health() Health { return p.health }

// ID identifies the running process, or the last one that ran.
func (p *Process) ID() ProcessID { return p.current().id }

// Done is closed when the process has ended. After Restart ask again.
func (p *Process) Done() <-chan struct{} { return p.current().done }

// Logs is everything the process wrote to stdout and stderr, of all its lives.
func (p *Process) Logs() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// LogFile is the path of the file that Logs reads.
func (p *Process) LogFile() string { return p.log }

// Stop sends SIGTERM and returns the state in which the process ended. When ctx is
// done first, Stop kills the process, and the error says so. Stopping a process that
// has ended returns its state.
func (p *Process) Stop(ctx context.Context) (*os.ProcessState, error) {
	return p.stop(ctx.Done())
}

// stopWithin is for a stop that has to succeed even when every context has ended.
func (p *Process) stopWithin(limit time.Duration) error {
	late := make(chan struct{})
	timer := time.AfterFunc(limit, func() { close(late) })
	defer timer.Stop()
	_, err := p.stop(late)
	return err
}

func (p *Process) stop(late <-chan struct{}) (*os.ProcessState, error) {
	r := p.current()
	if err := r.signal(syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("%s: cannot be stopped: %w", p.name, err)
	}
	select {
	case <-r.done:
		return r.state, nil
	case <-late:
		if err := p.Kill(); err != nil {
			return nil, err
		}
		return r.state, fmt.Errorf("%s: killed, because it did not stop in time\n%s", p.name, p.tail())
	}
}

// Kill sends SIGKILL to the process and its children and waits for its end.
func (p *Process) Kill() error {
	r := p.current()
	if err := r.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("%s: cannot be killed: %w", p.name, err)
	}
	<-r.done
	return nil
}

// Restart stops the process if it runs, starts it again with the same arguments,
// hence on the same port, and waits until it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if _, err := p.Stop(ctx); err != nil {
		return err
	}
	return p.start(ctx)
}

func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// start runs the command and waits until it is ready. When that fails the process
// is gone, and the error ends with the last lines of its log.
func (p *Process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	r, err := p.spawn()
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	if p.started != nil {
		p.started(p)
	}

	if err := p.awaitReady(ctx, r); err != nil {
		return errors.Join(fmt.Errorf("%s: %w\n%s", p.name, err, p.tail()), p.Kill())
	}
	return nil
}

// spawn starts a life of the process, in a goroutine that stays until it ends:
// Linux sends the signal of a parent's death when the thread that started the child
// ends, so the thread has to live as long as the child.
func (p *Process) spawn() (*run, error) {
	r := &run{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()

		cmd, err := p.exec(r)
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // How it ended is in ProcessState.
		r.state = cmd.ProcessState
		close(r.done)
	}()
	return r, <-started
}

func (p *Process) exec(r *run) (*exec.Cmd, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = p.dir
	cmd.Env = append(p.baseEnv(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr()
	if p.detach {
		cmd.SysProcAttr = detachedAttr()
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.id, err = Identify(p.name, cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// baseEnv has nothing of the caller's environment but PATH, so that a developer's
// AWS profile, kubeconfig or proxy never reaches the test bed.
func (p *Process) baseEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "TMPDIR=" + p.dir}
}

func (p *Process) awaitReady(ctx context.Context, r *run) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-r.done:
			cancel(fmt.Errorf("ended before it was ready: %s", r.state))
		case <-ctx.Done():
		}
	}()
	return until.Nil(ctx, p.health.Probe)
}

func (p *Process) tail() string {
	text := p.Logs()
	if len(text) > logTail {
		text = text[len(text)-logTail:]
		_, text, _ = strings.Cut(text, "\n")
	}
	return fmt.Sprintf("the end of %s:\n%s", p.log, text)
}

// signal reaches the whole process group; a process that has ended needs none.
func (r *run) signal(sig syscall.Signal) error {
	select {
	case <-r.done:
		return nil
	default:
	}
	if err := syscall.Kill(-r.id.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// lookBinary is the path of a program in dir.
func lookBinary(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: run `make build kube`: %w", name, err)
	}
	return path, nil
}
