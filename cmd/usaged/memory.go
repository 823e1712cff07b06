package main

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is how much of a container's memory the runtime may have. The rest is for what it does not count: memory-mapped files and
// the stacks of threads.
const memoryShare = 0.9

// limitMemory tells the runtime how much memory it has, so that it collects garbage, and returns memory to the system, before the kernel
// ends the process. Without a limit it does so only as its heap doubles.
func (cfg *config) limitMemory(log *slog.Logger) {
	switch {
	case cfg.memoryLimit > 0:
		debug.SetMemoryLimit(int64(cfg.memoryLimit))
	case os.Getenv("GOMEMLIMIT") != "": // which the runtime has read
		return
	default:
		if _, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(memlimit.FromCgroup)); err != nil {
			log.Debug("no memory limit of a container is known; the runtime has none", "err", err)
			return
		}
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 { // which is what a machine without containers has
		log.Info("memory is limited", "limit_bytes", limit)
	}
}
