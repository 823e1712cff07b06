//go:build !linux

package clock

import "time"

var started = time.Now()

// ThisMachine has the clocks of this machine. Its boot clock begins with the process: a restart can't be checked.
func ThisMachine() Machine {
	return Machine{Read: func() (time.Time, time.Duration) {
		now := time.Now()
		return now, now.Sub(started)
	}}
}
