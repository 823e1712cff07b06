package redis_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis/redistest"
)

// slotOf is the slot that Redis Cluster gives to a key: the CRC16 of what stands in its first pair of braces.
func slotOf(key string) int {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			key = key[open+1 : open+1+n]
		}
	}
	crc := uint16(0)
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % 16384)
}

// hostile draws names that try to break keys.
func hostile(max int) *rapid.Generator[string] {
	pieces := []string{
		"{", "}", "{}", "{p0}", "{p1}", "{evil}", ":", "::", "type:", "meter:", "day:2026-11-23:", "usage:", "usage:meta", "\n", "\r\n", "\x00", " ",
		"%", "%7B", "%25", "*", "?", "[a]", "\\", "'", `"`, "é", "🦊", "\xff", "\xc3\x28", "a", "A", "user", "ref", "types", "version", strings.Repeat("x", 256),
	}
	return rapid.Custom(func(t *rapid.T) string {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5).Draw(t, "pieces"), "")
		return text[:min(len(text), max)]
	})
}

// TestHostileNames checks that no name chooses a slot, that each rollup and producer has a key of its own, and that all
// keys can be read in a terminal.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	const partitions = 16
	s := openClosed(t, config(t, srv.URL(), partitions))
	today := event.DayOf(time.Now())
	rapid.Check(t, func(rt *rapid.T) {
		srv.Do("FLUSHALL")
		b := &store.Batch{
			Producer:  hostile(256).Draw(rt, "producer"),
			Partition: rapid.IntRange(0, partitions-1).Draw(rt, "partition"),
			Session:   1, Last: 1,
			Days:   map[event.Day]*meter.DayDelta{today: {Types: map[string]uint64{}, Rollups: map[meter.Rollup]meter.Cells{}}},
			Totals: meter.Totals{},
		}
		delta := b.Days[today]
		add := func(r meter.Rollup, key string) { delta.Rollups[r] = meter.Cells{key: 1} }
		for range rapid.IntRange(1, 5).Draw(rt, "rollups") {
			name, user := hostile(128).Draw(rt, "name"), hostile(256).Draw(rt, "user")
			delta.Types[name] = 1
			add(meter.TypeRollup(name), user)
			if name != "" {
				add(meter.MeterRollup(name, meter.ByUser), user)
				add(meter.MeterRollup(name, meter.ByReference), user)
			}
			b.Totals[meter.Series{Family: name, A: user, B: name}] = 7
		}
		b.Claims = []store.Claim{{Digest: store.DigestOf(store.ServiceIDs, []byte("u"), nil, []byte(b.Producer)), AcceptedMillis: time.Now().UnixMilli()}}
		if out, err := s.Apply(rt.Context(), b); err != nil || !out.Applied {
			rt.Fatalf("Apply = %+v, %v", out, err)
		}
		prefix := fmt.Sprintf("usage:{p%d}:", b.Partition)
		all := keys(srv)
		rollups := 0
		for _, key := range all {
			if key == "usage:meta" {
				continue
			}
			if slotOf(key) != slotOf(prefix) || !strings.HasPrefix(key, prefix) {
				rt.Errorf("key %q is in slot %d, those of partition %d are in %d", key, slotOf(key), b.Partition, slotOf(prefix))
			}
			if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
				rt.Errorf("key %q cannot be read", key)
			}
			if strings.Contains(key, ":type:") || strings.Contains(key, ":meter:") {
				rollups++
			}
		}
		if rollups != len(delta.Rollups) {
			rt.Errorf("%d rollups have %d keys: %q", len(delta.Rollups), rollups, all)
		}
		for r, cells := range delta.Rollups {
			got := meter.Cells{}
			if err := s.Sum(rt.Context(), r, []event.Day{today}, func(key []byte, n uint64) { got[string(key)] = n }); err != nil {
				rt.Fatal(err)
			}
			if !maps.Equal(got, cells) {
				rt.Errorf("Sum(%q) = %v, want %v", r, got, cells)
			}
		}
		if producers, err := s.Producers(rt.Context()); err != nil || len(producers) != 1 || producers[0].ID != b.Producer || !maps.Equal(producers[0].Totals, b.Totals) {
			rt.Errorf("Producers = %+v, %v, want %q with %v", producers, err, b.Producer, b.Totals)
		}
	})
}

// TestExpiry checks the expiry of every key.
func TestExpiry(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	cfg := config(t, srv.URL(), 1)
	cfg.Retention = 30
	s := openClosed(t, cfg)
	b := batch(0, 1)
	now := time.Now()
	today := event.DayOf(now)
	b.Days[today-29] = b.Days[today]
	b.Claims = append(b.Claims, store.Claim{AcceptedMillis: now.Add(-24 * time.Hour).UnixMilli()})
	// More types than there is room for, so that __other__ is written as well.
	b.Days[today-29] = &meter.DayDelta{Types: map[string]uint64{}, Rollups: map[meter.Rollup]meter.Cells{}}
	for i := range store.MaxTypesPerDay + 1 {
		name := fmt.Sprint("type", i)
		b.Days[today-29].Types[name] = 1
		b.Days[today-29].Rollups[meter.TypeRollup(name)] = meter.Cells{"u": 1}
	}
	mustApply(t, s, b)
	mustApply(t, s, batch(1, 2))

	kinds := map[string]int{}
	for _, key := range keys(srv) {
		parts := append(strings.Split(key, ":"), "")
		want := int64(-1)
		if len(parts) > 4 && (parts[2] == "day" || parts[2] == "ids") {
			day, err := event.ParseDay(parts[3])
			if err != nil {
				t.Fatal(err)
			}
			switch parts[2] {
			case "day": // a day after it has left the window, whose last day is 29 days later
				want = (day + 29 + 1 + 1).Time().Unix()
			case "ids": // 72 h after the last acceptance
				want = (day + 1).Time().Add(72 * time.Hour).Unix()
			}
		}
		kinds[parts[2]]++
		if got, err := strconv.ParseInt(srv.Do("EXPIRETIME", key), 10, 64); err != nil || got != want {
			t.Errorf("%s expires at %d, want %d", key, got, want)
		}
	}
	if want := (map[string]int{"": 1, "day": 5 + 2 + store.MaxTypesPerDay + 1, "ids": 4, "producer": 1, "producers": 1}); !maps.Equal(kinds, want) {
		t.Errorf("keys by kind = %v, want %v", kinds, want)
	}
}

// TestExpiredDay applies a batch for a day whose keys expire at once.
func TestExpiredDay(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	cfg := config(t, srv.URL(), 1)
	cfg.Retention = 1
	s := openClosed(t, cfg)
	b := batch(0, 1)
	today := event.DayOf(time.Now())
	b.Days = map[event.Day]*meter.DayDelta{today - 10: b.Days[today], -5: b.Days[today]}
	mustApply(t, s, b)
	if p, err := s.Producer(t.Context(), 0, "p"); err != nil || p.Offset != 1 || len(p.Totals) != 1 {
		t.Errorf("Producer = %+v, %v", p, err)
	}
	versions, err := s.Versions(t.Context(), []event.Day{today - 10})
	if err != nil || !slices.Equal(versions, []string{""}) {
		t.Errorf("versions = %q, %v, want none", versions, err)
	}
}
