package env

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// cgroupLimit is how long the kernel may take to let go of a control group.
	cgroupLimit = 10 * time.Second
)

// hierarchies are the roots of the trees of control groups: one, or with version 1 one for
// each controller.
func hierarchies() []string {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}
	}
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	if err != nil {
		return nil
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// makeCgroups makes a control group of that name in every tree.
func makeCgroups(name string) error {
	for _, dir := range hierarchies() {
		// A tree may have two names.
		if err := os.Mkdir(filepath.Join(dir, name), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// With version 1 a group has no CPU and no memory at first.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name, file), text, 0) //nolint:gosec // The name is made here.
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup removes a control group with those below it. Their processes have been
// killed, and take a moment to be gone.
func removeCgroup(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			groups = append(groups, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(cgroupLimit)
	for _, group := range slices.Backward(groups) {
		for {
			err := syscall.Rmdir(group)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("control group %s: %w", group, err)
			}
			<-time.After(probeInterval)
		}
	}
	return nil
}

// cgroupProcesses are the processes of a control group and of those below it.
func cgroupProcesses(name string) []int {
	var pids []int
	for _, root := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil //nolint:nilerr // A group that is gone has no processes.
			}
			pids = append(pids, processesOf(path)...)
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// processesOf are the processes of one control group, none if it is gone.
func processesOf(group string) []int {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for line := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
