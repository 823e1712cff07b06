package redistest

import "syscall"

// childAttr lets a server die with the test process, also where that is killed or panics.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
