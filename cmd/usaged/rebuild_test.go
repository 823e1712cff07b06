package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// busyDays posts on every day from the first to the last, moving the clock of a running daemon from midnight to midnight.
// Every day has ids of the day before, an event dated to it, and a user of its own.
func busyDays(d *instance, first, last int) {
	d.tb.Helper()
	for day := first; day <= last; day++ {
		// 23 hours a day, so that yesterday's ids are duplicates without a doubt.
		now := time.Date(2026, 3, 1, 20, 0, 0, 0, time.UTC).Add(time.Duration(day-1) * 23 * time.Hour)
		d.clockAt(now)
		if d.run == nil {
			d.start()
		}
		eventually(d.tb, "the daemon's clock", func() error {
			if today := now.Format(time.DateOnly); d.daily(1)[today] == nil {
				return fmt.Errorf("it is not %s yet", today)
			}
			return nil
		})
		var lines []string
		for i := range day {
			lines = append(lines, fmt.Sprintf(`{"id":"%d","event_type":"sql_execution","user_id":"ann","metadata":{"rows":"%d"}}`, i, day))
		}
		lines = append(lines,
			fmt.Sprintf(`{"event_type":"day %d","user_id":"user of %d"}`, day%3, day),
			fmt.Sprintf(`{"event_type":"late","user_id":"bob","created_at":%q}`, now.AddDate(0, 0, -1).Format(time.RFC3339)))
		d.post(lines...)
		d.settle()
	}
}

// segments returns the indexes of the journal's segments.
func (d *instance) segments() []string {
	d.tb.Helper()
	entries, err := os.ReadDir(filepath.Join(d.dir, "journal"))
	if err != nil {
		d.tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) == 8 && strings.Trim(e.Name(), "0123456789") == "" {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestDatabaseDeleted deletes the database when the oldest segments have been retired, and expects every figure back.
func TestDatabaseDeleted(t *testing.T) {
	t.Parallel()
	const retention = 2
	d := newInstance(t, fmt.Sprintf("--retention.days=%d", retention))
	busyDays(d, 1, 4)
	d.stop()
	busyDays(d, 5, 12) // across a restart
	before := d.segments()
	if slices.Contains(before, "00000000") {
		t.Fatalf("segments %q: none was retired", before)
	}
	if checkpoints, err := filepath.Glob(filepath.Join(d.dir, "checkpoints", "*.json")); err != nil || len(checkpoints) == 0 {
		t.Fatalf("checkpoints %q, %v; want some", checkpoints, err)
	}
	want := d.figures(retention)
	if want.Ledger.All.Duplicates == 0 || want.Ledger.Types["sql_execution"].Counted == 0 {
		t.Fatalf("ledger %+v: nothing to lose", want.Ledger)
	}
	for _, tc := range []struct {
		name string
		stop func()
		drop func()
	}{
		{"it rebuilds after a stop", d.stop, d.dropDatabase},
		{"it rebuilds after SIGKILL", d.kill, d.dropDatabase},
		{"it rebuilds without the high-water marks", d.stop, func() {
			d.dropDatabase()
			if err := os.Remove(filepath.Join(d.dir, "counters.json")); err != nil {
				t.Fatal(err)
			}
		}},
		{"it keeps everything where nothing is lost", d.kill, func() {}},
	} {
		tc.stop()
		tc.drop()
		d.start()
		same(t, tc.name, d.figures(retention), want)
	}
	d.post(`{"event_type":"late","user_id":"bob"}`, `{"id":"0","event_type":"sql_execution","user_id":"ann"}`)
	after := d.settle().All
	if after.Counted != want.Ledger.All.Counted+1 || after.Duplicates != want.Ledger.All.Duplicates+1 {
		t.Errorf("ledger after another event and a duplicate %+v, before %+v", after, want.Ledger.All)
	}
}

// TestDatabaseDeletedWhileRebuilding kills the daemon again and again in its rebuild.
func TestDatabaseDeletedWhileRebuilding(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	for batch := range 40 {
		var lines []string
		for i := range 500 {
			lines = append(lines, fmt.Sprintf(`{"id":"%d","event_type":"type %d","user_id":"user %d"}`, i/2, i/2%5, batch))
		}
		d.post(lines...)
	}
	want := d.figures(7)
	if got := want.Ledger.All; got.Counted != 40*250 || got.Duplicates != 40*250 {
		t.Fatalf("ledger %+v, want half of %d counted and half duplicates", got, 40*500)
	}
	d.kill()
	d.dropDatabase()
	for i := range 4 {
		d.launch()
		eventually(t, "a new database", func() error {
			_, err := os.Stat(filepath.Join(d.dir, "usage.db"))
			return err
		})
		pass(time.Duration(i) * 20 * time.Millisecond)
		d.kill()
	}
	d.start()
	same(t, "after the rebuild", d.figures(7), want)
}
