package main

import (
	"fmt"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// testStore is what the daemons of a test count into.
type testStore struct {
	redis *redistest.Server // nil: each has its embedded database
}

// onEachStore runs a test on the embedded database and on Redis.
func onEachStore(t *testing.T, test func(t *testing.T, s testStore)) {
	t.Helper()
	t.Parallel()
	t.Run("store=sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, testStore{})
	})
	t.Run("store=redis", func(t *testing.T) {
		t.Parallel()
		test(t, testStore{redistest.Start(t)})
	})
}

// instance returns a daemon that is not started yet.
func (s testStore) instance(t testing.TB, args ...string) *instance {
	t.Helper()
	if s.redis == nil {
		return newInstance(t, args...)
	}
	d := newRedisInstance(t, s.redis.URL(), args...)
	d.drop = func() { s.redis.Do("FLUSHALL") }
	return d
}

// retention is the flag that keeps the days before a time at which the daemon's clock stands. Redis lets rollups expire by
// its own clock, which tests cannot move.
func (s testStore) retention(days int, now time.Time) string {
	if s.redis != nil {
		days += int(time.Since(now)/(24*time.Hour)) + 1
	}
	return fmt.Sprintf("--retention.days=%d", days)
}
