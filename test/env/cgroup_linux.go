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

// memoryController are the files of a control group's limit of memory and of what it uses,
// and what of the latter memory.stat calls pages of files.
type memoryController struct {
	limit, usage string
	cache        []string
}

// memoryControllers are those of version 1 and of version 2.
var memoryControllers = []memoryController{
	{"memory.limit_in_bytes", "memory.usage_in_bytes", []string{"total_inactive_file", "total_active_file"}},
	{"memory.max", "memory.current", []string{"inactive_file", "active_file"}},
}

// starve sets the limit to less than what is used, as far as the kernel can take pages
// away: with version 1 it refuses a limit that it cannot reach.
func (m memoryController) starve(group string) error {
	const most, least = 8 << 20, 1 << 16
	used, err := readNumber(filepath.Join(group, m.usage))
	if gone(err) {
		return nil // Or the other version.
	}
	if err != nil {
		return err
	}
	for less := most; less >= least; less /= 2 {
		err := os.WriteFile(filepath.Join(group, m.limit), []byte(strconv.Itoa(max(used-less, least))), 0)
		if !errors.Is(err, syscall.EBUSY) {
			if gone(err) {
				err = nil
			}
			return err
		}
	}
	return nil
}

// read returns what is used without pages of files, and the limit.
func (m memoryController) read(group string) (used, limit int, err error) {
	if limit, err = readNumber(filepath.Join(group, m.limit)); err != nil {
		return 0, 0, err
	}
	if used, err = readNumber(filepath.Join(group, m.usage)); err != nil {
		return 0, 0, err
	}
	stat, err := os.ReadFile(filepath.Join(group, "memory.stat"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains(m.cache, name) {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, 0, fmt.Errorf("%s of %s: %w", name, group, err)
		}
		used -= n
	}
	return used, limit, nil
}

// readNumber reads a file of one number.
func readNumber(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// gone says whether there is no such control group any more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) }
