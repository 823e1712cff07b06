package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"usaged/aggregator/clock"
	"usaged/aggregator/journal"
	"usaged/aggregator/retention"
)

// openClock opens the clock by which everything in the daemon goes that is stamped or kept for a time.
func (d *daemon) openClock(machine clock.Machine, open *closers) {
	d.clock = clock.Open(clock.Config{
		Path:    filepath.Join(d.cfg.dataDir, "clock.json"),
		Machine: machine,
		Newest: func() (time.Time, error) {
			return journal.NewestStamp(filepath.Join(d.cfg.dataDir, "journal"))
		},
		Log: d.log.With("component", "clock"),
	})
	d.clock.Register(d.set)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.clock.Run(ctx)
	}()
	open.push("clock", func(context.Context) error {
		stop()
		<-done
		return nil
	})
}

// openRetention decides how many days are kept, which may be more than are asked for now.
func (d *daemon) openRetention() {
	_, err := os.Stat(filepath.Join(d.cfg.dataDir, "journal"))
	d.kept = retention.Open(retention.Config{
		Path: filepath.Join(d.cfg.dataDir, "retention.json"),
		Days: d.cfg.retentionDays,
		Most: maxRetentionDays,
		New:  errors.Is(err, os.ErrNotExist),
		Now:  d.clock.Deletion,
		Log:  d.log.With("component", "retention"),
	})
	d.kept.Register(d.set)
}
