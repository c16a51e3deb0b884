//go:build !linux

package runner

import "syscall"

// childAttr makes a child of its own process group.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
