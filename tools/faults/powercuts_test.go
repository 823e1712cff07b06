package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"usaged/tools/faults/faultfs"
)

// powerCuts records what a daemon writes and syncs under load, kills it, and examines daemons on what a power cut may have left: at
// any moment of the recording where the store is in the directory, at its end where the store is a Redis elsewhere.
func powerCuts(tr *trial) verdict {
	f, d := tr.mounted(filepath.Join(tr.TempDir(), "backing"))
	f.Record()
	b := &book{position: f.Position}
	if err := d.start(); err != nil {
		return d.judgeRefusal()
	}
	tr.loadUntil(d, b, time.Duration(tr.rng.Int64N(int64(300*time.Millisecond))))
	if tr.rng.IntN(2) == 0 { // with a restart in it
		if err := d.start(); err != nil {
			return d.judgeRefusal()
		}
		tr.loadUntil(d, b, time.Duration(tr.rng.Int64N(int64(100*time.Millisecond))))
	}
	ops := f.Recorded()
	at := len(ops)
	if tr.store == "sqlite" {
		at = tr.rng.IntN(len(ops) + 1)
	}
	tr.label = fmt.Sprintf("a power cut after %d of %d operations", at, len(ops))
	dir := filepath.Join(tr.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		tr.Fatal(err)
	}
	if err := faultfs.State(ops[:at], tr.rng, dir); err != nil {
		tr.Fatal(err)
	}
	after := tr.newDaemon(dir, "--prometheus.enabled=false")
	return tr.goOn(after, b.asOf(at))
}

// asOf returns the book as it was after so many operations: what was sent later was not sent, what was answered later is unknown.
func (b *book) asOf(position int) *book {
	b.mu.Lock()
	defer b.mu.Unlock()
	then := &book{}
	for _, x := range b.batches {
		y := *x
		y.accepted, y.refused, y.unknown = 0, 0, 0
		for _, try := range x.tries {
			switch {
			case try.sentAt > position:
			case try.status == http.StatusAccepted && try.answeredAt <= position:
				y.accepted++
			case wasRefused(try.status) && try.answeredAt <= position:
				y.refused++
			default:
				y.unknown++
			}
		}
		then.batches = append(then.batches, &y)
	}
	return then
}
