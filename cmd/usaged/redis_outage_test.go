package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// TestRedisStopped takes Redis away under load, and waits for every answer before it comes back: none can have waited for
// Redis. Then everything is applied.
func TestRedisStopped(t *testing.T) {
	t.Parallel()
	outage := 4 * time.Second
	if full() {
		outage = 3 * time.Minute
	}
	for _, tc := range []struct {
		name       string
		stop, back func(*redistest.Server)
	}{
		{"it goes on when Redis hangs", (*redistest.Server).Hang, (*redistest.Server).Continue},
		{"it goes on when Redis is killed", (*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
			r := startReplicas(t, 1, srv.URL())
			d, at := r.daemons[0], r.load.targets[0]
			r.accepting(2000)
			r.applying()

			tc.stop(srv)
			r.load.times.take()
			began, before := time.Now(), at.acked.Load()
			if full() {
				pass(outage)
			} else {
				r.load.until(300)
				pass(max(0, outage-time.Since(began))) // long enough for timeouts
			}
			ready := d.ready()
			r.load.stop()
			lasted, came := time.Since(began), at.acked.Load()-before
			took := r.load.times.take()
			if ready != nil {
				t.Errorf("not ready while Redis is away: %v", ready)
			}
			for _, s := range r.load.senders {
				for _, request := range s.records {
					if request.unknown > 0 || request.refused > 0 && !s.mode.bad {
						t.Errorf("while Redis was away a request got no 202: %+v", *request)
					}
				}
			}
			pending := d.metric("usaged_apply_pending_events")
			if pending == 0 {
				t.Error("nothing is pending, although Redis is away")
			}
			tc.back(srv)
			back := time.Now()
			eventually(t, "drain begins", func() error {
				if d.metric("usaged_apply_pending_events") >= pending {
					return errors.New("not yet")
				}
				return nil
			})
			noticed := time.Since(back)
			drained := r.exact()
			arrived := float64(came) / lasted.Seconds()
			t.Logf("away for %s: %d POSTs, p50 %s, p99 %s, max %s; %.0f events/s came, %.0f were pending; applying %s after the return, exact %s later",
				lasted.Round(time.Millisecond), len(took), quantile(took, .5), quantile(took, .99), quantile(took, 1), arrived, pending,
				noticed.Round(time.Millisecond), drained.Round(time.Millisecond))
		})
	}
}

// TestRedisDrain measures how fast a backlog is applied: Redis is away while senders post as fast as they can.
func TestRedisDrain(t *testing.T) {
	if !full() {
		t.Skipf("takes a minute; set %s=1", fullEnv)
	}
	srv := redistest.Start(t)
	d := newRedisInstance(t, srv.URL())
	d.start()
	d.post(`{"event_type":"first","user_id":"ann"}`)
	d.settle()
	srv.Hang()
	began, events := time.Now(), 0
	for time.Since(began) < 30*time.Second {
		var lines []string
		for i := range 1000 {
			lines = append(lines, fmt.Sprintf(`{"event_type":"type %d","user_id":"user %d"}`, i%5, (events+i*7)%10_000))
		}
		d.post(lines...)
		events += len(lines)
	}
	away := time.Since(began)
	srv.Continue()
	began = time.Now()
	if got := d.settle().All.Counted; got != uint64(events+1) {
		t.Errorf("counted %d, want %d", got, events+1)
	}
	drain := time.Since(began)
	t.Logf("%d events came in %s and were applied within %s, %.1f times as fast", events, away.Round(time.Millisecond), drain.Round(time.Millisecond),
		away.Seconds()/drain.Seconds())
}

// quantile returns a quantile of times that are in order.
func quantile(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	return took[min(int(q*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
}
