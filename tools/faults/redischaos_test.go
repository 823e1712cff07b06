package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// redisChaos does something to Redis, several times, while a daemon counts into it.
func redisChaos(tr *trial) verdict {
	tr.redis = redistest.Start(tr.T, "--save", "")
	tr.proxy = redistest.StartProxy(tr.T, tr.redis.Addr)
	d := tr.newDaemon(filepath.Join(tr.TempDir(), "data"), "--prometheus.enabled=false")
	b := &book{}
	if err := d.start(); err != nil {
		return d.judgeRefusal()
	}
	var halt atomic.Bool
	var senders sync.WaitGroup
	for i := range 2 {
		rng := tr.fork(uint64(i))
		senders.Go(func() {
			for !halt.Load() {
				d.post(b, b.next(rng))
				if again := b.some(rng); again != nil && rng.IntN(4) == 0 {
					d.post(b, again)
				}
				pass(5 * time.Millisecond)
			}
		})
	}
	tr.label = "Redis"
	for range 3 {
		pass(time.Duration(tr.rng.Int64N(int64(300 * time.Millisecond))))
		tr.label += ", " + tr.disturbRedis()
	}
	halt.Store(true)
	senders.Wait()
	v := d.concludes(b)
	if !v.outcome.right() {
		return v
	}
	if err := d.stop(); err != nil {
		return verdict{stuck, err.Error()}
	}
	return tr.goOn(d, b)
}

// disturbRedis does one thing to Redis, takes its cause away again, and says what it was.
func (tr *trial) disturbRedis() string {
	tr.Helper()
	moment := time.Duration(tr.rng.Int64N(int64(300 * time.Millisecond)))
	dump := filepath.Join(tr.redis.Dir, "dump.rdb")
	switch tr.rng.IntN(6) {
	case 0:
		tr.redis.Do("FLUSHALL")
		return "FLUSHALL"
	case 1:
		tr.redis.Kill()
		if err := os.Remove(dump); err != nil && !os.IsNotExist(err) {
			tr.Fatal(err)
		}
		tr.redis.Restart()
		return "killed and empty"
	case 2:
		tr.redis.Do("SAVE")
		pass(moment)
		tr.redis.Kill()
		pass(moment)
		tr.redis.Restart()
		return fmt.Sprintf("killed and back with a dump that is %s old", moment)
	case 3:
		n := 1 + tr.rng.IntN(5)
		tr.proxy.LoseReplies(n)
		pass(moment)
		tr.proxy.LoseReplies(0)
		return fmt.Sprintf("every reply in %d lost", n)
	case 4:
		tr.redis.Hang()
		pass(moment)
		tr.redis.Continue()
		return "hung for " + moment.String()
	default:
		tr.proxy.Refuse(true)
		pass(moment)
		tr.proxy.Refuse(false)
		return "cut off for " + moment.String()
	}
}
