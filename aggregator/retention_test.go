package aggregator_test

import (
	"encoding/base64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
)

// noise is text that doesn't compress.
func noise(rnd *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return base64.StdEncoding.EncodeToString(b)
}

func segments(t *testing.T, dir string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "journal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestJournalIsKeptThreeDaysLongerThanRollups(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.cfg.Retention = 2
		d.close()
		d.open()
		before := segments(t, dir)
		for range 12 {
			d.accept(l, sent{UserID: "ann", Type: "chat"})
			time.Sleep(24 * time.Hour)
			settle()
		}
		// One segment a day: those of the last two days and of three more, and the ones that are being begun and ended.
		if got := segments(t, dir); got < 5 || got > 7+before {
			t.Errorf("%d segments are kept, want those of 5 days", got)
		}
		if names, err := os.ReadDir(filepath.Join(dir, "checkpoints")); err != nil || len(names) > 7 {
			t.Errorf("%d checkpoints are kept, %v", len(names), err)
		}
		if acc, err := d.agg.Ledger(t.Context()); err != nil || acc.All.Accepted != 12 || acc.All.Counted != 12 {
			t.Errorf("accounts %+v, %v", acc, err)
		}
		today := event.DayOf(time.Now())
		if got := counts(t, st, today-30, today-5); len(got) != 0 {
			t.Errorf("rollups beyond the retention and three days: %v", got)
		}
		d.close()
	})
}

func TestRetentionSizeEndsSegmentsEarly(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(1), newLedger()
		d := openDaemon(t, dir, st)
		d.cfg.RetentionBytes, d.cfg.Metrics = 200<<10, metrics.NewSet()
		d.close()
		d.open()
		rnd := rand.New(rand.NewPCG(1, 2))
		st.fail(0, 0, 0) // what is not applied is not deleted, whatever the limit says
		for range 100 {
			d.accept(l, sent{UserID: "ann", Type: "chat", Metadata: map[string]string{"x": noise(rnd, 6000)}})
		}
		time.Sleep(5 * time.Minute)
		if got := segments(t, dir); got < 10 {
			t.Errorf("%d segments are kept while nothing is applied", got)
		}
		st.fail(0, 0, -1)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := segments(t, dir); got > 5 {
			t.Errorf("%d segments are kept, want those that fit into 200 KiB", got)
		}
		if early := d.cfg.Metrics.GetOrCreateGauge("usaged_journal_retired_early", nil).Get(); early != 1 {
			t.Error("the warning metric is not set")
		}
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
		d.cfg.Metrics = nil // one set per opening
		d.open()            // and the accounts survive without those segments
		settle()
		if wrong := difference(t, l, st, d); wrong != "" {
			t.Error(wrong)
		}
		d.close()
	})
}
