package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/sqlite"
	"usaged/aggregator/store/storetest"
)

const day event.Day = 20_780 // 2026-11-23

func config(tb testing.TB, partitions int) sqlite.Config {
	return sqlite.Config{
		Path: filepath.Join(tb.TempDir(), "usage.db"), Partitions: partitions, Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
	}
}

// open opens a store and closes it when the test ends; a test may close it earlier.
func open(tb testing.TB, cfg sqlite.Config) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	var paths sync.Map // of the stores that are open
	openNew := func(t *testing.T, partitions int) store.Store {
		cfg := config(t, partitions)
		s := open(t, cfg)
		paths.Store(s, cfg)
		return s
	}
	reopen := func(t *testing.T, s store.Store) store.Store {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		cfg, _ := paths.Load(s)
		again := open(t, cfg.(sqlite.Config))
		paths.Store(again, cfg)
		return again
	}
	storetest.Run(t, openNew, storetest.Reopen(reopen), storetest.Parallel())
}

func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b *testing.B, partitions int) store.Store { return open(b, config(b, partitions)) })
}

// batch returns the batch from offset prev to prev+1, with n cells of 100 bytes.
func batch(prev uint64, n int) *store.Batch {
	cells := make(meter.Cells)
	for i := range n {
		cells[strings.Repeat("x", 90)+strconv.Itoa(1e9+i)] = 1
	}
	return &store.Batch{
		Producer: "p", Session: 1, Prev: prev, Last: prev + 1,
		Days: map[event.Day]*meter.DayDelta{day: {
			Types:   map[string]uint64{"t": uint64(n)},
			Rollups: map[meter.Rollup]meter.Cells{meter.TypeRollup("t"): cells},
		}},
	}
}

func mustApply(t *testing.T, s *sqlite.Store, b *store.Batch) {
	t.Helper()
	if out, err := s.Apply(t.Context(), b); err != nil || !out.Applied {
		t.Fatalf("Apply = %+v, %v", out, err)
	}
}

func count(t *testing.T, s *sqlite.Store) uint64 {
	t.Helper()
	types, err := s.Types(t.Context(), []event.Day{day})
	if err != nil {
		t.Fatal(err)
	}
	return types[0]["t"]
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		make func(t *testing.T, cfg *sqlite.Config)
		is   error
		says []string
	}{
		{"another number of partitions", func(t *testing.T, cfg *sqlite.Config) {
			open(t, *cfg).Close()
			cfg.Partitions = 16
		}, store.ErrIncompatible, []string{"has 1 partitions, not 16", "configure as many, or", "delete the file"}},
		{"a newer schema", func(t *testing.T, cfg *sqlite.Config) {
			open(t, *cfg).Close()
			execute(t, cfg.Path, "UPDATE meta SET value = '999' WHERE name = 'schema'")
		}, store.ErrIncompatible, []string{"999", "start the newer usaged, or", "delete the file"}},
		{"the database of another program", func(t *testing.T, cfg *sqlite.Config) {
			execute(t, cfg.Path, "CREATE TABLE address (street TEXT)")
		}, store.ErrIncompatible, []string{"another program"}},
		{"a file that is no database", func(t *testing.T, cfg *sqlite.Config) {
			write(t, cfg.Path, strings.Repeat("not a database\n", 1000))
		}, nil, []string{"not a database", "delete the file", "rebuilt from the journal"}},
		{"a directory that doesn't exist", func(t *testing.T, cfg *sqlite.Config) {
			cfg.Path = filepath.Join(cfg.Path, "no", "usage.db")
		}, nil, []string{"check that the directory exists"}},
		{"no path", func(t *testing.T, cfg *sqlite.Config) { cfg.Path = "" }, nil, []string{"no path"}},
		{"a negative number of partitions", func(t *testing.T, cfg *sqlite.Config) { cfg.Partitions = -1 }, nil, []string{"-1 partitions"}},
	}
	for _, test := range tests {
		t.Run("it refuses "+test.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, 1)
			test.make(t, &cfg)
			s, err := sqlite.Open(t.Context(), cfg)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q doesn't wrap %q", err, test.is)
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q doesn't say %q", err, part)
				}
			}
		})
	}
}

