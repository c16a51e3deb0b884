package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// memoryUse is what the container may have of memory and what it has, in bytes.
type memoryUse struct {
	limit uint64
	// used is without pages of files on the LRU lists, which the kernel takes away before it
	// kills anybody. The working set that cAdvisor shows has the active ones of them too.
	used uint64
}

// memoryGroup is the memory of the control group that the process is in. Its files stay
// open, and are read from their start each time: limits change while a container runs.
type memoryGroup struct {
	limit, usage, stat *os.File
	// cache are the lines of stat that are pages of files.
	cache [2]string
	buf   [8192]byte
}

// memoryFiles are how a version of control groups calls what a memoryGroup has. See
// https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and
// https://docs.kernel.org/admin-guide/cgroup-v2.html#memory.
type memoryFiles struct {
	limit, usage string
	cache        [2]string
}

var (
	memoryFilesV1 = memoryFiles{"memory.limit_in_bytes", "memory.usage_in_bytes", [2]string{"total_inactive_file", "total_active_file"}}
	memoryFilesV2 = memoryFiles{"memory.max", "memory.current", [2]string{"inactive_file", "active_file"}}
)

// openMemoryGroup finds the files below root, which is "/". It returns nil if there are
// none: on other systems, and where the process is in no group of its own.
func openMemoryGroup(root string) *memoryGroup {
	groups, err := os.ReadFile(filepath.Join(root, "proc", "self", "cgroup")) //nolint:gosec // The root is given by the program.
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc", "self", "mountinfo")) //nolint:gosec // The same.
	if err != nil {
		return nil
	}
	for _, dir := range groupDirs(string(groups), string(mounts)) {
		if g := dir.files.open(filepath.Join(root, dir.path)); g != nil {
			return g
		}
	}
	return nil
}

// groupDir is where files of the process's group may be.
type groupDir struct {
	path  string
	files memoryFiles
}

// groupDirs reads what proc_pid_cgroup(5) and proc_pid_mountinfo(5) describe. Where both
// versions are mounted, memory is of version 1 if its controller is there.
func groupDirs(groups, mounts string) []groupDir {
	var v1, v2 []groupDir
	for line := range strings.Lines(groups) {
		// 4:memory:/kubepods/… or 0::/
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		switch {
		case slices.Contains(strings.Split(parts[1], ","), "memory"):
			v1 = append(v1, mounted(mounts, "cgroup", "memory", parts[2], memoryFilesV1)...)
		case parts[0] == "0":
			v2 = append(v2, mounted(mounts, "cgroup2", "", parts[2], memoryFilesV2)...)
		}
	}
	return append(v1, v2...)
}

// mounted is where a group is found: in a container the mount's root is mostly the group
// itself, whatever the path to it from outside, which version 1 shows.
func mounted(mounts, kind, option, group string, files memoryFiles) []groupDir {
	var dirs []groupDir
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if !ok || len(where) < 5 || len(what) < 3 || what[0] != kind {
			continue
		}
		if option != "" && !slices.Contains(strings.Split(what[2], ","), option) {
			continue
		}
		root, point := where[3], where[4]
		if below, ok := strings.CutPrefix(group, strings.TrimSuffix(root, "/")); ok && (below == "" || below[0] == '/') {
			dirs = append(dirs, groupDir{filepath.Join(point, below), files})
		}
		dirs = append(dirs, groupDir{point, files})
	}
	return dirs
}

func (f memoryFiles) open(dir string) *memoryGroup {
	g := &memoryGroup{cache: f.cache}
	for name, file := range map[string]**os.File{f.limit: &g.limit, f.usage: &g.usage, "memory.stat": &g.stat} {
		opened, err := os.Open(filepath.Join(dir, name)) //nolint:gosec // The kernel says which.
		if err != nil {
			g.close()
			return nil
		}
		*file = opened
	}
	return g
}

func (g *memoryGroup) close() {
	for _, f := range []*os.File{g.limit, g.usage, g.stat} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// read returns false if there is no limit, or if the files cannot be read. It leaves out
// memory.stat, which costs the kernel most, while the use is not near the limit even with
// what that would take off.
func (g *memoryGroup) read() (memoryUse, bool) {
	limit, ok := g.number(g.limit)
	// Version 1 has no word for no limit, but the largest number of whole pages.
	if !ok || limit == 0 || limit > math.MaxInt64/2 {
		return memoryUse{}, false
	}
	used, ok := g.number(g.usage)
	if !ok {
		return memoryUse{}, false
	}
	use := memoryUse{limit: limit, used: used}
	if use.near() {
		use.used -= min(used, g.reclaimable())
	}
	return use, true
}

// number is that of a file; false for "max" as well.
func (g *memoryGroup) number(f *os.File) (uint64, bool) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(g.text(f))), 10, 64)
	return n, err == nil
}

func (g *memoryGroup) reclaimable() uint64 {
	var sum uint64
	for line := range bytes.Lines(g.text(g.stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if slices.Contains(g.cache[:], name) {
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			sum += n
		}
	}
	return sum
}

func (g *memoryGroup) text(f *os.File) []byte {
	n, _ := f.ReadAt(g.buf[:], 0) // What ends before the buffer does is an error too.
	return g.buf[:n]
}
