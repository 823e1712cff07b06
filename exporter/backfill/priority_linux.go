package backfill

import "syscall"

// lowerPriority makes the calling thread yield to all others.
func lowerPriority() {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), 19) // whatever is not allowed goes on as it was
}
