package faults

import "syscall"

// childAttr lets a daemon die with the test process, also where that is killed or panics.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
