package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// TestRedisReplicas sends the same ids to two daemons, in any order and at the same time, while both are killed again and
// again. Each is counted once, and the daemons' counters add up to what was sent.
func TestRedisReplicas(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			r := startReplicas(t, 2, srv.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
			kills := 6
			if full() {
				kills = 60
			}
			rng := rand.New(rand.NewPCG(seed(t), 1))
			for range kills {
				i := rng.IntN(len(r.daemons))
				if rng.IntN(2) == 0 {
					r.load.targets[i].until(t, 1+rng.Int64N(500)) // just behind an acknowledgement
				} else {
					pass(time.Duration(rng.Int64N(int64(400 * time.Millisecond))))
				}
				r.restart(i)
			}
			r.accepting(500)
			r.exact()
			for i, d := range r.daemons {
				if l := d.ledger().All; l.Duplicates == 0 || l.Counted == 0 {
					t.Errorf("daemon %d: %+v, want some duplicates and some counted", i, l)
				}
			}
		})
	}
}

// restart kills a daemon and starts it again.
func (r *replicas) restart(i int) {
	r.tb.Helper()
	d := r.daemons[i]
	d.kill()
	d.start()
	r.load.targets[i].reach(d.url)
}

// TestRedisConnections loses replies of Redis, so that daemons don't know whether a batch has been applied, and resets their
// connections, while one of them is killed.
func TestRedisConnections(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			proxy := redistest.StartProxy(t, srv.Addr)
			r := startReplicas(t, 2, proxy.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
			rounds := 1
			if full() {
				rounds = 10
			}
			for range rounds {
				for _, every := range []int{7, 3, 2} {
					proxy.LoseReplies(every)
					r.accepting(1500)
					proxy.Cut()
				}
				r.restart(1)
				proxy.Refuse(true)
				r.accepting(500)
				proxy.Refuse(false)
				proxy.LoseReplies(0)
				r.applying()
			}
			r.accepting(500)
			r.exact()
			if proxy.Lost() < 5 {
				t.Errorf("only %d replies were lost", proxy.Lost())
			}
			t.Logf("%d replies lost", proxy.Lost())
		})
	}
}
