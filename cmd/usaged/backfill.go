package main

import (
	"context"
	"path/filepath"
	"time"

	"usaged/api"
	"usaged/exporter/backfill"
)

// startBackfill has the past written into the embedded Prometheus, in the background.
func (d *daemon) startBackfill(open *closers) (err error) {
	if d.prometheus == nil {
		return nil
	}
	d.backfill, err = backfill.Open(backfill.Config{
		Path: filepath.Join(d.cfg.dataDir, "tsdb", "backfill.json"), Source: d.agg, Target: d.prometheus,
		Retention: time.Duration(d.cfg.prometheus.retention), Log: d.log, Registerer: d.registry, Damaged: d.damaged,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.backfill.Run(ctx)
	}()
	go d.backfillWhatWasLost(ctx)
	open.push("backfill", func(context.Context) error {
		stop()
		<-done
		return nil
	})
	return nil
}

// backfillWhatWasLost asks for a backfill where the samples that an earlier one has written were set aside. It ends when the
// Prometheus is open, or with ctx, which ends before the Prometheus does.
func (d *daemon) backfillWhatWasLost(ctx context.Context) {
	if d.prometheus.Wait(ctx) != nil || !d.prometheus.Repaired() {
		return
	}
	if err := d.backfill.Backfill(); err != nil {
		d.log.Warn("a backfill of the samples that were set aside could not be noted; run usagectl backfill", "err", err)
	}
}

// backfiller is nil where there is no Prometheus.
func (d *daemon) backfiller() api.Backfiller {
	if d.backfill == nil {
		return nil
	}
	return d.backfill
}