func TestOpenTakes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b.db", "50%.db", "%41.db", "what?.db", "a#b.db", "a&b=c.db", "é.db", "'.db"} {
		cfg := config(t, 1)
		cfg.Path = filepath.Join(filepath.Dir(cfg.Path), name)
		mustApply(t, open(t, cfg), batch(0, 1))
		if _, err := os.Stat(cfg.Path); err != nil {
			t.Errorf("path %q: %v", name, err)
		}
	}
	t.Run("it takes an empty file", func(t *testing.T) {
		cfg := config(t, 1)
		write(t, cfg.Path, "")
		mustApply(t, open(t, cfg), batch(0, 1))
	})
	t.Run("it takes a log that a killed process left behind", func(t *testing.T) {
		cfg, copied := config(t, 1), config(t, 1)
		s := open(t, cfg)
		mustApply(t, s, batch(0, 100))
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(cfg.Path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			write(t, copied.Path+suffix, string(data))
		}
		if got := count(t, open(t, copied)); got != 100 {
			t.Errorf("count = %d, want 100", got)
		}
	})
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, 1))
	mustApply(t, s, batch(0, 10))
	if err := s.LimitPages(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := s.Apply(t.Context(), batch(1, 5000))
		if err == nil || !strings.Contains(err.Error(), "full") {
			t.Fatalf("Apply on a full disk: %v", err)
		}
		if got := count(t, s); got != 10 {
			t.Fatalf("count = %d on a full disk, want 10 as before", got)
		}
	}
	if err := s.LimitPages(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, batch(1, 5000))
	if got := count(t, s); got != 5010 {
		t.Errorf("count = %d, want 5010", got)
	}
}

func TestDamagedFile(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	s := open(t, cfg)
	mustApply(t, s, batch(0, 5000))
	s.Close()
	data, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	half := len(data) / 2
	write(t, cfg.Path, string(data[:half])+strings.Repeat("\x55", len(data)-half))
	_, err = sqlite.Open(t.Context(), cfg)
	if !errors.Is(err, sqlite.ErrDamaged) || !strings.Contains(err.Error(), "delete the file") {
		t.Errorf("Open of a damaged file: %v, want an error that says what to do", err)
	}
}

// A byte of the file flips while the store is closed: either that is noticed, or nothing is answered otherwise than before.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	s := open(t, cfg)
	mustApply(t, s, batch(0, 50))
	want := contents(t, s)
	s.Close()
	data, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for at := 0; at < len(data); at++ {
		if at == 100 {
			at = 101
		}
		if at > 100 {
			at += 96
		}
		if at >= len(data) {
			break
		}
		flipped := []byte(string(data))
		flipped[at] ^= 1 << (at % 8)
		write(t, cfg.Path, string(flipped))
		s, err := sqlite.Open(t.Context(), cfg)
		if errors.Is(err, sqlite.ErrDamaged) {
			noticed++
			continue
		}
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if got := contents(t, s); got != want {
			t.Errorf("byte %d of %d flipped: %s, want %s", at, len(data), got, want)
		}
		s.Close()
	}
	if noticed == 0 {
		t.Error("nothing was noticed")
	}
}

// contents is what a store answers.
func contents(t *testing.T, s *sqlite.Store) string {
	t.Helper()
	var all strings.Builder
	err := s.Sum(t.Context(), meter.TypeRollup("t"), []event.Day{day}, func(key []byte, n uint64) { fmt.Fprintf(&all, "%s=%d ", key, n) })
	if err != nil {
		return err.Error()
	}
	types, err := s.Types(t.Context(), []event.Day{day})
	if err != nil {
		return err.Error()
	}
	producers, err := s.Producers(t.Context())
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(all.String(), types, producers)
}

