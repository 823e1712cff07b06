package redis_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// keeping opens a store that keeps days for so long.
func keeping(t *testing.T, srv *redistest.Server, days int) *redis.Store {
	t.Helper()
	s, err := redis.Open(t.Context(), redis.Config{URL: srv.URL(), Partitions: 1, Retention: days})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wantKept checks that all keys of today expire together, a day after so many days.
func wantKept(t *testing.T, srv *redistest.Server, when string, days int) {
	t.Helper()
	today := event.DayOf(time.Now())
	want := strconv.FormatInt((today + event.Day(days) + 1).Time().Unix(), 10)
	found := 0
	for _, key := range keys(srv) {
		if !strings.Contains(key, ":day:"+today.String()) {
			continue
		}
		found++
		if at := srv.Do("EXPIRETIME", key); at != want {
			t.Errorf("%s: %s expires at %s, want %s, after %d days", when, key, at, want, days)
		}
	}
	if found < 5 {
		t.Fatalf("%s: only %d keys are there", when, found)
	}
}

var queries = []meter.Rollup{meter.MeterRollup("queries", meter.ByUser), references}

// TestRetentionOfDays lowers and raises the retention of one store, and of two that share a Redis.
func TestRetentionOfDays(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	today := event.DayOf(time.Now())
	two := keeping(t, srv, 2)
	mustApply(t, two, batch(0, 1))
	wantKept(t, srv, "written by who keeps 2 days", 2)

	thirty := keeping(t, srv, 30)
	removed, err := thirty.Extend(t.Context(), []event.Day{today - 1, today, today + 1}, queries)
	if err != nil || removed != 0 {
		t.Errorf("Extend = %d, %v", removed, err)
	}
	wantKept(t, srv, "extended by who keeps 30 days", 30)

	mustApply(t, two, batch(1, 2))
	other := batch(2, 3)
	other.Days[today].Types = map[string]uint64{"new": 1}
	other.Days[today].Rollups = map[meter.Rollup]meter.Cells{meter.TypeRollup("new"): {"u": 1}}
	mustApply(t, two, other)
	wantKept(t, srv, "written again by who keeps 2 days", 30)
	if _, err := two.Extend(t.Context(), []event.Day{today}, queries); err != nil {
		t.Error(err)
	}
	wantKept(t, srv, "extended by who keeps 2 days", 30)
	mustApply(t, keeping(t, srv, 31), batch(3, 4))
	if _, err := thirty.Extend(t.Context(), []event.Day{today}, queries); err != nil {
		t.Error(err)
	}
	wantKept(t, srv, "extended after who keeps 31 days has written some keys", 31)
}

// TestTornDay loses the users of a type, as where they expired before the count: then the count goes too, under a new version.
func TestTornDay(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	today := event.DayOf(time.Now())
	s := keeping(t, srv, 30)
	b := batch(0, 1)
	b.Days[today].Types["kept"] = 2
	b.Days[today].Rollups[meter.TypeRollup("kept")] = meter.Cells{"u": 2}
	mustApply(t, s, b)
	before, err := s.Versions(t.Context(), []event.Day{today})
	if err != nil {
		t.Fatal(err)
	}
	srv.Do("DEL", "usage:{p0}:day:"+today.String()+":type:t")
	if removed, err := s.Extend(t.Context(), []event.Day{today}, queries); err != nil || removed != 1 {
		t.Errorf("Extend = %d, %v; want 1 removed", removed, err)
	}
	types, err := s.Types(t.Context(), []event.Day{today})
	if err != nil || len(types[0]) != 1 || types[0]["kept"] != 2 {
		t.Errorf("types %v, %v; want those that have users", types, err)
	}
	if after, err := s.Versions(t.Context(), []event.Day{today}); err != nil || after[0] == before[0] {
		t.Errorf("the version is still %v, %v", after, err)
	}
	wantKept(t, srv, "after it", 30)
}
