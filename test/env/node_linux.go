package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupName is that of the control group which Apart made.
func cgroupName() string { return os.Getenv(cgroupVariable) }

// clearNode ends the containers, which outlive containerd, and removes what was mounted
// for them.
func (c *Cluster) clearNode() error {
	if !c.opts.RealNode {
		return nil
	}
	if err := killAll(func() []int { return cgroupProcesses(cgroupName()) }); err != nil {
		return fmt.Errorf("containers: %w", err)
	}
	if err := killAll(c.shims); err != nil {
		return fmt.Errorf("containerd's shims: %w", err)
	}
	return c.unmount()
}

// killAll kills processes until none is left.
func killAll(find func() []int) error {
	deadline := time.Now().Add(stopGrace)
	for {
		left := find()
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", left)
		}
		<-time.After(probeInterval)
	}
}

// shims are the processes that look after this cluster's containers.
func (c *Cluster) shims() []int {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	socket := []byte(c.path("node", "containerd.sock"))
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte("containerd-shim")) || !bytes.Contains(text, socket) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmount removes the mounts below the cluster's folder, see proc_pid_mountinfo(5).
func (c *Cluster) unmount() error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var targets []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], c.opts.Dir+"/") {
			targets = append(targets, fields[4])
		}
	}
	var errs []error
	for _, target := range slices.Backward(targets) {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// Container is a running container of the real node.
type Container struct {
	// groups are its control groups: one, or with version 1 one for each controller.
	groups []string
}

// FindContainer finds a container by its ID.
func (c *Cluster) FindContainer(id string) (*Container, error) {
	var found Container
	for _, root := range hierarchies() {
		err := filepath.WalkDir(filepath.Join(root, cgroupName()), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == id {
				found.groups = append(found.groups, path)
			}
			return nil // Control groups of other containers come and go.
		})
		if err != nil {
			return nil, err
		}
	}
	if len(found.groups) == 0 {
		return nil, fmt.Errorf("no container %s runs on the real node", id)
	}
	return &found, nil
}

// Kill kills its processes.
func (k *Container) Kill() error {
	pids := k.processes()
	if len(pids) == 0 {
		return errors.New("the container has no process")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return nil
}

// Starve leaves the container less memory than it has, and returns nil if it has ended by
// that. Until then call it again.
func (k *Container) Starve() error {
	if len(k.processes()) == 0 {
		return nil
	}
	for _, group := range k.groups {
		for _, m := range memoryControllers {
			if err := m.starve(group); err != nil {
				return err
			}
		}
	}
	return errors.New("the container still runs")
}

// Memory is what the container has of memory, without the pages of files that the kernel
// takes away before it kills, and what it may have, in bytes.
func (k *Container) Memory() (used, limit int, err error) {
	group, m, err := k.memory()
	if err != nil {
		return 0, 0, err
	}
	return m.read(group)
}

// LimitMemory sets what it may have, as far as the kernel can take pages away.
func (k *Container) LimitMemory(limit int) error {
	group, m, err := k.memory()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(group, m.limit), []byte(strconv.Itoa(limit)), 0)
}

// Hold has the container hold so many bytes more, of no process of its own, until they are
// closed.
func (k *Container) Hold(ctx context.Context, size int) (io.Closer, error) {
	group, _, err := k.memory()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	held := os.NewFile(uintptr(fd), "held")
	// Pages belong to the group of the process that wrote them first.
	script := `echo $$ >"$1/cgroup.procs" && exec head -c "$2" /dev/zero >&3`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", group, strconv.Itoa(size))
	cmd.ExtraFiles = []*os.File{held}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("holding %d bytes in %s: %w: %s", size, group, err, out), held.Close())
	}
	return held, nil
}

// memory is the container's control group that has its memory.
func (k *Container) memory() (string, memoryController, error) {
	for _, group := range k.groups {
		for _, m := range memoryControllers {
			if _, err := os.Stat(filepath.Join(group, m.limit)); err == nil {
				return group, m, nil
			}
		}
	}
	return "", memoryController{}, errors.New("the container's memory has no control group")
}

func (k *Container) processes() []int {
	var pids []int
	for _, group := range k.groups {
		pids = append(pids, processesOf(group)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}
