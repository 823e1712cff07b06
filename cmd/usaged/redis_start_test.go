package main

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// TestRedisAwayAtStart starts the daemon while Redis is away: it accepts, shows the counters that it showed before, and
// counts when Redis is back.
func TestRedisAwayAtStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		partitions int
		flags      []string
		stop, back func(*redistest.Server)
	}{
		{"it starts while Redis hangs", 1, nil, (*redistest.Server).Hang, (*redistest.Server).Continue},
		{"it starts while nothing listens", 16, []string{"--redis.partitions=16"}, (*redistest.Server).Kill, (*redistest.Server).Restart},
		{"it remembers the partitions that Redis said", 16, nil, (*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := startPartitioned(t, tc.partitions)
			d := newRedisInstance(t, srv.URL(), tc.flags...)
			d.start()
			d.post(`{"event_type":"a","user_id":"ann"}`, `{"event_type":"b","user_id":"ann"}`, `{"event_type":"a","user_id":"bob"}`)
			before := d.figures(7)
			d.kill()

			tc.stop(srv)
			d.start()
			if err := d.ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if got := d.counters(); got["a"] != 2 || got["b"] != 1 {
				t.Errorf("usage_events_total while Redis is away %v, want %v", got, before.Counters)
			}
			d.post(`{"event_type":"a","user_id":"ann"}`)
			if got := d.metric("usaged_store_connected"); got != 0 {
				t.Errorf("usaged_store_connected is %v, want 0", got)
			}
			if a := d.do(http.MethodGet, "/api/v1/usage/summary", "admin", nil, nil); a.status != http.StatusServiceUnavailable {
				t.Errorf("GET summary while Redis is away: status %d, want 503", a.status)
			}
			tc.back(srv)
			d.waitForCounts(map[string]uint64{"ann": 2, "bob": 1}, 4)
			if got := d.counters(); got["a"] != 3 || got["b"] != 1 {
				t.Errorf("usage_events_total %v, want 3 of a and 1 of b", got)
			}
			d.stop()
		})
	}
}

// startPartitioned starts a Redis that knows a number of partitions, as if other daemons had used it.
func startPartitioned(t *testing.T, partitions int) *redistest.Server {
	t.Helper()
	srv := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	srv.Do("HSET", "usage:meta", "schema", "1", "partitions", fmt.Sprint(partitions), "epoch", "1")
	return srv
}

// waitForCounts waits until a daemon has counted so many events, and so many of type "a" of each user.
func (d *instance) waitForCounts(users map[string]uint64, all uint64) {
	d.tb.Helper()
	eventually(d.tb, "counts", func() error {
		f, err := figuresOf(7, d)
		if err != nil {
			return err
		}
		if fmt.Sprint(f.Summary["a"]) != fmt.Sprint(users) || f.Ledger.All.Counted != all {
			return fmt.Errorf("%v and %+v, want %v and %d counted", f.Summary["a"], f.Ledger.All, users, all)
		}
		return nil
	})
}

// TestRedisPartitionsRefused starts a daemon with another number of partitions than Redis has. It says so in one line and ends.
func TestRedisPartitionsRefused(t *testing.T) {
	t.Parallel()
	srv := startPartitioned(t, 16)
	d := newRedisInstance(t, srv.URL(), "--redis.partitions=2")
	r := runDaemon(t, nil, d.args...)
	if r.code != 1 || !strings.Contains(lastLine(r.stderr), `usage:meta has "16" partitions, not 2; restart with --redis.partitions=16`) {
		t.Errorf("exit code %d, want 1 and a last line that says what to do:\n%s", r.code, r.stderr)
	}
	if strings.Contains(r.stderr, "accepting requests") {
		t.Errorf("it has accepted requests:\n%s", r.stderr)
	}
	d.args = append(d.args[:3], "--redis.partitions=16")
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	d.waitForCounts(map[string]uint64{"ann": 1}, 1)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// TestRedisPartitionsCorrected follows what the log says to a new daemon that was started while Redis was away, with another
// number of partitions than Redis has. What it had accepted is counted.
func TestRedisPartitionsCorrected(t *testing.T) {
	t.Parallel()
	srv := startPartitioned(t, 16)
	srv.Kill()
	d := newRedisInstance(t, srv.URL())
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	srv.Restart()
	eventually(t, "the log and a metric say it", func() error {
		log, failures := d.log.String(), d.metric(`usaged_store_redis_errors_total{class="incompatible"}`)
		if !strings.Contains(log, "restart with --redis.partitions=16") || failures == 0 {
			return fmt.Errorf("%v errors, and the log says %s", failures, log)
		}
		return nil
	})
	d.stop()
	d.args = append(d.args[:3], "--redis.partitions=16")
	d.start()
	d.waitForCounts(map[string]uint64{"ann": 1}, 1)
}

// TestRedisFromSQLite gives a Redis to a daemon that has counted into its embedded database.
func TestRedisFromSQLite(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	d := newInstance(t)
	d.start()
	l := startLoad(t, d, seed(t), 1)
	l.until(200)
	l.stop()
	want := d.figures(7)
	l.judge(want)
	d.stop()
	d.args = append(d.args, "--redis.url="+srv.URL())
	d.start()
	same(t, "on Redis", d.figures(7), want)
}

// TestRedisHangsAtStop stops the daemon while Redis hangs. It ends in time, and has lost nothing.
func TestRedisHangsAtStop(t *testing.T) {
	if !full() {
		t.Skipf("waits for timeouts; set %s=1", fullEnv)
	}
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			d := newRedisInstance(t, srv.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
			d.start()
			var lines []string
			for i := range 100 {
				lines = append(lines, fmt.Sprintf(`{"event_type":"b","user_id":"user %d"}`, i))
			}
			d.post(lines...)
			d.settle()
			srv.Hang()
			d.post(lines...)
			d.post(`{"event_type":"a","user_id":"ann"}`)
			failures := fmt.Sprintf("usaged_store_redis_errors_total{class=%q}", "timeout")
			eventually(t, "a timeout", func() error {
				if d.metric(failures) == 0 {
					return fmt.Errorf("none yet")
				}
				return nil
			})
			d.post(lines...)
			began := time.Now()
			d.signal(syscall.SIGTERM)
			code := d.wait()
			t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
			if code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			srv.Continue()
			d.start()
			d.waitForCounts(map[string]uint64{"ann": 1}, 301)
		})
	}
}
