package aggregator_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"usaged/aggregator/event"
)

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// A data directory is copied while it is closed, and both copies go on: nothing of either is lost or counted twice.
func TestCopiedDataDirectory(t *testing.T) {
	base := memoryDir(t)
	a, b := filepath.Join(base, "a"), filepath.Join(base, "b")
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(4), newLedger()
		users := []sent{{UserID: "ann", Type: "chat"}, {UserID: "bob", Type: "chat"}, {UserID: "cy", Type: "chat"}, {UserID: "dee", Type: "chat"}}
		da := openDaemon(t, a, st)
		da.accept(l, users...)
		settle()
		da.close()
		copyDir(t, a, b)
		da.open()
		db := openDaemon(t, b, st)
		db.accepted = da.accepted
		settle()
		for range 3 {
			da.accept(l, users[:2]...)
			db.accept(l, users[1:]...)
			settle()
		}
		// One of them was fenced and counts what is left under a new id when it is started again.
		for _, d := range []*daemon{da, db} {
			d.close()
			d.open()
			settle()
			d.accept(l, users...)
			settle()
		}
		today := event.DayOf(time.Now())
		if got := counts(t, st, today-1, today); len(got) != len(l.counted) {
			t.Fatalf("store has %v, ledger %v", got, l.counted)
		} else {
			for key, n := range l.counted {
				if got[key] != n {
					t.Errorf("%s: store has %d, ledger %d", key, got[key], n)
				}
			}
		}
		da.close()
		db.close()
	})
}

// A data directory that has never met its store is copied with the events that it has accepted. Each copy may count them first;
// both go on, and nothing is counted twice.
func TestCopiedBeforeTheFirstContact(t *testing.T) {
	for name, originalFirst := range map[string]bool{"the original counts first": true, "the copy counts first": false} {
		t.Run(name, func(t *testing.T) {
			base := memoryDir(t)
			original, copied := filepath.Join(base, "original"), filepath.Join(base, "copy")
			synctest.Test(t, func(t *testing.T) {
				st, l := newFaulty(4), newLedger()
				users := []sent{{UserID: "ann", Type: "chat"}, {UserID: "bob", Type: "chat"}, {UserID: "cy", Type: "chat"}, {UserID: "dee", Type: "chat"}}
				st.fail(1<<20, 0, -1)
				a := openDaemon(t, original, st)
				a.accept(l, users...)
				a.close()
				copyDir(t, original, copied)
				b := openDaemon(t, copied, st)
				b.accepted = a.accepted
				a.open()
				b.accept(l, users[:2]...)
				a.accept(l, users[1:]...)
				first, second := b, a
				if originalFirst {
					first, second = a, b
				}
				second.close()
				st.fail(0, 0, -1)
				settle()
				second.open()
				settle()
				for _, d := range []*daemon{first, second} {
					d.close()
					d.open()
					d.accept(l, users...)
					settle()
				}
				sameAsStore(t, l, st)
				for _, d := range []*daemon{a, b} {
					if acc, err := d.agg.Ledger(t.Context()); err != nil || acc.All.Counted < d.accepted || acc.All.Accepted != acc.All.Counted {
						t.Errorf("accounts %+v, %v; want %d counted, and what the other has under the id that they share", acc.All, err, d.accepted)
					}
					d.close()
				}
			})
		})
	}
}

// A data directory is put back to an older copy while the store has gone on: new events have the numbers of others that
// were counted already, and count all the same.
func TestRestoredDataDirectory(t *testing.T) {
	base := memoryDir(t)
	now, old := filepath.Join(base, "now"), filepath.Join(base, "old")
	synctest.Test(t, func(t *testing.T) {
		st, l := newFaulty(4), newLedger()
		d := openDaemon(t, now, st)
		d.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "bob", Type: "chat"})
		settle()
		d.close()
		copyDir(t, now, old)
		d.open()
		d.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "cy", Type: "chat"}, sent{UserID: "dee", Type: "chat"})
		settle()
		d.close()
		restored := openDaemon(t, old, st)
		for range 2 {
			restored.accept(l, sent{UserID: "ann", Type: "chat"}, sent{UserID: "bob", Type: "chat"}, sent{UserID: "dee", Type: "chat"})
			settle()
			restored.close()
			restored.open()
			settle()
		}
		today := event.DayOf(time.Now())
		got := counts(t, st, today-1, today)
		for key, n := range l.counted {
			if got[key] != n {
				t.Errorf("%s: store has %d, ledger %d", key, got[key], n)
			}
		}
		if acc, err := restored.agg.Ledger(t.Context()); err != nil || acc.All.Pending != 0 || len(acc.Producers) != 2 {
			t.Errorf("accounts %+v, %v", acc, err)
		}
		restored.close()
	})
}

// Events that are damaged in the journal are accounted for, also at its end.
func TestDamageIsAccountedFor(t *testing.T) {
	for name, atEnd := range map[string]bool{"in the middle": false, "at the end": true} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			synctest.Test(t, func(t *testing.T) {
				st, l := newFaulty(1), newLedger()
				d := openDaemon(t, dir, st)
				d.accept(l, sent{UserID: "ann", Type: "chat"})
				settle()
				st.fail(0, 0, 0) // what is damaged is not applied
				kept := newLedger()
				d.accept(kept, sent{UserID: "lost", Type: "chat"}, sent{UserID: "lost", Type: "chat"})
				if !atEnd {
					d.accept(l, sent{UserID: "bob", Type: "chat"})
				}
				d.close()
				damage(t, filepath.Join(dir, "journal", "00000000"))
				repair(t, filepath.Join(dir, "journal"))
				st.fail(0, 0, -1)
				d.open()
				settle()
				acc, err := d.agg.Ledger(t.Context())
				want := l.accepted
				if err != nil || acc.All.Damaged != 2 || acc.All.Counted != want || acc.All.Pending != 0 ||
					acc.All.Accepted != acc.All.Counted+acc.All.Damaged {
					t.Errorf("accounts %+v, %v; want 2 damaged, %d counted", acc.All, err, want)
				}
				d.accept(l, sent{UserID: "cy", Type: "chat"})
				settle()
				if acc, err := d.agg.Ledger(t.Context()); err != nil || acc.All.Counted != want+1 || acc.All.Damaged != 2 {
					t.Errorf("accounts %+v, %v after another event", acc.All, err)
				}
				d.close()
			})
		})
	}
}
