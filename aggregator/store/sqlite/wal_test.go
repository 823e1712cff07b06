package sqlite_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

func TestCloseLeavesOneFile(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	s := open(t, cfg)
	mustApply(t, s, batch(0, 10))
	count(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(cfg.Path + "*")
	if err != nil || len(left) != 1 {
		t.Errorf("Close leaves %q, %v, want the database alone", left, err)
	}
}

// TestLogIsBounded applies batches while readers overlap, so that there is always one.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 128 << 10
	cfg := config(t, 1)
	s := open(t, cfg)
	s.LimitWAL(limit)
	mustApply(t, s, batch(0, 200))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := s.Sum(t.Context(), meter.TypeRollup("t"), []event.Day{day}, func([]byte, uint64) {}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	largest := int64(0)
	for i := range uint64(50) {
		mustApply(t, s, batch(i+1, 200))
		if info, err := os.Stat(cfg.Path + "-wal"); err == nil {
			largest = max(largest, info.Size())
		}
	}
	close(done)
	readers.Wait()
	if largest > 2*limit {
		t.Errorf("the log grew to %d bytes, want at most %d", largest, 2*limit)
	}
}

// TestLogHeldByReader keeps a transaction of another process open: the log cannot be emptied, and no batch may fail.
func TestLogHeldByReader(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	cfg.Metrics = vm.NewSet()
	s := open(t, cfg)
	mustApply(t, s, batch(0, 10))
	other := shell(t, cfg.Path)
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM cell").Scan(&n); err != nil {
		t.Fatal(err)
	}
	s.ShortenWaits(t.Context())
	s.LimitWAL(100 << 10)
	for i := range uint64(20) {
		mustApply(t, s, batch(i+1, 100))
	}
	if got := cfg.Metrics.GetOrCreateCounter("usaged_store_sqlite_wal_busy_total").Get(); got == 0 || got > 5 {
		t.Errorf("%d vain attempts, want some but not one per batch", got)
	}
}
