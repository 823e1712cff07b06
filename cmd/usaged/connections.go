package main

import (
	"log/slog"
	"syscall"
)

const (
	// defaultConnections is how many connections are served where there are descriptors for more. Each takes about 20 KiB.
	defaultConnections = 4096
	// fewConnections are allowed also where they leave no descriptors for files: a daemon that nobody reaches is of no use.
	fewConnections = 64
)

// connections returns how many connections may be open at a time. The runtime has raised the limit of open files to what the process may
// have at most. The other half is for the journal, the database, the samples, and connections to Redis and to receivers.
func (cfg *config) connections(log *slog.Logger) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		log.Debug("the limit of open files is not known", "err", err)
		files.Cur = 2 * defaultConnections
	}
	limit := int(min(max(files.Cur/2, fewConnections), defaultConnections))
	if cfg.maxConns > 0 {
		limit = cfg.maxConns
	}
	if files.Cur < 2*uint64(limit) {
		log.Warn("few files may be open: connections may leave none for the journal; raise the limit of open files (ulimit -n, LimitNOFILE)",
			"limit", files.Cur, "connections", limit)
	}
	return limit
}
