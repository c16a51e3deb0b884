//go:build !linux

package env

import (
	"bytes"
	"os/exec"
	"strconv"
	"syscall"
)

// childAttr makes a child that ends with Cluster.Stop. Only Linux can tie it to
// the life of this process.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// detachedAttr makes a child that outlives this process and its terminal.
func detachedAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// startOf is the time at which the process started, as ps prints it, and whether it
// has ended but nobody collected it.
func startOf(pid int) (started string, ended bool, err error) {
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "", false, err
	}
	stat, lstart, _ := bytes.Cut(bytes.TrimSpace(out), []byte(" "))
	return string(bytes.TrimSpace(lstart)), bytes.HasPrefix(stat, []byte("Z")), nil
}
