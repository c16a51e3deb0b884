package env

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// childAttr makes a child that dies with this process, however this process ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// detachedAttr makes a child that outlives this process and its terminal.
func detachedAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// startOf is the boot of the machine and the clock tick since then at which the
// process started (see proc_pid_stat(5), fields 3 and 22), and whether it has ended
// but nobody collected it.
func startOf(pid int) (started string, ended bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false, err
	}
	// The second field is the program's name in parentheses, and may hold any byte.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "", false, fmt.Errorf("/proc/%d/stat cannot be read: %q", pid, stat)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", false, err
	}
	return string(bytes.TrimSpace(boot)) + "/" + fields[19], fields[0] == "Z" || fields[0] == "X", nil
}
