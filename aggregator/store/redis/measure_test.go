package redis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis/redistest"
)

// grown returns by how much the data has grown that fill has written. The memory of connections and scripts is left out.
func grown(tb testing.TB, srv *redistest.Server, fill func(s store.Store)) float64 {
	tb.Helper()
	srv.Do("FLUSHALL")
	used := func(fill func(s store.Store)) float64 {
		s := open(tb, config(tb, srv.URL(), 1))
		fill(s)
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
		srv.WaitFor("connected_clients:1\r", "INFO", "clients")
		srv.Do("SCRIPT", "FLUSH", "SYNC")
		return infoNumber(tb, srv, "memory", "used_memory_dataset:")
	}
	before := used(func(s store.Store) { mustApply(tb, s, &store.Batch{Producer: "p", Session: 1, Last: 1}) })
	return used(fill) - before
}

func infoNumber(tb testing.TB, srv *redistest.Server, section, field string) float64 {
	tb.Helper()
	_, rest, _ := strings.Cut(srv.Do("INFO", section), field)
	end := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	n, err := strconv.ParseFloat(rest[:max(end, 0)], 64)
	if err != nil {
		tb.Fatalf("INFO %s has no %s", section, field)
	}
	return n
}

// blocked returns for how long scripts have blocked Redis, in milliseconds.
func blocked(tb testing.TB, srv *redistest.Server) float64 {
	tb.Helper()
	for line := range strings.SplitSeq(srv.Do("INFO", "commandstats"), "\r\n") {
		if _, rest, ok := strings.Cut(line, "cmdstat_evalsha:"); ok {
			_, rest, _ = strings.Cut(rest, "usec=")
			usec, _, _ := strings.Cut(rest, ",")
			n, err := strconv.ParseFloat(usec, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n / 1000
		}
	}
	tb.Fatal("no script has run")
	return 0
}

func userName(i int) string { return fmt.Sprintf("user-%06d@example.com", i) }

// usersBatch returns a batch with one event of each of n users out of of, chosen at random.
func usersBatch(offset uint64, n, of int) *store.Batch {
	cells := make(meter.Cells, n)
	for _, i := range rand.Perm(of)[:n] {
		cells[userName(i)] = 1 + rand.Uint64N(20)
	}
	return &store.Batch{Producer: "p", Session: 1, Prev: offset, Last: offset + 1, Days: map[event.Day]*meter.DayDelta{
		event.DayOf(time.Now()): {Types: map[string]uint64{"t": 1}, Rollups: map[meter.Rollup]meter.Cells{meter.TypeRollup("t"): cells}},
	}}
}

// claimsBatch returns a batch with n claims.
func claimsBatch(offset uint64, n int) *store.Batch {
	now := time.Now().UnixMilli()
	b := &store.Batch{Producer: "p", Session: 1, Prev: offset, Last: offset + 1}
	for i := range n {
		b.Claims = append(b.Claims, store.Claim{Digest: store.DigestOf(store.ServiceIDs, nil, nil, fmt.Append(nil, offset, i)), AcceptedMillis: now + int64(i)})
	}
	return b
}

// TestMemory measures what a (day, type, user) and an id take. The bounds are those that the operator's page names.
func TestMemory(t *testing.T) { // not in parallel, since millions of ids are much work
	srv := redistest.Start(t)
	// The first use of each command makes Redis allocate statistics.
	grown(t, srv, func(s store.Store) {
		mustApply(t, s, usersBatch(1, 1_000, 1_000))
		mustApply(t, s, claimsBatch(2, 100))
	})
	for _, tt := range []struct {
		users  int
		atMost float64
	}{{1_000, 150}, {10_000, 150}, {100_000, 135}} {
		pair := grown(t, srv, func(s store.Store) { mustApply(t, s, usersBatch(1, tt.users, tt.users)) }) / float64(tt.users)
		t.Logf("%7d users: %.1f bytes for each, whose name has %d", tt.users, pair, len(userName(0)))
		// What Redis says goes up and down by the buffers of connections.
		if pair > tt.atMost+float64(32<<10)/float64(tt.users) {
			t.Errorf("%d users take %.1f bytes each, want at most %.0f", tt.users, pair, tt.atMost)
		}
	}
	sizes := []int{1_000, 10_000, 100_000}
	if full {
		sizes = append(sizes, 1_000_000, 5_000_000)
	}
	const step = 50_000
	for _, n := range sizes {
		each := grown(t, srv, func(s store.Store) {
			for done := 0; done < n; done += step {
				mustApply(t, s, claimsBatch(uint64(1+done/step), min(step, n-done)))
			}
		}) / float64(n)
		t.Logf("%7d ids: %.1f bytes for each", n, each)
		if n >= 1_000_000 && each > 35 {
			t.Errorf("%d ids take %.1f bytes each, want at most 35", n, each)
		}
	}
}

// BenchmarkBlocking measures how long one call keeps Redis from doing anything else.
func BenchmarkBlocking(b *testing.B) {
	srv := redistest.Start(b)
	s := openClosed(b, config(b, srv.URL(), 1))
	run := func(name string, n int, fill func() uint64, make func(offset uint64) *store.Batch) {
		b.Run(name, func(b *testing.B) {
			srv.Do("FLUSHALL")
			mustApply(b, s, &store.Batch{Producer: "p", Session: 1, Last: 1})
			offset := fill()
			srv.Do("CONFIG", "RESETSTAT")
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				batch := make(offset)
				b.StartTimer()
				if out, err := s.Apply(context.Background(), batch); err != nil || !out.Applied {
					b.Fatalf("Apply = %+v, %v", out, err)
				}
				offset++
			}
			total := blocked(b, srv)
			b.ReportMetric(total/float64(b.N), "ms-blocked/op")
			b.ReportMetric(1000*total/float64(b.N)/float64(n), "µs-blocked/item")
		})
	}
	for _, users := range []int{10_000, 100_000} {
		for _, cells := range []int{1_000, 5_000, 20_000, 50_000} {
			if cells > users {
				continue
			}
			run(fmt.Sprintf("users=%d/cells=%d", users, cells), cells, func() uint64 {
				mustApply(b, s, usersBatch(1, users, users))
				return 2
			}, func(offset uint64) *store.Batch { return usersBatch(offset, cells, users) })
		}
	}
	for _, claims := range []int{100, 1_000, 10_000} {
		run(fmt.Sprintf("claims=%d", claims), claims, func() uint64 { return 1 }, func(offset uint64) *store.Batch { return claimsBatch(offset, claims) })
	}
}
