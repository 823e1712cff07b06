package rollup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

// cachedReader is a reader whose cache has a file.
func cachedReader(st store.Store, path string, set *metrics.Set) *rollup.Reader {
	return rollup.NewReader(rollup.Config{
		Store: st, Meters: meter.Builtin, Retention: 30, CacheFile: path, Now: func() time.Time { return noon }, Metrics: set,
	})
}

// stop ends a reader as a daemon does that stops: it has read what it wants to, and saves.
func stop(t testing.TB, r *rollup.Reader) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Warm(ctx)
}

func summaryOf(t testing.TB, r *rollup.Reader, days int) []rollup.TypeUsers {
	t.Helper()
	got, err := r.Summary(t.Context(), r.Window(days), rollup.SummaryQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func cacheErrors(set *metrics.Set) uint64 {
	return set.GetOrCreateCounter("usaged_reader_cache_errors_total").Get()
}

// fillDays gives each of the last days some events of two types.
func fillDays(t testing.TB, f *filler, days int) {
	t.Helper()
	for back := range event.Day(days) {
		f.add(t, event.DayOf(noon)-back, meter.TypeRollup("chat"), meter.Cells{"ann": uint64(back + 1), "bob": 300})
		f.add(t, event.DayOf(noon)-back, meter.TypeRollup("sql_execution"), meter.Cells{"ann": 1 << 40, "cy": 0})
	}
}

// savedDays returns a store, and the file of a reader that has read it.
func savedDays(t testing.TB) (st *counting, f *filler, path string) {
	t.Helper()
	st, path = &counting{Memory: storetest.NewMemory(1)}, filepath.Join(t.TempDir(), "days.cache")
	f = &filler{st: st}
	fillDays(t, f, 10)
	stop(t, cachedReader(st, path, nil))
	return st, f, path
}

func TestDaysSurviveARestart(t *testing.T) {
	st, f, path := savedDays(t)
	want := summaryOf(t, newReader(st), 10)
	read := func(name string, sums int64) {
		t.Helper()
		before := st.sums.Load()
		if diff := cmp.Diff(want, summaryOf(t, cachedReader(st, path, nil), 10)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if n := st.sums.Load() - before; n != sums {
			t.Errorf("%s: the store was read %d times, want %d", name, n, sums)
		}
	}
	read("nothing has changed", 0)
	f.add(t, event.DayOf(noon)-5, meter.TypeRollup("chat"), meter.Cells{"dee": 7})
	want = summaryOf(t, newReader(st), 10)
	read("a late event", 2) // both types of that day
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	read("the file is gone", 2) // one per type, over all days
}

// Whatever becomes of the store, and whenever the reader starts again, an answer is what the store holds.
func TestSavedDaysAreNeverStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "days.cache")
	rapid.Check(t, func(rt *rapid.T) {
		_ = os.Remove(path)
		st := &rolledBack{inner: storetest.NewMemory(1), saved: storetest.NewMemory(1)}
		today, r := event.DayOf(noon), cachedReader(st, path, nil)
		draw := func() (add func()) {
			day := today - event.Day(rapid.IntRange(0, 5).Draw(rt, "day"))
			typ := meter.TypeRollup(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "type"))
			user := rapid.SampledFrom([]string{"ann", "bob", "cy"}).Draw(rt, "user")
			return func() { st.add(t, day, typ, meter.Cells{user: 1}) }
		}
		rt.Repeat(map[string]func(*rapid.T){
			"event":    func(*rapid.T) { draw()() },
			"snapshot": func(*rapid.T) { st.save() },
			"restore":  func(*rapid.T) { st.restore() },
			"event that is lost after a read": func(*rapid.T) {
				add := draw()
				add() // so that there is something to read
				st.save()
				st.during = add
				if rapid.Bool().Draw(rt, "restart") {
					stop(t, r)
					r = cachedReader(st, path, nil)
				} else {
					summaryOf(t, r, 7)
				}
				st.restore()
			},
			"wipe":    func(*rapid.T) { st.inner, st.offset = storetest.NewMemory(1), 0 },
			"restart": func(*rapid.T) { stop(t, r); r = cachedReader(st, path, nil) },
			"kill":    func(*rapid.T) { r = cachedReader(st, path, nil) },
			"read":    func(*rapid.T) { summaryOf(t, r, rapid.IntRange(1, 7).Draw(rt, "days")) },
			"": func(rt *rapid.T) {
				if diff := cmp.Diff(summaryOf(t, newReader(st), 7), summaryOf(t, r, 7)); diff != "" {
					rt.Fatalf("-store +answer: %s", diff)
				}
			},
		})
	})
}

// rolledBack is a store that is put back to earlier states, and in which something may happen while it is read.
type rolledBack struct {
	store.Store // read through inner
	inner       *storetest.Memory
	offset      uint64
	saved       *storetest.Memory
	savedOffset uint64

	mu     sync.Mutex
	during func() // what happens at the next read
}

func (s *rolledBack) save() { s.saved, s.savedOffset = s.inner.Clone(), s.offset }

