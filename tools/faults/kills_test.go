package faults

import (
	"path/filepath"
	"sync"
	"time"
)

// kills kills a daemon several times at random moments, under load and in its starts.
func kills(tr *trial) verdict {
	const times = 4
	tr.label = "kill -9"
	d := tr.newDaemon(filepath.Join(tr.TempDir(), "data"), "--prometheus.enabled=false")
	b := &book{}
	for range times {
		if err := d.start(); err != nil {
			return d.judgeRefusal()
		}
		tr.loadUntil(d, b, time.Duration(tr.rng.Int64N(int64(400*time.Millisecond))))
		if tr.rng.IntN(3) == 0 { // in the next start
			d.launch()
			pass(time.Duration(tr.rng.Int64N(int64(150 * time.Millisecond))))
			d.kill()
		}
	}
	return d.examine(b)
}

// loadUntil sends from several senders until the daemon is killed, which is after a time.
func (tr *trial) loadUntil(d *daemon, b *book, after time.Duration) {
	var senders sync.WaitGroup
	for i := range 3 {
		rng := tr.fork(uint64(i))
		senders.Go(func() {
			for {
				x := b.next(rng)
				if d.post(b, x) == notSent || d.exited() {
					return
				}
				if again := b.some(rng); again != nil && rng.IntN(8) == 0 {
					d.post(b, again)
				}
			}
		})
	}
	pass(after)
	d.killAsync()
	senders.Wait()
	d.kill()
}

// pass lets a random time pass: the moment is what is tested, nothing waits for anything.
func pass(d time.Duration) { <-time.After(d) }
