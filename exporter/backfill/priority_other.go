//go:build !linux

package backfill

// lowerPriority does nothing: elsewhere than on Linux a thread has no priority of its own.
func lowerPriority() {}