func (s *rolledBack) restore() {
	s.inner, s.offset, s.during = s.saved.Clone(), s.savedOffset, nil
}

func (s *rolledBack) add(t testing.TB, day event.Day, r meter.Rollup, cells meter.Cells) {
	f := &filler{st: s.inner, offset: s.offset}
	f.add(t, day, r, cells)
	s.offset = f.offset
}

func (s *rolledBack) Versions(ctx context.Context, days []event.Day) ([]string, error) {
	return s.inner.Versions(ctx, days)
}

func (s *rolledBack) Types(ctx context.Context, days []event.Day) ([]map[string]uint64, error) {
	return s.inner.Types(ctx, days)
}

func (s *rolledBack) Sum(ctx context.Context, r meter.Rollup, days []event.Day, yield func([]byte, uint64)) error {
	s.mu.Lock()
	if during := s.during; during != nil {
		s.during = nil
		during()
	}
	s.mu.Unlock()
	return s.inner.Sum(ctx, r, days, yield)
}

// A file that is damaged anywhere is as good as none, and the next one is whole again.
func TestDamagedCacheFile(t *testing.T) {
	st, _, path := savedDays(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := summaryOf(t, newReader(st), 10)
	damaged := map[string][]byte{"empty": {}, "longer": append(bytes.Clone(whole), 0), "of another version": checked([]byte("usaged days 2\n\x00\x00"))}
	for at := range whole {
		damaged[fmt.Sprintf("cut at %d", at)] = whole[:at]
		flipped := bytes.Clone(whole)
		flipped[at] ^= 0x40
		damaged[fmt.Sprintf("another byte at %d", at)] = flipped
	}
	for name, data := range damaged {
		if err := os.WriteFile(path, data, 0o640); err != nil {
			t.Fatal(err)
		}
		set := metrics.NewSet()
		if diff := cmp.Diff(want, summaryOf(t, cachedReader(st, path, set), 10)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if n := cacheErrors(set); n != 1 {
			t.Errorf("%s: %d errors counted, want 1", name, n)
		}
	}
	stop(t, cachedReader(st, path, nil))
	set, before := metrics.NewSet(), st.sums.Load()
	summaryOf(t, cachedReader(st, path, set), 10)
	if n := st.sums.Load() - before; n != 0 || cacheErrors(set) != 0 {
		t.Errorf("after the next stop: %d reads, %d errors, want none", n, cacheErrors(set))
	}
}

// A file that cannot be written costs nothing but a line in the log and a count.
func TestCacheFileCannotBeWritten(t *testing.T) {
	st := &counting{Memory: storetest.NewMemory(1)}
	fillDays(t, &filler{st: st}, 10)
	path := filepath.Join(t.TempDir(), "absent", "days.cache")
	set := metrics.NewSet()
	r := cachedReader(st, path, set)
	stop(t, r)
	if diff := cmp.Diff(summaryOf(t, newReader(st), 10), summaryOf(t, r, 10)); diff != "" {
		t.Error(diff)
	}
	if n := cacheErrors(set); n == 0 {
		t.Error("no error was counted")
	}
}

// checked appends its checksum to the content of a file.
func checked(data []byte) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(data), crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// sameVersions is a store whose days have versions that a fuzzer finds.
type sameVersions struct{ *storetest.Memory }

func (sameVersions) Versions(_ context.Context, days []event.Day) ([]string, error) {
	versions := make([]string, len(days))
	for i := range versions {
		versions[i] = "v"
	}
	return versions, nil
}

// Any content with a right checksum is either used, and what is saved of it means the same, or refused.
func FuzzCacheFile(f *testing.F) {
	dir := f.TempDir()
	st := sameVersions{storetest.NewMemory(1)}
	fillDays(f, &filler{st: st}, 3)
	path := filepath.Join(dir, "days.cache")
	stop(f, cachedReader(st, path, nil))
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:len(whole)-crc32.Size])
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "days.cache")
		if err := os.WriteFile(path, checked(data), 0o640); err != nil {
			t.Fatal(err)
		}
		first := cachedReader(st, path, nil)
		want := summaryOf(t, first, 7)
		stop(t, first)
		set := metrics.NewSet()
		if diff := cmp.Diff(want, summaryOf(t, cachedReader(st, path, set), 7)); diff != "" {
			t.Error(diff)
		}
		if cacheErrors(set) != 0 {
			t.Error("what was saved is refused")
		}
	})
}

// BenchmarkStart is a new reader that answers with what its file has: 30 days of five types and 10,000 users.
func BenchmarkStart(b *testing.B) {
	st, path := busyMonth(b), filepath.Join(b.TempDir(), "days.cache")
	stop(b, cachedReader(st, path, nil))
	b.ReportAllocs()
	for b.Loop() {
		r := cachedReader(st, path, nil)
		got, err := r.Summary(b.Context(), r.Window(30), rollup.SummaryQuery{})
		if err != nil || len(got) != 5 || len(got[0].Users) != 10_000 {
			b.Fatal(len(got), err)
		}
	}
}
