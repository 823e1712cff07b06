package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"usaged/tools/faults/faultfs"
)

// mounted shows a data directory through a view in which calls can fail, and returns a daemon that uses it.
func (tr *trial) mounted(backing string) (*faultfs.FS, *daemon) {
	tr.Helper()
	point := filepath.Join(tr.TempDir(), "data")
	for _, dir := range []string{backing, point} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			tr.Fatal(err)
		}
	}
	f, err := faultfs.Mount(backing, point)
	if err != nil {
		if os.Getenv("CI") == "true" {
			tr.Fatal(err)
		}
		tr.Skipf("%v: FUSE needs root, or fusermount3 (Debian: apt-get install fuse3)", err)
	}
	tr.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			tr.Error(err)
		}
	})
	d := tr.newDaemon(point, "--prometheus.enabled=false")
	d.seen = filepath.Join(backing, "usaged.url")
	return f, d
}

var errnos = []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EMFILE}

// work is what a daemon does while calls fail: a start, events, a stop, a start, events, a stop. Whatever fails, it goes on.
func (tr *trial) work(d *daemon, b *book) {
	for range 2 {
		if err := d.start(); err != nil {
			d.kill()
			continue
		}
		d.send(tr, b, 6)
		tr.settleFor(d)
		d.send(tr, b, 2)
		_ = d.stop() // a stop that fails is judged by what it leaves
	}
}

// settleFor gives the daemon the time of some requests to apply what it has. Under a lasting fault it may be unable to, or to
// answer.
func (tr *trial) settleFor(d *daemon) {
	for range 40 {
		var v view
		body, err := d.get("/api/v1/usage/ledger")
		if err != nil || jsonInto(body, &v.Ledger) && v.Ledger.All.Pending == 0 {
			return
		}
		pass(25 * time.Millisecond)
	}
}

// calls lets the n-th call of a kind fail, once or from then on, in a life of a daemon. The kind, n and the error follow from the
// seed: with enough trials each kind and each n has its turn, among twice the calls that a life without faults makes.
func calls(tr *trial, lasting bool) verdict {
	f, d := tr.mounted(filepath.Join(tr.TempDir(), "backing"))
	b := &book{}
	// The first life has no faults: it leaves something to be read, and tells how many calls there are.
	f.Fail(faultfs.Rule{})
	if err := d.start(); err != nil {
		tr.Fatalf("%v: %s", err, d.log)
	}
	d.send(tr, b, 6)
	for range 3 {
		large := b.next(tr.rng)
		large.events = 700 // so that the journal is read in several pieces
		d.post(b, large)
	}
	if _, err := d.settled(); err != nil {
		tr.Fatal(err)
	}
	if tr.rng.IntN(2) == 0 {
		d.kill()
	}
	if err := d.stop(); err != nil {
		tr.Fatal(err)
	}
	counts := f.Counts()
	kinds := slices.DeleteFunc(slices.Clone(faultfs.Kinds), func(k faultfs.Kind) bool { return counts[k] == 0 })
	turn := int(tr.seed)
	rule := faultfs.Rule{Kind: kinds[turn%len(kinds)], Lasting: lasting, Errno: errnos[tr.rng.IntN(len(errnos))]}
	rule.N = 1 + spread(turn/len(kinds), 2*counts[rule.Kind])
	tr.label = fmt.Sprintf("%s %d fails with %s, lasting: %v", rule.Kind, rule.N, rule.Errno, lasting)
	f.Fail(rule)
	tr.work(d, b)
	failed := f.Heal()
	tr.label += fmt.Sprintf(" (%.3q)", failed[:min(3, len(failed))])
	d.kill()
	return tr.goOn(d, b)
}
