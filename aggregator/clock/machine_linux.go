package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ThisMachine has the clocks of this machine.
func ThisMachine() Machine {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		id = nil // the clock then believes the wall clock at a restart, and doubts it for a day
	}
	return Machine{Read: readClocks, BootID: strings.TrimSpace(string(id))}
}

func readClocks() (wall time.Time, sinceBoot time.Duration) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock: the kernel has no boot clock: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Now(), time.Duration(ts.Nano())
}
