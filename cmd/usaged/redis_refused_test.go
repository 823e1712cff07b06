package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// TestRedisRefuses makes Redis refuse what daemons apply. Events are accepted all the while, a metric and the log name the
// reason and what to do, and everything is applied once the reason is gone.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	set := func(name, value string) func(*redistest.Server) {
		return func(srv *redistest.Server) { srv.Do("CONFIG", "SET", name, value) }
	}
	planted := func(kind string) string {
		return "usage:{p0}:" + strings.ReplaceAll(kind, "TODAY", time.Now().UTC().Format(time.DateOnly))
	}
	plant := func(kind string) func(*redistest.Server) {
		return func(srv *redistest.Server) { srv.Do("LPUSH", planted(kind), "planted") }
	}
	remove := func(kind string) func(*redistest.Server) {
		return func(srv *redistest.Server) { srv.Do("DEL", planted(kind)) }
	}
	const kind = "day:TODAY:type:planted"
	for _, tc := range []struct {
		name, class, advice string
		begin, end          func(*redistest.Server)
	}{
		{"WRONGTYPE", "wrongtype", "delete or rename it", plant(kind), remove(kind)},
		{"OOM", "oom", "maxmemory", set("maxmemory", "1"), set("maxmemory", "0")},
		{"NOREPLICAS", "noreplicas", "min-replicas-to-write", set("min-replicas-to-write", "1"), set("min-replicas-to-write", "0")},
		{
			"READONLY", "readonly", "point --redis.url at the master",
			func(srv *redistest.Server) { srv.Do("REPLICAOF", "127.0.0.1", "1") },
			func(srv *redistest.Server) { srv.Do("REPLICAOF", "NO", "ONE") },
		},
		{
			"NOPERM", "noperm", "the ACL",
			func(srv *redistest.Server) { srv.Do("ACL", "SETUSER", "default", "-hset") },
			func(srv *redistest.Server) { srv.Do("ACL", "SETUSER", "default", "+hset") },
		},
		{
			"a producer's key that was deleted alone", "lostproducer", "delete all keys of the partition",
			func(srv *redistest.Server) {
				for _, id := range strings.Fields(srv.Do("SMEMBERS", planted("producers"))) {
					srv.Do("DEL", planted("producer:"+id))
				}
			},
			func(srv *redistest.Server) {
				srv.Do(append([]string{"DEL"}, strings.Fields(srv.Do("KEYS", planted("*")))...)...)
			},
		},
		{
			"WRONGTYPE in place of the producer", "wrongtype", "delete or rename it",
			func(srv *redistest.Server) {
				for _, id := range strings.Fields(srv.Do("SMEMBERS", planted("producers"))) {
					srv.Do("SET", planted("producer:"+id), "planted")
				}
			},
			// The totals have gone with the key, so the whole partition goes.
			func(srv *redistest.Server) { srv.Do("FLUSHALL") },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			r := startReplicas(t, 1, srv.URL())
			d := r.daemons[0]
			r.accepting(500)
			r.applying()
			sample := fmt.Sprintf("usaged_store_redis_errors_total{class=%q}", tc.class)
			if got := d.metric(sample); got != 0 {
				t.Errorf("%s is %v before", sample, got)
			}
			tc.begin(srv)
			d.post(`{"event_type":"planted","user_id":"ann","id":"1"}`)
			eventually(t, sample, func() error {
				if got := d.metric(sample); got < 2 {
					return fmt.Errorf("%v, want some", got)
				}
				return nil
			})
			r.accepting(1000)
			if err := d.ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if got := d.metric("usaged_apply_pending_events"); got < 1000 {
				t.Errorf("%v events are pending, want those that were accepted meanwhile", got)
			}
			eventually(t, "advice in the log", func() error {
				if log := d.log.String(); !strings.Contains(log, tc.advice) {
					return fmt.Errorf("it doesn't say %q", tc.advice)
				}
				return nil
			})
			retries := d.metric(sample)
			r.load.stop()
			tc.end(srv)
			began := time.Now()
			eventually(t, "the planted event", func() error {
				f, err := figuresOf(7, d)
				if err == nil && f.Summary["planted"]["ann"] != 1 {
					err = fmt.Errorf("%v", f.Summary["planted"])
				}
				return err
			})
			took := time.Since(began)
			f := d.figures(7)
			delete(f.Summary, "planted")
			r.load.judge(f)
			r.watches[0].stop()
			r.watches[0].judge(f)
			t.Logf("%v errors, exact %s after the end", retries, took.Round(time.Millisecond))
		})
	}
}
