package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// jumps are how far the wall clock goes wrong.
var jumps = []time.Duration{
	time.Hour, 25 * time.Hour, 4 * 24 * time.Hour, 60 * 24 * time.Hour, 400 * 24 * time.Hour, -time.Hour, -25 * time.Hour, -60 * 24 * time.Hour,
}

// clock lets the daemon's wall clock jump for some seconds and come back, with or without a restart meanwhile, and sends what was
// accepted before the jump again.
func clock(tr *trial) verdict {
	d := tr.newDaemon(filepath.Join(tr.TempDir(), "data"), "--prometheus.enabled=false")
	d.clock = filepath.Join(tr.TempDir(), "clock")
	move := func(by time.Duration) { // the wall clock alone; the boot clock goes on
		temporary := d.clock + ".new"
		if err := os.WriteFile(temporary, []byte("0s "+by.String()), 0o600); err != nil {
			tr.Fatal(err)
		}
		if err := os.Rename(temporary, d.clock); err != nil {
			tr.Fatal(err)
		}
	}
	move(0)
	jump, restart := jumps[int(tr.seed)%len(jumps)], tr.rng.IntN(2) == 0
	tr.label = fmt.Sprintf("the clock jumps by %s and back, restart meanwhile: %v", jump, restart)
	b := &book{}
	if err := d.start(); err != nil {
		return d.judgeRefusal()
	}
	d.send(tr, b, 10)
	move(jump)
	if restart {
		d.kill()
		if err := d.start(); err != nil {
			d.kill() // it may refuse to start while the clock is wrong
		}
	}
	pass(1500 * time.Millisecond) // what is done each second is done
	move(0)
	if d.exited() {
		if err := d.start(); err != nil {
			return d.judgeRefusal()
		}
	}
	for range 5 {
		if x := b.some(tr.rng); x != nil {
			d.post(b, x)
		}
	}
	d.send(tr, b, 3)
	if v := d.concludes(b); !v.outcome.right() {
		return v
	}
	if err := d.stop(); err != nil {
		return verdict{stuck, err.Error()}
	}
	return tr.goOn(d, b)
}