// A database without room for checksums, as older versions made them, is used as it is.
func TestFileWithoutChecksums(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	execute(t, cfg.Path, "CREATE TABLE address (street TEXT); DROP TABLE address")
	for i := range uint64(2) {
		s := open(t, cfg)
		mustApply(t, s, batch(i, 50))
		if got := count(t, s); got != 50*(i+1) {
			t.Errorf("count = %d, want %d", got, 50*(i+1))
		}
		s.Close()
	}
}

// TestOtherWriter deletes a day behind the store's back, as a person with a shell might.
func TestOtherWriter(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	s := open(t, cfg)
	mustApply(t, s, batch(0, 3))
	execute(t, cfg.Path, "DELETE FROM cell; DELETE FROM rollup; DELETE FROM day_type; DELETE FROM day")
	mustApply(t, s, batch(1, 2))
	keys := 0
	if err := s.Sum(t.Context(), meter.TypeRollup("t"), []event.Day{day}, func([]byte, uint64) { keys++ }); err != nil {
		t.Fatal(err)
	}
	if got := count(t, s); got != 2 || keys != 2 {
		t.Errorf("%d events of %d users, want 2 of 2", got, keys)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, 4))
	for name, change := range map[string]func(b *store.Batch){
		"a partition that doesn't exist":           func(b *store.Batch) { b.Partition = 4 },
		"a negative partition":                     func(b *store.Batch) { b.Partition = -1 },
		"a batch that ends before it starts":       func(b *store.Batch) { b.Prev = 2 },
		"a batch that could be counted repeatedly": func(b *store.Batch) { b.Last = 0 },
	} {
		b := batch(0, 1)
		change(b)
		if out, err := s.Apply(t.Context(), b); err == nil || out.Applied {
			t.Errorf("%s: Apply = %+v, %v, want an error", name, out, err)
		}
	}
}

func TestExpireWalksThroughManyClaims(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, 2))
	s.LimitClaimStep(100)
	now := day.Time().Add(30 * time.Hour)
	claims := make([]store.Claim, 1000) // over several days, every second one old
	for i := range claims {
		age := time.Duration(i%2)*store.ClaimLifetime + time.Duration(i)*time.Minute
		claims[i] = store.Claim{Digest: store.DigestOf(store.ServiceIDs, nil, nil, []byte(strconv.Itoa(i))), AcceptedMillis: now.Add(-age).UnixMilli()}
	}
	for p := range 2 {
		mustApply(t, s, &store.Batch{Producer: "p", Partition: p, Last: 1, Claims: claims})
	}
	if err := s.Expire(t.Context(), day, now); err != nil {
		t.Fatal(err)
	}
	for p := range 2 {
		out, err := s.Apply(t.Context(), &store.Batch{Producer: "p", Partition: p, Prev: 1, Last: 2, Claims: claims})
		if err != nil || len(out.Taken) != len(claims)/2 || out.Taken[1] != 2 {
			t.Errorf("partition %d: %d claims are left, %v, want every second of %d", p, len(out.Taken), err, len(claims))
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	cfg.Metrics = vm.NewSet()
	s := open(t, cfg)
	mustApply(t, s, batch(0, 100))
	var text strings.Builder
	cfg.Metrics.WritePrometheus(&text)
	for name, help := range sqlite.Help() {
		if !strings.Contains(text.String(), name+" ") || help == "" {
			t.Errorf("metric %s with help %q is missing in\n%s", name, help, text.String())
		}
	}
	if strings.Contains(text.String(), "wal_bytes 0\n") {
		t.Errorf("the log has no size:\n%s", text.String())
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if names := cfg.Metrics.ListMetricNames(); len(names) != 0 {
		t.Errorf("metrics %q after Close", names)
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// shell opens the file as another program does.
func shell(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, path, script string) {
	t.Helper()
	if _, err := shell(t, path).Exec(script); err != nil {
		t.Fatal(err)
	}
}
