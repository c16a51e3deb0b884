package env

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

const (
	// stageVariable says how far a process has come on its way into namespaces.
	stageVariable = "TIDEGAUGE_APART"
	stageInit     = "init"
	stageInside   = "inside"
	// cgroupVariable names the control group below which everything in the namespaces
	// puts its own.
	cgroupVariable = "TIDEGAUGE_APART_CGROUP"

	namespaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC
	// apartPrefix and the number of the process that made it are the name of what has to
	// be removed from the machine: a control group and a folder.
	apartPrefix = "tidegauge-node-"
)

var (
	// nodePrograms are what a real node needs of the machine.
	nodePrograms = []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "ip"}
	// pluginDirs are where the machine may have the network plugins.
	pluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin"}
	// hidden are folders of the machine that programs of a node write to, whatever they
	// are told. In the namespaces they are empty at first, and in memory.
	hidden = []string{"/run", "/var/lib", "/var/log"}
	// kubeletTunes are settings of the machine's kernel that a kubelet makes. In the
	// namespaces it finds that somebody did.
	kubeletTunes = map[string]string{
		"/proc/sys/vm/overcommit_memory": "1",
		"/proc/sys/kernel/panic":         "10",
		"/proc/sys/kernel/panic_on_oops": "1",
	}
)

// CanRunNode returns nil if this machine can have a real node, or else a NoNodeError.
func CanRunNode() error {
	if os.Geteuid() != 0 {
		return &NoNodeError{Reason: "it needs root"}
	}
	for _, name := range nodePrograms {
		if _, err := exec.LookPath(name); err != nil {
			return &NoNodeError{Reason: fmt.Sprintf("%s is not installed", name)}
		}
	}
	if _, err := pluginDir(); err != nil {
		return &NoNodeError{Reason: err.Error()}
	}
	if os.Getenv(stageVariable) != "" {
		return nil
	}
	try := exec.Command("/bin/true")
	try.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if err := try.Run(); err != nil {
		return &NoNodeError{Reason: fmt.Sprintf("a process cannot have namespaces of its own: %v", err)}
	}
	return nil
}

func pluginDir() (string, error) {
	for _, dir := range pluginDirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("none of %s has the plugin bridge", strings.Join(pluginDirs, ", "))
}

// Apart runs a program, such as the tests of a package, where it can have a real node: as
// root, in namespaces of its own for the network, processes and mounts. Call it first
// thing in TestMain, as it runs the program anew. When the program ends, or is killed, the
// kernel ends all that it started and takes away what was mounted, every network device
// and every rule of a firewall, and the machine is as it was. There is no way out of its
// network. Where CanRunNode says no, Apart just calls run.
func Apart(run func() int) int {
	if CanRunNode() != nil {
		return run()
	}
	var code int
	var err error
	switch os.Getenv(stageVariable) {
	case "":
		code, err = enclose()
	case stageInit:
		code, err = beInit()
	default:
		return run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test bed: namespaces:", err)
		return 1
	}
	return code
}

// isApart says whether Apart calls the program.
func isApart() bool { return os.Getenv(stageVariable) == stageInside }

// enclose runs this program in new namespaces and removes what the kernel does not.
func enclose() (code int, err error) {
	if err := removeDead(); err != nil {
		return 0, err
	}
	name := apartPrefix + strconv.Itoa(os.Getpid())
	dir := filepath.Join(os.TempDir(), name)
	defer func() { err = errors.Join(err, removeApart(name)) }()
	if err := errors.Join(os.Mkdir(dir, 0o700), makeCgroups(name)); err != nil {
		return 0, err
	}

	// The signal of a parent's death is sent when the thread ends that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	cmd, err := again(stageInit)
	if err != nil {
		return 0, err
	}
	cmd.Env = append(cmd.Env, cgroupVariable+"="+name, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go forward(signals, cmd.Process)
	_ = cmd.Wait() // How it ended is in ProcessState.
	return exitCode(cmd.ProcessState), nil
}

// again is this program with the same arguments, at another stage.
func again(stage string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, os.Args[1:]...) //nolint:gosec // The program is this one.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVariable+"="+stage)
	return cmd, nil
}

func forward(signals <-chan os.Signal, to *os.Process) {
	for s := range signals {
		_ = to.Signal(s) // It may have ended.
	}
}

// exitCode is that of a process, or as a shell has it if a signal ended the process.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// beInit is what the first process of the namespaces does: it sets them up, runs the
// program, and collects processes whose parents have ended.
func beInit() (int, error) {
	if err := furnish(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	cmd, err := again(stageInside)
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go forward(signals, cmd.Process)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case pid != cmd.Process.Pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}

// furnish makes the network and the files of the namespaces.
func furnish() error {
	if err := mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", 0); err != nil {
		return err
	}
	for _, dir := range hidden {
		if err := mount("tmpfs", dir, "tmpfs", 0); err != nil {
			return err
		}
	}
	for tune, text := range kubeletTunes {
		file := "/run/" + filepath.Base(tune)
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			return err
		}
		if err := mount(file, tune, "", syscall.MS_BIND); err != nil {
			return err
		}
	}
	for _, args := range []string{"link set lo up", "address add " + NodeAddress + "/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

func mount(source, target, kind string, flags uintptr) error {
	if err := syscall.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// removeDead removes what namespaces have left whose maker was killed.
func removeDead() error {
	var all []string
	for _, dir := range append(hierarchies(), os.TempDir()) {
		found, err := filepath.Glob(filepath.Join(dir, apartPrefix+"*"))
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	for _, path := range all {
		name := filepath.Base(path)
		pid, err := strconv.Atoi(strings.TrimPrefix(name, apartPrefix))
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if err := removeApart(name); err != nil {
			return err
		}
	}
	return nil
}

func removeApart(name string) error {
	errs := []error{os.RemoveAll(filepath.Join(os.TempDir(), name))}
	for _, dir := range hierarchies() {
		errs = append(errs, removeCgroup(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}
