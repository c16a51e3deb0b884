package runner

import "syscall"

// childAttr makes a child that dies with this process, however this process ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
